//! One node: membership, the map, and a disk on which a transaction takes its time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::kv::anti_entropy::{Noted, Reply, Request};
use crate::kv::flood::{Carried, Flood, NAMES_TIME, Told};
use crate::kv::{
    Call, Config, Damage, Digest, Effect, Entry, Epochs, Key, KvTx, Machine, Memory, Op, Replica, Token, Trouble,
    Vector, Work, WriteError, entry_of,
};
use crate::sim::members::{Begin, Change, Disk, Order, Peer, Profile, Shared};
use crate::sim::{Action, Happened, Node, Slot};
use crate::swim::{Event, Member, Message, Name, State, Time};

/// A node tells those at the other end of its edges so often what its copy comes to.
const DIGEST_PERIOD: Duration = Duration::from_secs(2);

/// Commits that a disk can be set back to.
const COMMITS_MAX: usize = 12;

/// About as long as a frame of anti-entropy: only what floods is counted exactly.
const FRAME_LEN: usize = 256;

/// What outlives a process.
#[derive(Clone, Default)]
pub struct KvDisk {
    /// Of membership.
    pub members: Disk,
    /// Of the map.
    pub map: Memory,
    /// Earlier commits, the last one last.
    pub commits: Vec<Memory>,
    /// How it behaves.
    pub manner: Manner,
}

/// How a node keeps its map.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Shortest and longest time of a commit.
    pub commit_time: (Duration, Duration),
    /// Writes that stay in the log.
    pub log_keep: u64,
}

impl Default for Manner {
    fn default() -> Self {
        Self { commit_time: (Duration::from_micros(200), Duration::from_millis(3)), log_keep: u64::MAX }
    }
}

/// What nodes send each other.
#[derive(Clone, Debug)]
pub enum Frame {
    /// Of membership.
    Members(Message),
    /// Writes on their way.
    Carried(Carried),
    /// What a copy comes to.
    Digest(Digest),
    /// A question.
    Request(Arc<Request>),
    /// An answer.
    Reply(Arc<Reply>),
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is durable here. None: there was nothing to do.
    Done(Option<Token>),
    /// It was refused.
    Refused(WriteError),
}

/// What a node tells whoever watches.
#[derive(Clone, Debug)]
pub enum KvEvent {
    /// Of membership.
    Members(Event),
    /// For a call it has made a write, which nobody knows of yet.
    Made(u64, Op),
    /// A call has come to its end.
    Called(u64, Outcome),
    /// A transaction is durable: these keys are now this, under this vector.
    Committed(Vec<(Key, Entry)>, Vector),
    /// It has found its store damaged, and built it again.
    Recovered(Damage),
    /// Anti-entropy has come to know something.
    Noted(Noted),
}

/// A transaction that the disk is busy with, and what follows once it is durable.
struct Commit {
    at: Time,
    survives: bool,
    effects: Vec<Effect>,
    kept: KvEvent,
    digest: Option<Digest>,
}

/// A node.
pub struct Kv {
    /// Its membership.
    pub members: Peer,
    machine: Machine,
    /// As the transaction under way has made it.
    store: Memory,
    /// As it is safe on the disk.
    durable: Memory,
    commits: Vec<Memory>,
    manner: Manner,
    flood: Flood,
    /// When writes are told by name, if any are to be.
    names_at: Time,
    edges: BTreeMap<Slot, Name>,
    work: Vec<Work>,
    commit: Option<Commit>,
    digest_at: Time,
    events: Vec<KvEvent>,
    rng: SmallRng,
    passed_on: Vec<Action<Message>>,
}

impl Kv {
    /// Its copy.
    pub fn replica(&self) -> &Replica {
        self.machine.replica()
    }

    /// What is safe on its disk.
    pub fn durable(&self) -> &Memory {
        &self.durable
    }

    /// Whether it has come to its end by itself.
    pub fn has_stopped(&self) -> bool {
        self.members.stopped.is_some()
    }

    /// How it keeps its map.
    pub fn manner(&self) -> Manner {
        self.manner
    }

    /// Lets it keep its map in another way.
    pub fn set_manner(&mut self, manner: Manner) {
        self.manner = manner;
        self.machine.configure(Config { log_keep: manner.log_keep, ..Config::default() });
    }

    /// Takes a call of a client.
    pub fn call(&mut self, call: Call) {
        self.work.push(Work::Call(call));
    }

