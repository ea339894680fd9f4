//! `objects.db`: the tables behind [`ObjectTx`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use p2p_dht::hold::FILL_PERCENT_MAX;
use p2p_dht::object::Object;
use p2p_dht::store::{
    Found, ObjectTx, ObjectView, Pending, Row, RunTime, StoreError, StoreResult, Totals, Upload, UploadId,
};
use p2p_dht::tree::{Id, ObjectRef, RootId};
use p2p_gossip::wire::Buffer;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Params, params};

use super::{Clock, DISK_FREE_MIN, Setup};

/// Version of the schema that this program writes.
const SCHEMA_VERSION: i64 = 1;

/// Steps from each version of the schema to the next.
const SCHEMA_STEPS: [&str; SCHEMA_VERSION as usize] = [include_str!("objects/schema.sql")];

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
    /// SQLite cannot use it.
    #[error("{path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The system refuses.
    #[error(transparent)]
    Io(std::io::Error),
}

/// The connection that writes.
pub(super) struct Writer {
    tx: Tx,
}

impl Writer {
    pub(super) fn open(path: &Path, setup: &Setup) -> Result<Self, OpenError> {
        let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
        make_private(path).map_err(OpenError::Io)?;
        let mut db = connect(path, OpenFlags::default(), setup.vfs).map_err(sqlite)?;
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sqlite)?;
        if version > SCHEMA_VERSION {
            return Err(OpenError::Newer { path: path.to_owned(), found: version });
        }
        prepare(&mut db, version, setup).map_err(sqlite)?;
        let state = State::load(&db).map_err(sqlite)?;
        let writing = Writing {
            state,
            bytes_max: setup.bytes_max,
            path: path.to_owned(),
            noted: (setup.clock)(),
            clock: setup.clock.clone(),
        };
        let tx = Tx { db, writing };
        Ok(Self { tx })
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
            Err(_) => self.roll_back(),
        }
        saved
    }

    pub(super) fn roll_back(&mut self) {
        // SQLite may have done so itself, and then this is an error without meaning.
        let _ = self.tx.db.execute_batch("ROLLBACK");
        if let Ok(state) = State::load(&self.tx.db) {
            self.tx.writing.state = state;
        }
    }

    /// Gives back memory, and a bounded part of the file's free pages.
    pub(super) fn give_back_space(&mut self) {
        if let Err(error) = self.tx.db.execute_batch("PRAGMA shrink_memory") {
            tracing::debug!(%error, "cannot give memory back");
        }
        // A row for every page: the statement has done its work only when all have been fetched.
        let sql = format!("PRAGMA incremental_vacuum({GIVEN_BACK_PAGES})");
        let freed = self.tx.db.prepare_cached(&sql).and_then(|mut statement| {
            let mut pages = statement.query([])?;
            while pages.next()?.is_some() {}
            Ok(())
        });
        if let Err(error) = freed {
            tracing::warn!(%error, "cannot give space back");
        }
    }

    /// Writes the clock and empties the log; failing that, the next start does.
    pub(super) fn close(mut self) {
        if self.begin().is_ok() {
            let _ = self.commit();
        }
        if let Err(error) = empty_log(&self.tx.db) {
            tracing::warn!(%error, "cannot empty the log of the object store");
        }
    }
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
    match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
        None => Connection::open_with_flags(path, flags),
    }
}

/// How this file is written: durably, in pages for payloads.
pub(crate) fn set_up_writing(db: &Connection, new_file: bool, checkpoint_pages: u32) -> rusqlite::Result<()> {
    if new_file {
        // In this order, and before the first table: the page size cannot change later, nor can auto_vacuum be enabled.
        db.pragma_update(None, "page_size", PAGE_LEN)?;
        db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "cache_size", -4 * 1024)?;
    db.pragma_update(None, "wal_autocheckpoint", checkpoint_pages)
}

/// Opens a file to read it.
pub(crate) fn open_reading(path: &Path, vfs: Option<&str>) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = connect(path, flags, vfs)?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "cache_size", -1024)?;
    Ok(db)
}

/// Empties the log into the file, as at the end of a run.
pub(crate) fn empty_log(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
}

/// Sets up a connection and brings the schema up to date.
fn prepare(db: &mut Connection, version: i64, setup: &Setup) -> rusqlite::Result<()> {
    set_up_writing(db, version == 0, setup.checkpoint_pages)?;
    db.set_prepared_statement_cache_capacity(64);
    for (step, sql) in SCHEMA_STEPS.iter().enumerate().skip(version as usize) {
        let tx = db.transaction()?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "user_version", step as i64 + 1)?;
        tx.commit()?;
    }
    Ok(())
}

