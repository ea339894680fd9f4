//! One node under load: durable writes by many clients, beside a bare loop that writes the same tables in transactions of the
//! size that was seen; and reads of what the node has in memory.
//!
//! Every round has a node of its own, because the bare loop begins with an empty file, too.

use std::time::Duration;

use super::load::{self, Ask, Asks, Keys, Load};
use super::store::{measure_map, stage_of};
use super::{Bench, CLIENTS, Group, Target, Unit};
use crate::Result;
use crate::bench::net::Net;

/// Longest time of the bare loop.
const LIMIT: Duration = Duration::from_secs(600);

const WRITES: &str = "writes";
const READS: &str = "reads from memory";
const BARE: &str = "bare loop, as many in a transaction";

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    (bench.say)(&format!("{CLIENTS} clients, values of {} bytes", load::VALUE_LEN));
    for _ in 0..bench.own.options.runs {
        let net = bench.net(1, true).await?;
        let group = if bench.wants(Group::Writes) { Some(writes(bench, &net).await?) } else { None };
        if bench.wants(Group::Reads) {
            reads(bench, &net).await?;
        }
        net.down().await?;
        if let Some(group) = group {
            bare(bench, group).await?;
        }
    }
    bench.judge_row(WRITES, Unit::PerS, Target::AtLeast(8000.0));
    bench.judge_row(&format!("{WRITES}, p99"), Unit::Ms, Target::AtMost(25.0));
    let ratio = bench.table.ratio(WRITES, BARE);
    bench.judge(super::judge("writes / bare loop", Unit::Ratio, ratio, Target::AtLeast(0.5)));
    bench.judge_row(READS, Unit::PerS, Target::AtLeast(20_000.0));
    Ok(())
}

/// Returns how many writes were in a transaction, on average.
async fn writes(bench: &mut Bench, net: &Net) -> Result<u64> {
    let keys = Keys { word: "wrt", seed: bench.seed };
    let asks = Asks { keys, from: 0, count: bench.own.options.writes, times: 1, ask: Ask::Put(0) };
    let (before, cpu) = (net.metrics(0).await?, net.cpu_seconds()?);
    let load = load::run(net.socket(0), asks).await?;
    let (after, cpu) = (net.metrics(0).await?, net.cpu_seconds()? - cpu);
    let since = |name| Ok(after.counter(name)? - before.counter(name)?);
    add(bench, WRITES, &load, cpu);
    let group = per(since("p2p_kv_writes")?, since("p2p_kv_commits")?);
    bench.add("writes, in a transaction, mean", Unit::Count, group);
    let busy = since("p2p_kv_busy_microseconds")? as f64 / 1e6 / load.seconds;
    bench.add("writes, part of the time in transactions", Unit::Percent, 100.0 * busy);
    Ok(group.round().max(1.0) as u64)
}

/// Reads keys that were read before.
async fn reads(bench: &mut Bench, net: &Net) -> Result<()> {
    let keys = Keys { word: "red", seed: bench.seed };
    let (count, times) = (bench.own.options.extent.read_keys, bench.own.options.extent.read_times);
    let once = |ask| Asks { keys, from: 0, count, times: 1, ask };
    load::run(net.socket(0), once(Ask::Put(0))).await?;
    load::run(net.socket(0), once(Ask::Get(0))).await?;
    let (before, cpu) = (net.metrics(0).await?, net.cpu_seconds()?);
    let load = load::run(net.socket(0), Asks { times, ..once(Ask::Get(0)) }).await?;
    let (after, cpu) = (net.metrics(0).await?, net.cpu_seconds()? - cpu);
    add(bench, READS, &load, cpu);
    let hits = after.counter("p2p_kv_reads_cached")? - before.counter("p2p_kv_reads_cached")?;
    bench.add("reads, of these from memory", Unit::Percent, 100.0 * per(hits, count * times));
    Ok(())
}

/// Takes the figures of a load; `cpu_seconds` are those of the node.
fn add(bench: &mut Bench, name: &str, load: &Load, cpu_seconds: f64) {
    let each = |seconds: f64| seconds * 1e6 / load.times.len() as f64;
    bench.add(name, Unit::PerS, load.rate());
    bench.add_times(name, &load.times);
    bench.add(&format!("{name}, node on a core, each"), Unit::Us, each(cpu_seconds));
    bench.add(&format!("{name}, clients on a core, each"), Unit::Us, each(load.cpu_seconds));
}

/// What the tables take without any of our rules, and what they do with them, both without a node.
async fn bare(bench: &mut Bench, group: u64) -> Result<()> {
    let (count, group) = (bench.own.options.writes.to_string(), group.min(u16::MAX.into()).to_string());
    let measured = measure_map(bench, &["kv", "--count", &count, "--group", &group], LIMIT).await?;
    for (stage, name) in [("bare", BARE), ("put", "rules alone, as many in a transaction")] {
        let stage = stage_of(&measured, stage)?;
        bench.add(name, Unit::PerS, stage.operations as f64 / stage.seconds);
    }
    Ok(())
}

/// So many for each; 0 where there is none.
fn per(all: u64, each: u64) -> f64 {
    if each == 0 { 0.0 } else { all as f64 / each as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_of_nothing_is_none() {
        assert_eq!([per(6, 4), per(0, 4), per(6, 0)], [1.5, 0.0, 0.0]);
    }
}
