//! A file from several holders, all held to the same rate by their fault doors: what more of them bring, and what one that
//! corrupts or stalls costs.

use std::time::Duration;

use p2p_api::client::PutOptions;
use p2p_api::types::Faults;
use p2p_api::{Code, Problem};
use tokio_util::io::ReaderStream;

use super::{Bench, Group, Source};
use crate::Result;
use crate::bench::net::Net;
use crate::bench::table::{Target, Unit, judge};
use crate::state::failed;
use crate::workload::hash_file;

/// What each source sends at most, in bytes per second: far below what the machine can.
const RATE: u64 = 20 << 20;

/// Length of the file in bytes.
const FILE_LEN: u64 = 256 << 20;

/// Longest wait until the reader reaches its sources.
const MEET_LIMIT: Duration = Duration::from_secs(60);

/// Good sources.
const GOOD: u32 = 3;

/// Room on the disk, as a multiple of the file: it, the stores of four nodes, what comes back.
const ROOM: u64 = 8;

const ONE: &str = "one source of 20 MiB/s";
const THREE: &str = "three sources of 20 MiB/s";
const DUPLICATES: &str = "bytes received / bytes of the file, three sources";
const WITHOUT: &str = "three good sources";
const CORRUPT: &str = "three good sources and one that corrupts";
const NOTICED: &str = "wrong objects noticed, of the one that corrupts";
const STALL: &str = "three good sources and one that stalls";

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    let groups: Vec<Group> = [Group::Sources, Group::Faulty].into_iter().filter(|group| bench.wants(*group)).collect();
    bench.need_room(ROOM * FILE_LEN, "several sources")?;
    let source = bench.fresh_file(FILE_LEN)?;
    for group in groups {
        match group {
            Group::Sources => several(bench, &source).await?,
            _ => faulty(bench, &source).await?,
        }
    }
    source.remove()
}

/// One source beside three.
async fn several(bench: &mut Bench, source: &Source) -> Result<()> {
    let mut world = World::up(bench, source, GOOD).await?;
    for _ in 0..bench.own.options.runs {
        world.alive(1).await?;
        let one = world.get(bench, source).await?;
        bench.add(ONE, Unit::S, one.seconds);
        world.alive(GOOD).await?;
        let three = world.get(bench, source).await?;
        bench.add(THREE, Unit::S, three.seconds);
        bench.add(DUPLICATES, Unit::Ratio, three.received as f64 / FILE_LEN as f64);
    }
    world.net.down().await?;
    let name = "three sources / one source, by rate";
    bench.judge(judge(name, Unit::Ratio, bench.table.ratio(ONE, THREE), Target::AtLeast(2.6)));
    bench.judge(judge(DUPLICATES, Unit::Ratio, bench.table.samples(DUPLICATES), Target::AtMost(1.02)));
    Ok(())
}

/// Three good sources beside the same three and a bad one.
async fn faulty(bench: &mut Bench, source: &Source) -> Result<()> {
    let mut world = World::up(bench, source, GOOD + 1).await?;
    let bad = GOOD;
    for _ in 0..bench.own.options.runs {
        world.alive(GOOD).await?;
        let without = world.get(bench, source).await?;
        bench.add(WITHOUT, Unit::S, without.seconds);
        world.alive(GOOD + 1).await?;
        let corrupt = Faults { corrupt: true, ..throttled() };
        let stall = Faults { stall: true, ..throttled() };
        for (name, fault) in [(CORRUPT, corrupt), (STALL, stall)] {
            world.net.client(bad).set_faults(&fault).await?;
            let hurt = world.get(bench, source).await?;
            bench.add(name, Unit::S, hurt.seconds);
            if name == CORRUPT {
                bench.add(NOTICED, Unit::Count, hurt.bad as f64);
            }
        }
    }
    world.net.down().await?;
    // Who was never asked cannot have cost anything.
    bench.judge(judge(NOTICED, Unit::Count, bench.table.samples(NOTICED), Target::AtLeast(1.0)));
    for (name, hurt) in
        [("time with one that corrupts / without", CORRUPT), ("time with one that stalls / without", STALL)]
    {
        bench.judge(judge(name, Unit::Ratio, bench.table.ratio(hurt, WITHOUT), Target::AtMost(1.1)));
    }
    Ok(())
}

fn throttled() -> Faults {
    Faults { rate: Some(RATE), ..Faults::default() }
}

/// Sources that all hold the whole file, and a reader that holds nothing of it.
struct World {
    net: Net,
    sources: u32,
    /// Sources that run: those of the lowest indices.
    running: u32,
    reader: u32,
}

/// What a get took.
struct Got {
    seconds: f64,
    /// Bytes of objects that came to the reader.
    received: u64,
    /// Objects among them that were not what was asked for.
    bad: u64,
}

impl World {
    async fn up(bench: &mut Bench, source: &Source, sources: u32) -> Result<Self> {
        let mut net = bench.net_with_doors(sources).await?;
        let file = tokio::fs::File::open(&source.path).await;
        let file = file.map_err(|error| failed("a file cannot be read", &source.path, &error))?;
        // Every source holds every part, so that it matters only who sends.
        let everywhere = PutOptions { replicas: Some(sources), acks: Some(sources), ..PutOptions::default() };
        let stored = net.client(0).put(ReaderStream::new(file), Some(source.len), everywhere).await?;
        if let Some(problem) = stored.problem {
            return Err(problem);
        }
        let reader = net.add().await?;
        let world = Self { net, sources, running: sources, reader };
        world.throttle(0..sources).await?;
        Ok(world)
    }

    async fn throttle(&self, sources: std::ops::Range<u32>) -> Result<()> {
        for source in sources {
            self.net.client(source).set_faults(&throttled()).await?;
        }
        Ok(())
    }

    /// Lets so many sources run, and no others; all of them serve well, and none faster than it may.
    async fn alive(&mut self, wanted: u32) -> Result<()> {
        for source in wanted..self.running {
            self.net.kill(source).await?;
        }
        for source in self.running..wanted.min(self.sources) {
            self.net.restart(source).await?;
        }
        self.running = wanted;
        self.throttle(0..wanted).await?;
        // Itself, and those.
        self.net.client(self.reader).wait(Some(wanted + 1), MEET_LIMIT).await.map(drop)
    }

    async fn get(&self, bench: &mut Bench, source: &Source) -> Result<Got> {
        let to = bench.dir().join("back");
        bench.settle(FILE_LEN).await?;
        self.net.must_be_empty(self.reader).await?;
        let before = self.net.metrics(self.reader).await?;
        let home = self.net.home(self.reader);
        let ran = self.net.programs.get(&home, &source.hash, &to, false, FILE_LEN).await?;
        let after = self.net.metrics(self.reader).await?;
        let more = |name| Ok::<_, Problem>(after.counter(name)? - before.counter(name)?);
        let hash = tokio::task::block_in_place(|| hash_file(&to))?;
        std::fs::remove_file(&to).map_err(|error| failed("a file cannot be removed", &to, &error))?;
        if hash != source.hash {
            return Err(Problem::new(Code::Integrity, format!("other bytes came back, of BLAKE3 {hash}")));
        }
        let (received, bad) = (more("p2p_object_received_bytes")?, more("p2p_objects_bad")?);
        Ok(Got { seconds: ran.seconds, received, bad })
    }
}
