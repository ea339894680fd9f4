//! What goes into networks: chance that can be repeated, and bytes that nothing compresses.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::Result;
use crate::state::failed;

/// Bytes written at a time.
const WRITE_LEN: usize = 1 << 20;

/// A small generator of repeatable numbers (SplitMix64, Steele et al. 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The numbers of one part of what a seed determines, independent of those of other parts.
    pub fn of_part(seed: u64, part: u64) -> Self {
        let mut dice = Self(seed);
        let own = dice.next();
        Self(own ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `sides`, which is at least 1.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }

    /// One of several.
    pub fn choose<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len() as u64) as usize]
    }
}

/// A seed that no other run has.
pub fn another_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed again.
    Dice::of_part(now.as_nanos() as u64, std::process::id().into()).roll(1 << 32)
}

/// The content of this name under this seed: always the same bytes, and never those of another name.
pub fn content(seed: u64, name: u64) -> blake3::OutputReader {
    blake3::Hasher::new().update(&seed.to_le_bytes()).update(&name.to_le_bytes()).finalize_xof()
}

/// Writes content to a file, and waits until it is on the disk, so that it is not still on its way while something else is
/// measured or tested. Returns its BLAKE3.
///
/// # Errors
/// When it cannot be written.
pub fn write_file(path: &Path, mut content: blake3::OutputReader, len: u64) -> Result<String> {
    let mut write = || -> io::Result<String> {
        let mut file = File::create(path)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; WRITE_LEN];
        let mut left = len;
        while left > 0 {
            let part = &mut buffer[..left.min(WRITE_LEN as u64) as usize];
            content.fill(part);
            hasher.update(part);
            file.write_all(part)?;
            left -= part.len() as u64;
        }
        file.sync_all()?;
        Ok(hasher.finalize().to_hex().to_string())
    };
    write().map_err(|error| failed("a file cannot be made", path, &error))
}

/// The BLAKE3 of a file, computed by the hash's own crate.
///
/// # Errors
/// When it cannot be read.
pub fn hash_file(path: &Path) -> Result<String> {
    let hash = || -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        Ok(hasher.finalize())
    };
    hash().map(|hash| hash.to_hex().to_string()).map_err(|error| failed("a file cannot be read", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_and_parts_differ() {
        let rolls = |mut dice: Dice| (0..8).map(|_| dice.roll(1000)).collect::<Vec<_>>();
        assert_eq!(rolls(Dice::of_part(7, 3)), rolls(Dice::of_part(7, 3)));
        assert_ne!(rolls(Dice::of_part(7, 3)), rolls(Dice::of_part(7, 4)));
        assert_ne!(rolls(Dice::of_part(7, 3)), rolls(Dice::of_part(8, 3)));
    }

    #[test]
    fn a_file_is_as_long_as_asked_and_what_its_hash_says() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("file");
        for len in [0, 1, (1 << 20) + 3] {
            let hash = write_file(&path, content(1, len), len).expect("written");
            assert_eq!(std::fs::metadata(&path).expect("there").len(), len);
            assert_eq!(hash_file(&path).expect("readable"), hash);
        }
        assert_ne!(write_file(&path, content(1, 2), 9), write_file(&path, content(2, 2), 9));
    }
}
