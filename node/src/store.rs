//! The only owner of SQLite: one file, one thread that writes it, a few that read.
//!
//! A write is a rule (see [`p2p_dht::hold`]) that runs inside a transaction on the writer's thread. Rules that are waiting
//! share a transaction, and nobody hears of a result before the commit. When the disk fails the store stops for good:
//! repeating a failed fsync proves nothing (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).

mod objects;
mod room;
mod threads;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_dht::store::{ObjectStore, ObjectTx, ObjectView, StoreError, StoreResult, Totals};
use tokio::sync::{oneshot, watch};

use objects::ReadJob;
use room::Room;
use threads::{Finish, Threads, WriteJob};

pub(crate) use objects::PAGE_LEN;

use crate::sqlite::OpenError;

/// Name of the file in the home.
const FILE_NAME: &str = "objects.db";

/// Bytes that one commit writes at most, unless a single rule writes more.
pub const COMMIT_LEN_MAX: usize = 16 << 20;

/// Rules in one commit at most.
pub const COMMIT_RULES_MAX: usize = 512;

/// Rules that wait for the writer; more wait with their callers.
pub const WRITE_QUEUE_LEN: usize = 256;

/// Threads that read.
pub const READERS: usize = 2;

/// Pages of the log after which it is written into the file: 40 MiB. With one commit more, that fits into what the reserve
/// frees.
pub(crate) const CHECKPOINT_PAGES: u64 = 640;

/// Free space of the file system that stays free, in bytes: under it, nothing more is taken in.
pub const DISK_FREE_MIN: u64 = 256 << 20;

/// Bytes of the reserve, a file that is given up when the disk is full all the same.
pub const RESERVE_LEN: u64 = 64 << 20;

/// Name of its log, beside it.
const LOG_NAME: &str = "objects.db-wal";

/// Whether a home has a store.
pub(crate) fn is_there(home: &Path) -> bool {
    len_of(home, FILE_NAME) > 0
}

/// Whether a home that was used before has a store no more: its file is gone, or empty.
///
/// # Errors
/// When its log is still there: to open the store would throw that away, and the file may come back.
pub(crate) fn is_lost(home: &Path, ever_met: bool) -> Result<bool, OpenError> {
    if is_there(home) {
        return Ok(false);
    }
    if len_of(home, LOG_NAME) > 0 {
        let path = home.join(FILE_NAME);
        return Err(OpenError::Corrupt(format!("{} is missing or empty, and {LOG_NAME} is not", path.display())));
    }
    // The reserve is made once there is a store.
    Ok(ever_met || len_of(home, room::RESERVE_NAME) > 0)
}

fn len_of(home: &Path, name: &str) -> u64 {
    std::fs::metadata(home.join(name)).map_or(0, |found| found.len())
}

/// How much a store has whose node does not run.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn totals(home: &Path) -> Result<Totals, OpenError> {
    objects::totals(&home.join(FILE_NAME))
}

/// The object store of a node. Cheap to clone; the threads end when the last clone is gone, or by [`Self::close`].
#[derive(Clone)]
pub struct Objects {
    threads: Arc<Threads>,
    failed: watch::Receiver<Option<StoreError>>,
    room: Arc<Room>,
}

/// What the disk has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRoom {
    /// Free bytes.
    pub free: u64,
    /// Less is free than has to stay so.
    pub low: bool,
    /// The reserve is given up, and only what frees is written.
    pub tight: bool,
    /// Transactions so far that there was no room for.
    pub refused: u64,
}

impl Objects {
    /// Opens the store in a home, making it where there is none.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, or was written by a newer version; it is then left as it is.
    pub fn open(home: &Path, bytes_max: u64) -> Result<Self, OpenError> {
        Self::open_with(home, Setup::new(bytes_max))
    }

    fn open_with(home: &Path, setup: Setup) -> Result<Self, OpenError> {
        let room = Arc::new(Room::new(home, &setup));
        let (failed_sender, failed) = watch::channel(None);
        let threads = Threads::start(home, &setup, &room, failed_sender)?;
        room.restore_reserve();
        Ok(Self { threads: Arc::new(threads), failed, room })
    }

    /// Waits until the store has failed, and says how. Nothing is acknowledged any more.
    pub async fn failed(&self) -> StoreError {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or(StoreError::Closed),
            Err(_closed) => StoreError::Closed,
        }
    }

    /// How much room the disk has.
    pub fn disk_room(&self) -> DiskRoom {
        let room = &self.room;
        DiskRoom { free: room.free(), low: room.is_low(), tight: room.is_tight(), refused: room.refused() }
    }

    /// Gives freed pages back to the file system, a bounded number at a time.
    pub async fn give_back_space(&self) {
        self.threads.give_back_space().await;
    }

    /// Finishes what was asked for, empties the log into the file, and closes it.
    pub async fn close(&self) {
        self.threads.close().await;
    }
}

impl ObjectStore for Objects {
    async fn write<R: Send + 'static>(
        &self,
        weight: usize,
        rule: impl FnOnce(&mut dyn ObjectTx) -> StoreResult<R> + Send + 'static,
    ) -> StoreResult<R> {
        let (reply, result) = oneshot::channel();
        let run = move |tx: &mut dyn ObjectTx| -> (StoreResult<()>, Finish) {
            let result = rule(tx);
            let outcome = result.as_ref().map(|_| ()).map_err(Clone::clone);
            let finish = move |committed: StoreResult<()>| {
                // Nobody may wait any more; what is durable stays so.
                let _ = reply.send(committed.and(result));
            };
            (outcome, Box::new(finish))
        };
        self.threads.write(WriteJob { weight, run: Box::new(run) }).await?;
        result.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn read<R: Send + 'static>(
        &self,
        query: impl FnOnce(&mut dyn ObjectView) -> StoreResult<R> + Send + 'static,
    ) -> StoreResult<R> {
        let (reply, result) = oneshot::channel();
        let job: ReadJob = Box::new(move |view| {
            let answer = view.and_then(query);
            let outcome = answer.as_ref().map(|_| ()).map_err(Clone::clone);
            (outcome, Box::new(move || drop(reply.send(answer))))
        });
        self.threads.read(job).await?;
        result.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// How a store is opened. Only the first is the owner's to choose; the others are a door for tests.
#[derive(Clone)]
struct Setup {
    /// Most bytes of payload.
    bytes_max: u64,
    /// Pages of the log after which it is written into the file.
    checkpoint_pages: u64,
    /// The virtual file system of SQLite, by name; None for the platform's.
    vfs: Option<&'static str>,
    /// See [`DISK_FREE_MIN`].
    disk_free_min: u64,
    /// See [`RESERVE_LEN`].
    reserve_len: u64,
    /// Free bytes of the file system that a folder lies in.
    free: Free,
    /// How time passes.
    clock: Clock,
}

impl Setup {
    fn new(bytes_max: u64) -> Self {
        let since = Instant::now();
        Self {
            bytes_max,
            checkpoint_pages: CHECKPOINT_PAGES,
            vfs: None,
            disk_free_min: DISK_FREE_MIN,
            reserve_len: RESERVE_LEN,
            free: Arc::new(room::free_on_disk),
            clock: Arc::new(move || since.elapsed()),
        }
    }
}

/// Says how many bytes are free in the file system that a folder lies in.
type Free = Arc<dyn Fn(&Path) -> u64 + Send + Sync>;

/// Says how much time has passed since some moment.
type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

#[cfg(test)]
mod tests;
