//! `p2p-testnet`: networks of real nodes on this machine. The commands are thin over the library.

mod args;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use p2p_api::text::shell_word;
use p2p_api::types::{ErrorBody, ErrorDocument};
use p2p_api::{Code, Problem};
use p2p_testnet::cluster::{self, Change};
use p2p_testnet::matrix::Matrix;
use p2p_testnet::process::{Condition, End};
use p2p_testnet::report::{self, Network};
use p2p_testnet::state::Dir;
use p2p_testnet::{Cluster, ClusterConfig, Mode, bench, bugs, demo, faults, sim, torture};
use tokio::signal::unix::{Signal, SignalKind, signal};

use args::{Args, Bench, Early, Sim, Torture, Verb};

/// Where a network lives when nobody says.
const DIR_DEFAULT: &str = "testnet-data";

/// Time between two looks at a network in the foreground: for nodes that ended, and for a `down` from elsewhere.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

/// Exit codes of a command that a signal ended: 128 and its number.
const EXIT_INTERRUPTED: u8 = 130;
const EXIT_TERMINATED: u8 = 143;

fn main() -> ExitCode {
    let args = match args::parse(env::args_os().collect()) {
        Ok(args) => args,
        Err(Early::Text(text)) => return finish(report::print(&text).map(|()| 0), false),
        Err(Early::Malformed { problem, json }) => return finish(Err(problem), json),
    };
    let json = args.json;
    // Standard error then carries failures only.
    let say: Say = if json { |_| {} } else { report::note };
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Problem::new(Code::Other, format!("the system gives no threads: {error}")));
    finish(runtime.and_then(|runtime| runtime.block_on(run(args, say))), json)
}

/// Tells people something beside the result.
type Say = fn(&str);

fn finish(result: Result<u8, Problem>, json: bool) -> ExitCode {
    let exit = result.unwrap_or_else(|problem| {
        report::note(&p2p_api::text::problem(&problem, json));
        problem.code.exit()
    });
    ExitCode::from(exit)
}

/// Runs a command until it ends or a signal asks it to; dropping it then ends what it holds.
async fn run(args: Args, say: Say) -> Result<u8, Problem> {
    let mut interrupts = Interrupts::new()?;
    let json = args.json;
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(DIR_DEFAULT));
    let outcome = tokio::select! {
        outcome = command(args, &dir, say) => outcome?,
        exit = interrupts.next() => return Ok(interrupted(exit, json)),
    };
    match outcome {
        Outcome::Done => Ok(0),
        Outcome::Foreground(cluster) => watch(cluster, &mut interrupts, say).await,
    }
}

/// A command cut short: silent for people, who pressed the key.
fn interrupted(exit: u8, json: bool) -> u8 {
    let error = ErrorBody { code: Code::Other, message: "interrupted".to_owned(), hint: None, exit };
    if json && let Ok(line) = report::json(&ErrorDocument { error }) {
        report::note(line.trim_end());
    }
    exit
}

enum Outcome {
    Done,
    /// A network that is up and to be held until a signal.
    Foreground(Cluster),
}

async fn command(args: Args, path: &Path, say: Say) -> Result<Outcome, Problem> {
    let json = args.json;
    let dir = Dir::new(path)?;
    match args.verb {
        Verb::Up { nodes, detach, seed, force } => {
            return up(path, json, Up { nodes, detach, seed, force }, say).await;
        }
        Verb::Ps { matrix: false } => show(&dir, json)?,
        Verb::Ps { matrix: true } => {
            let matrix = Matrix::of(&dir).await?;
            report::print(&if json { report::json(&matrix)? } else { matrix.text() })?;
        }
        Verb::Kill { index } => force(&dir, json, index, Change::Kill).await?,
        Verb::Stop { index } => force(&dir, json, index, Change::Stop).await?,
        Verb::Cont { index } => force(&dir, json, index, Change::Continue).await?,
        Verb::Restart { index } => {
            dir.load()?;
            let end = detached(path, false)?.restart(index).await?;
            note_end(say, index, end);
            show(&dir, json)?;
        }
        Verb::Add { count, force } => {
            dir.load()?;
            detached(path, force)?.add(count).await?;
            show(&dir, json)?;
        }
        Verb::Partition { groups } => {
            faults::partition(&dir, &groups).await?;
            show(&dir, json)?;
        }
        Verb::Heal => {
            faults::heal(&dir).await?;
            show(&dir, json)?;
        }
        Verb::Fault { index, faults } => {
            faults::hurt(&dir, index, &faults).await?;
            show(&dir, json)?;
        }
        Verb::Down { delete } => down(&dir, json, delete, say).await?,
        Verb::Demo { file, nodes, seed } => {
            let options = demo::Options { dir: args.dir, file, nodes, seed, node_bin: None };
            let report = demo::run(options, say).await?;
            report::print(&if json { report::json(&report)? } else { report.text() })?;
        }
        Verb::Bench { what } => measure(what, args.dir, json, say).await?,
        Verb::Sim { what } => simulate(what, json, say).await?,
        Verb::Torture { what } => torture_it(what, args.dir, json, say).await?,
        Verb::Bugs { names, list } => plant(names, list, args.dir, json, say).await?,
    }
    Ok(Outcome::Done)
}

