//! The tables of `objects.db`, and the rules' port to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use p2p_dht::object::Object;
use p2p_dht::store::{
    Found, ObjectTx, ObjectView, Pending, Row, RunTime, SenderId, Sent, StoreError, StoreResult, Totals, Upload,
    UploadId,
};
use p2p_dht::tree::{ChainingValue, Id, ObjectRef, RootId};
use p2p_gossip::wire::Buffer;
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::PAGE_LEN;
use crate::sqlite::store_error;
use crate::store::Clock;
use crate::store::room::Room;

/// Senders that are counted in memory; with more of them, they are counted anew.
const SENT_LEN_MAX: usize = 1024;

/// What the one row of `state` says, kept in memory during a transaction.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub(super) totals: Totals,
    run_time: Duration,
    age: i64,
}

impl State {
    pub(super) fn load(db: &Connection) -> rusqlite::Result<Self> {
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
pub(super) struct View<W> {
    pub(super) db: Connection,
    pub(super) room: Arc<Room>,
    pub(super) writing: W,
}

/// Inside a transaction that writes.
pub(super) type Tx = View<Writing>;

pub(super) struct Writing {
    pub(super) state: State,
    pub(super) clock: Clock,
    /// What the clock said when `state.run_time` was right.
    pub(super) noted: Duration,
    /// What is kept for senders that were asked about, with what this transaction has done so far.
    pub(super) sent: BTreeMap<SenderId, Sent>,
}

/// Where the totals are found.
pub(super) trait Counted {
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
        State::load(db).map(|state| state.totals).map_err(|error| store_error(db, &error))
    }
}

impl<W> View<W> {
    pub(super) fn run(&self, sql: &str, params: impl Params) -> StoreResult<usize> {
        self.db
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map_err(|error| store_error(&self.db, &error))
    }
}

impl Tx {
    /// Adds what has passed since the last time to the clock that outlives the process, and writes the row.
    pub(super) fn save_state(&mut self, now: Duration) -> StoreResult<()> {
        self.writing.state.run_time += now.saturating_sub(self.writing.noted);
        let State { totals, run_time, age } = self.writing.state;
        let run_ms = millis(run_time);
        self.run(
            "UPDATE state SET objects = ?1, bytes = ?2, run_ms = ?3, age = ?4",
            params![totals.objects as i64, totals.bytes as i64, run_ms, age],
        )
        .map(drop)
    }

    /// Pages in the log, and how many of them are in the file already.
    pub(super) fn log_pages(&self) -> StoreResult<(u64, u64)> {
        let pages = query_one(&self.db, "PRAGMA wal_checkpoint(NOOP)", [], |row| {
            Ok((row.get::<_, i64>(1)?.max(0) as u64, row.get::<_, i64>(2)?.max(0) as u64))
        })?;
        Ok(pages.unwrap_or_default())
    }

    /// Runs a checkpoint; what readers keep it from doing is left for the next one.
    pub(super) fn checkpoint(&self, sql: &str) -> StoreResult<()> {
        query_one(&self.db, sql, [], |_| Ok(())).map(drop)
    }

    /// Gives back memory, and up to so many free pages of the file.
    pub(super) fn give_back_space(&self, pages: u32) -> StoreResult<()> {
        if let Err(error) = self.db.execute_batch("PRAGMA shrink_memory") {
            tracing::debug!(%error, "cannot give memory back");
        }
        // A row for every page: the statement has done its work only when all have been fetched.
        let sql = format!("PRAGMA incremental_vacuum({pages})");
        query_all(&self.db, &sql, [], |_| Ok(())).map(drop)
    }

    fn next_age(&mut self) -> i64 {
        self.writing.state.age += 1;
        self.writing.state.age
    }

    /// Takes note of what becomes of an upload, if its sender is counted.
    fn note_sent(&mut self, upload: UploadId, note: impl FnOnce(&mut Sent)) {
        if let Some(sent) = self.writing.sent.get_mut(&upload.sender()) {
            note(sent);
        }
    }

