//! One node's copy of the map: what changes it, and what it says of itself.
//!
//! Whatever changes it does so within a transaction of its store, and keeps it whole: every row is what the vector makes it
//! ([`super::entry`]), every sum that of its rows. A vector is a tombstone only for a store that is whole: a row that was lost
//! would look like one that was deleted. So rows have a hash, and ranges of them and the vector a sum, which are computed
//! again whenever others are told of them; what does not come to the same is [`Damage`], after which the store is built again
//! from what is left of it ([`Replica::recover`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::dot::{Actor, BUCKETS, Dot};
use super::entry::Entry;
use super::key::Key;
use super::op::Op;
use super::place::{LEAVES, Place};
use super::row;
use super::session::Session;
use super::store::KvTx;
use super::sums::KeptSums;
use super::vector::{Seen, Vector};
use crate::sum::{self, Sum};
use crate::swim::Name;

/// Bytes of a digest.
pub const DIGEST_LEN: usize = sum::DIGEST_LEN;

/// What a copy comes to: copies whose vectors are equal have the same rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Of the vector.
    pub vector: [u8; DIGEST_LEN],
    /// Of the rows.
    pub rows: [u8; DIGEST_LEN],
}

/// Writes that are dropped from the log at once.
const TRIMMED_AT_ONCE: usize = 1024;

/// Bytes of changed rows up to which it is remembered what they say.
const CHANGED_LEN_MAX: usize = 1 << 20;

/// Rows that are read at once.
pub(super) const ROWS_AT_ONCE: usize = 256;

/// A copy of the map.
#[derive(Clone)]
pub struct Replica {
    me: Actor,
    epochs: Epochs,
    vector: Vector,
    sums: KeptSums,
    /// What the transaction has changed.
    changed_actors: BTreeSet<Actor>,
    changed_rows: BTreeMap<Key, Option<Entry>>,
    /// Bytes of those whose entries are remembered.
    changed_len: usize,
    /// Of whom more was seen in transactions that are finished.
    learned: BTreeSet<Actor>,
    /// The comparison with another that is under way.
    pub(super) session: Option<Session>,
}

/// Names under which a node has never written: 64 bits each that nobody can tell before.
#[derive(Clone)]
pub struct Epochs {
    seed: [u8; 32],
    given: u64,
}

impl Epochs {
    /// From random bytes that are new at every start.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed, given: 0 }
    }

    fn next(&mut self) -> u64 {
        self.given += 1;
        let hash = blake3::keyed_hash(&self.seed, &self.given.to_le_bytes());
        let (first, _) = hash.as_bytes().split_first_chunk().expect("32 bytes are more than 8");
        u64::from_le_bytes(*first)
    }
}

/// Why something could not be done. The transaction is to be given up.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble<E> {
    /// The store cannot be read or written.
    Store(E),
    /// The store has lost something.
    Damage(Damage),
}

/// What a store has lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The row of this key is not what was written.
    #[error("the row of {0:?} is not what was written")]
    Row(Key),
    /// The rows of this leaf are not all that were written.
    #[error("the rows of leaf {0} are not those that were written")]
    Leaf(usize),
    /// The sums are not those that were written.
    #[error("the sums of rows are not those that were written")]
    Sums,
    /// The vector is not what was written.
    #[error("the vector is not what was written")]
    Vector,
}

impl<E> From<E> for Trouble<E> {
    fn from(error: E) -> Self {
        Trouble::Store(error)
    }
}

/// What became of a write that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is new here.
    New,
    /// It was seen before.
    Known,
    /// It will come, with what has become of it since, at the end of the comparison that is under way.
    Later,
}

impl Replica {
    /// The copy in a store, to which this node writes under a name that was never used.
    ///
    /// # Errors
    /// When the store cannot be read, or has lost something.
    pub fn open<T: KvTx>(tx: &mut T, peer: Name, epochs: Epochs) -> Result<Self, Trouble<T::Error>> {
        let mut replica = Self::empty(peer, epochs);
        replica.sums = KeptSums::of(tx.sums()?, tx.root()?).ok_or(Trouble::Damage(Damage::Sums))?;
        let seen = tx.vector()?;
        let mut sums = [Sum::default(); BUCKETS];
        seen.iter().for_each(|(actor, seen)| sums[usize::from(actor.bucket())].add(&hash_of_seen(actor, seen)));
        replica.vector = Vector::of(seen);
        if (0..=u8::MAX).any(|bucket| sums[usize::from(bucket)] != replica.sums.bucket(bucket)) {
            return Err(Trouble::Damage(Damage::Vector));
        }
        // Nobody answers any more what another life has asked.
        tx.clear_staged()?;
        Ok(replica)
    }

