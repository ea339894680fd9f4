//! The replicated map on real connections: hands writes on along the edges that membership keeps, tells those at their other
//! ends what this copy comes to, and fetches what is missing. What is held and what is to be asked is decided in
//! [`p2p_gossip::kv`], on the thread that writes `state.db`; nothing is told to anybody before it is durable there.
//!
//! ```text
//!   frames of edges ──> Task ──> frames (Outbox of each edge)       questions, answers <──> Streams
//!                       │  ▲                                                  │  ▲
//!                  Work ▼  │ News                                        Work ▼  │ News
//!                     thread of state.db  <── calls of users (Handle)
//! ```

mod counters;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use p2p_gossip::kv::anti_entropy::Noted;
use p2p_gossip::kv::flood::{Carried, Flood, NAMES_TIME, Told};
use p2p_gossip::kv::message::{self, Copy, Message};
use p2p_gossip::kv::{Digest, Dot, Vector, Work};
use p2p_gossip::swim::Name;
use p2p_gossip::wire::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::membership::Outbox;
use crate::state::{MapBegun, News, State};
use crate::swarm::NetView;

use counters::{add, count};

pub(crate) use counters::KvCounters;
pub(crate) use streams::{Begin as StreamsBegin, PROTOCOL, Streams};

/// How often those at the other ends of edges are told what the copy comes to, if that has changed.
const TELL_PERIOD: Duration = Duration::from_secs(2);

/// And how often if it has not.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Bytes of frames that have come and wait.
const FRAMES_LEN_MAX: usize = 8 << 20;

/// Frames that have come and wait.
const FRAMES_MAX: usize = 4096;

/// Writes that one member waits for to be on this node's disk.
const OWED_MAX: usize = 4096;

/// Calls that wait for other nodes.
const AWAITED_MAX: usize = 1024;

/// Most nodes that a write can be awaited on: this one, and as many as it surely has edges to where there are more members.
pub(crate) const ACKS_MAX: u32 = 9;

/// Whoever is hostile is that over and over: it is warned of so often.
const WARN_PERIOD: Duration = Duration::from_secs(10);

/// How long a node that knows others, and nobody who has ever held all, waits before it takes what it has for all.
const FOUNDING_TIME: Duration = Duration::from_secs(10);

/// An edge that comes or goes.
pub(crate) enum Edge {
    /// There is one to a member that has a map.
    Up(Name, Outbox),
    /// It is gone, if there was one.
    Down(Name),
    /// This node is in another cluster now, and knows nobody of it.
    Anew,
}

/// A frame that has come, and the room that it takes.
struct Arrived {
    by: Name,
    frame: Frame,
    _room: OwnedSemaphorePermit,
}

/// Takes what edges have to tell about the map, and makes nobody wait. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Feed {
    edges: mpsc::UnboundedSender<Edge>,
    frames: mpsc::Sender<Arrived>,
    room: Arc<Semaphore>,
    counters: Arc<KvCounters>,
}

impl Feed {
    /// An edge has come or gone.
    pub(crate) fn tell(&self, edge: Edge) {
        // Nobody is left to tell when the node stops.
        let _ = self.edges.send(edge);
    }

    /// A frame has come. Where too much waits it is dropped: what is missing is found later.
    pub(crate) fn take(&self, by: Name, frame: Frame) {
        let cost = u32::try_from(frame.cost()).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_many_owned(cost).ok();
        let is_taken = room.is_some_and(|room| self.frames.try_send(Arrived { by, frame, _room: room }).is_ok());
        if !is_taken {
            count(&self.counters.frames_dropped);
        }
    }
}

/// What a feed leads to.
pub(crate) struct Fed {
    edges: mpsc::UnboundedReceiver<Edge>,
    frames: mpsc::Receiver<Arrived>,
}

