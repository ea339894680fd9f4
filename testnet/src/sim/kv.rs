//! `sim kv`: maps in a virtual world, seed by seed; blocks of seeds that are done are kept in a file, so that a long run can be
//! stopped and goes on.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use p2p_api::{Code, Problem};
use p2p_gossip::sim::kv::random::{self, Verdict};
use p2p_gossip::sim::kv::{Scenario, scope};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::rows::{Row, Sources, keep, load};
use super::{PROBLEMS_MAX, on_all_cores};
use crate::Result;

/// Seeds that are run, and kept as done, together.
const BLOCK: u64 = 1_000;

/// Most nodes of a simulated cluster.
const NODES_MAX: usize = 200;

/// The simulated code: what keeps the map, what keeps its edges, and the world they are in.
const SIMULATED: [&str; 12] = [
    "gossip/src/kv.rs",
    "gossip/src/kv",
    "gossip/src/reconcile.rs",
    "gossip/src/sum.rs",
    "gossip/src/swim.rs",
    "gossip/src/swim",
    "gossip/src/sim/kv.rs",
    "gossip/src/sim/kv",
    "gossip/src/sim/world.rs",
    "gossip/src/sim/world",
    "gossip/src/sim/link.rs",
    "gossip/src/sim/queue.rs",
];

/// A scenario, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named(pub Scenario);

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let names = Scenario::ALL.map(Scenario::word).join(", ");
        let found = Scenario::ALL.into_iter().find(|scenario| scenario.word() == text);
        found.map(Named).ok_or_else(|| format!("one of {names}"))
    }
}

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What is done.
    pub scenario: Scenario,
    /// Nodes; of None the scenario and the seed decide.
    pub nodes: Option<usize>,
    /// The first seed.
    pub first_seed: u64,
    /// How many seeds from there on.
    pub seeds: u64,
    /// Where blocks that are done are kept.
    pub record: Option<PathBuf>,
}

impl Asked {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// `usage` when there is no such run.
    pub fn check(self) -> Result<Self> {
        let wrong = |message: String| Err(Problem::new(Code::Usage, message).hint("p2p-testnet sim kv --help"));
        if self.nodes.is_some_and(|nodes| !(2..=NODES_MAX).contains(&nodes)) {
            return wrong(format!("maps are simulated with 2 to {NODES_MAX} nodes"));
        }
        if self.first_seed.checked_add(self.seeds).is_none() {
            return wrong("the last seed is too large".to_owned());
        }
        if self.record.is_some() && !(self.first_seed.is_multiple_of(BLOCK) && self.seeds.is_multiple_of(BLOCK)) {
            return wrong(format!("seeds are kept in blocks of {BLOCK}"));
        }
        Ok(self)
    }

    fn command(&self, first_seed: u64, seeds: u64) -> String {
        let nodes = self.nodes.map(|nodes| format!(" --nodes {nodes}")).unwrap_or_default();
        format!(
            "p2p-testnet sim kv --scenario {}{nodes} --first-seed {first_seed} --seeds {seeds}",
            self.scenario.word()
        )
    }
}

/// What runs came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Seeds that were run.
    pub seeds: u64,
    /// Seeds that had been run before, of the same sources.
    pub seeds_before: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Commits that were judged.
    pub commits: u64,
    /// Stores that were built again.
    pub recovered: u64,
    /// What happened in all runs, in number.
    pub events: u64,
    /// Longest virtual time until all copies were equal, in seconds.
    pub calm_max: f64,
    /// Things that should not have been, each with the command that shows it.
    pub problems: Vec<String>,
    /// How many there were.
    pub problems_count: usize,
    /// Seconds that all cores were busy.
    pub core_seconds: f64,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    fn add(&mut self, verdict: Verdict, replay: &str, seconds: f64) {
        let Verdict { violations, calm, events, commits, writes, recovered } = verdict;
        self.seeds += 1;
        self.writes += writes;
        self.commits += commits;
        self.recovered += recovered;
        self.events += events;
        self.calm_max = self.calm_max.max(calm.unwrap_or_default().as_secs_f64());
        self.problems_count += violations.len();
        self.problems.extend(violations.into_iter().map(|problem| format!("{problem} ({replay} --trace)")));
        self.core_seconds += seconds;
    }

    fn join(&mut self, other: Report) {
        self.seeds += other.seeds;
        self.writes += other.writes;
        self.commits += other.commits;
        self.recovered += other.recovered;
        self.events += other.events;
        self.calm_max = self.calm_max.max(other.calm_max);
        self.problems_count += other.problems_count;
        self.problems.extend(other.problems);
        self.core_seconds += other.core_seconds;
    }

    /// For people.
    pub fn text(&self) -> String {
        let Self { seeds, seeds_before, writes, commits, recovered, events, calm_max, seconds, .. } = self;
        let mut text = format!("{seeds} seeds, and {seeds_before} that were run before\n");
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {writes} writes, {commits} commits judged, {recovered} stores built again");
        let _ = writeln!(text, "  equal after {calm_max:.1} s at most");
        let per_s = *seeds as f64 / self.core_seconds.max(f64::MIN_POSITIVE);
        let _ = writeln!(text, "  {events} events in {seconds:.1} s, {per_s:.0} seeds a second on a core");
        self.problems.iter().for_each(|problem| text.push_str(&format!("  WRONG: {problem}\n")));
        text
    }

    /// What a command ends with.
    ///
    /// # Errors
    /// `integrity` when something was that should not have been.
    pub fn verdict(&self) -> Result<()> {
        super::verdict(self.problems_count)
    }
}

