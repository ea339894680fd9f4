//! The members that this node knows, before there is a membership protocol: whom to dial when, who is there, and why
//! somebody is not. Decides, does nothing.
//!
//! Everybody who passed the handshake is a member. A connection to each is wanted, up to [`KNOWN_MAX`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};

/// Members that are remembered.
pub(crate) const KNOWN_MAX: usize = 1024;

/// Addresses that are remembered of one member.
pub(crate) const ADDRESSES_PER_PEER_MAX: usize = 4;

/// Addresses without a peer id that are remembered.
pub(crate) const BARE_ADDRESSES_MAX: usize = 16;

/// Pause before a member that could not be reached is dialed again; doubled up to [`DIAL_PAUSE_MAX`].
pub(crate) const DIAL_PAUSE_MIN: Duration = Duration::from_millis(500);

/// Longest such pause.
pub(crate) const DIAL_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Longest such pause after a handshake was refused: somebody is there, and another answer comes only when one of the two
/// is given another key.
pub(crate) const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// A peer that was never met is forgotten after so many failures.
const UNMET_FAILURES_MAX: u32 = 6;

/// Whom to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A peer at the addresses it is known by.
    Peer(PeerId, Vec<Multiaddr>),
    /// Whoever is at an address.
    Address(Multiaddr),
}

/// What a bound has cost, since the last time it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Members that were forgotten, or not remembered, because there are [`KNOWN_MAX`].
    pub(crate) members: u64,
    /// Peers that were never met, forgotten after [`UNMET_FAILURES_MAX`] failures.
    pub(crate) strangers: u64,
    /// Addresses beyond [`ADDRESSES_PER_PEER_MAX`].
    pub(crate) addresses: u64,
    /// Addresses of the owner's beyond [`BARE_ADDRESSES_MAX`].
    pub(crate) named: u64,
}

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

/// The members that are known.
#[derive(Debug)]
pub(crate) struct Peers {
    me: PeerId,
    known: BTreeMap<PeerId, Known>,
    bare: BTreeMap<Multiaddr, Attempts>,
    ever_met: bool,
    changed: bool,
    dropped: Dropped,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<Multiaddr>,
    connections: u32,
    met: bool,
    /// Named by the owner: kept whether it was met or not.
    named: bool,
    attempts: Attempts,
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

/// What is kept of it in the home.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PeersFile {
    /// Whether another member was ever met.
    ever_met: bool,
    peers: BTreeMap<String, KnownFile>,
    addresses: BTreeSet<Multiaddr>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownFile {
    addresses: Vec<Multiaddr>,
    met: bool,
}

impl Peers {
    /// The members that a home remembers.
    pub(crate) fn new(me: PeerId, file: PeersFile) -> Self {
        let mut peers = Self {
            me,
            known: BTreeMap::new(),
            bare: BTreeMap::new(),
            ever_met: file.ever_met,
            changed: false,
            dropped: Dropped::default(),
        };
        for (peer, KnownFile { addresses, met }) in file.peers {
            let Ok(peer) = peer.parse() else { continue };
            // Each is put in front of the others.
            peers.learn(peer, addresses.into_iter().rev());
            if let Some(known) = peers.known.get_mut(&peer) {
                known.met = met;
                known.named = !met;
            }
        }
        file.addresses.into_iter().for_each(|address| peers.want(address));
        peers.changed = false;
        peers
    }

    /// What the home should remember, if that has changed since the last call.
    pub(crate) fn take_changes(&mut self) -> Option<PeersFile> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let kept = self.known.iter().filter(|(_, known)| known.met || known.named);
        let peers = kept
            .map(|(peer, known)| (peer.to_string(), KnownFile { addresses: known.addresses.clone(), met: known.met }));
        let addresses = self.bare.keys().cloned().collect();
        Some(PeersFile { ever_met: self.ever_met, peers: peers.collect(), addresses })
    }

