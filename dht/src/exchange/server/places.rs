//! Places of inbound streams: how many one peer and all peers may have, and what one host may make this node hold and do.
//!
//! Shares are those of hosts: whoever is admitted can make up any number of members, but not the machines to run them on.
//! Honest members behind one address share what it has, and a share is large enough to keep a fast line busy.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::PeerId;
use p2p_gossip::wire::link::Sender;
use p2p_gossip::wire::room::Direction;
use p2p_gossip::wire::{Room, Tenant};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Inbound streams of one peer: two are enough, and some may still be closing.
pub const STREAMS_PER_PEER_MAX: usize = 6;

/// Inbound streams of all peers together. Once there are so many, whoever comes takes the place of the one on which nothing
/// has moved for longest.
pub const STREAMS_MAX: usize = 512;

/// A stream on which something moved within this time keeps its place.
const DISPLACED_IDLE_MIN: Duration = Duration::from_secs(2);

/// Bytes of objects from all peers that are on their way in, or not stored yet.
pub const RECEIVED_LEN_MAX: usize = 24 << 20;

/// The part of it that one host may take: more than a peer gets credit for on one stream.
const RECEIVED_PER_HOST_MAX: usize = RECEIVED_LEN_MAX / 2;

/// Bytes of objects of one host that are verified and written at once, which is as long as others wait behind them: what a
/// peer gets credit for on one stream.
const WRITTEN_PER_HOST_MAX: usize = 4 << 20;

/// Bytes of objects that are on their way out, over all streams.
pub const SERVED_LEN_MAX: usize = 24 << 20;

/// The part of it that one host may take.
const SERVED_PER_HOST_MAX: usize = SERVED_LEN_MAX / 2;

/// Hosts without a stream of which it is remembered that they came to an end with something.
const PROVEN_MAX: usize = 1024;

/// Requests of one host that are taken up in each slice of time; more wait for the next.
const REQUESTS_PER_SLICE: u32 = 200;

/// Such a slice: 4,000 requests a second, a multiple of what members ask of each other. Each costs some ten microseconds of a
/// core, or a rule in a transaction, however little it says.
const SLICE: Duration = Duration::from_millis(50);

/// All places.
pub(super) struct Places {
    received: Arc<Room>,
    served: Arc<Room>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    streams: BTreeMap<u64, Stream>,
    peers: BTreeMap<PeerId, usize>,
    /// With the number of streams of each.
    origins: BTreeMap<Origin, (usize, Rights)>,
    /// Those without a stream that have sent, or read, something to its end before; the oldest in front.
    proven: VecDeque<Origin>,
    next: u64,
}

/// Who has a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Host(IpAddr),
    /// Whose host is not known.
    Peer(PeerId),
}

struct Stream {
    peer: PeerId,
    origin: Origin,
    since: Instant,
    /// Once both have said hello.
    link: Option<Sender>,
    displaced: Arc<Notify>,
}

/// What a host has, with all its streams.
#[derive(Clone)]
pub(super) struct Rights {
    /// For what it pushes.
    pub(super) received: Tenant,
    /// For what it asks for.
    pub(super) served: Tenant,
    /// For what of that is written at once, in bytes.
    written: Arc<Semaphore>,
    slice: Arc<Mutex<(Instant, u32)>>,
}

/// A place, given back when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    key: u64,
    displaced: Arc<Notify>,
    pub(super) peer: PeerId,
    pub(super) rights: Rights,
}

/// What came of asking for a place.
pub(super) enum Admitted {
    /// There was one.
    Yes(Place),
    /// Somebody else lost his.
    Instead(Place),
    /// There is none.
    No,
}

