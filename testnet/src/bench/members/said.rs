//! What members say of themselves, and how soon everybody has heard it: a tag, a leave, a join, a restart in order.
//!
//! The last two count from the start of the process that is to be known.

use std::time::{Duration, SystemTime};

use p2p_api::types::{MemberEventKind, TagsRequest};
use p2p_api::{Code, Problem};
use tokio::time::timeout;

use super::{Bench, Unit, World, most};
use crate::Result;
use crate::bench::table::{Target, judge};
use crate::process::Condition;

/// Longest wait until everybody has heard it.
const HEARD_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for a node that leaves to end.
const LEAVE_LIMIT: Duration = Duration::from_secs(60);

const TAG: &str = "tag seen by the last node";
const LEAVE: &str = "leave seen by the last node";
const RESTART: &str = "restart seen by the last node";
const JOIN: &str = "join seen by the last node";

pub(super) async fn measure(bench: &mut Bench, world: &mut World) -> Result<()> {
    for round in 0..bench.own.options.extent.repeats {
        let tag = tag(world, round).await?;
        bench.add(TAG, Unit::S, tag);
        let leave = leave(world).await?;
        bench.add(LEAVE, Unit::S, leave);
        let restart = restart(world).await?;
        bench.add(RESTART, Unit::S, restart);
        let join = join(world).await?;
        bench.add(JOIN, Unit::S, join);
    }
    for name in [TAG, LEAVE, RESTART, JOIN] {
        // Each of them, so the slowest.
        let slowest = bench.table.samples(name).map(|samples| vec![most(&samples)]);
        bench.judge(judge(&format!("{name}, slowest"), Unit::S, slowest, Target::AtMost(1.0)));
    }
    Ok(())
}

async fn tag(world: &mut World, round: u32) -> Result<f64> {
    let (node, others) = world.any()?;
    let (key, value) = ("round".to_owned(), round.to_string());
    let from = SystemTime::now();
    let set = TagsRequest { set: [(key.clone(), value.clone())].into(), delete: Vec::new() };
    world.net.client(node).set_tags(&set).await?;
    let seen = most(&world.seen(from, &others, node, MemberEventKind::Update, HEARD_LIMIT).await);
    for other in others.iter().filter(|_| seen.is_finite()) {
        let members = world.net.client(*other).members().await?.members;
        let said =
            members.iter().find(|member| member.peer == world.peers[&node]).and_then(|member| member.tags.get(&key));
        if said != Some(&value) {
            let message = format!("node {other} has seen something new of node {node}, and not its tag");
            return Err(Problem::new(Code::Integrity, message));
        }
    }
    Ok(seen.min(HEARD_LIMIT.as_secs_f64()))
}

/// The node ends by itself, and comes back afterwards.
async fn leave(world: &mut World) -> Result<f64> {
    let (node, others) = world.any()?;
    let process = world.process(node)?;
    let from = SystemTime::now();
    let silent = |_| Problem::new(Code::TimedOut, format!("node {node} does not come to leave"));
    timeout(LEAVE_LIMIT, world.net.client(node).leave()).await.map_err(silent)??;
    let seen = most(&world.seen(from, &others, node, MemberEventKind::Leave, HEARD_LIMIT).await);
    if !process.reaches(Condition::Exited, LEAVE_LIMIT).await {
        return Err(Problem::new(Code::TimedOut, format!("node {node} has left, and does not end")));
    }
    world.net.restart(node).await?;
    Ok(seen.min(HEARD_LIMIT.as_secs_f64()))
}

async fn restart(world: &mut World) -> Result<f64> {
    let (node, others) = world.any()?;
    let before = SystemTime::now();
    world.net.restart(node).await?;
    let from = world.started(node)?.max(before);
    let seen = most(&world.seen(from, &others, node, MemberEventKind::Return, HEARD_LIMIT).await);
    Ok(seen.min(HEARD_LIMIT.as_secs_f64()))
}

/// Joins by a ticket of any member, which names this one alone.
async fn join(world: &mut World) -> Result<f64> {
    let (contact, _) = world.any()?;
    let others = world.running()?.into_iter().collect();
    let node = world.net.cluster.add_through(contact).await?;
    world.look_around()?;
    let from = world.started(node)?;
    let seen = most(&world.seen(from, &others, node, MemberEventKind::Join, HEARD_LIMIT).await);
    Ok(seen.min(HEARD_LIMIT.as_secs_f64()))
}
