//! Everything that can happen to a map, in a mix and an intensity of its own for every seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::history::{History, Kind};
use super::judge::Judge;
use super::node::{Kv, KvEvent, Manner, Outcome};
use crate::kv::{Call, Dot, Entry, Epochs, Key, KvTx, Memory, Place, Replica, Token, Vector, Write, entry_of};
use crate::sim::members::{Cluster, Fate, Heard};
use crate::sim::{BEGINNING, Happened, Links, Loss, Slot};
use crate::swim::{Config, Name, Time};

/// After so long without trouble all copies are equal.
const CALM_MAX: Duration = Duration::from_secs(1200);

/// Between two looks.
const SLICE: Duration = Duration::from_millis(200);

/// Tokens that clients keep.
const TOKENS_MAX: usize = 16;

/// Longer than what is handed on whole to everybody.
const LONG_VALUE: usize = 1500;

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A process ends, and comes back.
    Kill,
    /// A machine goes dark, and comes back.
    Crash,
    /// A process stands still.
    Stall,
    /// Nodes are in parts that do not reach each other.
    Part,
    /// A link lets nothing through one way.
    Cut,
    /// A node loses packets.
    Lose,
    /// A disk is set back to an earlier commit.
    SetBack,
    /// A disk is empty.
    Wipe,
    /// A machine with a copy of another's home starts.
    Copy,
    /// A row is gone.
    LoseRow,
    /// A row is garbage.
    Garble,
    /// What was seen of an actor is gone.
    LoseSeen,
    /// A write is gone from the log.
    LoseLog,
    /// A sum is gone.
    LoseSum,
    /// A disk takes its time.
    SlowDisk,
    /// A node is away while others write and forget.
    Away,
    /// Every node is alone, or all are together again.
    Split,
}

const ALL: [Trouble; 17] = [
    Trouble::Kill,
    Trouble::Crash,
    Trouble::Stall,
    Trouble::Part,
    Trouble::Cut,
    Trouble::Lose,
    Trouble::SetBack,
    Trouble::Wipe,
    Trouble::Copy,
    Trouble::LoseRow,
    Trouble::Garble,
    Trouble::LoseSeen,
    Trouble::LoseLog,
    Trouble::LoseSum,
    Trouble::SlowDisk,
    Trouble::Away,
    Trouble::Split,
];

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Fewest and most nodes.
    pub nodes: (usize, usize),
    /// Most times that something is done.
    pub steps: u32,
    /// What may happen; of everything, each with a chance of its own, where it is empty.
    pub troubles: Vec<Trouble>,
    /// Most keys.
    pub keys: usize,
    /// All that is written stands beside what is there.
    pub is_blind: bool,
    /// Writes that stay in the log; one of some numbers where it is None.
    pub log_keep: Option<u64>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { nodes: (3, 7), steps: 40, troubles: Vec::new(), keys: 4, is_blind: false, log_keep: None }
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What did not hold.
    pub violations: Vec<String>,
    /// How long it took until all were equal.
    pub calm: Option<Duration>,
    /// Whatever happened, in number.
    pub events: u64,
    /// Commits that were looked at.
    pub commits: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Stores that were built again.
    pub recovered: u64,
}

struct Run<'a> {
    cluster: Cluster<Kv>,
    watcher: Observer<'a>,
    rng: SmallRng,
    plan: Plan,
    keys: Vec<Key>,
    tokens: Vec<(Key, Token, BTreeSet<Bytes>)>,
    copies: usize,
    /// Stopped, and to be started only at the end.
    away: BTreeSet<Slot>,
}

/// Judges what nodes tell, and writes it down.
struct Observer<'a> {
    judge: Judge,
    history: History,
    made: BTreeMap<u64, Dot>,
    called: u64,
    recovered: u64,
    was_recovered: bool,
    trace: Option<&'a mut dyn FnMut(String)>,
}

