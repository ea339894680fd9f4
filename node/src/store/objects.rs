//! `objects.db`: the connections to it, one that writes and some that read.

mod tables;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use p2p_dht::store::{ObjectTx, ObjectView, StoreError, StoreResult, Totals};
use rusqlite::OpenFlags;

use super::Setup;
use super::room::Room;
use crate::sqlite::{self, OpenError, open_error, store_error};
use tables::{State, Tx, View, Writing};

/// Version of the schema that this program writes.
const SCHEMA_VERSION: i64 = 2;

/// Steps from each version of the schema to the next.
const SCHEMA_STEPS: [&str; SCHEMA_VERSION as usize] =
    [include_str!("objects/schema.sql"), include_str!("objects/schema-2.sql")];

/// Bytes of a page: a payload of 1 MiB takes sixteen, and reads and writes of it go by these.
pub(crate) const PAGE_LEN: u32 = 64 << 10;

/// Pages given back to the file system at a time: 16 MiB.
const GIVEN_BACK_PAGES: u32 = 256;

/// The connection that writes.
pub(super) struct Writer {
    tx: Tx,
    checkpoint_pages: u64,
}

impl Writer {
    pub(super) fn open(path: &Path, setup: &Setup, room: Arc<Room>) -> Result<Self, OpenError> {
        sqlite::make_private(path).map_err(OpenError::Io)?;
        let mut db = sqlite::connect(path, OpenFlags::default(), setup.vfs).map_err(open_error(path))?;
        let version = sqlite::version(&db, path, SCHEMA_VERSION)?;
        // SQLite's own checkpoints keep their failures to themselves, so there are none.
        let mode = sqlite::set_up_writing(&db, (version == 0).then_some(PAGE_LEN), 0).map_err(open_error(path))?;
        db.set_prepared_statement_cache_capacity(64);
        if mode != "wal" {
            // A file system that fails now and then; what is written is to be synced in one place, by one rule.
            return Err(OpenError::Failed(format!(
                "cannot keep a log for {}: its journal is a {mode}",
                path.display()
            )));
        }
        sqlite::migrate(&mut db, version, &SCHEMA_STEPS).map_err(open_error(path))?;
        let state = State::load(&db).map_err(open_error(path))?;
        let writing = Writing { state, noted: (setup.clock)(), clock: setup.clock.clone(), sent: BTreeMap::new() };
        let mut writer = Self { tx: Tx { db, room, writing }, checkpoint_pages: setup.checkpoint_pages };
        // A log that was left may have been written and never synced; it can be read all the same, until the power goes.
        // So it counts only once it is copied into the file and synced there.
        match writer.checkpoint(Checkpoint::Truncate) {
            Ok(()) => Ok(writer),
            Err(StoreError::DiskFull) => {
                writer.run_out()?;
                Ok(writer)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn tx(&mut self) -> &mut dyn ObjectTx {
        &mut self.tx
    }

    pub(super) fn begin(&mut self) -> StoreResult<()> {
        self.tx.run("BEGIN IMMEDIATE", []).map(drop)
    }

    pub(super) fn commit(&mut self) -> StoreResult<()> {
        let now = (self.tx.writing.clock)();
        let saved = self.tx.save_state(now).and_then(|()| self.tx.run("COMMIT", []).map(drop));
        match saved {
            Ok(()) => self.tx.writing.noted = now,
            Err(error) => return Err(self.roll_back(error)),
        }
        Ok(())
    }

    /// Undoes a transaction that failed for this reason, and says what it is to be called now.
    pub(super) fn roll_back(&mut self, reason: StoreError) -> StoreError {
        // SQLite may have done so itself, and then this is an error without meaning.
        let _ = self.tx.db.execute_batch("ROLLBACK");
        self.tx.writing.sent.clear();
        match State::load(&self.tx.db) {
            Ok(state) => {
                self.tx.writing.state = state;
                reason
            }
            Err(error) => store_error(&self.tx.db, &error),
        }
    }

    /// Writes the log into the file when it has become long; at once where there is no room for a long one.
    pub(super) fn checkpoint_if_due(&mut self) -> StoreResult<()> {
        let (log, copied) = self.tx.log_pages()?;
        if self.tx.room.is_tight() {
            return self.checkpoint_or_run_out(Checkpoint::Truncate);
        }
        if log.saturating_sub(copied) < self.checkpoint_pages {
            return Ok(());
        }
        // Readers that come one after the other can keep the log from ever beginning anew, unless it is waited for.
        let grown = log >= 2 * self.checkpoint_pages;
        self.checkpoint_or_run_out(if grown { Checkpoint::Restart } else { Checkpoint::Passive })
    }

    /// What is to be done when the disk had no room for a transaction. What was committed before is safe in the log.
    pub(super) fn run_out(&mut self) -> StoreResult<()> {
        self.tx.room.run_out();
        match self.checkpoint(Checkpoint::Truncate) {
            Err(StoreError::DiskFull) => Ok(()),
            done => done,
        }
    }

    /// Gives back memory, a bounded part of the file's free pages and what the log takes, and makes the reserve again where
    /// there is room.
    pub(super) fn give_back_space(&mut self) -> StoreResult<()> {
        match self.tx.give_back_space(GIVEN_BACK_PAGES) {
            Ok(()) => self.checkpoint_or_run_out(Checkpoint::Truncate)?,
            Err(StoreError::DiskFull) => self.run_out()?,
            Err(error) => return Err(error),
        }
        self.tx.room.restore_reserve();
        Ok(())
    }

    /// Writes the clock and empties the log; failing that, the next start does.
    pub(super) fn close(mut self) {
        let closed = self.begin().and_then(|()| self.commit()).and_then(|()| self.checkpoint(Checkpoint::Truncate));
        if let Err(error) = closed {
            tracing::warn!(%error, "cannot empty the log of the object store");
        }
    }

    fn checkpoint_or_run_out(&mut self, checkpoint: Checkpoint) -> StoreResult<()> {
        match self.checkpoint(checkpoint) {
            Err(StoreError::DiskFull) => self.run_out(),
            done => done,
        }
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) -> StoreResult<()> {
        let sql = match checkpoint {
            Checkpoint::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
            Checkpoint::Restart => "PRAGMA wal_checkpoint(RESTART)",
            Checkpoint::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
        };
        self.tx.checkpoint(sql)
    }
}

/// How the log is written into the file.
#[derive(Clone, Copy)]
enum Checkpoint {
    /// As far as readers allow.
    Passive,
    /// Whole, waiting for readers, so that it begins anew.
    Restart,
    /// Likewise, and its room is given back.
    Truncate,
}

/// How much a store has that is not open.
pub(super) fn totals(path: &Path) -> Result<Totals, OpenError> {
    let db = sqlite::open_reading(path, None).map_err(open_error(path))?;
    State::load(&db).map(|state| state.totals).map_err(open_error(path))
}

/// Runs a query; what came of it, and how to tell the caller.
type Query = dyn FnOnce(StoreResult<&mut dyn ObjectView>) -> (StoreResult<()>, Box<dyn FnOnce()>) + Send;

/// A query that waits for a reader.
pub(super) type ReadJob = Box<Query>;

/// A connection that reads.
pub(super) struct Reader {
    view: View<()>,
}

impl Reader {
    pub(super) fn open(path: &Path, setup: &Setup, room: Arc<Room>) -> Result<Self, OpenError> {
        let db = sqlite::open_reading(path, setup.vfs).map_err(open_error(path))?;
        db.set_prepared_statement_cache_capacity(32);
        Ok(Self { view: View { db, room, writing: () } })
    }

    /// Answers a query from one consistent state; what came of it, and how to tell the caller.
    pub(super) fn run(&mut self, job: ReadJob) -> (StoreResult<()>, Box<dyn FnOnce()>) {
        let answer = match self.view.run("BEGIN", []) {
            Ok(_) => job(Ok(&mut self.view)),
            Err(error) => job(Err(error)),
        };
        if let Err(error) = self.view.run("COMMIT", []) {
            tracing::warn!(%error, "cannot end a read");
            let _ = self.view.db.execute_batch("ROLLBACK");
        }
        answer
    }
}