/// A feed, and what it leads to.
pub(crate) fn feed(counters: Arc<KvCounters>) -> (Feed, Fed) {
    // None may be lost, and membership may not wait; they are as few as edges come and go, and nothing here waits for a peer or the
    // disk before it takes the next.
    let (edges, edges_told) = mpsc::unbounded_channel();
    let (frames, frames_told) = mpsc::channel(FRAMES_MAX);
    let room = Arc::new(Semaphore::new(FRAMES_LEN_MAX));
    (Feed { edges, frames, room, counters }, Fed { edges: edges_told, frames: frames_told })
}

/// A write that is to be on other nodes.
struct Await {
    dot: Dot,
    /// On so many others.
    others: u32,
    reply: oneshot::Sender<()>,
    /// On how many it is.
    on: watch::Sender<u32>,
}

/// The map, for those who use it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Kv {
    awaits: mpsc::Sender<Await>,
    joined: watch::Receiver<bool>,
    is_written: watch::Receiver<bool>,
}

impl Kv {
    /// Whether this node has ever held all that others held.
    pub(crate) fn is_joined(&self) -> bool {
        *self.joined.borrow()
    }

    /// Whether anybody has ever written.
    pub(crate) fn has_seen_writes(&self) -> bool {
        *self.is_written.borrow()
    }

    /// Waits until a write is on so many other nodes, or for so long; on how many others it is, at least.
    pub(crate) async fn spread(&self, dot: Dot, others: u32, limit: Duration) -> u32 {
        let (reply, done) = oneshot::channel();
        let (on, known) = watch::channel(0);
        let wait = async {
            if self.awaits.send(Await { dot, others, reply, on }).await.is_ok() {
                let _ = done.await;
            }
        };
        let _ = tokio::time::timeout(limit, wait).await;
        *known.borrow()
    }
}

/// What the task needs.
pub(crate) struct Begin {
    pub(crate) state: State,
    pub(crate) map: MapBegun,
    pub(crate) fed: Fed,
    pub(crate) streams: Streams,
    pub(crate) view: watch::Receiver<NetView>,
    /// Whether the cluster was made by somebody else.
    pub(crate) has_founder: bool,
    pub(crate) counters: Arc<KvCounters>,
}

/// Starts to hand on and to fetch; how it is used, and the task.
pub(crate) fn start(begin: Begin) -> (Kv, impl Future<Output = ()>) {
    let Begin { state, map, fed, streams, view, has_founder, counters } = begin;
    let MapBegun { news, vector, digest, is_joined, joined: durably_joined } = map;
    let (awaits, asked) = mpsc::channel(AWAITED_MAX);
    let (joined, joined_told) = watch::channel(is_joined);
    let (is_written, written_told) = watch::channel(vector.iter().len() > 0);
    let mut task = Task {
        state,
        streams,
        view,
        has_founder,
        counters,
        flood: Flood::default(),
        edges: BTreeMap::new(),
        seen: vector,
        digest,
        joined,
        durably_joined,
        life: 1,
        has_held_all: is_joined,
        is_written,
        began: Instant::now(),
        warned_at: None,
        awaited: BTreeMap::new(),
    };
    task.found();
    (Kv { awaits, joined: joined_told, is_written: written_told }, task.run(news, fed, asked))
}

struct Task {
    state: State,
    streams: Streams,
    view: watch::Receiver<NetView>,
    has_founder: bool,
    counters: Arc<KvCounters>,
    flood: Flood,
    edges: BTreeMap<Name, Neighbour>,
    /// What is on this node's disk.
    seen: Vector,
    /// What that comes to.
    digest: Digest,
    /// Whether it has ever held all that others held, and will know that after a crash.
    joined: watch::Sender<bool>,
    /// The life in which that is so, on this node's disk.
    durably_joined: watch::Receiver<u64>,
    /// One for each cluster that this run was in.
    life: u64,
    /// Whether it has held all in this one, durably or not yet.
    has_held_all: bool,
    is_written: watch::Sender<bool>,
    began: Instant,
    warned_at: Option<Instant>,
    /// Whose disks a write is on, and who wants to know.
    awaited: BTreeMap<Dot, (Await, BTreeSet<Name>)>,
}

