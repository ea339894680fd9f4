//! One node's copy of the map: what changes it, and what it says of itself.
//!
//! Whatever changes it does so within a transaction of its store, and keeps it whole: every row is what the vector makes it
//! ([`super::entry`]), every sum that of its rows.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};

use super::dot::{Actor, Dot, Dots};
use super::entry::Entry;
use super::key::Key;
use super::op::{Op, REPLACES_MAX, VALUE_LEN_MAX};
use super::place::{LEAVES, Place};
use super::row;
use super::store::KvTx;
use super::token::{Token, TokenError};
use super::vector::Vector;
use crate::sum::Sum;

/// Writes of a key beside each other from which on only what leaves fewer is taken from this node's users. What others have
/// written is always taken in: to refuse it would be to lose it.
pub const SIBLINGS_MAX: usize = 64;

/// Bytes of a key's values together, likewise.
pub const ENTRY_LEN_MAX: usize = 1 << 20;

/// A copy of the map.
pub struct Replica {
    me: Actor,
    vector: Vector,
    /// Of those, what has left the log.
    dropped: Vector,
    sums: Vec<Sum>,
    changed_actors: BTreeSet<Actor>,
    changed_leaves: BTreeSet<usize>,
}

/// Why something could not be done. The transaction is to be given up.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble<E> {
    /// The store cannot be read or written.
    Store(E),
    /// The row of this key is not what was written: the store has lost something.
    Damaged(Key),
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
}

/// What a write is to take the place of.
#[derive(Clone, Debug)]
pub enum Write {
    /// What was read with this token, and nothing else.
    Read(Token),
    /// What this node holds at that moment: one write, or several where `force` says so.
    Held {
        /// Whether several may be replaced that nobody has read together.
        force: bool,
    },
    /// Nothing: it stands beside whatever there is.
    Beside,
    /// Nothing, and nothing may be there.
    Create,
}

/// A write that was made. It counts, and may be told, once the transaction is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The write.
    pub op: Op,
    /// Its encoding.
    pub bytes: Bytes,
    /// With what it was meant to be read together: the next write may take the place of it.
    pub token: Token,
}

