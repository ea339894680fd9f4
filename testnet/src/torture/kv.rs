//! `torture kv`: nodes are killed, cut off and set back while clients write the replicated map, and what they were told is
//! judged from outside.
//!
//! Clients read and write a few keys through all nodes while one fault strikes after the other. After some cycles, an epoch, they
//! stop, everything heals, all nodes must come to say the same, and every acknowledged write must stand or have been replaced
//! by one that can have done it. The next epoch has other keys; those of this one are deleted, and must not come back.
//!
//! [`plan`] says what a cycle does, [`chaos`] does it, [`load`] is the clients, [`history`] what they were told, [`look`] what
//! stands at all nodes, [`judge`] whether that can be.

mod chaos;
mod history;
mod judge;
mod load;
mod look;
mod plan;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use p2p_api::client::{KvReplaces, KvWriteOptions};
use p2p_api::{Code, Problem};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::progress::{Header, Kind, Progress, Sum};
use crate::machine::{self, Machine};
use crate::state::failed;
use crate::workload::{Dice, another_seed};
use crate::{Cluster, ClusterConfig, Result, cluster, launch, report};

use chaos::{Chaos, Done, Stop};
use history::{History, Outcome, Recorder, What};
use judge::{Breach, Excused, Last};
use load::Load;
use plan::Plan;

pub use plan::Mix;

/// Cycles between two looks at everything.
const EPOCH_CYCLES: u32 = 25;

/// Cycles when nobody says.
const CYCLES_DEFAULT: u32 = 200;

/// Fewest nodes: one never forgets, and two others are apart.
pub const NODES_MIN: u32 = 3;

/// Most nodes.
pub const NODES_MAX: u32 = 12;

/// Clients when nobody says.
pub const CLIENTS_DEFAULT: u32 = 8;

/// Most clients.
pub const CLIENTS_MAX: u32 = 64;

/// Most breaches that are told; all are counted.
const BREACHES_MAX: usize = 20;

/// Most excused writes that are listed; all are counted.
const EXCUSED_MAX: usize = 100;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder to work in; None takes a temporary one. What is in it stays when a promise was broken.
    pub dir: Option<PathBuf>,
    /// Cycles in all; of a run that is taken up, None means as many as it wanted.
    pub cycles: Option<u32>,
    /// Determines what is done; None takes another one every time. Not for a run that is taken up.
    pub seed: Option<u64>,
    /// Nodes. Not for a run that is taken up.
    pub nodes: u32,
    /// Which faults strike. Not for a run that is taken up.
    pub mix: Mix,
    /// Clients. Not for a run that is taken up.
    pub clients: u32,
    /// File that says how far it came, or comes from a run to be taken up.
    pub progress: PathBuf,
    /// Whether to take up the run of that file.
    pub resume: bool,
    /// File for every call and every fault; None keeps those of the last epoch in the network's folder.
    pub history: Option<PathBuf>,
    /// The p2p-node to run; several are run in turn, node by node; none looks where the commands look.
    pub node_bins: Vec<PathBuf>,
}

/// What was done and found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Determines what was done.
    pub seed: u64,
    /// Nodes.
    pub nodes: u32,
    /// Which faults struck.
    pub mix: Mix,
    /// Clients.
    pub clients: u32,
    /// Sums over all cycles, also those of a run that was taken up.
    #[serde(flatten)]
    pub totals: Totals,
    /// What ended the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<Broken>,
}

/// Promises that were broken.
#[derive(Clone, Debug, Serialize)]
pub struct Broken {
    /// The last cycle before that was seen.
    pub cycle: u32,
    /// Which promises, and how.
    pub breaches: Vec<Breach>,
    /// All that happened to the key of the first of them.
    pub history: Vec<String>,
    /// What is left.
    pub dir: PathBuf,
}

