//! The replicated map in `state.db`, as one transaction sees it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::Bytes;
use p2p_gossip::kv::{Actor, Dot, Entry, Key, KvTx, Place, Root, Seen, entry_of};
use p2p_gossip::sum::Sum;
use p2p_gossip::swim::Name;
use rusqlite::types::Type;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};

/// Tables that are set aside when the map is built again.
pub(super) const HELD_SCHEMA: &str = include_str!("schema-2-held.sql");

/// Statements that are kept ready.
pub(super) const STATEMENTS_MAX: usize = 64;

/// The map's tables, and what their writer remembers of them from one transaction to the next.
pub(crate) struct KvTables {
    db: Connection,
    /// Numbers of actors in the file.
    ids: BTreeMap<Actor, i64>,
    /// Place in the log that the next write gets: never one that there was before, though the log may be empty.
    log_end: u64,
}

type Result<T> = rusqlite::Result<T>;

impl KvTables {
    /// Over a connection that is the only one that writes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn new(db: Connection) -> Result<Self> {
        db.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        let last: Option<u64> = db.query_row("SELECT max(place) FROM kv_log", [], |row| row.get(0))?;
        Ok(Self { db, ids: BTreeMap::new(), log_end: last.map_or(0, |last| last + 1) })
    }

    /// The connection.
    pub(crate) fn db(&self) -> &Connection {
        &self.db
    }

    /// Forgets what a transaction has made that was rolled back.
    pub(crate) fn forget(&mut self) {
        self.ids.clear();
    }

    fn sql(&self, sql: &str) -> Result<CachedStatement<'_>> {
        self.db.prepare_cached(sql)
    }

    /// The number of an actor; None of one that was never named here.
    fn find(&mut self, actor: &Actor) -> Result<Option<i64>> {
        if let Some(id) = self.ids.get(actor) {
            return Ok(Some(*id));
        }
        let sql = "SELECT kv_actors.id FROM kv_actors JOIN kv_peers ON kv_peers.id = peer
            WHERE name = ?1 AND epoch = ?2";
        let found = self.sql(sql)?.query_row(params![&actor.peer.0[..], signed(actor.epoch)], |row| row.get(0));
        let id = found.optional()?;
        id.map(|id| self.ids.insert(*actor, id));
        Ok(id)
    }

    /// The number of an actor, which it gets where it has none.
    fn id(&mut self, actor: &Actor) -> Result<i64> {
        if let Some(id) = self.find(actor)? {
            return Ok(id);
        }
        self.sql("INSERT OR IGNORE INTO kv_peers (name) VALUES (?1)")?.execute([&actor.peer.0[..]])?;
        let sql = "INSERT INTO kv_actors (peer, epoch) VALUES ((SELECT id FROM kv_peers WHERE name = ?1), ?2)
            RETURNING id";
        let made = self.sql(sql)?.query_row(params![&actor.peer.0[..], signed(actor.epoch)], |row| row.get(0))?;
        self.ids.insert(*actor, made);
        Ok(made)
    }

    /// Up to `count` rows in the order of their keys, which begin so; None of one that is not what was written.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn entries(&self, prefix: &str, after: Option<&Key>, count: usize) -> Result<Vec<(Key, Option<Entry>)>> {
        let from = after.map_or(prefix.as_bytes(), |after| &after.as_bytes()[..]).max(prefix.as_bytes());
        let is_after = after.is_some_and(|after| from == &after.as_bytes()[..]);
        // No key has this byte in it.
        let end = [prefix.as_bytes(), &[0xff]].concat();
        let mut statement = self.sql(
            "SELECT key, row FROM kv_rows WHERE key >= ?1 AND key < ?2 AND (key > ?1 OR NOT ?3) ORDER BY key LIMIT ?4",
        )?;
        let read = |row: &Row<'_>| {
            let (key, row) = (key(bytes(row, 0)?)?, bytes(row, 1)?);
            let entry = entry_of(&key, &row);
            Ok((key, entry))
        };
        statement.query_map(params![from, end, is_after, limit(count)], read)?.collect()
    }

    fn rows_of(&self, table: &str, (from, to): (i64, i64), after: Option<&[u8]>, count: usize) -> Result<Vec<RawRow>> {
        let select = format!("SELECT place, key, row FROM {table} WHERE place <= ?2 AND");
        let read = |row: &Row<'_>| Ok((row.get(0)?, bytes(row, 1)?, bytes(row, 2)?));
        match after {
            None => self
                .sql(&format!("{select} place >= ?1 ORDER BY place, key LIMIT ?3"))?
                .query_map(params![from, to, limit(count)], read)?
                .collect(),
            Some(after) => self
                .sql(&format!("{select} (place, key) > (?1, ?4) ORDER BY place, key LIMIT ?3"))?
                .query_map(params![from, to, limit(count), after], read)?
                .collect(),
        }
    }
}

