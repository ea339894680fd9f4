//! Torture: nodes are hurt while they work, and every promise is checked. [`kv`] is that of the replicated map.
//!
//! `torture content`: nodes are killed while files go in and come out, over and over, and every promise is checked.
//!
//! Each cycle has several writers and readers at once on a network of real nodes, kills one of them with SIGKILL at a moment
//! that the seed decides, brings it back, and judges: whatever a put acknowledged is there and right from every node, a get
//! brought the right bytes or said clearly that it did not, nothing hung. Between epochs the network is deleted and made
//! anew, so that the disk it takes is bounded; then a reader is killed in the middle of a long get, which must not begin
//! again from the start.
//!
//! [`plan`] says what a cycle does, [`chaos`] does it, [`judge`] looks at what is left, [`reader`] is the long get,
//! [`progress`] the file by which a run is taken up again.

mod chaos;
mod judge;
pub mod kv;
mod plan;
mod progress;
mod reader;

use std::path::PathBuf;

use p2p_api::{Code, Problem};
use serde::Serialize;
use tempfile::TempDir;

use crate::programs::Programs;
use crate::state::failed;
use crate::{Cluster, ClusterConfig, Result, cluster};

use judge::Breach;
use plan::{Files, Plan};
use progress::{Header, Kind, Progress, Sum, Totals};

/// Cycles on one network before it is deleted.
const EPOCH_CYCLES: u32 = 20;

/// Fewest nodes: with three copies, one of them killed, there must be others to take them.
pub const NODES_MIN: u32 = 4;

/// Most nodes.
pub const NODES_MAX: u32 = 12;

/// What each node may keep: all that an epoch puts, and not all that it leaves as cache.
const STORAGE_MAX: &str = "2GiB";

/// Free space that a run wants, in bytes: the stores of an epoch, and what is written beside them.
const ROOM: u64 = 13 << 30;

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
    /// File that says how far it came, or comes from a run to be taken up.
    pub progress: PathBuf,
    /// Whether to take up the run of that file.
    pub resume: bool,
    /// The p2p-node to run; None looks where the commands look.
    pub node_bin: Option<PathBuf>,
}

/// What was done and found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Determines what was done.
    pub seed: u64,
    /// Nodes.
    pub nodes: u32,
    /// Sums over all cycles, also those of a run that was taken up.
    #[serde(flatten)]
    pub totals: Totals,
    /// The promise that was broken, which ended the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breach: Option<Breach>,
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let verdict = match &self.breach {
            None => "ok: every promise held\n".to_owned(),
            Some(breach) => breach.text(self.seed),
        };
        format!("seed     {}, {} nodes\n{}{verdict}", self.seed, self.nodes, self.totals.text())
    }

    /// What a command ends with.
    ///
    /// # Errors
    /// `integrity` when a promise was broken.
    pub fn verdict(&self) -> Result<()> {
        let Some(breach) = &self.breach else { return Ok(()) };
        Err(Problem::new(Code::Integrity, format!("cycle {} of seed {}: {}", breach.cycle, self.seed, breach.what))
            .hint(format!("What is left is in {}", breach.dir.display())))
    }
}

/// Runs all cycles, or until a promise is broken; `say` gets a line for each.
///
/// # Errors
/// When the machine does not give what is needed. A broken promise is in the report.
pub async fn run(options: Options, say: fn(&str)) -> Result<Report> {
    let (progress, header, totals) = match options.resume {
        true => Progress::take_up(&options.progress, options.cycles, |kind| kind == Kind::Content)?,
        false => {
            let seed = options.seed.unwrap_or_else(crate::workload::another_seed);
            let cycles = options.cycles.unwrap_or(plan::CYCLES_DEFAULT);
            let header = Header { kind: Kind::Content, seed, nodes: options.nodes, cycles };
            (Progress::begin(&options.progress, &header)?, header, Totals::default())
        }
    };
    if !(NODES_MIN..=NODES_MAX).contains(&header.nodes) {
        let message = format!("nodes are {NODES_MIN} to {NODES_MAX}, not {}", header.nodes);
        return Err(Problem::new(Code::Usage, message));
    }
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new().prefix("p2p-torture-").tempdir_in(&parent);
    let scratch = scratch.map_err(|error| failed("no folder to work in", &parent, &error))?;
    let programs = Programs::find(options.node_bin)?;
    let mut torture = Torture { seed: header.seed, nodes: header.nodes, scratch, programs, progress, totals, say };
    torture.need_room()?;
    let breach = torture.all(header.cycles).await?;
    let Torture { seed, nodes, totals, scratch, .. } = torture;
    if breach.is_some() {
        // Logs and stores say more than a report.
        let _ = scratch.keep();
    }
    Ok(Report { seed, nodes, totals, breach })
}

