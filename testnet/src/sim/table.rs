//! The table: every scenario at its sizes, ours beside memberlist, held against targets. Each row that is done is kept in a file,
//! so that a run that was stopped goes on where it was.

use std::fmt::Write as _;
use std::path::PathBuf;

use p2p_gossip::sim::members::scenario::{Protocol, Scenario};
use serde::Serialize;

use super::rows::{Row, Sources, keep, load};
use super::{Asked, Figure, Report};
use crate::Result;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where rows are kept.
    pub file: PathBuf,
}

/// A scenario at a size, for one protocol: so many seeds, in rows of so many.
struct Part {
    scenario: Scenario,
    nodes: usize,
    seeds: u64,
    seeds_a_row: u64,
    /// How many of them memberlist runs too: what takes it long is run less.
    beside: u64,
}

const fn part(scenario: Scenario, nodes: usize, seeds: u64) -> Part {
    Part { scenario, nodes, seeds, seeds_a_row: seeds, beside: seeds }
}

/// All that is run, the quick first.
const PARTS: [Part; 27] = [
    part(Scenario::Idle, 1000, 1),
    part(Scenario::Idle, 10_000, 1),
    part(Scenario::Crash, 100, 10),
    part(Scenario::Crash, 1000, 10),
    part(Scenario::SilentCrash, 100, 25),
    part(Scenario::SilentCrash, 1000, 25),
    Part { beside: 5, ..part(Scenario::SilentCrash, 10_000, 25) },
    part(Scenario::Stops, 48, 100),
    part(Scenario::Facts, 100, 20),
    part(Scenario::Facts, 1000, 10),
    part(Scenario::Facts, 10_000, 4),
    part(Scenario::Stall, 100, 100),
    part(Scenario::Loss, 100, 10),
    part(Scenario::Asymmetric, 1000, 10),
    Part { beside: 1, ..part(Scenario::Bootstrap, 2000, 4) },
    Part { beside: 2, ..part(Scenario::MassRestart, 1000, 10) },
    part(Scenario::Leave, 1000, 4),
    part(Scenario::Survivors, 2, 100),
    part(Scenario::Survivors, 3, 100),
    part(Scenario::Survivors, 10, 40),
    part(Scenario::Survivors, 100, 20),
    part(Scenario::Survivors, 1000, 2),
    part(Scenario::Orphan, 100, 10),
    part(Scenario::Heal, 4, 20),
    Part { beside: 6, ..part(Scenario::Heal, 1000, 100) },
    Part { seeds_a_row: 2, beside: 2, ..part(Scenario::Lifeguard, 128, 10) },
    Part { seeds_a_row: 1000, beside: 0, ..part(Scenario::Random, 0, 10_000) },
];

/// What of a figure is held against a target.
#[derive(Clone, Copy)]
enum Of {
    Sum,
    Median,
    P99,
    P999,
    Max,
}

impl Of {
    fn value(self, figure: &Figure) -> f64 {
        match self {
            Of::Sum => figure.sum,
            Of::Median => figure.median,
            Of::P99 => figure.p99,
            Of::P999 => figure.p999,
            Of::Max => figure.max,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Of::Sum => "",
            Of::Median => "median",
            Of::P99 => "p99",
            Of::P999 => "p99.9",
            Of::Max => "most",
        }
    }
}

/// A line of the table: a figure, and what it may be at most.
struct Line {
    scenario: Scenario,
    nodes: usize,
    figure: &'static str,
    of: Of,
    /// None: shown only.
    most: Option<f64>,
}

const fn line(scenario: Scenario, nodes: usize, figure: &'static str, of: Of, most: Option<f64>) -> Line {
    Line { scenario, nodes, figure, of, most }
}

