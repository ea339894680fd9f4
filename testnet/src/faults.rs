//! What is wrong with the nodes of a network on purpose: networks that fall apart, and nodes that serve badly.
//!
//! The faults of a node stand in its home, in the marker that lets it be hurt at all: a node that starts reads them there,
//! one that runs is told. So they outlive a restart, and can be given to a node that is down or stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use futures::future::join_all;
use p2p_api::client::Client;
use p2p_api::home::TESTNET_MARKER;
use p2p_api::types::Faults;
use p2p_api::{Code, Problem};
use tokio::time::timeout;

use crate::process::Condition;
use crate::state::{Dir, NodeState, State, failed};
use crate::{Result, launch};

/// How long a node may take to say that it has its faults.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Parts of a network that do not reach each other, by the indices of their nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups(Vec<BTreeSet<u32>>);

impl Groups {
    /// Groups of nodes; nobody may be in two of them.
    ///
    /// # Errors
    /// `usage` when there is nothing in a group, or a node in two.
    pub fn new(groups: impl IntoIterator<Item = impl IntoIterator<Item = u32>>) -> Result<Self> {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for group in groups {
            let mut members = BTreeSet::new();
            for index in group {
                if !seen.insert(index) {
                    return Err(Problem::new(Code::Usage, format!("node {index} is named twice")));
                }
                members.insert(index);
            }
            if members.is_empty() {
                return Err(Problem::new(Code::Usage, "a group without nodes"));
            }
            all.push(members);
        }
        Ok(Self(all))
    }

    /// The groups of a network: those who are not named are one more.
    fn of(&self, state: &State) -> Result<Vec<BTreeSet<u32>>> {
        for index in self.0.iter().flatten() {
            state.node(*index)?;
        }
        let named: BTreeSet<u32> = self.0.iter().flatten().copied().collect();
        let rest: BTreeSet<u32> =
            state.nodes.iter().map(|node| node.index).filter(|index| !named.contains(index)).collect();
        let groups: Vec<BTreeSet<u32>> =
            self.0.iter().cloned().chain([rest]).filter(|group| !group.is_empty()).collect();
        if groups.len() < 2 {
            return Err(Problem::new(Code::Usage, "all nodes are in one group: there is nothing to keep apart"));
        }
        Ok(groups)
    }
}

impl FromStr for Groups {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let index = |word: &str| word.parse().map_err(|_| format!("{word:?} is no index of a node"));
        let group = |text: &str| text.split(',').map(index).collect::<std::result::Result<Vec<u32>, String>>();
        let groups = text.split('/').map(group).collect::<std::result::Result<Vec<_>, String>>()?;
        Self::new(groups).map_err(|problem| problem.message)
    }
}

/// One way in which a node is to serve badly, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No other than are named with this one.
    None,
    /// It sends no more than so many bytes a second.
    Rate(u64),
    /// It serves wrong bytes.
    Corrupt,
    /// It answers nothing about objects.
    Stall,
    /// It looks for holders as if it knew no members.
    HideView,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(word: &str) -> std::result::Result<Self, String> {
        match word.split_once('=') {
            None if word == "none" => Ok(Self::None),
            None if word == "corrupt" => Ok(Self::Corrupt),
            None if word == "stall" => Ok(Self::Stall),
            None if word == "hide-view" => Ok(Self::HideView),
            Some(("rate", size)) => match size.parse::<ByteSize>() {
                Ok(ByteSize(0)) | Err(_) => Err(format!("{size:?} is no rate: write it like rate=20MiB, for a second")),
                Ok(ByteSize(rate)) => Ok(Self::Rate(rate)),
            },
            _ => Err("a fault is one of none, rate=SIZE, corrupt, stall, hide-view".to_owned()),
        }
    }
}

impl Fault {
    fn add_to(self, faults: &mut Faults) {
        match self {
            Self::None => {}
            Self::Rate(rate) => faults.rate = Some(rate),
            Self::Corrupt => faults.corrupt = true,
            Self::Stall => faults.stall = true,
            Self::HideView => faults.hide_view = true,
        }
    }
}

/// Keeps groups of nodes apart: nothing comes through from one to another, as if cables were cut. Nodes that are in no
/// group form one more. Earlier groups are forgotten; nodes that are added later reach everybody.
///
/// # Errors
/// `usage` when everybody is in one group, `not_found` for an unknown network or index; otherwise when a node does not say
/// that it has understood.
pub async fn partition(dir: &Dir, groups: &Groups) -> Result<()> {
    let (_lock, state) = dir.open().await?;
    let groups = groups.of(&state).map_err(|problem| problem.hint(dir.hint("ps")))?;
    let group_of = |index: u32| groups.iter().position(|group| group.contains(&index));
    set(dir, &state, |node, faults| {
        let others = state.nodes.iter().filter(|other| group_of(other.index) != group_of(node.index));
        Faults { blocked: others.map(|other| other.peer.clone()).collect(), ..faults }
    })
    .await
}

