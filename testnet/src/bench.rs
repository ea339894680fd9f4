//! Benches: real nodes are measured, and the figures held against what was promised.
//!
//! Nothing here judges by itself: a target that is missed is shown as missed, and what cannot be measured is named as
//! skipped. Every figure is in the report with its unit, and can be kept with the machine that it was taken on.
//!
//! [`content`] measures puts and gets, [`members`] how soon everybody knows who is here, and what that costs, [`kv`] the
//! replicated map.

pub mod content;
pub mod kv;
pub mod members;
mod net;
mod record;
mod report;
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Result;
use crate::machine::{self, Machine};
use crate::programs::Programs;
use crate::state::failed;
use crate::workload;

use table::{Table, Target, Unit, Verdict, judge};

pub use record::{check_record, record};
pub use report::Report;

/// What every bench is told.
struct Common {
    /// Folder to measure in, whose file system counts; None takes a temporary one.
    dir: Option<PathBuf>,
    /// Determines what is left to chance; None takes another one every time.
    seed: Option<u64>,
    /// The p2p-node to run; None looks where the commands look.
    node_bin: Option<PathBuf>,
}

/// A bench at work: what all of them share, and what is its own.
struct Bench<O> {
    own: O,
    programs: Programs,
    machine: Machine,
    load_before: f64,
    scratch: TempDir,
    table: Table,
    verdicts: Vec<Verdict>,
    skipped: Vec<String>,
    seed: u64,
    say: fn(&str),
}

impl<O> Bench<O> {
    fn with(common: Common, say: fn(&str), own: impl FnOnce(&Path) -> Result<O>) -> Result<Self> {
        let parent = common.dir.unwrap_or_else(std::env::temp_dir);
        let scratch = tempfile::Builder::new().prefix("p2p-bench-").tempdir_in(&parent);
        let scratch = scratch.map_err(|error| failed("no folder to measure in", &parent, &error))?;
        Ok(Self {
            own: own(scratch.path())?,
            programs: Programs::find(common.node_bin)?,
            machine: Machine::here(scratch.path()),
            load_before: machine::load(),
            scratch,
            table: Table::default(),
            verdicts: Vec::new(),
            skipped: Vec::new(),
            seed: common.seed.unwrap_or_else(workload::another_seed),
            say,
        })
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Tells that something is not measured, and why.
    fn skip(&mut self, what: String) {
        (self.say)(&format!("skipped: {what}"));
        self.skipped.push(what);
    }

    /// Takes a figure into the table.
    fn add(&mut self, name: &str, unit: Unit, figure: f64) {
        (self.say)(&format!("{name:<44} {figure:>10.3} {}", unit.word()));
        self.table.add(name, unit, figure);
    }

    /// Takes a figure that was promised to be at most so large.
    fn promise(&mut self, name: &str, unit: Unit, figure: f64, bound: f64) {
        self.add(name, unit, figure);
        let samples = self.table.samples(name);
        self.judge(judge(name, unit, samples, Target::AtMost(bound)));
    }

    /// Takes a verdict, if there is one.
    fn judge(&mut self, verdict: Option<Verdict>) {
        self.verdicts.extend(verdict);
    }

    /// The report; `asked` are the numbers that the run was asked for.
    fn finish<const N: usize>(self, groups: Vec<&'static str>, asked: [(&'static str, u64); N]) -> Report {
        Report {
            date: machine::date(),
            commit: machine::commit(),
            machine: self.machine,
            load_before: self.load_before,
            load_after: machine::load(),
            asked: asked.into(),
            seed: self.seed,
            groups,
            rows: self.table.rows(),
            verdicts: self.verdicts,
            skipped: self.skipped,
        }
    }
}

/// The groups to measure: those that were named, or all.
fn chosen<G: Copy + Ord>(only: &[G], all: &[G]) -> BTreeSet<G> {
    if only.is_empty() { all } else { only }.iter().copied().collect()
}
