//! Comparing all of two copies, where what one lacks cannot be told key by key any more.
//!
//! One side asks, and alone changes by it. The other says what it has seen ([`Replica::opened`]), then what its ranges come to
//! and whole ranges where they differ ([`Replica::look`]), each read at its own moment, and keeps nothing of it in mind. At the
//! end, in one read, it says what it has seen by then and tells again every key that has changed since the beginning
//! ([`Replica::close`]), so that all that it has told holds for that one moment. Then the asker takes all of it in, in one
//! transaction, or nothing.
//!
//! Until then it takes in no write that the other had seen at the beginning, and no other answer: with it would come to stand
//! what the other knows to be replaced. Of keys that were found to be equal nothing has to be told: what another vector makes
//! of them is the same, but for names in a context that a write has brought in the meantime.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::delta::Budget;
use super::dot::{Actor, Dot};
use super::entry::Entry;
use super::key::Key;
use super::place::Place;
use super::replica::{Damage, LeafRow, ROWS_AT_ONCE, Replica, Trouble};
use super::row;
use super::store::KvTx;
use super::vector::Vector;
use crate::reconcile::{self, Differences, Divided, Range, Sums};
use crate::sum::Sum;

/// How often all places are divided for the first message: 4 KiB that say of 256 ranges what they come to save a round trip.
const FIRST_DEPTH: u32 = 3;

/// A comparison that would drop more keys than this, and more than one of [`DROPPED_PART`], is confirmed with another before.
pub const DROPPED_MAX: u64 = 1_000;

/// See [`DROPPED_MAX`].
pub const DROPPED_PART: u64 = 10;

/// Whether dropping so many of so many keys is confirmed with another before.
pub(super) fn is_much(dropped: u64, held: u64) -> bool {
    dropped > DROPPED_MAX && dropped > held / DROPPED_PART
}

/// What the other side begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Which of its lives answers: what it says later counts only from the same.
    pub by: Actor,
    /// What it has seen.
    pub vector: Vector,
    /// What its ranges come to.
    pub divided: Vec<Divided>,
}

/// Rows of a range that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The range.
    pub range: Range,
    /// The last that was told.
    pub after: Option<Key>,
}

/// Rows of a range: all that there are, from the first one after the last that was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The range.
    pub range: Range,
    /// Keys, and what is held of them.
    pub rows: Vec<(Key, Entry)>,
    /// What is to be asked for the rest.
    pub rest: Option<Wanted>,
}

/// What the other side has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Ranges that differ, for the asker to compare.
    pub divided: Vec<Divided>,
    /// Ranges in which it has few rows, and those that were wanted.
    pub rows: Vec<Rows>,
}

impl Looked {
    /// Whether it can be the answer to this question: of ranges that were asked for, each once, with keys that lie in them, and so that
    /// asking for the rest comes to an end.
    pub fn answers(&self, divided: &[Divided], wanted: &[Wanted]) -> bool {
        let parts: BTreeSet<Range> = divided.iter().filter_map(|divided| divided.range.parts()).flatten().collect();
        let asked_after = |range: &Range| match wanted.iter().find(|wanted| wanted.range == *range) {
            Some(wanted) => Some(wanted.after.as_ref()),
            None => parts.contains(range).then_some(None),
        };
        let is_answer = |told: &Rows| {
            let Some(asked_after) = asked_after(&told.range) else { return false };
            let keys = asked_after.into_iter().chain(told.rows.iter().map(|(key, _)| key));
            let ascend = keys.map(|key| (Place::of(key), key)).is_sorted_by(|one, next| one < next);
            let after = told.rows.last().map(|(key, _)| key).or(asked_after);
            let is_rest = |rest: &Wanted| rest.range == told.range && rest.after.as_ref() == after;
            let is_within = |key: &Key| told.range.places().contains(&Place::of(key).0);
            ascend && told.rest.as_ref().is_none_or(is_rest) && told.rows.iter().all(|(key, _)| is_within(key))
        };
        let comes_on =
            self.rows.iter().all(|told| told.rest.is_none()) || self.rows.iter().any(|told| !told.rows.is_empty());
        let answered: BTreeSet<Range> = self.rows.iter().map(|told| told.range).collect();
        let divided: BTreeSet<Range> = self.divided.iter().map(|divided| divided.range).collect();
        let is_once = answered.len() == self.rows.len() && divided.len() == self.divided.len();
        comes_on
            && is_once
            && self.rows.iter().all(is_answer)
            && wanted.iter().all(|wanted| answered.contains(&wanted.range))
            && divided.is_subset(&parts)
    }
}

