//! How soon a write is on every node: writes at a steady rate by nodes that chance chooses.
//!
//! A write is late by what its schedule says, not by what came before it on the same connection: the next one does not wait
//! for its answer anywhere but on its own node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use p2p_api::{Code, Problem};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::load::Keys;
use super::seen::{Seen, Wanted};
use super::{Bench, Target, Unit, between, sums};
use crate::Result;
use crate::bench::net::Net;
use crate::http::Connection;
use crate::workload::Dice;

/// Writes a second, of all nodes together.
const RATE: u64 = 100;

/// Longest wait after the last write until all are answered, and again until all are everywhere.
const LIMIT: Duration = Duration::from_secs(60);

/// What shows where time goes.
const COUNTERS: [&str; 4] =
    ["p2p_kv_commits", "p2p_kv_busy_microseconds", "p2p_kv_asked_microseconds", "p2p_kv_questions_asked"];

/// When a write was sent and answered, in the time of [`Seen::clock`].
#[derive(Default)]
struct Write {
    sent: AtomicU64,
    answered: AtomicU64,
}

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    let nodes = bench.own.options.extent.spread_nodes;
    let net = bench.net(nodes, true).await?;
    for round in 0..bench.own.options.runs {
        measure_round(bench, &net, round).await?;
    }
    bench.judge_row(&format!("{}, p50", on_all(nodes)), Unit::Ms, Target::AtMost(50.0));
    bench.judge_row(&format!("{}, p99", on_all(nodes)), Unit::Ms, Target::AtMost(300.0));
    bench.judge_row(LATE, Unit::Count, Target::AtMost(0.0));
    net.down().await
}

const LATE: &str = "spread, writes not everywhere after 60 s";

fn on_all(nodes: u32) -> String {
    format!("spread, sent until on all of {nodes} nodes")
}

async fn measure_round(bench: &mut Bench, net: &Net, round: u32) -> Result<()> {
    let time = bench.own.options.extent.spread_time;
    let count = (time.as_secs_f64() * RATE as f64).ceil() as usize;
    let keys = Keys { word: "spr", seed: bench.seed };
    let mut seen = Seen::begin(net, Wanted::new(keys, count as u64, round.into())).await?;
    let before = sums(net, COUNTERS).await?;
    let (started, cpu) = (Instant::now(), net.cpu_seconds()?);
    let dice = Dice::of_part(bench.seed, round.into());
    let writes = write_all(net, &seen, dice, keys, count, round).await?;
    seen.until(|_, _| true, LIMIT).await?;
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), net.cpu_seconds()? - cpu);
    let counted = between(before, sums(net, COUNTERS).await?);
    let load = |time: &AtomicU64| time.load(Ordering::Relaxed);
    let sent: Vec<u64> = writes.iter().map(|write| load(&write.sent)).collect();
    let answered: Vec<u64> = writes.iter().map(|write| load(&write.answered)).collect();
    let times = seen.times();
    let puts: Vec<f64> = sent.iter().zip(&answered).map(|(sent, answered)| millis(*sent, *answered)).collect();
    let (half, all) = (times.len().div_ceil(2), times.len());
    bench.add_times("spread, sent until answered", &puts);
    bench.add_times(&format!("spread, sent until on {half} nodes"), &reached(&sent, &times, half).times);
    let Reached { times: since_sent, late } = reached(&sent, &times, all);
    bench.add_times(&on_all(all as u32), &since_sent);
    bench.add_times(&format!("spread, answered until on all of {all} nodes"), &reached(&answered, &times, all).times);
    bench.add(LATE, Unit::Count, late as f64);
    bench.add("spread, cores busy with nodes", Unit::Count, cpu / seconds);
    let [commits, busy, asked, questions] = counted.map(|count| count as f64 / seconds);
    let nodes = all as f64;
    bench.add("spread, transactions a second on a node", Unit::PerS, commits / nodes);
    bench.add("spread, part of the time in transactions", Unit::Percent, busy / 1e6 / nodes * 100.0);
    bench.add("spread, the same with questions or answers", Unit::Percent, asked / 1e6 / nodes * 100.0);
    bench.add("spread, questions a second of all nodes", Unit::PerS, questions);
    Ok(())
}

