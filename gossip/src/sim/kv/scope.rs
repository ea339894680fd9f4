//! Everything that a few nodes can do with a few keys in a few steps, each state once.
//!
//! A step is a write, a delivery of a write that was made before, a question to another node, a start after a crash that has lost
//! the last commit, a start with a copy of another's home, or the log being dropped. States that differ only in which node or key
//! is called what are one. After each step every row must be the fold of the writes that its vector names; from each state nodes
//! that ask each other must come to be equal, and then nothing may change any more, whatever comes late, but by what is new.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

use crate::kv::fold::fold;
use crate::kv::{
    Actor, Adopted, Answer, Budget, Dot, Entry, Epochs, Key, KvTx, Memory, Op, Replica, Trouble, Vector, Wanted, Write,
    entry_of,
};
use crate::swim::Name;

/// Nodes.
pub const NODES: usize = 3;

/// Keys.
pub const KEYS: usize = 2;

/// Most steps: each is one byte of a path.
pub const STEPS_MAX: usize = 8;

/// Frontier states that a thread takes at once.
const BATCH: usize = 64;

/// Sets of states, each with a lock of its own.
const SHARDS: usize = 64;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// States that differ, by the number of steps that lead to them.
    pub states: Vec<u64>,
    /// Steps that were done.
    pub steps: u64,
    /// What did not hold, with the steps that lead to it.
    pub violations: Vec<String>,
}

/// Which steps lead to a state: each is one of those that are possible then.
type Path = [u8; STEPS_MAX];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Takes the place of what is held.
    Put(usize, usize),
    /// Stands beside what is held.
    Blind(usize, usize),
    Delete(usize, usize),
    /// A write comes to a node.
    Deliver(usize, usize),
    /// The first asks the second for all that it lacks.
    Sync(usize, usize),
    /// A node starts again, with what is on its disk.
    Restart(usize),
    /// A node starts again, without its last commit.
    SetBack(usize),
    /// The first starts with a copy of the second's home.
    Restore(usize, usize),
    /// Another has seen the same: the log is dropped.
    Collect(usize),
}

#[derive(Clone)]
struct Node {
    replica: Replica,
    disk: Memory,
    /// As it was before the last commit.
    before: Memory,
    lives: u8,
}

#[derive(Clone)]
struct World {
    nodes: Vec<Node>,
    ops: Vec<(Op, Bytes)>,
}

/// Looks at all states that so many steps lead to, with so many threads.
pub fn explore(steps: usize, threads: usize) -> Found {
    let mut found = Found::default();
    let known = Known::default();
    known.insert(World::new().id());
    let mut frontier: Vec<Path> = vec![Path::default()];
    for depth in 0..steps.min(STEPS_MAX) {
        let next = AtomicUsize::new(0);
        let batches = || std::iter::from_fn(|| frontier.chunks(BATCH).nth(next.fetch_add(1, Ordering::Relaxed)));
        let explore = || {
            let mut level = Level::default();
            batches().flatten().for_each(|path| level.go_on_from(path, depth, &known));
            level
        };
        let levels: Vec<Level> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(explore)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread of it panics")).collect()
        });
        frontier = Vec::new();
        for Level { reached, steps, violations } in levels {
            frontier.extend(reached);
            found.steps += steps;
            found.violations.extend(violations);
        }
        found.states.push(frontier.len() as u64);
        if !found.violations.is_empty() {
            found.violations.sort_by_key(String::len);
            break;
        }
    }
    found
}

/// States that were reached before.
struct Known([Mutex<HashSet<u128>>; SHARDS]);

impl Default for Known {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Known {
    /// Whether it is new.
    fn insert(&self, id: u128) -> bool {
        self.0[(id % SHARDS as u128) as usize].lock().is_ok_and(|mut shard| shard.insert(id))
    }
}

/// What a thread has found one step further.
#[derive(Default)]
struct Level {
    /// To states that are new.
    reached: Vec<Path>,
    steps: u64,
    violations: Vec<String>,
}

impl Level {
    /// Takes every step that is possible after those of a path.
    fn go_on_from(&mut self, path: &Path, depth: usize, known: &Known) {
        let (world, taken) = World::after(&path[..depth]);
        for (n, step) in world.possible().into_iter().enumerate() {
            self.steps += 1;
            let mut world = world.clone();
            let outcome = world.step(step).and_then(|()| {
                if !known.insert(world.id()) {
                    return Ok(());
                }
                let mut path = *path;
                path[depth] = u8::try_from(n).expect("few steps are possible");
                self.reached.push(path);
                world.calm_down()
            });
            if let Err(problem) = outcome {
                self.violations.push(format!("{taken:?}, {step:?}: {problem}"));
            }
        }
    }
}

fn peer(n: usize) -> Name {
    Name([n as u8; 32])
}

fn keys() -> [Key; KEYS] {
    std::array::from_fn(|n| Key::new(format!("key {n}")).expect("a key"))
}

/// A life of a node: no two are called the same.
fn epochs(node: usize, life: u8) -> Epochs {
    let mut seed = [life; 32];
    seed[0] = node as u8;
    Epochs::new(seed)
}

impl Node {
    fn new(n: usize) -> Self {
        let mut disk = Memory::default();
        let Ok(replica) = Replica::open(&mut disk, peer(n), epochs(n, 0)) else { unreachable!("it is empty") };
        Self { replica, before: disk.clone(), disk, lives: 0 }
    }