async fn measure(what: Bench, dir: Option<PathBuf>, json: bool, say: Say) -> Result<(), Problem> {
    let (record, note) = what.recording();
    if let Some(file) = &record {
        bench::check_record(file)?;
    }
    let report = match what {
        Bench::Content { size, runs, only, small_files, seed, .. } => {
            let size = size.as_u64();
            let options = bench::content::Options { dir, size, runs, only, small_files, seed, node_bin: None };
            bench::content::run(options, say).await?
        }
        Bench::Members { nodes, only, kills, stalls, seed, extent, .. } => {
            let extent = extent.or_usual();
            let options = bench::members::Options { dir, nodes, only, kills, stalls, seed, extent, node_bin: None };
            bench::members::run(options, say).await?
        }
        Bench::Kv { store_only, only, runs, writes, keys, seed, extent, .. } => {
            let extent = extent.or_usual();
            let options =
                bench::kv::Options { dir, store_only, only, runs, writes, keys, seed, extent, node_bin: None };
            bench::kv::run(options, say).await?
        }
    };
    // Shown before it is recorded: a full disk must not cost the figures.
    report::print(&if json { report::json(&report)? } else { report.text() })?;
    match record {
        Some(file) => bench::record(&file, &command_line(), note.as_deref(), &report),
        None => Ok(()),
    }
}

async fn simulate(what: Sim, json: bool, say: Say) -> Result<(), Problem> {
    let (scenario, nodes, seeds, first_seed, profile, trace, table) = match what {
        Sim::Members { scenario, nodes, seeds, first_seed, profile, trace, table } => {
            (scenario, nodes, seeds, first_seed, profile, trace, table)
        }
        Sim::Kv { scenario, nodes, seeds, first_seed, trace, record } => {
            let asked = sim::kv::Asked { scenario: scenario.0, nodes, first_seed, seeds, record }.check()?;
            if trace {
                return sim::kv::trace(&asked, report::print);
            }
            let report = sim::kv::run(asked, say).await?;
            report::print(&if json { report::json(&report)? } else { report.text() })?;
            return report.verdict();
        }
        Sim::KvScope { steps, record } => {
            let report = sim::kv::scope(steps, record.as_deref()).await?;
            report::print(&if json { report::json(&report)? } else { report.text() })?;
            return report.verdict();
        }
    };
    let Some(sim::Named(scenario)) = scenario else {
        let table = sim::run_table(sim::TableOptions { file: table.unwrap_or_default() }, say).await?;
        report::print(&if json { report::json(&table)? } else { table.text() })?;
        return table.verdict();
    };
    let asked = sim::Asked::new(scenario, profile.0, nodes, first_seed, seeds)?;
    if trace {
        return sim::trace(&asked, report::print);
    }
    let report = sim::run(asked).await?;
    report::print(&if json { report::json(&report)? } else { report.text() })?;
    report.verdict()
}

async fn torture_it(what: Torture, dir: Option<PathBuf>, json: bool, say: Say) -> Result<(), Problem> {
    match what {
        Torture::Content { cycles, seed, nodes, progress, resume } => {
            let (progress, resume) = progress_of(progress, resume);
            let options = torture::Options { dir, cycles, seed, nodes, progress, resume, node_bin: None };
            let report = torture::run(options, say).await?;
            report::print(&if json { report::json(&report)? } else { report.text() })?;
            report.verdict()
        }
        Torture::Kv { cycles, seed, nodes, mix, clients, progress, resume, node_bin, history, record } => {
            let (progress, resume) = progress_of(progress, resume);
            let options = torture::kv::Options {
                dir,
                cycles,
                seed,
                nodes,
                mix,
                clients,
                progress,
                resume,
                history,
                node_bins: node_bin,
            };
            let report = torture::kv::run(options, say).await?;
            // Shown before it is recorded: a full disk must not cost the figures.
            report::print(&if json { report::json(&report)? } else { report.text() })?;
            if let Some(file) = record {
                report.record(&file, &command_line())?;
            }
            report.verdict()
        }
    }
}

/// The file of a run, and whether it is to be taken up.
fn progress_of(new: PathBuf, resume: Option<PathBuf>) -> (PathBuf, bool) {
    match resume {
        Some(file) => (file, true),
        None => (new, false),
    }
}

async fn plant(names: Vec<String>, list: bool, dir: Option<PathBuf>, json: bool, say: Say) -> Result<(), Problem> {
    let root = bugs::root()?;
    if list {
        let bugs = bugs::load(&root)?;
        return report::print(&if json { report::json(&bugs)? } else { bugs::list(&bugs) });
    }
    let report = bugs::run(bugs::Options { root, dir, names }, say).await?;
    report::print(&if json { report::json(&report)? } else { report.text() })?;
    report.verdict()
}