const LINES: [Line; 79] = [
    line(Scenario::Crash, 100, "down at every node", Of::P99, Some(0.5)),
    line(Scenario::Crash, 1000, "down at every node", Of::P99, Some(0.5)),
    line(Scenario::Crash, 100, "not down everywhere", Of::Sum, Some(0.0)),
    line(Scenario::Crash, 1000, "not down everywhere", Of::Sum, Some(0.0)),
    line(Scenario::SilentCrash, 100, "down at every node", Of::Median, Some(3.3)),
    line(Scenario::SilentCrash, 100, "down at every node", Of::P999, Some(5.0)),
    line(Scenario::SilentCrash, 1000, "down at every node", Of::Median, Some(3.3)),
    line(Scenario::SilentCrash, 1000, "down at every node", Of::P999, Some(5.0)),
    line(Scenario::SilentCrash, 10_000, "down at every node", Of::Median, Some(3.3)),
    line(Scenario::SilentCrash, 10_000, "down at every node", Of::P999, Some(5.0)),
    line(Scenario::SilentCrash, 10_000, "not down everywhere", Of::Sum, Some(0.0)),
    line(Scenario::SilentCrash, 100, "not down everywhere", Of::Sum, Some(0.0)),
    line(Scenario::Stops, 48, "down at every node", Of::Median, Some(3.3)),
    line(Scenario::Stops, 48, "down at every node", Of::P999, Some(5.0)),
    line(Scenario::Stops, 48, "not down everywhere", Of::Sum, Some(0.0)),
    line(Scenario::Stops, 48, "downs of those that were not stopped", Of::Sum, Some(0.0)),
    line(Scenario::SilentCrash, 1000, "not down everywhere", Of::Sum, Some(0.0)),
    line(Scenario::Stall, 100, "stalls of 2 s", Of::Sum, None),
    line(Scenario::Stall, 100, "downs in 2 s", Of::Sum, Some(0.0)),
    line(Scenario::Stall, 100, "stalls of 8 s", Of::Sum, None),
    line(Scenario::Stall, 100, "stalls of 8 s not down everywhere", Of::Sum, Some(0.0)),
    line(Scenario::Stall, 100, "back after 8 s", Of::Max, Some(1.0)),
    line(Scenario::Lifeguard, 128, "false downs", Of::Sum, Some(50.0)),
    line(Scenario::Lifeguard, 128, "false downs at healthy members", Of::Sum, Some(0.0)),
    line(Scenario::Lifeguard, 128, "members falsely down", Of::Sum, None),
    line(Scenario::Lifeguard, 128, "downs while word was on its way", Of::Sum, None),
    line(Scenario::Lifeguard, 128, "true downs", Of::Sum, None),
    line(Scenario::Asymmetric, 1000, "out after, 80% of what is sent lost", Of::Median, None),
    line(Scenario::Asymmetric, 1000, "not out after 15 s, 80% of what is sent lost", Of::Sum, Some(0.0)),
    line(Scenario::Asymmetric, 1000, "out after, 80% of what is received lost", Of::Median, None),
    line(Scenario::Asymmetric, 1000, "not out after 15 s, 80% of what is received lost", Of::Sum, Some(0.0)),
    line(Scenario::Asymmetric, 1000, "out after, deaf", Of::Median, None),
    line(Scenario::Asymmetric, 1000, "not out after 15 s, deaf", Of::Sum, Some(0.0)),
    line(Scenario::Asymmetric, 1000, "out after, mute", Of::Median, None),
    line(Scenario::Asymmetric, 1000, "not out after 15 s, mute", Of::Sum, Some(0.0)),
    line(Scenario::Asymmetric, 1000, "healthy members down", Of::Sum, Some(0.0)),
    line(Scenario::Asymmetric, 1000, "at fault and not out after 60 s", Of::Sum, Some(0.0)),
    line(Scenario::Asymmetric, 1000, "times that one at fault came back", Of::Sum, None),
    line(Scenario::Loss, 100, "downs", Of::Sum, Some(0.0)),
    line(Scenario::Facts, 100, "heard by 99.99%", Of::Max, Some(0.18)),
    line(Scenario::Facts, 1000, "heard by 99.99%", Of::Max, Some(0.25)),
    line(Scenario::Facts, 10_000, "heard by 99.99%", Of::Max, Some(0.35)),
    line(Scenario::Facts, 100, "not heard by 99.99% in 10 s", Of::Sum, Some(0.0)),
    line(Scenario::Facts, 1000, "not heard by 99.99% in 10 s", Of::Sum, Some(0.0)),
    line(Scenario::Facts, 10_000, "not heard by 99.99% in 10 s", Of::Sum, Some(0.0)),
    line(Scenario::Idle, 1000, "sent by a node, on average", Of::Max, Some(600.0)),
    line(Scenario::Idle, 1000, "connections of a node in the end, at most", Of::Max, Some(16.0)),
    line(Scenario::Idle, 1000, "changes", Of::Sum, Some(0.0)),
    line(Scenario::Idle, 10_000, "sent by a node, on average", Of::Max, None),
    line(Scenario::Bootstrap, 2000, "views equal", Of::Max, Some(5.0)),
    line(Scenario::Bootstrap, 2000, "views never equal", Of::Sum, Some(0.0)),
    line(Scenario::Bootstrap, 2000, "sent by the seed", Of::Max, Some(20e6)),
    line(Scenario::Bootstrap, 2000, "sent by any other, at most", Of::Max, None),
    line(Scenario::Heal, 4, "views equal", Of::P99, Some(30.0)),
    line(Scenario::Heal, 4, "views never equal", Of::Sum, Some(0.0)),
    line(Scenario::Heal, 1000, "first contact", Of::P99, Some(10.0)),
    line(Scenario::Heal, 1000, "views equal", Of::P99, Some(30.0)),
    line(Scenario::Heal, 1000, "views never equal", Of::Sum, Some(0.0)),
    line(Scenario::Heal, 1000, "sent by a node, at most", Of::Max, None),
    line(Scenario::MassRestart, 1000, "views equal after the last start", Of::Max, Some(10.0)),
    line(Scenario::MassRestart, 1000, "views never equal", Of::Sum, Some(0.0)),
    line(Scenario::Leave, 1000, "left at every node", Of::Max, Some(0.5)),
    line(Scenario::Leave, 1000, "taken for down", Of::Sum, Some(0.0)),
    line(Scenario::Leave, 1000, "not left everywhere", Of::Sum, Some(0.0)),
    line(Scenario::Leave, 1000, "views never equal", Of::Sum, Some(0.0)),
    line(Scenario::Leave, 1000, "views equal, of many who left and came back", Of::Max, None),
    line(Scenario::Survivors, 2, "views equal, of killed", Of::Max, None),
    line(Scenario::Survivors, 2, "views equal, of dark", Of::Max, None),
    line(Scenario::Survivors, 2, "views never equal", Of::Sum, Some(0.0)),
    line(Scenario::Survivors, 3, "views equal, of dark", Of::Max, None),
    line(Scenario::Survivors, 3, "views never equal", Of::Sum, Some(0.0)),
    line(Scenario::Survivors, 10, "views never equal", Of::Sum, Some(0.0)),
    line(Scenario::Survivors, 100, "views equal, of killed", Of::Max, None),
    line(Scenario::Survivors, 100, "views equal, of dark", Of::Max, None),
    line(Scenario::Survivors, 100, "views never equal", Of::Sum, Some(0.0)),
    line(Scenario::Survivors, 1000, "views never equal", Of::Sum, Some(0.0)),
    line(Scenario::Orphan, 100, "views equal, less a second", Of::Max, None),
    line(Scenario::Orphan, 100, "views never equal", Of::Sum, Some(0.0)),
    line(Scenario::Random, 0, "seeds", Of::Sum, None),
];

