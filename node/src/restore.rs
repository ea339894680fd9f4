//! Putting a copy of the map in the place of the one in a home that does not run.
//!
//! A home stays who it is: its key, its cluster, whom it has met and how often it has started are its own. What was written
//! since the copy was made comes back from other members; what was written nowhere else is gone.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use p2p_api::{Code, Problem};
use p2p_gossip::kv::Config as MapConfig;
use p2p_gossip::swim::Name;
use rusqlite::{Connection, OpenFlags};

use crate::config::Config;
use crate::error::StartError;
use crate::lock::HomeLock;
use crate::state::map::Map;
use crate::state::{FILE_NAME, StateFile};
use crate::{home, identity, sqlite};

/// What was put in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Keys that it has.
    pub keys: u64,
    /// Where the map is that was there before, if there was one.
    pub before: Option<PathBuf>,
}

/// Puts a copy in place of the map of a home, making the home where there is none. A map that is there is kept beside it, and
/// replaced only with `force`.
///
/// # Errors
/// When the home runs, has a map, or the copy is none or damaged; the home is left as it was.
pub fn restore(config: &Config, copy: &Path, force: bool) -> Result<Restored, Problem> {
    home::make(&config.home)?;
    let _lock = HomeLock::take(&config.home)?;
    home::check_whole(&config.home)?;
    let keypair = identity::load_or_create(&config.home)?;
    let old = StateFile::open(&config.home).map_err(StartError::from)?;
    let has_map = old.has_map().map_err(StartError::from)?;
    if has_map && !force {
        let message = format!("the home {} has a map already", config.home.display());
        return Err(Problem::new(Code::Exists, message).hint("Replace it, and keep it beside: --force"));
    }
    drop(old);
    let path = config.home.join(FILE_NAME);
    let new = config.home.join("restored.tmp");
    let keys = prepare(copy, &new, &path, &keypair).inspect_err(|_| remove(&new))?;
    let failed =
        |error: std::io::Error| Problem::new(Code::Other, format!("cannot put {} in place: {error}", path.display()));
    let before = has_map.then(|| config.home.join("state.db.before"));
    if let Some(before) = &before {
        fs::copy(&path, before).map_err(failed)?;
    }
    // All of the old file is in it: it was opened and closed.
    with_companions(&path).for_each(|companion| remove(&companion));
    fs::rename(&new, &path).and_then(|()| File::open(&config.home)?.sync_all()).map_err(failed)?;
    Ok(Restored { keys, before })
}

/// Makes a file of a copy that can take the place of the one in a home; how many keys it has.
fn prepare(copy: &Path, new: &Path, old: &Path, keypair: &libp2p::identity::Keypair) -> Result<u64, Problem> {
    let failed = |error: rusqlite::Error| no_copy(copy, &error.to_string());
    remove(new);
    with_companions(new).for_each(|companion| remove(&companion));
    let cannot_read =
        |error: std::io::Error| Problem::new(Code::Usage, format!("cannot read {}: {error}", copy.display()));
    sqlite::make_private(new).map_err(cannot_read)?;
    let mut from = File::open(copy).map_err(cannot_read)?;
    let mut to = File::options().write(true).open(new).map_err(cannot_read)?;
    std::io::copy(&mut from, &mut to).map_err(cannot_read)?;
    drop(to);
    check(new).map_err(failed)?.map_or(Ok(()), |found| Err(no_copy(copy, &found)))?;
    let file = StateFile::open_at(new.to_owned()).map_err(|error| Problem::from(StartError::from(error)))?;
    file.take_over(old).map_err(failed)?;
    let name =
        Name::of_peer(&keypair.public().to_peer_id()).ok_or_else(|| no_copy(copy, "the home has no identity"))?;
    let (map, damage) =
        Map::open(file.into_db(), name, MapConfig::default()).map_err(|error| no_copy(copy, &error.to_string()))?;
    if let Some(damage) = damage {
        return Err(no_copy(copy, &damage.to_string()));
    }
    let keys = map.machine().replica().len();
    map.close().map_err(failed)?;
    let sync = || File::open(new)?.sync_all();
    sync().map_err(cannot_read)?;
    Ok(keys)
}

/// What is wrong with a file, if it is not what SQLite has written.
fn check(file: &Path) -> rusqlite::Result<Option<String>> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let tables: i64 =
        db.query_row("SELECT count(*) FROM sqlite_schema WHERE name IN ('node', 'kv_rows')", [], |row| row.get(0))?;
    if tables != 2 {
        return Ok(Some("it is a database of something else".to_owned()));
    }
    let found: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((found != "ok").then_some(found))
}

fn no_copy(copy: &Path, reason: &str) -> Problem {
    Problem::new(Code::Corrupt, format!("{} is no copy of a map that can be used: {reason}", copy.display()))
        .hint("Use another: `p2p-cli backup FILE` makes them.")
}

/// The files that SQLite keeps beside one.
fn with_companions(path: &Path) -> impl Iterator<Item = PathBuf> {
    ["-wal", "-shm"].into_iter().map(move |suffix| {
        let mut name = OsString::from(path);
        name.push(suffix);
        PathBuf::from(name)
    })
}

/// Removes what may not be there.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}
