//! Where this node was told to join, as long as nobody was met there: whom to dial when, and why nobody is. Decides, does
//! nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Contacts that are remembered.
pub(crate) const CONTACTS_MAX: usize = 64;

/// Addresses that are remembered of one of them.
const ADDRESSES_MAX: usize = 4;

/// Pause before an address that could not be reached is dialed again; doubled up to [`DIAL_PAUSE_MAX`].
const DIAL_PAUSE_MIN: Duration = Duration::from_millis(500);

/// Longest such pause.
const DIAL_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Longest such pause after a handshake was refused: somebody is there, and another answer comes only when one of the two
/// is given another key.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialOutcome {
    /// Somebody is there, and the handshake failed.
    Refused,
    /// Nobody answers.
    NoAnswer,
    /// Another member is there than expected.
    OtherPeer,
}

/// Whom to join by.
#[derive(Debug, Default)]
pub(crate) struct Contacts {
    /// Membership dials these.
    named: BTreeMap<PeerId, Named>,
    /// Whoever is there.
    bare: BTreeMap<Multiaddr, Attempts>,
    changed: bool,
    dropped: u64,
}

#[derive(Debug, Default)]
struct Named {
    addresses: Vec<Multiaddr>,
    last: Option<DialOutcome>,
}

#[derive(Debug, Default)]
struct Attempts {
    failures: u32,
    next: Option<Instant>,
    dialing: bool,
    last: Option<DialOutcome>,
}

impl Attempts {
    fn is_due(&self, now: Instant) -> bool {
        !self.dialing && self.next.is_none_or(|next| next <= now)
    }

    fn failed(&mut self, outcome: DialOutcome, now: Instant) {
        let longest = match outcome {
            DialOutcome::Refused => REFUSED_PAUSE_MAX,
            DialOutcome::NoAnswer | DialOutcome::OtherPeer => DIAL_PAUSE_MAX,
        };
        let pause = DIAL_PAUSE_MIN.saturating_mul(1 << self.failures.min(11)).min(longest);
        self.failures += 1;
        self.next = Some(now + pause);
        self.dialing = false;
        self.last = Some(outcome);
    }
}

impl Contacts {
    /// Those that a home remembers.
    pub(crate) fn new(addresses: impl IntoIterator<Item = Multiaddr>) -> Self {
        let mut contacts = Self::default();
        for address in addresses {
            contacts.want(address);
        }
        contacts.changed = false;
        contacts
    }

    /// Wants whoever is at an address; where that names a peer, this peer, which is said.
    pub(crate) fn want(&mut self, address: Multiaddr) -> Option<PeerId> {
        let (address, peer) = split_peer(&address);
        let is_known = match peer {
            Some(peer) => self.named.contains_key(&peer),
            None => self.bare.contains_key(&address),
        };
        if !is_known && self.named.len() + self.bare.len() >= CONTACTS_MAX {
            self.dropped += 1;
            return None;
        }
        match peer {
            None => drop(self.bare.entry(address).or_default()),
            Some(peer) => {
                let addresses = &mut self.named.entry(peer).or_default().addresses;
                addresses.retain(|other| *other != address);
                addresses.insert(0, address);
                self.dropped += addresses.len().saturating_sub(ADDRESSES_MAX) as u64;
                addresses.truncate(ADDRESSES_MAX);
            }
        }
        self.changed = true;
        peer
    }

    /// Those whose names are known.
    pub(crate) fn named(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.named.keys().copied()
    }

    /// Where a peer is to be found, as far as it was named.
    pub(crate) fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.named.get(peer).map_or(&[], |named| &named.addresses)
    }

    /// Whether there is anybody left to be met.
    pub(crate) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.bare.is_empty()
    }

    /// Forgets all, for another cluster.
    pub(crate) fn clear(&mut self) {
        *self = Self { changed: true, dropped: self.dropped, ..Self::default() };
    }

    /// Addresses to dial now; each is marked as being dialed.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Multiaddr> {
        let due = self.bare.iter_mut().filter(|(_, attempts)| attempts.is_due(now));
        due.map(|(address, attempts)| {
            attempts.dialing = true;
            address.clone()
        })
        .collect()
    }

    /// A member was met.
    pub(crate) fn met(&mut self, peer: &PeerId) {
        self.changed |= self.named.remove(peer).is_some();
    }

    /// Somebody is at an address who has a name: from now on it is this one that is wanted.
    pub(crate) fn found(&mut self, address: &Multiaddr, peer: PeerId) {
        let (address, _) = split_peer(address);
        if self.bare.remove(&address).is_some() {
            self.want(address.with(Protocol::P2p(peer)));
        }
    }

    /// A peer could not be reached.
    pub(crate) fn peer_failed(&mut self, peer: &PeerId, outcome: DialOutcome) {
        if let Some(named) = self.named.get_mut(peer) {
            named.last = Some(outcome);
        }
    }

    /// Nobody could be reached at an address, or not as wanted.
    pub(crate) fn address_failed(&mut self, address: &Multiaddr, outcome: DialOutcome, now: Instant) {
        if let Some(attempts) = self.bare.get_mut(&split_peer(address).0) {
            attempts.failed(outcome, now);
        }
    }

    /// Why nobody was met, a sentence each, at most three.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let named = self.named.values().filter_map(|named| Some((named.addresses.first()?, named.last?)));
        let bare = self.bare.iter().filter_map(|(address, attempts)| Some((address, attempts.last?)));
        named.chain(bare).map(|(address, outcome)| reason(address, outcome)).take(3).collect()
    }

    /// What the home should remember, if that has changed since the last call.
    pub(crate) fn take_changes(&mut self) -> Option<Vec<Multiaddr>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let of_one = |(peer, named): (&PeerId, &Named)| {
            let peer = *peer;
            let addresses: Vec<Multiaddr> = named.addresses.iter().rev().cloned().collect();
            addresses.into_iter().map(move |address| address.with(Protocol::P2p(peer)))
        };
        Some(self.named.iter().flat_map(of_one).chain(self.bare.keys().cloned()).collect())
    }

    /// What bounds have cost since the last call.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

