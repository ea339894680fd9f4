//! `bench content`: puts and gets of real nodes beside what this machine gives at most, and beside other programs.
//!
//! Everything that is compared is measured in the same rounds, one after the other, so that whatever else the machine does
//! is in all of it; a figure is the median of its rounds, and a target is held against that. Nothing here judges by itself:
//! a target that is missed is shown as missed, and what cannot be measured is named as skipped.
//!
//! [`transfer`] moves one large file, [`small`] many small ones, [`range`] a part of a large one, [`sources`] a file from
//! several holders, some of whom are hurt; [`others`] are the programs beside.

mod kubo;
mod others;
mod range;
mod small;
mod sources;
mod transfer;
mod warm;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

use p2p_api::{Code, Problem};

use super::net::Net;
use super::{Common, Report};
use crate::Result;
use crate::state::failed;
use crate::workload;

use warm::Warmth;

/// Most rounds.
pub const RUNS_MAX: u32 = 100;

/// Largest file, in bytes.
pub const SIZE_MAX: u64 = 8 << 30;

/// Memory that is gone through before each measurement, as a multiple of what it moves: what others have freed.
const WARMED: u64 = 4;

/// The same before the first one: nobody knows what was given back before.
const WARMED_FIRST: u64 = 64;

/// Free space beyond what a measurement needs, in bytes.
const DISK_SPARE: u64 = 1 << 30;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// A put on a lone node, beside rows in SQLite.
    Put,
    /// Gets from another node, beside their stages alone.
    Get,
    /// Other programs, in the same rounds as puts and gets.
    Others,
    /// Many files of 4 KiB.
    Small,
    /// A part of a long file.
    Range,
    /// Three sources beside one.
    Sources,
    /// Sources of which one corrupts or stalls.
    Faulty,
}

impl Group {
    /// All, in the order in which they are measured.
    pub const ALL: [Group; 7] =
        [Group::Put, Group::Get, Group::Others, Group::Small, Group::Range, Group::Sources, Group::Faulty];

    /// The name that `--only` takes.
    pub fn word(self) -> &'static str {
        match self {
            Group::Put => "put",
            Group::Get => "get",
            Group::Others => "others",
            Group::Small => "small",
            Group::Range => "range",
            Group::Sources => "sources",
            Group::Faulty => "faulty",
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
    /// Bytes of the large file.
    pub size: u64,
    /// Rounds.
    pub runs: u32,
    /// What to measure; empty means all.
    pub only: Vec<Group>,
    /// Small files that are put one after the other, over all rounds.
    pub small_files: u32,
    /// Determines contents; None takes another one every time, so that nothing is found that an earlier run left.
    pub seed: Option<u64>,
    /// The p2p-node to run; None looks where the commands look.
    pub node_bin: Option<PathBuf>,
}

/// Measures; `say` gets a line for every figure as it comes.
///
/// # Errors
/// When something cannot be measured that should be: what fails is no slow figure.
pub async fn run(options: Options, say: fn(&str)) -> Result<Report> {
    check(&options)?;
    let mut bench = Bench::new(options, say)?;
    if [Group::Put, Group::Get, Group::Others].into_iter().any(|group| bench.wants(group)) {
        transfer::measure(&mut bench).await?;
    }
    if bench.wants(Group::Small) {
        small::measure(&mut bench).await?;
    }
    if bench.wants(Group::Range) {
        range::measure(&mut bench).await?;
    }
    if bench.wants(Group::Sources) || bench.wants(Group::Faulty) {
        sources::measure(&mut bench).await?;
    }
    Ok(bench.report())
}

fn check(options: &Options) -> Result<()> {
    let usage = |message: String| Err(Problem::new(Code::Usage, message));
    if !(1..=RUNS_MAX).contains(&options.runs) {
        return usage(format!("runs are 1 to {RUNS_MAX}, not {}", options.runs));
    }
    if !(1..=SIZE_MAX).contains(&options.size) {
        return usage(format!("the size is 1 byte to {} GiB, not {}", SIZE_MAX >> 30, options.size));
    }
    if options.small_files < options.runs {
        return usage(format!("at least one small file a round: {} files are too few", options.small_files));
    }
    Ok(())
}

type Bench = super::Bench<Own>;

/// What only this bench needs.
struct Own {
    options: Options,
    groups: BTreeSet<Group>,
    warmth: Warmth,
    /// How many contents were made: each is another.
    contents: u64,
}

impl Bench {
    fn new(options: Options, say: fn(&str)) -> Result<Self> {
        let groups = super::chosen(&options.only, &Group::ALL);
        let common = Common { dir: options.dir.clone(), seed: options.seed, node_bin: options.node_bin.clone() };
        super::Bench::with(common, say, |scratch| {
            Ok(Own { options, groups, warmth: Warmth::new(scratch)?, contents: 0 })
        })
    }