/// Writes at a steady rate, and waits for the answers.
async fn write_all(
    net: &Net,
    seen: &Seen,
    mut dice: Dice,
    keys: Keys,
    count: usize,
    round: u32,
) -> Result<Arc<Vec<Write>>> {
    let writes: Arc<Vec<Write>> = Arc::new((0..count).map(|_| Write::default()).collect());
    let (mut writers, mut feeds) = (JoinSet::new(), Vec::new());
    for node in net.indices()? {
        let (feed, fed) = mpsc::channel(count);
        let connection = Connection::open(&net.socket(node)).await?;
        writers.spawn(writer(connection, fed, writes.clone(), seen.clock(), keys, round));
        feeds.push(feed);
    }
    let began = Instant::now();
    for number in 0..count {
        sleep_until(began + Duration::from_millis(number as u64 * 1000 / RATE)).await;
        let gone = |_| Problem::new(Code::Unreachable, "a node answers no writes any more");
        dice.choose(&feeds).try_send(number).map_err(gone)?;
    }
    drop(feeds);
    let all = async {
        while let Some(ended) = writers.join_next().await {
            ended.map_err(|error| Problem::new(Code::Other, error.to_string()))??;
        }
        Ok(())
    };
    let late = |_| Problem::new(Code::TimedOut, "writes are not answered");
    timeout(LIMIT, all).await.map_err(late)??;
    Ok(writes)
}

/// Writes what it is told to by one node, one after the other.
async fn writer(
    mut connection: Connection,
    mut fed: mpsc::Receiver<usize>,
    writes: Arc<Vec<Write>>,
    now: impl Fn() -> u64,
    keys: Keys,
    round: u32,
) -> Result<()> {
    while let Some(number) = fed.recv().await {
        let path = format!("/v1/kv/{}", keys.key(number as u64));
        let value = keys.value(number as u64, round.into());
        writes[number].sent.store(now(), Ordering::Relaxed);
        connection.request("PUT", &path, &[], value.as_bytes()).await?.success()?;
        writes[number].answered.store(now(), Ordering::Relaxed);
    }
    Ok(())
}

/// How long writes took to be on so many nodes.
#[derive(Debug, PartialEq)]
struct Reached {
    /// In milliseconds; of those that did not get there, as long as was waited at least.
    times: Vec<f64>,
    /// How many did not.
    late: usize,
}

/// How long after a time of its own each write was on so many nodes, of which each says when it had it.
fn reached(from: &[u64], seen: &[Vec<Option<u64>>], nodes: usize) -> Reached {
    let mut found = Reached { times: Vec::with_capacity(from.len()), late: 0 };
    for (number, from) in from.iter().enumerate() {
        let mut at: Vec<u64> = seen.iter().filter_map(|node| node[number]).collect();
        at.sort_unstable();
        match at.get(nodes - 1) {
            Some(at) => found.times.push(millis(*from, *at)),
            None => {
                found.late += 1;
                found.times.push(LIMIT.as_secs_f64() * 1000.0);
            }
        }
    }
    found
}

/// From one time to another, in milliseconds; 0 where it was before.
fn millis(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_on_so_many_nodes_when_the_last_of_them_has_it() {
        let seen = [vec![Some(1500), Some(9000)], vec![Some(4000), None], vec![Some(2000), Some(8000)]];
        let from = [1000, 8500];
        assert_eq!(reached(&from, &seen, 2), Reached { times: vec![1.0, 0.5], late: 0 });
        assert_eq!(reached(&from, &seen, 3), Reached { times: vec![3.0, 60_000.0], late: 1 });
        assert_eq!(reached(&from, &seen, 1).times, [0.5, 0.0], "it was there before its answer");
    }
}
