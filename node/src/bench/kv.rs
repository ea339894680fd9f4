//! The replicated map alone: writes of clients and of others through its rules into its file, beside a bare loop that writes the
//! same rows to the same tables in transactions of the same size.

use bytes::{Bytes, BytesMut};
use p2p_api::Problem;
use p2p_api::bench::Stage;
use p2p_gossip::kv::anti_entropy::{Reply, Request};
use p2p_gossip::kv::{Actor, Call, Config, Dot, Dots, Effect, Key, Op, Place, Work, Write};
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
    let (keys, bytes) = (keys(count), count * VALUE_LEN as u64);
    let clock = Clock::start();
    bare(&file(scratch, "bare")?.into_db(), &keys, group).map_err(failed("SQLite does not do it"))?;
    let bare = clock.stop("bare", bytes).of_operations(count);

    let mut puts = map(scratch, "puts", ME)?;
    let clock = Clock::start();
    in_groups(&mut puts, keys.iter().map(|key| call(key, Some(value(key)))), group)?;
    let put = clock.stop("put", bytes).of_operations(count);
    drop(puts);

    let mut merged = map(scratch, "merge", ME)?;
    let ops: Vec<Work> = keys.iter().enumerate().map(|(n, key)| of_another(key, n as u64 + 1)).collect();
    let clock = Clock::start();
    in_groups(&mut merged, ops.into_iter(), group)?;
    Ok(vec![bare, put, clock.stop("merge", bytes).of_operations(count)])
}

/// Two copies of a map, of which each has written what the other has not, and neither knows any more what that was. One asks the
/// other until nothing is missing: `bytes` are those of questions and answers, `operations` the questions.
pub(super) fn compare(scratch: &Scratch, count: u64, differences: u64) -> Result<Vec<Stage>, Problem> {
    const BUILT_TOGETHER: usize = 8_192;
    let keys = keys(count);
    let mut one = map(scratch, "one", ME)?;
    let clock = Clock::start();
    let ops = keys.iter().zip(1..).map(|(key, counter)| of_another(key, counter));
    in_groups(&mut one, ops, BUILT_TOGETHER)?;
    let built = clock.stop("build", count * VALUE_LEN as u64).of_operations(count);
    drop(one);
    let path = |name: &str| scratch.path().join(name);
    forget(scratch, "one")?;
    std::fs::create_dir(path("other")).map_err(failed("no folder to measure in"))?;
    std::fs::copy(path("one").join("state.db"), path("other").join("state.db")).map_err(failed("no copy"))?;

    let each = (count / differences.max(1)).max(1) as usize;
    let mut changed = keys.iter().step_by(each).take(differences as usize);
    for (name, peer, written) in [("one", ME, differences.div_ceil(2)), ("other", OTHER, differences / 2)] {
        let mut map = map(scratch, name, peer)?;
        let changes = changed.by_ref().take(written as usize).map(|key| call(key, Some(value(key).slice(1..))));
        in_groups(&mut map, changes, BUILT_TOGETHER)?;
        drop(map);
        forget(scratch, name)?;
    }
    let (mut one, mut other) = (map(scratch, "one", ME)?, map(scratch, "other", OTHER)?);
    let clock = Clock::start();
    let (bytes, questions) = ask(&mut one, &mut other)?;
    let compared = clock.stop("compare", bytes).of_operations(questions);
    match one.machine().replica().vector().covers(other.machine().replica().vector()) {
        true => Ok(vec![built, compared]),
        false => Err(Problem::new(p2p_api::Code::Integrity, "after the comparison something is missing still")),
    }
}

/// One asks the other until nothing is missing: bytes that travel, and questions.
fn ask(one: &mut Map, other: &mut Map) -> Result<(u64, u64), Problem> {
    const NOW: Time = Time(1 << 40);
    let commit = |map: &mut Map, work: Vec<Work>| -> Result<Vec<Effect>, Problem> {
        Ok(map.commit(work, NOW).map_err(failed("the map fails"))?.effects)
    };
    let (mut bytes, mut questions) = (0, 0);
    let digest = other.machine().digest();
    let mut effects = commit(one, vec![Work::Up(OTHER), Work::Digest(OTHER, digest)])?;
    while let Some(request) = effects.iter().find_map(|effect| match effect {
        Effect::Ask(_, request) => Some(request.encode()),
        _ => None,
    }) {
        questions += 1;
        bytes += request.len() as u64;
        let request = Request::decode(request).map_err(failed("no question"))?;
        let answered = commit(other, vec![Work::Request(ME, request)])?;
        let reply = answered.iter().find_map(|effect| match effect {
            Effect::Answer(_, reply) => Some(reply.encode()),
            _ => None,
        });
        let reply = reply.ok_or_else(|| Problem::new(p2p_api::Code::Other, "a question has no answer"))?;
        bytes += reply.len() as u64;
        let reply = Reply::decode(reply).map_err(failed("no answer"))?;
        effects = commit(one, vec![Work::Reply(OTHER, reply)])?;
    }
    Ok((bytes, questions))
}

