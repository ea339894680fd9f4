//! Many files of 4 KiB: how long a get takes inside a node, and how many puts a second a node takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use p2p_api::{Code, Problem};

use super::{Bench, Source};
use crate::Result;
use crate::bench::net::{Net, get, must_be, put};
use crate::bench::table::{Target, Unit, judge};
use crate::http::Connection;
use crate::programs::{limit, run};
use crate::workload::content;

/// Length of a small file, in bytes.
const LEN: usize = 4 << 10;

/// Files of which each is got once in a round.
const GETS: u64 = 1000;

/// Gets before the first round, that open links and fill what fills.
const WARM_GETS: u64 = 100;

/// Requests in flight at once, each on a connection of its own that is kept.
const AT_ONCE: u64 = 16;

/// Names of contents that no other part uses.
const NAMES: u64 = 1 << 32;

const P50: &str = "get of 4 KiB from another node, in the node, p50";
const P99: &str = "get of 4 KiB from another node, in the node, p99";
const BY_CLI: &str = "puts of 4 KiB, one p2p-cli after the other";
const BY_HTTP: &str = "puts of 4 KiB, HTTP, 16 in flight";

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    bench.need_room(u64::from(bench.own.options.small_files) * LEN as u64 * 8, "storing small files")?;
    let seed = bench.seed;
    gets(bench, seed).await?;
    puts(bench, seed).await?;
    bench.judge(judge(P50, Unit::Ms, bench.table.samples(P50), Target::AtMost(2.0)));
    bench.judge(judge(P99, Unit::Ms, bench.table.samples(P99), Target::AtMost(5.0)));
    bench.judge(judge(BY_CLI, Unit::PerS, bench.table.samples(BY_CLI), Target::AtLeast(150.0)));
    bench.judge(judge(BY_HTTP, Unit::PerS, bench.table.samples(BY_HTTP), Target::AtLeast(1500.0)));
    Ok(())
}

/// Gets over a link that is open, one after the other, of files that the reader lacks every time.
async fn gets(bench: &mut Bench, seed: u64) -> Result<()> {
    let mut net = bench.net(1).await?;
    let addresses = put_by_http(&net, 0, seed, NAMES, GETS).await?;
    let reader = net.add().await?;
    net.must_be_empty(reader).await?;
    let mut connection = Connection::open(&net.socket(reader)).await?;
    for address in addresses.iter().take(WARM_GETS as usize) {
        get(&mut connection, address).await?;
    }
    for _ in 0..bench.own.options.runs {
        bench.settle(LEN as u64).await?;
        let before = get_times(&net, reader).await?;
        let started = Instant::now();
        for address in &addresses {
            get(&mut connection, address).await?;
        }
        let rate = GETS as f64 / started.elapsed().as_secs_f64();
        let times = get_times(&net, reader).await?.since(&before);
        let quantile = |part| {
            let missing = || Problem::new(Code::Other, format!("the node counted {} gets of {GETS}", times.count()));
            times.quantile(part).filter(|_| times.count() == GETS).map(|seconds| seconds * 1000.0).ok_or_else(missing)
        };
        bench.add(P50, Unit::Ms, quantile(0.5)?);
        bench.add(P99, Unit::Ms, quantile(0.99)?);
        bench.add("gets of 4 KiB from another node, one after the other", Unit::PerS, rate);
    }
    net.must_be_empty(reader).await?;
    net.down().await
}

async fn get_times(net: &Net, node: u32) -> Result<crate::metrics::Histogram> {
    net.metrics(node).await?.histogram("p2p_get_first_byte_seconds")
}

/// Puts on one lone node, by turns in both ways; it keeps what earlier rounds put.
async fn puts(bench: &mut Bench, seed: u64) -> Result<()> {
    let per_round = u64::from(bench.own.options.small_files / bench.own.options.runs);
    let mut net = bench.net(1).await?;
    let files = bench.dir().join("small");
    std::fs::create_dir(&files).map_err(|error| crate::state::failed("no folder for small files", &files, &error))?;
    for round in 0..u64::from(bench.own.options.runs) {
        let name = NAMES + GETS + 2 * round * per_round;
        let sources = small_files(&files, seed, name, per_round)?;
        bench.settle(per_round * LEN as u64).await?;
        let started = Instant::now();
        for source in &sources {
            let mut command = net.programs.cli(&net.home(0));
            command.arg("put").arg(&source.path);
            let ran = run(command, limit(source.len)).await?;
            must_be(&ran.stdout, &source.hash)?;
        }
        bench.add(BY_CLI, Unit::PerS, per_round as f64 / started.elapsed().as_secs_f64());
        sources.into_iter().try_for_each(Source::remove)?;
        bench.settle(per_round * LEN as u64).await?;
        let started = Instant::now();
        put_by_http(&net, 0, seed, name + per_round, per_round).await?;
        bench.add(BY_HTTP, Unit::PerS, per_round as f64 / started.elapsed().as_secs_f64());
    }
    // What was acknowledged is there: one that joins now has nothing of it.
    let reader = net.add().await?;
    let mut connection = Connection::open(&net.socket(reader)).await?;
    for name in [NAMES + GETS, NAMES + GETS + per_round] {
        get(&mut connection, blake3::hash(&bytes(seed, name)).to_hex().as_str()).await?;
    }
    net.down().await
}

/// Puts contents that follow each other over as many connections as are in flight; their addresses.
async fn put_by_http(net: &Net, node: u32, seed: u64, first: u64, count: u64) -> Result<Vec<String>> {
    let next = Arc::new(AtomicU64::new(0));
    let workers = (0..AT_ONCE.min(count)).map(|_| {
        let (socket, next) = (net.socket(node), next.clone());
        tokio::spawn(async move {
            let mut connection = Connection::open(&socket).await?;
            let mut addresses = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, Problem>(addresses);
                }
                let bytes = bytes(seed, first + number);
                let address = blake3::hash(&bytes).to_hex().to_string();
                put(&mut connection, &bytes, &address).await?;
                addresses.push(address);
            }
        })
    });
    let mut addresses = Vec::new();
    for worker in workers.collect::<Vec<_>>() {
        addresses.extend(worker.await.map_err(|error| Problem::new(Code::Other, error.to_string()))??);
    }
    Ok(addresses)
}

fn bytes(seed: u64, name: u64) -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    content(seed, name).fill(&mut bytes);
    bytes
}

fn small_files(dir: &Path, seed: u64, first: u64, count: u64) -> Result<Vec<Source>> {
    let one = |name: u64| {
        let (path, bytes): (PathBuf, _) = (dir.join(name.to_string()), bytes(seed, name));
        std::fs::write(&path, &bytes).map_err(|error| crate::state::failed("a file cannot be made", &path, &error))?;
        Ok(Source { path, len: bytes.len() as u64, hash: blake3::hash(&bytes).to_hex().to_string() })
    };
    (first..first + count).map(one).collect()
}