impl Places {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            received: Room::new(Direction::Incoming, RECEIVED_LEN_MAX, RECEIVED_PER_HOST_MAX),
            served: Room::new(Direction::Outgoing, SERVED_LEN_MAX, SERVED_PER_HOST_MAX),
            taken: Mutex::default(),
        })
    }

    /// A place for a stream of a peer at a host.
    pub(super) fn admit(self: &Arc<Self>, peer: PeerId, host: Option<IpAddr>) -> Admitted {
        let mut taken = self.lock();
        if taken.streams_of(&peer) >= STREAMS_PER_PEER_MAX {
            return Admitted::No;
        }
        let full = taken.streams.len() >= STREAMS_MAX;
        if full && !taken.displace_for(peer) {
            return Admitted::No;
        }
        *taken.peers.entry(peer).or_default() += 1;
        let origin = host.map_or(Origin::Peer(peer), Origin::Host);
        let proven = taken.proven.iter().position(|other| *other == origin);
        proven.map(|at| taken.proven.remove(at));
        let (streams, rights) = taken.origins.entry(origin).or_insert_with(|| (0, self.rights(proven.is_some())));
        *streams += 1;
        let rights = rights.clone();
        let displaced = Arc::<Notify>::default();
        taken.next += 1;
        let key = taken.next;
        let stream = Stream { peer, origin, since: Instant::now(), link: None, displaced: displaced.clone() };
        taken.streams.insert(key, stream);
        let place = Place { places: self.clone(), key, displaced, peer, rights };
        if full { Admitted::Instead(place) } else { Admitted::Yes(place) }
    }

    fn rights(&self, proven: bool) -> Rights {
        let slice = Arc::new(Mutex::new((Instant::now(), 0)));
        let written = Arc::new(Semaphore::new(WRITTEN_PER_HOST_MAX));
        let rights = Rights { received: self.received.tenant(), served: self.served.tenant(), written, slice };
        if proven {
            rights.received.prove();
            rights.served.prove();
        }
        rights
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn streams_of(&self, peer: &PeerId) -> usize {
        self.peers.get(peer).copied().unwrap_or(0)
    }

    /// Ends the stream on which nothing has moved for longest; where something moves on all, one of a peer that has at least
    /// two more than the newcomer.
    fn displace_for(&mut self, newcomer: PeerId) -> bool {
        let fair = self.streams_of(&newcomer) + 2;
        let may_go = |stream: &Stream| stream.idle() >= DISPLACED_IDLE_MIN || self.streams_of(&stream.peer) >= fair;
        let idlest = self.streams.iter().filter(|(_, stream)| may_go(stream)).max_by_key(|(_, stream)| stream.idle());
        let Some(key) = idlest.map(|(key, _)| *key) else { return false };
        if let Some(stream) = self.remove(key) {
            stream.displaced.notify_one();
        }
        true
    }

    fn remove(&mut self, key: u64) -> Option<Stream> {
        let stream = self.streams.remove(&key)?;
        if let Some(streams) = self.peers.get_mut(&stream.peer) {
            *streams -= 1;
            if *streams == 0 {
                self.peers.remove(&stream.peer);
            }
        }
        if let Some((streams, _)) = self.origins.get_mut(&stream.origin) {
            *streams -= 1;
            if *streams == 0 {
                self.forget(stream.origin);
            }
        }
        Some(stream)
    }

    fn forget(&mut self, origin: Origin) {
        let Some((_, rights)) = self.origins.remove(&origin) else { return };
        if rights.received.is_proven() || rights.served.is_proven() {
            self.proven.push_back(origin);
            while self.proven.len() > PROVEN_MAX {
                self.proven.pop_front();
            }
        }
    }
}

impl Stream {
    fn idle(&self) -> Duration {
        self.link.as_ref().map_or_else(|| self.since.elapsed(), Sender::idle)
    }
}

impl Place {
    /// Both sides have said hello.
    pub(super) fn opened(&self, link: &Sender) {
        if let Some(stream) = self.places.lock().streams.get_mut(&self.key) {
            stream.link = Some(link.clone());
        }
    }

    /// Waits until somebody else has got this place.
    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(self.key);
    }
}

impl Rights {
    /// Waits for its turn to have so many bytes verified and written.
    pub(super) async fn write(&self, len: usize) -> SemaphorePermit<'_> {
        let len = u32::try_from(len.min(WRITTEN_PER_HOST_MAX)).expect("it is far smaller");
        self.written.acquire_many(len).await.expect("never closed")
    }

    /// Takes note of a request; says until when the next has to wait, if the host asks too fast.
    pub(super) fn asked(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut slice = self.slice.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, requests) = &mut *slice;
        if now.duration_since(*began) >= SLICE {
            (*began, *requests) = (now, 0);
        }
        *requests += 1;
        (*requests >= REQUESTS_PER_SLICE).then_some(*began + SLICE)
    }
}

#[cfg(test)]
mod tests;
