//! What several tests need: peers and bytes that are the same in every run.

#![expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::PeerId;
use libp2p::identity::Keypair;

/// The peer number `n`.
pub(crate) fn peer(n: u32) -> PeerId {
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    Keypair::ed25519_from_bytes(seed).expect("32 bytes are a key").public().to_peer_id()
}

/// Incompressible bytes.
pub(crate) fn bytes(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out.into()
}

/// Virtual time: things that will happen, in order; what is due at once happens in the order it was said.
pub(crate) struct Timeline<E> {
    now: Instant,
    next: u64,
    events: BTreeMap<(Instant, u64), E>,
}

impl<E> Timeline<E> {
    pub(crate) fn new() -> Self {
        Self { now: Instant::now(), next: 0, events: BTreeMap::new() }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn after(&mut self, delay: Duration, event: E) {
        self.next += 1;
        self.events.insert((self.now + delay, self.next), event);
    }

    /// Moves time to the next event.
    pub(crate) fn pop(&mut self) -> Option<E> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }
}

/// Repeatable chance.
pub(crate) fn dice(seed: u64) -> rand::rngs::StdRng {
    rand::SeedableRng::seed_from_u64(seed)
}

/// Seeds for a test that takes chances: one from the environment to replay a failure, else the first `count`.
pub(crate) fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("P2P_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    }
}
