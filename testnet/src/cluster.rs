//! A network of nodes in one folder: what can be done to it. How nodes come up is in `cluster/start.rs`.

mod start;

use std::ffi::OsString;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use futures::future::join_all;
use p2p_api::client::Client;
use p2p_api::{Code, Problem};
use rustix::process::Signal;

use crate::faults::{Fault, Groups};
use crate::launch::{self, Launcher, Running};
use crate::ports::Reservation;
use crate::process::{Condition, End};
use crate::state::{Dir, State};
use crate::{Result, faults, report};

/// How long a node may take to end by itself before it is killed.
const END_LIMIT: Duration = Duration::from_secs(15);

/// How long a dropped network waits for the processes it has killed, so that its folder can be removed.
const DROP_LIMIT: Duration = Duration::from_secs(2);

/// The nodes of a network when nobody says how many.
const NODES_DEFAULT: u32 = 5;

/// The most nodes of one network.
pub const NODES_MAX: u32 = 1_000;

/// Who is responsible for the processes that are started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They end when the [`Cluster`] is dropped or this process ends, however it ends.
    #[default]
    Held,
    /// They live on from the moment that all those started by a call are ready.
    Detached,
}

/// What a network is started with.
#[derive(Clone, Debug, Default)]
pub struct ClusterConfig {
    /// The folder. A network that it holds already is started again as it was.
    pub dir: PathBuf,
    /// Nodes wanted. Of an existing network all are started, and more are added if it has fewer.
    pub nodes: u32,
    /// The p2p-node to run; several are run in turn, node by node, so that versions are mixed; none looks where the commands look.
    pub node_bins: Vec<PathBuf>,
    /// More keys for the `config.toml` of every node that is made.
    pub config: toml::Table,
    /// More arguments for every `p2p-node run`.
    pub extra_args: Vec<OsString>,
    /// Who ends the processes.
    pub mode: Mode,
    /// Where the search for free ports starts; None derives it from the folder's name.
    pub seed: Option<u64>,
    /// Start also more nodes than this machine carries.
    pub force: bool,
    /// Nodes as users have them: they cannot be made to serve badly, and are measured without what that costs.
    pub plain: bool,
}

/// A network of nodes. Dropping it kills the nodes that it holds.
#[derive(Debug)]
pub struct Cluster {
    dir: Dir,
    launcher: Launcher,
    config: toml::Table,
    mode: Mode,
    seed: u64,
    force: bool,
    /// Processes started here that are not to live on.
    held: Vec<(u32, Running)>,
    /// The ports of the nodes that were made or started here, so that one that is down finds its own still free.
    reserved: Vec<Reservation>,
}

/// What `up` found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// Nodes that were started.
    pub started: usize,
    /// Nodes of an earlier start that are stopped by a signal, and were left so.
    pub stopped: usize,
}

impl Cluster {
    /// Starts a network and returns once each of its nodes is ready and sees every other running one.
    ///
    /// # Errors
    /// When a node does not come up or does not meet the others; what it holds is killed.
    pub async fn up(config: ClusterConfig) -> Result<Self> {
        let nodes = config.nodes;
        let mut cluster = Self::new(config)?;
        cluster.raise(Some(nodes)).await?;
        Ok(cluster)
    }

    /// A network by its folder, which need not exist. Nothing is started.
    ///
    /// # Errors
    /// When there is no p2p-node to run.
    pub fn new(config: ClusterConfig) -> Result<Self> {
        let dir = Dir::new(&config.dir)?;
        let node_bins = match config.node_bins.is_empty() {
            true => vec![launch::find_node()?],
            false => config.node_bins,
        };
        let seed = config.seed.unwrap_or_else(|| seed_of(&dir));
        let launcher = Launcher { node_bins, extra_args: config.extra_args, plain: config.plain };
        let ClusterConfig { config, mode, force, .. } = config;
        Ok(Self { dir, launcher, config, mode, seed, force, held: Vec::new(), reserved: Vec::new() })
    }

    /// The folder.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// A client of node I. Its calls end with `unreachable` while there is no such node or it is down.
    pub fn client(&self, index: u32) -> Client {
        Client::new(launch::socket(&self.dir.home(index)))
    }

    /// Every node with its state at this moment.
    ///
    /// # Errors
    /// When the folder holds no network.
    pub fn nodes(&self) -> Result<report::Network> {
        report::Network::of(&self.dir)
    }

    /// Kills a node with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// `not_found` for an unknown index, `conflict` when it does not run.
    pub async fn kill(&mut self, index: u32) -> Result<()> {
        force(&self.dir, index, Change::Kill).await?;
        self.reap();
        Ok(())
    }

    /// Stops a node with SIGSTOP: its connections stay, and it is silent.
    ///
    /// # Errors
    /// `not_found` for an unknown index, `conflict` when it does not run or is stopped.
    pub async fn stop(&self, index: u32) -> Result<()> {
        force(&self.dir, index, Change::Stop).await
    }