/// What the other side ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// What it has seen.
    pub vector: Vector,
    /// All keys that have changed since it began, and what is held of them.
    pub changed: Vec<(Key, Entry)>,
}

/// Writes since the beginning of a comparison that are told at its end, all in one read; after more it begins anew.
pub const CHANGED_MAX: u64 = 1 << 17;

/// Bytes of values and keys of those that are told at the end; after more it begins anew.
pub const CHANGED_LEN_MAX: usize = 32 << 20;

/// What came of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// All was taken in.
    Done,
    /// Nothing: so many keys would be dropped of so many that another has to say the same first.
    Unconfirmed {
        /// Keys that would be dropped.
        dropped: u64,
        /// Keys that there are.
        held: u64,
    },
    /// Nothing: there is no comparison under way, or it is one with another, or this is no end of it.
    Stale,
}

/// A comparison that is under way at the side that asks.
#[derive(Clone, Debug)]
pub struct Session {
    by: Actor,
    opened: Vector,
    /// Of these all rows of the other are staged, or none is left to be.
    told: BTreeSet<Range>,
    /// Bytes of them so far.
    staged_len: u64,
}

impl Session {
    /// What the other had seen at the beginning.
    pub fn opened(&self) -> &Vector {
        &self.opened
    }

    /// Which life of the other answers.
    pub fn by(&self) -> Actor {
        self.by
    }
}

/// Staged in place of a row where a key was not told, but a write has changed it.
const TOUCHED: Bytes = Bytes::new();

/// What becomes of two entries of one key.
#[derive(Clone, Copy)]
enum Rule<'a> {
    /// What the vectors say, of which this is that of the other.
    Merge(&'a Vector),
    /// Both vectors say the same, and one of the two has lost something.
    Mend,
}

/// What becomes of a key.
struct Merged {
    key: Key,
    /// What its row has added to a sum.
    before: Option<blake3::Hash>,
    after: Entry,
    had_value: bool,
    /// Writes that the other has named in telling it.
    theirs: Vec<Dot>,
}

/// A replica within a read, as ranges of sums.
struct View<'a, T> {
    replica: &'a Replica,
    tx: &'a mut T,
    /// The leaf that was read last.
    leaf: Option<(usize, Vec<LeafRow>)>,
}

impl<'a, T: KvTx> View<'a, T> {
    fn new(replica: &'a Replica, tx: &'a mut T) -> Self {
        Self { replica, tx, leaf: None }
    }

    fn leaf(&mut self, leaf: usize) -> Result<&[LeafRow], Trouble<T::Error>> {
        if self.leaf.as_ref().is_none_or(|(read, _)| *read != leaf) {
            self.leaf = Some((leaf, self.replica.leaf(self.tx, leaf)?));
        }
        Ok(self.leaf.as_ref().map_or(&[], |(_, rows)| rows))
    }

    /// Rows of a range, as many as the budget has left.
    fn rows(&mut self, range: Range, after: Option<Key>, left: &mut Budget) -> Result<Rows, Trouble<T::Error>> {
        let mut told = Rows { range, rows: Vec::new(), rest: None };
        if left.is_spent() {
            told.rest = Some(Wanted { range, after });
            return Ok(told);
        }
        let first = Place(*range.places().start());
        let after = after.map(|key| (Place::of(&key), key)).filter(|(place, _)| range.places().contains(&place.0));
        let from = after.as_ref().map_or(first, |(place, _)| *place);
        for leaf in from.leaf()..=Place(*range.places().end()).leaf() {
            for row in self.leaf(leaf)? {
                let is_told = after.as_ref().is_some_and(|(place, key)| (row.place, &row.key) <= (*place, key));
                if is_told || !range.places().contains(&row.place.0) {
                    continue;
                }
                if left.is_spent() {
                    let last = told.rows.last().map(|(key, _)| key.clone());
                    told.rest = Some(Wanted { range, after: last.or(after.map(|(_, key)| key)) });
                    return Ok(told);
                }
                left.take(&row.entry);
                told.rows.push((row.key.clone(), row.entry.clone()));
            }
        }
        Ok(told)
    }
}

impl<T: KvTx> Sums for View<'_, T> {
    type Error = Trouble<T::Error>;

    fn sum(&mut self, range: Range) -> Result<Sum, Self::Error> {
        let (first, last) = range.places().into_inner();
        let (first_leaf, last_leaf) = (Place(first).leaf(), Place(last).leaf());
        let mut sum = Sum::default();
        if Place::first_of(first_leaf) == Place(first) && Place(last.wrapping_add(1)).leaf() != last_leaf {
            sum = self.replica.sum_of(first_leaf..last_leaf + 1);
        } else {
            let within = self.leaf(first_leaf)?.iter().filter(|row| range.places().contains(&row.place.0));
            within.for_each(|row| sum.add(&row.hash));
        }
        Ok(sum)
    }
}