/// A query that waits for a reader.
pub(super) type ReadJob = Box<dyn FnOnce(StoreResult<&mut dyn ObjectView>) + Send>;

/// A connection that reads.
pub(super) struct Reader {
    view: View<()>,
}

impl Reader {
    pub(super) fn open(path: &Path, vfs: Option<&str>) -> Result<Self, OpenError> {
        let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
        let db = open_reading(path, vfs).map_err(sqlite)?;
        db.set_prepared_statement_cache_capacity(32);
        Ok(Self { view: View { db, writing: () } })
    }

    /// How much there is.
    pub(super) fn totals(&mut self) -> Result<Totals, OpenError> {
        let path = self.view.db.path().map(PathBuf::from).unwrap_or_default();
        let state = State::load(&self.view.db).map_err(|source| OpenError::Sqlite { path, source })?;
        Ok(state.totals)
    }

    /// Answers a query from one consistent state.
    pub(super) fn run(&mut self, job: ReadJob) {
        match self.view.db.execute_batch("BEGIN") {
            Ok(()) => job(Ok(&mut self.view)),
            Err(error) => job(Err(store_error(&error))),
        }
        if let Err(error) = self.view.db.execute_batch("COMMIT") {
            tracing::warn!(%error, "cannot end a read");
            let _ = self.view.db.execute_batch("ROLLBACK");
        }
    }
}

/// What the one row of `state` says, kept in memory during a transaction.
#[derive(Clone, Copy)]
struct State {
    totals: Totals,
    run_time: Duration,
    age: i64,
}

impl State {
    fn load(db: &Connection) -> rusqlite::Result<Self> {
        db.query_row("SELECT objects, bytes, run_ms, age FROM state", [], |row| {
            Ok(Self {
                totals: Totals { objects: row.get(0)?, bytes: row.get(1)? },
                run_time: Duration::from_millis(row.get(2)?),
                age: row.get(3)?,
            })
        })
    }
}

/// A connection to look through, and what is needed to write by it.
struct View<W> {
    db: Connection,
    writing: W,
}

/// Inside a transaction that writes.
type Tx = View<Writing>;

struct Writing {
    state: State,
    bytes_max: u64,
    path: PathBuf,
    clock: Clock,
    /// What the clock said when `state.run_time` was right.
    noted: Duration,
}

/// Where the totals are found.
trait Counted {
    fn totals(&self, db: &Connection) -> StoreResult<Totals>;
}

impl Counted for Writing {
    /// With what this transaction has done so far.
    fn totals(&self, _db: &Connection) -> StoreResult<Totals> {
        Ok(self.state.totals)
    }
}

impl Counted for () {
    fn totals(&self, db: &Connection) -> StoreResult<Totals> {
        State::load(db).map(|state| state.totals).map_err(|error| store_error(&error))
    }
}

impl Tx {
    fn run(&self, sql: &str, params: impl Params) -> StoreResult<usize> {
        self.db.prepare_cached(sql).and_then(|mut statement| statement.execute(params)).map_err(|e| store_error(&e))
    }

    /// Adds what has passed since the last time to the clock that outlives the process, and writes the row.
    fn save_state(&mut self, now: Duration) -> StoreResult<()> {
        self.writing.state.run_time += now.saturating_sub(self.writing.noted);
        let State { totals, run_time, age } = self.writing.state;
        let run_ms = millis(run_time);
        self.run(
            "UPDATE state SET objects = ?1, bytes = ?2, run_ms = ?3, age = ?4",
            params![totals.objects as i64, totals.bytes as i64, run_ms, age],
        )
        .map(drop)
    }

    fn next_age(&mut self) -> i64 {
        self.writing.state.age += 1;
        self.writing.state.age
    }

    fn upload_row(&self, id: UploadId) -> StoreResult<Option<i64>> {
        query_one(&self.db, "SELECT row FROM uploads WHERE id = ?1", [&id.0[..]], |row| row.get(0))
    }
}

impl ObjectTx for Tx {
    fn now(&self) -> RunTime {
        RunTime(self.writing.state.run_time + (self.writing.clock)().saturating_sub(self.writing.noted))
    }

