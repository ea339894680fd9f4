//! Where keys stand: the order in which copies of the map are compared.

use std::ops::RangeInclusive;

use super::key::Key;

/// Ranges whose sums are kept.
pub const LEAVES: usize = 1 << LEAF_BITS;

const LEAF_BITS: u32 = 12;

/// Where a key stands among all: keys are spread evenly, whatever they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u64);

impl Place {
    /// Of a key.
    pub fn of(key: &Key) -> Self {
        let hash = blake3::keyed_hash(b"p2p-node 2026-11 places of keys.", key.as_bytes());
        let (first, _) = hash.as_bytes().split_first_chunk().expect("32 bytes are more than 8");
        Self(u64::from_be_bytes(*first))
    }

    /// The range whose sum is kept that it lies in.
    pub fn leaf(self) -> usize {
        (self.0 >> (u64::BITS - LEAF_BITS)) as usize
    }

    /// All places.
    pub const ALL: RangeInclusive<Self> = Self(0)..=Self(u64::MAX);

    /// The first of a range whose sum is kept.
    pub fn first_of(leaf: usize) -> Self {
        Self((leaf as u64) << (u64::BITS - LEAF_BITS))
    }

    /// The last of one.
    pub fn last_of(leaf: usize) -> Self {
        Self(Self::first_of(leaf).0 | u64::MAX >> LEAF_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_lies_in_its_leaf() {
        for leaf in [0, 1, LEAVES - 1] {
            assert_eq!((Place::first_of(leaf).leaf(), Place::last_of(leaf).leaf()), (leaf, leaf));
            assert_eq!(Place(Place::first_of(leaf).0.wrapping_sub(1)).leaf(), (leaf + LEAVES - 1) % LEAVES);
        }
    }
}
