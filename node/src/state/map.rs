//! The replicated map and its tables, one transaction after the other: what the thread that writes `state.db` does with it.

use p2p_dht::store::{StoreError, StoreResult};
use p2p_gossip::kv::{Config, Damage, Effect, Epochs, Machine, Replica, Trouble, Work};
use p2p_gossip::swim::{Name, Time};
use rusqlite::Connection;

use super::checkpoint_if_due;
use super::kv::KvTables;
use crate::sqlite::store_error;

/// The map of a node.
pub(crate) struct Map {
    tables: KvTables,
    machine: Machine,
}

/// What came of a transaction that is durable.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// What follows.
    pub(crate) effects: Vec<Effect>,
    /// What was found lost instead: nothing of what was to be done is done, and the map was built again.
    pub(crate) recovered: Option<Damage>,
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
        Ok((Self { tables, machine: Machine::new(config, replica, rand::random()) }, damage))
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
                checkpoint_if_due(db).map_err(|error| store_error(db, &error))?;
                Ok(committed)
            }
            Err(Trouble::Damage(damage)) => {
                let machine = &mut self.machine;
                let built = transact(&mut self.tables, |tables| machine.recover(tables, epochs(), rand::random()));
                match built {
                    Ok(()) => Ok(Committed { effects: Vec::new(), recovered: Some(damage) }),
                    Err(trouble) => Err(self.failed(trouble)),
                }
            }
            Err(Trouble::Store(error)) => Err(store_error(self.tables.db(), &error)),
        }
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