    /// One transaction.
    fn tx<R>(
        &mut self,
        step: impl FnOnce(&mut Replica, &mut Memory) -> Result<R, Trouble<Infallible>>,
    ) -> Result<R, String> {
        let before = self.disk.clone();
        let failed = |trouble: Trouble<Infallible>| format!("{trouble:?}");
        let done = step(&mut self.replica, &mut self.disk).map_err(failed)?;
        self.replica.finish(&mut self.disk).map_err(failed)?;
        if before.changes() != self.disk.changes() {
            self.before = before;
        }
        Ok(done)
    }

    fn start(&mut self, n: usize, disk: Memory) -> Result<(), String> {
        self.lives += 1;
        self.disk = disk;
        let opened = Replica::open(&mut self.disk, peer(n), epochs(n, self.lives));
        self.replica = opened.map_err(|trouble| format!("{trouble:?}"))?;
        self.before = self.disk.clone();
        Ok(())
    }

    /// Asks another for all that is missing here.
    fn ask(&mut self, other: &mut Node) -> Result<(), String> {
        loop {
            let asked = self.replica.ask((0..=u8::MAX).collect());
            let budget = Budget { keys: 1, bytes: usize::MAX };
            match other.tx(|replica, disk| replica.answer(disk, &asked, budget))? {
                Answer::Keys { keys, .. } if keys.is_empty() => return Ok(()),
                Answer::Keys { keys, part } => {
                    if self.tx(|replica, disk| replica.merge(disk, &keys, &part))? == 0 {
                        return Err("whoever asks does not come on".to_owned());
                    }
                }
                Answer::Differs(_) => return Err("all buckets were told".to_owned()),
                Answer::TooOld => return self.compare(other),
            }
        }
    }

