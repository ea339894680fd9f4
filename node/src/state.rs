//! `state.db`: what a node remembers of itself and of others, so that it is known for the same after its next start.
//!
//! [`StateFile`] is the file before the node runs, [`State`] the thread that writes it afterwards. Membership never waits for
//! it: what is to be remembered of members is noted and written together a moment later. A new generation alone is awaited,
//! because nobody may hear of it before it is durable.

pub(crate) mod kv;
pub(crate) mod map;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use libp2p::Multiaddr;
use p2p_dht::store::{StoreError, StoreResult};
use p2p_gossip::swim::{Fact, Keys, Name};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;

use crate::sqlite::{self, OpenError, open_error, store_error};

/// Name of the file in the home.
const FILE_NAME: &str = "state.db";

/// Version of the schema that this program writes.
const SCHEMA_VERSION: i64 = 2;

/// Steps from each version of the schema to the next.
const SCHEMA_STEPS: [&str; SCHEMA_VERSION as usize] = [
    include_str!("state/schema.sql"),
    concat!(include_str!("state/schema-2.sql"), include_str!("state/schema-2-held.sql")),
];

/// Bytes of a page.
const PAGE_LEN: u32 = 4 << 10;

/// Pages of the log after which it is written into the file: 16 MiB. Pages that are written often are in it often.
const CHECKPOINT_PAGES: i64 = 4096;

/// What is noted of members within this time is written together.
const GATHER_TIME: Duration = Duration::from_millis(100);

/// Pause before what found no room on the disk is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// Why the file cannot be used. It is left as it is.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StateError(#[from] pub OpenError);

/// The file, before the node runs.
pub(crate) struct StateFile {
    db: Connection,
    path: PathBuf,
}

impl StateFile {
    /// Opens the file of a home, making it where there is none.
    ///
    /// # Errors
    /// When it cannot be opened, is damaged, or was written by a newer version; it is then left as it is.
    pub(crate) fn open(home: &Path) -> Result<Self, StateError> {
        Self::open_on(home, None)
    }

    /// The same, over another file system than the common one.
    pub(crate) fn open_on(home: &Path, vfs: Option<&str>) -> Result<Self, StateError> {
        let path = home.join(FILE_NAME);
        if vfs.is_none() {
            sqlite::make_private(&path).map_err(OpenError::Io)?;
        }
        let mut db = sqlite::connect(&path, OpenFlags::default(), vfs).map_err(open_error(&path))?;
        let version = sqlite::version(&db, &path, SCHEMA_VERSION)?;
        let mode = sqlite::set_up_writing(&db, (version == 0).then_some(PAGE_LEN), 0).map_err(open_error(&path))?;
        if mode != "wal" {
            return Err(OpenError::Failed(format!(
                "cannot keep a log for {}: its journal is a {mode}",
                path.display()
            ))
            .into());
        }
        sqlite::migrate(&mut db, version, &SCHEMA_STEPS).map_err(open_error(&path))?;
        // What an earlier run has written, and perhaps not synced, counts once it is synced.
        checkpoint(&db, "TRUNCATE").map_err(open_error(&path))?;
        Ok(Self { db, path })
    }

