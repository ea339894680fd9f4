//! `bench members`: how soon everybody knows who is here, who is wrongly taken for down, and what knowing costs.
//!
//! Every time is that of the nodes themselves: each says when it has seen an event, and all of them and this program go by
//! the clock of one machine, so that nothing is polled. [`watch`] hears what all of them see.
//!
//! [`lost`] kills and stops single nodes, [`whole`] cuts the network and restarts all of it, [`said`] lets nodes say something,
//! [`idle`] measures rest, [`hops`] gets of content by those who know everybody, [`starved`] a machine without time to spare,
//! [`serf`] another program.

mod hops;
mod idle;
mod lost;
mod said;
mod serf;
mod starved;
pub(super) mod watch;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use p2p_api::types::{MemberEvent, MemberEventKind};
use p2p_api::{Code, Problem};
use tokio::time::timeout;

use super::net::Net;
use super::table::{Unit, quantile};
use super::{Common, Report};
use crate::Result;
use crate::process::{Condition, ProcessId};
use crate::workload::Dice;

use watch::Watches;

/// Nodes unless told otherwise; of what is measured on content, [`hops::NODES`].
const NODES: u32 = 48;

/// Fewest nodes: three besides the one that something happens to can say that it is down.
pub const NODES_MIN: u32 = 4;

/// Most times that anything is done.
pub const TIMES_MAX: u32 = 10_000;

/// Longest time of all that is done once.
const RUN_TIME_MAX: Duration = Duration::from_secs(3600);

/// Longest time, on average, in which something happens to a node and is over.
const TURN_TIME_MAX: Duration = Duration::from_secs(60);

/// What each node may keep, in bytes: nearly nothing is put.
const STORAGE_MAX: u64 = 1 << 30;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Memory, processor, traffic and connections at rest.
    Idle,
    /// Nodes that are killed.
    Kills,
    /// Nodes that stand still for a while.
    Stalls,
    /// Nodes that stand still for good.
    Silent,
    /// All killed, and all started again.
    Restart,
    /// Tags, leaves, joins and restarts.
    Said,
    /// Two halves that do not reach each other.
    Apart,
    /// Content found by those who know everybody.
    Hops,
    /// No time to spare.
    Starved,
    /// Another program.
    Serf,
}

impl Group {
    /// All, in the order in which they are measured.
    pub const ALL: [Group; 10] = [
        Group::Idle,
        Group::Kills,
        Group::Stalls,
        Group::Silent,
        Group::Restart,
        Group::Said,
        Group::Apart,
        Group::Hops,
        Group::Starved,
        Group::Serf,
    ];

    /// The name that `--only` takes.
    pub fn word(self) -> &'static str {
        match self {
            Group::Idle => "idle",
            Group::Kills => "kills",
            Group::Stalls => "stalls",
            Group::Silent => "silent",
            Group::Restart => "restart",
            Group::Said => "said",
            Group::Apart => "apart",
            Group::Hops => "hops",
            Group::Starved => "starved",
            Group::Serf => "serf",
        }
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let names = Group::ALL.map(Group::word).join(", ");
        Group::ALL.into_iter().find(|group| group.word() == text).ok_or_else(|| format!("one of {names}"))
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder to measure in; None takes a temporary one.
    pub dir: Option<PathBuf>,
    /// Nodes; None takes what each group is usually measured with.
    pub nodes: Option<u32>,
    /// What to measure; empty means all.
    pub only: Vec<Group>,
    /// Nodes to kill, one after the other.
    pub kills: u32,
    /// Nodes to stop for two seconds, one after the other.
    pub stalls: u32,
    /// Whom it happens to; None takes another one every time.
    pub seed: Option<u64>,
    /// The rest, of which only tests take less.
    pub extent: Extent,
    /// The p2p-node to run; None looks where the commands look.
    pub node_bin: Option<PathBuf>,
}

impl Options {
    /// Longest time of a run.
    fn limit(&self) -> Duration {
        let Extent { silents, repeats, apart, rest, starve } = self.extent;
        RUN_TIME_MAX + apart + 2 * rest + starve + TURN_TIME_MAX * (self.kills + self.stalls + silents + 4 * repeats)
    }
}

