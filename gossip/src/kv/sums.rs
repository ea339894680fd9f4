//! The sums that a copy keeps: of the rows of each leaf, of each bucket of the vector, and of all rows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::dot::BUCKETS;
use super::place::LEAVES;
use crate::sum::Sum;

/// The number of the sum of the vector's first bucket; those below are of the rows of a leaf each.
const VECTOR: usize = LEAVES;

/// The number of the sum of all rows, by which a lost sum of a leaf is found: it would look like one of no rows.
const ROWS: usize = VECTOR + BUCKETS;

/// Sums by their numbers. Of what is empty there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptSums {
    sums: BTreeMap<usize, Sum>,
    changed: BTreeSet<usize>,
}

impl KeptSums {
    /// Those that were kept; None if they are not of one another.
    pub(super) fn of(kept: Vec<(usize, Sum)>) -> Option<Self> {
        let sums = Self { sums: kept.into_iter().collect(), changed: BTreeSet::new() };
        let is_known = sums.sums.last_key_value().is_none_or(|(number, _)| *number <= ROWS);
        (is_known && sums.all(0..LEAVES) == sums.rows()).then_some(sums)
    }

    /// Of the rows of a leaf.
    pub(super) fn leaf(&self, leaf: usize) -> Sum {
        self.get(leaf)
    }

    /// Leaves that have rows.
    pub(super) fn held_leaves(&self) -> impl Iterator<Item = usize> {
        self.sums.range(0..LEAVES).filter(|(_, sum)| **sum != Sum::default()).map(|(leaf, _)| *leaf)
    }

    /// Of the rows of some leaves together.
    pub(super) fn leaves(&self, leaves: Range<usize>) -> Sum {
        self.all(leaves)
    }

    /// Of all rows.
    pub(super) fn rows(&self) -> Sum {
        self.get(ROWS)
    }

    /// Of a bucket of the vector.
    pub(super) fn bucket(&self, bucket: u8) -> Sum {
        self.get(VECTOR + usize::from(bucket))
    }

    /// Of the whole vector.
    pub(super) fn vector(&self) -> Sum {
        self.all(VECTOR..ROWS)
    }

    /// A row has become another: what each adds, if there is one.
    pub(super) fn change_row(&mut self, leaf: usize, before: Option<&blake3::Hash>, after: Option<&blake3::Hash>) {
        self.change(leaf, before, after);
        self.change(ROWS, before, after);
    }

    /// What was seen of an actor has become something else.
    pub(super) fn change_seen(&mut self, bucket: u8, before: Option<&blake3::Hash>, after: Option<&blake3::Hash>) {
        self.change(VECTOR + usize::from(bucket), before, after);
    }

    /// What has changed since this was asked last.
    pub(super) fn take_changed(&mut self) -> Vec<(usize, Sum)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|number| (number, self.get(number))).collect()
    }

    fn get(&self, number: usize) -> Sum {
        self.sums.get(&number).copied().unwrap_or_default()
    }

    fn all(&self, numbers: Range<usize>) -> Sum {
        let mut sum = Sum::default();
        self.sums.range(numbers).for_each(|(_, part)| sum.join(part));
        sum
    }

    fn change(&mut self, number: usize, before: Option<&blake3::Hash>, after: Option<&blake3::Hash>) {
        let sum = self.sums.entry(number).or_default();
        before.into_iter().for_each(|hash| sum.subtract(hash));
        after.into_iter().for_each(|hash| sum.add(hash));
        if *sum == Sum::default() {
            self.sums.remove(&number);
        }
        self.changed.insert(number);
    }
}
