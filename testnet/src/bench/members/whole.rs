//! The whole network at once: cut in two halves and healed, killed and started again.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use p2p_api::types::MemberState;
use tokio::time::{Instant, sleep};

use super::{Bench, NODES, Unit, World};
use crate::Result;
use crate::matrix::Matrix;

/// Longest wait until all agree.
const AGREE_LIMIT: Duration = Duration::from_secs(180);

/// Time between two looks at whether all agree; when they came to it, their own events say.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// Two halves, each without the other for a while, and then again one network.
pub(super) async fn apart(bench: &mut Bench) -> Result<()> {
    let world = World::up(bench, bench.nodes(NODES), false).await?;
    let nodes = world.running()?;
    let (one, other) = nodes.split_at(nodes.len() / 2);
    world.net.cluster.partition([one.to_vec(), other.to_vec()]).await?;
    sleep(bench.own.options.extent.apart).await;
    let matrix = Matrix::of(world.net.cluster.dir()).await?;
    // Where they have not lost each other, there is nothing to heal.
    let is_across = |(observer, subject): &(u32, u32)| one.contains(observer) != one.contains(subject);
    let pairs = nodes.iter().flat_map(|observer| nodes.iter().map(|subject| (*observer, *subject)));
    let across: Vec<(u32, u32)> = pairs.filter(is_across).collect();
    let view = |observer: u32| matrix.views.get(&observer).cloned().unwrap_or_else(BTreeMap::new);
    let lost = across.iter().filter(|(observer, subject)| view(*observer).get(subject) != Some(&MemberState::Alive));
    bench.add(
        "cut in halves, of the other half lost",
        Unit::Percent,
        100.0 * lost.count() as f64 / across.len() as f64,
    );
    world.watches.forget();
    let from = SystemTime::now();
    world.net.cluster.heal().await?;
    let agreed = until_agreed(bench, &world, from).await?;
    bench.promise("heal, until all are alive for all", Unit::S, agreed, 30.0);
    world.down().await
}

/// All are killed, and all started again together.
pub(super) async fn restart(bench: &mut Bench, world: &mut World) -> Result<()> {
    let nodes = world.running()?;
    for node in &nodes {
        world.net.kill(*node).await?;
    }
    world.watches.forget();
    world.net.cluster.raise(None).await?;
    let starts = nodes.iter().map(|node| world.started(*node)).collect::<Result<Vec<_>>>()?;
    let last = starts.into_iter().max().unwrap_or_else(SystemTime::now);
    let agreed = until_agreed(bench, world, last).await?;
    bench.promise("start of all, until all are alive for all", Unit::S, agreed, 10.0);
    Ok(())
}

/// Waits until all agree; how long after a time the last of them has come to take another for alive, and the whole wait
/// where they do not agree.
async fn until_agreed(bench: &Bench, world: &World, from: SystemTime) -> Result<f64> {
    let deadline = Instant::now() + AGREE_LIMIT;
    loop {
        let matrix = Matrix::of(world.net.cluster.dir()).await?;
        if matrix.agreed {
            break;
        }
        if Instant::now() >= deadline {
            (bench.say)(&matrix.verdict());
            return Ok(AGREE_LIMIT.as_secs_f64());
        }
        sleep(LOOK_PERIOD).await;
    }
    // What nodes have seen by then is told by then.
    sleep(LOOK_PERIOD).await;
    Ok(world.watches.last_alive(from).as_secs_f64())
}