    fn bytes_max(&self) -> u64 {
        // What the file system can still take counts as much as what the owner allows.
        let dir = self.writing.path.parent().unwrap_or(Path::new("."));
        let free = rustix::fs::statvfs(dir).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        let inside: i64 = self.db.pragma_query_value(None, "freelist_count", |row| row.get(0)).unwrap_or(0);
        let free = free.saturating_sub(DISK_FREE_MIN).saturating_add(inside as u64 * u64::from(PAGE_LEN));
        let by_disk = self.writing.state.totals.bytes.saturating_add(free);
        // The caller fills only a part of what is configured; what the disk has left can be filled whole.
        self.writing.bytes_max.min(by_disk.saturating_mul(100) / FILL_PERCENT_MAX)
    }

    fn insert(&mut self, object: &Object) -> StoreResult<Row> {
        let reference = object.reference();
        let size = object.payload().len() as i64;
        let age = self.next_age();
        self.run(
            "INSERT INTO objects (id, is_root, offset, len, size, age) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                &reference.id.bytes()[..],
                matches!(reference.id, Id::Root(_)),
                reference.offset as i64,
                reference.len as i64,
                size,
                age
            ],
        )?;
        let row = self.db.last_insert_rowid();
        self.run("INSERT INTO payloads (row, bytes) VALUES (?1, ?2)", params![row, &object.payload()[..]])?;
        self.writing.state.totals.objects += 1;
        self.writing.state.totals.bytes += size as u64;
        Ok(Row(row))
    }

    fn remove(&mut self, row: Row) -> StoreResult<u64> {
        let size: Option<i64> =
            query_one(&self.db, "DELETE FROM objects WHERE row = ?1 AND holds = 0 RETURNING size", [row.0], |found| {
                found.get(0)
            })?;
        let Some(size) = size else { return Ok(0) };
        self.run("DELETE FROM payloads WHERE row = ?1", [row.0])?;
        self.writing.state.totals.objects -= 1;
        self.writing.state.totals.bytes -= size as u64;
        Ok(size as u64)
    }

    fn set_upload(&mut self, id: UploadId, root: Option<RootId>, last_sign: RunTime) -> StoreResult<()> {
        self.run(
            "INSERT INTO uploads (id, root, last_sign) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET root = excluded.root, last_sign = excluded.last_sign",
            params![&id.0[..], root.as_ref().map(|root| &root.0[..]), millis(last_sign.0)],
        )
        .map(drop)
    }

    fn hold(&mut self, row: Row, upload: UploadId) -> StoreResult<bool> {
        let upload = self.upload_row(upload)?.ok_or_else(|| StoreError::Failed("unknown upload".into()))?;
        let new =
            self.run("INSERT OR IGNORE INTO holds (upload, object) VALUES (?1, ?2)", params![upload, row.0])? == 1;
        if new {
            self.run("UPDATE objects SET holds = holds + 1 WHERE row = ?1", [row.0])?;
            self.run("UPDATE uploads SET objects = objects + 1 WHERE row = ?1", [upload])?;
        }
        Ok(new)
    }

    fn release(&mut self, upload: UploadId, limit: u32) -> StoreResult<bool> {
        let Some(upload) = self.upload_row(upload)? else { return Ok(true) };
        let held: Vec<i64> = query_all(
            &self.db,
            "SELECT object FROM holds WHERE upload = ?1 ORDER BY object LIMIT ?2",
            params![upload, limit],
            |row| row.get(0),
        )?;
        for object in &held {
            let age = self.next_age();
            self.run("DELETE FROM holds WHERE upload = ?1 AND object = ?2", params![upload, object])?;
            self.run(
                "UPDATE objects SET holds = holds - 1, age = iif(holds = 1, ?2, age) WHERE row = ?1",
                params![object, age],
            )?;
        }
        self.run("UPDATE uploads SET objects = objects - ?2 WHERE row = ?1", params![upload, held.len() as i64])?;
        Ok(self.run("DELETE FROM uploads WHERE row = ?1 AND objects = 0", [upload])? == 1)
    }

    fn stale_uploads(&mut self, before: RunTime, limit: u32) -> StoreResult<Vec<UploadId>> {
        query_all(
            &self.db,
            "SELECT id FROM uploads WHERE root IS NULL AND last_sign < ?1 ORDER BY last_sign, id LIMIT ?2",
            params![millis(before.0), limit],
            |row| row.get(0).map(UploadId),
        )
    }

    fn oldest_cache(&mut self, limit: u32) -> StoreResult<Vec<Row>> {
        let sql = "SELECT row FROM objects WHERE holds = 0 ORDER BY age LIMIT ?1";
        query_all(&self.db, sql, [limit], |row| row.get(0).map(Row))
    }

    fn add_pending(&mut self, pending: &Pending) -> StoreResult<()> {
        self.run(
            "INSERT OR REPLACE INTO pending (staging, copies, root, len, replicas) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                &pending.staging.0[..],
                &pending.copies.0[..],
                &pending.root.0[..],
                pending.len as i64,
                pending.replicas
            ],
        )
        .map(drop)
    }

    fn remove_pending(&mut self, staging: UploadId) -> StoreResult<()> {
        self.run("DELETE FROM pending WHERE staging = ?1", [&staging.0[..]]).map(drop)
    }
}