/// The other side.
impl Replica {
    /// Begins.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn opened<T: KvTx>(&self, tx: &mut T) -> Result<Opened, Trouble<T::Error>> {
        let divided = reconcile::begin(&mut View::new(self, tx), FIRST_DEPTH)?;
        Ok(Opened { by: self.me(), vector: self.vector().clone(), divided })
    }

    /// Compares, and tells rows, no more than the budget has.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn look<T: KvTx>(
        &self,
        tx: &mut T,
        divided: &[Divided],
        wanted: &[Wanted],
        mut budget: Budget,
    ) -> Result<Looked, Trouble<T::Error>> {
        let mut view = View::new(self, tx);
        let Differences { divided, few } = reconcile::compare(&mut view, divided)?;
        let few = few.into_iter().map(|range| Wanted { range, after: None });
        let mut rows = Vec::new();
        for Wanted { range, after } in few.chain(wanted.iter().cloned()) {
            rows.push(view.rows(range, after, &mut budget)?);
        }
        Ok(Looked { divided, rows })
    }

    /// Ends a comparison that began with this. None if it has to be begun anew: this is another life of the node, or it is not
    /// known any more what has changed.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn close<T: KvTx>(&self, tx: &mut T, by: Actor, opened: &Vector) -> Result<Option<Closed>, Trouble<T::Error>> {
        if by != self.me() {
            return Ok(None);
        }
        let Some(missing) = self.missing(tx, self.vector(), opened, CHANGED_MAX)? else { return Ok(None) };
        let changed = self.entries(tx, missing.into_keys().collect(), CHANGED_LEN_MAX)?;
        Ok(changed.map(|changed| Closed { vector: self.vector().clone(), changed }))
    }
}