/// Runs the seeds, on all cores.
///
/// # Errors
/// When a thread dies, which is a mistake of this program; when the file cannot be read or written.
pub async fn run(asked: Asked, say: impl Fn(&str)) -> Result<Report> {
    let began = Instant::now();
    let mut all = Report::default();
    let mut done: BTreeSet<u64> = BTreeSet::new();
    let sources = match &asked.record {
        None => None,
        Some(file) => {
            let sources = Sources::of(&SIMULATED)?;
            let rows: Vec<Row<Report>> = load(file)?;
            let kept: BTreeSet<&str> =
                rows.iter().filter(|row| row.sources == sources.tree).map(|row| &row.command[..]).collect();
            let blocks = (0..asked.seeds).step_by(BLOCK as usize).map(|n| asked.first_seed + n);
            done.extend(blocks.filter(|first| kept.contains(&asked.command(*first, BLOCK)[..])));
            Some(sources)
        }
    };
    let mut first = asked.first_seed;
    let end = asked.first_seed + asked.seeds;
    while first < end {
        let seeds = BLOCK.min(end - first);
        if done.contains(&first) {
            all.seeds_before += seeds;
        } else {
            let block = block(&asked, first, seeds).await?;
            let is_clean = block.problems_count == 0;
            if let (Some(file), Some(sources), true) = (&asked.record, &sources, is_clean) {
                keep(file, &sources.row(asked.command(first, seeds), &block))?;
                say(&format!("{} of {} seeds", first + seeds - asked.first_seed, asked.seeds));
            }
            all.join(block);
            if !is_clean {
                break;
            }
        }
        first += seeds;
    }
    all.problems.sort();
    all.problems.truncate(PROBLEMS_MAX);
    all.seconds = began.elapsed().as_secs_f64();
    Ok(all)
}

async fn block(asked: &Asked, first: u64, seeds: u64) -> Result<Report> {
    let plan = asked.scenario.plan(asked.nodes);
    let receiver = on_all_cores(first, seeds, move |seed| random::run(seed, &plan, None));
    let (reply, collected) = oneshot::channel();
    let asked = asked.clone();
    std::thread::spawn(move || {
        let mut report = Report::default();
        for (seed, verdict, seconds) in receiver {
            report.add(verdict, &asked.command(seed, 1), seconds);
        }
        let _ = reply.send(report);
    });
    let report = collected.await.map_err(|_died| Problem::new(Code::Other, "a run died"))?;
    match seeds - report.seeds {
        0 => Ok(report),
        died => Err(Problem::new(Code::Other, format!("{died} of {seeds} runs died"))),
    }
}

/// Tells all that happens in the first seed, line by line.
///
/// # Errors
/// `integrity` when something was that should not have been.
pub fn trace(asked: &Asked, mut tell: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let mut told = Ok(());
    let mut line = |line: String| {
        if told.is_ok() {
            told = tell(&(line + "\n"));
        }
    };
    let verdict = random::run(asked.first_seed, &asked.scenario.plan(asked.nodes), Some(&mut line));
    told?;
    match &verdict.violations[..] {
        [] => Ok(()),
        violations => Err(Problem::new(Code::Integrity, violations.join("\n"))),
    }
}

/// What is possible in a few steps, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Scope {
    /// States that differ, by the number of steps that lead to them.
    pub states: Vec<u64>,
    /// Steps that were done.
    pub steps: u64,
    /// Things that should not have been, each with the steps that lead to it.
    pub problems: Vec<String>,
    /// How many there were.
    pub problems_count: usize,
    /// How long it took.
    pub seconds: f64,
}

impl Scope {
    /// For people.
    pub fn text(&self) -> String {
        let Self { states, steps, seconds, .. } = self;
        let states: Vec<String> = states.iter().map(u64::to_string).collect();
        let mut text = format!("{} nodes, {} keys: {steps} steps in {seconds:.1} s\n", scope::NODES, scope::KEYS);
        // Writing to a string does not fail.
        let _ = writeln!(text, "  states after each: {}", states.join(", "));
        self.problems.iter().for_each(|problem| text.push_str(&format!("  WRONG: {problem}\n")));
        text
    }

    /// What a command ends with.
    ///
    /// # Errors
    /// `integrity` when something was that should not have been.
    pub fn verdict(&self) -> Result<()> {
        super::verdict(self.problems_count)
    }
}

/// Looks at everything that is possible in so many steps, on all cores.
///
/// # Errors
/// When a thread dies, which is a mistake of this program; when the file cannot be written.
pub async fn scope(steps: u8, record: Option<&Path>) -> Result<Scope> {
    let sources = record.map(|_| Sources::of(&SIMULATED)).transpose()?;
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let explored = tokio::task::spawn_blocking(move || scope::explore(steps.into(), threads)).await;
    let found = explored.map_err(|error| Problem::new(Code::Other, format!("it died: {error}")))?;
    let mut problems = found.violations;
    let problems_count = problems.len();
    problems.truncate(PROBLEMS_MAX);
    let seconds = began.elapsed().as_secs_f64();
    let scope = Scope { states: found.states, steps: found.steps, problems, problems_count, seconds };
    if let (Some(file), Some(sources), 0) = (record, sources, problems_count) {
        keep(file, &sources.row(format!("p2p-testnet sim kv-scope --steps {steps}"), &scope))?;
    }
    Ok(scope)
}
