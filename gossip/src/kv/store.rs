//! Where the map is kept: rows, the log of writes, the vector and the sums, as one transaction sees them.
//!
//! A store keeps bytes and knows nothing of what they mean; [`super::Replica`] does. What a transaction has written is kept
//! whole once it is committed, or not at all; nothing is said to anybody before that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::{Bound, RangeInclusive};

use bytes::Bytes;

use super::dot::{Actor, Dot};
use super::key::Key;
use super::place::Place;
use super::sums::Root;
use super::vector::Seen;
use crate::sum::Sum;

/// One transaction on a store. After an error nothing is known of what it has done: it is to be given up, and the replica with
/// it.
///
/// Whether what is read is what was written is not for the store to find out, but for the replica.
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

    /// Up to `count` rows of some places, in the order of places and keys; after that key of the first place, where one is given.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn rows(
        &mut self,
        places: RangeInclusive<Place>,
        after: Option<&Key>,
        count: usize,
    ) -> Result<Vec<(Place, Key, Bytes)>, Self::Error>;

    /// Notes of which key a write is, and the write itself where it came as one and not as part of what somebody holds.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn append(&mut self, dot: &Dot, key: &Key, op: Option<&Bytes>) -> Result<(), Self::Error>;

    /// Of which key a write is, if it is in the log, and the write if it ever was.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn logged(&mut self, dot: &Dot) -> Result<Option<(Key, Option<Bytes>)>, Self::Error>;

    /// How many of an actor's writes are in the log.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn count_logged(&mut self, actor: &Actor, run: RangeInclusive<u64>) -> Result<u64, Self::Error>;

    /// The place in the log, in the order in which writes were appended, that the next one gets.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn log_end(&mut self) -> Result<u64, Self::Error>;

    /// Drops the oldest writes from the log, those before a place, while there are more than `keep`; about `count` at most.
    /// How many.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn trim_log(&mut self, keep: u64, before: u64, count: usize) -> Result<u64, Self::Error>;

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

    /// The sums that are kept, each with its number; those that are not are of nothing.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn sums(&mut self) -> Result<Vec<(usize, Sum)>, Self::Error>;

    /// The sum of this number, if it is kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn sum(&mut self, number: usize) -> Result<Option<Sum>, Self::Error>;

    /// Keeps a sum.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_sum(&mut self, number: usize, sum: &Sum) -> Result<(), Self::Error>;

    /// What all sums came to when that was kept last.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn root(&mut self) -> Result<Option<Root>, Self::Error>;

    /// Keeps what all sums come to.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_root(&mut self, root: &Root) -> Result<(), Self::Error>;

    /// Whether this store was built from what was left of another, and has not been compared with a whole one since.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn is_behind(&mut self) -> Result<bool, Self::Error>;

    /// Keeps whether it is behind.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_behind(&mut self, is_behind: bool) -> Result<(), Self::Error>;

    /// Keeps what another holds of a key until all that it holds is taken in at once.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn stage(&mut self, key: &Key, row: &Bytes) -> Result<(), Self::Error>;

    /// What was staged of a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn staged_row(&mut self, key: &Key) -> Result<Option<Bytes>, Self::Error>;

    /// Up to `count` keys that were staged, in order, and with what; after that one, where one is given.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn staged(&mut self, after: Option<&Key>, count: usize) -> Result<Vec<(Key, Bytes)>, Self::Error>;

    /// Forgets what was staged.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn clear_staged(&mut self) -> Result<(), Self::Error>;

    /// Sets rows and log aside, and forgets all else: the store is empty.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn set_aside(&mut self) -> Result<(), Self::Error>;

    /// As [`KvTx::rows`], of what was set aside.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn rows_aside(
        &mut self,
        from: Place,
        after: Option<&Key>,
        count: usize,
    ) -> Result<Vec<(Place, Key, Bytes)>, Self::Error>;

    /// Up to `count` whole writes of the log that was set aside, from a place in it on, each with its place. What they are
    /// called nobody else knows any more.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn log_aside(&mut self, from: u64, count: usize) -> Result<Vec<(u64, Bytes)>, Self::Error>;

    /// Forgets what was set aside.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn clear_aside(&mut self) -> Result<(), Self::Error>;
}