/// The side that asks.
impl Replica {
    /// Begins a comparison in place of any other.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn begin<T: KvTx>(&mut self, tx: &mut T, opened: &Opened) -> Result<Differences, Trouble<T::Error>> {
        tx.clear_staged()?;
        self.session =
            Some(Session { by: opened.by, opened: opened.vector.clone(), told: BTreeSet::new(), staged_len: 0 });
        self.compare(tx, &opened.divided)
    }

    /// Compares what the other has found, and says where to look closer.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn compare<T: KvTx>(&self, tx: &mut T, divided: &[Divided]) -> Result<Differences, Trouble<T::Error>> {
        reconcile::compare(&mut View::new(self, tx), divided)
    }

    /// Keeps rows of the other until the end.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn stage<T: KvTx>(&mut self, tx: &mut T, rows: &Rows) -> Result<(), Trouble<T::Error>> {
        let Some(session) = &mut self.session else { return Ok(()) };
        session.told.insert(rows.range);
        for (key, entry) in &rows.rows {
            let (row, _) = row::encode(key, entry);
            session.staged_len += (key.as_bytes().len() + row.len()) as u64;
            tx.stage(key, &row)?;
        }
        Ok(())
    }

    /// Bytes of rows of the other that are kept until the end.
    pub(super) fn staged_len(&self) -> u64 {
        self.session.as_ref().map_or(0, |session| session.staged_len)
    }

    /// Gives the comparison up.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn abandon<T: KvTx>(&mut self, tx: &mut T) -> Result<(), Trouble<T::Error>> {
        match self.session.take() {
            Some(_) => Ok(tx.clear_staged()?),
            None => Ok(()),
        }
    }

    /// Takes all in at once that the other holds. `is_confirmed` says that it may drop much.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn adopt<T: KvTx>(
        &mut self,
        tx: &mut T,
        by: Actor,
        closed: &Closed,
        is_confirmed: bool,
    ) -> Result<Adopted, Trouble<T::Error>> {
        let Some(session) = self.ended(by, closed) else { return Ok(Adopted::Stale) };
        for (key, entry) in &closed.changed {
            tx.stage(key, &row::encode(key, entry).0)?;
        }
        self.stage_absent(tx, &session.told)?;
        if !is_confirmed {
            let (dropped, held) = self.would_drop(tx, &closed.vector)?;
            if is_much(dropped, held) {
                return Ok(Adopted::Unconfirmed { dropped, held });
            }
        }
        self.notice_all(&closed.vector);
        self.each_staged(tx, Rule::Merge(&closed.vector), |replica, tx, merged| {
            merged.theirs.iter().for_each(|dot| replica.notice(dot));
            replica.store(tx, &merged.key, merged.before, &merged.after).map(drop)
        })?;
        self.learn_all(&closed.vector);
        self.abandon(tx)?;
        tx.set_behind(false)?;
        Ok(Adopted::Done)
    }

    /// Takes in what stands there and not here although both have seen the same: one of the two has lost it, or the write
    /// that took its place, and both are whole by all that is kept. How many keys have changed; None where one of the two
    /// has seen more, so that nothing can be said.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn mend<T: KvTx>(&mut self, tx: &mut T, by: Actor, closed: &Closed) -> Result<Option<u64>, Trouble<T::Error>> {
        if self.ended(by, closed).is_none() || closed.vector != *self.vector() {
            return Ok(None);
        }
        for (key, entry) in &closed.changed {
            tx.stage(key, &row::encode(key, entry).0)?;
        }
        let mut mended = 0;
        self.each_staged(tx, Rule::Mend, |replica, tx, merged| {
            let kept = replica.store(tx, &merged.key, merged.before, &merged.after)?;
            mended += u64::from(kept);
            Ok(())
        })?;
        self.abandon(tx)?;
        Ok(Some(mended))
    }

    /// The comparison that ends with this, if it is one: whoever began it has forgotten nothing since.
    fn ended(&self, by: Actor, closed: &Closed) -> Option<Session> {
        let session = self.session.as_ref()?;
        (session.by == by && closed.vector.covers(&session.opened)).then(|| session.clone())
    }

    /// Takes note that a write has changed a key: at the end its context is looked at, even if nothing is told of it.
    pub(super) fn touched<T: KvTx>(&self, tx: &mut T, key: &Key) -> Result<(), Trouble<T::Error>> {
        if self.session.is_some() && tx.staged_row(key)?.is_none() {
            tx.stage(key, &TOUCHED)?;
        }
        Ok(())
    }

    /// How many keys would have no value any more, and how many rows there are.
    fn would_drop<T: KvTx>(&mut self, tx: &mut T, theirs: &Vector) -> Result<(u64, u64), Trouble<T::Error>> {
        let held = self.len();
        let mut dropped = 0;
        // Fewer cannot be too many.
        if held > DROPPED_MAX {
            self.each_staged(tx, Rule::Merge(theirs), |_, _, merged| {
                dropped += u64::from(merged.had_value && merged.after.siblings().is_empty());
                Ok(())
            })?;
        }
        Ok((dropped, held))
    }

    /// What becomes of each key that was staged.
    fn each_staged<T: KvTx>(
        &mut self,
        tx: &mut T,
        rule: Rule<'_>,
        mut each: impl FnMut(&mut Self, &mut T, Merged) -> Result<(), Trouble<T::Error>>,
    ) -> Result<(), Trouble<T::Error>> {
        let (mut last, mut checked): (Option<Key>, _) = (None, BTreeSet::new());
        loop {
            let staged = tx.staged(last.as_ref(), ROWS_AT_ONCE)?;
            let Some((key, _)) = staged.last() else { return Ok(()) };
            last = Some(key.clone());
            for (key, row) in staged {
                let loaded = self.load_from_whole(tx, &key, &mut checked)?;
                let (mut after, before) = loaded.map_or_else(Default::default, |(entry, hash)| (entry, Some(hash)));
                let had_value = !after.siblings().is_empty();
                let told = (row != TOUCHED).then(|| row::decode(&key, &row)).transpose();
                let told = told.map_err(|row::Damaged| Trouble::Damage(Damage::Row(key.clone())))?;
                let names = told.iter().flat_map(|(entry, _)| entry.names()).collect();
                match (told, rule) {
                    (Some((entry, _)), Rule::Merge(theirs)) => after.merge(self.vector(), &entry, theirs),
                    (Some((entry, _)), Rule::Mend) => after.mend(self.vector(), &entry),
                    (None, Rule::Merge(theirs)) => after.strip(theirs),
                    (None, Rule::Mend) => {}
                }
                each(self, tx, Merged { key, before, after, had_value, theirs: names })?;
            }
        }
    }

    /// Of ranges that were told, what is held here and not there: there it is nothing.
    fn stage_absent<T: KvTx>(&self, tx: &mut T, told: &BTreeSet<Range>) -> Result<(), Trouble<T::Error>> {
        for range in told {
            let (first, last) = range.places().into_inner();
            for leaf in Place(first).leaf()..=Place(last).leaf() {
                for row in self.leaf(tx, leaf)? {
                    let is_within = range.places().contains(&row.place.0);
                    if is_within && tx.staged_row(&row.key)?.is_none_or(|row| row == TOUCHED) {
                        tx.stage(&row.key, &row::encode(&row.key, &Entry::default()).0)?;
                    }
                }
            }
        }
        Ok(())
    }
}
