//! Where the map is kept: rows, the log of writes, the vector and the sums, as one transaction sees them.
//!
//! A store keeps bytes and knows nothing of what they mean; [`super::Replica`] does. What a transaction has written is kept
//! whole once it is committed, or not at all; nothing is said to anybody before that.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use bytes::Bytes;

use super::dot::{Actor, Dot};
use super::key::Key;
use super::place::Place;
use super::vector::Seen;
use crate::sum::Sum;

/// One transaction on a store. After an error nothing is known of what it has done: it is to be given up, and the replica with
/// it.
pub trait KvTx {
    /// Why a store cannot be read or written.
    type Error;

    /// The row of a key, if there is one.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn row(&mut self, key: &Key) -> Result<Option<Bytes>, Self::Error>;

    /// Keeps a key's row, or that it has none any more.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_row(&mut self, place: Place, key: &Key, row: Option<&Bytes>) -> Result<(), Self::Error>;

    /// Up to `count` rows from a place on, in the order of places and keys; after that key, where one is given.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn rows(&mut self, from: Place, after: Option<&Key>, count: usize)
    -> Result<Vec<(Place, Key, Bytes)>, Self::Error>;

    /// Notes of which key a write is, and the write itself where it came as one and not as part of what somebody holds.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn append(&mut self, dot: &Dot, key: &Key, op: Option<&Bytes>) -> Result<(), Self::Error>;

    /// Of which key a write is, if it is in the log still, and the write if it ever was.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn logged(&mut self, dot: &Dot) -> Result<Option<(Key, Option<Bytes>)>, Self::Error>;

    /// All writes of a key that are in the log still.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn logged_of(&mut self, key: &Key) -> Result<Vec<Dot>, Self::Error>;

    /// Drops a write from the log.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn drop_logged(&mut self, dot: &Dot) -> Result<(), Self::Error>;

    /// What has left the log.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn dropped(&mut self) -> Result<Vec<(Actor, Seen)>, Self::Error>;

    /// Keeps what of an actor has left the log.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_dropped(&mut self, actor: &Actor, dropped: &Seen) -> Result<(), Self::Error>;

    /// All that was seen of each actor.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn vector(&mut self) -> Result<Vec<(Actor, Seen)>, Self::Error>;

    /// Keeps what was seen of an actor.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_seen(&mut self, actor: &Actor, seen: &Seen) -> Result<(), Self::Error>;

    /// The sums that are kept, each with its leaf; those that are not are of nothing.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn sums(&mut self) -> Result<Vec<(usize, Sum)>, Self::Error>;

    /// Keeps the sum of a leaf.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_sum(&mut self, leaf: usize, sum: &Sum) -> Result<(), Self::Error>;
}

/// A store in memory: for simulations, and to say what a store is. A copy of it is a copy of the disk.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    rows: BTreeMap<Place, BTreeMap<Key, Bytes>>,
    log: BTreeMap<Dot, (Key, Option<Bytes>)>,
    log_of: BTreeMap<Key, BTreeSet<Dot>>,
    seen: BTreeMap<Actor, Seen>,
    dropped: BTreeMap<Actor, Seen>,
    sums: BTreeMap<usize, Sum>,
}

impl KvTx for Memory {
    type Error = Infallible;

    fn row(&mut self, key: &Key) -> Result<Option<Bytes>, Infallible> {
        Ok(self.rows.get(&Place::of(key)).and_then(|rows| rows.get(key)).cloned())
    }

    fn set_row(&mut self, place: Place, key: &Key, row: Option<&Bytes>) -> Result<(), Infallible> {
        let rows = self.rows.entry(place).or_default();
        match row {
            Some(row) => drop(rows.insert(key.clone(), row.clone())),
            None => drop(rows.remove(key)),
        }
        if rows.is_empty() {
            self.rows.remove(&place);
        }
        Ok(())
    }

    fn rows(&mut self, from: Place, after: Option<&Key>, count: usize) -> Result<Vec<(Place, Key, Bytes)>, Infallible> {
        let rows = self.rows.range(from..).flat_map(|(place, rows)| rows.iter().map(|(key, row)| (*place, key, row)));
        let rows = rows.filter(|(place, key, _)| *place > from || after.is_none_or(|after| *key > after));
        Ok(rows.take(count).map(|(place, key, row)| (place, key.clone(), row.clone())).collect())
    }

    fn append(&mut self, dot: &Dot, key: &Key, op: Option<&Bytes>) -> Result<(), Infallible> {
        self.log.insert(*dot, (key.clone(), op.cloned()));
        self.log_of.entry(key.clone()).or_default().insert(*dot);
        Ok(())
    }

    fn logged(&mut self, dot: &Dot) -> Result<Option<(Key, Option<Bytes>)>, Infallible> {
        Ok(self.log.get(dot).cloned())
    }

    fn logged_of(&mut self, key: &Key) -> Result<Vec<Dot>, Infallible> {
        Ok(self.log_of.get(key).map(|dots| dots.iter().copied().collect()).unwrap_or_default())
    }

    fn drop_logged(&mut self, dot: &Dot) -> Result<(), Infallible> {
        if let Some((key, _)) = self.log.remove(dot)
            && let Some(dots) = self.log_of.get_mut(&key)
        {
            dots.retain(|other| other != dot);
            if dots.is_empty() {
                self.log_of.remove(&key);
            }
        }
        Ok(())
    }

    fn dropped(&mut self) -> Result<Vec<(Actor, Seen)>, Infallible> {
        Ok(self.dropped.iter().map(|(actor, seen)| (*actor, seen.clone())).collect())
    }

    fn set_dropped(&mut self, actor: &Actor, dropped: &Seen) -> Result<(), Infallible> {
        self.dropped.insert(*actor, dropped.clone());
        Ok(())
    }

    fn vector(&mut self) -> Result<Vec<(Actor, Seen)>, Infallible> {
        Ok(self.seen.iter().map(|(actor, seen)| (*actor, seen.clone())).collect())
    }

    fn set_seen(&mut self, actor: &Actor, seen: &Seen) -> Result<(), Infallible> {
        self.seen.insert(*actor, seen.clone());
        Ok(())
    }

    fn sums(&mut self) -> Result<Vec<(usize, Sum)>, Infallible> {
        Ok(self.sums.iter().map(|(leaf, sum)| (*leaf, *sum)).collect())
    }

    fn set_sum(&mut self, leaf: usize, sum: &Sum) -> Result<(), Infallible> {
        self.sums.insert(leaf, *sum);
        Ok(())
    }
}
