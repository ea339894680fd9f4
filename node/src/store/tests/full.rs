//! A full disk: what was acknowledged stays and is served, what comes is refused, and letting go makes room again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use p2p_dht::hold::Stored;
use p2p_dht::object::Object;
use p2p_vfs::{Fault, Op, Vfs};

use super::history::{Files, History};
use super::*;

const MIB: u64 = 1 << 20;

/// Free space that stays free, in these tests.
const FREE_MIN: u64 = 24 * MIB;

/// The reserve, in these tests: like the real one, more than the log takes before it is written into the file.
const RESERVE: u64 = 16 * MIB;

/// Pages of the log after which it is written into the file: 4 MiB.
const PAGES: u64 = 64;

/// A disk of so many bytes.
const DISK_LEN: u64 = 96 * MIB;

fn upload(n: u64) -> UploadId {
    UploadId(u128::from(n).to_le_bytes())
}

/// The object number `n`, of 1 MiB less the row that SQLite keeps beside it on the same pages.
fn big(n: u64) -> Object {
    object(n, MIB as usize - 1024)
}

async fn put_one(store: &Objects, n: u64) -> StoreResult<Stored> {
    let object = big(n);
    store.write(object.payload().len(), move |tx| hold::store(tx, &object, Some(upload(n)))).await
}

async fn release(store: &Objects, n: u64) {
    let released = store.write(0, move |tx| hold::release(tx, upload(n))).await;
    assert!(released.expect("what frees is always written"));
}

/// Everything that was put comes back as it was.
async fn check_all(store: &Objects, there: impl IntoIterator<Item = u64>) {
    for n in there {
        let reference = *big(n).reference();
        let read = store.read(move |view| view.object(&reference)).await.expect("a full disk can be read");
        assert_eq!(read, Some(big(n)), "{n}");
    }
}

/// Puts until one is refused; how many were taken.
async fn fill(store: &Objects, from: u64) -> u64 {
    for n in from.. {
        match put_one(store, n).await {
            Ok(Stored::Stored | Stored::Mended) => {}
            Ok(Stored::Full) | Err(StoreError::DiskFull) => return n,
            Err(error) => panic!("a full disk must not end the store: {error}"),
        }
    }
    unreachable!("every disk is full some time")
}

/// A disk that a test fills up.
trait Small {
    fn home(&self) -> &Path;

    fn setup(&self) -> Setup;

    /// Lets others leave only so many bytes free.
    fn leave(&self, bytes: u64);

    /// Lets others take nothing.
    fn leave_all(&self);
}

async fn a_disk_that_others_fill_is_survived(disk: &impl Small) {
    let reserve = disk.home().join("reserve");
    let store = Objects::open_with(disk.home(), disk.setup()).expect("a store");
    assert_eq!(std::fs::metadata(&reserve).expect("a reserve").len(), RESERVE);
    // Puts end before the disk does.
    let taken = fill(&store, 0).await;
    let room = store.disk_room();
    assert!(room.low || room.free < FREE_MIN + 8 * MIB, "{taken} taken, {room:?}");
    assert!(!room.tight && room.refused == 0, "{room:?}");
    assert!(taken > 20, "{taken}");
    assert!(store.read(hold::room_left).await.expect("readable") < MIB);
    // Others take what was to stay free. Now there is no room for a transaction, and the reserve goes.
    disk.leave(64 << 10);
    // A rule that does not ask whether there is room, and more than the log has room for.
    let refused =
        store.write(RESERVE as usize, |tx| (0..RESERVE / MIB).try_for_each(|n| tx.insert(&big(10_000 + n)).map(drop)));
    assert!(matches!(refused.await, Err(StoreError::DiskFull)));
    let room = store.disk_room();
    assert!(room.tight && room.refused == 1, "{room:?}");
    assert!(!reserve.exists());
    check_all(&store, 0..taken).await;
    let object = big(0);
    let more = store.write(0, move |tx| hold::store(tx, &object, Some(upload(10_001)))).await;
    assert_eq!(more.expect("refused in time"), Stored::Full, "not even a hold is taken");
    // It can be stopped and started, and let go of everything that it has.
    store.close().await;
    let store = Objects::open_with(disk.home(), disk.setup()).expect("it opens on a full disk");
    check_all(&store, 0..taken).await;
    for n in 0..taken {
        release(&store, n).await;
    }
    store
        .write(0, |tx| tx.oldest_cache(u32::MAX)?.into_iter().try_for_each(|(row, _)| tx.remove(row).map(drop)))
        .await
        .expect("what frees is always written");
    for _ in 0..DISK_LEN / MIB {
        store.give_back_space().await;
    }
    assert_eq!(store.read(|view| view.totals()).await.expect("readable").objects, 0);
    let freed = store.disk_room().free;
    assert!(freed > taken / 2 * MIB, "{freed} of {taken} MiB");
    // There is room again, and all is as before.
    disk.leave_all();
    store.give_back_space().await;
    assert!(!store.disk_room().tight && reserve.exists());
    let again = fill(&store, 20_000).await;
    // The log may be longer than it was.
    assert!(again - 20_000 > taken * 3 / 4, "{again} after {taken}");
    check_all(&store, 20_000..again).await;
    store.close().await;
}