impl Observer<'_> {
    /// Writes down what happens, if anybody wants to know.
    fn tell(&mut self, now: Time, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace(format!("{:>12.6} {}", now.since(BEGINNING).as_secs_f64(), what()));
        }
    }

    fn hear(&mut self, heard: &Heard<'_, Kv>, event: KvEvent) {
        let slot = heard.slot;
        match event {
            KvEvent::Members(_) => {}
            KvEvent::Made(number, op) => {
                self.tell(heard.now, || format!("node {} writes {op:?}", slot.0));
                self.made.insert(number, op.dot);
                self.judge.made(&op);
            }
            KvEvent::Called(number, outcome) => {
                self.tell(heard.now, || format!("node {} answers {number}: {outcome:?}", slot.0));
                let done = matches!(outcome, Outcome::Done(_));
                self.history.end(number, done);
                if let Some(dot) = self.made.get(&number) {
                    self.called += 1;
                    self.judge.acknowledged(*dot);
                }
            }
            KvEvent::Committed(rows, vector) => {
                if !rows.is_empty() {
                    self.tell(heard.now, || format!("node {} keeps {rows:?}", slot.0));
                }
                self.judge.committed(slot, &rows, &vector);
            }
            KvEvent::Recovered(damage) => {
                self.tell(heard.now, || format!("node {} is built again: {damage}", slot.0));
                self.recovered += 1;
                self.was_recovered = true;
                self.judge.is_recovered(slot);
            }
            KvEvent::Noted(noted) => self.tell(heard.now, || format!("node {}: {noted:?}", slot.0)),
        }
    }
}

/// Runs one seed; `trace`, if there is one, hears what happens, as lines for people.
pub fn run(seed: u64, plan: &Plan, trace: Option<&mut dyn FnMut(String)>) -> Verdict {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x7265_706c_6963_6173);
    let nodes = rng.random_range(plan.nodes.0..=plan.nodes.1);
    let mut cluster: Cluster<Kv> = Cluster::new(nodes, Config::lan(), Links::lan(), seed);
    let usual = *[0, 2, 8, u64::MAX].choose(&mut rng).expect("some");
    let log_keep = plan.log_keep.unwrap_or(usual);
    cluster.start_formed(Duration::from_millis(200));
    let manner = Manner { log_keep, ..Manner::default() };
    for slot in cluster.running() {
        cluster.world.node_mut(slot).into_iter().for_each(|node| node.set_manner(manner));
    }
    let keys = (0..rng.random_range(1..=plan.keys)).map(|n| Key::new(format!("key {n}")).expect("a key")).collect();
    let watcher = Observer {
        judge: Judge::default(),
        history: History::default(),
        made: BTreeMap::new(),
        called: 0,
        recovered: 0,
        was_recovered: false,
        trace,
    };
    let (plan, tokens, away) = (plan.clone(), Vec::new(), BTreeSet::new());
    let mut run = Run { cluster, watcher, rng, plan, keys, tokens, copies: 0, away };
    run.go_wrong();
    run.mend();
    let calm = run.calm_down();
    run.look_at_the_end();
    Verdict {
        violations: run.watcher.judge.violations,
        calm,
        events: run.cluster.world.events(),
        commits: run.watcher.judge.commits,
        writes: run.watcher.called,
        recovered: run.watcher.recovered,
    }
}

/// Whoever looks at a store that is not its own.
const NOBODY: Name = Name([0; 32]);

/// Whether rows and vector of a store are of one another.
fn is_whole(map: &Memory) -> bool {
    let mut map = map.clone();
    let opened = Replica::open(&mut map, NOBODY, Epochs::new([0; 32]));
    opened.is_ok_and(|replica| replica.check_all(&mut map).is_ok())
}

/// What a store has seen, or would have after it was built again.
fn seen(map: &Memory, is_hurt: bool) -> Vector {
    let mut map = map.clone();
    if is_hurt {
        let recovered = Replica::recover(&mut map, NOBODY, Epochs::new([0; 32]));
        return recovered.map_or_else(|_| Vector::default(), |replica| replica.vector().clone());
    }
    let Ok(seen) = map.vector();
    Vector::of(seen)
}