    /// What a reader gets: the values that stand, and the token for them.
    pub fn read(&self, key: &Key) -> (Vec<Bytes>, Token) {
        let entry = self.replica().get(&mut self.durable.clone(), key).unwrap_or_default();
        let token = Token::new(key, entry.siblings().iter().map(|sibling| sibling.dot).collect());
        (entry.into_siblings().into_iter().map(|sibling| sibling.value).collect(), token)
    }

    /// Changes what is on its disk behind its back.
    pub fn hurt(&mut self, mut how: impl FnMut(&mut Memory)) {
        how(&mut self.durable);
        how(&mut self.store);
    }

    /// Lets it look whether its store is whole.
    pub fn audit(&mut self) {
        self.work.push(Work::Audit);
    }

    /// Whether nothing is under way in it.
    pub fn is_idle(&self) -> bool {
        self.work.is_empty() && self.commit.is_none()
    }

    fn slot_of(&self, name: Name) -> Option<Slot> {
        self.edges.iter().find(|(_, other)| **other == name).map(|(slot, _)| *slot)
    }

    fn send(&self, to: Name, frame: Frame, actions: &mut Vec<Action<Frame>>) {
        let len = match &frame {
            Frame::Carried(Carried::Write(_, bytes)) => bytes.len(),
            _ => FRAME_LEN,
        };
        if let Some(slot) = self.slot_of(to) {
            actions.push(Action::Send(slot, frame, len));
        }
    }

    fn carry(&self, told: Told, actions: &mut Vec<Action<Frame>>) {
        told.into_iter().for_each(|(to, carried)| self.send(to, Frame::Carried(carried), actions));
    }

    /// Tells of writes by name once enough time has gone by.
    fn tell_names(&mut self, now: Time, actions: &mut Vec<Action<Frame>>) {
        if self.names_at <= now {
            let told = self.flood.take_names();
            self.carry(told, actions);
        }
        self.names_at = match self.flood.has_names() {
            true => self.names_at.min(now + NAMES_TIME),
            false => Time::NEVER,
        };
    }

    fn open(&mut self, slot: Slot, name: Name) {
        self.close_name(name);
        self.edges.insert(slot, name);
        self.flood.up(name);
        self.work.push(Work::Up(name));
    }

    fn close(&mut self, slot: Slot) {
        if let Some(name) = self.edges.remove(&slot) {
            self.flood.down(name);
            self.work.push(Work::Down(name));
        }
    }

    fn close_name(&mut self, name: Name) {
        if let Some(slot) = self.slot_of(name) {
            self.close(slot);
        }
    }

    /// Tells membership, and does what it wants.
    fn tell_members(
        &mut self,
        shared: &mut Shared,
        happened: Happened<Message>,
        now: Time,
        actions: &mut Vec<Action<Frame>>,
    ) {
        let mut passed_on = std::mem::take(&mut self.passed_on);
        self.members.handle(shared, happened, now, &mut passed_on);
        for action in passed_on.drain(..) {
            actions.push(match action {
                Action::Dial(slot) => Action::Dial(slot),
                Action::Reach(slot) => Action::Reach(slot),
                Action::Close(slot) => {
                    self.close(slot);
                    Action::Close(slot)
                }
                Action::Send(slot, message, len) => Action::Send(slot, Frame::Members(message), len),
                Action::Datagram(slot, message, len) => Action::Datagram(slot, Frame::Members(message), len),
                Action::Write(generation) => Action::Write(generation),
                // Whoever runs the cluster ends it, and keeps its disk.
                Action::Exit => continue,
            });
        }
        self.passed_on = passed_on;
        self.events.extend(self.members.take_events().into_iter().map(KvEvent::Members));
    }

    fn came(&mut self, by: Name, frame: Frame, actions: &mut Vec<Action<Frame>>) {
        match frame {
            Frame::Members(_) => {}
            Frame::Carried(carried) => {
                let machine = &self.machine;
                let (told, is_new) = self.flood.came(by, carried.clone(), |dot| machine.has_seen(dot));
                self.carry(told, actions);
                if let (Carried::Write(dot, bytes), true) = (carried, is_new)
                    && let Some(op) = Op::decode(&bytes).ok().filter(|op| op.dot == dot)
                {
                    self.work.push(Work::Apply(op, bytes));
                }
            }
            Frame::Digest(digest) => self.work.push(Work::Digest(by, digest)),
            Frame::Request(request) => self.work.push(Work::Request(by, Arc::unwrap_or_clone(request))),
            Frame::Reply(reply) => self.work.push(Work::Reply(by, Arc::unwrap_or_clone(reply))),
        }
    }

