//! Sees all that nodes write and keep, and says what does not hold.
//!
//! What is owed: no two writes share a name; the rows of every commit are the fold of the writes that its vector names; a vector
//! only grows, but in a store that was set back or built again; what was acknowledged is in every vector in the end.

use std::collections::{BTreeMap, BTreeSet};

use crate::kv::fold::fold;
use crate::kv::{Dot, Entry, Key, Op, Vector};
use crate::sim::Slot;

/// The judge.
#[derive(Default)]
pub(super) struct Judge {
    /// What did not hold.
    pub(super) violations: Vec<String>,
    /// Commits that were looked at.
    pub(super) commits: u64,
    ops: BTreeMap<Dot, Op>,
    of_key: BTreeMap<Key, Vec<Dot>>,
    /// Writes that were made by calls that have come to their end well, and are owed.
    owed: BTreeSet<Dot>,
    last: BTreeMap<Slot, Vector>,
    /// What was lost behind their backs makes their rows another thing than their vectors until they notice.
    hurt: BTreeSet<Slot>,
    /// Those whose disk, or what it is a copy of, was hurt at any time: only they may be built again.
    ever_hurt: BTreeSet<Slot>,
}

impl Judge {
    /// Every write of a key.
    fn of(&self, key: &Key) -> impl Iterator<Item = &Op> {
        self.of_key.get(key).into_iter().flatten().filter_map(|dot| self.ops.get(dot))
    }

    pub(super) fn made(&mut self, op: &Op) {
        if let Some(other) = self.ops.insert(op.dot, op.clone()) {
            self.violations.push(format!("two writes are called {:?}: {op:?} and {other:?}", op.dot));
        }
        self.of_key.entry(op.key.clone()).or_default().push(op.dot);
    }

    pub(super) fn acknowledged(&mut self, dot: Dot) {
        self.owed.insert(dot);
    }

    pub(super) fn committed(&mut self, slot: Slot, rows: &[(Key, Entry)], vector: &Vector) {
        self.commits += 1;
        if !self.hurt.contains(&slot) {
            rows.iter().for_each(|(key, entry)| self.check(slot, key, entry, vector));
        }
        if let Some(last) = self.last.insert(slot, vector.clone())
            && !vector.covers(&last)
        {
            self.violations.push(format!("node {} has forgotten writes: {last:?}, then {vector:?}", slot.0));
        }
    }

    /// Whether a key is what the vector makes it.
    pub(super) fn check(&mut self, slot: Slot, key: &Key, entry: &Entry, vector: &Vector) {
        let siblings = entry.siblings().iter().map(|sibling| (sibling.dot, sibling.value.to_vec())).collect();
        let context: BTreeSet<Dot> = entry.context().iter().copied().collect();
        let expected = fold(self.of(key), vector, key);
        if expected != (siblings, context) {
            let ops: Vec<&Op> = self.of(key).collect();
            let (dots, context): (Vec<Dot>, _) = (expected.0.iter().map(|(dot, _)| *dot).collect(), expected.1);
            let expected = format!("{dots:?} with the context {context:?}");
            let problem = format!("node {}: {key:?} is {entry:?} under {vector:?}, not {expected}: {ops:#?}", slot.0);
            self.violations.push(problem);
        }
    }

    /// Rows and vector of a node are not of one another from now on.
    pub(super) fn is_hurt(&mut self, slot: Slot) {
        self.hurt.insert(slot);
        self.ever_hurt.insert(slot);
    }

    /// What is on its disk was on another's.
    pub(super) fn is_copy(&mut self, slot: Slot, of: Slot) {
        if self.ever_hurt.contains(&of) {
            self.ever_hurt.insert(slot);
        }
    }

    /// It has built its store again.
    pub(super) fn is_recovered(&mut self, slot: Slot) {
        if !self.ever_hurt.contains(&slot) {
            self.violations.push(format!("node {} is built again, and nothing of it was lost", slot.0));
        }
        self.last.remove(&slot);
        self.hurt.remove(&slot);
    }

    /// It begins another life with what is on its disk: what it was at some commit, whole or not.
    pub(super) fn begins_anew(&mut self, slot: Slot, is_whole: bool) {
        self.last.remove(&slot);
        match is_whole {
            true => self.hurt.remove(&slot),
            false => self.hurt.insert(slot),
        };
    }

    /// Whether the rows of a node may not be those of its vector.
    pub(super) fn may_be_hurt(&self, slot: Slot) -> bool {
        self.hurt.contains(&slot)
    }

    /// What nobody has any more is not owed: these are all stores that there are.
    pub(super) fn lost(&mut self, left: &[Vector]) {
        self.owed.retain(|dot| left.iter().any(|vector| vector.contains(dot)));
    }

    /// At the end.
    pub(super) fn ended(&mut self, slot: Slot, vector: &Vector) {
        let missing: Vec<Dot> = self.owed.iter().filter(|dot| !vector.contains(dot)).copied().collect();
        if !missing.is_empty() {
            self.violations.push(format!("node {} lacks what was acknowledged: {missing:?}", slot.0));
        }
    }

    /// All keys that were ever written.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.of_key.keys().cloned().collect()
    }
}
