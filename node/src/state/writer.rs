//! The thread that writes `state.db`, and what waits for it: what is remembered of members, and the replicated map. Whatever
//! waits for the map is done together in one transaction (group commit); nothing is answered or told before it is durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use libp2p::Multiaddr;
use p2p_dht::store::{StoreError, StoreResult};
use p2p_gossip::kv::anti_entropy::{Noted, Reply, Request};
use p2p_gossip::kv::{Damage, Digest, Effect, Vector, Work, WriteError, Written};
use p2p_gossip::swim::{Fact, Name, Time};
use tokio::sync::{mpsc, oneshot, watch};

use super::map::{Committed, Map};
use super::reads::Cache;
use super::{FORGET_ALL, checkpoint_if_due};
use crate::sqlite::store_error;

/// What is noted of members within this time is written together.
const GATHER_TIME: Duration = Duration::from_millis(100);

/// Pause before what found no room on the disk is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// Things to do with the map in one transaction.
const WORK_AT_ONCE: usize = 512;

/// Bytes of writes of others that wait; what comes beyond is dropped, and fetched later.
const APPLIED_LEN_MAX: usize = 16 << 20;

/// What answering others costs in time, others' calls have between it and the next so many times: it takes three parts in ten.
const ASKED_PAUSE: (u32, u32) = (7, 3);

/// For so long after a call or a write answering others is held back for those that may follow.
const BUSY_TIME: Duration = Duration::from_millis(100);

/// After others' writes were taken in the next wait so many times as long as that took, unless users write: where the disk is
/// slow, or shared by many, they come in fewer transactions.
const APPLIED_PAUSE: u32 = 4;

/// And no longer than this.
const APPLIED_PAUSE_MAX: Duration = Duration::from_millis(25);

/// One part in so many of the room for the state that is left for what others write.
const RESERVED_PART: u64 = 10;

/// The beginning of the map's time.
const EPOCH: Time = Time(1_000_000_000);

/// What became of a call: what was written, if there was anything to do.
pub(crate) type Called = Result<Option<Written>, CallError>;

/// Why a call has done nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// It is refused.
    #[error(transparent)]
    Refused(#[from] WriteError),
    /// There is no room for it.
    #[error("{0}")]
    Full(&'static str),
    /// The map had lost something, and was built again.
    #[error("the map was found damaged, and was built again of what was left")]
    Recovered,
}

/// What has come of a transaction on the map, for those who tell others of it.
#[derive(Debug)]
pub(crate) struct News {
    /// What was seen in it; all that ever was, where `is_new` says so.
    pub(crate) learned: Vector,
    /// Whether the map has begun anew.
    pub(crate) is_new: bool,
    /// Own writes.
    pub(crate) written: Vec<Written>,
    /// Questions for peers.
    pub(crate) asked: Vec<(Name, Request)>,
    /// Answers for peers.
    pub(crate) answered: Vec<(Name, Reply)>,
    /// What has come to be known.
    pub(crate) noted: Vec<Noted>,
    /// What the copy comes to.
    pub(crate) digest: Digest,
    /// What was found lost.
    pub(crate) recovered: Option<Damage>,
}

/// What waits to be written.
pub(super) struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// How the map does, for whoever asks.
    pub(super) map: MapState,
    pub(super) cache: Cache,
}

/// How the map does.
#[derive(Debug, Default)]
pub(crate) struct MapState {
    /// Rows.
    pub(crate) keys: AtomicU64,
    /// It was built from what was left, and has not been compared since.
    pub(crate) is_behind: AtomicBool,
    /// Milliseconds for which a peer has held something else.
    pub(crate) differs_ms: AtomicU64,
    /// Bytes of the file, less what is free in it.
    pub(crate) len: AtomicU64,
    /// Transactions.
    pub(crate) commits: AtomicU64,
    /// Writes of this node's users.
    pub(crate) written: AtomicU64,
    /// Calls that were refused.
    pub(crate) refused: AtomicU64,
    /// Writes of others, taken in one by one.
    pub(crate) applied: AtomicU64,
    /// Writes of others that were dropped because too much waited.
    pub(crate) applies_dropped: AtomicU64,
    /// Microseconds of the writer's time for what others ask and answer.
    pub(crate) asked_micros: AtomicU64,
    /// Microseconds of the writer's time in all transactions.
    pub(crate) busy_micros: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    todo: Todo,
    /// Since when there is any of it.
    noted_at: Option<Instant>,
    work: VecDeque<Work>,
    /// Writes of others: users do not wait for all of them.
    applied: VecDeque<Work>,
    /// Bytes of these.
    applied_len: usize,
    /// What others ask and answer.
    asked: VecDeque<Work>,
    /// What copies of others come to: the newest of each alone.
    digests: BTreeMap<Name, Digest>,
    calls: BTreeMap<u64, oneshot::Sender<Called>>,
    last_call: u64,
    close: bool,
    /// Nothing is done any more.
    is_closed: bool,
}

