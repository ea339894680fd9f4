//! Reading the map beside the thread that writes it: one thread with a connection of its own, and what was read last in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2p_dht::store::{StoreError, StoreResult};
use p2p_gossip::kv::watch::{Changes, Cursor, News};
use p2p_gossip::kv::{Damage, Dot, Dots, Entry, Key, Sibling, Trouble, read};
use rusqlite::types::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::kv::KvTables;
use super::writer::Shared;
use crate::sqlite::{self, OpenError, open_error, store_error};

/// Bytes of entries that are kept in memory.
const CACHED_LEN_MAX: usize = 8 << 20;

/// What one costs beside its bytes.
const CACHED_COST: usize = 200;

/// Reads that wait.
const QUEUE_LEN: usize = 1024;

/// Why something cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// What is read is not what was written.
    #[error("the map is damaged: {0}")]
    Damaged(Damage),
    /// The file cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was read last, and which keys have changed.
pub(crate) struct Cache {
    inner: Mutex<Cached>,
    /// How often anything has changed.
    version: watch::Sender<u64>,
    /// Those who watch.
    watches: AtomicUsize,
    /// Reads that were answered from memory.
    pub(crate) hits: AtomicU64,
    /// Reads that were not.
    pub(crate) misses: AtomicU64,
}

struct Cached {
    entries: HashMap<Key, (Arc<Entry>, u64)>,
    /// In the order in which they were used; those that were used again since stand there in vain.
    used: VecDeque<(Key, u64)>,
    uses: u64,
    len: usize,
    changes: Changes,
    version: u64,
}

impl Cache {
    /// Of a life of a node, which is called so.
    pub(super) fn new(life: u64) -> Self {
        let cached = Cached {
            entries: HashMap::new(),
            used: VecDeque::new(),
            uses: 0,
            len: 0,
            changes: Changes::new(life),
            version: 0,
        };
        Self {
            inner: Mutex::new(cached),
            version: watch::Sender::new(0),
            watches: AtomicUsize::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// These keys are something else now, durably; where the map has begun anew, others may be, too. What is known of those that
    /// were read lately stays in memory, and of all as long as anybody watches, who would read each of them at once.
    pub(super) fn changed(&self, changed: BTreeMap<Key, Option<Entry>>, is_new: bool) {
        if changed.is_empty() && !is_new {
            return;
        }
        let is_watched = self.watches.load(Ordering::Relaxed) > 0;
        let mut cached = self.lock();
        cached.version += 1;
        if is_new {
            (cached.len, cached.entries, cached.used) = (0, HashMap::new(), VecDeque::new());
        }
        for (key, entry) in changed {
            let was_read = cached.forget(&key);
            if let Some(entry) = entry.filter(|_| was_read || is_watched) {
                cached.keep(key.clone(), Arc::new(entry));
            }
            cached.changes.add(key);
        }
        let version = cached.version;
        drop(cached);
        self.version.send_replace(version);
    }

    fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        let mut cached = self.lock();
        let found = cached.entries.get(key).map(|(entry, _)| entry.clone());
        match found {
            Some(_) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                cached.touch(key);
            }
            None => drop(self.misses.fetch_add(1, Ordering::Relaxed)),
        }
        found
    }

    fn version(&self) -> u64 {
        self.lock().version
    }

