//! `bench kv`: the replicated map, on nodes that run.
//!
//! [`writes`] measures one node under load, beside a bare loop that writes the same tables, and what it answers from memory;
//! [`spread`] how soon a write is everywhere, [`split`] two parts that have written apart and meet again, [`large`] a map that
//! does not fit in any cache. [`store`] is what the rules and the file cost without any node, and is measured alone.
//!
//! [`load`] asks much at once and [`seen`] hears what every node tells, both with as little work as they can: they share the
//! cores with what is measured.

mod large;
mod load;
mod seen;
mod split;
mod spread;
mod store;
mod writes;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use p2p_api::types::KvState;
use p2p_api::{Code, Problem};
use tokio::time::{Instant, sleep, timeout};

use super::net::Net;
use super::table::{Target, Unit, judge, quantile};
use super::{Common, Report};
use crate::Result;

/// Most rounds.
pub const RUNS_MAX: u32 = 100;

/// What each node may keep of content, in bytes: none is put.
const STORAGE_MAX: u64 = 1 << 30;

/// What each node may keep of the map, in bytes: more than is written.
const STATE_MAX: u64 = 8 << 30;

/// Clients that ask at once, each the next thing after the answer to the one before.
const CLIENTS: u64 = 64;

/// Longest wait until a node that has joined has the map.
const JOINED_LIMIT: Duration = Duration::from_secs(60);

/// How often a node that is waited for is looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// Longest time of all that is done once.
const RUN_TIME_MAX: Duration = Duration::from_secs(3600);

/// Longest time, on average, in which a round is over.
const ROUND_TIME_MAX: Duration = Duration::from_secs(900);

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Durable writes on one node.
    Writes,
    /// Reads of what it has in memory.
    Reads,
    /// How soon a write is everywhere.
    Spread,
    /// Two parts that have written apart.
    Split,
    /// Many keys.
    Large,
}

impl Group {
    /// All, in the order in which they are measured.
    pub const ALL: [Group; 5] = [Group::Writes, Group::Reads, Group::Spread, Group::Split, Group::Large];

    /// The name that `--only` takes.
    pub fn word(self) -> &'static str {
        match self {
            Group::Writes => "writes",
            Group::Reads => "reads",
            Group::Spread => "spread",
            Group::Split => "split",
            Group::Large => "large",
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
    /// Folder to measure in, whose file system counts; None takes a temporary one.
    pub dir: Option<PathBuf>,
    /// Only the rules and the file, without any node.
    pub store_only: bool,
    /// What to measure on nodes; empty means all.
    pub only: Vec<Group>,
    /// Rounds.
    pub runs: u32,
    /// Writes of a round.
    pub writes: u64,
    /// Keys of the large map; without any node, of the copies that are compared.
    pub keys: u64,
    /// Determines keys, and who writes; None takes another one every time.
    pub seed: Option<u64>,
    /// The rest, of which only tests take less.
    pub extent: Extent,
    /// The p2p-node to run; None looks where the commands look.
    pub node_bin: Option<PathBuf>,
}

/// How much is done. With less than the default the figures mean nothing.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Keys that are read.
    pub read_keys: u64,
    /// How often each of them is.
    pub read_times: u64,
    /// Nodes that writes spread to.
    pub spread_nodes: u32,
    /// For how long there are writes.
    pub spread_time: Duration,
    /// Keys that both parts have.
    pub split_keys: u64,
    /// Keys that change in each part.
    pub split_changes: u64,
}

impl Default for Extent {
    fn default() -> Self {
        Self {
            read_keys: 10_000,
            read_times: 10,
            spread_nodes: 25,
            spread_time: Duration::from_secs(30),
            split_keys: 100_000,
            split_changes: 1000,
        }
    }
}

/// Measures; `say` gets a line for every figure as it comes.
///
/// # Errors
/// When something cannot be measured that should be: what fails is no slow figure.
pub async fn run(options: Options, say: fn(&str)) -> Result<Report> {
    check(&options)?;
    if options.store_only {
        return store::run(options, say).await;
    }
    let groups = super::chosen(&options.only, &Group::ALL);
    let common = Common { dir: options.dir.clone(), seed: options.seed, node_bin: options.node_bin.clone() };
    let mut bench = super::Bench::with(common, say, |_| Ok(Own { options, groups }))?;
    // A node that stops to answer ends the run; its processes go with it.
    let limit = RUN_TIME_MAX + ROUND_TIME_MAX * bench.own.options.runs;
    let late = |_| Problem::new(Code::TimedOut, format!("not done after {} s", limit.as_secs()));
    timeout(limit, measure(&mut bench)).await.map_err(late)??;
    Ok(bench.report())
}

