//! Room in memory, shared by many links: for what peers send and is not consumed yet, or for what waits to be sent.
//!
//! Credit bounds what one link holds, this what all of them hold together, however many there are. Who needs room waits for
//! its turn. A peer has a share beyond which it waits for itself alone; and while somebody waits, a link that holds room and
//! whose peer neither sends the rest nor reads is ended: nobody holds up the others by doing nothing, nor itself: what would
//! go on with one of its links may lie in a socket that is not read, because of another that waits. Peers are made up in no
//! time, and a crowd of them could do so in turn: those who have not come to an end with anything yet share a quarter.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::link::{LinkError, Sender, Shared};

/// Who waits so long looks whether somebody holds room and does nothing, which is also the time that one may do nothing.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Frames up to this cost, in bytes, do not wait: among them are those that others wait for. What they take is counted, and
/// bounded by [`Room::small_max`].
pub const SMALL_COST_MAX: usize = 4 << 10;

/// While small frames take too much it is looked for the link that takes most once for one part in so many of what they may.
const LOOKS: usize = 64;

/// One part in so many of a room is for peers that have not come to an end with anything.
const UNPROVEN_PART: usize = 4;

/// Which way the bytes go for which there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From peers to us.
    Incoming,
    /// From us to peers.
    Outgoing,
}

/// Room for so many bytes.
pub struct Room {
    direction: Direction,
    free: Arc<Semaphore>,
    /// For those who have not yet come to an end with anything.
    unproven: Arc<Semaphore>,
    len_max: usize,
    share_max: usize,
    small: AtomicUsize,
    /// What that was when it was last looked at which link takes most; 0 while it is not too much.
    looked_at: AtomicUsize,
    stakes: Mutex<BTreeMap<u64, Stake>>,
    next: AtomicU64,
    links: Mutex<Vec<Weak<Shared>>>,
    waits: AtomicU64,
}

/// What is held of which the peer has to send the rest, or to read it.
#[derive(Clone)]
struct Stake {
    link: Weak<Shared>,
    proven: Arc<AtomicBool>,
}

/// Who waits, and so whose doing nothing is in the way.
#[derive(Clone, Copy)]
enum Waiting<'a> {
    Anybody,
    Unproven,
    /// For the share of this peer.
    Share(&'a Tenant),
}

impl Waiting<'_> {
    fn is_held_up_by(self, stake: &Stake) -> bool {
        match self {
            Self::Anybody => true,
            Self::Unproven => !stake.proven.load(Ordering::Relaxed),
            Self::Share(tenant) => Arc::ptr_eq(&stake.proven, &tenant.proven),
        }
    }
}

/// One peer in a room, with all of its links.
#[derive(Clone)]
pub struct Tenant {
    room: Arc<Room>,
    share: Arc<Semaphore>,
    /// It has sent, or read, something to its end.
    proven: Arc<AtomicBool>,
    /// Bytes that small frames of all of its links take.
    small: Arc<AtomicUsize>,
}

/// A part of a room, given back when dropped.
pub struct Taken {
    tenant: Tenant,
    stake: Option<u64>,
    _share: OwnedSemaphorePermit,
    _unproven: Option<OwnedSemaphorePermit>,
    _part: OwnedSemaphorePermit,
}

impl Room {
    /// Room for `len_max` bytes, of which one peer may hold `share_max`.
    pub fn new(direction: Direction, len_max: usize, share_max: usize) -> Arc<Self> {
        Arc::new(Self {
            direction,
            free: Arc::new(Semaphore::new(len_max)),
            unproven: Arc::new(Semaphore::new(len_max / UNPROVEN_PART)),
            len_max,
            share_max: share_max.min(len_max),
            small: AtomicUsize::new(0),
            looked_at: AtomicUsize::new(0),
            stakes: Mutex::default(),
            next: AtomicU64::new(0),
            links: Mutex::default(),
            waits: AtomicU64::new(0),
        })
    }

    /// A peer that has nothing in the room yet.
    pub fn tenant(self: &Arc<Self>) -> Tenant {
        Tenant {
            room: self.clone(),
            share: Arc::new(Semaphore::new(self.share_max)),
            proven: Arc::default(),
            small: Arc::default(),
        }
    }

    /// How often somebody had to wait so far.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Waits for a part of some of this room.
    async fn acquire(&self, some: &Arc<Semaphore>, len: u32, waiting: Waiting<'_>) -> OwnedSemaphorePermit {
        let part = some.clone().acquire_many_owned(len);
        tokio::pin!(part);
        if let std::task::Poll::Ready(part) = futures::poll!(&mut part) {
            return part.expect("never closed");
        }
        self.waits.fetch_add(1, Ordering::Relaxed);
        loop {
            match timeout(PATIENCE, &mut part).await {
                Ok(part) => return part.expect("never closed"),
                Err(_elapsed) => self.end_idlest(waiting),
            }
        }
    }

    /// Bytes that small frames may take beside the rest, at most.
    fn small_max(&self) -> usize {
        self.len_max / 2
    }

