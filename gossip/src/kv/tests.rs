//! Laws of single entries, and of replicas that hear of each other's writes in any order.

use std::collections::BTreeSet;
use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

mod counter_examples;
mod hostile;
mod machines;

use super::dvv::DvvSet;
use super::fold::fold;
use super::*;
use crate::sum::Sum;
use crate::swim::{Name, Time};

fn actor(n: u8) -> Actor {
    Actor { peer: Name([n; 32]), epoch: 7 }
}

fn key() -> Key {
    Key::new("color").expect("a key")
}

/// Writes of one key by three actors, each of which replaces any of those before it.
fn history() -> impl Strategy<Value = Vec<Op>> {
    let one = (0..3_u8, any::<bool>(), any::<u16>());
    proptest::collection::vec(one, 1..9).prop_map(|writes| {
        let mut ops: Vec<Op> = Vec::new();
        for (at, (by, is_put, chosen)) in writes.into_iter().enumerate() {
            let counter = 1 + ops.iter().filter(|op| op.dot.actor == actor(by)).count() as u64;
            let replaces = ops.iter().enumerate().filter(|(n, _)| chosen >> n & 1 == 1).map(|(_, op)| op.dot).collect();
            let value = is_put.then(|| Bytes::from(vec![at as u8]));
            ops.push(Op { dot: Dot { actor: actor(by), counter }, key: key(), value, replaces });
        }
        ops
    })
}

/// A store of one key.
#[derive(Clone, Default, Debug, PartialEq)]
struct Store {
    vector: Vector,
    entry: Entry,
}

impl Store {
    fn apply(&mut self, op: &Op) {
        if !self.vector.contains(&op.dot) {
            self.entry.apply(&self.vector, op);
            self.vector.insert(op.dot);
        }
    }

    fn of(ops: &[Op], chosen: u16, turn: usize) -> Self {
        let mut chosen: Vec<&Op> =
            ops.iter().enumerate().filter(|(n, _)| chosen >> n & 1 == 1).map(|(_, op)| op).collect();
        let turn = turn % chosen.len().max(1);
        chosen.rotate_left(turn);
        if turn % 2 == 1 {
            chosen.reverse();
        }
        let mut store = Self::default();
        chosen.into_iter().for_each(|op| store.apply(op));
        store
    }

    fn merge(&mut self, ops: &[Op], other: &Store) {
        let missing =
            ops.iter().map(|op| op.dot).filter(|dot| other.vector.contains(dot) && !self.vector.contains(dot));
        let learned: Dots = missing.collect();
        self.entry.merge(&self.vector, &other.entry, &other.vector);
        for dot in learned.iter() {
            self.vector.insert(*dot);
        }
    }

    fn is_fold(&self, ops: &[Op]) -> bool {
        let siblings = self.entry.siblings().iter().map(|sibling| (sibling.dot, sibling.value.to_vec())).collect();
        let context: BTreeSet<Dot> = self.entry.context().iter().copied().collect();
        fold(ops, &self.vector, &key()) == (siblings, context)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn rows_are_a_function_of_the_vector_in_whatever_order_writes_come(
        ops in history(), chosen: u16, turn: usize,
    ) {
        let mut store = Store::of(&ops, chosen, turn);
        prop_assert!(store.is_fold(&ops), "{store:#?}");
        for op in ops.iter().rev() {
            store.apply(op);
            prop_assert!(store.is_fold(&ops), "{store:#?}");
        }
    }

    #[test]
    fn a_merge_is_what_both_have_seen(ops in history(), chosen: [u16; 3], turns: [usize; 3]) {
        let [a, b, c] = [0, 1, 2].map(|n| Store::of(&ops, chosen[n], turns[n]));
        let merged = |one: &Store, other: &Store| {
            let mut one = one.clone();
            one.merge(&ops, other);
            one
        };
        prop_assert!(merged(&a, &b).is_fold(&ops));
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&a, &a), a.clone());
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&merged(&a, &b), &b), merged(&a, &b));
        // What comes late, and twice, changes nothing any more.
        let mut late = merged(&a, &b);
        ops.iter().for_each(|op| late.apply(op));
        prop_assert!(late.is_fold(&ops));
    }

    #[test]
    fn a_write_has_one_encoding(ops in history()) {
        for op in &ops {
            let mut bytes = BytesMut::new();
            op.encode(&mut bytes);
            prop_assert_eq!(&Op::decode(&bytes.freeze()), &Ok(op.clone()));
        }
    }

    #[test]
    fn bytes_of_a_stranger_are_no_write_or_encode_as_they_came(ops in history(), at: usize, bit in 0..8_u8, cut: usize) {
        let mut bytes = BytesMut::new();
        ops[0].encode(&mut bytes);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let cut = cut % (bytes.len() * 2);
        bytes.truncate(cut.max(1));
        let bytes = bytes.freeze();
        if let Ok(op) = Op::decode(&bytes) {
            let mut again = BytesMut::new();
            op.encode(&mut again);
            prop_assert_eq!(bytes, again.freeze());
        }
    }
}

