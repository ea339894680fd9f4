//! The sums that a copy keeps: of the rows of each leaf, of each bucket of the vector, and of all.
//!
//! A sum that is lost looks like one of nothing: with it and what it is of, nothing would seem to be missing. So what all of them
//! come to ([`Root`]) is kept elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::dot::BUCKETS;
use super::place::LEAVES;
use crate::sum::Sum;

/// The number of the sum of the vector's first bucket; those below are of the rows of a leaf each.
const VECTOR: usize = LEAVES;

/// The first number that is of no sum.
const END: usize = VECTOR + BUCKETS;

/// What all sums come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// All rows.
    pub rows: Sum,
    /// What was seen of all actors.
    pub vector: Sum,
}

impl Root {
    /// As it is kept.
    pub fn to_bytes(&self) -> [u8; 80] {
        let mut bytes = [0; 80];
        bytes[..40].copy_from_slice(&self.rows.to_bytes());
        bytes[40..].copy_from_slice(&self.vector.to_bytes());
        bytes
    }

    /// What [`Self::to_bytes`] has written.
    pub fn from_bytes(bytes: &[u8; 80]) -> Self {
        let half = |from: usize| Sum::from_bytes(bytes[from..from + 40].try_into().expect("40 of 80"));
        Self { rows: half(0), vector: half(40) }
    }
}

/// Sums by their numbers. Of what is empty there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptSums {
    sums: BTreeMap<usize, Sum>,
    root: Root,
    changed: BTreeSet<usize>,
}

impl KeptSums {
    /// Those that were kept; None if they are not of one another.
    pub(super) fn of(kept: Vec<(usize, Sum)>, root: Option<Root>) -> Option<Self> {
        let root = root.unwrap_or_default();
        let sums = Self { sums: kept.into_iter().collect(), root, changed: BTreeSet::new() };
        let is_known = sums.sums.last_key_value().is_none_or(|(number, _)| *number < END);
        let found = Root { rows: sums.all(0..LEAVES), vector: sums.all(VECTOR..END) };
        (is_known && found == root).then_some(sums)
    }

    /// Of the rows of a leaf.
    pub(super) fn leaf(&self, leaf: usize) -> Sum {
        self.get(leaf)
    }

    /// The first of some leaves that has rows.
    pub(super) fn first_held(&self, leaves: Range<usize>) -> Option<usize> {
        self.sums.range(leaves).find(|(_, sum)| **sum != Sum::default()).map(|(leaf, _)| *leaf)
    }

    /// Of the rows of some leaves together.
    pub(super) fn leaves(&self, leaves: Range<usize>) -> Sum {
        self.all(leaves)
    }

    /// Of all rows.
    pub(super) fn rows(&self) -> Sum {
        self.root.rows
    }

    /// Of a bucket of the vector.
    pub(super) fn bucket(&self, bucket: u8) -> Sum {
        self.get(VECTOR + usize::from(bucket))
    }

    /// Of the whole vector.
    pub(super) fn vector(&self) -> Sum {
        self.root.vector
    }

    /// A row has become another: what each adds, if there is one.
    pub(super) fn change_row(&mut self, leaf: usize, before: Option<&blake3::Hash>, after: Option<&blake3::Hash>) {
        self.change(leaf, before, after);
        change(&mut self.root.rows, before, after);
    }

    /// What was seen of an actor has become something else.
    pub(super) fn change_seen(&mut self, bucket: u8, before: Option<&blake3::Hash>, after: Option<&blake3::Hash>) {
        self.change(VECTOR + usize::from(bucket), before, after);
        change(&mut self.root.vector, before, after);
    }

    /// What has changed since this was asked last, and what all come to, if anything has.
    pub(super) fn take_changed(&mut self) -> (Vec<(usize, Sum)>, Option<Root>) {
        let changed = std::mem::take(&mut self.changed);
        let root = (!changed.is_empty()).then_some(self.root);
        (changed.into_iter().map(|number| (number, self.get(number))).collect(), root)
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
        change(sum, before, after);
        if *sum == Sum::default() {
            self.sums.remove(&number);
        }
        self.changed.insert(number);
    }
}

fn change(sum: &mut Sum, before: Option<&blake3::Hash>, after: Option<&blake3::Hash>) {
    before.into_iter().for_each(|hash| sum.subtract(hash));
    after.into_iter().for_each(|hash| sum.add(hash));
}
