//! One key: the writes of it that stand, and what is known to be replaced before it was seen.
//!
//! An entry is a function of the vector of its store: its siblings are the puts of the key that the vector names, less all
//! that any write of the key it names has replaced; its context is what these have replaced, less the vector. Whatever
//! changes a store keeps it so, which is what [`Entry::apply`] and [`Entry::merge`] are for. (Preguiça et al., "Dotted
//! version vectors", 2010, for siblings with dots; Gonçalves et al., "Concise server-wide causality management", DAIS 2015,
//! for one vector in place of many contexts. Both keep a maximum for each actor where this keeps exact sets.)

use std::fmt;

use bytes::Bytes;

use super::dot::{Dot, Dots};
use super::op::{Op, Short};
use super::vector::Vector;

/// A write that stands.
#[derive(Clone, PartialEq, Eq)]
pub struct Sibling {
    /// Its name.
    pub dot: Dot,
    /// What it says.
    pub value: Bytes,
    /// What it has taken the place of: whoever has to build a store from its rows needs it.
    pub replaces: Dots,
}

impl fmt::Debug for Sibling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dot, value, replaces } = self;
        write!(f, "{dot:?}={:?} over {replaces:?}", Short(value))
    }
}

/// What a store holds of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    siblings: Vec<Sibling>,
    context: Dots,
}

impl Entry {
    /// What a row says; siblings are in the order of their names.
    pub(super) fn from_parts(siblings: Vec<Sibling>, context: Dots) -> Self {
        Self { siblings, context }
    }

    /// Writes that stand beside each other, by their names.
    pub fn siblings(&self) -> &[Sibling] {
        &self.siblings
    }

    /// Writes that are replaced, and that the vector does not name yet.
    pub fn context(&self) -> &Dots {
        &self.context
    }

    /// All writes that it names: those that stand, those that they have replaced, and those that are known to be replaced.
    pub fn names(&self) -> impl Iterator<Item = Dot> {
        let siblings = self.siblings.iter().flat_map(|sibling| sibling.replaces.iter().chain([&sibling.dot]));
        siblings.chain(self.context.iter()).copied()
    }

    /// The writes that stand.
    pub fn into_siblings(self) -> Vec<Sibling> {
        self.siblings
    }

    /// Whether nothing is to be kept: the vector says all that there is to say.
    pub fn is_empty(&self) -> bool {
        self.siblings.is_empty() && self.context.is_empty()
    }

    /// Takes in a write that the vector, which is that before it, does not name. The caller adds its dot to the vector.
    pub fn apply(&mut self, vector: &Vector, op: &Op) {
        debug_assert!(!vector.contains(&op.dot), "each write is applied once");
        self.siblings.retain(|sibling| !op.replaces.contains(&sibling.dot));
        // Whoever has replaced it came first.
        let is_replaced = self.context.contains(&op.dot);
        if let (Some(value), false) = (&op.value, is_replaced) {
            let sibling = Sibling { dot: op.dot, value: value.clone(), replaces: op.replaces.clone() };
            let at = self.siblings.partition_point(|other| other.dot < op.dot);
            self.siblings.insert(at, sibling);
        }
        self.context.retain(|dot| *dot != op.dot);
        // Held or not: what is not seen yet would come to stand otherwise, when it comes.
        self.context.extend(op.replaces.iter().filter(|dot| !vector.contains(dot)).copied());
    }

    /// Takes note that the vector is going to name these writes, of which none stands that does not stand here.
    pub fn strip(&mut self, vector: &Vector) {
        self.context.retain(|dot| !vector.contains(dot));
    }

    /// Takes in what another store holds of this key under its vector. Learned by it are exactly the writes of the key that its
    /// vector names and this one's does not; the caller adds all of them to the vector.
    pub fn merge(&mut self, vector: &Vector, theirs: &Entry, their_vector: &Vector) {
        let (ours, context) = (std::mem::take(&mut self.siblings), std::mem::take(&mut self.context));
        let kept = ours.iter().filter(|sibling| {
            let is_covered = their_vector.contains(&sibling.dot) || theirs.context.contains(&sibling.dot);
            !is_covered || has(&theirs.siblings, &sibling.dot)
        });
        let new = theirs.siblings.iter().filter(|sibling| {
            let is_covered = vector.contains(&sibling.dot) || context.contains(&sibling.dot);
            // What it has not seen it cannot hold: taken in, it would stand twice when it comes.
            their_vector.contains(&sibling.dot) && !is_covered && !has(&ours, &sibling.dot)
        });
        self.siblings = kept.chain(new).cloned().collect();
        self.siblings.sort_by_key(|sibling| sibling.dot);
        self.context = context;
        self.context.extend(theirs.context.iter().copied());
        self.context.retain(|dot| !vector.contains(dot) && !their_vector.contains(dot));
    }

    /// Takes in what another store that has seen the same, by this vector, holds of this key, where one of the two has lost something and
    /// nobody can say which: what stands on either side stands, unless something else that stands has taken its place.
    pub fn mend(&mut self, vector: &Vector, theirs: &Entry) {
        let is_missing = |sibling: &&Sibling| vector.contains(&sibling.dot) && !has(&self.siblings, &sibling.dot);
        let missing = theirs.siblings.iter().filter(is_missing);
        let mut siblings: Vec<Sibling> = self.siblings.iter().chain(missing).cloned().collect();
        siblings.sort_by_key(|sibling| sibling.dot);
        let replaced: Dots = siblings.iter().flat_map(|sibling| sibling.replaces.iter().copied()).collect();
        siblings.retain(|sibling| !replaced.contains(&sibling.dot));
        self.siblings = siblings;
        self.context.extend(theirs.context.iter().filter(|dot| !vector.contains(dot)).copied());
    }
}

fn has(siblings: &[Sibling], dot: &Dot) -> bool {
    siblings.binary_search_by_key(dot, |sibling| sibling.dot).is_ok()
}
