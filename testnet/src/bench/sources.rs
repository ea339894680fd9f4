//! A file from several holders, all held to the same rate by their fault doors: what more of them bring, and what one that
//! corrupts or stalls costs.

use p2p_api::client::PutOptions;
use p2p_api::types::Faults;
use p2p_api::{Code, Problem};
use tokio_util::io::ReaderStream;

use super::net::Net;
use super::table::{Target, Unit, judge};
use super::{Bench, Group, Source};
use crate::Result;
use crate::state::failed;
use crate::workload::hash_file;

/// What each source sends at most, in bytes per second: far below what the machine can.
const RATE: u64 = 20 << 20;

/// Length of the file in bytes.
const FILE_LEN: u64 = 256 << 20;

/// Good sources.
const GOOD: u32 = 3;

/// Room on the disk, as a multiple of the file: it, the stores of four nodes, what comes back.
const ROOM: u64 = 8;

const ONE: &str = "one source of 20 MiB/s";
const THREE: &str = "three sources of 20 MiB/s";
const DUPLICATES: &str = "bytes received / bytes of the file, three sources";
const WITHOUT: &str = "three good sources";
const CORRUPT: &str = "three good sources and one that corrupts";
const STALL: &str = "three good sources and one that stalls";

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    bench.need_room(ROOM * FILE_LEN, "several sources")?;
    let source = bench.fresh_file(FILE_LEN)?;
    if bench.wants(Group::Sources) {
        several(bench, &source).await?;
    }
    if bench.wants(Group::Faulty) {
        faulty(bench, &source).await?;
    }
    source.remove()
}

/// One source beside three.
async fn several(bench: &mut Bench, source: &Source) -> Result<()> {
    let world = World::up(bench, source, GOOD).await?;
    for _ in 0..bench.options.runs {
        world.block(&[1, 2]).await?;
        let one = world.get(bench, source).await?;
        bench.add(ONE, Unit::S, one.seconds);
        world.block(&[]).await?;
        let three = world.get(bench, source).await?;
        bench.add(THREE, Unit::S, three.seconds);
        bench.add(DUPLICATES, Unit::Ratio, three.received as f64 / FILE_LEN as f64);
    }
    world.net.down().await?;
    let name = "three sources / one source, by rate";
    bench.judge(judge(name, Unit::Ratio, bench.table.ratio(ONE, THREE), Target::AtLeast(2.6)));
    let received = bench.table.samples(DUPLICATES);
    bench.judge(judge(DUPLICATES, Unit::Ratio, received, Target::AtMost(1.02)));
    Ok(())
}

/// Three good sources beside the same three and a bad one.
async fn faulty(bench: &mut Bench, source: &Source) -> Result<()> {
    let world = World::up(bench, source, GOOD + 1).await?;
    let bad = GOOD;
    let throttled = Faults { rate: Some(RATE), ..Faults::default() };
    for _ in 0..bench.options.runs {
        world.block(&[bad]).await?;
        let without = world.get(bench, source).await?;
        bench.add(WITHOUT, Unit::S, without.seconds);
        world.block(&[]).await?;
        let corrupt = Faults { corrupt: true, ..throttled.clone() };
        let stall = Faults { stall: true, ..throttled.clone() };
        for (name, fault) in [(CORRUPT, corrupt), (STALL, stall)] {
            world.net.client(bad).set_faults(&fault).await?;
            let hurt = world.get(bench, source).await?;
            bench.add(name, Unit::S, hurt.seconds);
        }
        world.net.client(bad).set_faults(&throttled).await?;
    }
    world.net.down().await?;
    for (name, hurt) in
        [("time with one that corrupts / without", CORRUPT), ("time with one that stalls / without", STALL)]
    {
        bench.judge(judge(name, Unit::Ratio, bench.table.ratio(hurt, WITHOUT), Target::AtMost(1.1)));
    }
    Ok(())
}

/// Sources that all hold the whole file, and a reader that holds nothing of it.
struct World {
    net: Net,
    peers: Vec<String>,
    reader: u32,
}

/// What a get took.
struct Got {
    seconds: f64,
    /// Bytes of objects that came to the reader.
    received: u64,
}

impl World {
    async fn up(bench: &mut Bench, source: &Source, sources: u32) -> Result<Self> {
        let mut net = bench.net(sources, true).await?;
        let file = tokio::fs::File::open(&source.path).await;
        let file = file.map_err(|error| failed("a file cannot be read", &source.path, &error))?;
        // Every source holds every part, so that it matters only who sends.
        let everywhere = PutOptions { replicas: Some(sources), acks: Some(sources), ..PutOptions::default() };
        let stored = net.client(0).put(ReaderStream::new(file), Some(source.len), everywhere).await?;
        if let Some(problem) = stored.problem {
            return Err(problem);
        }
        let mut peers = Vec::new();
        for node in 0..sources {
            peers.push(net.client(node).status().await?.peer);
        }
        let reader = net.add().await?;
        for node in 0..sources {
            net.client(node).set_faults(&Faults { rate: Some(RATE), ..Faults::default() }).await?;
        }
        Ok(Self { net, peers, reader })
    }

    /// Cuts the reader off from these sources, and from no others; returns once it sees so.
    async fn block(&self, sources: &[u32]) -> Result<()> {
        let blocked = sources.iter().map(|source| self.peers[*source as usize].clone()).collect::<Vec<_>>();
        let seen = self.peers.len() + 1 - blocked.len();
        let faults = Faults { blocked, ..Faults::default() };
        self.net.client(self.reader).set_faults(&faults).await?;
        self.await_members(seen as u32).await
    }

    /// Waits until the reader reaches so many members, itself included, and no more.
    async fn await_members(&self, wanted: u32) -> Result<()> {
        let client = self.net.client(self.reader);
        let deadline = tokio::time::Instant::now() + crate::programs::limit(0);
        while client.status().await?.members.alive != wanted {
            if tokio::time::Instant::now() >= deadline {
                return Err(Problem::new(
                    Code::TimedOut,
                    format!("the reader does not come to reach {wanted} members"),
                ));
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn get(&self, bench: &mut Bench, source: &Source) -> Result<Got> {
        let to = bench.dir().join("back");
        bench.settle(FILE_LEN).await?;
        self.net.must_be_empty(self.reader).await?;
        let before = self.net.received(self.reader).await?;
        let home = self.net.home(self.reader);
        let ran = self.net.programs.get(&home, &source.hash, &to, false, FILE_LEN).await?;
        let received = self.net.received(self.reader).await? - before;
        let hash = tokio::task::block_in_place(|| hash_file(&to))?;
        std::fs::remove_file(&to).map_err(|error| failed("a file cannot be removed", &to, &error))?;
        if hash != source.hash {
            return Err(Problem::new(Code::Integrity, format!("other bytes came back, of BLAKE3 {hash}")));
        }
        Ok(Got { seconds: ran.seconds, received })
    }
}