/// Place, key and row.
type RawRow = (i64, Bytes, Bytes);

/// A key that no key can be: the file is damaged.
fn key(bytes: Bytes) -> Result<Key> {
    Key::new(bytes).map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, Box::new(error)))
}

/// SQLite knows signed numbers only; their order is to be kept.
fn signed(number: u64) -> i64 {
    (number ^ 1 << 63) as i64
}

fn unsigned(number: i64) -> u64 {
    number as u64 ^ 1 << 63
}

fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn bytes(row: &Row<'_>, column: usize) -> Result<Bytes> {
    Ok(Bytes::copy_from_slice(row.get_ref(column)?.as_blob()?))
}

/// An actor whose name is in two columns from this one on; None of what cannot be one.
fn actor(row: &Row<'_>, column: usize) -> Result<Option<Actor>> {
    let peer: Option<[u8; 32]> = row.get_ref(column)?.as_blob()?.try_into().ok();
    let epoch = unsigned(row.get(column + 1)?);
    Ok(peer.map(|peer| Actor { peer: Name(peer), epoch }))
}

impl KvTx for KvTables {
    type Error = rusqlite::Error;

    fn row(&mut self, key: &Key) -> Result<Option<Bytes>> {
        let mut statement = self.sql("SELECT row FROM kv_rows WHERE key = ?1")?;
        statement.query_row([&key.as_bytes()[..]], |row| bytes(row, 0)).optional()
    }

    fn set_row(&mut self, place: Place, key: &Key, row: Option<&Bytes>) -> Result<()> {
        let (place, key) = (signed(place.0), &key.as_bytes()[..]);
        match row {
            Some(row) => {
                let sql = "INSERT INTO kv_rows (place, key, row) VALUES (?1, ?2, ?3)
                    ON CONFLICT DO UPDATE SET row = excluded.row";
                self.sql(sql)?.execute(params![place, key, &row[..]])?;
            }
            None => drop(self.sql("DELETE FROM kv_rows WHERE key = ?1")?.execute([key])?),
        }
        Ok(())
    }

    fn rows(
        &mut self,
        places: RangeInclusive<Place>,
        after: Option<&Key>,
        count: usize,
    ) -> Result<Vec<(Place, Key, Bytes)>> {
        let places = (signed(places.start().0), signed(places.end().0));
        let rows = self.rows_of("kv_rows", places, after.map(|after| &after.as_bytes()[..]), count)?;
        // A key that is none is as good as lost: the sum of its leaf tells.
        let read = |(place, bytes, row)| Some((Place(unsigned(place)), Key::new(bytes).ok()?, row));
        Ok(rows.into_iter().filter_map(read).collect())
    }

    fn append(&mut self, dot: &Dot, key: &Key, op: Option<&Bytes>) -> Result<()> {
        let (actor, place) = (self.id(&dot.actor)?, self.log_end);
        let (key, op) = (&key.as_bytes()[..], op.map(|op| &op[..]));
        let sql = "INSERT INTO kv_log VALUES (?1, ?2, ?3, ?4, ?5)";
        self.sql(sql)?.execute(params![place, actor, dot.counter, key, op])?;
        self.log_end += 1;
        Ok(())
    }

