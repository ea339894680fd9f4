//! One large file: put on a lone node, got from another one, beside rows in SQLite, stages alone and other programs.

use p2p_api::bench::Measured;
use p2p_api::{Code, Problem};

use super::kubo::Kubo;
use super::others::Others;
use super::{Bench, Group, Source, mib_per_s, per_gib};
use crate::Result;
use crate::bench::net::Net;
use crate::bench::table::{Target, Unit, judge};
use crate::workload::hash_file;

/// Room on the disk that a round takes, as a multiple of the file: it, the stores of two nodes and of two of others, logs,
/// what comes back, what stages write.
const ROOM: u64 = 8;

/// The rows that verdicts are about.
const PUT: &str = "put on a lone node";
const ROWS: &str = "rows in SQLite, write";
const GET: &str = "get from another node to a file";
const GET_NO_CACHE: &str = "get from another node to a file, no cache";
const BUDGET: &str = "budget of a get: cores / stages";
const BUDGET_NO_CACHE: &str = "budget of a get: cores / stages, no cache";

/// Stages of a get; with them what a get would cost if they were all there is.
const STAGES: [(&str, &[&str], &str); 6] = [
    ("source: rows read", &["rows"], "read"),
    ("source: stream sent", &["stream"], "send"),
    ("reader: stream received", &["stream"], "receive"),
    ("reader: BLAKE3, one thread", &["hash"], "hash"),
    ("reader: socket to the command line", &["socket"], "socket"),
    ("command line: file written and synced", &["copy"], "copy_fsync"),
];

/// The stage that a cache adds.
const CACHE_STAGE: (&str, &[&str], &str) = ("reader: rows written as cache", &["rows"], "write");

/// Measured alone, on a disk or not; what is shown of each, beside the stages above.
const ALONE: [(&[&str], bool, &[&str]); 6] = [
    (&["rows"], true, &["write", "read"]),
    (&["store"], true, &["write", "read_verified"]),
    (&["stream"], false, &["receive"]),
    (&["stream", "--link"], false, &["receive"]),
    (&["hash"], false, &["hash"]),
    (&["socket"], false, &["socket"]),
];

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    bench.need_room(ROOM * bench.own.options.size, "moving the file")?;
    let mut others = if bench.wants(Group::Others) { Others::find(bench) } else { Others::default() };
    for round in 1..=bench.own.options.runs {
        (bench.say)(&format!("round {round} of {}", bench.own.options.runs));
        let source = bench.fresh_file(bench.own.options.size)?;
        let alone = stages_alone(bench).await?;
        if bench.wants(Group::Put) || bench.wants(Group::Get) {
            ours(bench, &source).await?;
        }
        if bench.wants(Group::Get) {
            budget(bench, &alone)?;
        }
        others.measure(bench, &source).await?;
        source.remove()?;
    }
    judge_all(bench);
    Ok(())
}

/// Puts on a node that is alone, and gets from one that joins then, so that it must fetch everything.
async fn ours(bench: &mut Bench, source: &Source) -> Result<()> {
    let mut net = bench.net(1).await?;
    bench.settle(source.len).await?;
    let before = net.cpu_seconds()?;
    let (stored, put) = net.programs.put(&net.home(0), &source.path, source.len).await?;
    if stored.address != source.hash {
        let message = format!("the file's BLAKE3 is {}, and the node says {}", source.hash, stored.address);
        return Err(Problem::new(Code::Integrity, message));
    }
    if bench.wants(Group::Put) {
        let spent = net.cpu_seconds()? - before + put.cpu_seconds;
        bench.add(PUT, Unit::MibPerS, mib_per_s(source.len, put.seconds));
        bench.add("put on a lone node, all cores", Unit::CoreSPerGib, per_gib(spent, source.len));
    }
    if bench.wants(Group::Get) {
        let reader = net.add().await?;
        // First without, because it leaves nothing.
        for (cache, name) in [(false, GET_NO_CACHE), (true, GET)] {
            net.must_be_empty(reader).await?;
            get(bench, &net, reader, source, cache, name).await?;
        }
    }
    net.down().await
}