    fn upload_row(&self, id: UploadId) -> StoreResult<Option<i64>> {
        query_one(&self.db, "SELECT row FROM uploads WHERE id = ?1", [&id.0[..]], |row| row.get(0))
    }
}

impl ObjectTx for Tx {
    fn now(&self) -> RunTime {
        RunTime(self.writing.state.run_time + (self.writing.clock)().saturating_sub(self.writing.noted))
    }

    fn is_tight(&self) -> bool {
        self.room.is_tight()
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

    fn set_damaged(&mut self, row: Row) -> StoreResult<()> {
        self.run("UPDATE objects SET damaged = 1 WHERE row = ?1", [row.0]).map(drop)
    }

    fn mend(&mut self, row: Row, object: &Object) -> StoreResult<()> {
        self.run(
            "INSERT OR REPLACE INTO payloads (row, bytes) VALUES (?1, ?2)",
            params![row.0, &object.payload()[..]],
        )?;
        self.run("UPDATE objects SET damaged = 0 WHERE row = ?1", [row.0]).map(drop)
    }

    fn damaged_of(&mut self, upload: UploadId) -> StoreResult<u64> {
        // Seldom is anything damaged, so that is looked up first.
        let sql = "SELECT count(*) FROM objects CROSS JOIN holds ON holds.object = objects.row
                   WHERE damaged AND holds.upload = (SELECT row FROM uploads WHERE id = ?1)";
        Ok(query_one(&self.db, sql, [&upload.0[..]], |row| row.get(0))?.unwrap_or(0))
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
        let (root, last_sign) = (root.as_ref().map(|root| &root.0[..]), millis(last_sign.0));
        let sql = "UPDATE uploads SET root = ?2, last_sign = ?3 WHERE id = ?1";
        if self.run(sql, params![&id.0[..], root, last_sign])? == 0 {
            let sql = "INSERT INTO uploads (id, root, last_sign) VALUES (?1, ?2, ?3)";
            self.run(sql, params![&id.0[..], root, last_sign])?;
            self.note_sent(id, |sent| sent.uploads += 1);
        }
        Ok(())
    }

    fn sent_by(&mut self, sender: SenderId) -> StoreResult<Sent> {
        if let Some(sent) = self.writing.sent.get(&sender) {
            return Ok(*sent);
        }
        let (first, last) = (UploadId::of(sender, [0; 8]), UploadId::of(sender, [255; 8]));
        let sql = "SELECT count(*), coalesce(sum(objects), 0) FROM uploads WHERE id BETWEEN ?1 AND ?2";
        let sent = query_one(&self.db, sql, (&first.0[..], &last.0[..]), |row| {
            Ok(Sent { uploads: row.get(0)?, holds: row.get(1)? })
        })?
        .unwrap_or_default();
        if self.writing.sent.len() >= SENT_LEN_MAX {
            self.writing.sent.clear();
        }
        self.writing.sent.insert(sender, sent);
        Ok(sent)
    }

    fn hold(&mut self, row: Row, upload: UploadId) -> StoreResult<bool> {
        let id = upload;
        let upload = self.upload_row(id)?.ok_or_else(|| StoreError::Failed("unknown upload".into()))?;
        let new =
            self.run("INSERT OR IGNORE INTO holds (upload, object) VALUES (?1, ?2)", params![upload, row.0])? == 1;
        if new {
            self.note_sent(id, |sent| sent.holds += 1);
            self.run("UPDATE objects SET holds = holds + 1 WHERE row = ?1", [row.0])?;
            self.run("UPDATE uploads SET objects = objects + 1 WHERE row = ?1", [upload])?;
        }
        Ok(new)
    }

    fn release(&mut self, upload: UploadId, limit: u32) -> StoreResult<bool> {
        let id = upload;
        let Some(upload) = self.upload_row(id)? else { return Ok(true) };
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
        let forgotten = self.run("DELETE FROM uploads WHERE row = ?1 AND objects = 0", [upload])? == 1;
        self.note_sent(id, |sent| {
            sent.holds -= held.len() as u64;
            sent.uploads -= u64::from(forgotten);
        });
        Ok(forgotten)
    }

    fn stale_uploads(&mut self, before: RunTime, limit: u32) -> StoreResult<Vec<UploadId>> {
        query_all(
            &self.db,
            "SELECT id FROM uploads WHERE root IS NULL AND last_sign < ?1 ORDER BY last_sign, id LIMIT ?2",
            params![millis(before.0), limit],
            |row| row.get(0).map(UploadId),
        )
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
        let sql = "SELECT bytes FROM objects LEFT JOIN payloads USING (row)
                   WHERE id = ?1 AND is_root = ?2 AND offset = ?3 AND len = ?4 AND NOT damaged";
        let bytes: Option<Option<Bytes>> = query_one(&self.db, sql, key(reference), |row| {
            Ok(row.get_ref(0)?.as_blob_or_null()?.map(|bytes| Buffer::copy_of(bytes).freeze()))
        })?;
        let Some(bytes) = bytes else { return Ok(None) };
        let object = bytes.and_then(|bytes| Object::verify(*reference, bytes).ok());
        object.map(Some).ok_or(StoreError::Damaged(*reference))
    }

    fn root_len(&mut self, root: &RootId) -> StoreResult<Option<u64>> {
        let sql = "SELECT len FROM objects WHERE id = ?1 AND is_root AND NOT damaged";
        query_one(&self.db, sql, [&root.0[..]], |row| row.get::<_, i64>(0).map(|len| len as u64))
    }

    fn row(&mut self, reference: &ObjectRef) -> StoreResult<Option<Found>> {
        let sql = "SELECT row, holds, damaged FROM objects
                   WHERE id = ?1 AND is_root = ?2 AND offset = ?3 AND len = ?4";
        query_one(&self.db, sql, key(reference), |row| {
            Ok(Found { row: Row(row.get(0)?), holds: row.get(1)?, damaged: row.get(2)? })
        })
    }

    fn damaged(&mut self, after: Row, limit: u32) -> StoreResult<Vec<(Row, ObjectRef)>> {
        let sql = "SELECT row, id, is_root, offset, len FROM objects
                   WHERE damaged AND holds > 0 AND row > ?1 ORDER BY row LIMIT ?2";
        query_all(&self.db, sql, params![after.0, limit], |row| {
            let (id, is_root): ([u8; 32], bool) = (row.get(1)?, row.get(2)?);
            let id = if is_root { Id::Root(RootId(id)) } else { Id::Subtree(ChainingValue(id)) };
            let (offset, len) = (row.get::<_, i64>(3)? as u64, row.get::<_, i64>(4)? as u64);
            Ok((Row(row.get(0)?), ObjectRef { id, offset, len }))
        })
    }

    fn roots(&mut self, row: Row, limit: u32) -> StoreResult<Vec<RootId>> {
        let sql = "SELECT coalesce(uploads.root, pending.root) AS file
                   FROM holds JOIN uploads ON uploads.row = holds.upload LEFT JOIN pending ON pending.staging = uploads.id
                   WHERE holds.object = ?1 AND file IS NOT NULL GROUP BY file ORDER BY file LIMIT ?2";
        query_all(&self.db, sql, params![row.0, limit], |row| row.get(0).map(RootId))
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

    fn bytes_max(&mut self) -> StoreResult<u64> {
        let inside = query_one(&self.db, "PRAGMA freelist_count", [], |row| row.get::<_, i64>(0))?.unwrap_or(0);
        let used = self.totals()?.bytes;
        Ok(self.room.bytes_max(used, inside as u64 * u64::from(PAGE_LEN)))
    }

    fn oldest_cache(&mut self, limit: u32) -> StoreResult<Vec<(Row, u64)>> {
        let sql = "SELECT row, size FROM objects WHERE holds = 0 ORDER BY age LIMIT ?1";
        query_all(&self.db, sql, [limit], |row| Ok((Row(row.get(0)?), row.get(1)?)))
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
        .map_err(|error| store_error(db, &error))
}

fn query_all<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> StoreResult<Vec<T>> {
    db.prepare_cached(sql)
        .and_then(|mut statement| statement.query_map(params, read)?.collect())
        .map_err(|error| store_error(db, &error))
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
