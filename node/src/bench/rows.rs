//! Rows of 1 MiB in SQLite by a bare loop: the ceiling of whatever keeps objects there.
//!
//! Page size, log, fsyncs, caches and checkpoints are the object store's own; so is the size of commits. There is one table
//! without any index beside its key, nothing is hashed, nobody waits for another thread.

use std::path::Path;

use bytes::Bytes;
use p2p_api::Problem;
use p2p_api::bench::Stage;
use rusqlite::{Connection, params};

use super::{Clock, Scratch, failed, leaves};
use crate::sqlite::{open_reading, set_up_writing};
use crate::store::{CHECKPOINT_PAGES, COMMIT_LEN_MAX, PAGE_LEN};

const SCHEMA: &str = "CREATE TABLE leaves (
    row    INTEGER PRIMARY KEY,
    id     BLOB    NOT NULL,
    offset INTEGER NOT NULL,
    len    INTEGER NOT NULL,
    bytes  BLOB    NOT NULL
) STRICT";

pub(super) fn measure(scratch: &Scratch, size: u64) -> Result<Vec<Stage>, Problem> {
    let path = scratch.path().join("rows.db");
    let leaves = leaves(size);
    let sqlite = failed("SQLite does not do it");
    let db = Connection::open(&path).map_err(&sqlite)?;
    set_up_writing(&db, Some(PAGE_LEN), CHECKPOINT_PAGES).and_then(|_| db.execute_batch(SCHEMA)).map_err(&sqlite)?;
    let clock = Clock::start();
    write(&db, &leaves).map_err(&sqlite)?;
    // As a put ends: all is durable, and the last of it still in the log.
    let written = clock.stop("write", size);
    let clock = Clock::start();
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").map_err(&sqlite)?;
    let closed = clock.stop("close", 0);
    drop(db);
    let count = leaves.len();
    drop(leaves);
    let clock = Clock::start();
    let read = read(&path, count).map_err(&sqlite)?;
    let read_back = clock.stop("read", read);
    Ok(vec![written, closed, read_back])
}

fn write(db: &Connection, leaves: &[Bytes]) -> rusqlite::Result<()> {
    let per_commit = (COMMIT_LEN_MAX / leaves[0].len()).max(1);
    let mut insert = db.prepare("INSERT INTO leaves (row, id, offset, len, bytes) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut row: i64 = 0;
    for together in leaves.chunks(per_commit) {
        db.execute_batch("BEGIN IMMEDIATE")?;
        for leaf in together {
            row += 1;
            // As long as an id, and as little to be guessed; where a leaf is shorter it is one of them all the same.
            let id = leaf.get(..32).unwrap_or(leaf);
            insert.execute(params![row, id, row << 20, leaf.len() as i64, &leaf[..]])?;
        }
        db.execute_batch("COMMIT")?;
    }
    Ok(())
}

/// Copies every payload out, as whoever sends it must; says how many bytes there were.
fn read(path: &Path, count: usize) -> rusqlite::Result<u64> {
    let db = open_reading(path, None)?;
    let mut select = db.prepare("SELECT bytes FROM leaves WHERE row = ?1")?;
    let mut out = Vec::new();
    let mut total = 0;
    for row in 1..=count as i64 {
        total += select.query_row([row], |found| {
            let bytes = found.get_ref(0)?.as_blob()?;
            out.clear();
            out.extend_from_slice(bytes);
            Ok(out.len() as u64)
        })?;
    }
    Ok(total)
}
