//! The folder of a network and its state file: what one command tells the next.
//!
//! The file is also the marker that the folder is ours: nothing is created in, signalled from or deleted with a folder
//! that lacks it. Whoever changes it holds the folder's lock; whoever reads sees one whole version or another, because
//! it is only ever replaced by renaming.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2p_api::{Code, Problem};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::Result;
use crate::process::{Condition, ProcessId};
use p2p_api::text::shell_word;

/// The version of the state file that is written, and the highest that is read.
const VERSION: u32 = 1;

const MARKER: &str = "testnet.json";
const MARKER_NEXT: &str = "testnet.json.next";
const LOCK: &str = "testnet.lock";
const TICKET: &str = "testnet.ticket";

/// Longest wait for another command in the same folder. It covers the start of some tens of nodes.
const LOCK_LIMIT: Duration = Duration::from_secs(120);

/// Time between two attempts to get the folder's lock.
const LOCK_PERIOD: Duration = Duration::from_millis(20);

/// A network as its folder remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Version of this file.
    pub version: u32,
    /// How many nodes were asked for. More than there are after a first start that did not come to its end.
    pub wanted: u32,
    /// The nodes, by index.
    pub nodes: Vec<NodeState>,
}

/// One node: its home is `node-I` in the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The I of `node-I`.
    pub index: u32,
    /// Peer id.
    pub peer: String,
    /// The loopback port that its configuration names.
    pub port: u16,
    /// The process last started for it; absent once `down` has ended it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub process: Option<ProcessId>,
    /// Whether that process lives on without the command that started it.
    #[serde(default)]
    pub detached: bool,
}

impl NodeState {
    /// What its process is doing.
    pub fn condition(&self) -> Condition {
        self.process.as_ref().map_or(Condition::Exited, ProcessId::condition)
    }
}

impl State {
    fn empty() -> Self {
        Self { version: VERSION, wanted: 0, nodes: Vec::new() }
    }

    /// The node of this index.
    ///
    /// # Errors
    /// `not_found`, with the indices there are.
    pub fn node(&self, index: u32) -> Result<&NodeState> {
        self.nodes.iter().find(|node| node.index == index).ok_or_else(|| self.no_node(index))
    }

    /// The node of this index, to change.
    ///
    /// # Errors
    /// As [`State::node`].
    pub fn node_mut(&mut self, index: u32) -> Result<&mut NodeState> {
        match self.nodes.iter().position(|node| node.index == index) {
            Some(at) => Ok(&mut self.nodes[at]),
            None => Err(self.no_node(index)),
        }
    }

    /// The indices of the nodes in this condition.
    pub fn indices(&self, condition: Condition) -> Vec<u32> {
        self.nodes.iter().filter(|node| node.condition() == condition).map(|node| node.index).collect()
    }

    fn no_node(&self, index: u32) -> Problem {
        let there = match (self.nodes.first(), self.nodes.last()) {
            (Some(first), Some(last)) => format!("there are {} to {}", first.index, last.index),
            _ => "there is none".to_owned(),
        };
        Problem::new(Code::NotFound, format!("there is no node {index} in this network; {there}"))
    }
}