/// A disk of SQLite's files, the reserve and others.
struct Limited {
    home: TempDir,
    vfs: Vfs,
}

impl Small for Limited {
    fn home(&self) -> &Path {
        self.home.path()
    }

    fn setup(&self) -> Setup {
        let vfs = self.vfs;
        Setup { vfs: Some(vfs.name()), free: Arc::new(move |_| vfs.free()), ..scaled() }
    }

    fn leave(&self, bytes: u64) {
        self.limit(DISK_LEN - self.vfs.free() + bytes);
    }

    fn leave_all(&self) {
        self.limit(DISK_LEN);
    }
}

impl Limited {
    fn limit(&self, bytes: u64) {
        self.vfs.limit(Some(bytes), &[&self.home.path().join("reserve")]);
    }
}

fn scaled() -> Setup {
    Setup { disk_free_min: FREE_MIN, reserve_len: RESERVE, checkpoint_pages: PAGES, ..Setup::new(u64::MAX) }
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_survived() {
    let disk = Limited { home: tempfile::tempdir().expect("a folder"), vfs: Vfs::register() };
    disk.leave_all();
    a_disk_that_others_fill_is_survived(&disk).await;
}

/// A file system of memory, which root may mount.
struct Mounted {
    folder: TempDir,
}

impl Mounted {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_LEN}"), "tmpfs"]).arg(folder.path());
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then_some(Self { folder })
    }

    fn others(&self) -> PathBuf {
        self.folder.path().join("others")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

impl Small for Mounted {
    fn home(&self) -> &Path {
        self.folder.path()
    }

    fn setup(&self) -> Setup {
        scaled()
    }

    fn leave(&self, bytes: u64) {
        let free = room::free_on_disk(self.folder.path());
        std::fs::write(self.others(), vec![1; (free - bytes) as usize]).expect("that much is free");
    }

    fn leave_all(&self) {
        std::fs::remove_file(self.others()).expect("it was written");
    }
}

#[tokio::test]
async fn a_file_system_that_is_full_is_survived() {
    match Mounted::new() {
        Some(disk) => a_disk_that_others_fill_is_survived(&disk).await,
        None => println!("skipped: a small file system can only be mounted by root"),
    }
}

#[test]
fn a_write_without_room_fails_alone() {
    let mut history = History::new(5, "there is no chance in this".into());
    let mut stage = history.stage(&Files::new());
    let store = stage.open().expect("a store");
    let mut refused = 0;
    for _ in 0..40 {
        stage.vfs.fail(Op::Write, 2, Fault::Full, false);
        match history.step(&stage, &store) {
            Ok(()) => {}
            Err(StoreError::DiskFull) => {
                refused += 1;
                // Nothing of it has happened, and the next one may.
                history.void(&mut stage);
                history.find_state(&store, history.told, history.told, "after a write without room");
            }
            Err(error) => panic!("{error}"),
        }
        history.read_all(&store).expect("a full disk can be read");
    }
    assert!(refused > 10, "{refused}");
    history.runtime.block_on(store.close());
    let store = stage.open().expect("a store");
    history.find_state(&store, history.told, history.told, "after opening again");
    history.runtime.block_on(store.close());
}
