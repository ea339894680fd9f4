//! The map on real files: the same as in memory, whole after any loss of power, and built again when something is lost.

use std::collections::BTreeMap;

use bytes::Bytes;
use p2p_gossip::kv::{Actor, Call, Dot, Key, KvTx, Place, Vector, Write, contract};
use p2p_vfs::{Disk, Event, FileName, Losses, Vfs};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::Connection;
use tempfile::TempDir;

use super::super::StateFile;
use super::*;

const PEER: Name = Name([7; 32]);

const CONFIG: Config = Config { log_keep: 20, is_alone: false, staged_len_max: u64::MAX };

/// Images in an ordinary run.
const IMAGES: u64 = 200;

/// Images that are cut from one history.
const IMAGES_PER_HISTORY: u64 = 50;

/// Transactions of one history.
const COMMITS: u64 = 60;

fn open(home: &TempDir) -> (Map, Option<Damage>) {
    let file = StateFile::open(home.path()).expect("a file");
    Map::open(file.into_db(), PEER, CONFIG).expect("a map")
}

fn key(n: u64) -> Key {
    Key::new(format!("key {n}")).expect("a key")
}

fn call(number: u64, key: Key, value: Option<Bytes>, write: Write) -> Work {
    Work::Call(Call { number, key, value, write })
}

fn put(map: &mut Map, n: u64, value: &'static str) -> Committed {
    let work = call(0, key(n), Some(value.into()), Write::Held { force: true });
    map.commit(vec![work], Time(1)).expect("it is kept")
}

/// Keys and their rows.
type Rows = Vec<(Place, Key, Bytes)>;

/// All that the map is.
fn state(map: &mut Map) -> (Rows, Vector) {
    let vector = map.machine.replica().vector().clone();
    (map.tables.rows(Place::ALL, None, usize::MAX).expect("rows"), vector)
}

#[test]
fn tables_do_what_memory_does() {
    for seed in 0..10 {
        let home = tempfile::tempdir().expect("a folder");
        let file = StateFile::open(home.path()).expect("a file");
        let mut tables = KvTables::new(file.into_db()).expect("tables");
        contract::check(&mut tables, seed, 300);
    }
}

#[test]
fn what_was_written_is_there_after_the_next_start_under_another_name() {
    let home = tempfile::tempdir().expect("a folder");
    let (mut map, _) = open(&home);
    let me = map.machine.replica().me();
    for n in 0..5 {
        put(&mut map, n, "value");
    }
    let before = state(&mut map);
    drop(map);
    let (mut map, damage) = open(&home);
    assert_eq!((state(&mut map), damage), (before, None));
    assert_ne!(map.machine.replica().me(), me);
}

/// Changes the file behind the map's back, while it is not open.
fn hurt(home: &TempDir, sql: &str) {
    let db = Connection::open(home.path().join("state.db")).expect("a database");
    for statement in sql.split("; ") {
        assert!(db.execute(statement, []).expect("it runs") > 0, "{statement}");
    }
}

#[test]
fn a_file_that_has_lost_something_is_found_out_and_built_again_from_the_rest() {
    for (sql, when_opened) in [
        ("DELETE FROM kv_rows WHERE key = CAST('key 1' AS BLOB)", false),
        ("UPDATE kv_rows SET row = CAST(row || 'x' AS BLOB) WHERE key = CAST('key 1' AS BLOB)", false),
        ("UPDATE kv_rows SET place = place + 1 WHERE key = CAST('key 1' AS BLOB)", false),
        ("DELETE FROM kv_sums WHERE number = (SELECT min(number) FROM kv_sums)", true),
        ("UPDATE kv_rows SET key = x'ff' WHERE key = CAST('key 1' AS BLOB)", false),
        ("UPDATE kv_node SET root = NULL", true),
        ("UPDATE kv_actors SET seen = NULL", true),
        ("UPDATE kv_actors SET seen = NULL; DELETE FROM kv_sums WHERE number >= 4096", true),
        ("UPDATE kv_actors SET seen = x'0100000000000000'", true),
        ("DELETE FROM kv_peers", true),
    ] {
        let home = tempfile::tempdir().expect("a folder");
        let (mut map, _) = open(&home);
        (0..5).for_each(|n| drop(put(&mut map, n, "value")));
        drop(map);
        hurt(&home, sql);
        let (mut map, mut damage) = open(&home);
        assert_eq!(damage.is_some(), when_opened, "{sql}: {damage:?}");
        if !when_opened {
            damage = map.commit(vec![Work::Audit], Time(1)).expect("it works").recovered;
        }
        assert!(damage.is_some(), "{sql}");
        // The log had all of it still.
        let (rows, vector) = state(&mut map);
        assert_eq!((rows.len(), vector.iter().len()), (5, 1), "{sql}");
        assert!(map.tables.is_behind().expect("whether"), "{sql}");
        put(&mut map, 9, "value");
        drop(map);
        let (mut map, damage) = open(&home);
        assert_eq!((state(&mut map).0.len(), damage), (6, None), "{sql}");
    }
}