/// The folder of a network.
#[derive(Clone, Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// A folder by name. Nothing is looked at or made yet.
    ///
    /// # Errors
    /// When the current directory cannot be read.
    pub fn new(path: &Path) -> Result<Self> {
        let absolute = fs::canonicalize(path).or_else(|_| std::path::absolute(path));
        absolute.map(Self).map_err(|error| failed("the folder cannot be found", path, &error))
    }

    /// The folder's absolute path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Node I's home.
    pub fn home(&self, index: u32) -> PathBuf {
        self.0.join(format!("node-{index}"))
    }

    /// A command about this network, to paste.
    pub(crate) fn hint(&self, command: &str) -> String {
        format!("p2p-testnet --dir {} {command}", shell_word(&self.0))
    }

    /// The state as it was last written.
    ///
    /// # Errors
    /// `not_found` when the folder is no network's; otherwise when the file cannot be used.
    pub fn load(&self) -> Result<State> {
        let path = self.0.join(MARKER);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.no_network()),
            Err(error) => return Err(failed("the network's state cannot be read", &path, &error)),
        };
        // The version first: a newer file may have another shape.
        let version =
            serde_json::from_slice::<serde_json::Value>(&bytes).ok().and_then(|file| file["version"].as_u64());
        if version.is_some_and(|version| version > u64::from(VERSION)) {
            let message = format!("{} was written by a newer p2p-testnet", path.display());
            return Err(Problem::new(Code::UnsupportedVersion, message).hint("Use that one, or another --dir."));
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            Problem::new(Code::Config, format!("{} is damaged: {error}", path.display()))
                .hint("End its nodes by their pids and use another --dir.")
        })
    }

    /// The state as it was last written; without any node where there is no network yet.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub(crate) fn load_or_empty(&self) -> Result<State> {
        match self.load() {
            Err(problem) if problem.code == Code::NotFound => Ok(State::empty()),
            state => state,
        }
    }

    /// Locks the folder of an existing network.
    ///
    /// # Errors
    /// `not_found` when it is none; `busy` when another command holds it for too long.
    pub async fn open(&self) -> Result<(Locked, State)> {
        // Before the lock, so that no file appears in somebody else's folder; after it, because it may be deleted.
        self.load()?;
        let lock = self.lock().await?;
        let state = self.load()?;
        Ok((lock, state))
    }

    /// Locks the folder for a network, making both where there is none yet.
    ///
    /// # Errors
    /// `exists` when the folder holds something else; `busy` when another command holds it for too long.
    pub async fn create(&self) -> Result<(Locked, State)> {
        loop {
            let mut builder = fs::DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(&self.0);
            made.map_err(|error| failed("the folder cannot be made", &self.0, &error))?;
            self.refuse_foreign()?;
            match self.lock().await {
                // Deleted by another command in the meantime.
                Err(problem) if problem.code == Code::NotFound => {}
                Err(problem) => return Err(problem),
                Ok(lock) => {
                    let state = self.load_or_empty()?;
                    lock.save(&state)?;
                    return Ok((lock, state));
                }
            }
        }
    }

    /// Removes the folder with all it holds.
    ///
    /// # Errors
    /// When it carries no marker, or something in it cannot be removed.
    pub fn delete(&self, _lock: &Locked) -> Result<()> {
        self.load()?;
        fs::remove_dir_all(&self.0).map_err(|error| failed("the network's folder cannot be deleted", &self.0, &error))
    }

    /// A folder is ours if it has the marker, or nothing but what an interrupted first command leaves.
    fn refuse_foreign(&self) -> Result<()> {
        let unreadable = |error: io::Error| failed("the folder cannot be read", &self.0, &error);
        if self.0.join(MARKER).exists() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.0).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            if name != LOCK && name != MARKER_NEXT {
                let message = format!("{} is not empty and holds no test network", self.0.display());
                return Err(Problem::new(Code::Exists, message).hint("Name another folder with --dir."));
            }
        }
        Ok(())
    }

    async fn lock(&self) -> Result<Locked> {
        let path = self.0.join(LOCK);
        let deadline = Instant::now() + LOCK_LIMIT;
        loop {
            let file = File::options().create(true).append(true).open(&path);
            let file = match file {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.no_network()),
                file => file.map_err(|error| failed("the network cannot be locked", &path, &error))?,
            };
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => {
                    // A command that was killed may have left one, and nobody else writes it now.
                    drop(TicketFile(self.0.join(TICKET)));
                    return Ok(Locked { dir: self.clone(), _file: file });
                }
                // A lock on a file that `down --delete` has removed holds nobody off.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_PERIOD).await,
                Err(TryLockError::WouldBlock) => return Err(self.busy()),
                Err(TryLockError::Error(error)) => return Err(failed("the network cannot be locked", &path, &error)),
            }
        }
    }

    fn busy(&self) -> Problem {
        let message = format!("another p2p-testnet has been working in {} for long", self.0.display());
        Problem::new(Code::Busy, message).hint("Wait for it to end, or end it.")
    }

    fn no_network(&self) -> Problem {
        Problem::new(Code::NotFound, format!("there is no test network in {}", self.0.display()))
            .hint(self.hint("up --detach"))
    }
}

/// The right to change a network, until dropped or the process ends.
#[derive(Debug)]
pub struct Locked {
    dir: Dir,
    _file: File,
}

impl Locked {
    /// Replaces the state file.
    ///
    /// # Errors
    /// When it cannot be written; the former one stands then.
    pub fn save(&self, state: &State) -> Result<()> {
        let path = self.dir.0.join(MARKER_NEXT);
        let write = || -> io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(&serde_json::to_vec_pretty(state)?)?;
            file.sync_all()?;
            fs::rename(&path, self.dir.0.join(MARKER))
        };
        write().map_err(|error| failed("the network's state cannot be written", &path, &error))
    }

    /// Writes a ticket for nodes that are to join.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_ticket(&self, ticket: &str) -> Result<TicketFile> {
        let file = TicketFile(self.dir.0.join(TICKET));
        let open = File::options().create_new(true).write(true).mode(0o600).open(&file.0);
        let written = open.and_then(|mut opened| opened.write_all(ticket.as_bytes()));
        written.map_err(|error| failed("a ticket cannot be written", &file.0, &error))?;
        Ok(file)
    }
}

/// A ticket in a file that only this user can read, so that it is not in anybody's `ps`. Removed when dropped.
#[derive(Debug)]
pub struct TicketFile(PathBuf);