    /// Keeps what was read, unless something has changed since that version.
    fn keep(&self, key: Key, entry: Arc<Entry>, version: u64) {
        let mut cached = self.lock();
        if cached.version == version {
            cached.keep(key, entry);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who watches.
pub(crate) struct Watch(Arc<Shared>);

impl Watch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        shared.cache.watches.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }

    /// Where whoever begins to watch now has heard all.
    pub(crate) fn now(&self) -> Cursor {
        self.cache().lock().changes.now()
    }

    /// Waits until there is news of keys that begin so.
    pub(crate) async fn after(&self, cursor: &mut Cursor, prefix: &str) -> News {
        let mut version = self.cache().version.subscribe();
        loop {
            version.borrow_and_update();
            let news = self.cache().lock().changes.since(*cursor, prefix, 1);
            *cursor = news.cursor;
            if news.is_lossy || !news.keys.is_empty() {
                return news;
            }
            if version.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn cache(&self) -> &Cache {
        &self.0.cache
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.cache().watches.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cached {
    fn keep(&mut self, key: Key, entry: Arc<Entry>) {
        self.forget(&key);
        self.len += cost(&key, &entry);
        self.entries.insert(key.clone(), (entry, 0));
        self.touch(&key);
        while self.len > CACHED_LEN_MAX
            && let Some((oldest, use_of)) = self.used.pop_front()
        {
            if self.entries.get(&oldest).is_some_and(|(_, last)| *last == use_of) {
                self.forget(&oldest);
            }
        }
    }

    fn touch(&mut self, key: &Key) {
        self.uses += 1;
        let Some((_, last)) = self.entries.get_mut(key) else { return };
        *last = self.uses;
        self.used.push_back((key.clone(), self.uses));
        // Uses in vain are let go before there are more of them than of others.
        if self.used.len() > 64 + 2 * self.entries.len() {
            let entries = &self.entries;
            self.used.retain(|(key, use_of)| entries.get(key).is_some_and(|(_, last)| last == use_of));
        }
    }

    /// Whether it was there.
    fn forget(&mut self, key: &Key) -> bool {
        let found = self.entries.remove(key);
        self.len -= found.as_ref().map_or(0, |(entry, _)| cost(key, entry));
        found.is_some()
    }
}

fn cost(key: &Key, entry: &Entry) -> usize {
    let dots = |dots: &Dots| dots.len() * size_of::<Dot>();
    let of = |sibling: &Sibling| CACHED_COST + sibling.value.len() + dots(&sibling.replaces);
    let siblings: usize = entry.siblings().iter().map(of).sum();
    CACHED_COST + 2 * key.as_bytes().len() + siblings + dots(entry.context())
}

/// Something to read.
enum Query {
    Entry(Key, oneshot::Sender<Result<Arc<Entry>, ReadError>>),
    Keys(Page, oneshot::Sender<Result<Vec<(Key, usize)>, ReadError>>),
}

/// Keys that are wanted.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// They begin so.
    pub(crate) prefix: String,
    /// They come after this one.
    pub(crate) after: Option<Key>,
    /// At most so many.
    pub(crate) limit: usize,
}

/// Reads the map. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reads {
    queries: mpsc::Sender<Query>,
}

impl Reads {
    /// Opens a file that is there, and starts a thread that reads it.
    pub(super) fn start(path: &Path, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let db = sqlite::open_reading(path, None).map_err(open_error(path))?;
        let mut tables = KvTables::new(db).map_err(open_error(path))?;
        let (queries, mut queue) = mpsc::channel(QUEUE_LEN);
        let run = move || {
            while let Some(query) = queue.blocking_recv() {
                answer(&mut tables, &shared.cache, query);
            }
        };
        std::thread::Builder::new().name("state-read".into()).spawn(run).map_err(OpenError::Io)?;
        Ok(Self { queries })
    }

    /// What is held of a key.
    pub(super) async fn entry(&self, cache: &Cache, key: &Key) -> Result<Arc<Entry>, ReadError> {
        match cache.get(key) {
            Some(entry) => Ok(entry),
            None => self.ask(|reply| Query::Entry(key.clone(), reply)).await,
        }
    }

    /// Keys with how many values each has, in the order of their bytes.
    pub(super) async fn keys(&self, page: Page) -> Result<Vec<(Key, usize)>, ReadError> {
        self.ask(|reply| Query::Keys(page, reply)).await
    }

    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<Result<T, ReadError>>) -> Query) -> Result<T, ReadError> {
        let (reply, answer) = oneshot::channel();
        let closed = || ReadError::Store(StoreError::Closed);
        self.queries.send(query(reply)).await.map_err(|_gone| closed())?;
        answer.await.unwrap_or_else(|_gone| Err(closed()))
    }
}

fn answer(tables: &mut KvTables, cache: &Cache, query: Query) {
    // Whoever has asked may be gone.
    match query {
        Query::Entry(key, reply) => {
            let version = cache.version();
            let found = in_one_read(tables, |tables| read(tables, &key)).map(Arc::new);
            if let Ok(entry) = &found {
                cache.keep(key, entry.clone(), version);
            }
            let _ = reply.send(found);
        }
        Query::Keys(page, reply) => {
            let _ = reply.send(in_one_read(tables, |tables| keys(tables, &page)));
        }
    }
}

fn keys(tables: &mut KvTables, page: &Page) -> Result<Vec<(Key, usize)>, Trouble<rusqlite::Error>> {
    let mut found: BTreeMap<Key, usize> = BTreeMap::new();
    let mut after = page.after.clone();
    // Rows without a value are passed over, so that a page may take several reads.
    while found.len() < page.limit {
        let entries = tables.entries(&page.prefix, after.as_ref(), page.limit - found.len())?;
        let Some((last, _)) = entries.last() else { break };
        after = Some(last.clone());
        for (key, entry) in entries {
            match entry {
                None => return Err(Trouble::Damage(Damage::Row(key))),
                Some(entry) if entry.siblings().is_empty() => {}
                Some(entry) => drop(found.insert(key, entry.siblings().len())),
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn in_one_read<R>(
    tables: &mut KvTables,
    run: impl FnOnce(&mut KvTables) -> Result<R, Trouble<rusqlite::Error>>,
) -> Result<R, ReadError> {
    let failed = |tables: &KvTables, error| ReadError::Store(store_error(tables.db(), &error));
    let step = |tables: &KvTables, sql| tables.db().prepare_cached(sql)?.execute([]);
    step(tables, "BEGIN").map_err(|error| failed(tables, error))?;
    let done = run(tables);
    let ended = step(tables, "COMMIT").map_err(|error| failed(tables, error));
    match done {
        Ok(done) => ended.map(|_| done),
        Err(Trouble::Damage(damage)) => Err(ReadError::Damaged(damage)),
        Err(Trouble::Store(error)) => Err(failed(tables, error)),
    }
}

/// Writes a copy of a file that is in use, as it is at this moment, without anything that says whose it is.
///
/// # Errors
/// When the copy cannot be made; nothing is left of it then.
pub(crate) fn back_up(path: &Path, copy: &Path) -> StoreResult<()> {
    let made = || -> rusqlite::Result<()> {
        let db = sqlite::open_reading(path, None)?;
        db.execute("VACUUM INTO ?1", [text_of(copy)])?;
        drop(db);
        let db = rusqlite::Connection::open(copy)?;
        db.execute_batch(STRIP)?;
        db.close().map_err(|(_, error)| error)
    };
    made().map_err(|error| {
        let _ = std::fs::remove_file(copy);
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => StoreError::DiskFull,
            _ => StoreError::Failed(format!("cannot copy {}: {error}", path.display())),
        }
    })
}

/// A path as SQLite takes it.
pub(super) fn text_of(path: &Path) -> Value {
    match path.to_str() {
        Some(text) => Value::Text(text.to_owned()),
        None => Value::Blob(path.as_os_str().as_encoded_bytes().to_vec()),
    }
}

/// What of a file says whose it is, or is under way.
const STRIP: &str = "DELETE FROM members; DELETE FROM contacts; DELETE FROM kv_staged;
    UPDATE node SET generation = 0, ever_met = 0; VACUUM;";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use p2p_gossip::kv::{Call, Work, Write};
    use p2p_gossip::swim::Name;

    use super::super::{MapSetup, State, StateFile};
    use super::*;

    fn key(n: usize) -> Key {
        Key::new(format!("key {n}")).expect("a key")
    }

    #[test]
    fn what_is_kept_in_memory_is_bounded_and_what_was_used_last_stays() {
        let cache = Cache::new(1);
        let entry = Arc::new(Entry::default());
        let count = 2 * CACHED_LEN_MAX / CACHED_COST;
        for n in 0..count {
            cache.keep(key(n), entry.clone(), 0);
            assert!(cache.get(&key(0)).is_some(), "it is used all the time");
        }
        let cached = cache.lock();
        assert!(cached.len <= CACHED_LEN_MAX && cached.len > CACHED_LEN_MAX / 2);
        assert!(cached.entries.len() < count && cached.used.len() <= 64 + 2 * cached.entries.len() + 1);
        assert_eq!(cached.len, cached.entries.iter().map(|(key, (entry, _))| cost(key, entry)).sum::<usize>());
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let cache = Cache::new(1);
        let version = cache.version();
        cache.changed([(key(1), None)].into(), false);
        cache.keep(key(1), Arc::default(), version);
        assert!(cache.get(&key(1)).is_none());
        cache.keep(key(1), Arc::default(), cache.version());
        assert!(cache.get(&key(1)).is_some());
        cache.changed(BTreeMap::new(), true);
        assert!(cache.get(&key(1)).is_none());
    }

    /// An empty map in a folder of its own.
    fn opened() -> (tempfile::TempDir, State) {
        let home = tempfile::tempdir().expect("a folder");
        let setup = MapSetup { peer: Name([1; 32]), log_keep: 9, len_max: 1 << 30, is_alone: true };
        let (state, mut begun) = StateFile::open(home.path()).expect("made").run(setup).expect("threads");
        tokio::spawn(async move { while begun.news.recv().await.is_some() {} });
        (home, state)
    }

    #[tokio::test]
    async fn what_changes_while_somebody_watches_is_in_memory_as_the_file_says_it() {
        let (_home, state) = opened();
        let put = async |value: Option<&'static str>, write| {
            let call = |number| Work::Call(Call { number, key: key(1), value: value.map(Bytes::from), write });
            state.call(call).await.expect("done").expect("taken")
        };
        let misses = || state.cache().misses.load(Ordering::Relaxed);
        let held = Write::Held { force: false };
        put(Some("unwatched"), held.clone()).await;
        assert_eq!(state.cache().lock().entries.len(), 0, "nobody reads it");
        let watch = state.watch();
        for (value, write, siblings) in
            [(Some("one"), held, 1), (Some("two"), Write::Beside, 2), (None, Write::Held { force: true }, 0)]
        {
            put(value, write).await;
            let before = misses();
            let kept = state.entry(&key(1)).await.expect("read");
            assert_eq!((kept.siblings().len(), misses()), (siblings, before));
            state.cache().changed([(key(1), None)].into(), false);
            assert_eq!(state.entry(&key(1)).await.expect("read"), kept, "of the file");
            assert_eq!(misses(), before + 1);
        }
        drop(watch);
        assert_eq!(state.cache().watches.load(Ordering::Relaxed), 0);
        state.close().await;
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_read_listed_and_heard_of() {
        let (_home, state) = opened();
        let watch = state.watch();
        let mut cursor = watch.now();
        let put = async |n: usize, value: Option<&'static str>| {
            let write = Write::Held { force: false };
            let call = |number| Work::Call(Call { number, key: key(n), value: value.map(Bytes::from), write });
            state.call(call).await.expect("done")
        };
        for n in [2, 1, 3] {
            assert!(state.entry(&key(n)).await.expect("read").siblings().is_empty());
            put(n, Some("value")).await.expect("taken");
            assert_eq!(state.entry(&key(n)).await.expect("read").siblings().len(), 1, "at once");
            let news = watch.after(&mut cursor, "key").await;
            assert_eq!((news.is_lossy, news.keys), (false, vec![key(n)]));
        }
        put(1, None).await.expect("taken");
        let page = |after, limit| Page { prefix: "key".into(), after, limit };
        assert_eq!(state.keys(page(None, 9)).await.expect("read"), [(key(2), 1), (key(3), 1)]);
        assert_eq!(state.keys(page(Some(key(2)), 9)).await.expect("read"), [(key(3), 1)]);
        assert_eq!(state.keys(page(None, 1)).await.expect("read"), [(key(2), 1)]);
        let nothing = Page { prefix: "kez".into(), after: None, limit: 9 };
        assert_eq!(state.keys(nothing).await.expect("read"), []);
        let waits = tokio::time::timeout(Duration::from_millis(10), async {
            watch.after(&mut cursor, "other").await;
        });
        assert!(waits.await.is_err(), "nothing there has changed");
        state.close().await;
    }
}