/// Whoever is at the other end of an edge.
struct Neighbour {
    outbox: Outbox,
    /// What it was told last, and when.
    told: Option<(Copy, Instant)>,
    /// What it has told last.
    copy: Option<Copy>,
    /// What it is to be told of when that is on this node's disk.
    owed: BTreeSet<Dot>,
}

impl Neighbour {
    fn is_joined(&self) -> bool {
        self.copy.is_some_and(|copy| copy.is_joined)
    }
}

impl Task {
    async fn run(mut self, mut news: mpsc::Receiver<News>, mut fed: Fed, mut awaits: mpsc::Receiver<Await>) {
        let mut tick = tokio::time::interval(TELL_PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let gathered = tokio::time::sleep(NAMES_TIME);
        tokio::pin!(gathered);
        let mut gathers = false;
        loop {
            tokio::select! {
                // In this order: what is durable makes room for what comes.
                biased;
                heard = news.recv() => match heard {
                    Some(news) => self.on_news(news),
                    None => return,
                },
                Ok(()) = self.durably_joined.changed() => self.on_durably_joined(),
                Some(edge) = fed.edges.recv() => self.on_edge(edge),
                Some(arrived) = fed.frames.recv() => self.on_frame(arrived.by, &arrived.frame),
                Some(wanted) = awaits.recv() => self.on_await(wanted),
                () = &mut gathered, if gathers => {
                    let told = self.flood.take_names();
                    self.carry(told);
                    gathers = false;
                }
                _ = tick.tick() => self.on_tick(),
            }
            if !gathers && self.flood.has_names() {
                gathered.as_mut().reset(tokio::time::Instant::now() + NAMES_TIME);
                gathers = true;
            }
        }
    }

    fn on_edge(&mut self, edge: Edge) {
        match edge {
            Edge::Up(name, outbox) => {
                let neighbour = Neighbour { outbox, told: None, copy: None, owed: BTreeSet::new() };
                self.edges.insert(name, neighbour);
                self.flood.up(name);
                self.state.work(Work::Up(name));
                self.tell_copy(name);
                let wanted: Vec<Dot> = self.awaited.keys().copied().collect();
                self.send(name, message::confirm(&wanted));
            }
            Edge::Anew => {
                self.joined.send_replace(false);
                (self.life, self.has_held_all) = (self.life + 1, false);
                self.has_founder = true;
            }
            Edge::Down(name) => {
                if self.edges.remove(&name).is_some() {
                    self.flood.down(name);
                    self.state.work(Work::Down(name));
                }
            }
        }
    }

    fn on_frame(&mut self, by: Name, frame: &Frame) {
        let Some(neighbour) = self.edges.get_mut(&by) else { return };
        match Message::from_frame(frame) {
            Ok(Message::Writes(writes)) => {
                let (mut told, mut new) = (Vec::new(), Vec::new());
                for (op, bytes) in writes {
                    let carried = Carried::Write(op.dot, bytes.clone());
                    let (hand_on, is_new) = self.flood.came(by, carried, |dot| self.seen.contains(dot));
                    told.extend(hand_on);
                    if is_new {
                        new.push(Work::Apply(op, bytes));
                    }
                }
                if !new.is_empty() {
                    self.state.apply(new);
                }
                self.carry(told);
            }
            Ok(Message::Have(dots)) => self.came(by, dots, Carried::Have),
            Ok(Message::Want(dots)) => self.came(by, dots, Carried::Want),
            Ok(Message::Copy(copy)) => {
                neighbour.copy = Some(copy);
                self.state.work(Work::Digest(by, copy.digest));
                if copy.digest == self.digest {
                    self.join_with(by);
                }
            }
            Ok(Message::Confirm(dots)) => {
                let (durable, later): (Vec<Dot>, Vec<Dot>) = dots.into_iter().partition(|dot| self.seen.contains(dot));
                for dot in later {
                    if neighbour.owed.len() >= OWED_MAX && !neighbour.owed.contains(&dot) {
                        count(&self.counters.confirms_dropped);
                        continue;
                    }
                    neighbour.owed.insert(dot);
                }
                self.send(by, message::confirmed(&durable));
            }
            Ok(Message::Confirmed(dots)) => dots.iter().for_each(|dot| self.on_confirmed(by, dot)),
            Err(error) => {
                count(&self.counters.peers_broken);
                tracing::debug!(peer = ?by, %error, "a member makes no sense");
                neighbour.outbox.close();
            }
        }
    }

    fn came(&mut self, by: Name, dots: Vec<Dot>, carried: impl Fn(Dot) -> Carried) {
        let mut told = Vec::new();
        for dot in dots {
            told.extend(self.flood.came(by, carried(dot), |dot| self.seen.contains(dot)).0);
        }
        self.carry(told);
    }

    fn on_await(&mut self, wanted: Await) {
        self.awaited.retain(|_, (wanted, _)| !wanted.reply.is_closed());
        if self.awaited.len() >= AWAITED_MAX {
            return count(&self.counters.confirms_dropped);
        }
        let frames = message::confirm(&[wanted.dot]);
        self.awaited.insert(wanted.dot, (wanted, BTreeSet::new()));
        let names: Vec<Name> = self.edges.keys().copied().collect();
        names.into_iter().for_each(|name| self.send(name, frames.clone()));
    }

    fn on_confirmed(&mut self, by: Name, dot: &Dot) {
        let Some((wanted, on)) = self.awaited.get_mut(dot) else { return };
        on.insert(by);
        wanted.on.send_replace(on.len() as u32);
        if on.len() as u32 >= wanted.others
            && let Some((wanted, _)) = self.awaited.remove(dot)
        {
            // Whoever waited may be gone.
            let _ = wanted.reply.send(());
        }
    }

    fn on_news(&mut self, news: News) {
        let News { learned, is_new, written, asked, answered, noted, digest, recovered } = news;
        self.digest = digest;
        match is_new {
            true => self.seen = learned,
            false => self.seen.join(&learned),
        }
        let is_written = self.seen.iter().len() > 0;
        self.is_written.send_if_modified(|known| std::mem::replace(known, is_written) != is_written);
        if let Some(damage) = recovered {
            count(&self.counters.recovered);
            tracing::error!(%damage, "the map had lost something on the disk, and was built again of what was left; the rest is fetched");
        }
        if is_new {
            self.streams.forget_questions();
        }
        for written in written {
            let told = self.flood.made(written.op.dot, written.bytes);
            self.carry(told);
        }
        self.confirm_owed();
        asked.into_iter().for_each(|(to, request)| self.streams.ask(to, request));
        answered.into_iter().for_each(|(to, reply)| self.streams.answer(to, reply));
        noted.into_iter().for_each(|noted| self.on_noted(noted));
    }

    /// Tells whoever wants to know of what is on the disk now.
    fn confirm_owed(&mut self) {
        let mut durable: Vec<(Name, Vec<Dot>)> = Vec::new();
        for (name, neighbour) in &mut self.edges {
            let dots: Vec<Dot> = neighbour.owed.extract_if(.., |dot| self.seen.contains(dot)).collect();
            if !dots.is_empty() {
                durable.push((*name, dots));
            }
        }
        durable.into_iter().for_each(|(name, dots)| self.send(name, message::confirmed(&dots)));
    }

    fn on_noted(&mut self, noted: Noted) {
        match noted {
            Noted::CaughtUp(with) => {
                count(&self.counters.caught_up);
                self.join_with(with);
            }
            Noted::Equal(with) => self.join_with(with),
            Noted::Unconfirmed { with, dropped, held } => {
                tracing::warn!(peer = ?with, dropped, held, "a member would have many keys dropped: another is asked first");
            }
            Noted::Integrity(with) => {
                count(&self.counters.integrity);
                if self.warned_at.is_some_and(|warned_at| warned_at.elapsed() < WARN_PERIOD) {
                    return;
                }
                self.warned_at = Some(Instant::now());
                tracing::warn!(peer = ?with, "a member has seen the same as this node and holds something else: both look whether they have lost something");
            }
            Noted::Mended { with, keys } => {
                add(&self.counters.mended, keys);
                tracing::error!(peer = ?with, keys, "two copies that seemed whole were not equal; what one of them lacked is back");
            }
            Noted::TooMuch(with) => {
                count(&self.counters.failed);
                tracing::warn!(peer = ?with, "a member holds more than this node may: nothing of it was taken in (--state-max)");
            }
            Noted::Failed(with) => {
                count(&self.counters.failed);
                tracing::debug!(peer = ?with, "asking a member came to nothing");
            }
        }
    }

    /// All that this one holds is here.
    fn join_with(&mut self, with: Name) {
        let Some(copy) = self.edges.get(&with).and_then(|neighbour| neighbour.copy) else { return };
        if copy.is_joined {
            self.set_joined();
            if !copy.is_behind && self.is_behind() {
                self.state.work(Work::Reconciled);
            }
        }
    }

    fn is_behind(&self) -> bool {
        self.state.map().is_behind.load(Ordering::Relaxed)
    }

    fn copy(&self) -> Copy {
        Copy { digest: self.digest, is_joined: *self.joined.borrow(), is_behind: self.is_behind() }
    }

    /// This copy has held all: nobody is told before that is durable, so that nobody is told otherwise after a crash.
    fn set_joined(&mut self) {
        if !std::mem::replace(&mut self.has_held_all, true) {
            self.state.set_joined(self.life);
        }
    }

    fn on_durably_joined(&mut self) {
        let life = *self.durably_joined.borrow_and_update();
        // What was written of an earlier cluster says nothing of this one.
        if life == self.life && !self.joined.send_replace(true) {
            tracing::info!("the map is here");
            // Others may wait for one who has held all.
            let names: Vec<Name> = self.edges.keys().copied().collect();
            names.into_iter().for_each(|name| self.tell_copy(name));
        }
    }

    /// Where nobody has ever held all, what all of those hold who are here is all.
    fn found(&mut self) {
        if self.has_held_all {
            return;
        }
        let is_alone = self.edges.is_empty() && !self.has_founder && !self.view.borrow().expects_others;
        let neighbours = || self.edges.values();
        let is_first = !self.edges.is_empty()
            && self.began.elapsed() >= FOUNDING_TIME
            && neighbours().all(|neighbour| !neighbour.is_joined())
            && neighbours().all(|neighbour| neighbour.copy.is_some_and(|copy| copy.digest == self.digest));
        if is_alone || is_first {
            self.set_joined();
        }
    }

    fn on_tick(&mut self) {
        self.found();
        let said = self.copy();
        let is_due =
            |neighbour: &Neighbour| neighbour.told.is_none_or(|(told, at)| told != said || at.elapsed() >= TELL_AGAIN);
        let due: Vec<Name> = self.edges.iter().filter(|(_, edge)| is_due(edge)).map(|(name, _)| *name).collect();
        due.into_iter().for_each(|name| self.tell_copy(name));
    }

    fn tell_copy(&mut self, name: Name) {
        let copy = self.copy();
        if let Some(neighbour) = self.edges.get_mut(&name) {
            neighbour.told = Some((copy, Instant::now()));
        }
        self.send(name, [message::copy(&copy)]);
    }

    /// Sends what floods, packed for each edge.
    fn carry(&self, told: Told) {
        let mut by_edge: BTreeMap<Name, Vec<Carried>> = BTreeMap::new();
        told.into_iter().for_each(|(name, carried)| by_edge.entry(name).or_default().push(carried));
        by_edge.into_iter().for_each(|(name, carried)| self.send(name, message::pack(carried)));
    }

    fn send(&self, name: Name, frames: impl IntoIterator<Item = Frame>) {
        let mut frames = frames.into_iter().peekable();
        if let (Some(neighbour), Some(_)) = (self.edges.get(&name), frames.peek()) {
            add(&self.counters.outbound_dropped, neighbour.outbox.push_about_map(frames));
        }
    }
}
