//! `sim members` and `sim kv`: clusters in a virtual world, seed by seed, on all cores; what came of them as figures.
//!
//! What happens in a run is decided in `p2p_gossip::sim`; here is only who runs which seed, what is said about the samples, and
//! [`table`], which holds them against targets.

pub mod kv;
mod rows;
mod table;

use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use p2p_api::{Code, Problem};
use p2p_gossip::sim::members::scenario::{self, Protocol, Scenario};
use p2p_gossip::sim::members::{Figures, Samples, Unit, random};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::Result;

pub use table::{Options as TableOptions, Table, run as run_table};

/// Most nodes of a simulated cluster.
pub const NODES_MAX: usize = 20_000;

/// Problems that a result names; the others are counted.
const PROBLEMS_MAX: usize = 10;

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

/// Who takes part, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile(pub Protocol);

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = [Protocol::Ours, Protocol::Memberlist].into_iter().find(|protocol| protocol.word() == text);
        found.map(Profile).ok_or_else(|| "ours or memberlist".to_owned())
    }
}

/// What is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What is done.
    pub scenario: Scenario,
    /// Who takes part.
    pub protocol: Protocol,
    /// Nodes; of random scenarios the seed decides.
    pub nodes: usize,
    /// The first seed.
    pub first_seed: u64,
    /// How many seeds from there on.
    pub seeds: u64,
}

impl Asked {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// `usage` when there is no such run.
    pub fn new(
        scenario: Scenario,
        protocol: Protocol,
        nodes: Option<usize>,
        first_seed: u64,
        seeds: u64,
    ) -> Result<Self> {
        let word = scenario.word();
        let wrong = |message: String| Err(Problem::new(Code::Usage, message).hint("p2p-testnet sim members --help"));
        if scenario == Scenario::Random && protocol != Protocol::Ours {
            return wrong("random is judged by promises that memberlist does not make".to_owned());
        }
        if scenario == Scenario::Random && nodes.is_some() {
            return wrong("with random the seed decides how many nodes there are".to_owned());
        }
        let nodes = nodes.or(scenario.nodes()).unwrap_or(0);
        let least = scenario.nodes_min();
        if scenario != Scenario::Random && !(least..=NODES_MAX).contains(&nodes) {
            return wrong(format!("{word} runs with {least} to {NODES_MAX} nodes"));
        }
        if first_seed.checked_add(seeds).is_none() {
            return wrong("the last seed is too large".to_owned());
        }
        Ok(Self { scenario, protocol, nodes, first_seed, seeds })
    }

    /// The command that runs one seed of it.
    fn replay(&self, seed: u64) -> String {
        let mut command = format!("p2p-testnet sim members --scenario {}", self.scenario.word());
        // Writing to a string does not fail.
        if self.scenario != Scenario::Random {
            let _ = write!(command, " --nodes {} --profile {}", self.nodes, self.protocol.word());
        }
        let _ = write!(command, " --first-seed {seed} --seeds 1");
        if self.scenario == Scenario::Random {
            command.push_str(" --trace");
        }
        command
    }
}

/// What is said about the samples under one name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// What it counts.
    pub unit: String,
    /// Samples.
    pub samples: usize,
    /// All together: what counts of things.
    pub sum: f64,
    /// Half of the samples are not above it.
    pub median: f64,
    /// 99 of 100 are not.
    pub p99: f64,
    /// 999 of 1,000 are not.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

impl Figure {
    fn of(name: &str, mut samples: Samples) -> Self {
        let [median, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|share| samples.quantile(share));
        let (unit, sum) = (samples.unit.word().to_owned(), samples.sum());
        Self { name: name.to_owned(), unit, samples: samples.len(), sum, median, p99, p999, max }
    }

    fn is_count(&self) -> bool {
        self.unit == Unit::Count.word()
    }
}