    /// Compares all with another.
    fn compare(&mut self, other: &mut Node) -> Result<(), String> {
        const BUDGET: Budget = Budget { keys: 9, bytes: usize::MAX };
        let opened = other.tx(|replica, disk| replica.opened(disk))?;
        let mut found = self.tx(|replica, disk| replica.begin(disk, &opened))?;
        while !found.divided.is_empty() || !found.few.is_empty() {
            let few = found.few.iter().map(|range| Wanted { range: *range, after: None });
            let (divided, wanted): (Vec<_>, Vec<_>) = (std::mem::take(&mut found.divided), few.collect());
            let looked = other.tx(|replica, disk| replica.look(disk, &divided, &wanted, BUDGET))?;
            found = self.tx(|replica, disk| {
                for rows in &looked.rows {
                    replica.stage(disk, rows)?;
                }
                replica.compare(disk, &looked.divided)
            })?;
        }
        let closed = other.tx(|replica, disk| replica.close(disk, opened.by, &opened.vector))?;
        let closed = closed.ok_or("it has forgotten what has changed since a moment ago")?;
        match self.tx(|replica, disk| replica.adopt(disk, opened.by, &closed, false))? {
            Adopted::Done => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn entry(disk: &mut Memory, key: &Key) -> Entry {
        let Ok(row) = disk.row(key);
        row.and_then(|row| entry_of(key, &row)).unwrap_or_default()
    }

    /// Whether every row is what the vector makes it.
    fn check(&mut self, ops: &[(Op, Bytes)]) -> Result<(), String> {
        for key in keys() {
            let entry = Self::entry(&mut self.disk, &key);
            let siblings = entry.siblings().iter().map(|sibling| (sibling.dot, sibling.value.to_vec())).collect();
            let context: BTreeSet<Dot> = entry.context().iter().copied().collect();
            let expected = fold(ops.iter().map(|(op, _)| op), self.replica.vector(), &key);
            if expected != (siblings, context) {
                return Err(format!("{key:?} is {entry:?} under {:?}, not {expected:?}", self.replica.vector()));
            }
        }
        Ok(())
    }
}

impl World {
    fn new() -> Self {
        Self { nodes: (0..NODES).map(Node::new).collect(), ops: Vec::new() }
    }

    /// What some steps lead to, and which they were.
    fn after(path: &[u8]) -> (Self, Vec<Step>) {
        let mut world = Self::new();
        let mut taken = Vec::new();
        for n in path {
            let step = world.possible()[usize::from(*n)];
            world.step(step).expect("it was taken before");
            taken.push(step);
        }
        (world, taken)
    }

    fn two(&mut self, one: usize, other: usize) -> [&mut Node; 2] {
        self.nodes.get_disjoint_mut([one, other]).expect("two of them")
    }

    /// Steps that lead somewhere.
    fn possible(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (n, node) in self.nodes.iter().enumerate() {
            let vector = node.replica.vector();
            for (k, key) in keys().iter().enumerate() {
                steps.push(Step::Put(n, k));
                if !Node::entry(&mut node.disk.clone(), key).siblings().is_empty() {
                    steps.extend([Step::Blind(n, k), Step::Delete(n, k)]);
                }
            }
            let unseen = self.ops.iter().enumerate().filter(|(_, (op, _))| !vector.contains(&op.dot));
            steps.extend(unseen.map(|(op, _)| Step::Deliver(op, n)));
            let others = || self.nodes.iter().enumerate().filter(move |(other, _)| *other != n);
            let ahead = others().filter(|(_, other)| !vector.covers(other.replica.vector()));
            steps.extend(ahead.map(|(other, _)| Step::Sync(n, other)));
            steps.extend(others().map(|(other, _)| Step::Restore(n, other)));
            if self.ops.iter().any(|(op, _)| op.dot.actor == node.replica.me()) {
                steps.push(Step::Restart(n));
            }
            if node.before.changes() != node.disk.changes() {
                steps.push(Step::SetBack(n));
            }
            if others().any(|(_, other)| other.replica.vector() == vector) && vector.iter().len() > 0 {
                steps.push(Step::Collect(n));
            }
        }
        steps
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        let changed = match step {
            Step::Put(n, k) => self.write(n, k, true, &Write::Held { force: true })?,
            Step::Blind(n, k) => self.write(n, k, true, &Write::Beside)?,
            Step::Delete(n, k) => self.write(n, k, false, &Write::Held { force: true })?,
            Step::Deliver(op, n) => {
                let (op, bytes) = self.ops[op].clone();
                self.nodes[n].tx(|replica, disk| replica.apply(disk, &op, &bytes))?;
                n
            }
            Step::Sync(asker, asked) => {
                let [asker_node, asked] = self.two(asker, asked);
                asker_node.ask(asked)?;
                asker
            }
            Step::Restart(n) => {
                let disk = self.nodes[n].disk.clone();
                self.nodes[n].start(n, disk)?;
                n
            }
            Step::SetBack(n) => {
                let disk = self.nodes[n].before.clone();
                self.nodes[n].start(n, disk)?;
                n
            }
            Step::Restore(n, from) => {
                let disk = self.nodes[from].disk.clone();
                self.nodes[n].start(n, disk)?;
                n
            }
            Step::Collect(n) => {
                self.nodes[n].tx(|replica, disk| {
                    let end = disk.log_end()?;
                    replica.trim_log(disk, 0, end)
                })?;
                n
            }
        };
        let Self { nodes, ops } = self;
        nodes[changed].check(ops)
    }

    fn write(&mut self, n: usize, k: usize, is_put: bool, write: &Write) -> Result<usize, String> {
        let value = is_put.then(|| Bytes::from(vec![self.ops.len() as u8]));
        let key = &keys()[k];
        let written = self.nodes[n].tx(|replica, disk| replica.write(disk, key, value, write))?;
        let written = written.map_err(|error| error.to_string())?.ok_or("there was nothing to do")?;
        if self.ops.iter().any(|(op, _)| op.dot == written.op.dot) {
            return Err(format!("two writes are called {:?}", written.op.dot));
        }
        self.ops.push((written.op, written.bytes));
        Ok(n)
    }

    /// All ask each other until nothing is missing anywhere; then all writes come again.
    fn calm_down(mut self) -> Result<(), String> {
        let mut union = Vector::default();
        self.nodes.iter().for_each(|node| union.join(node.replica.vector()));
        for (asker, asked) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
            let [asker, asked] = self.two(asker, asked);
            asker.ask(asked)?;
        }
        self.is_equal(&union)?;
        for (op, bytes) in self.ops.clone() {
            union.insert(op.dot);
            for node in &mut self.nodes {
                node.tx(|replica, disk| replica.apply(disk, &op, &bytes))?;
            }
        }
        self.is_equal(&union)
    }

    fn is_equal(&mut self, vector: &Vector) -> Result<(), String> {
        let Self { nodes, ops } = self;
        let digest = nodes[0].replica.digest();
        for (n, node) in nodes.iter_mut().enumerate() {
            if node.replica.vector() != vector || node.replica.digest() != digest {
                return Err(format!("in the end node {n} is at {:?}, not {vector:?}", node.replica.vector()));
            }
            node.check(ops)?;
            // What it keeps is what it says.
            let again = Replica::open(&mut node.disk.clone(), peer(n), epochs(n, u8::MAX));
            let again = again.map_err(|trouble| format!("{trouble:?}"))?;
            if again.digest() != digest || again.vector() != vector {
                return Err(format!("node {n} keeps something else than it says"));
            }
        }
        Ok(())
    }

    /// What it is, whatever its nodes, keys and lives are called.
    fn id(&self) -> u128 {
        const NODE_ORDERS: [[u8; NODES]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        const KEY_ORDERS: [[u8; KEYS]; 2] = [[0, 1], [1, 0]];
        // Lives in the order of their first writes; one that has written nothing is like any other.
        let mut lives: BTreeMap<Actor, u8> = BTreeMap::new();
        for (op, _) in &self.ops {
            let peer = op.dot.actor.peer;
            let before = lives.keys().filter(|actor| actor.peer == peer).count() as u8;
            lives.entry(op.dot.actor).or_insert(before);
        }
        let orders = NODE_ORDERS.iter().flat_map(|nodes| KEY_ORDERS.iter().map(move |keys| (nodes, keys)));
        let mut bytes = BytesMut::new();
        let mut least: Option<BytesMut> = None;
        for (nodes, keys) in orders {
            bytes.clear();
            Named { world: self, lives: &lives, nodes, keys }.encode(&mut bytes);
            if least.as_ref().is_none_or(|least| bytes < least) {
                least = Some(std::mem::take(&mut bytes));
            }
        }
        let hash = blake3::hash(&least.unwrap_or_default());
        u128::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash is longer"))
    }
}

/// A world in which nodes and keys are called something.
struct Named<'a> {
    world: &'a World,
    lives: &'a BTreeMap<Actor, u8>,
    nodes: &'a [u8; NODES],
    keys: &'a [u8; KEYS],
}

impl Named<'_> {
    fn dot(&self, dot: &Dot) -> [u8; 3] {
        let node = usize::from(dot.actor.peer.0[0]);
        [self.nodes[node], self.lives[&dot.actor], dot.counter as u8]
    }

