//! The tour: a file goes in at one node, comes out at others, also after the first one was killed, and every byte and
//! the address are compared with what they were made from.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use p2p_api::client::{Client, GetOptions, PutOptions};
use p2p_api::types::{PutResult, Stat};
use p2p_api::{Code, Problem};
use serde::Serialize;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, BufReader};
use tokio_util::io::ReaderStream;

use crate::cluster;
use crate::process::{Condition, Memory};
use crate::report::Network;
use crate::state::{Dir, failed};
use crate::{Cluster, ClusterConfig, Mode, Result};

/// Size of the generated file, in bytes.
const GENERATED_LEN: u64 = 128 << 20;

/// How much of a file is read at once, in bytes.
const READ_LEN: usize = 256 << 10;

/// Longest that a step may take, whatever the size of the file.
const STEP_LIMIT: Duration = Duration::from_secs(120);

/// The slowest transfer that is waited for, in bytes per second.
const RATE_MIN: u64 = 2 << 20;

/// What the tour is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the network, kept when something fails; None takes a temporary one.
    pub dir: Option<PathBuf>,
    /// The file; None generates one.
    pub file: Option<PathBuf>,
    /// Nodes, at least 2.
    pub nodes: u32,
    /// Determines the generated file and where the search for free ports starts.
    pub seed: u64,
    /// The p2p-node to run; None looks where the commands look.
    pub node_bin: Option<PathBuf>,
}

/// What was done and found. There is one only when every comparison held.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Nodes at the start.
    pub nodes: u32,
    /// BLAKE3 of the file, which is its address.
    pub address: String,
    /// Its size in bytes.
    pub size: u64,
    /// Copies wanted.
    pub replicas: u32,
    /// The least number of durable copies of any part.
    pub copies_min: u32,
    /// Who stored what after the put.
    pub stored: Vec<Stored>,
    /// Resident memory of the largest node before the put, in bytes.
    pub memory_idle: u64,
    /// The most that any node had during puts and gets, in bytes.
    pub memory_peak: u64,
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// Always true: the comparisons of bytes and address held.
    pub ok: bool,
}

/// What one node stores.
#[derive(Clone, Debug, Serialize)]
pub struct Stored {
    /// The I of `node-I`.
    pub index: u32,
    /// Peer id.
    pub peer: String,
    /// Whether it counts as a holder of the file.
    pub holder: bool,
    /// Objects in its store.
    pub objects: u64,
    /// Bytes of those objects.
    pub bytes: u64,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What was done.
    pub what: String,
    /// How long it took.
    pub seconds: f64,
    /// How fast, where bytes of the file went through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mib_per_s: Option<f64>,
}

impl Step {
    fn text(&self) -> String {
        let rate = self.mib_per_s.map_or_else(String::new, |rate| format!("{rate:>8.0} MiB/s"));
        format!("{:<58} {:>8.3} s {rate}", self.what, self.seconds).trim_end().to_owned()
    }
}

impl Report {
    /// The same for people.
    pub fn text(&self) -> String {
        let mut text = format!("address  {}\nsize     {} bytes\n", self.address, self.size);
        // Writing to a string does not fail.
        let _ = writeln!(text, "copies   {} of {} wanted", self.copies_min, self.replicas);
        for stored in &self.stored {
            let holder = if stored.holder { "holder" } else { "" };
            let (index, objects, bytes) = (stored.index, stored.objects, stored.bytes);
            let _ = writeln!(text, "node {index:<4} {objects:>8} objects {bytes:>14} bytes  {holder}");
        }
        let (idle, peak) = (self.memory_idle >> 20, self.memory_peak >> 20);
        let _ = writeln!(text, "memory   {idle} MiB idle, {peak} MiB at most, of the largest node");
        text.push_str("ok: every comparison held\n");
        text
    }
}

/// Runs the tour; `say` gets a line for every step as it ends. Whatever happens, no process of it is left.
///
/// # Errors
/// `integrity` when bytes or address differ; otherwise what failed on the way.
pub async fn run(options: Options, say: impl Fn(&str)) -> Result<Report> {
    let (path, _temporary) = match &options.dir {
        Some(dir) => (dir.clone(), None),
        None => {
            let temporary = temporary_dir()?;
            (temporary.path().join("net"), Some(temporary))
        }
    };
    if Dir::new(&path)?.load().is_ok() {
        let message = format!("{} holds a network, and the demo deletes its own at the end", path.display());
        return Err(Problem::new(Code::Exists, message).hint("Leave --dir out, or name a new folder."));
    }
    let source = match &options.file {
        Some(file) => Source::given(file)?,
        None => Source::generated(options.seed)?,
    };
    let config = ClusterConfig {
        dir: path,
        nodes: options.nodes,
        node_bins: options.node_bin.iter().cloned().collect(),
        mode: Mode::Held,
        seed: Some(options.seed),
        ..ClusterConfig::default()
    };
    Tour { size: source.size, steps: Vec::new(), say }.run(config, source).await
}

