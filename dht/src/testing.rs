//! What several tests need: peers and bytes that are the same in every run.

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
