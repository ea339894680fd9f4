//! What stands at all nodes, and whether that is the same.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use p2p_api::client::Client;
use p2p_api::{Code, Problem};
use tokio::time::{Instant, sleep, timeout};

use super::chaos::Done;
use super::history::{Equal, Recorder, Sibling};
use super::judge::{Breach, Kind, Last};
use super::load::siblings_of;
use crate::{Cluster, Result};

/// Longest wait until all nodes are equal.
const EQUAL_LIMIT: Duration = Duration::from_secs(120);

/// Time between two looks.
const LOOK_PERIOD: Duration = Duration::from_millis(150);

/// Nodes that are equal twice, so long apart, stay so: what came to nothing where it was written looks like nothing before it
/// has spread, but spreads in less.
const SETTLE_TIME: Duration = Duration::from_millis(300);

/// Longest wait for what a node holds.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// All nodes were the same.
pub(super) struct Settled {
    pub(super) equal: Equal,
    /// What stands there.
    pub(super) last: Last,
    /// How long that took.
    pub(super) waited_ms: u64,
}

/// Waits until all nodes hold the same keys with the same values.
pub(super) async fn settled(net: &Cluster, recorder: &Recorder) -> Done<Settled> {
    let nodes = net.nodes()?.nodes.iter().map(|node| net.client(node.index)).collect::<Vec<_>>();
    let started = Instant::now();
    let mut before: Option<(Instant, Last)> = None;
    loop {
        let began = recorder.now();
        match equal(&nodes).await {
            Ok(last) => match &before {
                Some((at, same)) if *same == last => {
                    if at.elapsed() >= SETTLE_TIME {
                        let waited_ms = at.duration_since(started).as_millis() as u64;
                        let equal = Equal { began, ended: recorder.now() };
                        return Ok(Settled { equal, last, waited_ms });
                    }
                }
                _ => before = Some((Instant::now(), last)),
            },
            Err(what) if started.elapsed() >= EQUAL_LIMIT => {
                let what = format!("after {} s nodes are not equal: {what}", EQUAL_LIMIT.as_secs());
                return Err(Breach { kind: Kind::NotEqual, key: None, value: None, what }.into());
            }
            Err(_not_yet) => before = None,
        }
        sleep(LOOK_PERIOD).await;
    }
}

/// What all nodes hold, or how two of them differ.
async fn equal(nodes: &[Client]) -> std::result::Result<Last, String> {
    let all = join_all(nodes.iter().map(|client| async {
        let silent = |_elapsed| Problem::new(Code::TimedOut, "no answer");
        timeout(ANSWER_LIMIT, of_node(client)).await.map_err(silent)?
    }));
    let mut first: Option<Last> = None;
    for (node, held) in all.await.into_iter().enumerate() {
        let held = held.map_err(|problem| format!("node {node}: {}", problem.message))?;
        match &first {
            None => first = Some(held),
            Some(first) if *first == held => {}
            Some(first) => return Err(format!("nodes 0 and {node}: {}", difference(first, &held))),
        }
    }
    first.ok_or_else(|| "there is no node".to_owned())
}

/// All that a node holds.
pub(super) async fn of_node(client: &Client) -> Result<Last> {
    let mut listed = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = client.kv_keys("", after.as_deref(), None).await?;
        listed.extend(page.keys);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let mut last = Last::new();
    let mut kept = client.keep().await?;
    for key in listed {
        let siblings = siblings_of(&kept.kv_get(&key.key).await?);
        if siblings.len() != key.siblings as usize {
            let message = format!("{} is listed with {} values, and has {}", key.key, key.siblings, siblings.len());
            return Err(Problem::new(Code::Other, message));
        }
        last.insert(key.key, siblings);
    }
    Ok(last)
}

fn difference(one: &Last, other: &Last) -> String {
    let of = |last: &BTreeMap<String, Vec<Sibling>>, key: &str| {
        let siblings = last.get(key).map_or(&[][..], Vec::as_slice);
        siblings.iter().map(|sibling| format!("{} ({})", sibling.value, sibling.dot)).collect::<Vec<_>>().join(", ")
    };
    let differ = one.keys().chain(other.keys()).find(|key| one.get(*key) != other.get(*key));
    differ.map_or_else(String::new, |key| format!("{key} has [{}], and [{}]", of(one, key), of(other, key)))
}