struct Torture {
    seed: u64,
    nodes: u32,
    scratch: TempDir,
    programs: Programs,
    progress: Progress,
    totals: Totals,
    say: fn(&str),
}

impl Torture {
    fn need_room(&self) -> Result<()> {
        let dir = self.scratch.path();
        let free = rustix::fs::statvfs(dir).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        if free >= ROOM {
            return Ok(());
        }
        let message =
            format!("a run needs {} MiB on the disk of {}, and {} are free", ROOM >> 20, dir.display(), free >> 20);
        Err(Problem::new(Code::Full, message).hint("Name a folder on another disk by --dir."))
    }

    /// Cycles from where the last run ended, in epochs.
    async fn all(&mut self, cycles: u32) -> Result<Option<Breach>> {
        while self.totals.cycles < cycles {
            let first = self.totals.cycles + 1;
            let last = cycles.min(self.totals.cycles + EPOCH_CYCLES);
            if let Some(breach) = self.epoch(first, last).await? {
                return Ok(Some(breach));
            }
        }
        Ok(None)
    }

    /// Some cycles on one network, and at its end a look at everything.
    async fn epoch(&mut self, first: u32, last: u32) -> Result<Option<Breach>> {
        let mut net = Cluster::up(self.config("net", self.nodes)).await?;
        let mut files = Files::default();
        for cycle in first..=last {
            let started = std::time::Instant::now();
            let plan = Plan::of(self.seed, cycle, self.nodes);
            let mut seen = match chaos::cycle(&mut net, &self.programs, self.scratch.path(), &plan, &mut files).await? {
                Ok(seen) => seen,
                Err(broken) => return self.breach(&net, cycle, broken).await,
            };
            let look = if cycle == last { judge::Look::All } else { judge::Look::Recent };
            match judge::everywhere(&net, self.nodes, &files, look, &plan).await {
                Ok(checked) => seen.files_checked = checked,
                Err(broken) => return self.breach(&net, cycle, broken).await,
            }
            if cycle == last {
                cluster::down(net.dir(), true).await?;
                match reader::killed_in_the_middle(self, cycle).await? {
                    Ok(checks) => seen.readers = checks,
                    Err(breach) => return self.note(breach),
                }
            }
            seen.cycles = 1;
            seen.seconds = started.elapsed().as_secs_f64();
            self.totals.add(&seen);
            self.progress.cycle(cycle, &seen)?;
            (self.say)(&format!("cycle {cycle:>4}  {}", seen.line()));
        }
        Ok(None)
    }

    fn config(&self, name: &str, nodes: u32) -> ClusterConfig {
        let mut config = toml::Table::new();
        config.insert("storage_max".to_owned(), STORAGE_MAX.into());
        ClusterConfig {
            dir: self.scratch.path().join(name),
            nodes,
            node_bins: vec![self.programs.node.clone()],
            config,
            ..ClusterConfig::default()
        }
    }

    async fn breach(&mut self, net: &Cluster, cycle: u32, broken: judge::Broken) -> Result<Option<Breach>> {
        let breach = Breach::look(net, cycle, broken).await;
        self.note(breach)
    }

    fn note(&mut self, breach: Breach) -> Result<Option<Breach>> {
        self.progress.breach(&breach)?;
        Ok(Some(breach))
    }
}