/// A node's copy, and its disk.
struct Node {
    peer: Name,
    lives: u8,
    replica: Replica,
    disk: Memory,
}

impl Node {
    fn start(n: u8) -> Self {
        let (peer, mut disk) = (Name([n; 32]), Memory::default());
        let replica = Replica::open(&mut disk, peer, Epochs::new([n; 32])).expect("memory does not fail");
        Self { peer, lives: 0, replica, disk }
    }

    fn epochs(&mut self) -> Epochs {
        self.lives += 1;
        let mut seed = self.peer.0;
        seed[0] = self.lives;
        Epochs::new(seed)
    }

    /// Starts again with what is on a disk.
    fn restart_with(&mut self, disk: Memory) {
        self.disk = disk;
        let epochs = self.epochs();
        self.replica = Replica::open(&mut self.disk, self.peer, epochs).expect("it is whole");
    }

    /// Builds its copy again from what is left on the disk.
    fn recover(&mut self) {
        let epochs = self.epochs();
        self.replica = Replica::recover(&mut self.disk, self.peer, epochs).expect("memory does not fail");
        self.replica.finish(&mut self.disk).expect("memory does not fail");
    }

    /// Loses the row of a key.
    fn lose(&mut self, key: &Key) {
        let Ok(()) = self.disk.set_row(Place::of(key), key, None);
    }

    fn drop_log(&mut self) {
        let dropped = self.tx(|replica, disk| {
            let end = disk.log_end()?;
            replica.trim_log(disk, 0, end)
        });
        assert!(dropped > 0);
    }

    /// Compares all with another, and takes it in; `between` runs between any two steps.
    fn compare(&mut self, other: &mut Node, mut between: impl FnMut(&mut Node, &mut Node)) -> Option<Adopted> {
        const BUDGET: Budget = Budget { keys: 2, bytes: usize::MAX };
        let opened = other.tx(|replica, disk| replica.opened(disk));
        between(self, other);
        let mut found = self.tx(|replica, disk| replica.begin(disk, &opened));
        while !found.divided.is_empty() || !found.few.is_empty() {
            let mut wanted: Vec<Wanted> = found.few.drain(..).map(|range| Wanted { range, after: None }).collect();
            let divided = std::mem::take(&mut found.divided);
            between(self, other);
            let looked = other.tx(|replica, disk| replica.look(disk, &divided, &wanted, BUDGET));
            wanted.clear();
            between(self, other);
            let mut rows = looked.rows;
            while let Some(told) = rows.pop() {
                self.tx(|replica, disk| replica.stage(disk, &told));
                if let Some(rest) = told.rest {
                    between(self, other);
                    rows.extend(other.tx(|replica, disk| replica.look(disk, &[], &[rest], BUDGET)).rows);
                }
            }
            found = self.tx(|replica, disk| replica.compare(disk, &looked.divided));
        }
        between(self, other);
        let closed = other.tx(|replica, disk| replica.close(disk, opened.by, &opened.vector))?;
        between(self, other);
        Some(self.tx(|replica, disk| replica.adopt(disk, opened.by, &closed, false)))
    }

    /// One transaction of one step.
    fn tx<R>(&mut self, step: impl FnOnce(&mut Replica, &mut Memory) -> Result<R, Trouble<Infallible>>) -> R {
        let done = step(&mut self.replica, &mut self.disk).expect("nothing is damaged");
        self.replica.finish(&mut self.disk).expect("memory does not fail");
        done
    }

    fn write(&mut self, key: &Key, value: Option<&'static str>, write: &Write) -> Result<Option<Written>, WriteError> {
        self.tx(|replica, disk| replica.write(disk, key, value.map(|text| text.into()), write))
    }

