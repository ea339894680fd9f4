mod crash;
mod faults;
mod full;
mod history;

use std::sync::Mutex;

use p2p_dht::hold;
use p2p_dht::store::contract::{self, Subject};
use p2p_dht::store::{MemoryStore, UploadId};
use p2p_dht::tree::ObjectRef;
use tempfile::TempDir;

use super::*;

/// Stores in folders that live as long as this.
#[derive(Default)]
struct OnDisk {
    homes: Mutex<Vec<(TempDir, Arc<Mutex<Duration>>)>>,
}

impl Subject for OnDisk {
    type Store = Objects;

    fn open(&self, bytes_max: u64) -> Objects {
        let home = tempfile::tempdir().expect("a folder");
        let passed = Arc::<Mutex<Duration>>::default();
        let setup = Setup { clock: by_hand(&passed), reserve_len: 0, ..Setup::new(bytes_max) };
        let store = Objects::open_with(home.path(), setup).expect("a store");
        self.homes.lock().expect("no panic").push((home, passed));
        store
    }

    fn advance(&self, _store: &Objects, time: Duration) {
        // The latest store is the one whose time passes.
        let homes = self.homes.lock().expect("no panic");
        *homes.last().expect("a store").1.lock().expect("no panic") += time;
    }

    fn damage(&self, _store: &Objects, reference: &ObjectRef) {
        let homes = self.homes.lock().expect("no panic");
        let db = rusqlite::Connection::open(homes.last().expect("a store").0.path().join(FILE_NAME));
        let sql = "UPDATE payloads SET bytes = CAST(zeroblob(length(bytes)) AS BLOB)
                   WHERE row = (SELECT row FROM objects WHERE id = ?1)";
        assert_eq!(db.expect("a database").execute(sql, [&reference.id.bytes()[..]]).expect("damage"), 1);
    }
}

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// A clock that stands where it is put.
fn by_hand(passed: &Arc<Mutex<Duration>>) -> Clock {
    let passed = passed.clone();
    Arc::new(move || *passed.lock().expect("no panic"))
}

fn open(home: &TempDir) -> Objects {
    Objects::open(home.path(), u64::MAX).expect("a store")
}

fn object(n: u64, len: usize) -> p2p_dht::object::Object {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    p2p_dht::object::Object::leaf(bytes.into(), n << 20)
}

async fn put(store: &Objects, object: &p2p_dht::object::Object) -> StoreResult<hold::Stored> {
    let object = object.clone();
    store.write(object.payload().len(), move |tx| hold::store(tx, &object, Some(UploadId([1; 16])))).await
}

#[tokio::test]
async fn the_sqlite_store_keeps_the_contract() {
    contract::check(&OnDisk::default()).await;
}

