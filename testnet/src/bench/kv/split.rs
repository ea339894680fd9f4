//! Two parts of a network that have written apart, and meet again: how soon all hold the same, and what that takes on the wire.
//!
//! First contact is when the first node takes a member of the other part for alive again, by its own event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use p2p_api::types::{MemberEvent, MemberState};
use p2p_api::{Code, Problem};
use tokio::time::{Instant, sleep};

use super::load::{self, Ask, Asks, KEY_LEN, Keys, VALUE_LEN};
use super::seen::{Seen, Wanted};
use super::{Bench, LOOK_PERIOD, Target, Unit, between, sums};
use crate::Result;
use crate::bench::members::watch::Watches;
use crate::bench::net::Net;
use crate::matrix::Matrix;

/// The nodes of the parts.
const PARTS: [&[u32]; 2] = [&[0, 1], &[2, 3, 4]];

/// Longest wait until all have all keys, before anything is measured.
const FILLED_LIMIT: Duration = Duration::from_secs(300);

/// Longest wait until each part has lost the other.
const LOST_LIMIT: Duration = Duration::from_secs(60);

/// Longest wait until a part has what was written in it.
const APART_LIMIT: Duration = Duration::from_secs(60);

/// Longest wait until all hold the same.
const EQUAL_LIMIT: Duration = Duration::from_secs(180);

/// For so long is counted on what comes after that, because it was asked for before.
const REST: Duration = Duration::from_secs(2);

/// What it takes.
const COUNTERS: [&str; 4] =
    ["p2p_kv_answer_received_bytes", "p2p_kv_questions_asked", "p2p_kv_failed", "p2p_kv_applied"];

const EQUAL: &str = "split, first contact until all have all";
const BYTES: &str = "split, bytes of answers / useful bytes";

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    let count = bench.own.options.extent.split_keys;
    let net = bench.net(PARTS.concat().len() as u32, false).await?;
    let keys = Keys { word: "spl", seed: bench.seed };
    (bench.say)(&format!("putting {count} keys"));
    load::run(net.socket(0), Asks { keys, from: 0, count, times: 1, ask: Ask::Put(0) }).await?;
    until_filled(&net, count).await?;
    for round in 1..=bench.own.options.runs {
        measure_round(bench, &net, keys, round.into()).await?;
    }
    bench.judge_row(EQUAL, Unit::S, Target::AtMost(3.0));
    bench.judge_row(BYTES, Unit::Ratio, Target::AtMost(2.0));
    net.down().await
}

async fn measure_round(bench: &mut Bench, net: &Net, keys: Keys, round: u64) -> Result<()> {
    let changes = bench.own.options.extent.split_changes;
    net.cluster.partition(PARTS.map(<[u32]>::to_vec)).await?;
    until_lost(net).await?;
    let mut seen = Seen::begin(net, Wanted::new(keys, 2 * changes, round)).await?;
    for (part, from) in PARTS.iter().zip([0, changes]) {
        let asks = Asks { keys, from, count: changes, times: 1, ask: Ask::Put(round) };
        load::run(net.socket(part[0]), asks).await?;
    }
    let is_of_part = |node: u32, number: usize| PARTS[usize::from(number as u64 >= changes)].contains(&node);
    if !seen.until(is_of_part, APART_LIMIT).await? {
        return Err(Problem::new(Code::TimedOut, "a part does not get what was written in it"));
    }
    let mut members = Watches::default();
    net.indices()?.into_iter().for_each(|node| members.add(node, net.client(node)));
    let before = sums(net, COUNTERS).await?;
    let from = SystemTime::now();
    net.cluster.heal().await?;
    let are_equal = seen.until(|_, _| true, EQUAL_LIMIT).await?;
    sleep(REST).await;
    let [answer_bytes, questions, failed, applied] = between(before, sums(net, COUNTERS).await?);
    if !are_equal {
        return Err(Problem::new(
            Code::TimedOut,
            format!("not equal {} s after the cut was mended", EQUAL_LIMIT.as_secs()),
        ));
    }
    let contact = first_contact(net, &members, from).await?;
    let whole: Vec<f64> =
        seen.times().iter().filter_map(|times| Some(since(from + contact, seen.wall(last(times)?)))).collect();
    bench.add("split, mended until first contact", Unit::S, contact.as_secs_f64());
    bench.add("split, first contact until one has all", Unit::S, whole.iter().copied().fold(f64::INFINITY, f64::min));
    bench.add(EQUAL, Unit::S, whole.iter().copied().fold(0.0, f64::max));
    bench.add("split, bytes of answers", Unit::Kib, answer_bytes as f64 / 1024.0);
    bench.add(BYTES, Unit::Ratio, answer_bytes as f64 / useful_bytes(changes) as f64);
    bench.add("split, questions", Unit::Count, questions as f64);
    bench.add("split, questions that came to nothing", Unit::Count, failed as f64);
    bench.add("split, writes of others taken in one by one", Unit::Count, applied as f64);
    Ok(())
}