#[test]
fn what_fails_is_not_done_and_not_told() {
    let home = tempfile::tempdir().expect("a folder");
    let vfs = Vfs::register();
    let file = StateFile::open_on(home.path(), Some(vfs.name())).expect("a file");
    let (mut map, _) = Map::open(file.into_db(), PEER, CONFIG).expect("a map");
    put(&mut map, 1, "value");
    let before = state(&mut map);
    vfs.fail(p2p_vfs::Op::Sync, 0, p2p_vfs::Fault::Broken, true);
    let work = call(0, key(2), Some("value".into()), Write::Held { force: true });
    let failed = map.commit(vec![work], Time(1));
    assert!(matches!(failed, Err(StoreError::Failed(_))), "{failed:?}");
    drop(map);
    vfs.heal();
    let (mut map, _) = open(&home);
    let (rows, _) = state(&mut map);
    let kept = before.0.iter().filter(|row| rows.contains(row)).count();
    assert!(kept == 1 && rows.len() <= 2, "what was told is there, and the rest whole or not at all: {rows:?}");
}

#[test]
fn what_cannot_be_read_is_not_taken_for_what_is_not_there() {
    let home = tempfile::tempdir().expect("a folder");
    let (mut map, _) = open(&home);
    (0..5).for_each(|n| drop(put(&mut map, n, "first")));
    drop(map);
    let mut failed = 0;
    for nth in 0..12 {
        let copy = tempfile::tempdir().expect("a folder");
        for file in std::fs::read_dir(home.path()).expect("a folder").flatten() {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).expect("a copy");
        }
        let vfs = Vfs::register();
        let file = StateFile::open_on(copy.path(), Some(vfs.name())).expect("a file");
        let (mut map, _) = Map::open(file.into_db(), PEER, CONFIG).expect("a map");
        // Once, and what is read the next time is there.
        vfs.fail(p2p_vfs::Op::Read, nth, p2p_vfs::Fault::Broken, false);
        let work = call(0, key(1), Some("second".into()), Write::Held { force: false });
        let outcome = map.commit(vec![work], Time(1));
        failed += u64::from(outcome.is_err());
        vfs.heal();
        drop(map);
        let (mut map, damage) = open(&copy);
        assert_eq!(damage, None, "read {nth}");
        let audited = map.commit(vec![Work::Audit], Time(1)).expect("it works");
        assert_eq!(audited.recovered, None, "read {nth}: {outcome:?}");
        let entry = map.machine.replica().get(&mut map.tables, &key(1)).expect("it is whole");
        let values: Vec<&[u8]> = entry.siblings().iter().map(|sibling| &sibling.value[..]).collect();
        let expected: &[u8] = if outcome.is_ok() { b"second" } else { b"first" };
        assert_eq!(values, [expected], "read {nth}: {outcome:?}");
    }
    assert!(failed > 1, "{failed}");
}

