//! `objects.db`: the connections to it, one that writes and some that read.

mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2p_dht::store::{ObjectTx, ObjectView, StoreError, StoreResult, Totals};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Setup;
use super::room::Room;
use tables::{State, Tx, View, Writing, describe, store_error};

/// Version of the schema that this program writes.
const SCHEMA_VERSION: i64 = 2;

/// Steps from each version of the schema to the next.
const SCHEMA_STEPS: [&str; SCHEMA_VERSION as usize] =
    [include_str!("objects/schema.sql"), include_str!("objects/schema-2.sql")];

/// Bytes of a page: a payload of 1 MiB takes sixteen, and reads and writes of it go by these.
const PAGE_LEN: u32 = 64 << 10;

/// Pages given back to the file system at a time: 16 MiB.
const GIVEN_BACK_PAGES: u32 = 256;

/// Why the store cannot be opened. The file is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It was written by a newer version.
    #[error("{path} has version {found}, and this program knows versions up to {SCHEMA_VERSION}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// It is damaged, or no database.
    #[error("{0}")]
    Corrupt(String),
    /// It cannot be read or written.
    #[error("{0}")]
    Failed(String),
    /// The system refuses.
    #[error(transparent)]
    Io(std::io::Error),
}

/// The connection that writes.
pub(super) struct Writer {
    tx: Tx,
    checkpoint_pages: u64,
}

impl Writer {
    pub(super) fn open(path: &Path, setup: &Setup, room: Arc<Room>) -> Result<Self, OpenError> {
        make_private(path).map_err(OpenError::Io)?;
        let mut db = connect(path, OpenFlags::default(), setup.vfs).map_err(open_error(path))?;
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(open_error(path))?;
        if version > SCHEMA_VERSION {
            return Err(OpenError::Newer { path: path.to_owned(), found: version });
        }
        // SQLite's own checkpoints keep their failures to themselves, so there are none.
        let mode = set_up_writing(&db, version == 0, 0).map_err(open_error(path))?;
        db.set_prepared_statement_cache_capacity(64);
        if mode != "wal" {
            // A file system that fails now and then; what is written is to be synced in one place, by one rule.
            return Err(OpenError::Failed(format!(
                "cannot keep a log for {}: its journal is a {mode}",
                path.display()
            )));
        }
        migrate(&mut db, version).map_err(open_error(path))?;
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

/// Makes the file, if there is none, for this user alone; SQLite gives its companions the same mode.
fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn connect(path: &Path, flags: OpenFlags, vfs: Option<&str>) -> rusqlite::Result<Connection> {
    let db = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
        None => Connection::open_with_flags(path, flags),
    }?;
    // What is to be synced is synced by the writer, which notices when it fails; not in passing when something ends.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(db)
}

fn open_error(path: &Path) -> impl FnOnce(rusqlite::Error) -> OpenError {
    move |error| {
        let text = describe(&path.display().to_string(), &error);
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) | None => OpenError::Corrupt(text),
            Some(_) => OpenError::Failed(text),
        }
    }
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt(text) => OpenError::Corrupt(text),
            other => OpenError::Failed(other.to_string()),
        }
    }
}

/// How much a store has that is not open.
pub(super) fn totals(path: &Path) -> Result<Totals, OpenError> {
    let db = open_reading(path, None).map_err(open_error(path))?;
    State::load(&db).map(|state| state.totals).map_err(open_error(path))
}

/// How this file is written: durably, in pages for payloads. Says how it is kept whole, which should be by a log ("wal").
pub(crate) fn set_up_writing(db: &Connection, new_file: bool, autocheckpoint_pages: u64) -> rusqlite::Result<String> {
    if new_file {
        // In this order, and before the first table: the page size cannot change later, nor can auto_vacuum be enabled.
        db.pragma_update(None, "page_size", PAGE_LEN)?;
        db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "cache_size", -4 * 1024)?;
    db.pragma_update(None, "wal_autocheckpoint", autocheckpoint_pages)?;
    // It has done its work only when it has no more rows: what fails then is not in the first.
    let mut statement = db.prepare("PRAGMA journal_mode = WAL")?;
    let modes = statement.query_map([], |row| row.get(0))?;
    modes.last().unwrap_or_else(|| Ok(String::new()))
}

/// Opens a file to read it.
pub(crate) fn open_reading(path: &Path, vfs: Option<&str>) -> rusqlite::Result<Connection> {
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX, vfs)?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "cache_size", -1024)?;
    Ok(db)
}

/// Brings the schema up to date.
fn migrate(db: &mut Connection, version: i64) -> rusqlite::Result<()> {
    for (step, sql) in SCHEMA_STEPS.iter().enumerate().skip(version as usize) {
        let tx = db.transaction()?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "user_version", step as i64 + 1)?;
        tx.commit()?;
    }
    Ok(())
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
        let db = open_reading(path, setup.vfs).map_err(open_error(path))?;
        db.set_prepared_statement_cache_capacity(32);
        Ok(Self { view: View { db, room, writing: () } })
    }

    /// Answers a query from one consistent state; what came of it, and how to tell the caller.
    pub(super) fn run(&mut self, job: ReadJob) -> (StoreResult<()>, Box<dyn FnOnce()>) {
        let answer = match self.view.db.execute_batch("BEGIN") {
            Ok(()) => job(Ok(&mut self.view)),
            Err(error) => job(Err(store_error(&self.view.db, &error))),
        };
        if let Err(error) = self.view.db.execute_batch("COMMIT") {
            tracing::warn!(%error, "cannot end a read");
            let _ = self.view.db.execute_batch("ROLLBACK");
        }
        answer
    }
}