/// All rows, and what they say.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// The rows, those that were found and those that were run.
    pub rows: Vec<Report>,
    /// What the lines of the table say.
    pub lines: Vec<Said>,
    /// Things that should not have been, in all rows.
    pub problems: usize,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Said {
    /// What was measured.
    pub what: String,
    /// Ours.
    pub ours: Option<f64>,
    /// Memberlist's.
    pub memberlist: Option<f64>,
    /// What ours may be at most.
    pub target: Option<f64>,
    /// Whether it is not more; None where there is no target.
    pub met: Option<bool>,
}

/// Runs what is not there yet; `say` gets each row.
///
/// # Errors
/// When the file cannot be read or written, or sources have changed that are not committed.
pub async fn run(options: Options, say: fn(&str)) -> Result<Table> {
    let sources = Sources::of(&SIMULATED)?;
    let kept: Vec<Row<Report>> = load(&options.file)?;
    let mut rows = Vec::new();
    for asked in plan()? {
        let command = command(&asked);
        if let Some(row) = kept.iter().find(|row| row.sources == sources.tree && row.command == command) {
            rows.push(row.figures.clone());
            continue;
        }
        let figures = super::run(asked).await?;
        say(figures.text().trim_end());
        let row = sources.row(command, figures);
        keep(&options.file, &row)?;
        rows.push(row.figures);
    }
    Ok(Table::of(rows))
}