#[test]
fn what_was_rolled_back_is_not_remembered() {
    let home = tempfile::tempdir().expect("a folder");
    let file = StateFile::open(home.path()).expect("a file");
    let mut tables = KvTables::new(file.into_db()).expect("tables");
    let dot = |n: u8, counter: u64| Dot { actor: Actor { peer: Name([n; 32]), epoch: 1 }, counter };
    let rolled_back = transact(&mut tables, |tables| {
        tables.append(&dot(1, 1), &key(1), None)?;
        Err::<(), _>(Trouble::Damage(Damage::Sums))
    });
    assert_eq!(rolled_back, Err(Trouble::Damage(Damage::Sums)));
    transact(&mut tables, |tables| {
        tables.append(&dot(2, 1), &key(2), None)?;
        Ok(tables.append(&dot(1, 2), &key(1), None)?)
    })
    .expect("it works");
    let logged = |tables: &mut KvTables, dot: Dot| tables.logged(&dot).expect("it works").map(|(key, _)| key);
    assert_eq!((logged(&mut tables, dot(1, 2)), logged(&mut tables, dot(2, 1))), (Some(key(1)), Some(key(2))));
    assert_eq!((logged(&mut tables, dot(1, 1)), logged(&mut tables, dot(2, 2))), (None, None));
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Some work of a node with peers: calls of clients, and writes of others.
fn work(dice: &mut StdRng, other: &mut u64) -> Vec<Work> {
    let mut all = Vec::new();
    for _ in 0..dice.random_range(1..8) {
        let (key, value) = (key(dice.random_range(0..12)), vec![dice.random(); dice.random_range(0..2000)]);
        let value = dice.random_bool(0.7).then(|| Bytes::from(value));
        if dice.random_bool(0.3) {
            *other += 1;
            let dot = Dot { actor: p2p_gossip::kv::Actor { peer: Name([9; 32]), epoch: 1 }, counter: *other };
            let op = p2p_gossip::kv::Op { dot, key, value, replaces: [].into_iter().collect() };
            let mut bytes = bytes::BytesMut::new();
            op.encode(&mut bytes);
            all.push(Work::Apply(op, bytes.freeze()));
        } else {
            let write = if dice.random() { Write::Held { force: true } } else { Write::Beside };
            all.push(call(0, key, value, write));
        }
    }
    all
}

/// A seeded history of transactions runs over a recording file system. Every set of files that a loss of power could leave is
/// what was there after some transaction, and no earlier one than the last that somebody was told of.
#[test]
fn kv_crash_images() {
    let images = number("P2P_CRASH_IMAGES").unwrap_or(IMAGES);
    let first = number("P2P_SEED").unwrap_or(0);
    let histories = images.div_ceil(IMAGES_PER_HISTORY);
    for seed in first..first + histories {
        check_history(seed);
    }
    println!("{} crash images of {histories} histories from seed {first}", histories * IMAGES_PER_HISTORY);
}

fn check_history(seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let (home, vfs) = (tempfile::tempdir().expect("a folder"), Vfs::register());
    vfs.record();
    let file = StateFile::open_on(home.path(), Some(vfs.name())).expect("a file");
    let (mut map, _) = Map::open(file.into_db(), PEER, CONFIG).expect("a map");
    let mut other = 0;
    let mut states = vec![state(&mut map)];
    for n in 0..COMMITS {
        vfs.mark(2 * n);
        map.commit(work(&mut dice, &mut other), Time(n)).expect("it is kept");
        vfs.mark(2 * n + 1);
        states.push(state(&mut map));
        if dice.random_bool(0.1) {
            // As while the node runs, and as at its start.
            let mode = if dice.random() { "PASSIVE" } else { "TRUNCATE" };
            let done = map.tables.db().query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
            done.expect("a checkpoint");
        }
    }
    let events = vfs.take_events();
    drop(map);
    let begun_at = events.iter().position(|event| matches!(event, Event::Mark(0))).expect("it has begun");
    let mut cuts: Vec<usize> = (0..IMAGES_PER_HISTORY).map(|_| dice.random_range(begun_at..=events.len())).collect();
    cuts.sort_unstable();
    let (mut disk, mut at, mut told, mut begun) = (Disk::default(), 0, 0, 0);
    for (n, cut) in cuts.into_iter().enumerate() {
        for event in &events[at..cut] {
            disk.apply(event);
            match event {
                Event::Mark(mark) if mark % 2 == 1 => told = *mark as usize / 2 + 1,
                Event::Mark(mark) => begun = *mark as usize / 2 + 1,
                _ => {}
            }
        }
        at = cut;
        let losses = [Losses::All, Losses::Nothing, Losses::Some, Losses::Some, Losses::Some][n % 5];
        let files: BTreeMap<FileName, Vec<u8>> = disk.image(losses, &mut dice);
        let image = tempfile::tempdir().expect("a folder");
        for (name, bytes) in files {
            std::fs::write(image.path().join(&*name), bytes).expect("room for an image");
        }
        let replay = format!("again: P2P_SEED={seed} P2P_CRASH_IMAGES=1 cargo test -p p2p-node --lib kv_crash_images");
        let (mut map, damage) = open(&image);
        assert_eq!(damage, None, "{replay}");
        let audited = map.commit(vec![Work::Audit], Time(1)).expect("it works");
        assert_eq!(audited.recovered, None, "{replay}");
        let found = state(&mut map);
        let is_there = (told..=begun).any(|state| states[state] == found);
        assert!(
            is_there,
            "cut at {cut} of {} with {losses:?}: not what was there after {told} to {begun}; {replay}",
            events.len()
        );
    }
}
