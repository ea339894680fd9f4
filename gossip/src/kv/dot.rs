//! Names of writes: no two different writes ever have the same.

use std::fmt;

use crate::swim::Name;

/// One life of a node: its key, and 64 random bits that are new at every start. Whoever may have forgotten what it wrote
/// writes under another name, so a copied or rolled back home never gives a name away twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor {
    /// The node's key.
    pub peer: Name,
    /// Which of its lives.
    pub epoch: u64,
}

/// Parts that a vector is compared in.
pub const BUCKETS: usize = 256;

impl Actor {
    /// In which part of a vector it stands. Epochs are random, so the lives of one node are spread over all.
    pub fn bucket(&self) -> u8 {
        self.epoch.to_le_bytes()[0]
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:x}", self.peer, self.epoch & 0xffff)
    }
}

/// One write of an actor: counted from 1, without gaps (Almeida et al., "Scalable and accurate causality tracking for
/// eventually consistent stores", DAIS 2014, call it that).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who has written.
    pub actor: Actor,
    /// Its how manyth write that was.
    pub counter: u64,
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.actor, self.counter)
    }
}

/// An exact set of writes of one key. Never a maximum for each actor: that would cover writes that nobody has read.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Dots(Vec<Dot>);

impl fmt::Debug for Dots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.0).finish()
    }
}

impl Dots {
    /// Whether a write is among them.
    pub fn contains(&self, dot: &Dot) -> bool {
        self.0.binary_search(dot).is_ok()
    }

    /// Adds one.
    pub fn insert(&mut self, dot: Dot) {
        if let Err(at) = self.0.binary_search(&dot) {
            self.0.insert(at, dot);
        }
    }

    /// Keeps those that are wanted.
    pub fn retain(&mut self, is_wanted: impl FnMut(&Dot) -> bool) {
        self.0.retain(is_wanted);
    }

    /// All, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Dot> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Dot> for Dots {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut dots: Vec<Dot> = dots.into_iter().collect();
        dots.sort_unstable();
        dots.dedup();
        Self(dots)
    }
}

impl Extend<Dot> for Dots {
    fn extend<I: IntoIterator<Item = Dot>>(&mut self, dots: I) {
        dots.into_iter().for_each(|dot| self.insert(dot));
    }
}