    /// Lets a stopped node go on.
    ///
    /// # Errors
    /// `not_found` for an unknown index, `conflict` when it is not stopped.
    pub async fn cont(&self, index: u32) -> Result<()> {
        force(&self.dir, index, Change::Continue).await
    }

    /// Keeps groups of nodes apart, as by cut cables; see [`faults::partition`].
    ///
    /// # Errors
    /// As that.
    pub async fn partition(&self, groups: impl IntoIterator<Item = impl IntoIterator<Item = u32>>) -> Result<()> {
        faults::partition(&self.dir, &Groups::new(groups)?).await
    }

    /// Lets a node serve badly in these ways and in no others; see [`faults::hurt`].
    ///
    /// # Errors
    /// As that.
    pub async fn hurt(&self, index: u32, ways: &[Fault]) -> Result<()> {
        faults::hurt(&self.dir, index, ways).await
    }

    /// Takes every fault from every node. That they have met again is another matter: see [`Self::until_met`].
    ///
    /// # Errors
    /// As [`faults::heal`].
    pub async fn heal(&self) -> Result<()> {
        faults::heal(&self.dir).await
    }

    /// Ends every node of the network, also those that others started for it.
    ///
    /// # Errors
    /// `not_found` when there is no network; otherwise when a process cannot be ended.
    pub async fn down(&mut self) -> Result<Vec<(u32, End)>> {
        let ends = down(&self.dir, false).await?;
        self.reap();
        Ok(ends)
    }

    /// The held nodes that have ended since the last call, each with how it ended.
    pub fn reap(&mut self) -> Vec<(u32, std::process::ExitStatus)> {
        let mut ended = Vec::new();
        self.held.retain_mut(|(index, running)| match running.ended() {
            Some(status) => {
                ended.push((*index, status));
                false
            }
            None => true,
        });
        ended
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, running) in &mut self.held {
            running.kill();
        }
        let deadline = Instant::now() + DROP_LIMIT;
        while !self.held.is_empty() && Instant::now() < deadline {
            self.reap();
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A change of a process that it cannot refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

impl Change {
    fn signal(self) -> Signal {
        match self {
            Change::Kill => Signal::KILL,
            Change::Stop => Signal::STOP,
            Change::Continue => Signal::CONT,
        }
    }

    /// What the process does after this change to one that does `now`; None where it makes no sense.
    fn target(self, now: Condition) -> Option<Condition> {
        match (self, now) {
            (Change::Kill, Condition::Running | Condition::Stopped) => Some(Condition::Exited),
            (Change::Stop, Condition::Running) => Some(Condition::Stopped),
            (Change::Continue, Condition::Stopped) => Some(Condition::Running),
            (Change::Kill, Condition::Exited)
            | (Change::Stop, Condition::Stopped | Condition::Exited)
            | (Change::Continue, Condition::Running | Condition::Exited) => None,
        }
    }
}

/// Changes a node's process and waits until it has changed.
///
/// # Errors
/// `not_found` for an unknown network or index, `conflict` when the node is not in a state for it.
pub async fn force(dir: &Dir, index: u32, change: Change) -> Result<()> {
    let (_lock, state) = dir.open().await?;
    let node = state.node(index).map_err(|problem| problem.hint(dir.hint("ps")))?;
    let now = node.condition();
    let (Some(process), Some(target)) = (&node.process, change.target(now)) else {
        let message = format!("node {index} is {} already", if now == Condition::Exited { "down" } else { now.word() });
        let instead = if now == Condition::Exited { format!("restart {index}") } else { "ps".to_owned() };
        return Err(Problem::new(Code::Conflict, message).hint(dir.hint(&instead)));
    };
    process.force(change.signal(), target).await?;
    if target == Condition::Running {
        faults::tell_again(dir, node).await?;
    }
    Ok(())
}

/// Ends every node of a network, and with `delete` removes its folder.
///
/// # Errors
/// `not_found` when there is no network; otherwise when a process cannot be ended or the folder not removed.
pub async fn down(dir: &Dir, delete: bool) -> Result<Vec<(u32, End)>> {
    let (lock, mut state) = dir.open().await?;
    let ends = end_all(&mut state).await?;
    lock.save(&state)?;
    if delete {
        dir.delete(&lock)?;
    }
    Ok(ends)
}

async fn end_all(state: &mut State) -> Result<Vec<(u32, End)>> {
    let ends = state.nodes.iter().filter_map(|node| {
        let process = node.process.clone()?;
        Some(async move { process.end(END_LIMIT).await.map(|end| (node.index, end)) })
    });
    let ends: Vec<(u32, End)> = join_all(ends).await.into_iter().collect::<Result<_>>()?;
    for node in &mut state.nodes {
        node.process = None;
    }
    Ok(ends)
}

/// Two networks on one machine seldom look for ports in the same place then.
fn seed_of(dir: &Dir) -> u64 {
    let hash = blake3::hash(dir.path().as_os_str().as_encoded_bytes());
    hash.as_bytes()[..8].iter().fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}