fn reason(address: &Multiaddr, outcome: DialOutcome) -> String {
    match outcome {
        DialOutcome::Refused => format!("{address} refused the handshake: one of the two has another cluster key"),
        DialOutcome::NoAnswer => format!("{address} does not answer"),
        DialOutcome::OtherPeer => format!("another member than expected is at {address}"),
    }
}

/// An address without the peer at its end, and that peer.
pub(crate) fn split_peer(address: &Multiaddr) -> (Multiaddr, Option<PeerId>) {
    let mut bare = address.clone();
    match bare.pop() {
        Some(Protocol::P2p(peer)) => (bare, Some(peer)),
        _ => (address.clone(), None),
    }
}

/// Whether an address is on this machine.
pub(crate) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerId {
        libp2p::identity::Keypair::ed25519_from_bytes([n; 32]).expect("a key").public().to_peer_id()
    }

    fn address(n: u8) -> Multiaddr {
        format!("/ip4/192.0.2.{n}/tcp/7460").parse().expect("an address")
    }

    fn named(n: u8) -> Multiaddr {
        address(n).with(Protocol::P2p(peer(n)))
    }

    /// The pauses before the attempts that follow on failures.
    fn pauses(outcome: DialOutcome, attempts: u32) -> Vec<Duration> {
        let mut contacts = Contacts::default();
        let mut now = Instant::now();
        contacts.want(address(1));
        let mut pauses = Vec::new();
        for _ in 0..attempts {
            assert_eq!(contacts.due(now), [address(1)]);
            assert!(contacts.due(now).is_empty(), "it is being dialed");
            contacts.address_failed(&address(1), outcome, now);
            let started = now;
            while !contacts.bare[&address(1)].is_due(now) {
                now += Duration::from_millis(100);
            }
            pauses.push(now - started);
        }
        pauses
    }

    #[test]
    fn an_address_is_dialed_once_at_a_time_and_ever_more_rarely() {
        let pauses = pauses(DialOutcome::NoAnswer, 10);
        assert_eq!(pauses[0], DIAL_PAUSE_MIN);
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(*pauses.last().expect("ten"), DIAL_PAUSE_MAX);
        assert_eq!(*self::pauses(DialOutcome::Refused, 14).last().expect("some"), REFUSED_PAUSE_MAX);
    }

    #[test]
    fn an_address_without_a_peer_becomes_the_peer_that_is_there_and_is_done_once_that_is_met() {
        let mut contacts = Contacts::default();
        assert_eq!(contacts.want(address(1)), None);
        contacts.found(&address(1), peer(1));
        assert_eq!(contacts.named().collect::<Vec<_>>(), [peer(1)]);
        assert_eq!(contacts.addresses(&peer(1)), [address(1)]);
        contacts.met(&peer(1));
        assert!(contacts.is_empty());
    }

    #[test]
    fn the_home_remembers_who_is_left_to_be_met() {
        let mut contacts = Contacts::default();
        contacts.want(named(1));
        contacts.want(address(2).with(Protocol::P2p(peer(1))));
        contacts.want(address(3));
        let kept = contacts.take_changes().expect("changed");
        assert!(contacts.take_changes().is_none(), "nothing has changed since");
        let again = Contacts::new(kept);
        assert_eq!(again.addresses(&peer(1)), [address(2), address(1)], "the last one first");
        assert!(again.bare.contains_key(&address(3)));
    }

    #[test]
    fn why_nobody_was_met_is_said() {
        let mut contacts = Contacts::default();
        contacts.want(named(1));
        contacts.want(address(2));
        assert!(contacts.reasons().is_empty(), "nothing was tried");
        contacts.peer_failed(&peer(1), DialOutcome::Refused);
        contacts.address_failed(&address(2), DialOutcome::NoAnswer, Instant::now());
        let reasons = contacts.reasons();
        assert!(reasons[0].contains("another cluster key") && reasons[1].contains("does not answer"), "{reasons:?}");
    }

    #[test]
    fn everything_is_bounded() {
        let mut contacts = Contacts::default();
        for n in 0..=255 {
            contacts.want(address(n).with(Protocol::P2p(peer(1))));
            contacts.want(address(n));
        }
        assert_eq!(contacts.named[&peer(1)].addresses.len(), ADDRESSES_MAX);
        assert_eq!(contacts.bare.len(), CONTACTS_MAX - 1);
        let dropped = 2 * 256 - ADDRESSES_MAX - (CONTACTS_MAX - 1);
        assert_eq!((contacts.take_dropped(), contacts.take_dropped()), (dropped as u64, 0), "counted once");
    }
}