impl TicketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TicketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A problem with a file, for everything that has no code of its own.
pub(crate) fn failed(what: &str, path: &Path, error: &io::Error) -> Problem {
    Problem::new(Code::Other, format!("{what}: {}: {error}", path.display()))
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(theirs)) => ours.dev() == theirs.dev() && ours.ino() == theirs.ino(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let dir = Dir::new(&temp.path().join("net")).expect("an absolute path");
        (temp, dir)
    }

    fn sample() -> State {
        let process = ProcessId { pid: 7, start_ticks: 9, boot: "b".to_owned() };
        let node = |index, process| NodeState { index, peer: "12D3".to_owned(), port: 17_460, process, detached: true };
        State { version: VERSION, wanted: 2, nodes: vec![node(0, Some(process)), node(1, None)] }
    }

    #[tokio::test]
    async fn what_is_saved_is_loaded() {
        let (_temp, dir) = scratch();
        assert_eq!(dir.load().expect_err("nothing is there").code, Code::NotFound);
        assert_eq!(dir.open().await.expect_err("nothing is there").code, Code::NotFound);
        assert!(!dir.path().exists(), "asking leaves nothing behind");
        let (lock, state) = dir.create().await.expect("a new folder");
        assert_eq!(state, State::empty());
        lock.save(&sample()).expect("a writable folder");
        assert_eq!(dir.load().expect("it was saved"), sample());
    }

    #[tokio::test]
    async fn a_write_that_was_torn_changes_nothing() {
        let (_temp, dir) = scratch();
        let (lock, _) = dir.create().await.expect("a new folder");
        lock.save(&sample()).expect("a writable folder");
        fs::write(dir.path().join(MARKER_NEXT), b"{\"version\":1,\"nod").expect("a writable folder");
        assert_eq!(dir.load().expect("the former one stands"), sample());
        drop(lock);
        let (_, state) = dir.create().await.expect("still a network");
        assert_eq!(state, sample());
    }

    #[tokio::test]
    async fn a_first_write_that_was_torn_leaves_a_folder_that_can_be_used() {
        let (_temp, dir) = scratch();
        fs::create_dir_all(dir.path()).expect("a writable folder");
        fs::write(dir.path().join(LOCK), b"").expect("a writable folder");
        fs::write(dir.path().join(MARKER_NEXT), b"{").expect("a writable folder");
        dir.create().await.expect("nothing of anybody is in it");
    }

    #[tokio::test]
    async fn a_foreign_folder_is_refused_and_untouched() {
        let (_temp, dir) = scratch();
        fs::create_dir_all(dir.path()).expect("a writable folder");
        fs::write(dir.path().join("thesis.txt"), b"years").expect("a writable folder");
        assert_eq!(dir.create().await.expect_err("not ours").code, Code::Exists);
        assert_eq!(dir.open().await.expect_err("not ours").code, Code::NotFound);
        let names: Vec<_> =
            fs::read_dir(dir.path()).expect("it exists").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(names, ["thesis.txt"]);
    }

    #[tokio::test]
    async fn only_a_folder_with_the_marker_is_deleted() {
        let (_temp, dir) = scratch();
        let (lock, _) = dir.create().await.expect("a new folder");
        fs::rename(dir.path().join(MARKER), dir.path().join("kept")).expect("a writable folder");
        assert_eq!(dir.delete(&lock).expect_err("no marker").code, Code::NotFound);
        fs::rename(dir.path().join("kept"), dir.path().join(MARKER)).expect("a writable folder");
        dir.delete(&lock).expect("ours");
        assert!(!dir.path().exists());
    }

    #[tokio::test]
    async fn files_that_cannot_be_used_are_told_apart() {
        let (_temp, dir) = scratch();
        drop(dir.create().await.expect("a new folder"));
        fs::write(dir.path().join(MARKER), b"{\"version\":2,\"shape\":[]}").expect("a writable folder");
        assert_eq!(dir.load().expect_err("newer").code, Code::UnsupportedVersion);
        fs::write(dir.path().join(MARKER), b"{\"version\":1,").expect("a writable folder");
        assert_eq!(dir.load().expect_err("damaged").code, Code::Config);
    }

    #[tokio::test]
    async fn a_ticket_that_a_killed_command_left_goes_with_the_next_one() {
        let (_temp, dir) = scratch();
        let (lock, _) = dir.create().await.expect("a new folder");
        let ticket = lock.write_ticket("secret").expect("a writable folder");
        let path = ticket.path().to_owned();
        assert_eq!(fs::metadata(&path).expect("it was written").mode() & 0o777, 0o600);
        std::mem::forget(ticket);
        drop(lock);
        drop(dir.open().await.expect("a network"));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn who_comes_second_waits() {
        let (_temp, dir) = scratch();
        let (lock, _) = dir.create().await.expect("a new folder");
        let other = dir.clone();
        let second = tokio::spawn(async move { other.open().await.map(|(_, state)| state) });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        lock.save(&sample()).expect("a writable folder");
        drop(lock);
        let seen = second.await.expect("no panic").expect("a network");
        assert_eq!(seen, sample(), "it sees what the first one wrote");
    }
}