/// The file of the tour, held open: it stays readable whatever becomes of its name.
struct Source {
    path: PathBuf,
    size: u64,
    _temporary: Option<tempfile::NamedTempFile>,
}

impl Source {
    fn given(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Problem::new(Code::NotFound, format!("there is no file {}", path.display()))
                .hint("Leave FILE out to have one generated."),
            _ => failed("the file cannot be read", path, &error),
        })?;
        if !metadata.is_file() {
            return Err(Problem::new(Code::Usage, format!("{} is no regular file", path.display())));
        }
        Ok(Self { path: path.to_owned(), size: metadata.len(), _temporary: None })
    }

    /// Bytes that nothing compresses, the same for the same seed.
    fn generated(seed: u64) -> Result<Self> {
        let make = || -> io::Result<tempfile::NamedTempFile> {
            let mut file = tempfile::Builder::new().prefix("p2p-demo-").suffix(".bin").tempfile()?;
            let bytes = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
            io::copy(&mut bytes.take(GENERATED_LEN), &mut io::BufWriter::with_capacity(READ_LEN, &mut file))?;
            Ok(file)
        };
        let file = make().map_err(|error| failed("a file cannot be generated", &std::env::temp_dir(), &error))?;
        Ok(Self { path: file.path().to_owned(), size: GENERATED_LEN, _temporary: Some(file) })
    }

    /// Computed from the file alone, by the hash's own crate.
    async fn hash(&self) -> Result<String> {
        let path = self.path.clone();
        let hash = tokio::task::spawn_blocking(move || -> io::Result<blake3::Hash> {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(path)?)?;
            Ok(hasher.finalize())
        });
        let hash = hash.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        Ok(hash.map_err(|error| self.unreadable(&error))?.to_hex().to_string())
    }

    async fn open(&self) -> Result<tokio::fs::File> {
        tokio::fs::File::open(&self.path).await.map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &io::Error) -> Problem {
        failed("the file cannot be read", &self.path, error)
    }
}

struct Tour<S> {
    size: u64,
    steps: Vec<Step>,
    say: S,
}

impl<S: Fn(&str)> Tour<S> {
    async fn run(mut self, config: ClusterConfig, source: Source) -> Result<Report> {
        let nodes = config.nodes;
        let up = format!("up: {nodes} nodes that have all met");
        let mut cluster = self.step(&up, false, Cluster::up(config)).await?;
        let found = cluster.nodes()?;
        let memory_idle = largest(&found, |memory| memory.now);

        let put = self.step("put on node 0", true, put(cluster.client(0), &source)).await?;
        let hash = self.step("hash of the file, computed apart", true, source.hash()).await?;
        if hash != put.address {
            let message = format!("the file's BLAKE3 is {hash}, and the node says {}", put.address);
            return Err(Problem::new(Code::Integrity, message));
        }
        let stat = cluster.client(0).stat(&put.address, None).await?;
        let stored = who_stored(&cluster, &found, &stat).await?;

        let mut asked = BTreeSet::from([0]);
        let reader = another(&stored, &asked);
        asked.insert(reader);
        let get = compare(cluster.client(reader), &put.address, &source);
        self.step(&format!("get from node {reader}, every byte compared"), true, get).await?;

        let memory_peak = largest(&found, |memory| memory.peak);
        self.step("kill -9 of node 0, which took the put", false, cluster.kill(0)).await?;
        let reader = another(&stored, &asked);
        let get = compare(cluster.client(reader), &put.address, &source);
        self.step(&format!("get from node {reader}, every byte compared"), true, get).await?;

        let memory_peak = memory_peak.max(largest(&found, |memory| memory.peak));
        let dir = cluster.dir().clone();
        self.step("down", false, cluster::down(&dir, true)).await?;
        Ok(Report {
            nodes,
            address: put.address,
            size: self.size,
            replicas: stat.replicas,
            copies_min: stat.copies_min,
            stored,
            memory_idle,
            memory_peak,
            steps: self.steps,
            ok: true,
        })
    }

