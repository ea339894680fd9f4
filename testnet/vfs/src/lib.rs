//! For tests: a virtual file system that stands between SQLite and the disk.
//!
//! It hands everything to the platform's own, and on the way it can *record* what was written, synced, made and deleted, in
//! order and with the bytes; *fail* the n-th read, write or sync; and be *full* after so many bytes. From a record,
//! [`Disk`] makes the files that a loss of power could have left at any moment. A database is opened through it by name
//! (`Connection::open_with_flags_and_vfs`); whatever runs on SQLite runs unchanged on this.
//!
//! What it is not: a model of one file system. Directory entries, lengths and sectors reach the disk in any order here,
//! which is what POSIX leaves open and no single file system does all of.

mod image;
mod shim;
mod state;

use std::path::Path;
use std::sync::Arc;

pub use image::{Disk, Losses};
use state::Shared;

/// Name of a file inside its folder.
pub type FileName = Arc<str>;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A file was opened that was not there, or that the record has not named yet.
    Create(FileName),
    /// Bytes were written at a position.
    Write(FileName, u64, Arc<[u8]>),
    /// The file was made this long.
    Truncate(FileName, u64),
    /// All that was written to the file is on the disk.
    Sync(FileName),
    /// It was to be, and was not: what had been written since the last one is lost, though it can still be read (Rebello
    /// et al., "Can Applications Recover from fsync Failures?", 2020).
    SyncFailed(FileName),
    /// All names that were made and deleted are on the disk.
    SyncFolder,
    /// The file's name was deleted.
    Delete(FileName),
    /// The test has something to remember.
    Mark(u64),
}

/// What can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Reading from a file.
    Read,
    /// Writing to one; half of the bytes are written all the same.
    Write,
    /// Syncing one; see [`Event::SyncFailed`].
    Sync,
    /// Changing a length.
    Truncate,
    /// Opening or making a file.
    Open,
    /// Deleting one.
    Delete,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk answers with an error.
    Broken,
    /// There is no room.
    Full,
    /// Half of what was asked for is read, and the rest is zeros: a file that is shorter than it was.
    Short,
}

/// A virtual file system under a name of its own. It stays registered as long as the process lives, because a connection
/// may outlive whoever made it; that costs some hundred bytes.
#[derive(Clone, Copy)]
pub struct Vfs {
    shared: &'static Shared,
}

impl Vfs {
    /// Registers a new one.
    ///
    /// # Panics
    /// When SQLite refuses, which it has no reason to.
    pub fn register() -> Self {
        Self { shared: shim::register() }
    }

    /// What SQLite knows it by.
    pub fn name(&self) -> &'static str {
        self.shared.name()
    }

    /// Starts to record, with nothing recorded so far. To be called before the first file is opened.
    pub fn record(&self) {
        self.shared.lock().events = Some(Vec::new());
    }

    /// What was recorded since the last call.
    pub fn take_events(&self) -> Vec<Event> {
        self.shared.lock().events.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Puts a mark into the record, between what had happened and what will.
    pub fn mark(&self, mark: u64) {
        self.shared.lock().note(|| Event::Mark(mark));
    }

    /// Lets the `nth` operation from now fail, counted from 0, and all after it where it is `lasting`. One of each kind can
    /// be planned.
    pub fn fail(&self, op: Op, nth: u64, fault: Fault, lasting: bool) {
        self.shared.lock().plan(op, nth, fault, lasting);
    }

    /// Nothing fails any more that was planned to.
    pub fn heal(&self) {
        self.shared.lock().faults.clear();
    }

    /// How many operations have failed on purpose.
    pub fn failures(&self) -> u64 {
        self.shared.lock().failures
    }

    /// How many operations of a kind there were.
    pub fn count(&self, op: Op) -> u64 {
        self.shared.lock().counts.get(&op).copied().unwrap_or(0)
    }

    /// Leaves room for files of so many bytes in all, those at `beside` included; None for no limit.
    pub fn limit(&self, bytes: Option<u64>, beside: &[&Path]) {
        let mut state = self.shared.lock();
        state.limit = bytes;
        state.beside = beside.iter().map(|path| (*path).to_owned()).collect();
    }

    /// How many bytes may still be added under the limit.
    pub fn free(&self) -> u64 {
        self.shared.lock().free()
    }
}

#[cfg(test)]
mod tests;