/// Calls of one kind, by what came of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Calls {
    /// Acknowledged, or answered.
    pub ok: u64,
    /// Refused: nothing was done.
    pub refused: u64,
    /// Whether anything was done is not known.
    pub unknown: u64,
}

/// One epoch, or the sum of many.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Cycles.
    pub cycles: u32,
    /// Time they took.
    pub seconds: f64,
    /// Calls that put a value.
    pub puts: Calls,
    /// Calls that delete.
    pub deletes: Calls,
    /// Calls that read.
    pub gets: Calls,
    /// How often each fault struck.
    pub faults: BTreeMap<String, u32>,
    /// Those of them that made a node forget while all nodes were equal and nothing was under way.
    pub resets_in_sync: u32,
    /// Acknowledged writes that were judged.
    pub writes_judged: u64,
    /// Answers to reads that were judged.
    pub reads_judged: u64,
    /// Acknowledged or seen values that are gone, in the end or from a node that knew them.
    pub lost: u64,
    /// Dots that name two values, or values with two dots.
    pub dots_reused: u64,
    /// Values that are there again after something took their place.
    pub resurrected: u64,
    /// Other promises that were broken.
    pub other_breaches: u64,
    /// Longest time until all nodes were equal, in milliseconds.
    pub equal_ms_max: u64,
    /// Acknowledged writes that were lost, as they may be, in number.
    pub excused_count: u64,
    /// Which: the first of them.
    pub excused: Vec<Excused>,
}

impl Sum for Totals {
    fn cycles(&self) -> u32 {
        self.cycles
    }

    fn add(&mut self, more: &Self) {
        self.cycles += more.cycles;
        self.seconds += more.seconds;
        for (sum, more) in [(&mut self.puts, more.puts), (&mut self.deletes, more.deletes), (&mut self.gets, more.gets)]
        {
            sum.ok += more.ok;
            sum.refused += more.refused;
            sum.unknown += more.unknown;
        }
        for (fault, count) in &more.faults {
            *self.faults.entry(fault.clone()).or_default() += count;
        }
        self.resets_in_sync += more.resets_in_sync;
        self.writes_judged += more.writes_judged;
        self.reads_judged += more.reads_judged;
        self.lost += more.lost;
        self.dots_reused += more.dots_reused;
        self.resurrected += more.resurrected;
        self.other_breaches += more.other_breaches;
        self.equal_ms_max = self.equal_ms_max.max(more.equal_ms_max);
        self.excused_count += more.excused_count;
        self.excused.extend(more.excused.iter().cloned());
        self.excused.truncate(EXCUSED_MAX);
    }
}

impl Totals {
    /// What was done in an epoch.
    fn count(&mut self, history: &History) {
        for call in &history.calls {
            let of_kind = match call.what {
                What::Get => &mut self.gets,
                What::Put { .. } => &mut self.puts,
                What::Delete { .. } => &mut self.deletes,
            };
            match call.outcome {
                Outcome::Ok { .. } | Outcome::Seen(_) => of_kind.ok += 1,
                Outcome::Refused { .. } => of_kind.refused += 1,
                Outcome::Unknown { .. } => of_kind.unknown += 1,
            }
        }
    }

    fn count_breaches(&mut self, breaches: &[Breach]) {
        for breach in breaches {
            *match breach.kind {
                judge::Kind::Lost | judge::Kind::Forgotten => &mut self.lost,
                judge::Kind::DotReused | judge::Kind::TwoDots => &mut self.dots_reused,
                judge::Kind::Resurrected => &mut self.resurrected,
                judge::Kind::NotEqual
                | judge::Kind::NotBack
                | judge::Kind::Strange
                | judge::Kind::NeverWritten
                | judge::Kind::OfRefused => &mut self.other_breaches,
            } += 1;
        }
    }

    fn line(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(|(fault, count)| format!("{count} {fault}")).collect();
        format!(
            "{}; {} writes and {} reads judged, {} excused, {:.1} s",
            faults.join(", "),
            self.writes_judged,
            self.reads_judged,
            self.excused_count,
            self.seconds
        )
    }

