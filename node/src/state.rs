//! `state.db`: what a node remembers of itself and of others, so that it is known for the same after its next start.
//!
//! [`StateFile`] is the file before the node runs, [`State`] the threads that write and read it afterwards. Membership never
//! waits for it: what is to be remembered of members is noted and written together a moment later. A new generation alone is
//! awaited, because nobody may hear of it before it is durable.

pub(crate) mod kv;
pub(crate) mod map;
mod reads;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use libp2p::Multiaddr;
use p2p_dht::store::{StoreError, StoreResult};
use p2p_gossip::kv::{Config, Digest, Entry, Key, Vector, Work};
use p2p_gossip::swim::{Fact, Keys, Name};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, watch};

use crate::sqlite::{self, OpenError, open_error};

use map::Map;
use reads::{Cache, Reads};
use writer::{Shared, Todo, Writer};

pub(crate) use reads::{Page, ReadError, Watch};
pub(crate) use writer::{CallError, Called, MapState, News};

/// Name of the file in the home.
pub(crate) const FILE_NAME: &str = "state.db";

/// Version of the schema that this program writes.
const SCHEMA_VERSION: i64 = 3;

/// Steps from each version of the schema to the next.
const SCHEMA_STEPS: [&str; SCHEMA_VERSION as usize] = [
    include_str!("state/schema.sql"),
    concat!(include_str!("state/schema-2.sql"), include_str!("state/schema-2-held.sql")),
    include_str!("state/schema-3.sql"),
];

/// Bytes of a page.
const PAGE_LEN: u32 = 4 << 10;

/// Pages of the log after which it is written into the file: 16 MiB. Pages that are written often are in it often.
const CHECKPOINT_PAGES: i64 = 4096;

/// Transactions on the map of which nobody has been told yet; the next one waits.
const NEWS_MAX: usize = 64;

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
        Self::open_file(home.join(FILE_NAME), vfs)
    }

    /// Opens a file of another name.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) fn open_at(path: PathBuf) -> Result<Self, StateError> {
        Self::open_file(path, None)
    }

    fn open_file(path: PathBuf, vfs: Option<&str>) -> Result<Self, StateError> {
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
        truncate_log(&db).map_err(open_error(&path))?;
        Ok(Self { db, path })
    }

    /// Whether another member was ever met by this home.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn ever_met(&self) -> Result<bool, StateError> {
        Ok(self.db.query_row("SELECT ever_met FROM node", [], |row| row.get(0)).map_err(open_error(&self.path))?)
    }

    /// Whether the map of this home has ever seen a write.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn has_map(&self) -> Result<bool, StateError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM kv_actors WHERE seen IS NOT NULL)";
        Ok(self.db.query_row(sql, [], |row| row.get(0)).map_err(open_error(&self.path))?)
    }

    /// Takes over from another file of this version what is not the map.
    ///
    /// # Errors
    /// When one of the two cannot be read or written.
    pub(crate) fn take_over(&self, other: &Path) -> rusqlite::Result<()> {
        self.db.execute("ATTACH ?1 AS other", [reads::text_of(other)])?;
        self.db.execute_batch(
            "BEGIN; DELETE FROM main.node; INSERT INTO main.node SELECT * FROM other.node;
            DELETE FROM main.members; INSERT INTO main.members SELECT * FROM other.members;
            DELETE FROM main.contacts; INSERT INTO main.contacts SELECT * FROM other.contacts; COMMIT; DETACH other",
        )
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
    /// When the map in it cannot be read, or the system gives no thread.
    pub(crate) fn run(self, setup: MapSetup) -> Result<(State, MapBegun), StateError> {
        let is_joined: bool =
            self.db.query_row("SELECT is_joined FROM kv_node", [], |row| row.get(0)).map_err(open_error(&self.path))?;
        let config = Config { log_keep: setup.log_keep, is_alone: setup.is_alone, staged_len_max: setup.len_max };
        let (map, damage) = Map::open(self.db, setup.peer, config).map_err(OpenError::from)?;
        if let Some(damage) = damage {
            tracing::warn!(%damage, "the map had lost something, and was built again of what was left; the rest is fetched");
        }
        let replica = map.machine().replica();
        let (vector, digest, life) = (replica.vector().clone(), replica.digest(), replica.me().epoch);
        let (failed, has_failed) = watch::channel(None);
        let (durable, generation) = watch::channel(0);
        let (joined, joined_told) = watch::channel(0);
        let (news, told) = mpsc::channel(NEWS_MAX);
        let shared = Arc::new(Shared::new(Cache::new(life)));
        let reads = Reads::start(&self.path, shared.clone())?;
        let began = Instant::now();
        let len_max = setup.len_max;
        let writer = Writer {
            map,
            shared: shared.clone(),
            durable,
            joined,
            news,
            len_max,
            began,
            asked_at: began,
            applied_at: began,
            busy_at: None,
        };
        let thread = std::thread::Builder::new()
            .name("state-write".into())
            .spawn(move || {
                if let Err(error) = writer.run() {
                    tracing::error!(%error, "the state cannot be written; the node ends");
                    failed.send_replace(Some(error));
                }
            })
            .map_err(OpenError::Io)?;
        let thread = Arc::new(Mutex::new(Some(thread)));
        let state = State { path: Arc::new(self.path), shared, reads, failed: has_failed, generation, thread };
        Ok((state, MapBegun { news: told, vector, digest, is_joined, joined: joined_told }))
    }
}