impl Waiting {
    /// What goes into the next transaction: of writes of others as much as of all else, where there is enough of both.
    fn take(&mut self) -> Vec<Work> {
        let count = self.work.len().min(WORK_AT_ONCE - self.applied.len().min(WORK_AT_ONCE / 2));
        let mut taken: Vec<Work> = self.work.drain(..count).collect();
        let count = self.applied.len().min(WORK_AT_ONCE - count);
        taken.extend(self.applied.drain(..count));
        self.applied_len -= taken.iter().map(len_of).sum::<usize>();
        if self.work.is_empty() {
            // After the connections that they have come by.
            let digests = std::mem::take(&mut self.digests).into_iter();
            taken.extend(digests.map(|(name, digest)| Work::Digest(name, digest)));
        }
        taken
    }

    fn is_working(&self) -> bool {
        !self.work.is_empty() || !self.applied.is_empty()
    }
}

/// What is to be remembered of members; the newest of each alone.
#[derive(Default)]
pub(super) struct Todo {
    /// At most one for each member that there can be.
    pub(super) facts: BTreeMap<Name, Option<Arc<Fact>>>,
    pub(super) contacts: Option<Vec<Multiaddr>>,
    pub(super) generation: Option<u64>,
    pub(super) ever_met: bool,
    /// The life of the map in this run that has held all that others held.
    pub(super) joined: Option<u64>,
    pub(super) forget_all: bool,
}

impl Todo {
    fn is_nothing(&self) -> bool {
        let Self { facts, contacts, generation, ever_met, joined, forget_all } = self;
        facts.is_empty() && contacts.is_none() && generation.is_none() && !ever_met && joined.is_none() && !forget_all
    }

    /// Whether somebody waits until it is durable.
    fn is_awaited(&self) -> bool {
        self.generation.is_some() || self.joined.is_some()
    }

    /// Puts back what was not written, under what has come since.
    fn put_back(&mut self, unwritten: Todo) {
        if self.forget_all {
            return;
        }
        for (name, fact) in unwritten.facts {
            self.facts.entry(name).or_insert(fact);
        }
        self.contacts = self.contacts.take().or(unwritten.contacts);
        self.generation = self.generation.max(unwritten.generation);
        self.ever_met |= unwritten.ever_met;
        self.joined = self.joined.max(unwritten.joined);
        self.forget_all |= unwritten.forget_all;
    }
}

impl Shared {
    pub(super) fn new(cache: Cache) -> Self {
        Self { waiting: Mutex::default(), wake: Condvar::new(), map: MapState::default(), cache }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, note: impl FnOnce(&mut Todo)) {
        let mut waiting = self.lock();
        note(&mut waiting.todo);
        waiting.noted_at.get_or_insert_with(Instant::now);
        drop(waiting);
        self.wake.notify_one();
    }

    pub(super) fn close(&self) {
        self.lock().close = true;
        self.wake.notify_one();
    }

