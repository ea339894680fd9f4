use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn open(vfs: &Vfs, folder: &TempDir) -> Connection {
    let path = folder.path().join("db");
    let db = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs.name()).expect("a database");
    db.pragma_update(None, "journal_mode", "WAL").expect("a log");
    db.pragma_update(None, "synchronous", "FULL").expect("set");
    db.execute_batch("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, b BLOB)").expect("a table");
    db
}

fn add(db: &Connection, n: i64, len: usize) -> rusqlite::Result<usize> {
    db.execute("INSERT INTO t VALUES (?1, ?2)", (n, vec![7_u8; len]))
}

fn count(db: &Connection) -> i64 {
    db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("counted")
}

fn files(folder: &TempDir) -> BTreeMap<FileName, Vec<u8>> {
    let entries = std::fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| (entry.file_name().to_string_lossy().into(), std::fs::read(entry.path()).expect("a file")))
        .filter(|(name, _): &(FileName, _)| !name.ends_with("-shm"))
        .collect()
}

fn after(events: &[Event]) -> Disk {
    let mut disk = Disk::default();
    events.iter().for_each(|event| disk.apply(event));
    disk
}

fn dice() -> StdRng {
    StdRng::seed_from_u64(1)
}

#[test]
fn a_record_leads_to_the_very_files_that_are_there() {
    let (vfs, folder) = (Vfs::register(), folder());
    vfs.record();
    let mut events = Vec::new();
    for round in 0..3 {
        let db = open(&vfs, &folder);
        for n in 0..20 {
            add(&db, round * 100 + n, 3000).expect("added");
        }
        db.execute("DELETE FROM t WHERE n % 2 = 0", []).expect("deleted");
        if round == 1 {
            db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); VACUUM").expect("made small");
        }
        events.extend(vfs.take_events());
        assert_eq!(after(&events).image(Losses::Nothing, &mut dice()), files(&folder), "round {round}");
    }
}

#[test]
fn a_second_connection_reads_what_the_first_has_committed() {
    let (vfs, folder) = (Vfs::register(), folder());
    let (writer, reader) = (open(&vfs, &folder), open(&vfs, &folder));
    reader.execute_batch("BEGIN").expect("begun");
    assert_eq!(count(&reader), 0);
    add(&writer, 1, 100).expect("added");
    assert_eq!(count(&reader), 0, "it looks at one state");
    reader.execute_batch("COMMIT").expect("ended");
    assert_eq!(count(&reader), 1);
}

#[test]
fn what_is_synced_stays_and_what_is_not_may_go() {
    let name: FileName = "f".into();
    let write = |at, byte| Event::Write(name.clone(), at, [byte; 4096].into());
    let events = [Event::Create(name.clone()), write(0, 1), Event::Sync(name.clone())];
    assert!(after(&events).image(Losses::All, &mut dice()).is_empty(), "nobody has synced the folder");
    let mut disk = after(&events);
    disk.apply(&Event::SyncFolder);
    disk.apply(&write(4096, 2));
    disk.apply(&write(0, 3));
    assert_eq!(disk.image(Losses::All, &mut dice())[&name], [1; 4096]);
    let mut dice = dice();
    let images: Vec<Vec<u8>> = (0..200).map(|_| disk.image(Losses::Some, &mut dice)[&name].clone()).collect();
    let seen = |test: &dyn Fn(&[u8]) -> bool| images.iter().any(|image| test(image));
    assert!(seen(&|f| f == [1; 4096]), "all is lost");
    assert!(seen(&|f| f.len() == 8192 && f[..4096] == [3; 4096] && f[4096..] == [2; 4096]), "nothing is lost");
    assert!(seen(&|f| f[..4096] == [3; 4096] && f.len() == 4096), "the later one came first");
    assert!(seen(&|f| f.len() == 8192 && f[4096..] == [0; 4096]), "the length came, and the bytes did not");
    assert!(seen(&|f| f[0] != f[511]), "a sector is torn");
    assert!(seen(&|f| f[0] != f[512]), "a sector is lost");
    assert!(images.iter().all(|f| f.iter().take(4096).all(|byte| [1, 3].contains(byte))));
}

#[test]
fn a_failed_sync_loses_what_it_was_to_bring_for_good() {
    let name: FileName = "f".into();
    let write = |at| Event::Write(name.clone(), at, [1; 512].into());
    let synced =
        [Event::Create(name.clone()), Event::SyncFolder, write(0), Event::SyncFailed(name.clone()), write(512)];
    let mut disk = after(&synced);
    disk.apply(&Event::Sync(name.clone()));
    assert_eq!(disk.image(Losses::All, &mut dice())[&name], [[0; 512], [1; 512]].concat());
}

#[test]
fn the_operation_that_is_named_fails_and_no_other() {
    for (op, code) in [(Op::Write, ErrorCode::SystemIoFailure), (Op::Sync, ErrorCode::SystemIoFailure)] {
        let (vfs, folder) = (Vfs::register(), folder());
        let db = open(&vfs, &folder);
        vfs.fail(op, 0, Fault::Broken, false);
        let error = add(&db, 1, 100).expect_err("it fails");
        assert_eq!(error.sqlite_error_code(), Some(code), "{op:?}: {error}");
        assert_eq!(vfs.failures(), 1);
        add(&db, 1, 100).expect("only once");
        vfs.fail(op, 0, Fault::Broken, true);
        for _ in 0..3 {
            add(&db, 2, 100).expect_err("it goes on failing");
        }
        vfs.heal();
        add(&db, 2, 100).expect("healed");
    }
}

#[test]
fn a_read_that_fails_is_an_error_and_a_short_one_reads_zeros() {
    let (vfs, folder) = (Vfs::register(), folder());
    add(&open(&vfs, &folder), 1, 100).expect("added");
    for fault in [Fault::Broken, Fault::Short] {
        let db = open(&vfs, &folder);
        db.execute_batch("PRAGMA shrink_memory").expect("forgotten");
        // The first page of the file is looked at first, then that of the table.
        vfs.fail(Op::Read, 1, fault, true);
        let read: rusqlite::Result<Option<Vec<u8>>> = db.query_row("SELECT b FROM t", [], |row| row.get(0));
        match fault {
            Fault::Broken => {
                assert_eq!(read.expect_err("it fails").sqlite_error_code(), Some(ErrorCode::SystemIoFailure))
            }
            Fault::Short | Fault::Full => assert_ne!(read.ok().flatten(), Some(vec![7; 100])),
        }
        vfs.heal();
    }
}

#[test]
fn a_full_disk_takes_no_more_until_something_goes() {
    let (vfs, folder) = (Vfs::register(), folder());
    let db = open(&vfs, &folder);
    let beside = folder.path().join("beside");
    std::fs::write(&beside, vec![0; 100_000]).expect("written");
    vfs.limit(Some(300_000), &[&beside]);
    let mut added = 0;
    let error = loop {
        match add(&db, added, 10_000) {
            Ok(_) => added += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DiskFull));
    assert_eq!(count(&db), added, "what was there stays");
    assert!(vfs.free() < 20_000, "{}", vfs.free());
    std::fs::remove_file(&beside).expect("removed");
    assert!(vfs.free() >= 100_000);
    add(&db, added, 10_000).expect("there is room again");
}