    fn put(&mut self, key: &Key, value: &'static str) -> Written {
        self.write(key, Some(value), &Write::Held { force: false }).expect("no conflict").expect("something to do")
    }

    fn apply(&mut self, written: &Written) -> Applied {
        self.tx(|replica, disk| replica.apply(disk, &written.op, &written.bytes))
    }

    /// Asks another until nothing is missing; false if that cannot say what is.
    fn ask(&mut self, other: &mut Node, keys_max: usize) -> bool {
        loop {
            match self.asked(other, keys_max) {
                Answer::TooOld => return false,
                Answer::Keys { keys, .. } if keys.is_empty() => return true,
                answer => assert!(self.merge(&answer) > 0, "whoever asks comes on"),
            }
        }
    }

    /// What another answers, all of the vector being told.
    fn asked(&mut self, other: &mut Node, keys: usize) -> Answer {
        let asked = self.replica.ask((0..=u8::MAX).collect());
        other.tx(|replica, disk| replica.answer(disk, &asked, Budget { keys, bytes: usize::MAX }))
    }

    fn merge(&mut self, answer: &Answer) -> usize {
        let Answer::Keys { keys, part } = answer else { return 0 };
        self.tx(|replica, disk| replica.merge(disk, keys, part))
    }

    /// Asks another once; whether anything came of it.
    fn ask_once(&mut self, other: &mut Node) -> bool {
        let answer = self.asked(other, 9);
        self.merge(&answer) > 0
    }

    /// Keys that have changed, and values, that lie in these bytes.
    fn changed_in(&mut self, bytes: &Bytes) -> usize {
        let lies_in = |part: &Bytes| bytes.as_ptr_range().contains(&part.as_ptr());
        let mut count = 0;
        for (key, entry) in self.replica.take_changed() {
            let entry = entry.expect("it is short");
            count += usize::from(lies_in(key.as_bytes()));
            count += entry.siblings().iter().filter(|sibling| lies_in(&sibling.value)).count();
        }
        count
    }

    fn values(&mut self, key: &Key) -> Vec<Bytes> {
        let entry = self.tx(|replica, disk| replica.get(disk, key));
        entry.siblings().iter().map(|sibling| sibling.value.clone()).collect()
    }

    fn read(&mut self, key: &Key) -> Token {
        let entry = self.tx(|replica, disk| replica.get(disk, key));
        Token::new(key, entry.siblings().iter().map(|sibling| sibling.dot).collect())
    }

    /// Every row is the fold of what the vector names, and every sum that of its rows, also as they are on disk.
    fn is_whole(&mut self, ops: &[Op]) {
        let keys: BTreeSet<&Key> = ops.iter().map(|op| &op.key).collect();
        for key in keys {
            let entry = self.tx(|replica, disk| replica.get(disk, key));
            let siblings = entry.siblings().iter().map(|sibling| (sibling.dot, sibling.value.to_vec())).collect();
            let context: BTreeSet<Dot> = entry.context().iter().copied().collect();
            assert_eq!((siblings, context), fold(ops, self.replica.vector(), key), "{key:?}");
        }
        let mut sums = vec![Sum::default(); LEAVES];
        let Ok(rows) = self.disk.rows(Place::ALL, None, usize::MAX);
        for (place, key, row) in rows {
            let (_, hash) = super::row::decode(&key, &row).expect("a whole row");
            sums[place.leaf()].add(&hash);
        }
        let again = Replica::open(&mut self.disk.clone(), self.peer, Epochs::new([0; 32])).expect("it is whole");
        assert!((0..LEAVES).all(|leaf| self.replica.sum(leaf) == sums[leaf] && again.sum(leaf) == sums[leaf]));
        assert_eq!(again.vector(), self.replica.vector());
    }
}

fn nodes<const COUNT: usize>() -> [Node; COUNT] {
    std::array::from_fn(|n| Node::start(n as u8))
}