    /// Whether another member was ever met by this home.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn ever_met(&self) -> Result<bool, StateError> {
        Ok(self.db.query_row("SELECT ever_met FROM node", [], |row| row.get(0)).map_err(open_error(&self.path))?)
    }

    /// Counts one more start: durable when this returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn next_generation(&mut self) -> Result<u64, StateError> {
        let sql = "UPDATE node SET generation = generation + 1 RETURNING generation";
        Ok(self.db.query_row(sql, [], |row| row.get(0)).map_err(open_error(&self.path))?)
    }

    /// The newest facts of members that were known, as far as they are what their members have signed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn facts(&self, keys: &impl Keys) -> Result<Vec<Arc<Fact>>, StateError> {
        let mut facts = Vec::new();
        for bytes in self.column::<Vec<u8>>("SELECT fact FROM members")? {
            let read = Fact::decode_all(&Bytes::from(bytes)).unwrap_or_default();
            let genuine = read.iter().filter(|fact| fact.is_genuine(keys)).cloned();
            let before = facts.len();
            facts.extend(genuine);
            if facts.len() == before {
                tracing::warn!(file = %self.path.display(), "a damaged row about a member was passed over; others tell of it again");
            }
        }
        Ok(facts)
    }

    /// Addresses to join by at which nobody was met yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn contacts(&self) -> Result<Vec<Multiaddr>, StateError> {
        let texts = self.column::<String>("SELECT address FROM contacts")?;
        Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
    }

    /// Adds addresses to join by: durable when this returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn add_contacts(&mut self, contacts: &[Multiaddr]) -> Result<(), StateError> {
        let add = |db: &mut Connection| {
            let tx = db.transaction()?;
            for address in contacts {
                tx.execute("INSERT OR IGNORE INTO contacts VALUES (?1)", [address.to_string()])?;
            }
            tx.commit()
        };
        Ok(add(&mut self.db).map_err(open_error(&self.path))?)
    }

    /// Forgets everybody, for another cluster: durable when this returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn forget_all(&mut self) -> Result<(), StateError> {
        Ok(self.db.execute_batch(&format!("BEGIN; {FORGET_ALL}; COMMIT")).map_err(open_error(&self.path))?)
    }

    fn column<T: rusqlite::types::FromSql>(&self, sql: &str) -> Result<Vec<T>, StateError> {
        let read = || -> rusqlite::Result<Vec<T>> { self.db.prepare(sql)?.query_map([], |row| row.get(0))?.collect() };
        Ok(read().map_err(open_error(&self.path))?)
    }

    /// The connection, which nobody else writes by.
    pub(crate) fn into_db(self) -> Connection {
        self.db
    }

    /// Hands the file to a thread that writes it from now on.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn run(self) -> Result<State, StateError> {
        let (failed, has_failed) = watch::channel(None);
        let (durable, generation) = watch::channel(0);
        let shared = Arc::new(Shared::default());
        let writer = Writer { db: self.db, shared: shared.clone(), durable };
        let thread = std::thread::Builder::new()
            .name("state-write".into())
            .spawn(move || {
                if let Err(error) = writer.run() {
                    tracing::error!(%error, "the state cannot be written; the node ends");
                    failed.send_replace(Some(error));
                }
            })
            .map_err(OpenError::Io)?;
        Ok(State { shared, failed: has_failed, generation, thread: Arc::new(Mutex::new(Some(thread))) })
    }
}

const FORGET_ALL: &str = "DELETE FROM members; DELETE FROM contacts; UPDATE node SET ever_met = 0";

fn checkpoint(db: &Connection, mode: &str) -> rusqlite::Result<()> {
    let busy: i64 = db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(0))?;
    debug_assert_eq!(busy, 0, "nobody else has the file open");
    Ok(())
}

/// Writes the log into the file where it has grown.
pub(crate) fn checkpoint_if_due(db: &Connection) -> rusqlite::Result<()> {
    let log: i64 = db.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))?;
    if log >= CHECKPOINT_PAGES { checkpoint(db, "TRUNCATE") } else { Ok(()) }
}

/// What a node remembers, while it runs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct State {
    shared: Arc<Shared>,
    failed: watch::Receiver<Option<StoreError>>,
    generation: watch::Receiver<u64>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

#[derive(Default)]
struct Shared {
    todo: Mutex<Todo>,
    wake: Condvar,
}

/// What is to be written; the newest of each alone.
#[derive(Default)]
struct Todo {
    /// At most one for each member that there can be.
    facts: BTreeMap<Name, Option<Arc<Fact>>>,
    contacts: Option<Vec<Multiaddr>>,
    generation: Option<u64>,
    ever_met: bool,
    forget_all: bool,
    close: bool,
}

impl Todo {
    fn is_nothing(&self) -> bool {
        let Self { facts, contacts, generation, ever_met, forget_all, close: _ } = self;
        facts.is_empty() && contacts.is_none() && generation.is_none() && !ever_met && !forget_all
    }