/// What was typed, as it can be typed again.
fn command_line() -> String {
    env::args_os().map(|word| shell_word(Path::new(&word))).collect::<Vec<_>>().join(" ")
}

/// A network whose nodes are left running.
fn detached(dir: &Path, force: bool) -> Result<Cluster, Problem> {
    Cluster::new(ClusterConfig { dir: dir.to_owned(), mode: Mode::Detached, force, ..ClusterConfig::default() })
}

/// What `up` was asked for.
struct Up {
    nodes: Option<u32>,
    detach: bool,
    seed: Option<u64>,
    force: bool,
}

async fn up(path: &Path, json: bool, asked: Up, say: Say) -> Result<Outcome, Problem> {
    let Up { nodes, detach, seed, force } = asked;
    let mode = if detach { Mode::Detached } else { Mode::Held };
    let mut cluster =
        Cluster::new(ClusterConfig { dir: path.to_owned(), mode, seed, force, ..ClusterConfig::default() })?;
    let raised = cluster.raise(nodes).await?;
    let found = cluster.nodes()?;
    if raised.started == 0 {
        say("No node was down: nothing to start.");
    }
    if raised.stopped > 0 {
        say(&format!("{} stopped before and left so; see cont.", count(raised.stopped)));
    }
    if nodes.is_some_and(|nodes| (nodes as usize) < found.nodes.len()) {
        say(&format!("This network has {}; all were started.", count(found.nodes.len())));
    }
    report::print(&if json { report::json(&found)? } else { found.table() })?;
    say(found.things_to_try().trim_end());
    if detach || raised.started == 0 {
        return Ok(Outcome::Done);
    }
    say("Ctrl-C ends the network.");
    Ok(Outcome::Foreground(cluster))
}

fn count(nodes: usize) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}

/// Holds a network in the foreground until a signal, or until another command has ended it.
async fn watch(mut cluster: Cluster, interrupts: &mut Interrupts, say: Say) -> Result<u8, Problem> {
    let exit = loop {
        tokio::select! {
            exit = interrupts.next() => break exit,
            () = tokio::time::sleep(WATCH_PERIOD) => {}
        }
        for (index, status) in cluster.reap() {
            say(&format!("node {index} ended: {status}"));
        }
        if is_ended(cluster.dir())? {
            say("The network was ended by another command.");
            return Ok(0);
        }
    };
    say("Ending the network.");
    match cluster.down().await {
        Ok(ends) => ends.into_iter().for_each(|(index, end)| note_end(say, index, end)),
        // Another command was faster.
        Err(problem) if problem.code == Code::NotFound => {}
        Err(problem) => return Err(problem),
    }
    // A network that was asked to end has done its work; Ctrl-C keeps its usual code.
    Ok(if exit == EXIT_TERMINATED { 0 } else { exit })
}

/// `down` forgets the processes it has ended; a node that was killed is still remembered and may be restarted.
fn is_ended(dir: &Dir) -> Result<bool, Problem> {
    match dir.load() {
        Ok(state) => Ok(state.nodes.iter().all(|node| node.process.is_none())),
        Err(problem) if problem.code == Code::NotFound => Ok(true),
        Err(problem) => Err(problem),
    }
}

async fn force(dir: &Dir, json: bool, index: u32, change: Change) -> Result<(), Problem> {
    cluster::force(dir, index, change).await?;
    show(dir, json)
}

async fn down(dir: &Dir, json: bool, delete: bool, say: Say) -> Result<(), Problem> {
    let mut found = Network::of(dir)?;
    for (index, end) in cluster::down(dir, delete).await? {
        note_end(say, index, end);
    }
    for node in &mut found.nodes {
        node.state = Condition::Exited;
        node.pid = None;
    }
    if delete {
        found.nodes.clear();
    }
    match (json, delete) {
        (true, _) => report::print(&report::json(&found)?),
        (false, true) => report::print(&format!("{} is deleted\n", dir.path().display())),
        (false, false) => report::print(&found.table()),
    }
}

fn note_end(say: Say, index: u32, end: End) {
    if end == End::Forced {
        say(&format!("node {index} did not end by itself and was killed"));
    }
}

fn show(dir: &Dir, json: bool) -> Result<(), Problem> {
    let found = Network::of(dir)?;
    report::print(&if json { report::json(&found)? } else { found.table() })
}

/// The signals that ask a command to end.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> Result<Self, Problem> {
        let listen = |kind| {
            signal(kind).map_err(|error| Problem::new(Code::Other, format!("signals cannot be awaited: {error}")))
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for one; the exit code it stands for.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => EXIT_INTERRUPTED,
            _ = self.terminate.recv() => EXIT_TERMINATED,
        }
    }
}
