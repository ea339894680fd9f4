//! The replicated map alone: writes of clients and of others through its rules into its file, beside a bare loop that writes the
//! same rows to the same tables in transactions of the same size.

use bytes::{Bytes, BytesMut};
use p2p_api::Problem;
use p2p_api::bench::Stage;
use p2p_gossip::kv::{Actor, Call, Config, Dot, Dots, Key, Op, Place, Work, Write};
use p2p_gossip::swim::{Name, Time};
use rusqlite::{Connection, params};

use super::{Clock, Scratch, failed};
use crate::state::map::Map;
use crate::state::{StateFile, checkpoint_if_due};

/// Bytes of a value.
pub(super) const VALUE_LEN: usize = 256;

/// Bytes that a row and a logged write of such a value take beside it, about.
const ROW_EXTRA: usize = 16 + 1 + 4 + 48 + 4 + 8 + 8;

const LOG_EXTRA: usize = 16 + 1 + 48 + 2 + 1 + 4 + 8;

/// Bytes of a sum.
const SUM_LEN: usize = 40;

pub(super) fn measure(scratch: &Scratch, count: u64, group: usize) -> Result<Vec<Stage>, Problem> {
    let folder = |name: &str| {
        let path = scratch.path().join(name);
        std::fs::create_dir(&path).map_err(failed("no folder to measure in")).map(|()| path)
    };
    let open = |name: &str| StateFile::open(&folder(name)?).map_err(failed("the file does not open"));
    let (keys, bytes) = (keys(count), count * VALUE_LEN as u64);
    let clock = Clock::start();
    bare(&open("bare")?.into_db(), &keys, group).map_err(failed("SQLite does not do it"))?;
    let bare = clock.stop("bare", bytes);

    let peer = Name([1; 32]);
    let map = |name: &str| -> Result<Map, Problem> {
        let opened = Map::open(open(name)?.into_db(), peer, Config { log_keep: u64::MAX });
        opened.map(|(map, _)| map).map_err(failed("the map does not open"))
    };
    let mut puts = map("puts")?;
    let clock = Clock::start();
    let call = |key: &Key| {
        let write = Write::Held { force: false };
        Work::Call(Call { number: 0, key: key.clone(), value: Some(value(key)), write })
    };
    in_groups(&mut puts, keys.iter().map(call), group)?;
    let put = clock.stop("put", bytes);
    drop(puts);

    let mut merged = map("merge")?;
    let ops: Vec<Work> = keys.iter().enumerate().map(|(n, key)| of_another(key, n as u64 + 1)).collect();
    let clock = Clock::start();
    in_groups(&mut merged, ops.into_iter(), group)?;
    Ok(vec![bare, put, clock.stop("merge", bytes)])
}

fn keys(count: u64) -> Vec<Key> {
    (0..count)
        .map(|n| Key::new(format!("key/{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).expect("a key"))
        .collect()
}

/// A value that nobody else has.
fn value(key: &Key) -> Bytes {
    let mut bytes = vec![0; VALUE_LEN];
    blake3::Hasher::new().update(key.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// A write of another node.
fn of_another(key: &Key, counter: u64) -> Work {
    let dot = Dot { actor: Actor { peer: Name([2; 32]), epoch: 1 }, counter };
    let op = Op { dot, key: key.clone(), value: Some(value(key)), replaces: Dots::default() };
    let mut bytes = BytesMut::new();
    op.encode(&mut bytes);
    Work::Apply(op, bytes.freeze())
}

fn in_groups(map: &mut Map, mut work: impl Iterator<Item = Work>, group: usize) -> Result<(), Problem> {
    loop {
        let together: Vec<Work> = work.by_ref().take(group).collect();
        if together.is_empty() {
            return Ok(());
        }
        let committed = map.commit(together, Time(1)).map_err(failed("the map fails"))?;
        committed.recovered.map_or(Ok(()), |damage| Err(failed("the map has lost something")(damage)))?;
    }
}

/// The same rows, with nothing read, hashed or decided.
fn bare(db: &Connection, keys: &[Key], group: usize) -> rusqlite::Result<()> {
    db.execute_batch("INSERT INTO kv_peers VALUES (1, zeroblob(32)); INSERT INTO kv_actors VALUES (1, 1, 1, NULL)")?;
    let mut row = db.prepare("INSERT INTO kv_rows VALUES (?1, ?2, ?3)")?;
    let mut log = db.prepare("INSERT INTO kv_log VALUES (?1, 1, ?2, ?3, ?4)")?;
    let mut sum = db.prepare("INSERT INTO kv_sums VALUES (?1, ?2) ON CONFLICT DO UPDATE SET sum = excluded.sum")?;
    let mut seen = db.prepare("UPDATE kv_actors SET seen = ?1")?;
    let (row_bytes, op, sum_bytes) =
        ([1_u8; ROW_EXTRA + VALUE_LEN], [1_u8; LOG_EXTRA + VALUE_LEN + 20], [1_u8; SUM_LEN]);
    let mut place = 0_u64;
    for together in keys.chunks(group) {
        db.execute_batch("BEGIN IMMEDIATE")?;
        for key in together {
            let (at, key_bytes) = (Place::of(key), &key.as_bytes()[..]);
            let signed = (at.0 ^ 1 << 63) as i64;
            row.execute(params![signed, key_bytes, &row_bytes[..]])?;
            log.execute(params![place, place + 1, key_bytes, &op[..]])?;
            sum.execute(params![at.leaf(), &sum_bytes[..]])?;
            place += 1;
        }
        seen.execute([&place.to_le_bytes()[..]])?;
        for number in [5_000, 5_001] {
            sum.execute(params![number, &sum_bytes[..]])?;
        }
        db.execute_batch("COMMIT")?;
        checkpoint_if_due(db)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;

    #[test]
    fn every_way_keeps_all_keys() {
        let (temp, folder) = scratch();
        let stages = measure(&folder, 100, 7).expect("measured");
        assert_eq!(stages.iter().map(|stage| stage.stage.as_str()).collect::<Vec<_>>(), ["bare", "put", "merge"]);
        for name in ["bare", "puts", "merge"] {
            let db = Connection::open(folder.path().join(name).join("state.db")).expect("a database");
            let count = |table: &str| -> u64 {
                db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect("a count")
            };
            assert_eq!((count("kv_rows"), count("kv_log")), (100, 100), "{name}");
        }
        drop(folder);
        assert_eq!(std::fs::read_dir(temp.path()).expect("a folder").count(), 0);
    }
}
