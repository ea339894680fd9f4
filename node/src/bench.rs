//! `p2p-node bench WHAT`, hidden: what this machine gives when nothing of ours is in the way, and our stages alone.
//!
//! These are the ceilings that `p2p-testnet bench` compares whole puts and gets with. Each command measures itself and
//! prints one [`Measured`]; bytes come from memory, are made before the clock starts, and nothing compresses them. Time on
//! the cores is that of the whole process, user and system, so a command does one thing.

mod kv;
mod memory;
mod rows;
mod store;
mod stream;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytesize::ByteSize;
use clap::{Args, Subcommand};
use p2p_api::bench::{Measured, Stage};
use p2p_api::{Code, Problem};
use p2p_dht::tree::GEOMETRY;
use rustix::time::{ClockId, clock_gettime};

/// Most bytes of one measurement: they are held in memory.
pub const SIZE_MAX: u64 = 8 << 30;

/// What can be measured.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// Rows as long as our objects, written to SQLite and read back by a bare loop
    Rows(OnDisk),
    /// The object store, without the hashing of what is written
    Store(OnDisk),
    /// One stream between two processes over our transport
    Stream(Streamed),
    /// BLAKE3 on one thread
    Hash(InMemory),
    /// A Unix socket, from one thread to another
    Socket(InMemory),
    /// A file, written with and without waiting for the disk
    Copy(OnDisk),
    /// The replicated map's file: writes through its rules, and by a bare loop
    Kv(OfMap),
    /// Two copies of the map that differ in a few keys, and have forgotten in which
    KvCompare(Compared),
    /// What keys and lives of nodes take on the disk
    KvSpace(Space),
}

/// A measurement in memory.
#[derive(Clone, Debug, Args)]
pub struct InMemory {
    /// Bytes to move
    #[arg(long, default_value = "1GiB")]
    size: ByteSize,
}

/// A measurement on a disk.
#[derive(Clone, Debug, Args)]
pub struct OnDisk {
    /// Folder to make files in; they are removed
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    memory: InMemory,
}

/// A measurement of the map.
#[derive(Clone, Debug, Args)]
pub struct OfMap {
    /// Folder to make files in; they are removed
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Writes
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    count: u64,
    /// Writes in one transaction
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..))]
    group: u16,
}

/// A measurement of two maps.
#[derive(Clone, Debug, Args)]
pub struct Compared {
    /// Folder to make files in; they are removed
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Keys
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Keys that differ; half of them were written last on either side
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    differences: u64,
}

/// A measurement of a file.
#[derive(Clone, Debug, Args)]
pub struct Space {
    /// Folder to make files in; they are removed
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Lives of a node, each with a write of its own
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    lives: u64,
}

/// A measurement between two processes.
#[derive(Clone, Debug, Args)]
pub struct Streamed {
    #[command(flatten)]
    memory: InMemory,
    /// Objects in frames of our links, with credit, instead of the bare stream
    #[arg(long)]
    link: bool,
    /// Be the sender: reads on standard input where to
    #[arg(long)]
    send: bool,
}

/// Measures, and prints what was found on one line.
///
/// # Errors
/// When the machine does not give what is needed.
pub fn run(what: What) -> Result<(), Problem> {
    let (bench, stages) = match what {
        What::Rows(args) => ("rows", rows::measure(&args.scratch("rows")?, args.memory.size()?)?),
        What::Store(args) => {
            let (scratch, size) = (args.scratch("store")?, args.memory.size()?);
            ("store", block_on(store::measure(&scratch, size))?)
        }
        What::Stream(args) => {
            let size = args.memory.size()?;
            let bench = if args.link { "link" } else { "stream" };
            let stages = match args.send {
                true => vec![block_on(stream::send(size, args.link))?],
                false => block_on(stream::measure(size, args.link))?,
            };
            (bench, stages)
        }
        What::Hash(args) => ("hash", vec![memory::hash(args.size()?)]),
        What::Socket(args) => ("socket", vec![memory::socket(args.size()?)?]),
        What::Kv(OfMap { dir, count, group }) => {
            ("kv", kv::measure(&Scratch::within(&dir, "kv")?, count, usize::from(group))?)
        }
        What::KvCompare(Compared { dir, keys, differences }) => {
            ("kv-compare", kv::compare(&Scratch::within(&dir, "kv")?, keys, differences.min(keys))?)
        }
        What::KvSpace(Space { dir, lives }) => ("kv-space", kv::space(&Scratch::within(&dir, "kv")?, lives)?),
        What::Copy(args) => ("copy", memory::copy(&args.scratch("copy")?, args.memory.size()?)?),
    };
    let line = serde_json::to_string(&Measured { bench: bench.to_owned(), stages }).map_err(failed("no document"))?;
    writeln!(std::io::stdout(), "{line}").map_err(failed("the result cannot be printed"))
}

