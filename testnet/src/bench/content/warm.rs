//! Memory that is there when it is measured.
//!
//! A virtual machine may give memory that it has freed back to its host, and then pays for touching it again: writing a
//! file costs ten times as much after a pause as right after another was deleted, which would hit whoever is measured
//! first. So before each measurement memory is gone through once, by reading holes of a file, which no disk is asked for.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Result;
use crate::state::failed;

/// Length of the file with nothing in it, in bytes: more than memory, so that no read finds what an earlier one left.
const HOLES_LEN: u64 = 1 << 40;

/// How much is read at a time, in bytes.
const READ_LEN: usize = 4 << 20;

/// The file, and how far it was read.
#[derive(Debug)]
pub(crate) struct Warmth {
    file: File,
    position: u64,
}

impl Warmth {
    /// Makes the file in a folder; it has no name there any more.
    ///
    /// # Errors
    /// When the file system knows no holes of this length.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let make = || -> io::Result<File> {
            let file = tempfile::tempfile_in(dir)?;
            file.set_len(HOLES_LEN)?;
            Ok(file)
        };
        let file = make().map_err(|error| failed("no file to warm memory with", dir, &error))?;
        Ok(Self { file, position: 0 })
    }

    /// Whether no memory was gone through yet.
    pub(crate) fn is_new(&self) -> bool {
        self.position == 0
    }

    /// Goes through so many bytes of memory, after all that was written has reached the disk.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn spread(&mut self, bytes: u64) -> io::Result<()> {
        rustix::fs::sync();
        let mut buffer = vec![0; READ_LEN];
        for _ in 0..bytes.div_ceil(READ_LEN as u64) {
            self.file.read_exact_at(&mut buffer, self.position)?;
            self.position = (self.position + READ_LEN as u64) % HOLES_LEN;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_read_and_take_no_room() {
        use std::os::unix::fs::MetadataExt;
        let temp = tempfile::tempdir().expect("a folder");
        let mut warmth = Warmth::new(temp.path()).expect("holes");
        assert!(warmth.is_new());
        warmth.spread(READ_LEN as u64 + 1).expect("readable");
        assert!(!warmth.is_new());
        assert_eq!(warmth.position, 2 * READ_LEN as u64);
        assert_eq!(warmth.file.metadata().expect("there").blocks(), 0);
        assert_eq!(std::fs::read_dir(temp.path()).expect("a folder").count(), 0);
    }
}