/// Lets a node serve badly in these ways and in no others. Whom it reaches stays as it is.
///
/// # Errors
/// `not_found` for an unknown network or index; otherwise when the node does not say that it has understood.
pub async fn hurt(dir: &Dir, index: u32, ways: &[Fault]) -> Result<()> {
    let (_lock, state) = dir.open().await?;
    state.node(index).map_err(|problem| problem.hint(dir.hint("ps")))?;
    set(dir, &state, |node, before| {
        if node.index != index {
            return before;
        }
        let mut faults = Faults { blocked: before.blocked, ..Faults::default() };
        ways.iter().for_each(|way| way.add_to(&mut faults));
        faults
    })
    .await
}

/// Takes every fault from every node.
///
/// # Errors
/// `not_found` when there is no network; otherwise when a node does not say that it has understood.
pub async fn heal(dir: &Dir) -> Result<()> {
    let (_lock, state) = dir.open().await?;
    set(dir, &state, |_, _| Faults::default()).await
}

/// Gives nodes other faults, and tells those that run and have others now. The caller holds the folder's lock.
async fn set(dir: &Dir, state: &State, wanted: impl Fn(&NodeState, Faults) -> Faults) -> Result<()> {
    let mut told = Vec::new();
    for node in &state.nodes {
        let home = dir.home(node.index);
        let before = of_home(&home)?;
        let faults = wanted(node, before.clone());
        if faults != before {
            write(&home, &faults)?;
        }
        // Also who should have them already: an earlier command may not have come to its end.
        if node.condition() == Condition::Running {
            told.push(tell(dir, node, faults));
        }
    }
    join_all(told).await.into_iter().collect()
}

/// Tells a node that was stopped what it has missed.
pub(crate) async fn tell_again(dir: &Dir, node: &NodeState) -> Result<()> {
    tell(dir, node, of_home(&dir.home(node.index))?).await
}

async fn tell(dir: &Dir, node: &NodeState, faults: Faults) -> Result<()> {
    let client = Client::new(launch::socket(&dir.home(node.index)));
    let silent = |_| Problem::new(Code::TimedOut, format!("no answer for {} s", ANSWER_LIMIT.as_secs()));
    match timeout(ANSWER_LIMIT, client.set_faults(&faults)).await.map_err(silent).and_then(|answer| answer) {
        // A node that an earlier p2p-testnet has started cannot be hurt, and need not be healed.
        Err(problem) if problem.code == Code::UnsupportedVersion && faults == Faults::default() => Ok(()),
        // It reads them when it starts again.
        Err(problem) if problem.code == Code::Unreachable && node.condition() == Condition::Exited => Ok(()),
        Err(problem) => {
            Err(Problem { message: format!("node {}: its faults: {}", node.index, problem.message), ..problem })
        }
        Ok(_) => Ok(()),
    }
}

/// Makes a home one of a test network, with the faults that it has already.
pub(crate) fn mark(home: &Path) -> Result<()> {
    write(home, &of_home(home)?)
}

/// The faults that a node should have.
///
/// # Errors
/// When they cannot be read.
pub fn of_home(home: &Path) -> Result<Faults> {
    let path = home.join(TESTNET_MARKER);
    let unreadable = |error: io::Error| failed("a node's faults cannot be read", &path, &error);
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Faults::default()),
        Err(error) => Err(unreadable(error)),
        Ok(bytes) if bytes.trim_ascii().is_empty() => Ok(Faults::default()),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| unreadable(error.into())),
    }
}

fn write(home: &Path, faults: &Faults) -> Result<()> {
    let path = home.join(TESTNET_MARKER);
    let next = home.join(format!("{TESTNET_MARKER}.next"));
    let written = serde_json::to_vec(faults).map_err(io::Error::from).and_then(|text| {
        fs::write(&next, text)?;
        fs::rename(&next, &path)
    });
    written.map_err(|error| failed("a node's faults cannot be written", &path, &error))
}