    fn logged(&mut self, dot: &Dot) -> Result<Option<(Key, Option<Bytes>)>> {
        let Some(actor) = self.find(&dot.actor)? else { return Ok(None) };
        let mut statement = self.sql("SELECT key, op FROM kv_log WHERE actor = ?1 AND counter = ?2")?;
        let read = |row: &Row<'_>| {
            let op = row.get_ref(1)?.as_blob_or_null()?.map(Bytes::copy_from_slice);
            Ok((key(bytes(row, 0)?)?, op))
        };
        statement.query_row(params![actor, dot.counter], read).optional()
    }

    fn count_logged(&mut self, actor: &Actor, run: RangeInclusive<u64>) -> Result<u64> {
        let Some(actor) = self.find(actor)? else { return Ok(0) };
        let mut statement = self.sql("SELECT count(*) FROM kv_log WHERE actor = ?1 AND counter BETWEEN ?2 AND ?3")?;
        statement.query_row(params![actor, run.start(), run.end()], |row| row.get(0))
    }

    fn log_end(&mut self) -> Result<u64> {
        Ok(self.log_end)
    }

    fn trim_log(&mut self, keep: u64, before: u64, count: usize) -> Result<u64> {
        // Places have gaps only where something was lost: about so many it is.
        let first: Option<u64> = self.sql("SELECT min(place) FROM kv_log")?.query_row([], |row| row.get(0))?;
        let Some(first) = first else { return Ok(0) };
        let end = self.log_end.saturating_sub(keep).min(before).min(first.saturating_add(count as u64));
        if end <= first {
            return Ok(0);
        }
        Ok(self.sql("DELETE FROM kv_log WHERE place < ?1")?.execute([end])? as u64)
    }

    fn vector(&mut self) -> Result<Vec<(Actor, Seen)>> {
        let sql = "SELECT name, epoch, seen FROM kv_actors JOIN kv_peers ON kv_peers.id = kv_actors.peer
            WHERE seen IS NOT NULL";
        let mut statement = self.sql(sql)?;
        let read = |row: &Row<'_>| Ok((actor(row, 0)?, Seen::decode(row.get_ref(2)?.as_blob()?)));
        let found = statement.query_map([], read)?.collect::<Result<Vec<_>>>()?.into_iter();
        // What cannot be read is as good as lost: the sum of the vector tells.
        Ok(found.filter_map(|(actor, seen)| Some((actor?, seen?))).collect())
    }

    fn set_seen(&mut self, actor: &Actor, seen: &Seen) -> Result<()> {
        let id = self.id(actor)?;
        self.sql("UPDATE kv_actors SET seen = ?2 WHERE id = ?1")?.execute(params![id, &seen.encode()[..]])?;
        Ok(())
    }

    fn sums(&mut self) -> Result<Vec<(usize, Sum)>> {
        let mut statement = self.sql("SELECT number, sum FROM kv_sums")?;
        let read = |row: &Row<'_>| Ok((row.get::<_, usize>(0)?, row.get_ref(1)?.as_blob()?.try_into().ok()));
        let found = statement.query_map([], read)?.collect::<Result<Vec<(usize, Option<[u8; 40]>)>>>()?.into_iter();
        Ok(found.filter_map(|(number, sum)| Some((number, Sum::from_bytes(&sum?)))).collect())
    }

    fn sum(&mut self, number: usize) -> Result<Option<Sum>> {
        let mut statement = self.sql("SELECT sum FROM kv_sums WHERE number = ?1")?;
        let read = |row: &Row<'_>| Ok(row.get_ref(0)?.as_blob()?.try_into().ok());
        let found: Option<Option<[u8; 40]>> = statement.query_row([number], read).optional()?;
        Ok(found.flatten().map(|sum| Sum::from_bytes(&sum)))
    }

    fn set_sum(&mut self, number: usize, sum: &Sum) -> Result<()> {
        let sql = "INSERT INTO kv_sums VALUES (?1, ?2) ON CONFLICT DO UPDATE SET sum = excluded.sum";
        self.sql(sql)?.execute(params![number, &sum.to_bytes()[..]])?;
        Ok(())
    }

    fn root(&mut self) -> Result<Option<Root>> {
        let mut statement = self.sql("SELECT root FROM kv_node")?;
        let root: Option<Option<[u8; 80]>> =
            statement.query_row([], |row| Ok(row.get_ref(0)?.as_blob_or_null()?.map(|root| root.try_into().ok())))?;
        Ok(root.flatten().map(|root| Root::from_bytes(&root)))
    }

    fn set_root(&mut self, root: &Root) -> Result<()> {
        self.sql("UPDATE kv_node SET root = ?1")?.execute([&root.to_bytes()[..]])?;
        Ok(())
    }

    fn is_behind(&mut self) -> Result<bool> {
        self.sql("SELECT is_behind FROM kv_node")?.query_row([], |row| row.get(0))
    }

    fn set_behind(&mut self, is_behind: bool) -> Result<()> {
        self.sql("UPDATE kv_node SET is_behind = ?1")?.execute([is_behind])?;
        Ok(())
    }

    fn stage(&mut self, key: &Key, row: &Bytes) -> Result<()> {
        let sql = "INSERT INTO kv_staged VALUES (?1, ?2) ON CONFLICT DO UPDATE SET row = excluded.row";
        self.sql(sql)?.execute(params![&key.as_bytes()[..], &row[..]])?;
        Ok(())
    }

    fn staged_row(&mut self, key: &Key) -> Result<Option<Bytes>> {
        let mut statement = self.sql("SELECT row FROM kv_staged WHERE key = ?1")?;
        statement.query_row([&key.as_bytes()[..]], |row| bytes(row, 0)).optional()
    }

    fn staged(&mut self, after: Option<&Key>, count: usize) -> Result<Vec<(Key, Bytes)>> {
        let after = after.map(|after| &after.as_bytes()[..]).unwrap_or_default();
        let mut statement = self.sql("SELECT key, row FROM kv_staged WHERE key > ?1 ORDER BY key LIMIT ?2")?;
        statement.query_map(params![after, limit(count)], |row| Ok((key(bytes(row, 0)?)?, bytes(row, 1)?)))?.collect()
    }

    fn clear_staged(&mut self) -> Result<()> {
        self.sql("DELETE FROM kv_staged")?.execute([])?;
        Ok(())
    }

    fn set_aside(&mut self) -> Result<()> {
        self.ids.clear();
        self.db.execute_batch(
            "DROP INDEX kv_places; DROP INDEX kv_log_dots;
            ALTER TABLE kv_rows RENAME TO kv_rows_aside; ALTER TABLE kv_log RENAME TO kv_log_aside;
            DELETE FROM kv_actors; DELETE FROM kv_peers; DELETE FROM kv_sums; DELETE FROM kv_staged;
            UPDATE kv_node SET is_behind = 0, root = NULL;
            CREATE INDEX kv_places_aside ON kv_rows_aside (place);",
        )?;
        self.db.execute_batch(HELD_SCHEMA)
    }

    fn rows_aside(&mut self, from: Place, after: Option<&Key>, count: usize) -> Result<Vec<(Place, Key, Bytes)>> {
        let (mut from, mut after) = (signed(from.0), after.map(|after| after.as_bytes().clone()));
        loop {
            let rows = self.rows_of("kv_rows_aside", (from, i64::MAX), after.as_deref(), count)?;
            let Some((place, last, _)) = rows.last() else { return Ok(Vec::new()) };
            (from, after) = (*place, Some(last.clone()));
            // Here what cannot be read is lost, and passed over.
            let read = rows
                .into_iter()
                .filter_map(|(place, bytes, row)| Some((Place(unsigned(place)), Key::new(bytes).ok()?, row)));
            let read: Vec<(Place, Key, Bytes)> = read.collect();
            if !read.is_empty() {
                return Ok(read);
            }
        }
    }

    fn log_aside(&mut self, from: u64, count: usize) -> Result<Vec<(u64, Bytes)>> {
        let sql = "SELECT place, op FROM kv_log_aside WHERE place >= ?1 AND op IS NOT NULL ORDER BY place LIMIT ?2";
        let mut statement = self.sql(sql)?;
        let read = |row: &Row<'_>| Ok((row.get(0)?, bytes(row, 1)?));
        statement.query_map(params![from, limit(count)], read)?.collect()
    }

    fn clear_aside(&mut self) -> Result<()> {
        self.db.execute_batch("DROP TABLE kv_rows_aside; DROP TABLE kv_log_aside;")
    }
}