fn plan() -> Result<Vec<Asked>> {
    let mut plan = Vec::new();
    for Part { scenario, nodes, seeds, seeds_a_row, beside } in PARTS {
        let nodes = (nodes > 0).then_some(nodes);
        for protocol in [Protocol::Ours, Protocol::Memberlist] {
            let seeds = if protocol == Protocol::Memberlist { beside } else { seeds };
            for first in (0..seeds).step_by(usize::try_from(seeds_a_row).unwrap_or(usize::MAX)) {
                plan.push(Asked::new(scenario, protocol, nodes, first, seeds_a_row.min(seeds - first))?);
            }
        }
    }
    Ok(plan)
}

/// The command that makes one row.
fn command(asked: &Asked) -> String {
    let Asked { scenario, protocol, nodes, first_seed, seeds } = asked;
    let nodes = if *scenario == Scenario::Random { String::new() } else { format!(" --nodes {nodes}") };
    let (scenario, profile) = (scenario.word(), protocol.word());
    format!(
        "p2p-testnet sim members --scenario {scenario}{nodes} --profile {profile} --first-seed {first_seed} --seeds {seeds}"
    )
}

/// The simulated code: machines, and the world they are in.
const SIMULATED: [&str; 8] = [
    "gossip/src/swim.rs",
    "gossip/src/swim",
    "gossip/src/sim/members.rs",
    "gossip/src/sim/members",
    "gossip/src/sim/world.rs",
    "gossip/src/sim/world",
    "gossip/src/sim/link.rs",
    "gossip/src/sim/queue.rs",
];

impl Table {
    fn of(rows: Vec<Report>) -> Self {
        let value = |line: &Line, protocol: Protocol| {
            let of_line = rows.iter().filter(|row| {
                (&row.scenario[..], &row.profile[..], row.nodes) == (line.scenario.word(), protocol.word(), line.nodes)
            });
            let figures = of_line.flat_map(|row| row.figures.iter()).filter(|figure| figure.name == line.figure);
            let values = figures.map(|figure| line.of.value(figure));
            match line.of {
                Of::Sum => values.reduce(|a, b| a + b),
                // Only what is counted is spread over several rows.
                Of::Median | Of::P99 | Of::P999 | Of::Max => values.reduce(f64::max),
            }
        };
        let said = |line: &Line| {
            let (ours, memberlist) = (value(line, Protocol::Ours), value(line, Protocol::Memberlist));
            let at = if line.nodes == 0 { String::new() } else { format!(" at {}", line.nodes) };
            let what = format!("{}{at}: {} {}", line.scenario.word(), line.figure, line.of.word());
            // A figure that nobody has measured meets nothing.
            let met = line.most.map(|most| ours.is_some_and(|ours| ours <= most));
            Said { what: what.trim_end().to_owned(), ours, memberlist, target: line.most, met }
        };
        let lines = LINES.iter().map(said).collect();
        let of_ours = rows.iter().filter(|row| row.profile == Protocol::Ours.word());
        let problems = of_ours.map(|row| row.problems_count).sum();
        Self { rows, lines, problems }
    }