const FORGET_ALL: &str = "DELETE FROM members; DELETE FROM contacts; UPDATE node SET ever_met = 0;
    UPDATE kv_node SET is_joined = 0";

fn truncate_log(db: &Connection) -> rusqlite::Result<()> {
    let busy: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    debug_assert_eq!(busy, 0, "nobody else has the file open");
    Ok(())
}

/// Writes the log into the file where it has grown, as far as nobody reads an older state; waits for nobody.
pub(crate) fn checkpoint_if_due(db: &Connection) -> rusqlite::Result<()> {
    let pages = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let (log, written) = db.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?.query_row([], pages)?;
    if log - written >= CHECKPOINT_PAGES {
        db.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?.query_row([], |_| Ok(()))?;
    }
    Ok(())
}

/// How the map of a node is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapSetup {
    /// The node.
    pub(crate) peer: Name,
    /// Writes that stay in the log.
    pub(crate) log_keep: u64,
    /// Most bytes of the file.
    pub(crate) len_max: u64,
    /// Whether nobody else was ever met.
    pub(crate) is_alone: bool,
}

/// The map of a node that starts.
#[derive(Debug)]
pub(crate) struct MapBegun {
    /// What comes of it from now on.
    pub(crate) news: mpsc::Receiver<News>,
    /// What it has seen so far.
    pub(crate) vector: Vector,
    /// What it comes to.
    pub(crate) digest: Digest,
    /// Whether it has ever held all that others held.
    pub(crate) is_joined: bool,
    /// The last life that [`State::set_joined`] has made durable as one that has.
    pub(crate) joined: watch::Receiver<u64>,
}

/// What a node remembers, while it runs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct State {
    path: Arc<PathBuf>,
    shared: Arc<Shared>,
    reads: Reads,
    failed: watch::Receiver<Option<StoreError>>,
    generation: watch::Receiver<u64>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// What is remembered of members.
impl State {
    /// Remembers the newest fact about a member; None forgets it.
    pub(crate) fn remember(&self, name: Name, fact: Option<Arc<Fact>>) {
        self.shared.note(|todo| drop(todo.facts.insert(name, fact)));
    }

    /// Remembers that another member was met.
    pub(crate) fn met(&self) {
        self.shared.note(|todo| todo.ever_met = true);
    }

    /// Remembers which addresses to join by are left.
    pub(crate) fn set_contacts(&self, contacts: Vec<Multiaddr>) {
        self.shared.note(|todo| todo.contacts = Some(contacts));
    }

    /// Makes a generation durable; [`Self::durable_generation`] says when it is.
    pub(crate) fn persist(&self, generation: u64) {
        self.shared.note(|todo| todo.generation = Some(generation));
    }

    /// Forgets everybody, for another cluster.
    pub(crate) fn forget_all(&self) {
        self.shared.note(|todo| *todo = Todo { forget_all: true, generation: todo.generation, ..Todo::default() });
    }