    /// Ends the link that has done nothing for longest, if that is long enough and in the way of who waits.
    fn end_idlest(&self, waiting: Waiting<'_>) {
        let stakes: Vec<Stake> = lock(&self.stakes).values().cloned().collect();
        let idlest = stakes
            .into_iter()
            .filter(|stake| waiting.is_held_up_by(stake))
            .filter_map(|Stake { link, proven }| Some((link.upgrade()?, proven)))
            .filter(|(link, _)| !link.has_ended() && link.idle(self.direction) >= PATIENCE)
            .max_by_key(|(link, _)| link.idle(self.direction));
        if let Some((link, proven)) = idlest {
            proven.store(false, Ordering::Relaxed);
            link.end(LinkError::Hoarding);
        }
    }

    /// A small frame has come on a link, which takes so much more. Where those that go on take too much together, the link is
    /// ended that takes most of those of the peer that takes most. What one that has ended takes it gives back in a moment, and
    /// nobody else is ended for that.
    pub(super) fn add_small(&self, link: &Shared, tenant: &Tenant, cost: usize) {
        link.small.fetch_add(cost, Ordering::Relaxed);
        tenant.small.fetch_add(cost, Ordering::Relaxed);
        let (all, most) = (self.small.fetch_add(cost, Ordering::Relaxed) + cost, self.small_max());
        if all <= most {
            self.looked_at.store(0, Ordering::Relaxed);
            return;
        }
        // Not for each frame: there may be many links, and who has no time for them takes longer to give back.
        let looked_at = self.looked_at.fetch_min(all, Ordering::Relaxed).min(all);
        if looked_at > 0 && all < looked_at + most / LOOKS {
            return;
        }
        self.looked_at.store(all, Ordering::Relaxed);
        let links: Vec<Arc<Shared>> = lock(&self.links).iter().filter_map(Weak::upgrade).collect();
        let small = |link: &Arc<Shared>| link.small.load(Ordering::Relaxed);
        let going_on = || links.iter().filter(|link| !link.has_ended());
        if going_on().map(small).sum::<usize>() <= most {
            return;
        }
        let of_tenant = |link: &Arc<Shared>| link.tenant().map_or(0, |tenant| tenant.small.load(Ordering::Relaxed));
        if let Some(link) = going_on().max_by_key(|link| (of_tenant(link), small(link))) {
            link.end(LinkError::Hoarding);
        }
    }

    /// It is consumed.
    pub(super) fn remove_small(&self, link: &Shared, tenant: &Tenant, cost: usize) {
        for small in [&link.small, &tenant.small, &self.small] {
            small.fetch_sub(cost, Ordering::Relaxed);
        }
    }
}

impl Tenant {
    /// The room.
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Whether this peer has come to an end with something.
    pub fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// Remembers that it had, from another time.
    pub fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Waits for room for so many bytes.
    pub async fn take(&self, len: usize) -> Taken {
        let room = &self.room;
        let most = |len_max: usize| u32::try_from(len.min(len_max)).unwrap_or(u32::MAX);
        let share = room.acquire(&self.share, most(room.share_max), Waiting::Share(self)).await;
        let unproven = if self.is_proven() {
            None
        } else {
            Some(room.acquire(&room.unproven, most(room.len_max / UNPROVEN_PART), Waiting::Unproven).await)
        };
        let part = room.acquire(&room.free, most(room.len_max), Waiting::Anybody).await;
        Taken { tenant: self.clone(), stake: None, _share: share, _unproven: unproven, _part: part }
    }

    /// Takes note of a link, whose small frames are counted from now on.
    pub(super) fn note(&self, link: &Arc<Shared>) {
        let mut links = lock(&self.room.links);
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(link));
    }
}

impl Taken {
    /// From now on it is the peer for whom this waits.
    pub fn awaits(&mut self, link: &Sender) {
        self.awaits_on(link.shared());
    }

    pub(super) fn awaits_on(&mut self, link: &Arc<Shared>) {
        let Tenant { room, proven, .. } = &self.tenant;
        let key = *self.stake.get_or_insert_with(|| room.next.fetch_add(1, Ordering::Relaxed));
        lock(&room.stakes).insert(key, Stake { link: Arc::downgrade(link), proven: proven.clone() });
    }

    /// The peer has done what it had to, unless its link has ended before.
    pub fn settled(&mut self) {
        let stake = self.forget_stake();
        if stake.and_then(|stake| stake.link.upgrade()).is_some_and(|link| !link.has_ended()) {
            self.tenant.prove();
        }
    }

    fn forget_stake(&mut self) -> Option<Stake> {
        lock(&self.tenant.room.stakes).remove(&self.stake.take()?)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.forget_stake();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_tenant_has_its_share_and_leaves_the_rest() {
        let room = Room::new(Direction::Incoming, 100, 60);
        let (one, other) = (room.tenant(), room.tenant());
        one.prove();
        other.prove();
        let taken = one.take(60).now_or_never().expect("its share");
        assert!(one.take(1).now_or_never().is_none());
        let _rest = other.take(40).now_or_never().expect("the rest");
        drop(taken);
        assert!(one.take(60).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_have_shown_nothing_yet_share_a_quarter() {
        let room = Room::new(Direction::Incoming, 100, 60);
        let newcomers: Vec<Tenant> = (0..10).map(|_| room.tenant()).collect();
        let taken: Vec<Taken> = newcomers.iter().filter_map(|tenant| tenant.take(5).now_or_never()).collect();
        assert_eq!(taken.len(), 5);
        let proven = room.tenant();
        proven.prove();
        assert!(proven.take(60).now_or_never().is_some());
    }
}
