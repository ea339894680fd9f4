//! Which writes a node has seen: its version vector, one for all keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::dot::{Actor, Dot};
use super::op::COUNTER_MAX;

/// An exact set of writes: of each actor all up to a base, and some beyond it.
///
/// It is the tombstone of whatever was deleted: a write that it names and that no row holds was replaced. So it is one only
/// for a store that has lost nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Vector(BTreeMap<Actor, Seen>);

/// What was seen of one actor.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Seen {
    base: u64,
    extras: BTreeSet<u64>,
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)?;
        self.extras.iter().try_for_each(|counter| write!(f, "+{counter}"))
    }
}

impl Seen {
    /// All writes up to this, this included; 0 is none.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Those beyond the base and its successor, in order.
    pub fn extras(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.extras.iter().copied()
    }

    /// The last that was seen, whatever is missing before it.
    pub fn last(&self) -> u64 {
        self.extras.last().copied().unwrap_or(self.base)
    }

    fn contains(&self, counter: u64) -> bool {
        counter <= self.base || self.extras.contains(&counter)
    }

    fn insert(&mut self, counter: u64) -> bool {
        if counter <= self.base || !self.extras.insert(counter) {
            return false;
        }
        while self.extras.first() == Some(&(self.base + 1)) {
            self.extras.pop_first();
            self.base += 1;
        }
        true
    }

    fn raise(&mut self, base: u64) {
        if base > self.base {
            self.base = base;
            self.extras = self.extras.split_off(&(base + 1));
            while self.extras.first() == Some(&(self.base + 1)) {
                self.extras.pop_first();
                self.base += 1;
            }
        }
    }
}

impl Seen {
    /// What was seen up to a base, and of what is beyond it and its successor these, in order; None if that cannot be.
    pub fn new(base: u64, extras: &[u64]) -> Option<Self> {
        let is_beyond = extras.first().is_none_or(|first| *first > base.saturating_add(1));
        let seen = Self { base, extras: extras.iter().copied().collect() };
        let is_some = (1..=COUNTER_MAX).contains(&seen.last());
        (is_beyond && is_some && extras.is_sorted_by(|one, next| one < next)).then_some(seen)
    }

    /// Its only encoding: the base, and those beyond it, in order, 8 bytes each.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(8 * (1 + self.extras.len()));
        bytes.put_u64_le(self.base);
        self.extras.iter().for_each(|counter| bytes.put_u64_le(*counter));
        bytes.freeze()
    }

    /// Reads what [`Self::encode`] has written; None if it is nothing of that kind.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let base = bytes.try_get_u64_le().ok()?;
        let mut extras = Vec::new();
        while !bytes.is_empty() {
            extras.push(bytes.try_get_u64_le().ok()?);
        }
        Self::new(base, &extras)
    }
}

impl Vector {
    /// What was seen of each actor.
    pub fn of(seen: impl IntoIterator<Item = (Actor, Seen)>) -> Self {
        Self(seen.into_iter().collect())
    }

    /// Whether a write was seen.
    pub fn contains(&self, dot: &Dot) -> bool {
        dot.counter > 0 && self.0.get(&dot.actor).is_some_and(|seen| seen.contains(dot.counter))
    }

    /// Takes note of a write; whether it is new.
    ///
    /// # Panics
    /// In debug builds, of a counter of 0: writes are counted from 1, and whoever decodes one has checked that.
    pub fn insert(&mut self, dot: Dot) -> bool {
        debug_assert!(dot.counter > 0, "counted from 1");
        self.0.entry(dot.actor).or_default().insert(dot.counter)
    }

    /// Takes note of all that another has seen.
    pub fn join(&mut self, other: &Vector) {
        other.0.keys().for_each(|actor| self.join_of(actor, other));
    }

    /// Takes note of all that another has seen of an actor.
    pub fn join_of(&mut self, actor: &Actor, other: &Vector) {
        let Some(theirs) = other.0.get(actor) else { return };
        let seen = self.0.entry(*actor).or_default();
        seen.raise(theirs.base);
        for counter in &theirs.extras {
            seen.insert(*counter);
        }
    }

    /// What was seen of the actors of some buckets.
    pub fn part(&self, is_wanted: impl Fn(u8) -> bool) -> Self {
        let entries = self.0.iter().filter(|(actor, _)| is_wanted(actor.bucket()));
        Self(entries.map(|(actor, seen)| (*actor, seen.clone())).collect())
    }