async fn get(bench: &mut Bench, net: &Net, reader: u32, source: &Source, cache: bool, name: &str) -> Result<()> {
    let to = bench.dir().join("back");
    bench.settle(source.len).await?;
    let before = net.cpu_seconds()?;
    let got = net.programs.get(&net.home(reader), &source.hash, &to, cache, source.len).await?;
    let spent = net.cpu_seconds()? - before + got.cpu_seconds;
    let hash = tokio::task::block_in_place(|| hash_file(&to))?;
    std::fs::remove_file(&to).map_err(|error| crate::state::failed("a file cannot be removed", &to, &error))?;
    if hash != source.hash {
        return Err(Problem::new(Code::Integrity, format!("{name}: other bytes came back, of BLAKE3 {hash}")));
    }
    bench.add(name, Unit::MibPerS, mib_per_s(source.len, got.seconds));
    bench.add(&format!("{name}, all cores"), Unit::CoreSPerGib, per_gib(spent, source.len));
    Ok(())
}

/// Measures what the machine gives to each stage; for puts the rows are enough.
async fn stages_alone(bench: &mut Bench) -> Result<Vec<Measured>> {
    let (gets, puts) = (bench.wants(Group::Get), bench.wants(Group::Put));
    let mut all = Vec::new();
    for (args, on_disk, shown) in ALONE.iter().chain([&(&["copy"][..], true, &["copy", "copy_fsync"][..])]) {
        let needed = gets || (puts && args[0] == "rows");
        if !needed {
            continue;
        }
        let size = bench.own.options.size;
        bench.settle(size).await?;
        let dir = on_disk.then(|| bench.dir().to_owned());
        let measured = bench.programs.stages(args, dir.as_deref(), size).await?;
        for stage in *shown {
            let found = stage_of(&measured, stage)?;
            let name = match (args[0], *stage) {
                ("rows", "write") => ROWS.to_owned(),
                ("rows", stage) => format!("rows in SQLite, {stage}"),
                _ => format!("{} alone, {stage}", measured.bench),
            };
            bench.add(&name, Unit::MibPerS, found.mib_per_s);
        }
        all.push(measured);
    }
    Ok(all)
}

/// What a get could reach if it cost its stages and nothing else, spread over all cores.
fn budget(bench: &mut Bench, alone: &[Measured]) -> Result<()> {
    let mut sum = 0.0;
    for (name, args, stage) in STAGES.iter().chain([&CACHE_STAGE]) {
        let measured = alone.iter().find(|measured| measured.bench == args[0]);
        let measured = measured.ok_or_else(|| missing(args[0]))?;
        let cost = stage_of(measured, stage)?.cpu_seconds_per_gib;
        bench.add(&format!("stage, {name}"), Unit::CoreSPerGib, cost);
        if *name == CACHE_STAGE.0 {
            bench.add(BUDGET_NO_CACHE, Unit::MibPerS, rate(bench.machine.cores, sum));
        }
        sum += cost;
    }
    bench.add("stages of a get together", Unit::CoreSPerGib, sum);
    bench.add(BUDGET, Unit::MibPerS, rate(bench.machine.cores, sum));
    Ok(())
}

/// Rate in MiB/s of work that takes so many core-seconds for each GiB.
fn rate(cores: usize, core_seconds_per_gib: f64) -> f64 {
    1024.0 * cores as f64 / core_seconds_per_gib
}

fn stage_of<'a>(measured: &'a Measured, name: &str) -> Result<&'a p2p_api::bench::Stage> {
    measured.stage(name).ok_or_else(|| missing(&format!("{} {name}", measured.bench)))
}

fn missing(what: &str) -> Problem {
    Problem::new(Code::UnsupportedVersion, format!("p2p-node bench does not measure {what}"))
        .hint("Are node and test network of the same version?")
}

fn judge_all(bench: &mut Bench) {
    let verdicts = [
        ("put / rows in SQLite", bench.table.ratio(PUT, ROWS), 0.8),
        ("put / Kubo's add", bench.table.ratio(PUT, Kubo::ADD), 2.0),
        ("get / budget of its stages", bench.table.ratio(GET, BUDGET), 0.8),
        ("get without cache / budget of its stages", bench.table.ratio(GET_NO_CACHE, BUDGET_NO_CACHE), 0.8),
        ("get / sendme's receive", bench.table.ratio(GET, Others::SENDME_RECEIVE), 1.5),
        ("get / Kubo's get", bench.table.ratio(GET, Kubo::GET), 4.0),
    ];
    for (name, ratio, least) in verdicts {
        bench.judge(judge(name, Unit::Ratio, ratio, Target::AtLeast(least)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_the_cores_over_the_core_seconds() {
        assert_eq!(rate(2, 4.0), 512.0);
        assert_eq!(rate(1, 1.0), 1024.0);
    }
}
