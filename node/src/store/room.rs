//! Room on the disk: how much of it may be filled, and what is given up when it is full all the same.
//!
//! Puts end before the disk does: under [`super::DISK_FREE_MIN`] nothing is taken in. Should others fill the disk, the
//! *reserve*, a file of nothing, is deleted: what it took is enough to write the log into the database, to let go of
//! objects and to give their pages back. It is made again when there is room for it beside the free space.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use p2p_dht::hold::FILL_PERCENT_MAX;
use rustix::fs::FallocateFlags;

use super::{Free, Setup};

/// Name of the reserve in the home.
pub(super) const RESERVE_NAME: &str = "reserve";

/// A store is not opened on a disk with less than this part of the reserve free: the log and its index need some room.
const OPENING_PART: u64 = 8;

/// What a store may fill.
pub(super) struct Room {
    folder: PathBuf,
    bytes_max: u64,
    disk_free_min: u64,
    reserve_len: u64,
    free: Free,
    /// Whether the reserve is not there.
    spent: AtomicBool,
    /// Transactions that the disk had no room for.
    refused: AtomicU64,
}

impl Room {
    /// The room of a home; the reserve is made where it is missing and there is room for it, but in no home without a store:
    /// it says that there was one.
    pub(super) fn new(folder: &Path, setup: &Setup) -> Self {
        let &Setup { bytes_max, disk_free_min, reserve_len, .. } = setup;
        let room = Self {
            folder: folder.to_owned(),
            bytes_max,
            disk_free_min,
            reserve_len,
            free: setup.free.clone(),
            spent: AtomicBool::new(true),
            refused: AtomicU64::new(0),
        };
        if super::is_there(folder) {
            room.restore_reserve();
        }
        if room.free() < reserve_len / OPENING_PART {
            room.spend_reserve();
        }
        room
    }

    /// Bytes of the file system that are free.
    pub(super) fn free(&self) -> u64 {
        (self.free)(&self.folder)
    }

    /// Whether the disk has less free than has to stay so.
    pub(super) fn is_low(&self) -> bool {
        self.free() < self.disk_free_min
    }

    /// Whether only what frees may be written, and that must not wait in the log.
    pub(super) fn is_tight(&self) -> bool {
        self.spent.load(Ordering::Relaxed) && self.is_low()
    }

    /// Transactions so far that the disk had no room for.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Most bytes of payload that the store may hold, when it holds `used` and `inside` are free in its file.
    pub(super) fn bytes_max(&self, used: u64, inside: u64) -> u64 {
        let free = self.free().saturating_sub(self.disk_free_min).saturating_add(inside);
        let by_disk = used.saturating_add(free);
        // The caller fills only a part of what is configured; what the disk has left can be filled whole.
        self.bytes_max.min(by_disk.saturating_mul(100) / FILL_PERCENT_MAX)
    }

    /// Takes note that the disk had no room for a transaction, and gives the reserve up for what frees.
    pub(super) fn run_out(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.spend_reserve();
    }

    fn spend_reserve(&self) {
        self.spent.store(true, Ordering::Relaxed);
        match fs::remove_file(self.path()) {
            Ok(()) => tracing::warn!(
                reserve = self.reserve_len,
                "the disk is full: the reserve was given up, and nothing is taken in until there is room again"
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "the disk is full, and the reserve cannot be given up"),
        }
    }

    /// Makes the reserve again where it is missing and there is room for it.
    pub(super) fn restore_reserve(&self) {
        let path = self.path();
        // Blocks, not length: a file may have holes.
        let whole = fs::metadata(&path).is_ok_and(|found| found.blocks().saturating_mul(512) >= self.reserve_len);
        if whole {
            self.spent.store(false, Ordering::Relaxed);
        } else if self.free() >= self.disk_free_min.saturating_add(self.reserve_len) {
            match allocate(&path, self.reserve_len) {
                Ok(()) => self.spent.store(false, Ordering::Relaxed),
                Err(error) => {
                    let _ = fs::remove_file(&path);
                    tracing::warn!(%error, "cannot make the reserve {}", path.display());
                }
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(RESERVE_NAME)
    }
}

/// Free bytes of the file system that a folder lies in.
pub(super) fn free_on_disk(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

/// Makes a file of so many bytes that take their room on the disk.
fn allocate(path: &Path, len: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(()),
        // Not every file system can; then it is written.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let zeros = vec![0; 1 << 20];
            let mut left = len;
            while left > 0 {
                let some = left.min(zeros.len() as u64);
                file.write_all(&zeros[..some as usize])?;
                left -= some;
            }
            file.sync_all()
        }
        Err(error) => Err(error.into()),
    }
}