    /// Whether it has seen all that another has.
    pub fn covers(&self, other: &Vector) -> bool {
        other.missing_in(self).next().is_none()
    }

    /// What was seen of an actor.
    pub fn seen(&self, actor: &Actor) -> Option<&Seen> {
        self.0.get(actor)
    }

    /// All actors of which anything was seen, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Actor, &Seen)> {
        self.0.iter()
    }

    /// What this has seen and another has not: runs of writes, in order.
    pub fn missing_in<'a>(&'a self, other: &'a Vector) -> impl Iterator<Item = (Actor, RangeInclusive<u64>)> + 'a {
        const NOTHING: &Seen = &Seen { base: 0, extras: BTreeSet::new() };
        self.0.iter().flat_map(move |(actor, seen)| {
            let theirs = other.0.get(actor).unwrap_or(NOTHING);
            missing(seen, theirs).into_iter().map(|run| (*actor, run))
        })
    }
}

/// Runs of what one has of an actor and the other lacks.
fn missing(seen: &Seen, theirs: &Seen) -> Vec<RangeInclusive<u64>> {
    let mut runs = Vec::new();
    let mut from = theirs.base + 1;
    // Up to this side's base only what the other has beyond its own lies between.
    for held in theirs.extras.range(from..).take_while(|held| **held <= seen.base) {
        if from < *held {
            runs.push(from..=held - 1);
        }
        from = held + 1;
    }
    if from <= seen.base {
        runs.push(from..=seen.base);
    }
    for counter in seen.extras.iter().filter(|counter| !theirs.contains(**counter)) {
        match runs.last_mut() {
            Some(run) if *run.end() + 1 == *counter => *run = *run.start()..=*counter,
            _ => runs.push(*counter..=*counter),
        }
    }
    runs
}

impl FromIterator<Dot> for Vector {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut vector = Self::default();
        for dot in dots {
            vector.insert(dot);
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::swim::Name;

    fn dot(actor: u8, counter: u64) -> Dot {
        Dot { actor: Actor { peer: Name([actor; 32]), epoch: 1 }, counter }
    }

    fn dots() -> impl Strategy<Value = BTreeSet<(u8, u64)>> {
        proptest::collection::btree_set((0..3_u8, 1..12_u64), 0..20)
    }

    fn vector(of: &BTreeSet<(u8, u64)>) -> Vector {
        of.iter().map(|(actor, counter)| dot(*actor, *counter)).collect()
    }

    fn each(vector: &Vector) -> BTreeSet<(u8, u64)> {
        vector
            .missing_in(&Vector::default())
            .flat_map(|(actor, run)| run.map(move |counter| (actor.peer.0[0], counter)))
            .collect()
    }

    proptest! {
        #[test]
        fn it_is_a_set(one in dots(), other in dots()) {
            let (a, b) = (vector(&one), vector(&other));
            prop_assert_eq!(&each(&a), &one);
            for (actor, counter) in &other {
                prop_assert_eq!(a.contains(&dot(*actor, *counter)), one.contains(&(*actor, *counter)));
            }
            let missing: BTreeSet<(u8, u64)> = a
                .missing_in(&b)
                .flat_map(|(actor, run)| run.map(move |counter| (actor.peer.0[0], counter)))
                .collect();
            prop_assert_eq!(&missing, &one.difference(&other).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(b.covers(&a), one.is_subset(&other));
            let mut joined = a.clone();
            joined.join(&b);
            prop_assert_eq!(&joined, &vector(&one.union(&other).copied().collect()), "one form of each set");
        }

        #[test]
        fn the_order_of_writes_does_not_matter(one in dots(), seed: u64) {
            let mut shuffled: Vec<(u8, u64)> = one.iter().copied().collect();
            let turn = seed as usize % shuffled.len().max(1);
            shuffled.rotate_left(turn);
            shuffled.reverse();
            let other: Vector = shuffled.into_iter().map(|(actor, counter)| dot(actor, counter)).collect();
            prop_assert_eq!(vector(&one), other);
        }
    }

    #[test]
    fn nobody_writes_what_is_counted_zero() {
        assert!(!vector(&[(0, 1)].into()).contains(&dot(0, 0)));
    }
}