    /// What bounds have cost since the last call.
    pub(crate) fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.dropped)
    }

    /// Whether another member was ever met by this home.
    pub(crate) fn ever_met(&self) -> bool {
        self.ever_met
    }

    /// How many other members there are that were met at some time.
    pub(crate) fn met(&self) -> usize {
        self.known.values().filter(|known| known.met).count()
    }

    /// Whether there is anybody to be met: once met, or named by the owner.
    pub(crate) fn expects_others(&self) -> bool {
        !self.bare.is_empty() || self.known.values().any(|known| known.met || known.named)
    }

    /// Forgets everybody, for another cluster.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.bare.clear();
        self.ever_met = false;
        self.changed = true;
    }

    /// Wants whoever is at an address; where that names a peer, this peer.
    pub(crate) fn want(&mut self, address: Multiaddr) {
        match split_peer(&address) {
            (address, Some(peer)) => {
                self.learn(peer, [address]);
                if let Some(known) = self.known.get_mut(&peer) {
                    self.changed |= !std::mem::replace(&mut known.named, true);
                }
            }
            (address, None) if self.bare.contains_key(&address) => {}
            (_, None) if self.bare.len() >= BARE_ADDRESSES_MAX => self.dropped.named += 1,
            (address, None) => {
                self.bare.insert(address, Attempts::default());
                self.changed = true;
            }
        }
    }

    /// Takes note of where a peer says it is, newest first.
    pub(crate) fn learn(&mut self, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>) {
        if peer == self.me || (!self.known.contains_key(&peer) && !self.make_room()) {
            return;
        }
        let known = self.known.entry(peer).or_insert_with(|| {
            self.changed = true;
            Known::default()
        });
        for address in addresses {
            let (address, _) = split_peer(&address);
            if !known.addresses.contains(&address) {
                // The first is where it was reached last; that one is not pushed out by what it says.
                known.addresses.insert(known.addresses.len().min(1), address);
                self.dropped.addresses += known.addresses.len().saturating_sub(ADDRESSES_PER_PEER_MAX) as u64;
                known.addresses.truncate(ADDRESSES_PER_PEER_MAX);
                self.changed = true;
            }
        }
    }

    /// Makes room for one more member, by forgetting whoever has been away for longest; false if all are here.
    fn make_room(&mut self) -> bool {
        if self.known.len() < KNOWN_MAX {
            return true;
        }
        self.dropped.members += 1;
        let away = self.known.iter().filter(|(_, known)| known.connections == 0 && !known.named);
        let longest = away.max_by_key(|(_, known)| (!known.met, known.attempts.failures)).map(|(peer, _)| *peer);
        longest.is_some_and(|peer| self.known.remove(&peer).is_some())
    }

    /// Whom to dial now; each is marked as being dialed.
    pub(crate) fn due(&mut self, now: Instant, most: usize) -> Vec<Target> {
        let mut due = Vec::new();
        for (peer, known) in &mut self.known {
            if due.len() < most && known.connections == 0 && known.attempts.is_due(now) && !known.addresses.is_empty() {
                known.attempts.dialing = true;
                due.push(Target::Peer(*peer, known.addresses.clone()));
            }
        }
        for (address, attempts) in &mut self.bare {
            if due.len() < most && attempts.is_due(now) {
                attempts.dialing = true;
                due.push(Target::Address(address.clone()));
            }
        }
        due
    }

    /// A peer has passed the handshake, at this address where this node dialed it. True if it was not there before.
    pub(crate) fn connected(&mut self, peer: PeerId, dialed: Option<&Multiaddr>) -> bool {
        if let Some(address) = dialed {
            let (address, _) = split_peer(address);
            self.changed |= self.bare.remove(&address).is_some();
            self.learn(peer, [address.clone()]);
            if let Some(known) = self.known.get_mut(&peer)
                && let Some(at) = known.addresses.iter().position(|other| *other == address)
            {
                known.addresses[..=at].rotate_right(1);
            }
        }
        if peer == self.me || (!self.known.contains_key(&peer) && !self.make_room()) {
            return false;
        }
        let known = self.known.entry(peer).or_default();
        known.connections += 1;
        known.attempts = Attempts::default();
        self.changed |= !std::mem::replace(&mut known.met, true);
        self.ever_met = true;
        known.connections == 1
    }

    /// A connection has ended. True if the peer has no other.
    pub(crate) fn disconnected(&mut self, peer: &PeerId) -> bool {
        let Some(known) = self.known.get_mut(peer) else { return false };
        known.connections = known.connections.saturating_sub(1);
        known.connections == 0
    }

    /// A peer could not be reached. True if it is now forgotten.
    pub(crate) fn dial_failed(&mut self, peer: &PeerId, outcome: DialOutcome, now: Instant) -> bool {
        let Some(known) = self.known.get_mut(peer) else { return false };
        known.attempts.failed(outcome, now);
        let forget = !known.met && !known.named && known.attempts.failures >= UNMET_FAILURES_MAX;
        if forget {
            self.known.remove(peer);
            self.changed = true;
            self.dropped.strangers += 1;
        }
        forget
    }

    /// Nobody could be reached at an address, or not as wanted.
    pub(crate) fn address_failed(&mut self, address: &Multiaddr, outcome: DialOutcome, now: Instant) {
        if let Some(attempts) = self.bare.get_mut(&split_peer(address).0) {
            attempts.failed(outcome, now);
        }
    }

    /// Members with a connection.
    pub(crate) fn alive(&self) -> BTreeSet<PeerId> {
        self.known.iter().filter(|(_, known)| known.connections > 0).map(|(peer, _)| *peer).collect()
    }

    /// Why members that are known are not there, a sentence each, at most three.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let absent = self.known.values().filter(|known| known.connections == 0);
        let named = absent.filter_map(|known| Some((known.addresses.first()?.clone(), known.attempts.last?)));
        let bare = self.bare.iter().filter_map(|(address, attempts)| Some((address.clone(), attempts.last?)));
        named.chain(bare).map(|(address, outcome)| reason(&address, outcome)).take(3).collect()
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

