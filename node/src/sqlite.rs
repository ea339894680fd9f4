//! What all databases of a node have in common: how they are opened and written, and what their failures mean.

use std::path::{Path, PathBuf};

use p2p_dht::store::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

/// Why a database cannot be opened. The file is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It was written by a newer version.
    #[error("{path} has version {found}, and this program knows versions up to {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest that can be used.
        known: i64,
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

/// Makes the file, if there is none, for this user alone; SQLite gives its companions the same mode.
pub(crate) fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn connect(path: &Path, flags: OpenFlags, vfs: Option<&str>) -> rusqlite::Result<Connection> {
    let db = match vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
        None => Connection::open_with_flags(path, flags),
    }?;
    // What is to be synced is synced by the writer, which notices when it fails; not in passing when something ends.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Plans are made once for a statement, and not anew for each value bound to it: that took a fifth of a reader's time.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(db)
}

pub(crate) fn open_error(path: &Path) -> impl FnOnce(rusqlite::Error) -> OpenError {
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

/// How a file is written: durably. Says how it is kept whole, which should be by a log ("wal").
pub(crate) fn set_up_writing(
    db: &Connection,
    page_len_if_new: Option<u32>,
    autocheckpoint_pages: u64,
) -> rusqlite::Result<String> {
    if let Some(page_len) = page_len_if_new {
        // In this order, and before the first table: the page size cannot change later, nor can auto_vacuum be enabled.
        db.pragma_update(None, "page_size", page_len)?;
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

/// The version of a file, if this program knows it.
pub(crate) fn version(db: &Connection, path: &Path, known: i64) -> Result<i64, OpenError> {
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(open_error(path))?;
    if found > known { Err(OpenError::Newer { path: path.to_owned(), found, known }) } else { Ok(found) }
}

/// Brings the schema from a version up to date, by steps from each to the next.
pub(crate) fn migrate(db: &mut Connection, version: i64, steps: &[&str]) -> rusqlite::Result<()> {
    for (step, sql) in steps.iter().enumerate().skip(version as usize) {
        let tx = db.transaction()?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "user_version", step as i64 + 1)?;
        tx.commit()?;
    }
    Ok(())
}

/// A full disk passes; anything else that SQLite reports does not.
pub(crate) fn store_error(db: &Connection, error: &rusqlite::Error) -> StoreError {
    let (code, extended) = match error.sqlite_error() {
        Some(found) => (Some(found.code), found.extended_code),
        None => (None, 0),
    };
    let text = || describe(db.path().unwrap_or_default(), error);
    match (code, extended) {
        (Some(ErrorCode::DiskFull), _) => StoreError::DiskFull,
        // The index of the log, in a file of its own, cannot grow.
        (_, ffi::SQLITE_IOERR_SHMSIZE) => StoreError::DiskFull,
        (Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase), _) => StoreError::Corrupt(text()),
        // No error of SQLite's: a column holds what this program never writes there.
        (None, _) => StoreError::Corrupt(text()),
        _ => StoreError::Failed(text()),
    }
}

/// What was being done to which file, and what SQLite says of it.
fn describe(path: &str, error: &rusqlite::Error) -> String {
    let doing = match error.sqlite_error().map_or(0, |found| found.extended_code) {
        ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ => "cannot read",
        ffi::SQLITE_IOERR_WRITE => "cannot write",
        ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => "cannot sync",
        ffi::SQLITE_IOERR_TRUNCATE => "cannot shorten",
        ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_SHMOPEN | ffi::SQLITE_IOERR_SHMMAP => "cannot share memory for",
        ffi::SQLITE_CANTOPEN => "cannot open",
        _ => "cannot use",
    };
    format!("{doing} {path}: {error}")
}