async fn measure(bench: &mut Bench) -> Result<()> {
    if bench.wants(Group::Writes) || bench.wants(Group::Reads) {
        writes::measure(bench).await?;
    }
    if bench.wants(Group::Spread) {
        spread::measure(bench).await?;
    }
    if bench.wants(Group::Split) {
        split::measure(bench).await?;
    }
    if bench.wants(Group::Large) {
        large::measure(bench).await?;
    }
    Ok(())
}

fn check(options: &Options) -> Result<()> {
    let usage = |message: String| Err(Problem::new(Code::Usage, message).hint("p2p-testnet bench kv --help"));
    if !(1..=RUNS_MAX).contains(&options.runs) {
        return usage(format!("runs are 1 to {RUNS_MAX}, not {}", options.runs));
    }
    let Extent { read_keys, read_times, spread_nodes, spread_time, split_keys, split_changes } = options.extent;
    if read_keys == 0 || read_times == 0 || spread_nodes < 2 || spread_time.is_zero() || split_changes == 0 {
        return usage("of nothing there is no figure".to_owned());
    }
    if 2 * split_changes > split_keys {
        return usage(format!("{split_changes} keys in each part are more than the {split_keys} that there are"));
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

    /// A network in a folder of its own, all of whose nodes have joined the map.
    async fn net(&self, nodes: u32, plain: bool) -> Result<Net> {
        (self.say)(&format!("starting {nodes} {}", if nodes == 1 { "node" } else { "nodes" }));
        let mut config = toml::Table::new();
        config.insert("state_max".to_owned(), format!("{STATE_MAX}B").into());
        let net = Net::up_with(self.dir(), self.programs.clone(), nodes, STORAGE_MAX, plain, config).await?;
        net.until_complete().await?;
        until_joined(&net).await?;
        Ok(net)
    }

    /// Judges a row by its rounds, if it was measured.
    fn judge_row(&mut self, name: &str, unit: Unit, target: Target) {
        let samples = self.table.samples(name);
        self.judge(judge(name, unit, samples, target));
    }

    /// Takes the half and the hundredth part of times, in milliseconds.
    fn add_times(&mut self, name: &str, times: &[f64]) {
        for (part, word) in [(0.5, "p50"), (0.99, "p99")] {
            if let Some(time) = quantile(times, part) {
                self.add(&format!("{name}, {word}"), Unit::Ms, time);
            }
        }
    }

    fn report(self) -> Report {
        let groups = self.own.groups.iter().map(|group| group.word()).collect();
        let Options { runs, writes, keys, .. } = self.own.options;
        self.finish(groups, [("runs", runs.into()), ("writes", writes), ("keys", keys)])
    }
}

/// Waits until every node answers about the map.
async fn until_joined(net: &Net) -> Result<()> {
    let deadline = Instant::now() + JOINED_LIMIT;
    for node in net.indices()? {
        while net.client(node).status().await?.kv == KvState::Joining {
            if Instant::now() >= deadline {
                return Err(Problem::new(Code::TimedOut, format!("node {node} does not get the map of the others")));
            }
            sleep(LOOK_PERIOD).await;
        }
    }
    Ok(())
}

/// Counters, each of all nodes together.
async fn sums<const N: usize>(net: &Net, counters: [&str; N]) -> Result<[u64; N]> {
    let mut sums = [0; N];
    for node in net.indices()? {
        let metrics = net.metrics(node).await?;
        for (sum, counter) in sums.iter_mut().zip(counters) {
            *sum += metrics.counter(counter)?;
        }
    }
    Ok(sums)
}

/// What was counted from then to now.
fn between<const N: usize>(before: [u64; N], now: [u64; N]) -> [u64; N] {
    std::array::from_fn(|n| now[n] - before[n])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_called_by_its_name() {
        for group in Group::ALL {
            assert_eq!(group.word().parse(), Ok(group));
        }
        assert!("everything".parse::<Group>().expect_err("no group").contains("large"));
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let extent = Extent::default();
        let options = Options {
            dir: None,
            store_only: false,
            only: Vec::new(),
            runs: 1,
            writes: 1,
            keys: 1,
            seed: None,
            extent,
            node_bin: None,
        };
        assert!(check(&options).is_ok());
        let wrong = [
            Options { runs: 0, ..options.clone() },
            Options { runs: RUNS_MAX + 1, ..options.clone() },
            Options { extent: Extent { read_keys: 0, ..extent }, ..options.clone() },
            Options { extent: Extent { spread_nodes: 1, ..extent }, ..options.clone() },
            Options { extent: Extent { split_changes: extent.split_keys, ..extent }, ..options },
        ];
        for options in wrong {
            assert_eq!(check(&options).expect_err("refused").code, Code::Usage);
        }
    }
}