    /// The last generation that [`Self::persist`] has made durable.
    pub(crate) fn durable_generation(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }
}

/// The replicated map.
impl State {
    /// Something to do with the map.
    pub(crate) fn work(&self, work: Work) {
        self.shared.work(work);
    }

    /// Writes of others, as many as there is room for.
    pub(crate) fn apply(&self, writes: impl IntoIterator<Item = Work>) {
        self.shared.apply(writes);
    }

    /// A call of a user, which is given a number. None if the node stops before it is known what has become of it.
    pub(crate) async fn call(&self, call: impl FnOnce(u64) -> Work) -> Option<Called> {
        self.shared.call(call).await.ok()
    }

    /// Remembers that the map has held all that others held, in its life of this number in this run; [`MapBegun::joined`] says
    /// when that is durable.
    pub(crate) fn set_joined(&self, life: u64) {
        self.shared.note(|todo| todo.joined = Some(life));
    }

    /// What is held of a key.
    ///
    /// # Errors
    /// When that cannot be said.
    pub(crate) async fn entry(&self, key: &Key) -> Result<Arc<Entry>, ReadError> {
        self.reads.entry(&self.shared.cache, key).await
    }

    /// Keys that have values, with how many, in the order of their bytes.
    ///
    /// # Errors
    /// When that cannot be said.
    pub(crate) async fn keys(&self, page: Page) -> Result<Vec<(Key, usize)>, ReadError> {
        self.reads.keys(page).await
    }

    /// Begins to watch what changes.
    pub(crate) fn watch(&self) -> Watch {
        Watch::new(self.shared.clone())
    }

    /// What is kept in memory of what was read.
    pub(crate) fn cache(&self) -> &Cache {
        &self.shared.cache
    }

    /// How the map does.
    pub(crate) fn map(&self) -> &MapState {
        &self.shared.map
    }

    /// Writes a copy of the file, without anything that says whose it is.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn back_up(&self, copy: PathBuf) -> StoreResult<()> {
        let path = self.path.clone();
        let made = tokio::task::spawn_blocking(move || reads::back_up(&path, &copy)).await;
        made.unwrap_or(Err(StoreError::Closed))
    }
}

impl State {
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
        self.shared.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use p2p_gossip::swim::{Claims, Ed25519, Record, Status, Version};

    use super::*;

    fn begin(file: StateFile) -> (State, MapBegun) {
        let setup = MapSetup { peer: keys(1).name(), log_keep: 9, len_max: 1 << 30, is_alone: true };
        file.run(setup).expect("threads")
    }

    fn run(file: StateFile) -> State {
        begin(file).0
    }

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
        let (state, mut begun) = begin(file);
        for incarnation in 0..100 {
            state.remember(keys(1).name(), Some(fact(1, incarnation)));
            state.remember(keys(2).name(), Some(fact(2, incarnation)));
        }
        state.remember(keys(2).name(), None);
        state.met();
        state.persist(9);
        state.set_joined(3);
        begun.joined.wait_for(|life| *life == 3).await.expect("written");
        let is_joined = |db: Connection| db.query_row("SELECT is_joined FROM kv_node", [], |row| row.get::<_, bool>(0));
        assert_eq!(is_joined(Connection::open(home.path().join(FILE_NAME)).expect("opened")), Ok(true));
        let mut durable = state.durable_generation();
        durable.wait_for(|generation| *generation == 9).await.expect("written");
        state.close().await;
        let mut file = StateFile::open(home.path()).expect("opened");
        assert_eq!(versions(&file), [99]);
        assert_eq!((file.next_generation().expect("counted"), file.ever_met().expect("read")), (10, true));
        assert_eq!(file.contacts().expect("read"), addresses);
        let state = run(file);
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
        let state = run(StateFile::open(home.path()).expect("made"));
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
        assert!(matches!(StateFile::open(home.path()), Err(StateError(OpenError::Newer { found: 99, known: 3, .. }))));
        std::fs::write(&path, "no database at all, but long enough to be read as if it were one\n".repeat(100))
            .expect("written");
        assert!(matches!(StateFile::open(home.path()), Err(StateError(OpenError::Corrupt(_)))));
    }
}
