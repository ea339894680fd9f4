//! A machine without time to spare: half of the nodes wait for everybody else, and busy loops take the cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::SystemTime;

use p2p_api::types::MemberEventKind;
use p2p_api::{Code, Problem};
use tokio::time::sleep;

use super::{Bench, Unit, World};
use crate::Result;

/// Most nodes; fewer where fewer were asked for.
const NODES: u32 = 32;

/// Busy loops on each core.
const LOOPS_PER_CORE: usize = 2;

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    let world = World::up(bench, bench.nodes(NODES).min(NODES), true).await?;
    let nodes = world.running()?;
    for node in &nodes[..nodes.len() / 2] {
        world.process(*node)?.be_nice()?;
    }
    let from = SystemTime::now();
    let busy = Busy::start(LOOPS_PER_CORE * bench.machine.cores)?;
    sleep(bench.own.options.extent.starve).await;
    let count = |kind| world.watches.count(from, kind) as f64;
    let (doubted, down) = (count(MemberEventKind::Suspect), count(MemberEventKind::Down));
    drop(busy);
    bench.add("starved, members doubted", Unit::Count, doubted);
    bench.promise("starved, members taken for down", Unit::Count, down, 0.0);
    world.down().await
}

/// Threads that do nothing, as fast as they can, until dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn start(count: usize) -> Result<Self> {
        let mut busy = Self { stop: Arc::default(), threads: Vec::new() };
        for _ in 0..count {
            let stop = busy.stop.clone();
            let spin = move || while !stop.load(Ordering::Relaxed) {};
            let thread = std::thread::Builder::new().name("busy".to_owned()).spawn(spin);
            let thread = thread.map_err(|error| Problem::new(Code::Other, format!("no thread to be had: {error}")))?;
            busy.threads.push(thread);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