/// A store in memory: for simulations, and to say what a store is. A copy of it is a copy of the disk.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    held: Held,
    aside: Held,
    seen: BTreeMap<Actor, Seen>,
    sums: BTreeMap<usize, Sum>,
    root: Option<Root>,
    staged: BTreeMap<Key, Bytes>,
    is_behind: bool,
    changes: u64,
}

#[derive(Clone, Debug, Default)]
struct Held {
    rows: BTreeMap<Place, BTreeMap<Key, Bytes>>,
    log: BTreeMap<Dot, (Key, Option<Bytes>)>,
    /// The order in which writes were appended.
    order: BTreeMap<u64, Dot>,
    end: u64,
}

impl Memory {
    /// How often it was changed: whatever has not been is the same still.
    pub fn changes(&self) -> u64 {
        self.changes
    }
}

/// What may happen to a disk.
impl Memory {
    /// Loses what was seen of one of the actors, whichever.
    pub fn lose_seen(&mut self, chosen: usize) {
        let actor = self.seen.keys().nth(chosen % self.seen.len().max(1)).copied();
        actor.map(|actor| self.seen.remove(&actor));
    }

    /// Loses a write from the log, whichever.
    pub fn lose_logged(&mut self, chosen: usize) {
        let held = &mut self.held;
        let dot = held.log.keys().nth(chosen % held.log.len().max(1)).copied();
        if let Some((dot, _)) = dot.and_then(|dot| held.log.remove_entry(&dot)) {
            held.order.retain(|_, other| *other != dot);
        }
    }

    /// Loses a sum, whichever, or what all come to.
    pub fn lose_sum(&mut self, chosen: usize) {
        match self.sums.keys().nth(chosen % (self.sums.len() + 1)).copied() {
            Some(number) => drop(self.sums.remove(&number)),
            None => self.root = None,
        }
    }
}

impl Held {
    fn rows(&self, places: RangeInclusive<Place>, after: Option<&Key>, count: usize) -> Vec<(Place, Key, Bytes)> {
        let from = *places.start();
        let rows = self.rows.range(places).flat_map(|(place, rows)| rows.iter().map(|(key, row)| (*place, key, row)));
        let rows = rows.filter(|(place, key, _)| *place > from || after.is_none_or(|after| *key > after));
        rows.take(count).map(|(place, key, row)| (place, key.clone(), row.clone())).collect()
    }
}

impl KvTx for Memory {
    type Error = Infallible;

    fn row(&mut self, key: &Key) -> Result<Option<Bytes>, Infallible> {
        Ok(self.held.rows.get(&Place::of(key)).and_then(|rows| rows.get(key)).cloned())
    }

    fn set_row(&mut self, place: Place, key: &Key, row: Option<&Bytes>) -> Result<(), Infallible> {
        self.changes += 1;
        let rows = self.held.rows.entry(place).or_default();
        match row {
            Some(row) => drop(rows.insert(key.clone(), row.clone())),
            None => drop(rows.remove(key)),
        }
        if rows.is_empty() {
            self.held.rows.remove(&place);
        }
        Ok(())
    }

    fn rows(
        &mut self,
        places: RangeInclusive<Place>,
        after: Option<&Key>,
        count: usize,
    ) -> Result<Vec<(Place, Key, Bytes)>, Infallible> {
        Ok(self.held.rows(places, after, count))
    }

    fn append(&mut self, dot: &Dot, key: &Key, op: Option<&Bytes>) -> Result<(), Infallible> {
        self.changes += 1;
        let held = &mut self.held;
        held.log.insert(*dot, (key.clone(), op.cloned()));
        held.order.insert(held.end, *dot);
        held.end += 1;
        Ok(())
    }

    fn logged(&mut self, dot: &Dot) -> Result<Option<(Key, Option<Bytes>)>, Infallible> {
        Ok(self.held.log.get(dot).cloned())
    }

    fn count_logged(&mut self, actor: &Actor, run: RangeInclusive<u64>) -> Result<u64, Infallible> {
        let dot = |counter| Dot { actor: *actor, counter };
        Ok(self.held.log.range(dot(*run.start())..=dot(*run.end())).count() as u64)
    }