    pub(super) fn empty(peer: Name, mut epochs: Epochs) -> Self {
        Self {
            me: Actor { peer, epoch: epochs.next() },
            epochs,
            vector: Vector::default(),
            sums: KeptSums::default(),
            changed_actors: BTreeSet::new(),
            changed_rows: BTreeMap::new(),
            changed_len: 0,
            learned: BTreeSet::new(),
            session: None,
        }
    }

    /// Under which name this node writes.
    pub fn me(&self) -> Actor {
        self.me
    }

    /// Which writes it has seen.
    pub fn vector(&self) -> &Vector {
        &self.vector
    }

    /// What the rows of a leaf come to.
    pub fn sum(&self, leaf: usize) -> Sum {
        self.sums.leaf(leaf)
    }

    /// What the rows of some leaves come to together.
    pub(super) fn sum_of(&self, leaves: Range<usize>) -> Sum {
        self.sums.leaves(leaves)
    }

    /// What a bucket of the vector comes to.
    pub fn bucket_digest(&self, bucket: u8) -> [u8; DIGEST_LEN] {
        self.sums.bucket(bucket).digest()
    }

    /// What all comes to.
    pub fn digest(&self) -> Digest {
        Digest { vector: self.sums.vector().digest(), rows: self.sums.rows().digest() }
    }

    /// How many rows there are.
    pub fn len(&self) -> u64 {
        self.sums.rows().count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys whose rows have changed since this was asked last, and what is held of them now; None where there are too many to
    /// remember it.
    pub fn take_changed(&mut self) -> BTreeMap<Key, Option<Entry>> {
        self.changed_len = 0;
        std::mem::take(&mut self.changed_rows)
    }

    /// Whatever was seen of those of whom more was seen since this was asked last.
    pub fn take_learned(&mut self) -> Vector {
        let learned = std::mem::take(&mut self.learned).into_iter();
        Vector::of(learned.filter_map(|actor| Some((actor, self.vector.seen(&actor)?.clone()))))
    }

    /// What is held of a key.
    ///
    /// # Errors
    /// When that cannot be said.
    pub fn get<T: KvTx>(&self, tx: &mut T, key: &Key) -> Result<Entry, Trouble<T::Error>> {
        match self.load(tx, key)? {
            Some((entry, _)) => Ok(entry),
            None => {
                self.check_leaf(tx, Place::of(key).leaf())?;
                Ok(Entry::default())
            }
        }
    }

    /// Takes in a write, whose encoding this is, from whomever and in whatever order.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn apply<T: KvTx>(&mut self, tx: &mut T, op: &Op, bytes: &Bytes) -> Result<Applied, Trouble<T::Error>> {
        if self.vector.contains(&op.dot) {
            return Ok(Applied::Known);
        }
        if self.session.as_ref().is_some_and(|session| session.opened().contains(&op.dot)) {
            return Ok(Applied::Later);
        }
        op.replaces.iter().chain([&op.dot]).for_each(|dot| self.notice(dot));
        self.take_in(tx, op, bytes)?;
        Ok(Applied::New)
    }

    /// Takes in a write that is new here; how many stand beside each other then.
    pub(super) fn take_in<T: KvTx>(&mut self, tx: &mut T, op: &Op, bytes: &Bytes) -> Result<usize, Trouble<T::Error>> {
        let loaded = self.load(tx, &op.key)?;
        let (mut entry, before) = loaded.map_or_else(Default::default, |(entry, hash)| (entry, Some(hash)));
        entry.apply(&self.vector, op);
        self.store(tx, &op.key, before, &entry)?;
        tx.append(&op.dot, &op.key, Some(&sealed(bytes)))?;
        self.learn(op.dot);
        self.touched(tx, &op.key)?;
        Ok(entry.siblings().len())
    }

    /// Takes note that somebody knows of a write. One of this node's own that it has not made was made by a life that it has
    /// forgotten: whatever it writes from now on has another name.
    pub(super) fn notice(&mut self, dot: &Dot) {
        if dot.actor == self.me && dot.counter > self.vector.seen(&self.me).map_or(0, Seen::last) {
            self.me.epoch = self.epochs.next();
        }
    }

    pub(super) fn notice_all(&mut self, vector: &Vector) {
        let me = self.me;
        if let Some(seen) = vector.seen(&me) {
            self.notice(&Dot { actor: me, counter: seen.last() });
        }
    }

