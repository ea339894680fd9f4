//! One edge: a link to a member on a connection of its own. What goes out waits in an [`Outbox`], what comes in is handed to
//! membership, or to the map, and neither waits for the other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::Stream;
use libp2p::swarm::ConnectionId;
use p2p_gossip::kv::message::{CAPABILITY, is_about_map};
use p2p_gossip::swim::Name;
use p2p_gossip::wire::{Frame, Link, LinkConfig};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use crate::kv::Feed;

/// Bytes that may wait for one member: more than the table of as many members as there can be.
const OUTBOX_LEN_MAX: usize = 16 << 20;

/// Bytes about the map that may wait for one member. What is dropped it finds missing later.
const MAP_LEN_MAX: usize = 2 << 20;

/// Bytes that may wait for all members together.
pub(super) const OUTBOXES_LEN_MAX: usize = 32 << 20;

/// Bytes a second that one member may send, beyond [`BURST_LEN`]: what is forged costs a signature check to find out.
const RATE_MAX: f64 = (1 << 20) as f64;

/// Bytes that one member may send at once: a table of thousands.
const BURST_LEN: f64 = (4 << 20) as f64;

/// What an edge has to tell.
pub(crate) enum EdgeNews {
    /// Both sides have said hello; whether the other has a map.
    Ready(ConnectionId, Outbox, bool),
    /// Something has come.
    Frame(ConnectionId, Frame),
    /// It is over, for this reason if it is one.
    Ended(ConnectionId, Option<String>),
}

/// How soon something is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Before all bulk: what shows that this node lives, or that another does not.
    Urgent,
    /// Tables and news.
    Bulk,
}

/// More waits for a member than may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overflow;

/// What waits to be sent to one member. Cheap to clone; the edge ends when it is closed.
#[derive(Clone)]
pub(crate) struct Outbox {
    inner: Arc<Inner>,
}

struct Inner {
    lanes: Mutex<Lanes>,
    /// Bytes that wait for all members.
    total: Arc<AtomicUsize>,
    changed: Notify,
}

#[derive(Default)]
struct Lanes {
    urgent: VecDeque<Frame>,
    bulk: VecDeque<Frame>,
    /// About the map: after all else, and counted apart.
    map: VecDeque<Frame>,
    len: usize,
    map_len: usize,
    closed: bool,
}

impl Outbox {
    pub(super) fn new(total: Arc<AtomicUsize>) -> Self {
        Self { inner: Arc::new(Inner { lanes: Mutex::default(), total, changed: Notify::new() }) }
    }

    /// Adds a frame; to nobody, once it is closed.
    ///
    /// # Errors
    /// When too much waits already; the frame is dropped.
    pub(super) fn push(&self, frame: Frame, lane: Lane) -> Result<(), Overflow> {
        let mut lanes = self.lock();
        let cost = frame.cost();
        if lanes.closed {
            return Ok(());
        }
        if lanes.len + cost > OUTBOX_LEN_MAX {
            return Err(Overflow);
        }
        lanes.len += cost;
        self.inner.total.fetch_add(cost, Ordering::Relaxed);
        match lane {
            Lane::Urgent => lanes.urgent.push_back(frame),
            Lane::Bulk => lanes.bulk.push_back(frame),
        }
        drop(lanes);
        self.inner.changed.notify_one();
        Ok(())
    }

    /// Adds frames about the map, in place of the oldest where too much of that waits; how many were dropped.
    pub(crate) fn push_about_map(&self, frames: impl IntoIterator<Item = Frame>) -> u64 {
        let mut lanes = self.lock();
        if lanes.closed {
            return 0;
        }
        for frame in frames {
            lanes.map_len += frame.cost();
            lanes.map.push_back(frame);
        }
        let mut dropped = 0;
        while lanes.map_len > MAP_LEN_MAX
            && let Some(oldest) = lanes.map.pop_front()
        {
            lanes.map_len -= oldest.cost();
            dropped += 1;
        }
        drop(lanes);
        self.inner.changed.notify_one();
        dropped
    }

    /// Bytes that wait, but those about the map.
    pub(super) fn len(&self) -> usize {
        self.lock().len
    }

    /// Nothing is sent any more, and the edge ends.
    pub(crate) fn close(&self) {
        let mut lanes = self.lock();
        self.inner.total.fetch_sub(lanes.len, Ordering::Relaxed);
        *lanes = Lanes { closed: true, ..Lanes::default() };
        drop(lanes);
        self.inner.changed.notify_one();
    }