    fn text(&self) -> String {
        let calls = |calls: &Calls| format!("{} ok, {} refused, {} unknown", calls.ok, calls.refused, calls.unknown);
        let faults: Vec<String> = self.faults.iter().map(|(fault, count)| format!("{count} {fault}")).collect();
        let Self { cycles, seconds, resets_in_sync, writes_judged, reads_judged, .. } = self;
        let Self { lost, dots_reused, resurrected, other_breaches, equal_ms_max, excused_count, .. } = self;
        let mut text = format!(
            "cycles   {cycles} in {seconds:.0} s\n\
             puts     {}\n\
             deletes  {}\n\
             gets     {}\n\
             faults   {}; of those that make a node forget {resets_in_sync} with all in sync\n\
             judged   {writes_judged} acknowledged writes, {reads_judged} reads; equal after {:.1} s at most\n\
             wrong    {lost} lost, {dots_reused} dots reused, {resurrected} resurrected, {other_breaches} other\n\
             excused  {excused_count}\n",
            calls(&self.puts),
            calls(&self.deletes),
            calls(&self.gets),
            faults.join(", "),
            *equal_ms_max as f64 / 1e3,
        );
        for Excused { key, value, why } in &self.excused {
            text.push_str(&format!("         {key}: {value}, {why}\n"));
        }
        text
    }
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let verdict = match &self.broken {
            None => "ok: every promise held\n".to_owned(),
            Some(broken) => broken.text(self.seed),
        };
        format!(
            "seed     {}, {} nodes, {} clients\n{}{verdict}",
            self.seed,
            self.nodes,
            self.clients,
            self.totals.text()
        )
    }

    /// What a command ends with.
    ///
    /// # Errors
    /// When a promise was broken.
    pub fn verdict(&self) -> Result<()> {
        let Some(Broken { cycle, breaches, dir, .. }) = &self.broken else { return Ok(()) };
        let what = breaches.first().map_or("a promise was broken", |breach| &breach.what);
        Err(Problem::new(Code::Other, format!("cycle {cycle} of seed {}: {what}", self.seed))
            .hint(format!("What is left is in {}", dir.display())))
    }

    /// Adds the run to a file of results.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&self, path: &Path, command: &str) -> Result<()> {
        let machine = Machine::here(Path::new(".")).text();
        let (date, commit) = (machine::date(), machine::commit());
        let line = report::json(&Row { date, commit, machine, command, figures: self })?;
        // One write: a row is there whole or not at all.
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(|error| failed("the run cannot be recorded", path, &error))
    }
}

/// A line of the file of results.
#[derive(Serialize)]
struct Row<'a> {
    date: String,
    commit: String,
    machine: String,
    command: &'a str,
    figures: &'a Report,
}

impl Broken {
    fn text(&self, seed: u64) -> String {
        let mut text = format!("BROKEN   by cycle {} of seed {seed}\n", self.cycle);
        for Breach { kind, key, what, .. } in &self.breaches {
            text.push_str(&format!(
                "{kind:?}: {}{what}\n",
                key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default()
            ));
        }
        self.history.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        text.push_str(&format!("left in  {}\n", self.dir.display()));
        text
    }
}