impl<W: Counted> ObjectView for View<W> {
    fn object(&mut self, reference: &ObjectRef) -> StoreResult<Option<Object>> {
        let sql = "SELECT bytes FROM payloads JOIN objects USING (row)
                   WHERE id = ?1 AND is_root = ?2 AND offset = ?3 AND len = ?4";
        let bytes: Option<Bytes> =
            query_one(&self.db, sql, key(reference), |row| Ok(Buffer::copy_of(row.get_ref(0)?.as_blob()?).freeze()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let object = Object::verify(*reference, bytes);
        object.map(Some).map_err(|_mismatch| StoreError::Damaged(reference.id))
    }

    fn root_len(&mut self, root: &RootId) -> StoreResult<Option<u64>> {
        let sql = "SELECT len FROM objects WHERE id = ?1 AND is_root";
        query_one(&self.db, sql, [&root.0[..]], |row| row.get::<_, i64>(0).map(|len| len as u64))
    }

    fn find(&mut self, reference: &ObjectRef) -> StoreResult<Option<Found>> {
        let sql = "SELECT row, holds FROM objects WHERE id = ?1 AND is_root = ?2 AND offset = ?3 AND len = ?4";
        query_one(&self.db, sql, key(reference), |row| Ok(Found { row: Row(row.get(0)?), holds: row.get(1)? }))
    }

    fn is_bound(&mut self, row: Row, root: &RootId) -> StoreResult<bool> {
        let sql = "SELECT 1 FROM holds JOIN uploads ON uploads.row = holds.upload
                   WHERE holds.object = ?1 AND uploads.root = ?2 LIMIT 1";
        Ok(query_one(&self.db, sql, params![row.0, &root.0[..]], |_| Ok(()))?.is_some())
    }

    fn upload(&mut self, id: UploadId) -> StoreResult<Option<Upload>> {
        let sql = "SELECT root, last_sign, objects FROM uploads WHERE id = ?1";
        query_one(&self.db, sql, [&id.0[..]], |row| {
            Ok(Upload {
                root: row.get::<_, Option<[u8; 32]>>(0)?.map(RootId),
                last_sign: RunTime(Duration::from_millis(row.get(1)?)),
                objects: row.get(2)?,
            })
        })
    }

    fn pending(&mut self) -> StoreResult<Vec<Pending>> {
        let sql = "SELECT staging, copies, root, len, replicas FROM pending ORDER BY staging";
        query_all(&self.db, sql, [], |row| {
            Ok(Pending {
                staging: UploadId(row.get(0)?),
                copies: UploadId(row.get(1)?),
                root: RootId(row.get(2)?),
                len: row.get::<_, i64>(3)? as u64,
                replicas: row.get(4)?,
            })
        })
    }

    fn totals(&mut self) -> StoreResult<Totals> {
        self.writing.totals(&self.db)
    }
}

/// What names an object in a query: all four must agree.
fn key(reference: &ObjectRef) -> (&[u8], bool, i64, i64) {
    let is_root = matches!(reference.id, Id::Root(_));
    (&reference.id.bytes()[..], is_root, reference.offset as i64, reference.len as i64)
}

fn query_one<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> StoreResult<Option<T>> {
    db.prepare_cached(sql)
        .and_then(|mut statement| statement.query_row(params, read).optional())
        .map_err(|error| store_error(&error))
}

fn query_all<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> StoreResult<Vec<T>> {
    db.prepare_cached(sql)
        .and_then(|mut statement| statement.query_map(params, read)?.collect())
        .map_err(|error| store_error(&error))
}

/// A full disk passes; anything else that SQLite reports does not.
fn store_error(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::DiskFull,
        _ => StoreError::Failed(error.to_string()),
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
