//! The only owner of SQLite: one file, one thread that writes it, a few that read.
//!
//! A write is a rule (see [`p2p_dht::hold`]) that runs inside a transaction on the writer's thread. Rules that are waiting
//! share a transaction, and nobody hears of a result before the commit. When the disk fails the store stops for good:
//! repeating a failed fsync proves nothing (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).

mod objects;
mod threads;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_dht::store::{ObjectStore, ObjectTx, ObjectView, StoreError, StoreResult, Totals};
use tokio::sync::{oneshot, watch};

use objects::ReadJob;
use threads::{Finish, Threads, WriteJob};

pub use objects::OpenError;
pub(crate) use objects::{empty_log, open_reading, set_up_writing};

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

/// Pages of the log after which it is written into the file: 64 MiB.
pub(crate) const CHECKPOINT_PAGES: u32 = 1024;

/// Free space of the file system that stays free, in bytes.
pub const DISK_FREE_MIN: u64 = 256 << 20;

/// How much a store has whose node does not run.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn totals(home: &Path) -> Result<Totals, OpenError> {
    objects::Reader::open(&home.join(FILE_NAME), None)?.totals()
}

/// The object store of a node. Cheap to clone; the threads end when the last clone is gone, or by [`Self::close`].
#[derive(Clone)]
pub struct Objects {
    threads: Arc<Threads>,
    failed: watch::Receiver<Option<StoreError>>,
    /// A reader that finds the file damaged ends the store as the writer does.
    fail: watch::Sender<Option<StoreError>>,
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
        let (failed_sender, failed) = watch::channel(None);
        let threads = Threads::start(home, &setup, failed_sender.clone())?;
        Ok(Self { threads: Arc::new(threads), failed, fail: failed_sender })
    }

    /// Waits until the store has failed, and says how. Nothing is acknowledged any more.
    pub async fn failed(&self) -> StoreError {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or(StoreError::Closed),
            Err(_closed) => StoreError::Closed,
        }
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
            let _ = reply.send(match view {
                Ok(view) => query(view),
                Err(error) => Err(error),
            });
        });
        self.threads.read(job).await?;
        let result = result.await.unwrap_or(Err(StoreError::Closed));
        if let Err(error @ StoreError::Failed(_)) = &result {
            tracing::error!(%error, "the object store cannot be read");
            self.fail.send_replace(Some(error.clone()));
        }
        result
    }
}

/// How a store is opened. Only the first is the owner's to choose; the others are a door for tests.
#[derive(Clone)]
struct Setup {
    /// Most bytes of payload.
    bytes_max: u64,
    /// Pages of the log after which it is written into the file.
    checkpoint_pages: u32,
    /// The virtual file system of SQLite, by name; None for the platform's.
    vfs: Option<&'static str>,
    /// How time passes.
    clock: Clock,
}

impl Setup {
    fn new(bytes_max: u64) -> Self {
        let since = Instant::now();
        Self { bytes_max, checkpoint_pages: CHECKPOINT_PAGES, vfs: None, clock: Arc::new(move || since.elapsed()) }
    }
}

/// Says how much time has passed since some moment.
type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;