fn named(name: &'static str) -> Key {
    Key::new(name).expect("a key")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn replicas_are_whole_whatever_reaches_them(steps in proptest::collection::vec((0..3_usize, 0..6_u8, any::<u32>()), 1..60)) {
        let mut nodes: [Node; 3] = nodes();
        let (mut written, mut tokens): (Vec<Written>, Vec<(Key, Token)>) = (Vec::new(), Vec::new());
        for (at, what, chosen) in steps {
            let key = named(["a", "b"][chosen as usize % 2]);
            let chosen = chosen as usize / 2;
            let node = &mut nodes[at];
            let token = tokens.iter().filter(|(of, _)| *of == key).map(|(_, token)| token.clone());
            let token = token.cycle().nth(chosen % tokens.len().max(1));
            let write = match what {
                0 => {
                    tokens.push((key.clone(), node.read(&key)));
                    continue;
                }
                1 => Write::Held { force: chosen.is_multiple_of(2) },
                2 => Write::Beside,
                3 => Write::Create,
                4 => match token {
                    Some(token) => Write::Read(token),
                    None => continue,
                },
                _ => {
                    if let Some(op) = written.get(chosen % written.len().max(1)) {
                        node.apply(op);
                    }
                    continue;
                }
            };
            let value = (!chosen.is_multiple_of(3)).then_some("value");
            if let Ok(Some(done)) = node.write(&key, value, &write) {
                written.push(done);
            }
        }
        let ops: Vec<Op> = written.iter().map(|written| written.op.clone()).collect();
        for node in &mut nodes {
            node.is_whole(&ops);
            for written in &written {
                node.apply(written);
            }
            node.is_whole(&ops);
        }
        let dots: BTreeSet<Dot> = ops.iter().map(|op| op.dot).collect();
        prop_assert_eq!(dots.len(), ops.len(), "no two writes have one name");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whoever_asks_comes_to_hold_the_same(
        steps in proptest::collection::vec((0..3_usize, 0..9_u8, any::<u32>()), 1..60),
    ) {
        let mut nodes: [Node; 3] = nodes();
        let mut written: Vec<Written> = Vec::new();
        let mut ops: Vec<Op> = Vec::new();
        for (at, what, chosen) in steps {
            let key = named(["a", "b", "c"][chosen as usize % 3]);
            let chosen = chosen as usize / 3;
            match what {
                0..3 => {
                    let write = if what == 0 { Write::Beside } else { Write::Held { force: true } };
                    if let Ok(Some(done)) = nodes[at].write(&key, (!chosen.is_multiple_of(4)).then_some("value"), &write) {
                        ops.push(done.op.clone());
                        written.push(done);
                    }
                }
                3..6 => {
                    if let Some(op) = written.get(chosen % written.len().max(1)) {
                        nodes[at].apply(op);
                    }
                }
                6 => {
                    let keep = chosen as u64 % 4;
                    nodes[at].tx(|replica, disk| {
                        let end = disk.log_end()?;
                        replica.trim_log(disk, keep, end)
                    });
                }
                _ => {
                    let [asker, asked] = nodes.get_disjoint_mut([at, (at + 1 + chosen % 2) % 3]).expect("two of three");
                    // One key, and what comes in between, or all.
                    let answer = asker.asked(asked, 1 + chosen % 3);
                    if let Some(op) = written.get(chosen % written.len().max(1)) {
                        asker.apply(op);
                    }
                    asker.merge(&answer);
                }
            }
            nodes[at].is_whole(&ops);
        }
        let [one, two, three] = &mut nodes;
        if one.ask(two, 2) && one.ask(three, 2) && two.ask(one, 1) && three.ask(one, 3) {
            for node in [&mut *one, &mut *two, &mut *three] {
                node.is_whole(&ops);
                prop_assert_eq!(node.replica.vector(), &ops.iter().map(|op| op.dot).collect::<Vector>());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_stands_is_what_dotted_version_vector_sets_say(
        steps in proptest::collection::vec((0..3_usize, 0..8_u8, any::<u16>()), 1..60),
    ) {
        let mut nodes: [Node; 3] = nodes();
        let mut sets: [DvvSet; 3] = Default::default();
        let mut read: [Vec<(Token, DvvSet)>; 3] = Default::default();
        for (n, (at, what, chosen)) in steps.into_iter().enumerate() {
            let chosen = usize::from(chosen);
            if what < 3 {
                let other = (at + 1 + chosen % 2) % 3;
                let [asker, asked] = nodes.get_disjoint_mut([at, other]).expect("two of three");
                prop_assert!(asker.ask(asked, 9));
                let theirs = sets[other].clone();
                sets[at].sync(&theirs);
            } else if what == 3 {
                read[at].push((nodes[at].read(&key()), sets[at].context()));
            } else if let Some((token, context)) = read[at].get(chosen % read[at].len().max(1)) {
                let value = (what != 4).then_some(n as u32);
                let bytes = value.map(|value| Bytes::copy_from_slice(&value.to_le_bytes()));
                let write = Write::Read(token.clone());
                let written = nodes[at].tx(|replica, disk| replica.write(disk, &key(), bytes, &write));
                prop_assert!(written.is_ok());
                sets[at].write(at, context, value);
            }
            let values = nodes[at].values(&key()).into_iter();
            let values = values.map(|value| u32::from_le_bytes(value[..].try_into().expect("4"))).collect();
            prop_assert_eq!(sets[at].values(), values);
        }
    }
}

#[test]
fn writes_in_a_row_replace_each_other_and_what_was_not_seen_stays_beside_them() {
    let [mut one, mut other] = nodes();
    let key = key();
    one.put(&key, "red");
    let blue = one.put(&key, "blue");
    assert_eq!(one.values(&key), ["blue"]);
    let green = other.put(&key, "green");
    assert_eq!((one.apply(&green), one.apply(&green)), (Applied::New, Applied::Known));
    assert_eq!(one.values(&key).len(), 2);
    assert_eq!(one.write(&key, Some("grey"), &Write::Held { force: false }), Err(WriteError::Conflict(2)));
    let token = one.read(&key);
    let grey = one.write(&key, Some("grey"), &Write::Read(token.clone())).expect("read before").expect("done");
    assert_eq!(one.values(&key), ["grey"]);
    // Whoever hears of the last first shows nothing else when the others come.
    assert_eq!((other.apply(&grey), other.apply(&blue)), (Applied::New, Applied::New));
    assert_eq!(other.values(&key), ["grey"]);
    // The same token again names what is gone: the second one to answer stands beside the first.
    one.write(&key, Some("white"), &Write::Read(token)).expect("read before").expect("done");
    assert_eq!(one.values(&key).len(), 2);
}

#[test]
fn writes_of_one_life_are_counted_without_gaps() {
    let [mut one] = nodes();
    let me = one.replica.me();
    for counter in 1..=3 {
        assert_eq!(one.put(&key(), "red").op.dot, Dot { actor: me, counter });
    }
    let disk = one.disk.clone();
    one.restart_with(disk);
    assert_eq!(one.put(&key(), "red").op.dot, Dot { actor: one.replica.me(), counter: 1 });
    assert_ne!(one.replica.me(), me);
}

#[test]
fn a_sum_that_was_lost_is_not_taken_for_that_of_nothing_nor_with_what_it_is_of() {
    let [mut one] = nodes();
    one.put(&key(), "red");
    let sums = one.disk.sums().map_or(0, |sums| sums.len());
    for lost in 0..=sums {
        for with_all_of_it in [false, true] {
            let mut disk = one.disk.clone();
            disk.lose_sum(lost);
            if with_all_of_it {
                disk.lose_seen(0);
                let Ok(()) = disk.set_row(Place::of(&key()), &key(), None);
            }
            let opened = Replica::open(&mut disk, one.peer, Epochs::new([1; 32])).map(|_| ());
            assert!(matches!(opened, Err(Trouble::Damage(Damage::Sums | Damage::Vector))), "{opened:?}");
        }
    }
}

#[test]
fn numbers_of_a_stranger_are_none_that_nothing_follows() {
    for (counter, is_one) in [(0, false), (1, true), (COUNTER_MAX, true), (COUNTER_MAX + 1, false), (u64::MAX, false)] {
        let mut bytes = BytesMut::new();
        let dot = Dot { actor: actor(1), counter };
        Op { dot, key: key(), value: None, replaces: Dots::default() }.encode(&mut bytes);
        assert_eq!(Op::decode(&bytes.freeze()).is_ok(), is_one, "{counter}");
    }
}

#[test]
fn a_deleted_key_leaves_no_row_and_is_not_there_for_create() {
    let [mut one] = nodes();
    let key = key();
    one.put(&key, "red");
    assert_eq!(one.write(&key, Some("blue"), &Write::Create), Err(WriteError::Exists));
    one.write(&key, None, &Write::Held { force: false }).expect("no conflict").expect("it was there");
    assert_eq!(one.write(&key, None, &Write::Held { force: false }), Ok(None), "nothing to do");
    let Ok(rows) = one.disk.rows(Place::ALL, None, 10);
    assert_eq!(rows, []);
    assert_eq!(one.replica.sum(Place::of(&key).leaf()), Sum::default());
    one.write(&key, Some("blue"), &Write::Create).expect("it is gone").expect("done");
}

#[test]
fn tokens_of_another_key_made_up_or_ahead_are_refused() {
    let [mut one, mut other] = nodes();
    let key = key();
    let written = one.put(&key, "red");
    let bytes = written.token.encode();
    assert_eq!(Token::decode(&bytes), Ok(written.token.clone()));
    for at in 0..bytes.len() {
        let mut changed = BytesMut::from(&bytes[..]);
        changed[at] ^= 1;
        assert_eq!(Token::decode(&changed.freeze()), Err(TokenError::Malformed), "byte {at}");
    }
    let write = Write::Read(written.token.clone());
    assert_eq!(one.write(&named("size"), Some("4"), &write), Err(TokenError::OtherKey.into()));
    assert_eq!(other.write(&key, Some("blue"), &write), Err(TokenError::Ahead.into()));
    other.apply(&written);
    other.write(&key, Some("blue"), &write).expect("on any node").expect("done");
    assert_eq!(other.values(&key), ["blue"]);
}

#[test]
fn a_key_that_holds_too_much_takes_no_more_here_but_all_that_others_have_written() {
    let mut nodes: [Node; SIBLINGS_MAX + 1] = nodes();
    let key = key();
    let written: Vec<Written> = nodes.iter_mut().map(|node| node.put(&key, "mine")).collect();
    let [one, ..] = &mut nodes;
    for written in &written {
        one.apply(written);
    }
    assert_eq!(one.values(&key).len(), SIBLINGS_MAX + 1);
    let full = |beside| Err(WriteError::Full { siblings: beside, len: beside * 4 });
    assert_eq!(one.write(&key, Some("more"), &Write::Beside), full(SIBLINGS_MAX + 2));
    let token = Token::new(&key, written[..2].iter().map(|written| written.op.dot).collect());
    one.write(&key, Some("one for two"), &Write::Read(token)).expect("it becomes less").expect("done");
    assert_eq!(one.values(&key).len(), SIBLINGS_MAX);
    let long = "x".repeat(VALUE_LEN_MAX + 1);
    let too_long = one.tx(|replica, disk| replica.write(disk, &key, Some(long.into()), &Write::Beside));
    assert_eq!(too_long, Err(WriteError::TooLong(VALUE_LEN_MAX + 1)));
}

#[test]
fn a_damaged_row_is_no_missing_row() {
    let [mut one] = nodes();
    let key = key();
    one.put(&key, "red");
    let Ok(Some(row)) = one.disk.row(&key) else { panic!("it is there") };
    for at in 0..row.len() {
        let mut changed = BytesMut::from(&row[..]);
        changed[at] ^= 1;
        let Ok(()) = one.disk.set_row(Place::of(&key), &key, Some(&changed.freeze()));
        assert_eq!(one.replica.get(&mut one.disk, &key), Err(Trouble::Damage(Damage::Row(key.clone()))), "byte {at}");
    }
}

#[test]
fn what_is_remembered_of_a_change_is_not_in_the_message_that_brought_it() {
    let (mut one, mut other) = (Node::start(1), Node::start(2));
    let written = one.put(&key(), "value");
    let op = Op::decode(&written.bytes).expect("a write");
    assert!(written.bytes.as_ptr_range().contains(&op.key.as_bytes().as_ptr()), "it is cut out of it");
    other.apply(&Written { op, ..written.clone() });
    assert_eq!(other.changed_in(&written.bytes), 0);
    let Ok(row) = one.disk.row(&key());
    let row = row.expect("it is there");
    let mut third = Node::start(3);
    let answer = third.asked(&mut one, 9);
    let Answer::Keys { keys, .. } = &answer else { panic!("keys") };
    assert!(row.as_ptr_range().contains(&keys[0].entry.siblings()[0].value.as_ptr()), "it is cut out of it");
    assert_eq!(third.merge(&answer), 1);
    assert_eq!(third.changed_in(&row), 0);
}