    async fn step<T>(&mut self, what: &str, bulk: bool, work: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = STEP_LIMIT + Duration::from_secs(self.size / RATE_MIN);
        let start = Instant::now();
        let done = tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(Problem::new(Code::TimedOut, format!("no end after {} s", limit.as_secs()))));
        let seconds = start.elapsed().as_secs_f64();
        let done = done.map_err(|problem| Problem { message: format!("{what}: {}", problem.message), ..problem })?;
        let mib_per_s = bulk.then(|| self.size as f64 / f64::from(1 << 20) / seconds);
        let step = Step { what: what.to_owned(), seconds, mib_per_s };
        (self.say)(&step.text());
        self.steps.push(step);
        Ok(done)
    }
}

async fn put(client: Client, source: &Source) -> Result<PutResult> {
    let stream = ReaderStream::with_capacity(source.open().await?, READ_LEN);
    let result = client.put(stream, Some(source.size), PutOptions::default()).await?;
    match result.problem {
        Some(problem) => Err(problem),
        None => Ok(result),
    }
}

/// Gets the content without leaving a copy at the node, and compares it with the file as it comes.
async fn compare(client: Client, address: &str, source: &Source) -> Result<()> {
    let options = GetOptions { no_cache: true, ..GetOptions::default() };
    let mut content = client.get(address, options).await?;
    let mut file = BufReader::with_capacity(READ_LEN, source.open().await?);
    let mut wanted = Vec::new();
    let mut position = 0;
    while let Some(part) = content.next().await {
        let part = part.map_err(|error| {
            Problem::new(Code::Partial, format!("the node broke off after {position} bytes: {error}"))
        })?;
        wanted.resize(part.len(), 0);
        match file.read_exact(&mut wanted).await {
            Ok(_) if wanted == part => position += part.len() as u64,
            Ok(_) => return Err(differs(position)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(differs(source.size)),
            Err(error) => return Err(source.unreadable(&error)),
        }
    }
    if position == source.size { Ok(()) } else { Err(differs(position)) }
}

fn differs(position: u64) -> Problem {
    Problem::new(Code::Integrity, format!("what came back differs from the file from byte {position} on"))
}

async fn who_stored(cluster: &Cluster, found: &Network, stat: &Stat) -> Result<Vec<Stored>> {
    let mut stored = Vec::new();
    for node in found.nodes.iter().filter(|node| node.state == Condition::Running) {
        let status = cluster.client(node.index).status().await?;
        stored.push(Stored {
            index: node.index,
            holder: stat.holders.contains(&node.peer),
            peer: node.peer.clone(),
            objects: status.objects,
            bytes: status.bytes,
        });
    }
    Ok(stored)
}

/// A figure of the node where it is largest.
fn largest(found: &Network, figure: impl Fn(Memory) -> u64) -> u64 {
    found.nodes.iter().filter_map(|node| Memory::of(node.pid?)).map(figure).max().unwrap_or(0)
}

/// The node to read from next: one that was not asked yet, and best one that must fetch all of it from others.
fn another(stored: &[Stored], asked: &BTreeSet<u32>) -> u32 {
    let best = stored.iter().max_by_key(|node| {
        let new = !asked.contains(&node.index);
        (node.index != 0, new, !node.holder, node.index)
    });
    best.map_or(0, |node| node.index)
}

fn temporary_dir() -> Result<TempDir> {
    let made = tempfile::Builder::new().prefix("p2p-demo-").tempdir();
    made.map_err(|error| failed("no temporary folder", &std::env::temp_dir(), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(holders: &[bool]) -> Vec<Stored> {
        let node = |(index, holder): (usize, &bool)| Stored {
            index: index as u32,
            peer: index.to_string(),
            holder: *holder,
            objects: 0,
            bytes: 0,
        };
        holders.iter().enumerate().map(node).collect()
    }

    #[test]
    fn who_has_to_fetch_is_asked_first_and_never_the_killed_one() {
        let five = stored(&[true, false, true, true, false]);
        assert_eq!(another(&five, &BTreeSet::from([0])), 4);
        assert_eq!(another(&five, &BTreeSet::from([0, 4])), 1);
        let two = stored(&[true, true]);
        assert_eq!(another(&two, &BTreeSet::from([0])), 1);
        assert_eq!(another(&two, &BTreeSet::from([0, 1])), 1);
    }

    #[tokio::test]
    async fn the_generated_file_depends_on_the_seed_alone() {
        let first = Source::generated(1).expect("room for a file");
        assert_eq!(std::fs::metadata(&first.path).expect("it is there").len(), GENERATED_LEN);
        let again = Source::generated(1).expect("room for a file");
        assert_eq!(first.hash().await.expect("readable"), again.hash().await.expect("readable"));
        let path = first.path.clone();
        drop(first);
        assert!(!path.exists(), "it is removed after use");
    }
}
