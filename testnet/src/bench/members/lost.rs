//! Single nodes that are lost, or seem to be: killed, stopped for a while, stopped for good.

use std::time::{Duration, SystemTime};

use p2p_api::types::MemberEventKind;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Bench, Unit, World, most};
use crate::Result;

/// Longest wait for a node that was killed to be taken for down.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Longest wait for one that was stopped to be taken for down, or for alive again.
const SILENT_LIMIT: Duration = Duration::from_secs(60);

/// How long a stall is: as much as must never count as a loss.
const STALL_TIME: Duration = Duration::from_secs(2);

/// Rest after a stall: what it has led to by then is over or decided.
const STALL_PAUSE: Duration = Duration::from_secs(1);

/// Rest after the last one, so that whoever is still taken for down is counted.
const STALL_REST: Duration = Duration::from_secs(10);

/// A node is killed, found down, started again and met; then the next.
pub(super) async fn kills(bench: &mut Bench, world: &mut World) -> Result<()> {
    let mut all = Vec::new();
    for _ in 0..bench.own.options.kills {
        let (node, others) = world.any()?;
        let from = SystemTime::now();
        world.net.kill(node).await?;
        let seen = world.seen(from, &others, node, MemberEventKind::Down, KILL_LIMIT).await;
        missed(bench, "kill -9 seen by the last node", &seen, KILL_LIMIT, &mut all);
        world.net.restart(node).await?;
    }
    bench.promise_p99("kill -9 seen by every other node", &all, 0.5);
    let unseen = all.iter().filter(|seconds| **seconds >= KILL_LIMIT.as_secs_f64()).count();
    bench.promise("kill -9 not seen within 10 s", Unit::Count, unseen as f64, 0.0);
    Ok(())
}

/// A node stands still for as long as must not matter; then the next.
pub(super) async fn stalls(bench: &mut Bench, world: &mut World) -> Result<()> {
    let from = SystemTime::now();
    for _ in 0..bench.own.options.stalls {
        let (node, _) = world.any()?;
        let stopped = Instant::now();
        world.net.cluster.stop(node).await?;
        sleep_until(stopped + STALL_TIME).await;
        world.net.cluster.cont(node).await?;
        // Longer than meant where this program was late itself.
        bench.add("stall", Unit::S, stopped.elapsed().as_secs_f64());
        sleep(STALL_PAUSE).await;
    }
    sleep(STALL_REST).await;
    let count = |kind| world.watches.count(from, kind) as f64;
    bench.add("stalls of 2 s, members doubted", Unit::Count, count(MemberEventKind::Suspect));
    bench.promise("stalls of 2 s, members taken for down", Unit::Count, count(MemberEventKind::Down), 0.0);
    world.net.cluster.until_met().await
}

/// A node stands still until it is found down, and goes on until it is found alive; then the next.
pub(super) async fn silent(bench: &mut Bench, world: &mut World) -> Result<()> {
    let mut all = Vec::new();
    for _ in 0..bench.own.options.extent.silents {
        let (node, others) = world.any()?;
        let from = SystemTime::now();
        world.net.cluster.stop(node).await?;
        let seen = world.seen(from, &others, node, MemberEventKind::Down, SILENT_LIMIT).await;
        missed(bench, "SIGSTOP seen by the last node", &seen, SILENT_LIMIT, &mut all);
        let from = SystemTime::now();
        world.net.cluster.cont(node).await?;
        let back = world.seen(from, &others, node, MemberEventKind::Return, SILENT_LIMIT).await;
        missed(bench, "SIGCONT seen by the last node", &back, SILENT_LIMIT, &mut Vec::new());
        world.net.cluster.until_met().await?;
    }
    bench.promise_p99("SIGSTOP seen by every other node", &all, 5.0);
    Ok(())
}

/// Takes how long it took the last one, and all; who has not seen it in time counts as having taken all of that.
fn missed(bench: &mut Bench, name: &str, seen: &[f64], limit: Duration, all: &mut Vec<f64>) {
    let seen: Vec<f64> = seen.iter().map(|seconds| seconds.min(limit.as_secs_f64())).collect();
    bench.add(name, Unit::S, most(&seen));
    all.extend(seen);
}
