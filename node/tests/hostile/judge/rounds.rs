//! Honest transfers, and how fast they are.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_api::client::{GetOptions, PutOptions};

use super::cluster::{Cluster, Known, Node};

/// Bytes of each file that is put.
const PUT_LEN: usize = 2 << 20;

/// Bytes of the files that the victim puts meanwhile.
const SMALL_LEN: usize = 10_000;

/// How long the victim looks for what nobody has.
const SEARCH_TIME: Duration = Duration::from_millis(50);

/// Longest transfer: far more than any attack may make of it, and an end to those that hang.
const TRANSFER_TIME_MAX: Duration = Duration::from_secs(20);

/// How long each kind of transfer took, round by round.
#[derive(Default)]
pub(crate) struct Rates {
    /// Into the cluster, on the reader: the victim is one of the three that keep it.
    put: Vec<Duration>,
    /// From the victim, which alone has it.
    serve: Vec<Duration>,
    /// By the victim, from the holder, who alone has it.
    fetch: Vec<Duration>,
    /// A write to the map by each of the nodes, and a read of it.
    map: Vec<Duration>,
    /// What did not succeed.
    pub(crate) failures: Vec<String>,
}

/// What is left of the rates, and the times that say so.
pub(crate) struct Share {
    put: Part,
    serve: Part,
    fetch: Part,
    map: Part,
}

/// Medians of the same transfer.
struct Part {
    calm: Duration,
    now: Duration,
}

impl Rates {
    /// Measures so many rounds while the victim goes to whoever is there.
    pub(crate) async fn measure_busy(cluster: &Cluster, rounds: usize) -> Self {
        tokio::select! {
            rates = Self::measure(cluster, rounds) => rates,
            failure = keep_busy(&cluster.victim) => Self { failures: vec![failure], ..Self::default() },
        }
    }

    /// Measures so many rounds that nobody disturbs: then writes to the map reach as many nodes as they are to.
    pub(crate) async fn measure_calm(cluster: &Cluster, rounds: usize) -> Self {
        let mut rates = Self::measure(cluster, rounds).await;
        if let Err(problem) = cluster.map.spread(&cluster.reader, &cluster.victim).await {
            rates.failures.push(problem);
        }
        rates
    }

    /// Measures so many rounds.
    pub(crate) async fn measure(cluster: &Cluster, rounds: usize) -> Self {
        let mut rates = Self::default();
        for _ in 0..rounds {
            let failures = &mut rates.failures;
            rates.put.push(timed("a put", put(&cluster.reader, PUT_LEN), failures).await);
            rates.serve.push(timed("a get from it", get(&cluster.reader, &cluster.of_victim), failures).await);
            rates.fetch.push(timed("a get by it", get(&cluster.victim, &cluster.of_holder), failures).await);
            rates.map.push(timed("a write to the map", cluster.write_everywhere(), failures).await);
        }
        rates
    }

    /// These and others together.
    pub(crate) fn joined(&self, more: &Self) -> Self {
        let joined = |some: &[Duration], more: &[Duration]| [some, more].concat();
        Self {
            put: joined(&self.put, &more.put),
            serve: joined(&self.serve, &more.serve),
            fetch: joined(&self.fetch, &more.fetch),
            map: joined(&self.map, &more.map),
            failures: [&self.failures[..], &more.failures].concat(),
        }
    }

    pub(crate) fn share_of(&self, calm: &Self) -> Share {
        let part = |calm: &[Duration], now: &[Duration]| Part { calm: median(calm), now: median(now) };
        Share {
            put: part(&calm.put, &self.put),
            serve: part(&calm.serve, &self.serve),
            fetch: part(&calm.fetch, &self.fetch),
            map: part(&calm.map, &self.map),
        }
    }
}

impl Share {
    pub(crate) fn least(&self) -> f64 {
        [&self.put, &self.serve, &self.fetch].into_iter().map(Part::ratio).fold(f64::INFINITY, f64::min)
    }
}

impl Part {
    fn ratio(&self) -> f64 {
        self.calm.as_secs_f64() / self.now.as_secs_f64()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "put {}, get from it {}, get by it {}, map {}", self.put, self.serve, self.fetch, self.map)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({}/{} ms)", self.ratio(), self.calm.as_millis(), self.now.as_millis())
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    // None where the measurement broke off, which has failed already.
    times.get(times.len() / 2).copied().unwrap_or(TRANSFER_TIME_MAX)
}

async fn timed(what: &str, work: impl Future<Output = Result<(), String>>, failures: &mut Vec<String>) -> Duration {
    let began = Instant::now();
    let done = tokio::time::timeout(TRANSFER_TIME_MAX, work).await;
    let failed = match done {
        Ok(Ok(())) => return began.elapsed(),
        Ok(Err(problem)) => format!("{what} failed: {problem}"),
        Err(_elapsed) => format!("{what} did not end within {TRANSFER_TIME_MAX:?}"),
    };
    failures.push(failed);
    TRANSFER_TIME_MAX
}

/// Bytes that are the same for the same seed.
pub(crate) fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"honest").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// What is put has candidates at random, and what nobody has is asked of everybody.
/// How long that takes with members that do not answer is bounded elsewhere, and is no rate; but a put must succeed.
async fn keep_busy(victim: &Node) -> String {
    loop {
        if let Err(problem) = put(victim, SMALL_LEN).await {
            return format!("a put by the victim failed: {problem}");
        }
        let unknown = blake3::hash(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes()).to_hex();
        let searched = tokio::time::timeout(SEARCH_TIME, victim.client.get(&unknown, GetOptions::default())).await;
        if let Ok(Ok(_found)) = searched {
            return "the victim has found what nobody has".into();
        }
    }
}

/// Files that were put, so that none is put twice.
static NEXT: AtomicU64 = AtomicU64::new(0);

async fn put(node: &Node, len: usize) -> Result<(), String> {
    let content = content(NEXT.fetch_add(1, Ordering::Relaxed), len);
    let stream = futures::stream::iter([Ok(content.clone())]);
    let stored = node.client.put(stream, None, PutOptions::default()).await.map_err(|problem| problem.to_string())?;
    match stored.problem {
        None if stored.address == blake3::hash(&content).to_hex().as_str() => Ok(()),
        None => Err("another address than that of the bytes".into()),
        Some(problem) => Err(problem.to_string()),
    }
}

async fn get(node: &Node, known: &Known) -> Result<(), String> {
    let options = GetOptions { no_cache: true, ..GetOptions::default() };
    let mut found = node.client.get(&known.address, options).await.map_err(|problem| problem.to_string())?;
    let mut at = 0;
    while let Some(part) = found.next().await {
        let part = part.map_err(|error| error.to_string())?;
        if known.content.get(at..at + part.len()) != Some(&part[..]) {
            return Err(format!("other bytes at {at}"));
        }
        at += part.len();
    }
    if at == known.content.len() { Ok(()) } else { Err(format!("only {at} bytes")) }
}