/// Why nothing was written. The transaction has done nothing for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Longer than a value may be.
    #[error("a value of {0} bytes is longer than {VALUE_LEN_MAX}")]
    TooLong(usize),
    /// Several writes stand beside each other, and none of them is to be replaced unread.
    #[error("{0} values stand beside each other")]
    Conflict(usize),
    /// The key is there already.
    #[error("the key is there")]
    Exists,
    /// So much stands beside each other already that nothing may be added.
    #[error("{siblings} values of {len} bytes stand beside each other")]
    Full {
        /// How many there would be.
        siblings: usize,
        /// Their bytes together.
        len: usize,
    },
    /// The token is not taken.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Replica {
    /// The copy in a store, which this node writes to under a name that was never used.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open<T: KvTx>(tx: &mut T, me: Actor) -> Result<Self, Trouble<T::Error>> {
        let mut sums = vec![Sum::default(); LEAVES];
        for (leaf, sum) in tx.sums()? {
            sums[leaf] = sum;
        }
        let (vector, dropped) = (Vector::of(tx.vector()?), Vector::of(tx.dropped()?));
        Ok(Self { me, vector, dropped, sums, changed_actors: BTreeSet::new(), changed_leaves: BTreeSet::new() })
    }

    /// Under which name this node writes.
    pub fn me(&self) -> Actor {
        self.me
    }

    /// Which writes it has seen.
    pub fn vector(&self) -> &Vector {
        &self.vector
    }

    /// Which of those have left its log.
    pub fn dropped(&self) -> &Vector {
        &self.dropped
    }

    /// What the rows of a leaf come to.
    pub fn sum(&self, leaf: usize) -> &Sum {
        &self.sums[leaf]
    }

    /// What is held of a key.
    ///
    /// # Errors
    /// When that cannot be said.
    pub fn get<T: KvTx>(&self, tx: &mut T, key: &Key) -> Result<Entry, Trouble<T::Error>> {
        Ok(self.load(tx, key)?.map_or_else(Entry::default, |(entry, _)| entry))
    }

    /// Takes in a write, whose encoding this is, from whomever and in whatever order.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn apply<T: KvTx>(&mut self, tx: &mut T, op: &Op, bytes: &Bytes) -> Result<Applied, Trouble<T::Error>> {
        if self.vector.contains(&op.dot) {
            return Ok(Applied::Known);
        }
        let loaded = self.load(tx, &op.key)?;
        let (mut entry, before) = loaded.map_or_else(Default::default, |(entry, hash)| (entry, Some(hash)));
        entry.apply(&self.vector, op);
        self.store(tx, &op.key, before, &entry)?;
        tx.append(&op.dot, &op.key, Some(bytes))?;
        self.learn(op.dot);
        Ok(Applied::New)
    }

    /// Writes: a value, or with None that the key is gone. None if there is nothing to do.
    ///
    /// # Errors
    /// When the store fails; within that, why the write is refused.
    pub fn write<T: KvTx>(
        &mut self,
        tx: &mut T,
        key: &Key,
        value: Option<Bytes>,
        write: &Write,
    ) -> Result<Result<Option<Written>, WriteError>, Trouble<T::Error>> {
        let entry = self.get(tx, key)?;
        let replaces = match self.replaced(&entry, key, value.as_deref(), write) {
            Ok(Some(replaces)) => replaces,
            Ok(None) => return Ok(Ok(None)),
            Err(error) => return Ok(Err(error)),
        };
        let counter = self.vector.seen(&self.me).map_or(0, |seen| seen.last()) + 1;
        let op = Op { dot: Dot { actor: self.me, counter }, key: key.clone(), value, replaces };
        let mut bytes = BytesMut::new();
        op.encode(&mut bytes);
        let bytes = bytes.freeze();
        self.apply(tx, &op, &bytes)?;
        let read = op.value.is_some().then_some(op.dot);
        let token = Token::new(key, read.into_iter().collect());
        Ok(Ok(Some(Written { op, bytes, token })))
    }

    /// What a write is to take the place of; None if there is nothing to do.
    fn replaced(
        &self,
        entry: &Entry,
        key: &Key,
        value: Option<&[u8]>,
        write: &Write,
    ) -> Result<Option<Dots>, WriteError> {
        let value_len = value.map_or(0, <[u8]>::len);
        if value_len > VALUE_LEN_MAX {
            return Err(WriteError::TooLong(value_len));
        }
        let held = entry.siblings();
        let replaces: Dots = match write {
            Write::Read(token) => token.dots(key, &self.vector)?.clone(),
            Write::Held { force } if held.len() > 1 && !force => return Err(WriteError::Conflict(held.len())),
            Write::Held { .. } => held.iter().map(|sibling| sibling.dot).take(REPLACES_MAX).collect(),
            Write::Create if !held.is_empty() => return Err(WriteError::Exists),
            Write::Beside | Write::Create => Dots::default(),
        };
        if value.is_none() && replaces.is_empty() {
            return Ok(None);
        }
        let left = held.iter().filter(|sibling| !replaces.contains(&sibling.dot));
        let (siblings, len) = left.fold((1, value_len), |(count, len), sibling| (count + 1, len + sibling.value.len()));
        let is_fuller = siblings > held.len();
        if value.is_some() && is_fuller && (siblings > SIBLINGS_MAX || len > ENTRY_LEN_MAX) {
            return Err(WriteError::Full { siblings, len });
        }
        Ok(Some(replaces))
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
            if let Some(dropped) = self.dropped.seen(&actor) {
                tx.set_dropped(&actor, dropped)?;
            }
        }
        for leaf in std::mem::take(&mut self.changed_leaves) {
            tx.set_sum(leaf, &self.sums[leaf])?;
        }
        Ok(())
    }

    /// Drops a write from the log. Whoever lacks it from then on cannot be told what it lacks write by write.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn drop_logged<T: KvTx>(&mut self, tx: &mut T, dot: &Dot) -> Result<(), Trouble<T::Error>> {
        if self.vector.contains(dot) && self.dropped.insert(*dot) {
            tx.drop_logged(dot)?;
            self.changed_actors.insert(dot.actor);
        }
        Ok(())
    }

    pub(super) fn load<T: KvTx>(
        &self,
        tx: &mut T,
        key: &Key,
    ) -> Result<Option<(Entry, blake3::Hash)>, Trouble<T::Error>> {
        let Some(row) = tx.row(key)? else { return Ok(None) };
        row::decode(key, &row).map(Some).map_err(|row::Damaged| Trouble::Damaged(key.clone()))
    }

    /// Keeps what is held of a key, of which the row that was there has added a hash to its sum.
    pub(super) fn store<T: KvTx>(
        &mut self,
        tx: &mut T,
        key: &Key,
        before: Option<blake3::Hash>,
        entry: &Entry,
    ) -> Result<(), Trouble<T::Error>> {
        let place = Place::of(key);
        let row = (!entry.is_empty()).then(|| row::encode(key, entry));
        let sum = &mut self.sums[place.leaf()];
        if let Some(before) = before {
            sum.subtract(&before);
        }
        if let Some((_, hash)) = &row {
            sum.add(hash);
        }
        self.changed_leaves.insert(place.leaf());
        if before.is_some() || row.is_some() {
            tx.set_row(place, key, row.as_ref().map(|(bytes, _)| bytes))?;
        }
        Ok(())
    }

    pub(super) fn learn(&mut self, dot: Dot) {
        self.vector.insert(dot);
        self.changed_actors.insert(dot.actor);
    }
}