/// What runs came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was done.
    pub scenario: String,
    /// Who took part.
    pub profile: String,
    /// Nodes; 0 where the seed decided.
    pub nodes: usize,
    /// The first seed.
    pub first_seed: u64,
    /// How many.
    pub seeds: u64,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// Things that should not have been, each with the command that shows it.
    pub problems: Vec<String>,
    /// How many there were.
    pub problems_count: usize,
    /// What happened in all runs, in number.
    pub events: u64,
    /// Events that one core got through in a second.
    pub events_per_core_second: f64,
    /// How long it took.
    pub seconds: f64,
    /// The most memory that this process has taken so far, in MiB.
    pub memory_peak_mib: u64,
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let Self { scenario, profile, nodes, first_seed, seeds, .. } = self;
        let nodes = if *nodes == 0 { String::new() } else { format!(", {nodes} nodes") };
        let mut text = format!("{scenario}, {profile}{nodes}, {seeds} seeds from {first_seed}\n");
        for figure in &self.figures {
            let Figure { name, unit, samples, sum, median, p99, p999, max } = figure;
            // Writing to a string does not fail.
            let _ = match figure.is_count() {
                true => writeln!(text, "  {name:<48} {sum}"),
                false => writeln!(
                    text,
                    "  {name:<48} median {median:.3}, p99 {p99:.3}, p99.9 {p999:.3}, most {max:.3} {unit} ({samples})"
                ),
            };
        }
        let Self { events, seconds, memory_peak_mib, .. } = self;
        let per_s = self.events_per_core_second / 1e6;
        let _ =
            writeln!(text, "  {events} events in {seconds:.1} s, {per_s:.2} M/s a core, {memory_peak_mib} MiB at most");
        self.problems.iter().for_each(|problem| text.push_str(&format!("  WRONG: {problem}\n")));
        text
    }

    /// What a command ends with.
    ///
    /// # Errors
    /// `integrity` when something was that should not have been.
    pub fn verdict(&self) -> Result<()> {
        verdict(self.problems_count)
    }
}

/// What a command ends with that has found so many problems.
fn verdict(problems: usize) -> Result<()> {
    match problems {
        0 => Ok(()),
        count => Err(Problem::new(Code::Integrity, format!("{count} times something was that should not have been"))),
    }
}

/// Runs the seeds, on all cores.
///
/// # Errors
/// When a thread dies, which is a mistake of this program.
pub async fn run(asked: Asked) -> Result<Report> {
    let began = Instant::now();
    let receiver = on_all_cores(asked.first_seed, asked.seeds, move |seed| {
        scenario::run(asked.scenario, asked.protocol, asked.nodes, seed).unwrap_or_default()
    });
    let (reply, collected) = oneshot::channel();
    thread::spawn(move || drop(reply.send(collect(&asked, &receiver))));
    let (all, busy) = collected.await.map_err(|_died| Problem::new(Code::Other, "a run died"))??;
    Ok(report(&asked, all, began.elapsed().as_secs_f64(), busy))
}

/// What one seed came to, and the seconds it took.
type Done<T> = (u64, T, f64);