    /// Keeps what the transaction has changed beside rows and log: the last step before it is committed.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn finish<T: KvTx>(&mut self, tx: &mut T) -> Result<(), Trouble<T::Error>> {
        for actor in std::mem::take(&mut self.changed_actors) {
            if let Some(seen) = self.vector.seen(&actor) {
                tx.set_seen(&actor, seen)?;
            }
            self.learned.insert(actor);
        }
        let (sums, root) = self.sums.take_changed();
        for (number, sum) in sums {
            tx.set_sum(number, &sum)?;
        }
        if let Some(root) = root {
            tx.set_root(&root)?;
        }
        Ok(())
    }

    /// Drops the oldest writes from the log while there are more than `keep`: of those before a place, all of which another
    /// node is known to have seen. Whoever lacks one from then on cannot be told what it lacks key by key. How many.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn trim_log<T: KvTx>(&self, tx: &mut T, keep: u64, seen: u64) -> Result<u64, Trouble<T::Error>> {
        if tx.is_behind()? { Ok(0) } else { Ok(tx.trim_log(keep, seen, TRIMMED_AT_ONCE)?) }
    }

    /// A write that is in the log whole: for those who were only told of it, or have lost it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn logged<T: KvTx>(&self, tx: &mut T, dot: &Dot) -> Result<Option<(Op, Bytes)>, Trouble<T::Error>> {
        Ok(tx.logged(dot)?.and_then(|(_, op)| unsealed(&op?)).filter(|(op, _)| op.dot == *dot))
    }

    /// Reads all rows of a leaf, and makes sure that they are all that were written.
    pub(super) fn leaf<T: KvTx>(&self, tx: &mut T, leaf: usize) -> Result<Vec<LeafRow>, Trouble<T::Error>> {
        read_leaf(tx, leaf, self.sums.leaf(leaf))
    }

    /// Makes sure that the rows of a leaf are all that were written.
    ///
    /// # Errors
    /// [`Damage`], or when the store cannot be read.
    pub fn check_leaf<T: KvTx>(&self, tx: &mut T, leaf: usize) -> Result<(), Trouble<T::Error>> {
        self.leaf(tx, leaf).map(drop)
    }

    /// Makes sure that the rows of some leaves are those that were written: from this one on, until so many rows are looked at.
    /// Where to go on; None at the end.
    ///
    /// # Errors
    /// [`Damage`], or when the store cannot be read.
    pub fn check_from<T: KvTx>(
        &self,
        tx: &mut T,
        leaf: usize,
        rows: usize,
    ) -> Result<Option<usize>, Trouble<T::Error>> {
        let (mut from, mut looked_at) = (leaf, 0);
        while from < LEAVES && looked_at < rows {
            let next = tx
                .rows(Place::first_of(from)..=*Place::ALL.end(), None, 1)?
                .pop()
                .map_or(LEAVES, |(place, ..)| place.leaf());
            if let Some(lost) = self.sums.first_held(from..next) {
                return Err(Trouble::Damage(Damage::Leaf(lost)));
            }
            if next < LEAVES {
                looked_at += self.leaf(tx, next)?.len();
            }
            from = next + 1;
        }
        Ok((from < LEAVES).then_some(from))
    }

    /// Makes sure that all rows are those that were written.
    ///
    /// # Errors
    /// [`Damage`], or when the store cannot be read.
    pub fn check_all<T: KvTx>(&self, tx: &mut T) -> Result<(), Trouble<T::Error>> {
        self.check_from(tx, 0, usize::MAX).map(drop)
    }

    pub(super) fn load<T: KvTx>(
        &self,
        tx: &mut T,
        key: &Key,
    ) -> Result<Option<(Entry, blake3::Hash)>, Trouble<T::Error>> {
        let Some(row) = tx.row(key)? else { return Ok(None) };
        row::decode(key, &row).map(Some).map_err(|row::Damaged| Trouble::Damage(Damage::Row(key.clone())))
    }

    /// What is held of a key, where it follows from there being no row that it was deleted: each leaf of which a row is missing
    /// is looked at once.
    pub(super) fn load_from_whole<T: KvTx>(
        &self,
        tx: &mut T,
        key: &Key,
        checked: &mut BTreeSet<usize>,
    ) -> Result<Option<(Entry, blake3::Hash)>, Trouble<T::Error>> {
        let loaded = self.load(tx, key)?;
        let leaf = Place::of(key).leaf();
        if loaded.is_none() && checked.insert(leaf) {
            self.check_leaf(tx, leaf)?;
        }
        Ok(loaded)
    }

    /// Keeps what is held of a key, of which the row that was there has added a hash to its sum. Whether that is something
    /// else.
    pub(super) fn store<T: KvTx>(
        &mut self,
        tx: &mut T,
        key: &Key,
        before: Option<blake3::Hash>,
        entry: &Entry,
    ) -> Result<bool, Trouble<T::Error>> {
        let place = Place::of(key);
        let row = (!entry.is_empty()).then(|| row::encode(key, entry));
        let after = row.as_ref().map(|(_, hash)| *hash);
        if before == after {
            return Ok(false);
        }
        self.sums.change_row(place.leaf(), before.as_ref(), after.as_ref());
        self.changed_len += row.as_ref().map_or(0, |(bytes, _)| bytes.len());
        // Who remembers it for long is not to keep all of the message that it came with.
        let remembered = match &row {
            _ if self.changed_len > CHANGED_LEN_MAX => None,
            Some((bytes, _)) => row::detached(bytes),
            None => Some(Entry::default()),
        };
        self.changed_rows.insert(key.detached(), remembered);
        tx.set_row(place, key, row.as_ref().map(|(bytes, _)| bytes))?;
        Ok(true)
    }

    pub(super) fn learn(&mut self, dot: Dot) {
        self.learn_of(dot.actor, |vector| {
            vector.insert(dot);
        });
    }

    pub(super) fn learn_all(&mut self, vector: &Vector) {
        for (actor, _) in vector.iter() {
            self.learn_of(*actor, |ours| ours.join_of(actor, vector));
        }
    }

    /// Changes what was seen of an actor. Its sum goes along at once: whoever is asked with a sum that is behind the vector
    /// would be taken to have seen what it has not.
    fn learn_of(&mut self, actor: Actor, change: impl FnOnce(&mut Vector)) {
        let hash = |vector: &Vector| vector.seen(&actor).map(|seen| hash_of_seen(&actor, seen));
        let before = hash(&self.vector);
        change(&mut self.vector);
        self.sums.change_seen(actor.bucket(), before.as_ref(), hash(&self.vector).as_ref());
        self.changed_actors.insert(actor);
    }
}