/// How long and how often things are done. With less than the default the figures mean nothing.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Nodes to stop for good.
    pub silents: u32,
    /// How often each thing is said, and on how many networks gets are measured.
    pub repeats: u32,
    /// How long two halves are kept apart.
    pub apart: Duration,
    /// How long nodes rest before they are measured, and while they are.
    pub rest: Duration,
    /// How long there is no time to spare.
    pub starve: Duration,
}

impl Default for Extent {
    fn default() -> Self {
        let (minute, repeats) = (Duration::from_secs(60), 5);
        Self { silents: 10, repeats, apart: 2 * minute, rest: minute, starve: 5 * minute }
    }
}

/// Measures; `say` gets a line for every figure as it comes.
///
/// # Errors
/// When something cannot be measured that should be: what fails is no slow figure.
pub async fn run(options: Options, say: fn(&str)) -> Result<Report> {
    check(&options)?;
    let groups = super::chosen(&options.only, &Group::ALL);
    let common = Common { dir: options.dir.clone(), seed: options.seed, node_bin: options.node_bin.clone() };
    let mut bench = super::Bench::with(common, say, |_| Ok(Own { options, groups }))?;
    // A node that stops to answer ends the run; its processes go with it.
    let limit = bench.own.options.limit();
    let late = |_| Problem::new(Code::TimedOut, format!("not done after {} s", limit.as_secs()));
    timeout(limit, measure(&mut bench)).await.map_err(late)??;
    Ok(bench.report())
}

async fn measure(bench: &mut Bench) -> Result<()> {
    one_network(bench).await?;
    if bench.wants(Group::Apart) {
        whole::apart(bench).await?;
    }
    if bench.wants(Group::Hops) {
        hops::measure(bench).await?;
    }
    if bench.wants(Group::Starved) {
        starved::measure(bench).await?;
    }
    if bench.wants(Group::Serf) {
        serf::measure(bench).await?;
    }
    Ok(())
}

/// What is measured on one network, one after the other; rest first, as long as nothing has happened.
async fn one_network(bench: &mut Bench) -> Result<()> {
    let shared = [Group::Idle, Group::Kills, Group::Stalls, Group::Silent, Group::Restart, Group::Said];
    if !shared.into_iter().any(|group| bench.wants(group)) {
        return Ok(());
    }
    let mut world = World::up(bench, bench.nodes(NODES), true).await?;
    for group in shared.into_iter().filter(|group| bench.own.groups.contains(group)).collect::<Vec<_>>() {
        world.watches.forget();
        match group {
            Group::Idle => idle::measure(bench, &world).await?,
            Group::Kills => lost::kills(bench, &mut world).await?,
            Group::Stalls => lost::stalls(bench, &mut world).await?,
            Group::Silent => lost::silent(bench, &mut world).await?,
            Group::Restart => whole::restart(bench, &mut world).await?,
            Group::Said => said::measure(bench, &mut world).await?,
            Group::Apart | Group::Hops | Group::Starved | Group::Serf => {}
        }
    }
    world.down().await
}

fn check(options: &Options) -> Result<()> {
    let usage = |message: String| Err(Problem::new(Code::Usage, message));
    if let Some(few) = options.nodes.filter(|nodes| *nodes < NODES_MIN) {
        return usage(format!("at least {NODES_MIN} nodes, not {few}"));
    }
    let Extent { silents, repeats, .. } = options.extent;
    for (name, times) in
        [("kills", options.kills), ("stalls", options.stalls), ("silents", silents), ("repeats", repeats)]
    {
        if !(1..=TIMES_MAX).contains(&times) {
            return usage(format!("{name} are 1 to {TIMES_MAX}, not {times}"));
        }
    }
    Ok(())
}

type Bench = super::Bench<Own>;

/// What only this bench needs.
struct Own {
    options: Options,
    groups: BTreeSet<Group>,
}

impl Bench {
    fn wants(&self, group: Group) -> bool {
        self.own.groups.contains(&group)
    }

    /// Nodes that were asked for, or else what is usual.
    fn nodes(&self, usual: u32) -> u32 {
        self.own.options.nodes.unwrap_or(usual)
    }

    /// A network in a folder of its own.
    async fn net(&self, nodes: u32, plain: bool) -> Result<Net> {
        (self.say)(&format!("starting {nodes} nodes"));
        Net::up(self.dir(), self.programs.clone(), nodes, STORAGE_MAX, plain).await
    }