    /// Something to do with the map that few do.
    pub(super) fn work(&self, work: Work) {
        let mut waiting = self.lock();
        match work {
            Work::Request(..) | Work::Reply(..) => waiting.asked.push_back(work),
            Work::Digest(name, digest) => drop(waiting.digests.insert(name, digest)),
            _ => waiting.work.push_back(work),
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Writes of others, as many as there is room for.
    pub(super) fn apply(&self, writes: impl IntoIterator<Item = Work>) {
        let mut waiting = self.lock();
        for work in writes {
            let len = len_of(&work);
            if waiting.applied_len + len > APPLIED_LEN_MAX {
                self.map.applies_dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            waiting.applied_len += len;
            waiting.applied.push_back(work);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// A call of a user, by a number that is given here.
    pub(super) fn call(&self, call: impl FnOnce(u64) -> Work) -> oneshot::Receiver<Called> {
        let (reply, called) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.is_closed {
            return called;
        }
        waiting.last_call += 1;
        let number = waiting.last_call;
        waiting.calls.insert(number, reply);
        waiting.work.push_back(call(number));
        drop(waiting);
        self.wake.notify_one();
        called
    }

    /// Nothing is done any more: whoever waits hears of nothing.
    fn end(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        waiting.calls.clear();
        (waiting.work, waiting.applied, waiting.applied_len) = (VecDeque::new(), VecDeque::new(), 0);
        waiting.asked = VecDeque::new();
        waiting.digests.clear();
    }

    fn end_call(&self, number: u64, called: Called) {
        let reply = self.lock().calls.remove(&number);
        match &called {
            Ok(_) => self.map.written.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.map.refused.fetch_add(1, Ordering::Relaxed),
        };
        // Whoever called may be gone; what is written stands.
        reply.into_iter().for_each(|reply| drop(reply.send(called.clone())));
    }
}

/// Bytes of a write of others, with what it costs to keep it.
fn len_of(work: &Work) -> usize {
    match work {
        Work::Apply(_, bytes) => 256 + bytes.len(),
        _ => 0,
    }
}

/// What is to be done next.
struct Next {
    todo: Option<Todo>,
    work: Vec<Work>,
    close: bool,
}

pub(super) struct Writer {
    pub(super) map: Map,
    pub(super) shared: Arc<Shared>,
    pub(super) durable: watch::Sender<u64>,
    pub(super) joined: watch::Sender<u64>,
    pub(super) news: mpsc::Sender<News>,
    /// Most bytes of the file.
    pub(super) len_max: u64,
    pub(super) began: Instant,
    /// When others are answered again.
    pub(super) asked_at: Instant,
    /// When others' writes are taken in again.
    pub(super) applied_at: Instant,
    /// When users or others have written last.
    pub(super) busy_at: Option<Instant>,
}

impl Writer {
    pub(super) fn run(mut self) -> StoreResult<()> {
        let ended = self.write_all();
        self.shared.end();
        ended
    }

    fn write_all(&mut self) -> StoreResult<()> {
        self.show();
        let mut was_full = false;
        loop {
            let Next { todo, work, close } = self.next();
            if let Some(todo) = todo {
                match self.write(&todo) {
                    Ok(()) => {
                        was_full = false;
                        if let Some(generation) = todo.generation {
                            self.durable.send_replace(generation);
                        }
                        if let Some(life) = todo.joined {
                            self.joined.send_replace(life);
                        }
                    }
                    Err(StoreError::DiskFull) => {
                        if !std::mem::replace(&mut was_full, true) {
                            tracing::warn!(
                                "the disk is full: what is known of members will be remembered once there is room"
                            );
                        }
                        let mut waiting = self.shared.lock();
                        waiting.todo.put_back(todo);
                        waiting.noted_at = Some(Instant::now() + FULL_PAUSE);
                    }
                    Err(error) => return Err(error),
                }
            }
            self.transact(work)?;
            if close {
                return Ok(());
            }
        }
    }

    fn now(&self) -> Time {
        EPOCH + self.began.elapsed()
    }

    /// Waits until there is anything to do.
    fn next(&self) -> Next {
        let mut waiting = self.shared.lock();
        loop {
            let now = Instant::now();
            let gather_time = if waiting.todo.is_awaited() { Duration::ZERO } else { GATHER_TIME };
            let noted_at = waiting.noted_at.map(|at| at + gather_time);
            let is_noted = !waiting.todo.is_nothing() && (waiting.close || noted_at.is_some_and(|at| at <= now));
            let asked_at = (!waiting.asked.is_empty()).then_some(self.asked_at);
            let applied_at = (!waiting.applied.is_empty()).then_some(self.applied_at);
            let map_at = self.map_deadline();
            let is_due = [asked_at, applied_at, map_at].into_iter().flatten().any(|at| at <= now);
            let is_told = !waiting.work.is_empty() || !waiting.digests.is_empty();
            if is_noted || is_due || is_told || waiting.close {
                let todo = is_noted.then(|| {
                    waiting.noted_at = None;
                    std::mem::take(&mut waiting.todo)
                });
                let mut work: Vec<Work> = Vec::new();
                // Answers of others are few, and the longest wait.
                if asked_at.is_some_and(|at| at <= now) {
                    work.extend(waiting.asked.pop_front());
                }
                work.extend(waiting.take());
                // What is left is done first.
                let close = waiting.close && !waiting.is_working();
                return Next { todo, work, close };
            }
            let wake_at = [noted_at, asked_at, applied_at, map_at].into_iter().flatten().min();
            waiting = match wake_at {
                None => self.shared.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let waited = self.shared.wake.wait_timeout(waiting, at.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn map_deadline(&self) -> Option<Instant> {
        let deadline = self.map.machine().deadline();
        (deadline != Time::NEVER).then(|| self.began + deadline.since(EPOCH))
    }

    /// Does something with the map, if there is anything to do.
    fn transact(&mut self, mut work: Vec<Work>) -> StoreResult<()> {
        if self.is_nearly_full() {
            work = self.refuse(work, "the map has no room for more");
        }
        let is_due = self.map_deadline().is_some_and(|at| at <= Instant::now());
        if work.is_empty() && !is_due {
            return Ok(());
        }
        let began = Instant::now();
        let is_asked = |work: &Work| matches!(work, Work::Request(..) | Work::Reply(..));
        let asked = work.iter().any(is_asked);
        let applied = work.iter().filter(|work| matches!(work, Work::Apply(..))).count();
        let calls: Vec<u64> = work.iter().filter_map(number_of).collect();
        if applied + calls.len() > 0 {
            self.busy_at = Some(began);
        }
        let committed = match self.map.commit(work, self.now()) {
            Ok(committed) => committed,
            Err(StoreError::DiskFull) => {
                tracing::warn!("the disk is full: nothing is written to the map until there is room");
                let committed = self.map.reopen()?;
                calls.into_iter().for_each(|call| self.shared.end_call(call, Err(CallError::Full("the disk is full"))));
                self.tell(committed);
                std::thread::sleep(FULL_PAUSE);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let took = began.elapsed();
        let state = &self.shared.map;
        state.commits.fetch_add(1, Ordering::Relaxed);
        state.applied.fetch_add(applied as u64, Ordering::Relaxed);
        state.busy_micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        if asked {
            state.asked_micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
            let is_busy = self.busy_at.is_some_and(|at| at.elapsed() < BUSY_TIME);
            let (pause, part) = ASKED_PAUSE;
            self.asked_at = if is_busy { Instant::now() + took * pause / part } else { began };
        }
        // Where there are very many each transaction is full all the same.
        if (1..WORK_AT_ONCE / 2).contains(&applied) {
            self.applied_at = Instant::now() + (took * APPLIED_PAUSE).min(APPLIED_PAUSE_MAX);
        }
        if committed.recovered.is_some() {
            calls.into_iter().for_each(|call| self.shared.end_call(call, Err(CallError::Recovered)));
        }
        self.tell(committed);
        Ok(())
    }

    /// Whether so much is kept that only what others write is taken in.
    fn is_nearly_full(&self) -> bool {
        self.shared.map.len.load(Ordering::Relaxed) >= self.len_max - self.len_max / RESERVED_PART
    }

    /// Refuses calls that would keep more.
    fn refuse(&self, work: Vec<Work>, reason: &'static str) -> Vec<Work> {
        let mut left = Vec::with_capacity(work.len());
        for work in work {
            match &work {
                Work::Call(call) if call.value.is_some() => {
                    self.shared.end_call(call.number, Err(CallError::Full(reason)));
                }
                _ => left.push(work),
            }
        }
        left
    }

    /// Tells whoever waits or is to know of what is durable now.
    fn tell(&mut self, committed: Committed) {
        let Committed { effects, recovered, is_new } = committed;
        let replica = self.map.machine_mut().replica_mut();
        let changed = replica.take_changed();
        let learned = replica.take_learned();
        let learned = if is_new { replica.vector().clone() } else { learned };
        let digest = replica.digest();
        self.shared.cache.changed(changed, is_new);
        self.show();
        let mut news = News {
            learned,
            is_new,
            written: Vec::new(),
            asked: Vec::new(),
            answered: Vec::new(),
            noted: Vec::new(),
            digest,
            recovered,
        };
        for effect in effects {
            match effect {
                Effect::Ask(to, request) => news.asked.push((to, request)),
                Effect::Answer(to, reply) => news.answered.push((to, reply)),
                Effect::Called(number, outcome) => {
                    news.written.extend(outcome.iter().flatten().cloned());
                    self.shared.end_call(number, outcome.map_err(CallError::Refused));
                }
                Effect::Noted(noted) => news.noted.push(noted),
            }
        }
        // Nobody is left to tell when the node stops.
        let _ = self.news.blocking_send(news);
    }

    /// Shows how the map does.
    fn show(&self) {
        let (machine, state) = (self.map.machine(), &self.shared.map);
        let differs = machine.differs_for(self.now()).unwrap_or_default();
        state.keys.store(machine.replica().len(), Ordering::Relaxed);
        state.differs_ms.store(differs.as_millis() as u64, Ordering::Relaxed);
        state.is_behind.store(self.map.is_behind(), Ordering::Relaxed);
        state.len.store(self.map.len(), Ordering::Relaxed);
    }

    fn write(&self, todo: &Todo) -> StoreResult<()> {
        let db = self.map.db();
        let written = self.remember(todo).and_then(|()| checkpoint_if_due(db));
        written.map_err(|error| {
            // Without meaning where there is no transaction.
            let _ = db.execute_batch("ROLLBACK");
            store_error(db, &error)
        })
    }

    fn remember(&self, todo: &Todo) -> rusqlite::Result<()> {
        let db = self.map.db();
        db.execute_batch("BEGIN IMMEDIATE")?;
        if todo.forget_all {
            db.execute_batch(FORGET_ALL)?;
        }
        if let Some(generation) = todo.generation {
            let generation = i64::try_from(generation).unwrap_or(i64::MAX);
            db.prepare_cached("UPDATE node SET generation = max(generation, ?1)")?.execute([generation])?;
        }
        if todo.ever_met {
            db.prepare_cached("UPDATE node SET ever_met = 1")?.execute([])?;
        }
        if todo.joined.is_some() {
            db.prepare_cached("UPDATE kv_node SET is_joined = 1")?.execute([])?;
        }
        for (name, fact) in &todo.facts {
            match fact {
                None => db.prepare_cached("DELETE FROM members WHERE name = ?1")?.execute([&name.0[..]])?,
                Some(fact) => {
                    let mut bytes = BytesMut::with_capacity(fact.encoded_len());
                    fact.encode(&mut bytes);
                    let sql = "INSERT INTO members VALUES (?1, ?2) ON CONFLICT DO UPDATE SET fact = excluded.fact";
                    db.prepare_cached(sql)?.execute((&name.0[..], &bytes[..]))?
                }
            };
        }
        if let Some(contacts) = &todo.contacts {
            db.execute("DELETE FROM contacts", [])?;
            for address in contacts {
                db.execute("INSERT OR IGNORE INTO contacts VALUES (?1)", [address.to_string()])?;
            }
        }
        db.execute_batch("COMMIT")
    }
}

fn number_of(work: &Work) -> Option<u64> {
    match work {
        Work::Call(call) => Some(call.number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use p2p_gossip::kv::{Actor, Dot, Dots, Key, Op};

    use super::*;

    #[test]
    fn users_do_not_wait_for_all_that_others_have_written() {
        let shared = Shared::new(Cache::new(1));
        let write = |counter| {
            let dot = Dot { actor: Actor { peer: Name([1; 32]), epoch: 1 }, counter };
            let op = Op { dot, key: Key::new("key").expect("a key"), value: None, replaces: Dots::default() };
            Work::Apply(op, Bytes::new())
        };
        let applied = |taken: &[Work]| taken.iter().filter(|work| matches!(work, Work::Apply(..))).count();
        shared.apply((1..=2 * WORK_AT_ONCE as u64).map(write));
        shared.work(Work::Audit);
        let taken = shared.lock().take();
        assert_eq!((taken.len(), applied(&taken)), (WORK_AT_ONCE, WORK_AT_ONCE - 1));
        (0..2 * WORK_AT_ONCE).for_each(|_| shared.work(Work::Audit));
        let taken = shared.lock().take();
        assert_eq!((taken.len(), applied(&taken)), (WORK_AT_ONCE, WORK_AT_ONCE / 2));
        while !shared.lock().take().is_empty() {}
        assert_eq!(shared.lock().applied_len, 0);
    }

    #[test]
    fn of_what_a_peer_tells_of_its_copy_only_the_last_waits() {
        let shared = Shared::new(Cache::new(1));
        let (one, other) = (Name([1; 32]), Name([2; 32]));
        for n in 0..100 {
            let digest = Digest { vector: [n; 16], rows: [n; 16] };
            shared.work(Work::Digest(one, digest));
            shared.work(Work::Digest(other, digest));
        }
        (0..WORK_AT_ONCE).for_each(|_| shared.work(Work::Up(one)));
        shared.work(Work::Up(other));
        let told = |taken: Vec<Work>| {
            let told = taken.into_iter().filter_map(|work| match work {
                Work::Digest(name, digest) => Some((name, digest.rows[0])),
                _ => None,
            });
            told.collect::<Vec<_>>()
        };
        // After all connections that it may have come by.
        assert_eq!(told(shared.lock().take()), []);
        assert_eq!(told(shared.lock().take()), [(one, 99), (other, 99)]);
        assert_eq!(told(shared.lock().take()), []);
    }
}