/// What is held of a key, by whoever reads a store that another writes: in one read of it.
///
/// # Errors
/// When that cannot be said.
pub fn read<T: KvTx>(tx: &mut T, key: &Key) -> Result<Entry, Trouble<T::Error>> {
    if let Some(row) = tx.row(key)? {
        return match row::decode(key, &row) {
            Ok((entry, _)) => Ok(entry),
            Err(row::Damaged) => Err(Trouble::Damage(Damage::Row(key.clone()))),
        };
    }
    // A row that was lost would look like one that was deleted.
    let leaf = Place::of(key).leaf();
    let sum = tx.sum(leaf)?.unwrap_or_default();
    read_leaf(tx, leaf, sum)?;
    Ok(Entry::default())
}

/// Reads all rows of a leaf, and makes sure that they come to this.
fn read_leaf<T: KvTx>(tx: &mut T, leaf: usize, expected: Sum) -> Result<Vec<LeafRow>, Trouble<T::Error>> {
    let mut rows: Vec<LeafRow> = Vec::new();
    let mut sum = Sum::default();
    loop {
        let last = rows.last().map(|row| (row.place, row.key.clone()));
        let (from, after) = last.map_or((Place::first_of(leaf), None), |(place, key)| (place, Some(key)));
        let read = tx.rows(from..=Place::last_of(leaf), after.as_ref(), ROWS_AT_ONCE)?;
        let is_last = read.len() < ROWS_AT_ONCE;
        for (place, key, row) in read {
            let decoded = row::decode(&key, &row).ok().filter(|_| Place::of(&key) == place);
            let Some((entry, hash)) = decoded else { return Err(Trouble::Damage(Damage::Row(key))) };
            sum.add(&hash);
            rows.push(LeafRow { place, key, entry, hash });
        }
        if is_last {
            break;
        }
    }
    if sum == expected { Ok(rows) } else { Err(Trouble::Damage(Damage::Leaf(leaf))) }
}

/// What a row says, whole store or not; None of one that is not what was written.
pub fn entry_of(key: &Key, row: &Bytes) -> Option<Entry> {
    row::decode(key, row).ok().map(|(entry, _)| entry)
}

/// A row that was read with all others of its leaf.
pub(super) struct LeafRow {
    pub(super) place: Place,
    pub(super) key: Key,
    pub(super) entry: Entry,
    pub(super) hash: blake3::Hash,
}

fn hash_of_seen(actor: &Actor, seen: &Seen) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(b"p2p-node 2026-11 parts of vector");
    hasher.update(&actor.peer.0).update(&actor.epoch.to_le_bytes()).update(&seen.encode());
    hasher.finalize()
}

/// A write as it is kept: with a hash before it, for the day when not all that is read can be believed.
fn sealed(op: &Bytes) -> Bytes {
    let mut bytes = BytesMut::with_capacity(SEAL_LEN + op.len());
    bytes.put_slice(&blake3::hash(op).as_bytes()[..SEAL_LEN]);
    bytes.put_slice(op);
    bytes.freeze()
}

/// The write, if this is what was kept of one.
pub(super) fn unsealed(kept: &Bytes) -> Option<(Op, Bytes)> {
    let (seal, rest) = kept.split_at_checked(SEAL_LEN)?;
    if blake3::hash(rest).as_bytes()[..SEAL_LEN] != *seal {
        return None;
    }
    let bytes = kept.slice(SEAL_LEN..);
    Op::decode(&bytes).ok().map(|op| (op, bytes))
}

const SEAL_LEN: usize = 16;
