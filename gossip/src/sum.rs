//! What many rows come to, whatever their order: kept as they change, compared in place of them.
//!
//! A sum of hashes and not their XOR, which whoever makes up keys could bring to any value by linear algebra; 2^256 sums and
//! the number of rows are what Negentropy compares, too (RBSR: Meyer, "Range-based set reconciliation", SRDS 2023).

/// Hashes of rows added up modulo 2^256, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    total: [u64; 4],
    count: u64,
}

/// What two sums are compared by, in bytes.
pub const DIGEST_LEN: usize = 16;

impl Sum {
    /// How many rows there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// One more row.
    pub fn add(&mut self, hash: &blake3::Hash) {
        self.join(&Self { total: words(hash), count: 1 });
    }

    /// One row less, which was added.
    pub fn subtract(&mut self, hash: &blake3::Hash) {
        let mut borrow = false;
        for (word, less) in self.total.iter_mut().zip(words(hash)) {
            let (first, one) = word.overflowing_sub(less);
            let (second, two) = first.overflowing_sub(u64::from(borrow));
            (*word, borrow) = (second, one | two);
        }
        self.count = self.count.wrapping_sub(1);
    }

    /// The rows of another, none of which are in this.
    pub fn join(&mut self, other: &Sum) {
        let mut carry = false;
        for (word, more) in self.total.iter_mut().zip(other.total) {
            let (first, one) = word.overflowing_add(more);
            let (second, two) = first.overflowing_add(u64::from(carry));
            (*word, carry) = (second, one | two);
        }
        self.count = self.count.wrapping_add(other.count);
    }

    /// Equal where the rows are. Of no rows it is zeros: most parts of what is compared are empty.
    pub fn digest(&self) -> [u8; DIGEST_LEN] {
        if *self == Self::default() {
            return [0; DIGEST_LEN];
        }
        let hash = blake3::hash(&self.to_bytes());
        let (digest, _) = hash.as_bytes().split_first_chunk().expect("32 bytes are more than 16");
        *digest
    }

    /// As it is kept.
    pub fn to_bytes(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        for (part, word) in bytes.chunks_exact_mut(8).zip(self.total.iter().chain([&self.count])) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What [`Self::to_bytes`] has written.
    pub fn from_bytes(bytes: &[u8; 40]) -> Self {
        let mut words = [0; 5];
        for (word, part) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(part.try_into().expect("chunks of 8"));
        }
        let [a, b, c, d, count] = words;
        Self { total: [a, b, c, d], count }
    }
}

fn words(hash: &blake3::Hash) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, part) in words.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
        *word = u64::from_le_bytes(part.try_into().expect("chunks of 8"));
    }
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sum_is_that_of_what_was_added_and_not_taken_back(rows: Vec<u64>, gone: Vec<bool>, turn: usize) {
            let hash = |row: &u64| match row % 3 {
                // Carries run through all words.
                0 => blake3::Hash::from_bytes([0xff; 32]),
                _ => blake3::hash(&row.to_le_bytes()),
            };
            let mut sum = Sum::default();
            rows.iter().for_each(|row| sum.add(&hash(row)));
            let gone: Vec<&u64> = rows.iter().zip(&gone).filter(|(_, gone)| **gone).map(|(row, _)| row).collect();
            gone.iter().for_each(|row| sum.subtract(&hash(row)));
            let mut left = rows.clone();
            for row in gone {
                let at = left.iter().position(|other| other == row).expect("it was there");
                left.swap_remove(at);
            }
            let turn = turn % left.len().max(1);
            left.rotate_left(turn);
            let (mut one, mut other) = (Sum::default(), Sum::default());
            left[..turn].iter().for_each(|row| one.add(&hash(row)));
            left[turn..].iter().for_each(|row| other.add(&hash(row)));
            one.join(&other);
            prop_assert_eq!(sum, one);
            prop_assert_eq!(sum.digest(), one.digest());
            prop_assert_eq!(Sum::from_bytes(&sum.to_bytes()), sum);
        }
    }

    #[test]
    fn the_same_twice_is_something_else_than_another_twice() {
        let twice = |row: &[u8]| {
            let mut sum = Sum::default();
            (0..2).for_each(|_| sum.add(&blake3::hash(row)));
            sum.digest()
        };
        assert_ne!(twice(b"one"), twice(b"another"));
    }
}