    fn log_end(&mut self) -> Result<u64, Infallible> {
        Ok(self.held.end)
    }

    fn trim_log(&mut self, keep: u64, before: u64, count: usize) -> Result<u64, Infallible> {
        let held = &mut self.held;
        let extra = (held.order.len() as u64).saturating_sub(keep).min(count as u64);
        let oldest: Vec<(u64, Dot)> =
            held.order.range(..before).take(extra as usize).map(|(place, dot)| (*place, *dot)).collect();
        for (place, dot) in &oldest {
            held.order.remove(place);
            held.log.remove(dot);
        }
        self.changes += u64::from(!oldest.is_empty());
        Ok(oldest.len() as u64)
    }

    fn vector(&mut self) -> Result<Vec<(Actor, Seen)>, Infallible> {
        Ok(self.seen.iter().map(|(actor, seen)| (*actor, seen.clone())).collect())
    }

    fn set_seen(&mut self, actor: &Actor, seen: &Seen) -> Result<(), Infallible> {
        self.changes += 1;
        self.seen.insert(*actor, seen.clone());
        Ok(())
    }

    fn sums(&mut self) -> Result<Vec<(usize, Sum)>, Infallible> {
        Ok(self.sums.iter().map(|(number, sum)| (*number, *sum)).collect())
    }

    fn sum(&mut self, number: usize) -> Result<Option<Sum>, Infallible> {
        Ok(self.sums.get(&number).copied())
    }

    fn set_sum(&mut self, number: usize, sum: &Sum) -> Result<(), Infallible> {
        self.changes += 1;
        self.sums.insert(number, *sum);
        Ok(())
    }

    fn root(&mut self) -> Result<Option<Root>, Infallible> {
        Ok(self.root)
    }

    fn set_root(&mut self, root: &Root) -> Result<(), Infallible> {
        self.changes += 1;
        self.root = Some(*root);
        Ok(())
    }

    fn is_behind(&mut self) -> Result<bool, Infallible> {
        Ok(self.is_behind)
    }

    fn set_behind(&mut self, is_behind: bool) -> Result<(), Infallible> {
        self.changes += u64::from(self.is_behind != is_behind);
        self.is_behind = is_behind;
        Ok(())
    }

    fn stage(&mut self, key: &Key, row: &Bytes) -> Result<(), Infallible> {
        self.changes += 1;
        self.staged.insert(key.clone(), row.clone());
        Ok(())
    }

    fn staged_row(&mut self, key: &Key) -> Result<Option<Bytes>, Infallible> {
        Ok(self.staged.get(key).cloned())
    }

    fn staged(&mut self, after: Option<&Key>, count: usize) -> Result<Vec<(Key, Bytes)>, Infallible> {
        let start = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let staged = self.staged.range((start, Bound::Unbounded));
        Ok(staged.take(count).map(|(key, row)| (key.clone(), row.clone())).collect())
    }

    fn clear_staged(&mut self) -> Result<(), Infallible> {
        self.changes += u64::from(!self.staged.is_empty());
        self.staged.clear();
        Ok(())
    }

    fn set_aside(&mut self) -> Result<(), Infallible> {
        let (aside, changes) = (std::mem::take(&mut self.held), self.changes + 1);
        // No place in the log is given twice.
        let held = Held { end: aside.end, ..Held::default() };
        *self = Self { held, aside, changes, ..Self::default() };
        Ok(())
    }

    fn rows_aside(
        &mut self,
        from: Place,
        after: Option<&Key>,
        count: usize,
    ) -> Result<Vec<(Place, Key, Bytes)>, Infallible> {
        Ok(self.aside.rows(from..=Place(u64::MAX), after, count))
    }

    fn log_aside(&mut self, from: u64, count: usize) -> Result<Vec<(u64, Bytes)>, Infallible> {
        let aside = &self.aside;
        let whole = aside.order.range(from..).filter_map(|(place, dot)| {
            let (_, op) = aside.log.get(dot)?;
            Some((*place, op.clone()?))
        });
        Ok(whole.take(count).collect())
    }

    fn clear_aside(&mut self) -> Result<(), Infallible> {
        self.changes += 1;
        self.aside = Held::default();
        Ok(())
    }
}
