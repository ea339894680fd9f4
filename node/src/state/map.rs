//! The replicated map and its tables, one transaction after the other: what the thread that writes `state.db` does with it.

use p2p_dht::store::{StoreError, StoreResult};
use p2p_gossip::kv::{Config, Damage, Effect, Epochs, KvTx, Machine, Replica, Trouble, Work};
use p2p_gossip::swim::{Name, Time};
use rusqlite::Connection;

use super::checkpoint_if_due;
use super::kv::KvTables;
use crate::sqlite::store_error;

/// The map of a node.
pub(crate) struct Map {
    tables: KvTables,
    machine: Machine,
    /// Whether it was built from what was left, and has not been compared with a whole one since.
    is_behind: bool,
    /// Bytes of the file, less what is free in it.
    len: u64,
}

/// What came of a transaction that is durable.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// What follows.
    pub(crate) effects: Vec<Effect>,
    /// What was found lost instead: nothing of what was to be done is done, and the map was built again.
    pub(crate) recovered: Option<Damage>,
    /// Whether the map has begun anew.
    pub(crate) is_new: bool,
}

impl Map {
    /// Opens the map in a file that nobody else writes. One that has lost something is built again, and that is said.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(crate) fn open(db: Connection, peer: Name, config: Config) -> StoreResult<(Self, Option<Damage>)> {
        let mut tables = KvTables::new(db).map_err(|error| StoreError::Failed(error.to_string()))?;
        let opened = transact(&mut tables, |tables| Replica::open(tables, peer, epochs()));
        let (replica, damage) = match opened {
            Ok(replica) => (replica, None),
            Err(Trouble::Damage(damage)) => (recover(&mut tables, peer)?, Some(damage)),
            Err(Trouble::Store(error)) => return Err(store_error(tables.db(), &error)),
        };
        let mut map = Self { tables, machine: Machine::new(config, replica, rand::random()), is_behind: false, len: 0 };
        map.look().map_err(|error| store_error(map.tables.db(), &error))?;
        Ok((map, damage))
    }

    /// Whether it was built from what was left, and has not been compared with a whole one since.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Bytes of the file, less what is free in it.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The machine, to take from it what it has noted.
    pub(crate) fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The file.
    pub(crate) fn db(&self) -> &Connection {
        self.tables.db()
    }

    /// What decides what becomes of it.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Does all of this in one transaction, which is durable when this returns.
    ///
    /// # Errors
    /// When the file cannot be read or written: then nothing of it is done. After anything but a full disk the map is not to be
    /// used any more; after a full disk it has to be opened again.
    pub(crate) fn commit(&mut self, work: Vec<Work>, now: Time) -> StoreResult<Committed> {
        let mut committed = Committed::default();
        let machine = &mut self.machine;
        match transact(&mut self.tables, |tables| machine.transact(tables, work, now, &mut committed.effects)) {
            Ok(()) => {
                let db = self.tables.db();
                checkpoint_if_due(db)
                    .and_then(|()| self.look())
                    .map_err(|error| store_error(self.tables.db(), &error))?;
                Ok(committed)
            }
            Err(Trouble::Damage(damage)) => {
                let machine = &mut self.machine;
                let built = transact(&mut self.tables, |tables| machine.recover(tables, epochs(), rand::random()));
                match built {
                    Ok(()) => {
                        self.look().map_err(|error| store_error(self.tables.db(), &error))?;
                        Ok(Committed { effects: Vec::new(), recovered: Some(damage), is_new: true })
                    }
                    Err(trouble) => Err(self.failed(trouble)),
                }
            }
            Err(Trouble::Store(error)) => Err(store_error(self.tables.db(), &error)),
        }
    }

    /// Goes on with what the file holds, after a transaction for which the disk had no room.
    ///
    /// # Errors
    /// When the file cannot be read, or has lost something.
    pub(crate) fn reopen(&mut self) -> StoreResult<Committed> {
        let machine = &mut self.machine;
        let opened = transact(&mut self.tables, |tables| machine.reopen(tables, epochs(), rand::random()));
        opened.map_err(|trouble| self.failed(trouble))?;
        Ok(Committed { effects: Vec::new(), recovered: None, is_new: true })
    }

    /// Looks at what is shown of it.
    fn look(&mut self) -> rusqlite::Result<()> {
        self.is_behind = self.tables.is_behind()?;
        let pragma = |name| self.tables.db().prepare_cached(name)?.query_row([], |row| row.get::<_, u64>(0));
        let (pages, free) = (pragma("PRAGMA page_count")?, pragma("PRAGMA freelist_count")?);
        self.len = pages.saturating_sub(free) * u64::from(super::PAGE_LEN);
        Ok(())
    }

    /// Writes all of it into the file, so that there is nothing beside it.
    ///
    /// # Errors
    /// When that cannot be done.
    pub(crate) fn close(self) -> rusqlite::Result<()> {
        super::truncate_log(self.tables.db())
    }

    fn failed(&self, trouble: Trouble<rusqlite::Error>) -> StoreError {
        match trouble {
            Trouble::Store(error) => store_error(self.tables.db(), &error),
            Trouble::Damage(damage) => StoreError::Corrupt(damage.to_string()),
        }
    }
}

fn epochs() -> Epochs {
    Epochs::new(rand::random())
}

fn recover(tables: &mut KvTables, peer: Name) -> StoreResult<Replica> {
    let built = transact(tables, |tables| {
        let mut replica = Replica::recover(tables, peer, epochs())?;
        replica.finish(tables)?;
        Ok(replica)
    });
    built.map_err(|trouble| match trouble {
        Trouble::Store(error) => store_error(tables.db(), &error),
        Trouble::Damage(damage) => StoreError::Corrupt(damage.to_string()),
    })
}

/// Runs something in a transaction of its own, of which nothing is left when it fails.
fn transact<R>(
    tables: &mut KvTables,
    run: impl FnOnce(&mut KvTables) -> Result<R, Trouble<rusqlite::Error>>,
) -> Result<R, Trouble<rusqlite::Error>> {
    tables.db().execute_batch("BEGIN IMMEDIATE")?;
    let done = run(tables).and_then(|done| {
        tables.db().execute_batch("COMMIT")?;
        Ok(done)
    });
    if done.is_err() {
        // Without meaning where SQLite has done it itself.
        let _ = tables.db().execute_batch("ROLLBACK");
        tables.forget();
    }
    done
}

#[cfg(test)]
mod tests;