/// Keys and values that nodes lacked, each as often as it was.
fn useful_bytes(changes: u64) -> u64 {
    let lacked: usize = PARTS.iter().map(|part| part.len()).sum();
    changes * lacked as u64 * (VALUE_LEN + KEY_LEN) as u64
}

/// When a node had all that it was to have; None where it lacks something.
fn last(times: &[Option<u64>]) -> Option<u64> {
    times.iter().copied().try_fold(0, |last, time| Some(time?.max(last)))
}

/// Seconds from one time to another; 0 where it was before.
fn since(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or_default().as_secs_f64()
}

/// Waits until every node has so many keys, all that there are.
async fn until_filled(net: &Net, count: u64) -> Result<()> {
    let deadline = Instant::now() + FILLED_LIMIT;
    for node in net.indices()? {
        while net.metrics(node).await?.gauge("p2p_kv_keys")? as u64 != count {
            if Instant::now() >= deadline {
                return Err(Problem::new(Code::TimedOut, format!("node {node} does not get all keys")));
            }
            sleep(LOOK_PERIOD).await;
        }
    }
    Ok(())
}

/// Waits until everybody takes all of the other part for down: who only doubts them still holds what is to be sent to them.
async fn until_lost(net: &Net) -> Result<()> {
    let deadline = Instant::now() + LOST_LIMIT;
    loop {
        let matrix = Matrix::of(net.cluster.dir()).await?;
        let is_down = |observer: &u32, subject: &u32| {
            matrix.views.get(observer).and_then(|view| view.get(subject)) == Some(&MemberState::Down)
        };
        let across = |one: &[u32], other: &[u32]| one.iter().all(|node| other.iter().all(|lost| is_down(node, lost)));
        if across(PARTS[0], PARTS[1]) && across(PARTS[1], PARTS[0]) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Problem::new(Code::TimedOut, "the parts do not lose each other"));
        }
        sleep(LOOK_PERIOD).await;
    }
}

/// How long after a time the first node has taken one of the other part for alive.
async fn first_contact(net: &Net, members: &Watches, from: SystemTime) -> Result<Duration> {
    let nodes = net.cluster.nodes()?.nodes;
    let peers: BTreeMap<&str, u32> = nodes.iter().map(|node| (node.peer.as_str(), node.index)).collect();
    let mut first = Vec::new();
    for (part, other) in [(PARTS[0], PARTS[1]), (PARTS[1], PARTS[0])] {
        let wanted = |event: &MemberEvent| {
            event.state == MemberState::Alive && peers.get(event.peer.as_str()).is_some_and(|node| other.contains(node))
        };
        let observers: BTreeSet<u32> = part.iter().copied().collect();
        first.extend(members.first(from, &observers, wanted, Duration::ZERO).await.into_values());
    }
    first.into_iter().min().ok_or_else(|| Problem::new(Code::Other, "nobody has met anybody of the other part"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lacked_is_counted_once_for_each_node_that_lacked_it() {
        // Three lack what two have changed, and two what three have.
        assert_eq!(useful_bytes(1000), 1000 * 276 * 3 + 1000 * 276 * 2);
    }

    #[test]
    fn a_node_has_all_with_the_last_of_it() {
        assert_eq!(last(&[Some(3), Some(7), Some(5)]), Some(7));
        assert_eq!(last(&[Some(3), None]), None);
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        assert_eq!((since(from, from + Duration::from_millis(1500)), since(from + REST, from)), (1.5, 0.0));
    }
}
