//! What must hold after a cycle, and what is told when it does not.

use std::path::PathBuf;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use p2p_api::client::{Client, GetOptions};
use p2p_api::{Code, Problem};
use serde::Serialize;

use super::plan::{File, Files, Plan};
use crate::process::Condition;
use crate::{Cluster, Result};

/// Longest that a file may take to come whole from a node that is healthy, among healthy ones.
const GET_LIMIT: Duration = Duration::from_secs(60);

/// Longest wait for what a node answers about itself when a promise was broken.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Files that are looked at at once.
const AT_ONCE: usize = 4;

/// Older files that each cycle looks at again.
const OLDER: usize = 6;

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// This cycle's files, and some older ones.
    Recent,
    /// Every file of the epoch.
    All,
}

/// A promise was broken, by what was seen at the moment.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    /// Which, and how.
    pub(super) what: String,
    /// The file, where it is about one.
    pub(super) file: Option<File>,
}

impl Broken {
    pub(super) fn of(file: &File, what: impl Into<String>) -> Self {
        Self { what: what.into(), file: Some(file.clone()) }
    }
}

/// A broken promise, with the state of the network it was broken in.
#[derive(Clone, Debug, Serialize)]
pub struct Breach {
    /// In which cycle.
    pub cycle: u32,
    /// Which, and how.
    pub what: String,
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<File>,
    /// Every node, and what it says of itself and of the file.
    nodes: Vec<Holder>,
    /// What is left.
    pub dir: PathBuf,
}

/// One node at that moment.
#[derive(Clone, Debug, Serialize)]
struct Holder {
    index: u32,
    peer: String,
    state: Condition,
    /// What it says of itself.
    status: String,
    /// What it says of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    stat: Option<String>,
}

impl Breach {
    /// Looks at the network in which it happened.
    pub(super) async fn look(net: &Cluster, cycle: u32, broken: Broken) -> Self {
        let mut nodes = Vec::new();
        for node in net.nodes().map(|network| network.nodes).unwrap_or_default() {
            let client = net.client(node.index);
            let stat = match &broken.file {
                Some(file) => Some(said(client.stat(&file.address, Some(ANSWER_LIMIT / 2))).await),
                None => None,
            };
            let status = said(client.status()).await;
            nodes.push(Holder { index: node.index, peer: node.peer, state: node.state, status, stat });
        }
        let dir = net.dir().path().to_owned();
        Self { cycle, what: broken.what, file: broken.file, nodes, dir }
    }

    /// For people.
    pub(super) fn text(&self, seed: u64) -> String {
        let mut text = format!("BROKEN   in cycle {} of seed {seed}: {}\n", self.cycle, self.what);
        if let Some(File { address, len, cycle, node, acknowledged }) = &self.file {
            let known = if *acknowledged { "acknowledged" } else { "not acknowledged" };
            text.push_str(&format!("file     {address}, {len} bytes, put in cycle {cycle} on node {node}, {known}\n"));
        }
        for Holder { index, peer, state, status, stat } in &self.nodes {
            text.push_str(&format!("node {index:<3} {} {peer} {status}\n", state.word()));
            if let Some(stat) = stat {
                text.push_str(&format!("         of the file: {stat}\n"));
            }
        }
        text.push_str(&format!("left in  {}\n", self.dir.display()));
        text
    }
}

/// An answer as it is, or why there is none.
async fn said<T: Serialize>(call: impl Future<Output = Result<T>>) -> String {
    match tokio::time::timeout(ANSWER_LIMIT, call).await {
        Err(_elapsed) => format!("no answer for {} s", ANSWER_LIMIT.as_secs()),
        Ok(Err(problem)) => format!("{}: {}", problem.code.word(), problem.message),
        Ok(Ok(answer)) => serde_json::to_string(&answer).unwrap_or_else(|error| error.to_string()),
    }
}

/// Whether every file that is owed is whole on every node; how often a file was looked at on a node.
pub(super) async fn everywhere(
    net: &Cluster,
    nodes: u32,
    files: &Files,
    look: Look,
    plan: &Plan,
) -> std::result::Result<u32, Broken> {
    let owed = match look {
        Look::Recent => files.owed(plan.cycle, OLDER, plan.dice),
        Look::All => files.all_owed(),
    };
    let checks = owed.iter().flat_map(|file| (0..nodes).map(move |node| (*file, node)));
    let checks = checks.map(|(file, node)| whole(net.client(node), node, file)).collect::<Vec<_>>();
    let count = checks.len() as u32;
    let mut checks = stream::iter(checks).buffer_unordered(AT_ONCE);
    while let Some(checked) = checks.next().await {
        checked?;
    }
    Ok(count)
}

/// Whether a node brings a file whole and right, in time.
async fn whole(client: Client, node: u32, file: &File) -> std::result::Result<(), Broken> {
    let broken = |what: String| Broken::of(file, format!("node {node}: {what}"));
    match tokio::time::timeout(GET_LIMIT, hash(&client, &file.address)).await {
        Err(_elapsed) => Err(broken(format!("a get hangs: not done after {} s", GET_LIMIT.as_secs()))),
        Ok(Err(problem)) => {
            Err(broken(format!("acknowledged, and a get ends with {}: {}", problem.code.word(), problem.message)))
        }
        Ok(Ok(hash)) if hash != file.address => Err(broken(format!("wrong bytes, of BLAKE3 {hash}"))),
        Ok(Ok(_)) => Ok(()),
    }
}

/// The BLAKE3 of what a node brings, which leaves nothing at the node.
async fn hash(client: &Client, address: &str) -> Result<String> {
    let options = GetOptions { no_cache: true, ..GetOptions::default() };
    let mut content = client.get(address, options).await?;
    let mut hasher = blake3::Hasher::new();
    let mut left = content.len;
    while let Some(part) = content.next().await {
        let part = part.map_err(|error| {
            Problem::new(Code::Partial, format!("the node broke off {left} bytes before the end: {error}"))
        })?;
        left = left.saturating_sub(part.len() as u64);
        hasher.update(&part);
    }
    Ok(hasher.finalize().to_hex().to_string())
}
