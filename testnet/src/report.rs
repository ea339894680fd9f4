//! What the commands print: the documents, and the same for people. Decides nothing.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use p2p_api::text::shell_word;
use p2p_api::types::Faults;
use p2p_api::{Code, Problem};
use serde::Serialize;

use crate::process::{Condition, ProcessId};
use crate::state::{Dir, NodeState};
use crate::{Result, faults, launch};

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
    /// What is wrong with it on purpose; absent when nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<Faults>,
}

impl Network {
    /// The network in a folder at this moment.
    ///
    /// # Errors
    /// When the folder holds no network.
    pub fn of(dir: &Dir) -> Result<Self> {
        let state = dir.load()?;
        let nodes = state.nodes.iter().map(|node| Node::of(dir, node)).collect::<Result<_>>()?;
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
        let index_of = |peer: &str| self.nodes.iter().find(|node| node.peer == peer).map(|node| node.index);
        for node in &self.nodes {
            if let Some(faults) = &node.faults {
                let _ = writeln!(text, "node {} {}", node.index, faults::in_words(faults, index_of));
            }
        }
        text
    }

    /// Lines to paste into a shell.
    pub fn things_to_try(&self) -> String {
        let binary = |name: &str| launch::find_binary(name).unwrap_or_else(|_| name.into());
        let (cli, testnet) = (binary("p2p-cli"), binary("p2p-testnet"));
        let (cli, testnet, dir) = (shell_word(&cli), shell_word(&testnet), shell_word(&self.dir));
        let mut text = "Try:\n".to_owned();
        if let (Some(first), Some(other)) = (self.nodes.first(), self.nodes.get(3).or(self.nodes.last())) {
            let (first, other) = (shell_word(&first.home), shell_word(&other.home));
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
    fn of(dir: &Dir, node: &NodeState) -> Result<Self> {
        let home = dir.home(node.index);
        let state = node.condition();
        let pid = |process: &ProcessId| (state != Condition::Exited).then_some(process.pid);
        let faults = faults::of_home(&home)?;
        Ok(Self {
            index: node.index,
            pid: node.process.as_ref().and_then(pid),
            peer: node.peer.clone(),
            socket: launch::socket(&home),
            home,
            state,
            faults: (faults != Faults::default()).then_some(faults),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn network(state: Condition, pid: Option<u32>) -> Network {
        let (home, socket) = ("/d/node-0".into(), "/d/s".into());
        let node = Node { index: 0, pid, peer: "P".into(), home, socket, state, faults: None };
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
    fn faults_are_shown_where_there_are_any() {
        let mut network = network(Condition::Running, Some(7));
        assert_eq!(network.table().lines().count(), 2);
        network.nodes[0].faults = Some(Faults { corrupt: true, ..Faults::default() });
        assert!(network.table().ends_with("\nnode 0 serves wrong bytes\n"), "{}", network.table());
        let document = json(&network).expect("plain data");
        assert!(document.contains(r#""faults":{"blocked":[],"rate":null,"corrupt":true"#), "{document}");
    }
}
