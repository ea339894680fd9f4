//! Finds what differs between two ordered sets by comparing sums of ranges of them, and of parts of those that differ (RBSR:
//! Meyer, "Range-based set reconciliation", SRDS 2023). Each message goes one step down, whoever sends it, so that with d
//! differences among n members about d log(n/d) digests travel, in half as many round trips.
//!
//! It is stateless: whoever gets digests compares them with what it holds at that moment, and says where to look closer. What
//! is done about ranges in which few members are left is the caller's business.

use std::ops::RangeInclusive;

use crate::sum::{DIGEST_LEN, Sum};

/// Parts that a range is looked at in.
pub const PARTS: usize = 1 << PART_BITS;

const PART_BITS: u32 = 2;

/// How often a range can be divided: then it is one place.
const DEPTH_MAX: u32 = u64::BITS / PART_BITS;

/// With so many members at most a range is not divided any more.
pub const FEW: u64 = 1;

/// Where so few ranges differ, dividing them further takes more time than it saves bytes:
const TAIL: usize = 32;

/// with so many members at most they are not divided any more.
const FEW_IN_TAIL: u64 = 4;

/// All places that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    first: u64,
    depth: u32,
}

impl Range {
    /// All places.
    pub const ALL: Range = Range { first: 0, depth: 0 };

    /// A range by its first place and how often all places were divided for it; None if there is no such.
    pub fn new(first: u64, depth: u32) -> Option<Self> {
        let range = Self { first, depth };
        (depth <= DEPTH_MAX && first & range.rest() == 0).then_some(range)
    }

    /// The bits in which its places agree.
    pub fn prefix(self) -> u64 {
        self.first.checked_shr(u64::BITS - PART_BITS * self.depth).unwrap_or(0)
    }

    /// A range by [`Self::prefix`] and [`Self::depth`]; None if there is no such.
    pub fn of_prefix(prefix: u64, depth: u32) -> Option<Self> {
        let shift = u64::BITS - PART_BITS * depth.min(DEPTH_MAX);
        let first = prefix.checked_shl(shift).unwrap_or(0);
        Self::new(first, depth).filter(|range| range.prefix() == prefix)
    }

    /// Its first and last place.
    pub fn places(self) -> RangeInclusive<u64> {
        self.first..=self.first | self.rest()
    }

    /// How often all places were divided for it.
    pub fn depth(self) -> u32 {
        self.depth
    }

    /// Its parts, in order; None of a single place.
    pub fn parts(self) -> Option<[Range; PARTS]> {
        (self.depth < DEPTH_MAX).then(|| {
            let shift = u64::BITS - PART_BITS * (self.depth + 1);
            std::array::from_fn(|part| Range { first: self.first | (part as u64) << shift, depth: self.depth + 1 })
        })
    }

    /// Bits that differ within it.
    fn rest(self) -> u64 {
        u64::MAX.checked_shr(PART_BITS * self.depth).unwrap_or(0)
    }
}

/// A range, and what its parts come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divided {
    /// The range.
    pub range: Range,
    /// A digest for each of its parts.
    pub parts: [[u8; DIGEST_LEN]; PARTS],
}

/// What one side holds.
pub trait Sums {
    /// Why it cannot be said.
    type Error;

    /// What the members of a range come to.
    ///
    /// # Errors
    /// When that cannot be said.
    fn sum(&mut self, range: Range) -> Result<Sum, Self::Error>;
}

/// Where two sides differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// For the other side to compare.
    pub divided: Vec<Divided>,
    /// Ranges in which this side has few members, or none.
    pub few: Vec<Range>,
}

/// What all members come to, divided so often: the first message.
///
/// # Errors
/// When that cannot be said.
pub fn begin<S: Sums>(sums: &mut S, depth: u32) -> Result<Vec<Divided>, S::Error> {
    let mut ranges = vec![Range::ALL];
    for _ in 0..depth {
        ranges = ranges.into_iter().filter_map(Range::parts).flatten().collect();
    }
    ranges.into_iter().filter_map(|range| Some(divide(sums, range, range.parts()?))).collect()
}

/// Compares what the other side has sent, and says where to look closer. Nothing of either where nothing differs.
///
/// # Errors
/// When that cannot be said.
pub fn compare<S: Sums>(sums: &mut S, theirs: &[Divided]) -> Result<Differences, S::Error> {
    let mut differing: Vec<(Range, u64)> = Vec::new();
    for Divided { range, parts: digests } in theirs {
        // A single place has no parts, and whoever says it has is not believed.
        let Some(parts) = range.parts() else { continue };
        for (part, digest) in parts.into_iter().zip(digests) {
            let sum = sums.sum(part)?;
            if sum.digest() != *digest {
                differing.push((part, sum.count()));
            }
        }
    }
    let few = if differing.len() <= TAIL { FEW_IN_TAIL } else { FEW };
    let mut differences = Differences::default();
    for (part, count) in differing {
        match part.parts() {
            Some(parts) if count > few => differences.divided.push(divide(sums, part, parts)?),
            Some(_) | None => differences.few.push(part),
        }
    }
    Ok(differences)
}