    fn wants(&self, group: Group) -> bool {
        self.own.groups.contains(&group)
    }

    /// Prepares the machine for a measurement that moves so many bytes.
    async fn settle(&mut self, bytes: u64) -> Result<()> {
        let memory = self.machine.memory;
        let wanted = match self.own.warmth.is_new() {
            true => (WARMED_FIRST * bytes).min(memory),
            false => (WARMED * bytes).min(memory / 4),
        };
        let warmed = tokio::task::block_in_place(|| self.own.warmth.spread(wanted));
        warmed.map_err(|error| failed("memory cannot be warmed", self.scratch.path(), &error))
    }

    /// A new file of content that was never there before, durable on the disk.
    fn fresh_file(&mut self, len: u64) -> Result<Source> {
        self.own.contents += 1;
        let path = self.dir().join(format!("content-{}", self.own.contents));
        let content = workload::content(self.seed, self.own.contents);
        let hash = tokio::task::block_in_place(|| workload::write_file(&path, content, len))?;
        Ok(Source { path, len, hash })
    }

    /// Makes sure that there is room before anything is begun.
    fn need_room(&self, bytes: u64, what: &str) -> Result<()> {
        let free = rustix::fs::statvfs(self.dir()).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        let needed = bytes + DISK_SPARE;
        if free >= needed {
            return Ok(());
        }
        let (needed, free) = (needed.div_ceil(1 << 20), free >> 20);
        let message = format!("{what} needs {needed} MiB on the disk of {}, and {free} are free", self.dir().display());
        Err(Problem::new(Code::Full, message).hint("Name a folder on another disk by --dir, or a smaller --size."))
    }

    /// A network in a folder of its own, of nodes as users have them.
    async fn net(&self, nodes: u32) -> Result<Net> {
        self.net_of(nodes, true).await
    }

    /// A network whose nodes can be hurt, which costs them something.
    async fn net_with_doors(&self, nodes: u32) -> Result<Net> {
        self.net_of(nodes, false).await
    }

    async fn net_of(&self, nodes: u32, plain: bool) -> Result<Net> {
        let storage = (4 * self.own.options.size).max(10 << 30);
        Net::up(self.dir(), self.programs.clone(), nodes, storage, plain).await
    }

    fn report(self) -> Report {
        let groups = self.own.groups.iter().map(|group| group.word()).collect();
        let asked = [("size", self.own.options.size), ("runs", self.own.options.runs.into())];
        self.finish(groups, asked)
    }
}

/// A file to be stored.
struct Source {
    path: PathBuf,
    len: u64,
    /// Its BLAKE3.
    hash: String,
}

impl Source {
    fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|error| failed("a file cannot be removed", &self.path, &error))
    }
}

fn mib_per_s(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / f64::from(1 << 20) / seconds
}

fn per_gib(seconds: f64, bytes: u64) -> f64 {
    seconds / (bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_called_by_its_name() {
        for group in Group::ALL {
            assert_eq!(group.word().parse(), Ok(group));
        }
        assert!("everything".parse::<Group>().expect_err("no group").contains("faulty"));
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let options =
            Options { dir: None, size: 1 << 20, runs: 3, only: Vec::new(), small_files: 3, seed: None, node_bin: None };
        assert!(check(&options).is_ok());
        let wrong = [
            Options { runs: 0, ..options.clone() },
            Options { size: 0, ..options.clone() },
            Options { size: SIZE_MAX + 1, ..options.clone() },
            Options { small_files: 2, ..options },
        ];
        for options in wrong {
            assert_eq!(check(&options).expect_err("refused").code, Code::Usage);
        }
    }
}