/// Runs all cycles, or until a promise is broken; `say` gets a line for each epoch.
///
/// # Errors
/// When the machine does not give what is needed. A broken promise is in the report.
pub async fn run(options: Options, say: fn(&str)) -> Result<Report> {
    let usage = |message: String| Problem::new(Code::Usage, message).hint("p2p-testnet torture kv --help");
    if !(NODES_MIN..=NODES_MAX).contains(&options.nodes) {
        return Err(usage(format!("nodes are {NODES_MIN} to {NODES_MAX}, not {}", options.nodes)));
    }
    // Before anything is made.
    let node_bins = if options.node_bins.is_empty() { vec![launch::find_node()?] } else { options.node_bins };
    if let Some(missing) = node_bins.iter().find(|path| !path.is_file()) {
        return Err(usage(format!("--node-bin names no file: {}", missing.display())));
    }
    let (progress, header, totals) = match options.resume {
        true => Progress::take_up(&options.progress, options.cycles, |kind| matches!(kind, Kind::Kv { .. }))?,
        false => {
            let kind = Kind::Kv { mix: options.mix, clients: options.clients };
            let seed = options.seed.unwrap_or_else(another_seed);
            let cycles = options.cycles.unwrap_or(CYCLES_DEFAULT);
            let header = Header { kind, seed, nodes: options.nodes, cycles };
            (Progress::begin(&options.progress, &header)?, header, Totals::default())
        }
    };
    let Header { kind: Kind::Kv { mix, clients }, seed, nodes, cycles } = header else {
        return Err(usage("this is no run of the map".to_owned()));
    };
    let parent = options.dir.unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new().prefix("p2p-torture-").tempdir_in(&parent);
    let scratch = scratch.map_err(|error| failed("no folder to work in", &parent, &error))?;
    let mut config = toml::Table::new();
    config.insert("profile".to_owned(), "local".into());
    let dir = scratch.path().join("net");
    let config = ClusterConfig { dir, nodes, node_bins, config, ..ClusterConfig::default() };
    let history = options.history;
    let mut torture = Torture { seed, nodes, mix, clients, scratch, progress, totals, history, say };
    let mut net = Cluster::up(config).await?;
    let broken = torture.all(&mut net, cycles).await?;
    let Torture { totals, scratch, .. } = torture;
    match &broken {
        // Logs and stores say more than a report.
        Some(_) => drop(scratch.keep()),
        None => drop(cluster::down(net.dir(), true).await?),
    }
    Ok(Report { seed, nodes, mix, clients, totals, broken })
}

struct Torture {
    seed: u64,
    nodes: u32,
    mix: Mix,
    clients: u32,
    scratch: TempDir,
    progress: Progress,
    totals: Totals,
    history: Option<PathBuf>,
    say: fn(&str),
}

impl Torture {
    /// Cycles from where the last run ended, in epochs.
    async fn all(&mut self, net: &mut Cluster, cycles: u32) -> Result<Option<Broken>> {
        let path = self.history.clone().unwrap_or_else(|| net.dir().path().join("history.jsonl"));
        let keeps_all = self.history.is_some();
        let recorder = Arc::new(Recorder::begin(&path, self.nodes)?);
        while self.totals.cycles < cycles {
            let first = self.totals.cycles + 1;
            let last = cycles.min(self.totals.cycles + EPOCH_CYCLES);
            if !keeps_all {
                recorder.forget()?;
            }
            let mut seen = Totals::default();
            let mut broken = self.epoch(net, &recorder, first, last, &mut seen).await?;
            if let Some(broken) = &mut broken {
                seen.count_breaches(&broken.breaches);
                broken.breaches.truncate(BREACHES_MAX);
                self.totals.add(&seen);
                self.progress.breach(&broken.breaches)?;
            } else {
                self.totals.add(&seen);
                self.progress.cycle(last, &seen)?;
                (self.say)(&format!("cycles {first:>4} to {last:>4}  {}", seen.line()));
            }
            if broken.is_some() {
                return Ok(broken);
            }
        }
        Ok(None)
    }