#[tokio::test]
async fn the_sqlite_store_behaves_as_the_one_in_memory() {
    let disk = OnDisk::default();
    for seed in 0..8 {
        contract::check_same_history(&disk.open(1000), &MemoryStore::new(1000), seed, 150).await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_opening_again() {
    let home = tempfile::tempdir().expect("a folder");
    let store = open(&home);
    for n in 0..40 {
        put(&store, &object(n, 100_000)).await.expect("stored");
    }
    let totals = store.read(|view| view.totals()).await.expect("read");
    store.close().await;
    let store = open(&home);
    assert_eq!(store.read(|view| view.totals()).await.expect("read"), totals);
    for n in 0..40 {
        let reference = *object(n, 100_000).reference();
        let found = store.read(move |view| view.object(&reference)).await.expect("read");
        assert_eq!(found, Some(object(n, 100_000)));
    }
}

#[tokio::test]
async fn running_time_goes_on_where_it_stopped() {
    let home = tempfile::tempdir().expect("a folder");
    let passed = Arc::default();
    let setup = Setup { clock: by_hand(&passed), ..Setup::new(u64::MAX) };
    let store = Objects::open_with(home.path(), setup).expect("a store");
    *passed.lock().expect("no panic") += Duration::from_secs(1000);
    store.close().await;
    let store = open(&home);
    let now = async || store.write(0, |tx| Ok(tx.now())).await.expect("written").0;
    let before = now().await;
    assert!((1000..1060).contains(&before.as_secs()), "{before:?}");
    assert!(now().await > before, "time passes");
}

#[tokio::test]
async fn writes_that_come_together_are_committed_together_and_all_answered() {
    let home = tempfile::tempdir().expect("a folder");
    let store = open(&home);
    let writes = (0..200).map(|n| {
        let store = store.clone();
        async move { put(&store, &object(n, 1000)).await }
    });
    for written in futures::future::join_all(writes).await {
        assert_eq!(written.expect("stored"), hold::Stored::Stored);
    }
    assert_eq!(store.read(|view| view.totals()).await.expect("read").objects, 200);
}

#[tokio::test]
async fn a_flipped_byte_is_reported_and_never_served() {
    let home = tempfile::tempdir().expect("a folder");
    let store = open(&home);
    put(&store, &object(1, 5000)).await.expect("stored");
    store.close().await;
    let db = rusqlite::Connection::open(home.path().join("objects.db")).expect("a database");
    db.execute("UPDATE payloads SET bytes = CAST(zeroblob(5000) AS BLOB)", []).expect("damage");
    drop(db);
    let store = open(&home);
    let reference = *object(1, 5000).reference();
    let read = store.read(move |view| view.object(&reference)).await;
    assert!(matches!(read, Err(StoreError::Damaged(_))), "{read:?}");
}

#[tokio::test]
async fn a_store_of_the_first_version_is_taken_over() {
    let home = tempfile::tempdir().expect("a folder");
    let db = rusqlite::Connection::open(home.path().join(FILE_NAME)).expect("a database");
    crate::sqlite::set_up_writing(&db, Some(PAGE_LEN), 0).expect("set up");
    db.execute_batch(include_str!("objects/schema.sql")).expect("the first schema");
    db.pragma_update(None, "user_version", 1).expect("set");
    let object = object(1, 5000);
    let (reference, id) = (*object.reference(), &object.reference().id.bytes()[..]);
    let sql = "INSERT INTO objects (id, is_root, offset, len, size, holds, age) VALUES (?1, 0, ?2, ?3, ?3, 1, 1)";
    db.execute(sql, (id, reference.offset as i64, reference.len as i64)).expect("inserted");
    db.execute("INSERT INTO payloads VALUES (1, ?1)", [&object.payload()[..]]).expect("inserted");
    db.execute("INSERT INTO uploads VALUES (1, ?1, ?2, 0, 1)", ([1_u8; 16], [2_u8; 32])).expect("inserted");
    db.execute("INSERT INTO holds VALUES (1, 1)", []).expect("inserted");
    db.execute("UPDATE state SET objects = 1, bytes = 5000, run_ms = 7000, age = 1", []).expect("updated");
    drop(db);
    for _ in 0..2 {
        let store = open(&home);
        let view =
            move |view: &mut dyn ObjectView| Ok((view.object(&reference)?, view.row(&reference)?, view.totals()?));
        let (read, row, totals) = store.read(view).await.expect("read");
        assert_eq!(read.as_ref(), Some(&object));
        assert_eq!(row.map(|row| (row.holds, row.damaged)), Some((1, false)));
        assert_eq!((totals.objects, totals.bytes), (1, 5000));
        store.close().await;
    }
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_left_alone() {
    let home = tempfile::tempdir().expect("a folder");
    open(&home).close().await;
    let path = home.path().join("objects.db");
    let db = rusqlite::Connection::open(&path).expect("a database");
    db.pragma_update(None, "user_version", 99).expect("set");
    drop(db);
    let before = std::fs::read(&path).expect("read");
    assert!(matches!(Objects::open(home.path(), 1), Err(OpenError::Newer { found: 99, .. })));
    assert_eq!(std::fs::read(&path).expect("read"), before);
}

#[tokio::test]
async fn what_is_no_database_is_refused_with_its_name() {
    let home = tempfile::tempdir().expect("a folder");
    std::fs::write(home.path().join("objects.db"), vec![7; 200_000]).expect("written");
    let error = Objects::open(home.path(), 1).err().expect("refused").to_string();
    assert!(error.contains("objects.db"), "{error}");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let home = tempfile::tempdir().expect("a folder");
    let store = open(&home);
    store.close().await;
    assert!(matches!(put(&store, &object(1, 10)).await, Err(StoreError::Closed)));
    assert!(matches!(store.read(|view| view.totals()).await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn where_a_reader_ends_by_a_bug_nobody_waits_for_it() {
    let home = tempfile::tempdir().expect("a folder");
    let store = open(&home);
    let ((begin, begun), (end, ended)) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel::<()>());
    let breaks = store.read(move |_| -> StoreResult<()> {
        let _ = begun.recv();
        panic!("a bug, as this test wants it");
    });
    let busy = store.read(move |_| Ok(ended.recv().is_ok()));
    let waits = async {
        let done = tokio::time::timeout(PATIENCE, store.read(|_| Ok(()))).await.expect("nobody waits for ever");
        end.send(()).expect("it waits for this");
        done
    };
    let (broke, served, waited, ()) =
        tokio::join!(breaks, busy, waits, async { begin.send(()).expect("it waits for this") });
    assert!(matches!(broke, Err(StoreError::Closed)), "{broke:?}");
    assert!(matches!(served, Ok(true)), "{served:?}");
    assert!(matches!(waited, Err(StoreError::Closed)), "{waited:?}");
    assert!(matches!(store.failed().await, StoreError::Closed));
    assert!(matches!(store.read(|_| Ok(())).await, Err(StoreError::Closed)));
    store.close().await;
}