    /// Begins a transaction, unless the disk is busy or there is nothing to do.
    fn begin(&mut self, now: Time) {
        let is_due = self.machine.deadline() <= now || self.digest_at <= now;
        if self.commit.is_some() || self.work.is_empty() && !is_due {
            return;
        }
        let (shortest, longest) = self.manner.commit_time;
        let took = self.rng.random_range(shortest..=longest);
        let work = std::mem::take(&mut self.work);
        let has_new_peer = work.iter().any(|work| matches!(work, Work::Up(_)));
        let mut effects = Vec::new();
        match self.machine.transact(&mut self.store, work, now, &mut effects) {
            Ok(()) => {}
            Err(Trouble::Store(never)) => match never {},
            Err(Trouble::Damage(damage)) => {
                self.store = self.durable.clone();
                effects.clear();
                let (epochs, seed) = (epochs(&mut self.rng), self.rng.random());
                let Ok(()) = self.machine.recover(&mut self.store, epochs, seed) else {
                    unreachable!("memory does not fail")
                };
                self.digest_at = Time::default();
                self.events.push(KvEvent::Recovered(damage));
            }
        }
        for effect in &effects {
            if let Effect::Called(number, Ok(Some(written))) = effect {
                self.events.push(KvEvent::Made(*number, written.op.clone()));
            }
        }
        let digest = (has_new_peer || self.digest_at <= now).then(|| self.machine.digest());
        if self.digest_at <= now {
            self.digest_at = now + DIGEST_PERIOD;
        }
        let kept = self.kept();
        self.commit = Some(Commit { at: now + took, survives: self.rng.random(), effects, kept, digest });
    }

    /// What the transaction keeps.
    fn kept(&mut self) -> KvEvent {
        let changed = self.machine.replica_mut().take_changed().into_keys();
        let rows = changed.map(|key| {
            // What it says itself is to be judged, not what it makes sure of.
            let row = self.store.row(&key).ok().flatten();
            let entry = row.and_then(|row| entry_of(&key, &row)).unwrap_or_default();
            (key, entry)
        });
        let rows = rows.collect();
        // Whoever needs to know it here looks at the whole vector.
        drop(self.machine.replica_mut().take_learned());
        KvEvent::Committed(rows, self.replica().vector().clone())
    }

    /// The disk is done.
    fn end(&mut self, now: Time, actions: &mut Vec<Action<Frame>>) {
        let Some(commit) = self.commit.take_if(|commit| commit.at <= now) else { return };
        if self.store.changes() != self.durable.changes() {
            if self.commits.len() == COMMITS_MAX {
                let forgotten = self.rng.random_range(0..COMMITS_MAX);
                self.commits.remove(forgotten);
            }
            self.commits.push(std::mem::replace(&mut self.durable, self.store.clone()));
        }
        for effect in commit.effects {
            match effect {
                Effect::Ask(to, request) => self.send(to, Frame::Request(Arc::new(request)), actions),
                Effect::Answer(to, reply) => self.send(to, Frame::Reply(Arc::new(reply)), actions),
                Effect::Called(number, Ok(None)) => self.events.push(KvEvent::Called(number, Outcome::Done(None))),
                Effect::Called(number, Ok(Some(written))) => {
                    self.events.push(KvEvent::Called(number, Outcome::Done(Some(written.token))));
                    let told = self.flood.made(written.op.dot, written.bytes);
                    self.carry(told, actions);
                }
                Effect::Called(number, Err(error)) => {
                    self.events.push(KvEvent::Called(number, Outcome::Refused(error)));
                }
                Effect::Noted(noted) => self.events.push(KvEvent::Noted(noted)),
            }
        }
        self.events.push(commit.kept);
        if let Some(digest) = commit.digest {
            let edges: Vec<Name> = self.edges.values().copied().collect();
            edges.into_iter().for_each(|edge| self.send(edge, Frame::Digest(digest), actions));
        }
    }
}

fn epochs(rng: &mut SmallRng) -> Epochs {
    let mut seed = [0; 32];
    rng.fill(&mut seed);
    Epochs::new(seed)
}

impl Node for Kv {
    type Message = Frame;
    type Shared = Shared;

