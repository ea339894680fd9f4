//! What the commands print: the documents, and the same for people. Decides nothing.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use p2p_api::types::ErrorDocument;
use p2p_api::{Code, Problem};
use serde::Serialize;

use crate::process::{Condition, ProcessId};
use crate::state::{Dir, NodeState};
use crate::{Result, launch};

/// The result of `up`, `ps` and every command that changes a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Network {
    /// The folder.
    pub dir: PathBuf,
    /// Its nodes, by index.
    pub nodes: Vec<Node>,
}

/// One node of a [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// The I of `node-I`.
    pub index: u32,
    /// Process id; absent when it does not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Peer id.
    pub peer: String,
    /// The home folder.
    pub home: PathBuf,
    /// The API socket.
    pub socket: PathBuf,
    /// What its process does now.
    pub state: Condition,
}

impl Network {
    /// The network in a folder at this moment.
    ///
    /// # Errors
    /// When the folder holds no network.
    pub fn of(dir: &Dir) -> Result<Self> {
        let state = dir.load()?;
        let nodes = state.nodes.iter().map(|node| Node::of(dir, node)).collect();
        Ok(Self { dir: dir.path().to_owned(), nodes })
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut text = format!("{:<5} {:<8} {:<8} {:<52} home\n", "node", "state", "pid", "peer");
        for node in &self.nodes {
            let pid = node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            let (index, state, peer, home) = (node.index, node.state.word(), &node.peer, node.home.display());
            // Writing to a string does not fail.
            let _ = writeln!(text, "{index:<5} {state:<8} {pid:<8} {peer:<52} {home}");
        }
        text
    }

    /// Lines to paste into a shell.
    pub fn things_to_try(&self) -> String {
        let binary = |name: &str| launch::find_binary(name).unwrap_or_else(|_| name.into());
        let (cli, testnet) = (binary("p2p-cli"), binary("p2p-testnet"));
        let (cli, testnet, dir) = (quoted(&cli), quoted(&testnet), quoted(&self.dir));
        let mut text = "Try:\n".to_owned();
        if let (Some(first), Some(other)) = (self.nodes.first(), self.nodes.get(3).or(self.nodes.last())) {
            let (first, other) = (quoted(&first.home), quoted(&other.home));
            // A file that is surely there, and large enough to have several blocks.
            let _ = writeln!(text, "  ADDRESS=$({cli} --home {first} put {testnet})");
            let _ = writeln!(text, "  {cli} --home {other} get \"$ADDRESS\" | cmp - {testnet} && echo same");
            let _ = writeln!(text, "  {cli} --home {other} stat \"$ADDRESS\"");
        }
        let _ = writeln!(text, "  {testnet} --dir {dir} ps");
        let _ = writeln!(text, "  {testnet} --dir {dir} down --delete");
        text
    }
}

impl Node {
    fn of(dir: &Dir, node: &NodeState) -> Self {
        let home = dir.home(node.index);
        let state = node.condition();
        let pid = |process: &ProcessId| (state != Condition::Exited).then_some(process.pid);
        Self {
            index: node.index,
            pid: node.process.as_ref().and_then(pid),
            peer: node.peer.clone(),
            socket: launch::socket(&home),
            home,
            state,
        }
    }
}

/// Prints a result on standard output. A reader that has gone away is no error.
///
/// # Errors
/// When it cannot be written.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Problem::new(Code::Other, format!("the result cannot be printed: {error}")))
        }
        _ => Ok(()),
    }
}

/// Tells people something on standard error, which may be closed.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A document as one line of JSON.
///
/// # Errors
/// Never for the documents of this crate.
pub fn json(document: &impl Serialize) -> Result<String> {
    serde_json::to_string(document)
        .map(|line| line + "\n")
        .map_err(|error| Problem::new(Code::Other, format!("the result is no JSON: {error}")))
}

/// A problem as it goes to standard error: a document, or what failed, its kind, and what to try.
pub fn problem(problem: &Problem, as_json: bool) -> String {
    if as_json && let Ok(line) = json(&ErrorDocument::from(problem)) {
        return line.trim_end().to_owned();
    }
    let hint = problem.hint.as_deref().unwrap_or("p2p-testnet --help");
    let (message, code) = (&problem.message, problem.code);
    format!("error: {message}\nexit:  {} ({})\nhint:  {hint}", code.exit(), code.word())
}

/// A path as a shell takes it.
pub(crate) fn quoted(path: &Path) -> Cow<'_, str> {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(state: Condition, pid: Option<u32>) -> Network {
        let node = Node { index: 0, pid, peer: "P".into(), home: "/d/node-0".into(), socket: "/d/s".into(), state };
        Network { dir: "/d".into(), nodes: vec![node] }
    }

    #[test]
    fn the_document_has_a_pid_only_while_there_is_a_process() {
        let running = json(&network(Condition::Running, Some(7))).expect("plain data");
        assert_eq!(
            running.trim(),
            r#"{"dir":"/d","nodes":[{"index":0,"pid":7,"peer":"P","home":"/d/node-0","socket":"/d/s","state":"running"}]}"#
        );
        let exited = json(&network(Condition::Exited, None)).expect("plain data");
        assert!(!exited.contains("pid") && exited.contains(r#""state":"exited""#), "{exited}");
    }

    #[test]
    fn a_path_survives_the_shell() {
        assert_eq!(quoted(Path::new("/srv/p2p-cli")), "/srv/p2p-cli");
        assert_eq!(quoted(Path::new("/my files/it's")), r"'/my files/it'\''s'");
    }

    #[test]
    fn a_problem_is_three_lines_or_one_document() {
        let sample = Problem::new(Code::Exists, "it is there").hint("another one");
        assert_eq!(problem(&sample, false), "error: it is there\nexit:  4 (exists)\nhint:  another one");
        assert_eq!(
            problem(&sample, true),
            r#"{"error":{"code":"exists","message":"it is there","hint":"another one","exit":4}}"#
        );
    }
}