/// Runs seeds in threads of their own, for which an interrupted command does not wait. Of a run that dies nothing is heard.
fn on_all_cores<T: Send + 'static>(
    first_seed: u64,
    seeds: u64,
    run: impl Fn(u64) -> T + Send + Sync + 'static,
) -> mpsc::Receiver<Done<T>> {
    let jobs = thread::available_parallelism().map_or(1, usize::from).min(usize::try_from(seeds).unwrap_or(usize::MAX));
    let (next, run, (sender, receiver)) = (Arc::new(AtomicU64::new(0)), Arc::new(run), mpsc::channel());
    for _ in 0..jobs {
        let (next, run, sender) = (next.clone(), run.clone(), sender.clone());
        thread::spawn(move || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= seeds {
                    return;
                }
                let (seed, began) = (first_seed + number, Instant::now());
                let done = run(seed);
                if sender.send((seed, done, began.elapsed().as_secs_f64())).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

fn collect(asked: &Asked, receiver: &mpsc::Receiver<Done<Figures>>) -> Result<(Figures, f64)> {
    let (mut all, mut busy, mut done) = (Figures::default(), 0.0, 0);
    for (seed, mut figures, seconds) in receiver {
        let replay = asked.replay(seed);
        figures.problems.iter_mut().for_each(|problem| *problem = format!("{problem} ({replay})"));
        all.merge(figures);
        busy += seconds;
        done += 1;
    }
    if done < asked.seeds {
        return Err(Problem::new(Code::Other, format!("{} of {} runs died", asked.seeds - done, asked.seeds)));
    }
    Ok((all, busy))
}

fn report(asked: &Asked, mut all: Figures, seconds: f64, busy: f64) -> Report {
    let problems_count = all.problems.len();
    // Which thread was faster is nobody's business.
    all.problems.sort();
    all.problems.truncate(PROBLEMS_MAX);
    Report {
        scenario: asked.scenario.word().to_owned(),
        profile: asked.protocol.word().to_owned(),
        nodes: asked.nodes,
        first_seed: asked.first_seed,
        seeds: asked.seeds,
        figures: all.samples.into_iter().map(|(name, samples)| Figure::of(name, samples)).collect(),
        problems: all.problems,
        problems_count,
        events: all.events,
        events_per_core_second: all.events as f64 / busy.max(f64::MIN_POSITIVE),
        seconds,
        memory_peak_mib: memory_peak_mib(),
    }
}

fn memory_peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim_end_matches("kB").trim().parse::<u64>().map_or(0, |kib| kib >> 10)
}

/// Tells all that happens in one random run, line by line.
///
/// # Errors
/// `usage` with any other scenario, `integrity` when something was that should not have been.
pub fn trace(asked: &Asked, mut tell: impl FnMut(&str) -> Result<()>) -> Result<()> {
    if asked.scenario != Scenario::Random {
        return Err(Problem::new(Code::Usage, "only random tells what happens").hint("--scenario random --trace"));
    }
    let mut told = Ok(());
    let verdict = random::run(asked.first_seed, &mut |line| {
        if told.is_ok() {
            told = tell(&(line + "\n"));
        }
    });
    told?;
    match &verdict.violations[..] {
        [] => Ok(()),
        violations => Err(Problem::new(Code::Integrity, violations.join("\n"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_run_is_a_usage_problem() {
        let asked = |scenario, protocol, nodes| Asked::new(scenario, protocol, nodes, 0, 1);
        for (scenario, protocol, nodes) in [
            (Scenario::Random, Protocol::Memberlist, None),
            (Scenario::Random, Protocol::Ours, Some(5)),
            (Scenario::Crash, Protocol::Ours, Some(1)),
            (Scenario::Lifeguard, Protocol::Ours, Some(32)),
            (Scenario::Idle, Protocol::Ours, Some(NODES_MAX + 1)),
        ] {
            let problem = asked(scenario, protocol, nodes).expect_err("not to be run");
            assert_eq!(problem.code, Code::Usage, "{scenario:?} {protocol:?} {nodes:?}");
        }
        assert_eq!(
            Asked::new(Scenario::Idle, Protocol::Ours, None, u64::MAX, 2).expect_err("too far").code,
            Code::Usage
        );
        for scenario in Scenario::ALL {
            asked(scenario, Protocol::Ours, None).expect("every scenario has a usual size");
        }
    }

    #[tokio::test]
    async fn the_same_seeds_come_to_the_same_whoever_runs_them() {
        let asked = Asked::new(Scenario::SilentCrash, Protocol::Ours, Some(10), 3, 4).expect("sound");
        let runs = [run(asked).await.expect("it runs"), run(asked).await.expect("it runs")];
        assert_eq!(runs[0].figures, runs[1].figures);
        assert_eq!((runs[0].events, runs[0].problems_count), (runs[1].events, 0));
        assert!(runs[0].text().contains("down at every node"), "{}", runs[0].text());
    }

    #[test]
    fn a_story_is_told_of_random_runs_alone_and_ends_where_nobody_listens() {
        let asked = |scenario| Asked::new(scenario, Protocol::Ours, None, 1, 1).expect("sound");
        assert_eq!(trace(&asked(Scenario::Idle), |_| Ok(())).expect_err("no story").code, Code::Usage);
        let mut lines = 0;
        let count = |_: &str| {
            lines += 1;
            Ok(())
        };
        trace(&asked(Scenario::Random), count).expect("nothing is wrong");
        assert!(lines > 10, "{lines}");
        let full = |_: &str| Err(Problem::new(Code::Other, "full"));
        assert_eq!(trace(&asked(Scenario::Random), full).expect_err("nobody listens").code, Code::Other);
    }
}