    fn handle(&mut self, shared: &mut Shared, happened: Happened<Frame>, now: Time, actions: &mut Vec<Action<Frame>>) {
        if self.has_stopped() {
            return;
        }
        let name_at = |slot: Slot| *shared.directory.name(shared.of_slot[slot.0 as usize]);
        let passed_on = match happened {
            Happened::Wake => (self.members.deadline() <= now).then_some(Happened::Wake),
            Happened::Opened { with, dialed } => {
                self.open(with, name_at(with));
                Some(Happened::Opened { with, dialed })
            }
            Happened::Closed(slot) => {
                self.close(slot);
                Some(Happened::Closed(slot))
            }
            Happened::Refused(slot) => Some(Happened::Refused(slot)),
            Happened::Unanswered(slot) => Some(Happened::Unanswered(slot)),
            Happened::Reached(slot, reached) => Some(Happened::Reached(slot, reached)),
            Happened::Message(slot, Frame::Members(message)) => Some(Happened::Message(slot, message)),
            Happened::Message(slot, frame) => {
                if let Some(by) = self.edges.get(&slot).copied() {
                    self.came(by, frame, actions);
                }
                None
            }
            Happened::Datagram(..) => None,
            Happened::Durable(generation) => Some(Happened::Durable(generation)),
        };
        if let Some(happened) = passed_on {
            self.tell_members(shared, happened, now, actions);
        }
        self.end(now, actions);
        self.begin(now);
        self.tell_names(now, actions);
    }

    fn deadline(&self) -> Time {
        if self.has_stopped() {
            return Time::NEVER;
        }
        let mine = match &self.commit {
            Some(commit) => commit.at,
            None if self.work.is_empty() => self.machine.deadline().min(self.digest_at),
            None => Time::default(),
        };
        self.members.deadline().min(mine).min(self.names_at)
    }
}

impl Profile for Kv {
    type Config = <Peer as Profile>::Config;
    type Disk = KvDisk;
    type Event = KvEvent;

    fn config() -> Self::Config {
        Peer::config()
    }

    fn acquainted(shared: &Shared, instances: &[(Slot, u64)]) -> KvDisk {
        KvDisk { members: Peer::acquainted(shared, instances), ..KvDisk::default() }
    }

    fn start(config: Self::Config, shared: &Shared, begin: Begin<KvDisk>) -> Self {
        let Begin { slot, disk, contacts, instance, seed, now } = begin;
        let KvDisk { members, map, commits, manner } = disk;
        let name = *shared.directory.name(shared.of_slot[slot.0 as usize]);
        let members = Peer::start(config, shared, Begin { slot, disk: members, contacts, instance, seed, now });
        let mut rng = SmallRng::seed_from_u64(seed ^ instance);
        let mut events = Vec::new();
        let mut store = map;
        let replica = match Replica::open(&mut store, name, epochs(&mut rng)) {
            Ok(replica) => replica,
            Err(Trouble::Store(never)) => match never {},
            Err(Trouble::Damage(damage)) => {
                let Ok(mut replica) = Replica::recover(&mut store, name, epochs(&mut rng)) else {
                    unreachable!("memory does not fail")
                };
                let Ok(()) = replica.finish(&mut store) else { unreachable!("memory does not fail") };
                events.push(KvEvent::Recovered(damage));
                replica
            }
        };
        let machine = Machine::new(Config { log_keep: manner.log_keep, ..Config::default() }, replica, rng.random());
        Self {
            members,
            machine,
            durable: store.clone(),
            store,
            commits,
            manner,
            flood: Flood::default(),
            names_at: Time::NEVER,
            edges: BTreeMap::new(),
            work: Vec::new(),
            commit: None,
            digest_at: now,
            events,
            rng,
            passed_on: Vec::new(),
        }
    }

    fn disk(&self) -> KvDisk {
        // A commit that was under way is there as a whole, or not at all.
        let survives = self.commit.as_ref().is_some_and(|commit| commit.survives);
        let map = if survives { &self.store } else { &self.durable };
        KvDisk { members: self.members.disk(), map: map.clone(), commits: self.commits.clone(), manner: self.manner }
    }

    fn order(&mut self, order: Order) {
        self.members.order(order);
    }

    fn take_events(&mut self) -> Vec<KvEvent> {
        std::mem::take(&mut self.events)
    }

    fn change(event: &KvEvent) -> Option<Change> {
        match event {
            KvEvent::Members(event) => Peer::change(event),
            _ => None,
        }
    }

    fn state(&self, member: Member) -> Option<State> {
        self.members.state(member)
    }

    fn living(&self) -> impl Iterator<Item = Member> {
        self.members.living()
    }
}
