//! `bench kv --store-only`: what the replicated map's rules and its file cost, without any node.
//!
//! `p2p-node bench` measures, in a process of its own for each round: writes through the rules beside a bare loop that writes the
//! same rows to the same tables, two copies that differ in a few of many keys, and what is left on the disk.

use std::time::Duration;

use p2p_api::bench::{Measured, Stage};
use p2p_api::{Code, Problem};

use super::Options;
use crate::Result;
use crate::bench::table::{Target, Unit, judge};
use crate::bench::{Common, Report};

/// Writes in one transaction, beside [`GROUP`]: as one client after the other makes them, and as a few do at once.
const GROUPS: [u64; 3] = [1, 64, GROUP];

/// Writes in one transaction under load, of which is promised something.
const GROUP: u64 = 512;

/// Longest time of a measurement.
const LIMIT: Duration = Duration::from_secs(1800);

/// Fewest writes of a round in small transactions, each of which waits for the disk.
const FEW: u64 = 20;

type Bench = crate::bench::Bench<()>;

/// Measures; `say` gets a line for every figure as it comes.
///
/// # Errors
/// When something cannot be measured that should be: what fails is no slow figure.
pub(super) async fn run(options: Options, say: fn(&str)) -> Result<Report> {
    let Options { dir, runs, writes, keys, node_bin, .. } = options;
    let mut bench = crate::bench::Bench::with(Common { dir, seed: Some(0), node_bin }, say, |_| Ok(()))?;
    for _ in 0..runs {
        for group in GROUPS {
            round(&mut bench, writes, group).await?;
        }
    }
    let merge = bench.table.samples(&name("merge", GROUP));
    bench.judge(judge(&name("merge", GROUP), Unit::PerS, merge, Target::AtLeast(20_000.0)));
    for group in GROUPS {
        let (put, bare) = (name("put", group), name("bare loop", group));
        let ratio = format!("put / bare loop, {group} in a transaction");
        let samples = bench.table.ratio(&put, &bare);
        bench.judge(judge(&ratio, Unit::Ratio, samples, Target::AtLeast(0.5)));
    }
    compare(&mut bench, keys).await?;
    space(&mut bench).await?;
    Ok(bench.finish(vec!["store"], [("runs", runs.into()), ("writes", writes), ("keys", keys)]))
}

fn name(what: &str, group: u64) -> String {
    format!("{what}, 256 bytes, {group} in a transaction")
}

async fn round(bench: &mut Bench, writes: u64, group: u64) -> Result<()> {
    // What waits for the disk so often takes long enough with fewer.
    let count = (writes * group / GROUP).clamp(FEW.min(writes), writes);
    let measured = measure(bench, &["kv", "--count", &count.to_string(), "--group", &group.to_string()]).await?;
    for (stage, what) in [("bare", "bare loop"), ("put", "put"), ("merge", "merge")] {
        let Stage { operations, seconds, .. } = stage_of(&measured, stage)?;
        bench.add(&name(what, group), Unit::PerS, *operations as f64 / seconds);
    }
    Ok(())
}

async fn compare(bench: &mut Bench, keys: u64) -> Result<()> {
    const DIFFERENCES: u64 = 100;
    let differences = DIFFERENCES.to_string();
    let args = ["kv-compare", "--keys", &keys.to_string(), "--differences", &differences];
    let measured = measure(bench, &args).await?;
    let compared = stage_of(&measured, "compare")?;
    let what = format!("{DIFFERENCES} of {keys} keys differ");
    bench.add(&format!("{what}, until nothing is missing"), Unit::Ms, compared.seconds * 1000.0);
    let bytes = compared.bytes as f64 / 1024.0;
    bench.promise(&format!("{what}, bytes of questions and answers"), Unit::Kib, bytes, 96.0);
    bench.promise(&format!("{what}, round trips"), Unit::Count, compared.operations as f64, 6.0);
    Ok(())
}

async fn space(bench: &mut Bench) -> Result<()> {
    const LIVES: u64 = 10_000;
    let measured = measure(bench, &["kv-space", "--lives", &LIVES.to_string()]).await?;
    for (stage, what) in [("written once", "key written once"), ("written often", "key written 100 times more")] {
        bench.add(&format!("{what}, beside key and value"), Unit::Bytes, stage_of(&measured, stage)?.bytes as f64);
    }
    bench.promise("key deleted, rows", Unit::Count, stage_of(&measured, "deleted")?.operations as f64, 0.0);
    let lives = stage_of(&measured, "lives")?.bytes as f64 / 1024.0;
    bench.promise(&format!("{LIVES} lives of a node, on the disk"), Unit::Kib, lives, 1e6 / 1024.0);
    Ok(())
}

async fn measure(bench: &Bench, args: &[&str]) -> Result<Measured> {
    measure_map(bench, args, LIMIT).await
}

/// Runs `p2p-node bench` in the folder that is measured in.
pub(super) async fn measure_map<O>(bench: &crate::bench::Bench<O>, args: &[&str], limit: Duration) -> Result<Measured> {
    bench.programs.measure(args, Some(bench.dir()), limit).await
}

pub(super) fn stage_of<'a>(measured: &'a Measured, name: &str) -> Result<&'a Stage> {
    let missing = || Problem::new(Code::UnsupportedVersion, format!("p2p-node bench {} has no {name}", measured.bench));
    measured.stage(name).ok_or_else(missing)
}