    /// Some cycles with clients on keys of their own, and at their end a look at everything.
    async fn epoch(
        &self,
        net: &mut Cluster,
        recorder: &Arc<Recorder>,
        first: u32,
        last: u32,
        seen: &mut Totals,
    ) -> Result<Option<Broken>> {
        let started = Instant::now();
        let copies = self.scratch.path().join("copies");
        let clients: Vec<_> = (0..self.nodes).map(|node| net.client(node)).collect();
        let load = Load::begin(self.seed, first, self.clients, &clients, recorder);
        let (mut at, mut breach) = (first, None);
        for cycle in first..=last {
            let plan = Plan::of(self.seed, cycle, self.nodes, self.mix);
            let equal_ms_max = &mut seen.equal_ms_max;
            let mut chaos = Chaos { net, recorder, load: &load, copies: &copies, equal_ms_max };
            at = cycle;
            match chaos.cycle(&plan).await {
                Ok(()) => seen.cycles += 1,
                Err(Stop::Failed(problem)) => return Err(problem),
                Err(Stop::Broken(found)) => {
                    breach = Some(found);
                    break;
                }
            }
            seen.resets_in_sync += u32::from(plan.kind.is_reset() && plan.in_sync);
        }
        load.end().await?;
        let settled = match breach {
            Some(breach) => Err(breach),
            None => {
                net.until_met().await?;
                or_breach(look::settled(net, recorder).await)?
            }
        };
        let history = recorder.take()?;
        seen.count(&history);
        for fault in &history.faults {
            *seen.faults.entry(fault.kind.word().to_owned()).or_default() += 1;
        }
        seen.seconds = started.elapsed().as_secs_f64();
        let settled = match settled {
            Ok(settled) => settled,
            Err(breach) => return Ok(Some(broken(net, at, vec![breach], &history))),
        };
        seen.equal_ms_max = settled.waited_ms.max(seen.equal_ms_max);
        let verdict = tokio::task::block_in_place(|| judge::judge(&history, &settled.last));
        (seen.writes_judged, seen.reads_judged) = (verdict.writes, verdict.reads);
        (seen.excused_count, seen.excused) = (verdict.excused.len() as u64, verdict.excused);
        seen.excused.truncate(EXCUSED_MAX);
        if !verdict.breaches.is_empty() {
            return Ok(Some(broken(net, at, verdict.breaches, &history)));
        }
        let cleaned = or_breach(clean(net, recorder, &settled.last, Dice::of_part(self.seed, at.into())).await)?;
        seen.seconds = started.elapsed().as_secs_f64();
        Ok(cleaned.err().map(|breach| broken(net, at, vec![breach], &history)))
    }
}

/// Deletes all keys through any nodes; they must be gone from all then.
async fn clean(net: &Cluster, recorder: &Recorder, last: &Last, mut dice: Dice) -> Done<()> {
    let nodes = net.nodes()?.nodes.len() as u64;
    for key in last.keys() {
        let client = net.client(dice.roll(nodes) as u32);
        let token = client.kv_get(key).await?.token;
        let options = KvWriteOptions { replaces: KvReplaces::Read(token), ..KvWriteOptions::default() };
        client.kv_del(key, &options).await?;
    }
    let settled = look::settled(net, recorder).await?;
    let Some((key, siblings)) = settled.last.first_key_value() else { return Ok(()) };
    let value = siblings.first().map(|sibling| sibling.value.clone());
    let what = "all nodes were equal, every key was deleted, and it is there".to_owned();
    Err(Breach { kind: judge::Kind::Resurrected, key: Some(key.clone()), value, what }.into())
}

/// What the machine does not give is no breach.
fn or_breach<T>(done: Done<T>) -> Result<std::result::Result<T, Breach>> {
    match done {
        Ok(value) => Ok(Ok(value)),
        Err(Stop::Broken(breach)) => Ok(Err(breach)),
        Err(Stop::Failed(problem)) => Err(problem),
    }
}

fn broken(net: &Cluster, cycle: u32, breaches: Vec<Breach>, history: &History) -> Broken {
    let key = breaches.iter().find_map(|breach| breach.key.as_deref());
    let history = key.map(|key| history.of_key(key)).unwrap_or_default();
    Broken { cycle, breaches, history, dir: net.dir().path().to_owned() }
}