    /// For people, as Markdown.
    pub fn text(&self) -> String {
        let number = |value: Option<f64>| match value {
            None => "-".to_owned(),
            Some(value) if value >= 1e6 => format!("{:.1}M", value / 1e6),
            Some(value) if value.fract() == 0.0 => format!("{value}"),
            Some(value) => format!("{value:.3}"),
        };
        let mut text = "| what | ours | memberlist | target | |\n|---|---|---|---|---|\n".to_owned();
        for Said { what, ours, memberlist, target, met } in &self.lines {
            let (ours, memberlist) = (number(*ours), number(*memberlist));
            let target = target.map_or_else(String::new, |target| format!("<= {}", number(Some(target))));
            let met = met.map_or("", |met| if met { "met" } else { "MISSED" });
            // Writing to a string does not fail.
            let _ = writeln!(text, "| {what} | {ours} | {memberlist} | {target} | {met} |");
        }
        let _ = writeln!(text, "\n{} things of ours were that should not have been", self.problems);
        text
    }

    /// What the command ends with: a target that is missed is shown as such, and is no failure.
    ///
    /// # Errors
    /// `integrity` when something was that should not have been.
    pub fn verdict(&self) -> Result<()> {
        super::verdict(self.problems)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::NODES_MAX;
    use super::*;

    #[test]
    fn every_row_is_a_command_of_its_own() {
        let plan = plan().expect("all can be run");
        let commands: BTreeSet<String> = plan.iter().map(command).collect();
        assert_eq!(commands.len(), plan.len());
        assert!(plan.iter().all(|asked| asked.nodes <= NODES_MAX));
    }

    /// The grid alone takes minutes; its figures are looked at in the crate that measures them.
    #[tokio::test]
    async fn every_line_of_the_table_is_measured() {
        let scenarios: BTreeSet<Scenario> = LINES.iter().map(|line| line.scenario).collect();
        for scenario in scenarios.into_iter().filter(|scenario| *scenario != Scenario::Lifeguard) {
            let nodes = (scenario != Scenario::Random).then_some(scenario.nodes_min().max(10));
            let asked = Asked::new(scenario, Protocol::Ours, nodes, 0, 2).expect("sound");
            let report = super::super::run(asked).await.expect("it runs");
            for line in LINES.iter().filter(|line| line.scenario == scenario) {
                let is_measured = report.figures.iter().any(|figure| figure.name == line.figure);
                assert!(is_measured, "{}: nobody measures {}", scenario.word(), line.figure);
                assert!(
                    PARTS.iter().any(|part| (part.scenario, part.nodes) == (scenario, line.nodes)),
                    "{}",
                    line.figure
                );
            }
        }
    }

    fn report(profile: Protocol, values: &[(&str, f64)]) -> Report {
        let figure = |(name, sum): &(&str, f64)| Figure {
            name: (*name).to_owned(),
            unit: String::new(),
            samples: 1,
            sum: *sum,
            median: *sum,
            p99: *sum,
            p999: *sum,
            max: *sum,
        };
        Report {
            scenario: "lifeguard".into(),
            profile: profile.word().into(),
            nodes: 128,
            first_seed: 0,
            seeds: 2,
            figures: values.iter().map(figure).collect(),
            problems: Vec::new(),
            problems_count: 0,
            events: 1,
            events_per_core_second: 1.0,
            seconds: 1.0,
            memory_peak_mib: 1,
        }
    }

    #[test]
    fn what_is_counted_adds_up_over_rows_and_what_nobody_measured_is_missed() {
        let ours = |count| report(Protocol::Ours, &[("false downs", count)]);
        let table = Table::of(vec![ours(30.0), ours(21.0), report(Protocol::Memberlist, &[("false downs", 7.0)])]);
        let line = |what: &str| table.lines.iter().find(|line| line.what == what).expect("a line");
        let downs = line("lifeguard at 128: false downs");
        assert_eq!((downs.ours, downs.memberlist, downs.met), (Some(51.0), Some(7.0), Some(false)));
        let healthy = line("lifeguard at 128: false downs at healthy members");
        assert_eq!((healthy.ours, healthy.met), (None, Some(false)));
        assert!(
            table.text().contains("| lifeguard at 128: false downs | 51 | 7 | <= 50 | MISSED |"),
            "{}",
            table.text()
        );
    }
}