/// For every node those that it should be able to reach: neither is cut off from the other.
pub(crate) fn within_reach(dir: &Dir, state: &State) -> Result<BTreeMap<u32, BTreeSet<u32>>> {
    let mut blocked = BTreeMap::new();
    for node in &state.nodes {
        blocked.insert(node.index, of_home(&dir.home(node.index))?.blocked);
    }
    let is_cut = |from: &NodeState, to: &NodeState| blocked[&from.index].contains(&to.peer);
    let reach = |node: &NodeState| {
        let others = state.nodes.iter().filter(|other| !is_cut(node, other) && !is_cut(other, node));
        others.map(|other| other.index).collect()
    };
    Ok(state.nodes.iter().map(|node| (node.index, reach(node))).collect())
}

/// Faults in words, with the indices of peers where they are known; empty where there is none.
pub(crate) fn in_words(faults: &Faults, index_of: impl Fn(&str) -> Option<u32>) -> String {
    let mut parts = Vec::new();
    if !faults.blocked.is_empty() {
        let mut indices: Vec<u32> = faults.blocked.iter().filter_map(|peer| index_of(peer)).collect();
        indices.sort_unstable();
        let mut text = "is cut off from".to_owned();
        for (i, index) in indices.iter().enumerate() {
            // Writing to a string does not fail.
            let _ = write!(text, "{}{index}", if i == 0 { " " } else { ", " });
        }
        match faults.blocked.len() - indices.len() {
            0 => {}
            strangers => drop(write!(text, " and {strangers} of no node here")),
        }
        parts.push(text);
    }
    if let Some(rate) = faults.rate {
        parts.push(format!("sends at most {}/s", ByteSize(rate)));
    }
    let flags = [
        (faults.corrupt, "serves wrong bytes"),
        (faults.stall, "answers nothing about objects"),
        (faults.hide_view, "looks for holders as if it knew no members"),
    ];
    parts.extend(flags.iter().filter(|(set, _)| *set).map(|(_, text)| (*text).to_owned()));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(text: &str) -> std::result::Result<Groups, String> {
        text.parse()
    }

    fn network(nodes: u32) -> State {
        let node = |index| NodeState { index, peer: format!("P{index}"), port: 1, process: None, detached: false };
        State { version: 1, wanted: nodes, nodes: (0..nodes).map(node).collect() }
    }

    #[test]
    fn groups_are_read_as_they_are_written() {
        assert_eq!(groups("0,1/2,3,4"), Ok(Groups(vec![[0, 1].into(), [2, 3, 4].into()])));
        assert_eq!(groups("7"), Ok(Groups(vec![[7].into()])));
        for (wrong, named) in
            [("", "\"\""), ("0,1/", "\"\""), ("0//1", "\"\""), ("0,a/1", "a"), ("0,1/1", "1"), ("0,0", "0")]
        {
            let error = groups(wrong).expect_err(wrong);
            assert!(error.contains(named), "{wrong}: {error}");
        }
    }

    #[test]
    fn who_is_not_named_is_in_a_group_of_the_rest() {
        let of = |text: &str| groups(text).expect("well formed").of(&network(5));
        assert_eq!(of("0,1"), Ok(vec![[0, 1].into(), [2, 3, 4].into()]));
        assert_eq!(of("3/4"), Ok(vec![[3].into(), [4].into(), [0, 1, 2].into()]));
        assert_eq!(of("0,1,2,3,4").expect_err("one group").code, Code::Usage);
        assert_eq!(of("0/5").expect_err("five nodes").code, Code::NotFound);
    }

    #[test]
    fn faults_are_read_as_they_are_written() {
        assert_eq!("rate=20MiB".parse(), Ok(Fault::Rate(20 << 20)));
        assert_eq!("corrupt".parse(), Ok(Fault::Corrupt));
        for wrong in ["", "rate", "rate=", "rate=0", "rate=fast", "corrupt=1", "Stall", "hide_view"] {
            wrong.parse::<Fault>().expect_err(wrong);
        }
    }

    #[test]
    fn faults_are_said_in_words() {
        let index_of = |peer: &str| peer.strip_prefix('P')?.parse().ok();
        assert_eq!(in_words(&Faults::default(), index_of), "");
        let faults = Faults {
            blocked: vec!["P10".into(), "P2".into(), "?".into()],
            rate: Some(20 << 20),
            corrupt: true,
            stall: true,
            hide_view: true,
        };
        assert_eq!(
            in_words(&faults, index_of),
            "is cut off from 2, 10 and 1 of no node here; sends at most 20.0 MiB/s; serves wrong bytes; \
             answers nothing about objects; looks for holders as if it knew no members"
        );
    }
}