    fn put_dots<'b>(&self, bytes: &mut BytesMut, dots: impl Iterator<Item = &'b Dot>) {
        let mut dots: Vec<[u8; 3]> = dots.map(|dot| self.dot(dot)).collect();
        dots.sort_unstable();
        bytes.extend_from_slice(&[dots.len() as u8]);
        dots.iter().for_each(|dot| bytes.extend_from_slice(dot));
    }

    fn encode(&self, bytes: &mut BytesMut) {
        let mut order: Vec<usize> = (0..NODES).collect();
        order.sort_by_key(|n| self.nodes[*n]);
        for n in order {
            let node = &self.world.nodes[n];
            let me = self.lives.get(&node.replica.me()).copied().unwrap_or(u8::MAX);
            bytes.extend_from_slice(&[me]);
            self.put_disk(bytes, &mut node.disk.clone());
            self.put_disk(bytes, &mut node.before.clone());
        }
        let mut ops: Vec<BytesMut> = self.world.ops.iter().map(|(op, _)| self.op(op)).collect();
        ops.sort_unstable();
        ops.iter().for_each(|op| bytes.extend_from_slice(op));
    }

    fn op(&self, op: &Op) -> BytesMut {
        let mut bytes = BytesMut::from(&self.dot(&op.dot)[..]);
        let key = keys().iter().position(|key| *key == op.key).unwrap_or_default();
        bytes.extend_from_slice(&[self.keys[key], u8::from(op.value.is_some())]);
        self.put_dots(&mut bytes, op.replaces.iter());
        bytes
    }

    fn put_disk(&self, bytes: &mut BytesMut, disk: &mut Memory) {
        let Ok(seen) = disk.vector();
        let vector = Vector::of(seen);
        let dots = self.world.ops.iter().map(|(op, _)| &op.dot);
        self.put_dots(bytes, dots.clone().filter(|dot| vector.contains(dot)));
        let logged = |dot: &Dot| {
            let Ok(logged) = disk.clone().logged(dot);
            logged.map(|(_, op)| op.is_some())
        };
        self.put_dots(bytes, dots.clone().filter(|dot| logged(dot) == Some(true)));
        self.put_dots(bytes, dots.filter(|dot| logged(dot) == Some(false)));
        let mut order: Vec<usize> = (0..KEYS).collect();
        order.sort_by_key(|k| self.keys[*k]);
        for k in order {
            let entry = Node::entry(disk, &keys()[k]);
            self.put_dots(bytes, entry.siblings().iter().map(|sibling| &sibling.dot));
            self.put_dots(bytes, entry.context().iter());
        }
    }
}