    /// Puts back what was not written, under what has come since.
    fn put_back(&mut self, unwritten: Todo) {
        if self.forget_all {
            return;
        }
        for (name, fact) in unwritten.facts {
            self.facts.entry(name).or_insert(fact);
        }
        self.contacts = self.contacts.take().or(unwritten.contacts);
        self.generation = self.generation.max(unwritten.generation);
        self.ever_met |= unwritten.ever_met;
        self.forget_all |= unwritten.forget_all;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Todo> {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Remembers the newest fact about a member; None forgets it.
    pub(crate) fn remember(&self, name: Name, fact: Option<Arc<Fact>>) {
        self.note(|todo| drop(todo.facts.insert(name, fact)));
    }

    /// Remembers that another member was met.
    pub(crate) fn met(&self) {
        self.note(|todo| todo.ever_met = true);
    }

    /// Remembers which addresses to join by are left.
    pub(crate) fn set_contacts(&self, contacts: Vec<Multiaddr>) {
        self.note(|todo| todo.contacts = Some(contacts));
    }

    /// Makes a generation durable; [`Self::durable_generation`] says when it is.
    pub(crate) fn persist(&self, generation: u64) {
        self.note(|todo| todo.generation = Some(generation));
    }

    /// Forgets everybody, for another cluster.
    pub(crate) fn forget_all(&self) {
        self.note(|todo| *todo = Todo { forget_all: true, generation: todo.generation, ..Todo::default() });
    }

    /// The last generation that [`Self::persist`] has made durable.
    pub(crate) fn durable_generation(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }

    /// Waits until the file cannot be written any more.
    pub(crate) async fn failed(&self) -> StoreError {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or(StoreError::Closed),
            // It was closed.
            Err(_gone) => std::future::pending().await,
        }
    }

    /// Writes what is left, and closes the file.
    pub(crate) async fn close(&self) {
        self.note(|todo| todo.close = true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    fn note(&self, note: impl FnOnce(&mut Todo)) {
        note(&mut self.shared.lock());
        self.shared.wake.notify_one();
    }
}

struct Writer {
    db: Connection,
    shared: Arc<Shared>,
    durable: watch::Sender<u64>,
}

impl Writer {
    fn run(self) -> StoreResult<()> {
        let mut was_full = false;
        loop {
            let todo = self.next();
            let close = todo.close;
            match self.write(&todo) {
                Ok(()) => {
                    was_full = false;
                    if let Some(generation) = todo.generation {
                        self.durable.send_replace(generation);
                    }
                }
                Err(StoreError::DiskFull) => {
                    if !std::mem::replace(&mut was_full, true) {
                        tracing::warn!(
                            "the disk is full: what is known of members will be remembered once there is room"
                        );
                    }
                    let mut waiting = self.shared.lock();
                    waiting.put_back(todo);
                    // A stop wakes it.
                    let waited = self.shared.wake.wait_timeout_while(waiting, FULL_PAUSE, |todo| !todo.close);
                    drop(waited.unwrap_or_else(PoisonError::into_inner));
                }
                Err(error) => return Err(error),
            }
            if close {
                return Ok(());
            }
        }
    }

    /// Waits until there is anything to write; of members, for more of it.
    fn next(&self) -> Todo {
        let waiting = self.shared.wake.wait_while(self.shared.lock(), |todo| todo.is_nothing() && !todo.close);
        let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        let is_patient = |todo: &mut Todo| todo.generation.is_none() && !todo.close;
        let waited = self.shared.wake.wait_timeout_while(waiting, GATHER_TIME, is_patient);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *waiting)
    }

    fn write(&self, todo: &Todo) -> StoreResult<()> {
        if todo.is_nothing() {
            return Ok(());
        }
        let written = self.transact(todo).and_then(|()| checkpoint_if_due(&self.db));
        written.map_err(|error| {
            // Without meaning where there is no transaction.
            let _ = self.db.execute_batch("ROLLBACK");
            store_error(&self.db, &error)
        })
    }

    fn transact(&self, todo: &Todo) -> rusqlite::Result<()> {
        let db = &self.db;
        db.execute_batch("BEGIN IMMEDIATE")?;
        if todo.forget_all {
            db.execute_batch(FORGET_ALL)?;
        }
        if let Some(generation) = todo.generation {
            let generation = i64::try_from(generation).unwrap_or(i64::MAX);
            db.prepare_cached("UPDATE node SET generation = max(generation, ?1)")?.execute([generation])?;
        }
        if todo.ever_met {
            db.prepare_cached("UPDATE node SET ever_met = 1")?.execute([])?;
        }
        for (name, fact) in &todo.facts {
            match fact {
                None => db.prepare_cached("DELETE FROM members WHERE name = ?1")?.execute([&name.0[..]])?,
                Some(fact) => {
                    let mut bytes = BytesMut::with_capacity(fact.encoded_len());
                    fact.encode(&mut bytes);
                    let sql = "INSERT INTO members VALUES (?1, ?2) ON CONFLICT DO UPDATE SET fact = excluded.fact";
                    db.prepare_cached(sql)?.execute((&name.0[..], &bytes[..]))?
                }
            };
        }
        if let Some(contacts) = &todo.contacts {
            db.execute("DELETE FROM contacts", [])?;
            for address in contacts {
                db.execute("INSERT OR IGNORE INTO contacts VALUES (?1)", [address.to_string()])?;
            }
        }
        db.execute_batch("COMMIT")
    }
}

#[cfg(test)]
mod tests {
    use p2p_gossip::swim::{Claims, Ed25519, Record, Status, Version};

    use super::*;

    fn keys(n: u8) -> Ed25519 {
        Ed25519::of_secret([n; 32])
    }

    fn fact(n: u8, incarnation: u32) -> Arc<Fact> {
        let claims = Claims {
            name: keys(n).name(),
            version: Version { generation: 1, incarnation },
            instance: 7,
            status: Status::Alive,
            introducer: None,
            addresses: vec![Bytes::from_static(b"here")],
            tags: Bytes::new(),
            fill: 0,
            rest: Bytes::new(),
        };
        Arc::new(Fact::Said(Record::sign(claims, &keys(n))))
    }

    fn versions(file: &StateFile) -> Vec<u32> {
        let facts = file.facts(&keys(0)).expect("read");
        facts.iter().map(|fact| fact.version().incarnation).collect()
    }

    #[tokio::test]
    async fn what_was_noted_is_there_after_the_next_start() {
        let home = tempfile::tempdir().expect("a folder");
        let mut file = StateFile::open(home.path()).expect("made");
        assert_eq!((file.next_generation().expect("counted"), file.ever_met().expect("read")), (1, false));
        let addresses: Vec<Multiaddr> = vec!["/ip4/192.0.2.1/tcp/1".parse().expect("an address")];
        file.add_contacts(&addresses).expect("added");
        let state = file.run().expect("a thread");
        for incarnation in 0..100 {
            state.remember(keys(1).name(), Some(fact(1, incarnation)));
            state.remember(keys(2).name(), Some(fact(2, incarnation)));
        }
        state.remember(keys(2).name(), None);
        state.met();
        state.persist(9);
        let mut durable = state.durable_generation();
        durable.wait_for(|generation| *generation == 9).await.expect("written");
        state.close().await;
        let mut file = StateFile::open(home.path()).expect("opened");
        assert_eq!(versions(&file), [99]);
        assert_eq!((file.next_generation().expect("counted"), file.ever_met().expect("read")), (10, true));
        assert_eq!(file.contacts().expect("read"), addresses);
        let state = file.run().expect("a thread");
        state.set_contacts(Vec::new());
        state.forget_all();
        state.remember(keys(3).name(), Some(fact(3, 5)));
        state.close().await;
        let file = StateFile::open(home.path()).expect("opened");
        assert_eq!((versions(&file), file.ever_met().expect("read")), (vec![5], false));
        assert_eq!(file.contacts().expect("read"), []);
    }

    #[tokio::test]
    async fn a_row_that_was_changed_on_the_disk_is_passed_over() {
        let home = tempfile::tempdir().expect("a folder");
        let state = StateFile::open(home.path()).expect("made").run().expect("a thread");
        (1..=3).for_each(|n| state.remember(keys(n).name(), Some(fact(n, n.into()))));
        state.close().await;
        let db = Connection::open(home.path().join(FILE_NAME)).expect("a database");
        let name = keys(2).name();
        let mut bytes = BytesMut::new();
        fact(2, 2).encode(&mut bytes);
        bytes[60] ^= 1;
        db.execute("UPDATE members SET fact = ?2 WHERE name = ?1", (&name.0[..], &bytes[..])).expect("damaged");
        drop(db);
        let mut left = versions(&StateFile::open(home.path()).expect("opened"));
        left.sort_unstable();
        assert_eq!(left, [1, 3]);
    }

    #[test]
    fn a_newer_file_and_one_that_is_none_are_left_as_they_are() {
        let home = tempfile::tempdir().expect("a folder");
        drop(StateFile::open(home.path()).expect("made"));
        let path = home.path().join(FILE_NAME);
        let db = Connection::open(&path).expect("a database");
        db.pragma_update(None, "user_version", 99).expect("set");
        drop(db);
        assert!(matches!(StateFile::open(home.path()), Err(StateError(OpenError::Newer { found: 99, known: 2, .. }))));
        std::fs::write(&path, "no database at all, but long enough to be read as if it were one\n".repeat(100))
            .expect("written");
        assert!(matches!(StateFile::open(home.path()), Err(StateError(OpenError::Corrupt(_)))));
    }
}