/// What is left of the map in a file where the log would be: nothing.
fn forget(scratch: &Scratch, name: &str) -> Result<(), Problem> {
    let db = StateFile::open(&scratch.path().join(name)).map_err(failed("the file does not open"))?.into_db();
    let forgotten = db.execute_batch("DELETE FROM kv_log; PRAGMA wal_checkpoint(TRUNCATE)");
    forgotten.map_err(failed("the log does not go"))
}

/// What is on the disk: of a key that is quiet, of one that was deleted, and of lives of a node that nobody hears of any more.
/// `bytes` are those beside key and value, `operations` rows or lives.
pub(super) fn space(scratch: &Scratch, lives: u64) -> Result<Vec<Stage>, Problem> {
    let key = keys(1).remove(0);
    let mut quiet = map(scratch, "quiet", ME)?;
    let held = |map: &Map, stage: &str| -> Result<Stage, Problem> {
        let sql = "SELECT count(*), ifnull(sum(length(row)), 0) FROM kv_rows";
        let (rows, len): (u64, u64) = map
            .db()
            .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(failed("the rows cannot be counted"))?;
        Ok(Stage::new(stage, len.saturating_sub(VALUE_LEN as u64), 0.0, 0.0).of_operations(rows))
    };
    in_groups(&mut quiet, [call(&key, Some(value(&key)))].into_iter(), 1)?;
    let first = held(&quiet, "written once")?;
    in_groups(&mut quiet, (0..100).map(|_| call(&key, Some(value(&key)))), 1)?;
    let again = held(&quiet, "written often")?;
    in_groups(&mut quiet, [call(&key, None)].into_iter(), 1)?;
    let deleted = held(&quiet, "deleted")?;
    drop(quiet);

    let len = |map: &Map| -> Result<u64, Problem> {
        map.db()
            .execute_batch("DELETE FROM kv_log; PRAGMA wal_checkpoint(TRUNCATE)")
            .map_err(failed("no checkpoint"))?;
        let sql = "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count,
            pragma_page_size";
        map.db().query_row(sql, [], |row| row.get(0)).map_err(failed("the pages cannot be counted"))
    };
    let mut map = map(scratch, "lives", ME)?;
    let life = |epoch: u64| {
        let epoch = blake3::hash(&epoch.to_le_bytes());
        let epoch = u64::from_le_bytes(*epoch.as_bytes().first_chunk().expect("a hash is longer"));
        let dot = Dot { actor: Actor { peer: OTHER, epoch }, counter: 1 };
        let (op, mut bytes) = (Op { dot, key: key.clone(), value: None, replaces: Dots::default() }, BytesMut::new());
        op.encode(&mut bytes);
        Work::Apply(op, bytes.freeze())
    };
    in_groups(&mut map, [life(0)].into_iter(), 1)?;
    let before = len(&map)?;
    in_groups(&mut map, (1..lives).map(life), 512)?;
    let lives_len = len(&map)?.saturating_sub(before);
    Ok(vec![first, again, deleted, Stage::new("lives", lives_len, 0.0, 0.0).of_operations(lives)])
}

/// The node whose map is measured.
const ME: Name = Name([1; 32]);

/// Another.
const OTHER: Name = Name([2; 32]);

fn file(scratch: &Scratch, name: &str) -> Result<StateFile, Problem> {
    let path = scratch.path().join(name);
    std::fs::create_dir_all(&path).map_err(failed("no folder to measure in"))?;
    StateFile::open(&path).map_err(failed("the file does not open"))
}

/// A map that keeps its log.
fn map(scratch: &Scratch, name: &str, peer: Name) -> Result<Map, Problem> {
    let opened = Map::open(file(scratch, name)?.into_db(), peer, Config::default());
    opened.map(|(map, _)| map).map_err(failed("the map does not open"))
}

fn call(key: &Key, value: Option<Bytes>) -> Work {
    Work::Call(Call { number: 0, key: key.clone(), value, write: Write::Held { force: false } })
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
    let dot = Dot { actor: Actor { peer: Name([3; 32]), epoch: 1 }, counter };
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
    let mut row = db.prepare("INSERT INTO kv_rows (place, key, row) VALUES (?1, ?2, ?3)")?;
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
        let [_, compared] = &compare(&folder, 300, 7).expect("compared")[..] else { panic!("two stages") };
        assert!(compared.operations > 1 && compared.bytes > 7 * VALUE_LEN as u64, "{compared:?}");
        let [first, again, deleted, lives] = &space(&folder, 9).expect("measured")[..] else { panic!("four stages") };
        assert!(first.bytes < again.bytes && (first.operations, deleted.operations, lives.operations) == (1, 0, 9));
        drop(folder);
        assert_eq!(std::fs::read_dir(temp.path()).expect("a folder").count(), 0);
    }
}