fn divide<S: Sums>(sums: &mut S, range: Range, parts: [Range; PARTS]) -> Result<Divided, S::Error> {
    let mut digests = [[0; DIGEST_LEN]; PARTS];
    for (digest, part) in digests.iter_mut().zip(parts) {
        *digest = sums.sum(part)?.digest();
    }
    Ok(Divided { range, parts: digests })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// Members are their places.
    struct Set(BTreeSet<u64>);

    impl Sums for Set {
        type Error = Infallible;

        fn sum(&mut self, range: Range) -> Result<Sum, Infallible> {
            let mut sum = Sum::default();
            self.0.range(range.places()).for_each(|member| sum.add(&blake3::hash(&member.to_le_bytes())));
            Ok(sum)
        }
    }

    /// Ranges in which either side has few, how many messages that took, and how many digests.
    fn reconcile(one: &mut Set, other: &mut Set) -> (Vec<Range>, usize, usize) {
        let Ok(mut sent) = begin(one, 1);
        let (mut messages, mut digests) = (1, sent.len() * PARTS);
        let mut few = Vec::new();
        while !sent.is_empty() {
            let Ok(found) = compare(other, &sent);
            few.extend(found.few);
            sent = found.divided;
            messages += 1;
            digests += sent.len() * PARTS;
            std::mem::swap(one, other);
        }
        if messages % 2 == 0 {
            std::mem::swap(one, other);
        }
        (few, messages, digests)
    }

    fn check(one: BTreeSet<u64>, other: BTreeSet<u64>) {
        let (few, _, _) = reconcile(&mut Set(one.clone()), &mut Set(other.clone()));
        let found = |member: &u64| few.iter().filter(|range| range.places().contains(member)).count();
        for member in one.symmetric_difference(&other) {
            assert_eq!(found(member), 1, "{member:x} is in one range that was found");
        }
        for range in &few {
            let of = |set: &BTreeSet<u64>| set.range(range.places()).copied().collect::<Vec<_>>();
            assert_ne!(of(&one), of(&other), "nothing was found that does not differ");
        }
    }

    proptest! {
        #[test]
        fn all_that_differs_is_found_and_nothing_else(one: BTreeSet<u64>, other: BTreeSet<u64>, both: BTreeSet<u64>) {
            check(&one | &both, &other | &both);
        }

        #[test]
        fn neighbours_are_told_apart(one: BTreeSet<u8>, other: BTreeSet<u8>) {
            let wide = |set: &BTreeSet<u8>| set.iter().map(|member| u64::from(*member)).collect();
            check(wide(&one), wide(&other));
        }

        #[test]
        fn a_range_is_its_parts(first: u64, depth in 0..=DEPTH_MAX) {
            let mask = u64::MAX.checked_shr(PART_BITS * depth).unwrap_or(0);
            let range = Range::new(first & !mask, depth).expect("a range");
            prop_assert_eq!(Range::new(first | 1, depth).is_some(), depth == DEPTH_MAX);
            match range.parts() {
                None => prop_assert_eq!(range.places().count(), 1),
                Some(parts) => {
                    let ends = |range: Range| range.places().into_inner();
                    prop_assert_eq!((ends(parts[0]).0, ends(parts[PARTS - 1]).1), ends(range));
                    for pair in parts.windows(2) {
                        prop_assert_eq!(pair[0].places().end() + 1, *pair[1].places().start());
                    }
                }
            }
        }
    }

    #[test]
    fn few_differences_among_many_take_few_digests() {
        let place = |n: u64| u64::from_le_bytes(blake3::hash(&n.to_le_bytes()).as_bytes()[..8].try_into().expect("8"));
        let one: BTreeSet<u64> = (0..100_000).map(place).collect();
        let gone: BTreeSet<u64> = (0..50).map(|n| place(n * 1000)).collect();
        let mut other = one.clone();
        other.retain(|member| !gone.contains(member));
        other.extend((200_000..200_050).map(place));
        let (few, messages, digests) = reconcile(&mut Set(one), &mut Set(other));
        assert!((90..=110).contains(&few.len()), "{} ranges", few.len());
        assert!(messages <= 14 && digests <= 4000, "{messages} messages, {digests} digests");
    }
}