impl Run<'_> {
    fn note(&mut self, what: impl FnOnce() -> String) {
        self.watcher.tell(self.cluster.world.now(), || format!("-- {}", what()));
    }

    fn is_lost(&self) -> bool {
        !self.watcher.judge.violations.is_empty()
    }

    fn run(&mut self, time: Duration) {
        let watcher = &mut self.watcher;
        self.cluster.run(time, |heard, event| watcher.hear(&heard, event));
        for slot in self.cluster.running() {
            if self.cluster.world.node(slot).is_some_and(Kv::has_stopped) {
                self.end(slot, Fate::Killed);
            }
        }
        // What two nodes had dropped from their logs, each because the other had seen it, is gone if both have to be built
        // again at once.
        if std::mem::take(&mut self.watcher.was_recovered) {
            self.excuse();
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.cluster.world.now() + time;
        while self.cluster.world.now() < end && !self.is_lost() {
            let left = end.since(self.cluster.world.now());
            self.run(left.min(SLICE));
        }
    }

    fn any(&mut self, slots: &[Slot]) -> Option<Slot> {
        slots.choose(&mut self.rng).copied()
    }

    fn go_wrong(&mut self) {
        let mix: Vec<Trouble> = match self.plan.troubles.is_empty() {
            true => ALL.iter().copied().filter(|_| self.rng.random_bool(0.3)).collect(),
            false => self.plan.troubles.clone(),
        };
        let pause = Duration::from_secs_f64(self.rng.random_range(0.02..1.0));
        let calls = self.rng.random_range(1..=4);
        self.note(|| format!("{mix:?}"));
        for _ in 0..self.rng.random_range(1..=self.plan.steps) {
            if self.is_lost() {
                return;
            }
            if let Some(trouble) = mix.choose(&mut self.rng)
                && self.rng.random_bool(0.5)
            {
                self.happen(*trouble);
            }
            (0..calls).for_each(|_| self.call());
            if self.rng.random_bool(0.5) {
                self.start_some();
            }
            let share = self.rng.random_range(0.1..2.0);
            self.wait(pause.mul_f64(share));
        }
    }

    /// A client does something.
    fn call(&mut self) {
        let running = self.cluster.running();
        let (Some(slot), Some(key)) = (self.any(&running), self.keys.choose(&mut self.rng).cloned()) else { return };
        let Some(node) = self.cluster.world.node(slot) else { return };
        let (values, token) = node.read(&key);
        let values: BTreeSet<Bytes> = values.into_iter().collect();
        if self.tokens.len() == TOKENS_MAX {
            let forgotten = self.rng.random_range(0..TOKENS_MAX);
            self.tokens.swap_remove(forgotten);
        }
        self.tokens.push((key.clone(), token.clone(), values.clone()));
        let (write, kind) = match self.rng.random_range(0..10) {
            _ if self.plan.is_blind => (Write::Beside, Kind::Beside),
            0..3 => (Write::Held { force: self.rng.random() }, Kind::Held),
            3 => (Write::Beside, Kind::Beside),
            4 => (Write::Create, Kind::Beside),
            5..8 => (Write::Read(token), Kind::Read(values)),
            _ => {
                let of_key: Vec<_> = self.tokens.iter().filter(|(of, ..)| *of == key).collect();
                let Some((_, token, values)) = of_key.choose(&mut self.rng).copied() else { return };
                (Write::Read(token.clone()), Kind::Read(values.clone()))
            }
        };
        let is_put = self.plan.is_blind || self.rng.random_bool(0.7);
        let number = self.watcher.history.next();
        let len = if self.rng.random_bool(0.05) { LONG_VALUE } else { 8 };
        let value = is_put.then(|| {
            let mut value = vec![0; len];
            value[..8].copy_from_slice(&number.to_le_bytes());
            Bytes::from(value)
        });
        self.watcher.history.begin(key.clone(), value.clone(), kind);
        self.note(|| {
            format!("call {number} at node {}: {key:?} {} {write:?}", slot.0, if is_put { "put" } else { "del" })
        });
        if let Some(node) = self.cluster.world.node_mut(slot) {
            node.call(Call { number, key, value, write });
            self.cluster.world.tell(slot, Happened::Wake);
        }
    }

    fn happen(&mut self, trouble: Trouble) {
        let running = self.cluster.running();
        let Some(slot) = self.any(&running) else { return self.start_some() };
        match trouble {
            Trouble::Kill => self.end(slot, Fate::Killed),
            Trouble::Crash => self.end(slot, Fate::Crashed),
            Trouble::Away if self.away.len() + 2 < self.cluster.world.slots().count() => {
                self.end(slot, Fate::Killed);
                self.away.insert(slot);
            }
            Trouble::Away => {}
            Trouble::Stall => {
                if !self.cluster.world.is_stalled(slot) {
                    let time = Duration::from_secs_f64(self.rng.random_range(0.01..5.0));
                    self.note(|| format!("node {} stands still for {time:?}", slot.0));
                    self.cluster.world.stall(slot, time);
                }
            }
            Trouble::Part | Trouble::Split | Trouble::Cut | Trouble::Lose => self.hurt_links(slot, trouble),
            Trouble::SetBack | Trouble::Wipe => self.set_back(slot, trouble == Trouble::Wipe),
            Trouble::Copy if self.copies < 2 => self.copy(slot),
            Trouble::Copy => {}
            Trouble::SlowDisk => {
                let longest = Duration::from_millis(self.rng.random_range(1..2000));
                self.note(|| format!("node {} needs up to {longest:?} for a commit", slot.0));
                if let Some(node) = self.cluster.world.node_mut(slot) {
                    let manner = node.manner();
                    node.set_manner(Manner { commit_time: (manner.commit_time.0, longest), ..manner });
                }
            }
            Trouble::LoseRow | Trouble::Garble | Trouble::LoseSeen | Trouble::LoseLog | Trouble::LoseSum => {
                self.hurt_disk(slot, trouble);
            }
        }
    }

    fn end(&mut self, slot: Slot, fate: Fate) {
        self.cluster.end(slot, fate);
        self.note(|| format!("node {} is {fate:?}", slot.0));
    }

    fn hurt_links(&mut self, slot: Slot, trouble: Trouble) {
        let slots: Vec<Slot> = self.cluster.world.slots().collect();
        let other = self.any(&slots).unwrap_or(slot);
        match trouble {
            Trouble::Part => {
                let parts = self.rng.random_range(1..4);
                let part_of: Vec<u32> = slots.iter().map(|_| self.rng.random_range(0..parts)).collect();
                self.note(|| format!("parts {part_of:?}"));
                self.cluster.world.links.set_parts((parts > 1).then_some(part_of));
            }
            Trouble::Split => {
                let alone = self.rng.random_bool(0.7);
                self.note(|| if alone { "everybody is alone" } else { "nobody is alone any more" }.to_owned());
                self.cluster.world.links.set_parts(alone.then(|| (0..slots.len() as u32).collect()));
            }
            Trouble::Cut => {
                let cut = self.rng.random_bool(0.5);
                self.cluster.world.links.set_cut(slot, other, cut);
                self.note(|| {
                    format!("from node {} to {} {}", slot.0, other.0, if cut { "is cut" } else { "is whole" })
                });
            }
            _ => {
                let loss = Loss { sent: self.rng.random_range(0.0..0.5), received: self.rng.random_range(0.0..0.5) };
                let loss = if self.rng.random_bool(0.5) { loss } else { Loss::default() };
                self.cluster.world.links.set_loss_at(slot, loss);
                self.note(|| format!("node {} has {loss:?}", slot.0));
            }
        }
        self.cluster.world.links_changed();
    }

    fn set_back(&mut self, slot: Slot, wipe: bool) {
        self.end(slot, Fate::Crashed);
        let disk = &mut self.cluster.disks[slot.0 as usize];
        let to = if wipe { None } else { disk.commits.choose(&mut self.rng).cloned() };
        disk.map = to.unwrap_or_default();
        disk.commits.clear();
        let what = if wipe { "is empty" } else { "is set back" };
        self.note(|| format!("the disk of node {} {what}", slot.0));
        self.excuse();
    }

    /// A machine with a copy of another's home starts.
    fn copy(&mut self, slot: Slot) {
        self.copies += 1;
        self.cluster.save(slot);
        let copy = self.cluster.add_clone(slot);
        self.note(|| format!("node {} has a copy of the home of {}", copy.0, slot.0));
        self.watcher.judge.is_copy(copy, slot);
        self.start(copy);
    }

    /// Something is lost behind the back of a node.
    fn hurt_disk(&mut self, slot: Slot, trouble: Trouble) {
        let chosen = self.rng.random::<u32>() as usize;
        let Some(node) = self.cluster.world.node_mut(slot) else { return };
        match trouble {
            Trouble::LoseRow | Trouble::Garble => {
                let Ok(rows) = node.durable().clone().rows(Place::ALL, None, usize::MAX);
                let Some((place, key, row)) = rows.get(chosen % rows.len().max(1)).cloned() else { return };
                let mut garbage = row.to_vec();
                let at = chosen / 7 % garbage.len();
                garbage[at] ^= 1 << (chosen % 8);
                let row = (trouble == Trouble::Garble).then(|| Bytes::from(garbage));
                node.hurt(|map| {
                    let Ok(()) = map.set_row(place, &key, row.as_ref());
                });
                self.note(|| format!("node {}: {trouble:?} {key:?}", slot.0));
            }
            Trouble::LoseSeen => {
                node.hurt(|map| map.lose_seen(chosen));
                self.note(|| format!("node {} loses part of its vector", slot.0));
            }
            Trouble::LoseLog => {
                node.hurt(|map| map.lose_logged(chosen));
                self.note(|| format!("node {} loses part of its log", slot.0));
            }
            _ => {
                node.hurt(|map| map.lose_sum(chosen));
                self.note(|| format!("node {} loses a sum", slot.0));
            }
        }
        // Rows and vector are of one another whatever the log has lost.
        if trouble != Trouble::LoseLog {
            self.watcher.judge.is_hurt(slot);
        }
        self.excuse();
    }

    /// What no store has any more is not owed.
    fn excuse(&mut self) {
        let left: Vec<Vector> = self
            .cluster
            .world
            .slots()
            .map(|slot| {
                let Some(node) = self.cluster.world.node(slot) else {
                    let map = &self.cluster.disks[slot.0 as usize].map;
                    return seen(map, !is_whole(map));
                };
                // One that is just being built again has less than what is on its disk still.
                let is_hurt = self.watcher.judge.may_be_hurt(slot);
                let (now, durable) = (node.replica().vector(), seen(node.durable(), is_hurt));
                if now.covers(&durable) { durable } else { now.clone() }
            })
            .collect();
        self.watcher.judge.lost(&left);
        for (number, dot) in &self.watcher.made {
            if left.iter().all(|vector| !vector.contains(dot)) {
                self.watcher.history.forget(*number);
            }
        }
    }

    /// Starts somebody who does not run.
    fn start_some(&mut self) {
        let running = self.cluster.running();
        let slots: Vec<Slot> = self.cluster.world.slots().filter(|slot| !running.contains(slot)).collect();
        if let Some(slot) = self.any(&slots).filter(|slot| !self.away.contains(slot)) {
            self.start(slot);
        }
    }

    fn start(&mut self, slot: Slot) {
        let contacts: Vec<Slot> = self.cluster.world.slots().take(3).collect();
        self.watcher.judge.begins_anew(slot, is_whole(&self.cluster.disks[slot.0 as usize].map));
        self.cluster.start(slot, &contacts);
        self.note(|| format!("node {} starts", slot.0));
    }

    /// Nothing goes wrong any more.
    fn mend(&mut self) {
        let links = &mut self.cluster.world.links;
        links.loss = 0.0;
        links.mend();
        self.cluster.world.links_changed();
        self.note(|| "all is whole again".to_owned());
        // Of homes that are copies of each other one goes on; what only another had is lost with it.
        let slots: Vec<Slot> = self.cluster.world.slots().collect();
        for (n, slot) in slots.iter().enumerate() {
            let is_copied = |other: &Slot| self.cluster.member(*other) == self.cluster.member(*slot);
            if slots[..n].iter().any(is_copied) {
                if self.cluster.world.node(*slot).is_some() {
                    self.end(*slot, Fate::Killed);
                }
                self.cluster.disks[slot.0 as usize].map = Memory::default();
            }
        }
        self.excuse();
        self.start_all();
        for slot in self.cluster.running() {
            let Some(node) = self.cluster.world.node_mut(slot) else { continue };
            node.set_manner(Manner { commit_time: Manner::default().commit_time, ..node.manner() });
            if self.watcher.judge.may_be_hurt(slot) {
                node.audit();
                self.cluster.world.tell(slot, Happened::Wake);
            }
        }
    }

    /// Starts whoever's home no process has.
    fn start_all(&mut self) {
        for slot in self.cluster.world.slots().collect::<Vec<Slot>>() {
            if self.cluster.running().iter().all(|other| self.cluster.member(*other) != self.cluster.member(slot)) {
                self.start(slot);
            }
        }
    }

    /// Which two nodes differ, if any.
    fn difference(&self) -> Option<String> {
        let running = self.cluster.running();
        let nodes: Vec<(Slot, &Kv)> =
            running.iter().filter_map(|slot| Some((*slot, self.cluster.world.node(*slot)?))).collect();
        let (first, one) = nodes.first()?;
        let busy = nodes.iter().find(|(_, node)| !node.is_idle()).map(|(slot, _)| format!("node {} is busy", slot.0));
        let other = nodes.iter().find(|(_, node)| node.replica().digest() != one.replica().digest());
        let differ = other.map(|(slot, node)| {
            format!(
                "nodes {} and {} differ: {:?}, {:?}",
                first.0,
                slot.0,
                one.replica().vector(),
                node.replica().vector()
            )
        });
        differ.or(busy)
    }

    fn calm_down(&mut self) -> Option<Duration> {
        let began = self.cluster.world.now();
        while self.difference().is_some() && self.cluster.world.now() < began + CALM_MAX && !self.is_lost() {
            self.run(SLICE);
            // One of two with the same home may have stopped just when the other was ended.
            self.start_all();
        }
        let Some(difference) = self.difference() else { return Some(self.cluster.world.now().since(began)) };
        if !self.is_lost() {
            self.watcher.judge.violations.push(format!("not equal after {CALM_MAX:?}: {difference}"));
        }
        None
    }

    fn look_at_the_end(&mut self) {
        if self.is_lost() {
            return;
        }
        let keys = self.watcher.judge.keys();
        for slot in self.cluster.running() {
            let Some(node) = self.cluster.world.node(slot) else { continue };
            let (vector, mut map) = (node.replica().vector().clone(), node.durable().clone());
            self.watcher.judge.ended(slot, &vector);
            for key in &keys {
                let row = map.row(key).ok().flatten();
                let entry: Entry = row.and_then(|row| entry_of(key, &row)).unwrap_or_default();
                self.watcher.judge.check(slot, key, &entry, &vector);
                let values: BTreeSet<Bytes> = entry.into_siblings().into_iter().map(|sibling| sibling.value).collect();
                if let Err(problem) = self.watcher.history.check(key, &values) {
                    self.watcher.judge.violations.push(format!("node {}: {problem}", slot.0));
                }
            }
        }
    }
}