/// Whether an address may be useful to dial for somebody who was met over `met_over_loopback`: another machine's loopback
/// address leads to ourselves.
pub(crate) fn is_useful(address: &Multiaddr, met_over_loopback: bool) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => !ip.is_unspecified() && (met_over_loopback || !ip.is_loopback()),
        Some(Protocol::Ip6(ip)) => !ip.is_unspecified() && (met_over_loopback || !ip.is_loopback()),
        _ => false,
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

    fn peers() -> Peers {
        Peers::new(peer(0), PeersFile::default())
    }

    /// The pauses before the attempts that follow on failures.
    fn pauses(outcome: DialOutcome, attempts: u32) -> Vec<Duration> {
        let mut peers = peers();
        let mut now = Instant::now();
        peers.want(address(1).with(Protocol::P2p(peer(1))));
        let mut pauses = Vec::new();
        for _ in 0..attempts {
            assert_eq!(peers.due(now, 8), [Target::Peer(peer(1), vec![address(1)])]);
            assert!(peers.due(now, 8).is_empty(), "it is being dialed");
            peers.dial_failed(&peer(1), outcome, now);
            let started = now;
            while !peers.known[&peer(1)].attempts.is_due(now) {
                now += Duration::from_millis(100);
            }
            pauses.push(now - started);
        }
        pauses
    }

    #[test]
    fn who_is_known_is_dialed_once_at_a_time_and_ever_more_rarely() {
        let pauses = pauses(DialOutcome::NoAnswer, 10);
        assert_eq!((pauses[0], pauses[9]), (DIAL_PAUSE_MIN, DIAL_PAUSE_MAX));
    }

    #[test]
    fn who_refuses_is_left_in_peace_for_longer_and_never_given_up() {
        let pauses = pauses(DialOutcome::Refused, 14);
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[11], pauses[13]), (DIAL_PAUSE_MIN, REFUSED_PAUSE_MAX, REFUSED_PAUSE_MAX));
    }

    #[test]
    fn a_member_is_alive_as_long_as_one_connection_is() {
        let mut peers = peers();
        assert!(peers.connected(peer(1), None));
        assert!(!peers.connected(peer(1), None));
        assert!(!peers.disconnected(&peer(1)));
        assert_eq!(peers.alive(), [peer(1)].into());
        assert!(peers.disconnected(&peer(1)));
        assert!(peers.alive().is_empty());
        assert!(peers.ever_met());
    }

    #[test]
    fn an_address_without_a_peer_becomes_the_peer_that_is_there() {
        let mut peers = peers();
        peers.want(address(1));
        assert_eq!(peers.due(Instant::now(), 8), [Target::Address(address(1))]);
        peers.connected(peer(1), Some(&address(1)));
        peers.disconnected(&peer(1));
        assert_eq!(peers.due(Instant::now(), 8), [Target::Peer(peer(1), vec![address(1)])]);
    }

    #[test]
    fn strangers_that_cannot_be_reached_are_forgotten_and_members_are_not() {
        let mut peers = peers();
        let now = Instant::now();
        peers.connected(peer(1), Some(&address(1)));
        peers.disconnected(&peer(1));
        peers.learn(peer(2), [address(2)]);
        for _ in 0..100 {
            peers.dial_failed(&peer(1), DialOutcome::NoAnswer, now);
            peers.dial_failed(&peer(2), DialOutcome::NoAnswer, now);
        }
        assert!(peers.known.contains_key(&peer(1)));
        assert!(!peers.known.contains_key(&peer(2)));
        assert_eq!(peers.take_dropped().strangers, 1);
    }

    #[test]
    fn what_the_owner_named_is_never_forgotten() {
        let mut peers = peers();
        peers.connected(peer(2), Some(&address(2)));
        peers.want(address(1).with(Protocol::P2p(peer(1))));
        for _ in 0..100 {
            peers.dial_failed(&peer(1), DialOutcome::Refused, Instant::now());
        }
        assert!(peers.expects_others());
        assert_eq!(peers.met(), 1, "it is no member before it was met");
        assert!(peers.reasons()[0].contains("another cluster key"), "{:?}", peers.reasons());
    }

    #[test]
    fn the_home_remembers_members_addresses_and_that_somebody_was_met() {
        let mut peers = peers();
        peers.connected(peer(1), Some(&address(1)));
        peers.want(address(2));
        let file = peers.take_changes().expect("changed");
        assert!(peers.take_changes().is_none(), "nothing has changed since");
        let json = serde_json::to_string(&file).expect("plain data");
        let mut again = Peers::new(peer(0), serde_json::from_str(&json).expect("our own"));
        assert!(again.ever_met());
        assert_eq!(again.known[&peer(1)].addresses, [address(1)]);
        assert!(again.bare.contains_key(&address(2)));
        for _ in 0..100 {
            again.dial_failed(&peer(1), DialOutcome::NoAnswer, Instant::now());
            again.address_failed(&address(2), DialOutcome::NoAnswer, Instant::now());
        }
        assert_eq!((again.met(), again.due(Instant::now() + DIAL_PAUSE_MAX, 8).len()), (1, 2), "both are still wanted");
    }

    #[test]
    fn where_a_member_was_reached_goes_before_where_it_says_it_is() {
        let mut peers = peers();
        peers.connected(peer(1), Some(&address(9)));
        peers.learn(peer(1), (1..9).map(address));
        assert_eq!(peers.known[&peer(1)].addresses[0], address(9));
        peers.connected(peer(1), Some(&address(7)));
        assert_eq!(peers.known[&peer(1)].addresses[0], address(7));
    }

    #[test]
    fn everything_is_bounded() {
        let mut peers = peers();
        for n in 0..=255 {
            peers.learn(peer(1), [address(n)]);
            peers.want(address(n));
        }
        assert_eq!(peers.known[&peer(1)].addresses.len(), ADDRESSES_PER_PEER_MAX);
        assert_eq!(peers.bare.len(), BARE_ADDRESSES_MAX);
        let Dropped { addresses, named, .. } = peers.take_dropped();
        assert_eq!((addresses, named), (256 - ADDRESSES_PER_PEER_MAX as u64, 256 - BARE_ADDRESSES_MAX as u64));
        for _ in 0..2 * KNOWN_MAX {
            let passing = PeerId::random();
            peers.connected(passing, None);
            peers.disconnected(&passing);
        }
        assert_eq!(peers.known.len(), KNOWN_MAX);
        let members = peers.take_dropped().members;
        // One more than there is room for was there before, and each of the rest pushes out another.
        assert_eq!(members, KNOWN_MAX as u64 + 1);
        assert_eq!(peers.take_dropped(), Dropped::default(), "counted once");
    }

    #[test]
    fn this_node_is_no_other_member() {
        let mut peers = peers();
        peers.learn(peer(0), [address(1)]);
        assert!(!peers.connected(peer(0), Some(&address(1))));
        assert!(!peers.expects_others());
    }
}