    /// The next frame, once there is one; None once it is closed.
    async fn next(&self) -> Option<Frame> {
        loop {
            {
                let mut lanes = self.lock();
                if lanes.closed {
                    return None;
                }
                if let Some(frame) = lanes.urgent.pop_front().or_else(|| lanes.bulk.pop_front()) {
                    lanes.len -= frame.cost();
                    self.inner.total.fetch_sub(frame.cost(), Ordering::Relaxed);
                    return Some(frame);
                }
                if let Some(frame) = lanes.map.pop_front() {
                    lanes.map_len -= frame.cost();
                    return Some(frame);
                }
            }
            self.inner.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.inner.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom an edge tells.
pub(super) struct Told {
    /// Of the member at its other end.
    pub(super) name: Name,
    pub(super) news: mpsc::Sender<EdgeNews>,
    /// What is about the map.
    pub(super) map: Feed,
}

/// Runs an edge until it ends. Hellos have `limit` to be exchanged.
pub(super) async fn run(
    stream: Stream,
    config: LinkConfig,
    connection: ConnectionId,
    outbox: Outbox,
    limit: Duration,
    told: Told,
) {
    let reason = match timeout(limit, Link::open(stream, config)).await {
        Ok(Ok(link)) => move_frames(link, connection, outbox.clone(), &told).await,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_elapsed) => Some("no hello in time".to_owned()),
    };
    outbox.close();
    // Nobody is left to tell when the node stops.
    let _ = told.news.send(EdgeNews::Ended(connection, reason)).await;
}

async fn move_frames(
    link: Link,
    connection: ConnectionId,
    outbox: Outbox,
    Told { name, news, map }: &Told,
) -> Option<String> {
    let Link { sender, mut receiver, remote, .. } = link;
    let has_map = remote.capabilities & CAPABILITY != 0;
    if news.send(EdgeNews::Ready(connection, outbox.clone(), has_map)).await.is_err() {
        return None;
    }
    let write = async {
        while let Some(frame) = outbox.next().await {
            if sender.send(frame).await.is_err() {
                break;
            }
        }
    };
    let read = async {
        let mut budget = Budget::new();
        while let Some(received) = receiver.recv().await {
            if is_about_map(received.frame.kind) {
                map.take(*name, received.into_frame());
                continue;
            }
            budget.spend(received.frame.cost()).await;
            // The sender has its credit back once this is taken.
            if news.send(EdgeNews::Frame(connection, received.frame.clone())).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
    sender.reason().map(ToString::to_string)
}

/// What a member may still send, now.
struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    fn new() -> Self {
        Self { left: BURST_LEN, at: Instant::now() }
    }

    /// Waits until so many bytes may come.
    async fn spend(&mut self, len: usize) {
        let now = Instant::now();
        self.left = (self.left + RATE_MAX * now.duration_since(self.at).as_secs_f64()).min(BURST_LEN);
        self.at = now;
        self.left -= len as f64;
        if self.left < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.left / RATE_MAX)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, len: usize) -> Frame {
        Frame::new(kind, bytes::Bytes::new(), vec![0; len].into())
    }

    #[tokio::test]
    async fn what_is_urgent_goes_first_and_each_lane_in_order() {
        let outbox = Outbox::new(Arc::default());
        for (kind, lane) in [(20, Lane::Bulk), (21, Lane::Urgent), (22, Lane::Bulk), (23, Lane::Urgent)] {
            outbox.push(frame(kind, 10), lane).expect("room");
        }
        let mut sent = Vec::new();
        while outbox.len() > 0 {
            sent.push(outbox.next().await.expect("more").kind);
        }
        assert_eq!(sent, [21, 23, 20, 22]);
    }

    #[tokio::test]
    async fn what_waits_is_bounded_counted_and_given_back() {
        let total = Arc::new(AtomicUsize::new(0));
        let (one, other) = (Outbox::new(total.clone()), Outbox::new(total.clone()));
        while one.push(frame(20, 1 << 20), Lane::Bulk).is_ok() {}
        assert!(one.len() <= OUTBOX_LEN_MAX && one.len() > OUTBOX_LEN_MAX - (2 << 20));
        other.push(frame(20, 5), Lane::Urgent).expect("room of its own");
        assert_eq!(total.load(Ordering::Relaxed), one.len() + other.len());
        one.close();
        one.push(frame(20, 5), Lane::Urgent).expect("nobody misses it");
        assert_eq!(one.next().await, None);
        other.next().await.expect("it goes on");
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_is_about_the_map_comes_last_and_the_oldest_of_it_makes_room() {
        let outbox = Outbox::new(Arc::default());
        outbox.push(frame(20, 10), Lane::Bulk).expect("room");
        assert_eq!(outbox.push_about_map([frame(40, 10), frame(41, MAP_LEN_MAX / 2)]), 0);
        assert_eq!(outbox.push_about_map([frame(42, MAP_LEN_MAX / 2)]), 2);
        outbox.push(frame(21, 10), Lane::Bulk).expect("room");
        let mut sent = Vec::new();
        for _ in 0..3 {
            sent.push(outbox.next().await.expect("more").kind);
        }
        assert_eq!(sent, [20, 21, 42]);
        let lanes = outbox.lock();
        assert_eq!((lanes.len, lanes.map_len), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_more_than_a_table_sends_it_at_a_rate() {
        let mut budget = Budget::new();
        let began = Instant::now();
        budget.spend(BURST_LEN as usize).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            budget.spend(RATE_MAX as usize).await;
        }
        assert!((9.9..10.1).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
    }
}