/// On a runtime as a node's.
fn block_on<T>(work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(failed("the system gives no threads"))?.block_on(work)
}

impl InMemory {
    fn size(&self) -> Result<u64, Problem> {
        match self.size.as_u64() {
            size if (1..=SIZE_MAX).contains(&size) => Ok(size),
            size => Err(Problem::new(Code::Usage, format!("a size is 1 to {SIZE_MAX} bytes, not {size}"))),
        }
    }
}

impl OnDisk {
    fn scratch(&self, what: &str) -> Result<Scratch, Problem> {
        Scratch::within(&self.dir, what)
    }
}

/// A folder that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn within(dir: &Path, what: &str) -> Result<Self, Problem> {
        let path = dir.join(format!("p2p-bench-{what}-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(failed("no folder to measure in"))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs while a stage does.
struct Clock {
    started: Instant,
    cpu: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { started: Instant::now(), cpu: cpu_time() }
    }

    fn stop(self, stage: &str, bytes: u64) -> Stage {
        let seconds = self.started.elapsed().as_secs_f64();
        Stage::new(stage, bytes, seconds, (cpu_time() - self.cpu).as_secs_f64())
    }
}

/// What this process has spent on all cores so far, user and system: what `getrusage` counts, in finer steps.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Incompressible bytes of this length, cut into leaves. No two leaves are the same, nor are those of two calls.
fn leaves(size: u64) -> Vec<Bytes> {
    let mut random = blake3::Hasher::new().update(&rand::random::<[u8; 32]>()).finalize_xof();
    let leaf = |start: u64| {
        let mut bytes = vec![0; GEOMETRY.leaf_len.min(size - start) as usize];
        random.fill(&mut bytes);
        Bytes::from(bytes)
    };
    (0..size).step_by(GEOMETRY.leaf_len as usize).map(leaf).collect()
}

/// A failure of the machine, with what could not be done.
fn failed<E: Display>(what: &'static str) -> impl Fn(E) -> Problem {
    move |error| Problem::new(Code::Other, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = (3 << 20) + 5;

    pub(super) fn scratch() -> (tempfile::TempDir, Scratch) {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = OnDisk { dir: temp.path().to_owned(), memory: InMemory { size: ByteSize(SIZE) } };
        let scratch = dir.scratch("test").expect("a folder");
        (temp, scratch)
    }

    fn check(stages: &[Stage], names: &[&str]) {
        assert_eq!(stages.iter().map(|stage| stage.stage.as_str()).collect::<Vec<_>>(), names);
        for stage in stages.iter().filter(|stage| stage.stage != "close") {
            assert!(stage.bytes == SIZE && stage.seconds > 0.0 && stage.mib_per_s > 0.0, "{stage:?}");
            assert!(stage.cpu_seconds > 0.0, "{stage:?}");
        }
    }

    #[test]
    fn leaves_are_as_long_as_asked_and_never_the_same() {
        let (one, other) = (leaves(SIZE), leaves(SIZE));
        assert_eq!(one.iter().map(Bytes::len).collect::<Vec<_>>(), [1 << 20, 1 << 20, 1 << 20, 5]);
        assert!(one[0] != one[1] && one[0] != other[0]);
    }

    #[tokio::test]
    async fn every_stage_moves_all_bytes_and_leaves_no_file() {
        let (temp, folder) = scratch();
        check(&rows::measure(&folder, SIZE).expect("measured"), &["write", "close", "read"]);
        drop(folder);
        assert_eq!(std::fs::read_dir(temp.path()).expect("a folder").count(), 0);
        let (_temp, folder) = scratch();
        check(&store::measure(&folder, SIZE).await.expect("measured"), &["write", "read_verified", "close"]);
        let (_temp, folder) = scratch();
        check(&memory::copy(&folder, SIZE).expect("measured"), &["copy", "copy_fsync"]);
        check(&[memory::hash(SIZE), memory::socket(SIZE).expect("measured")], &["hash", "socket"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stream_between_two_swarms_carries_all_bytes() {
        for link in [false, true] {
            let (end, target) = stream::Receiving::open().await.expect("a listener");
            let sender = tokio::spawn(async move { stream::send_to(&target, SIZE, link).await });
            let received = end.receive(SIZE, link).await.expect("received");
            let sent = sender.await.expect("no panic").expect("sent");
            // One process here, so what it spent is in both.
            check(&[sent, received], &["send", "receive"]);
        }
    }
}