    /// Takes seconds of which 99 of 100 were promised to be at most so many.
    fn promise_p99(&mut self, name: &str, seconds: &[f64], bound: f64) {
        if let (Some(p50), Some(p99)) = (quantile(seconds, 0.5), quantile(seconds, 0.99)) {
            self.add(&format!("{name}, p50"), Unit::S, p50);
            self.promise(&format!("{name}, p99"), Unit::S, p99, bound);
        }
    }

    fn report(self) -> Report {
        let groups = self.own.groups.iter().map(|group| group.word()).collect();
        let Options { kills, stalls, .. } = self.own.options;
        let asked = [("nodes", self.nodes(NODES).into()), ("kills", kills.into()), ("stalls", stalls.into())];
        self.finish(groups, asked)
    }
}

/// A network that is watched.
struct World {
    net: Net,
    watches: Watches,
    peers: BTreeMap<u32, String>,
    dice: Dice,
}

impl World {
    async fn up(bench: &Bench, nodes: u32, plain: bool) -> Result<Self> {
        let net = bench.net(nodes, plain).await?;
        let mut world =
            Self { net, watches: Watches::default(), peers: BTreeMap::new(), dice: Dice::of_part(bench.seed, 0) };
        world.look_around()?;
        Ok(world)
    }

    /// Watches by those who are new.
    fn look_around(&mut self) -> Result<()> {
        for node in self.net.cluster.nodes()?.nodes {
            if self.peers.insert(node.index, node.peer).is_none() {
                self.watches.add(node.index, self.net.client(node.index));
            }
        }
        Ok(())
    }

    /// All nodes that run.
    fn running(&self) -> Result<Vec<u32>> {
        let nodes = self.net.cluster.nodes()?.nodes;
        Ok(nodes.iter().filter(|node| node.state == Condition::Running).map(|node| node.index).collect())
    }

    /// One that runs, and all others that do.
    fn any(&mut self) -> Result<(u32, BTreeSet<u32>)> {
        let running = self.running()?;
        let node = *self.dice.choose(&running);
        Ok((node, running.into_iter().filter(|other| *other != node).collect()))
    }

    /// When a node's process has started.
    fn started(&self, node: u32) -> Result<SystemTime> {
        Ok(self.process(node)?.started_at())
    }

    fn process(&self, node: u32) -> Result<ProcessId> {
        let state = self.net.cluster.dir().load()?;
        let process = state.node(node)?.process.clone();
        process.ok_or_else(|| Problem::new(Code::Conflict, format!("node {node} does not run")))
    }

    /// How long it took each of some nodes to see something of another, and infinity for each that did not within a limit.
    async fn seen(
        &self,
        from: SystemTime,
        observers: &BTreeSet<u32>,
        of: u32,
        kind: MemberEventKind,
        limit: Duration,
    ) -> Vec<f64> {
        let wanted = |event: &MemberEvent| event.kind == kind && event.peer == self.peers[&of];
        let first = self.watches.first(from, observers, wanted, limit).await;
        observers.iter().map(|observer| first.get(observer).map_or(f64::INFINITY, Duration::as_secs_f64)).collect()
    }

    async fn down(self) -> Result<()> {
        self.net.down().await
    }
}

/// The largest figure; 0 of none.
fn most(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_called_by_its_name() {
        for group in Group::ALL {
            assert_eq!(group.word().parse(), Ok(group));
        }
        assert!("everything".parse::<Group>().expect_err("no group").contains("starved"));
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let extent = Extent::default();
        let options = Options {
            dir: None,
            nodes: None,
            only: Vec::new(),
            kills: 1,
            stalls: 1,
            seed: None,
            extent,
            node_bin: None,
        };
        assert!(check(&options).is_ok());
        let wrong = [
            Options { nodes: Some(NODES_MIN - 1), ..options.clone() },
            Options { kills: 0, ..options.clone() },
            Options { stalls: TIMES_MAX + 1, ..options.clone() },
            Options { extent: Extent { repeats: 0, ..extent }, ..options },
        ];
        for options in wrong {
            assert_eq!(check(&options).expect_err("refused").code, Code::Usage);
        }
    }
}
