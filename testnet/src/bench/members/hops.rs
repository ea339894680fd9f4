//! Content by those who know everybody: how soon its first byte is there, and how often anybody had to be looked for.
//!
//! A few nodes put and never get, so that a reader has links only to those whom it has asked itself: the first get of
//! content of which it has no holder's link yet is cold, the same once more is warm.

use std::collections::{BTreeMap, BTreeSet};

use p2p_api::{Code, Problem};

use super::{Bench, Unit};
use crate::Result;
use crate::bench::net::{Net, get, put};
use crate::bench::table::{Target, judge};
use crate::http::Connection;
use crate::metrics::Histogram;
use crate::workload::{Dice, content};

/// Nodes unless told otherwise.
const NODES: u32 = 50;

/// Length of a content in bytes.
const LEN: usize = 4 << 10;

/// Contents for each node.
const CONTENTS: u64 = 6;

/// How often what was got is got again.
const WARM_GETS: u32 = 10;

/// One in so many nodes puts.
const PUTTERS: usize = 8;

const COLD: &str = "first get of 4 KiB without a link, in the node, p99";
const WARM_P50: &str = "get of 4 KiB over an open link, in the node, p50";
const WARM_P99: &str = "get of 4 KiB over an open link, in the node, p99";
const ONE_HOP: &str = "gets and puts without a lookup";

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    for round in 0..bench.own.options.extent.repeats {
        one_round(bench, round).await?;
    }
    for (name, unit, target) in [
        (COLD, Unit::Ms, Target::AtMost(10.0)),
        (WARM_P50, Unit::Ms, Target::AtMost(1.5)),
        (WARM_P99, Unit::Ms, Target::AtMost(3.0)),
        (ONE_HOP, Unit::Percent, Target::AtLeast(99.9)),
    ] {
        let samples = bench.table.samples(name);
        bench.judge(judge(name, unit, samples, target));
    }
    Ok(())
}

/// On a network of its own: where somebody has got something before, links are open.
async fn one_round(bench: &mut Bench, round: u32) -> Result<()> {
    let net = bench.net(bench.nodes(NODES), true).await?;
    net.until_complete().await?;
    let seed = bench.seed.wrapping_add(u64::from(round));
    let mut readers = Readers::open(&net, Dice::of_part(seed, 1)).await?;
    let lookups = lookups(&net, &readers.nodes).await?;
    let stored = readers.put_all(&net, seed).await?;
    let before = readers.times(&net).await?;
    let pairs = readers.get_cold(&stored).await?;
    let between = readers.times(&net).await?;
    for _ in 0..WARM_GETS {
        for (reader, address) in &pairs {
            get(readers.connection(*reader)?, address).await?;
        }
    }
    let after = readers.times(&net).await?;
    let (cold, warm) = (pairs.len() as u64, pairs.len() as u64 * u64::from(WARM_GETS));
    bench.add("first gets without a link", Unit::Count, cold as f64);
    bench.add(COLD, Unit::Ms, quantile(&between.since(&before), 0.99, cold)?);
    let times = after.since(&between);
    bench.add(WARM_P50, Unit::Ms, quantile(&times, 0.5, warm)?);
    bench.add(WARM_P99, Unit::Ms, quantile(&times, 0.99, warm)?);
    let begun = self::lookups(&net, &readers.nodes).await? - lookups;
    let all = stored.len() as u64 + cold + warm;
    bench.add(ONE_HOP, Unit::Percent, 100.0 * all.saturating_sub(begun) as f64 / all as f64);
    net.down().await
}

/// Lookups that all nodes have begun so far.
async fn lookups(net: &Net, nodes: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for node in nodes {
        sum += net.metrics(*node).await?.counter("p2p_lookups")?;
    }
    Ok(sum)
}

/// Milliseconds.
fn quantile(times: &Histogram, part: f64, gets: u64) -> Result<f64> {
    let wrong = || Problem::new(Code::Other, format!("the nodes counted {} gets of {gets}", times.count()));
    times.quantile(part).filter(|_| times.count() == gets).map(|seconds| seconds * 1000.0).ok_or_else(wrong)
}

/// Content with those who hold it.
struct Stored {
    address: String,
    holders: BTreeSet<u32>,
}

/// All nodes, a few of which put while the others get.
struct Readers {
    nodes: Vec<u32>,
    putters: usize,
    connections: BTreeMap<u32, Connection>,
    dice: Dice,
}

impl Readers {
    async fn open(net: &Net, mut dice: Dice) -> Result<Self> {
        let mut nodes: Vec<u32> = net.cluster.nodes()?.nodes.iter().map(|node| node.index).collect();
        let mut connections = BTreeMap::new();
        for node in &nodes {
            connections.insert(*node, Connection::open(&net.socket(*node)).await?);
        }
        // Those who put stand first, and are any.
        for place in 0..nodes.len() {
            let other = place + dice.roll((nodes.len() - place) as u64) as usize;
            nodes.swap(place, other);
        }
        let putters = nodes.len().div_ceil(PUTTERS);
        Ok(Self { nodes, putters, connections, dice })
    }

    fn connection(&mut self, node: u32) -> Result<&mut Connection> {
        self.connections.get_mut(&node).ok_or_else(|| Problem::new(Code::NotFound, format!("there is no node {node}")))
    }

    async fn put_all(&mut self, net: &Net, seed: u64) -> Result<Vec<Stored>> {
        let index_of: BTreeMap<String, u32> =
            net.cluster.nodes()?.nodes.into_iter().map(|node| (node.peer, node.index)).collect();
        let mut stored = Vec::new();
        for name in 0..self.nodes.len() as u64 * CONTENTS {
            let mut bytes = vec![0; LEN];
            content(seed, name).fill(&mut bytes);
            let address = blake3::hash(&bytes).to_hex().to_string();
            let putter = *self.dice.choose(&self.nodes[..self.putters]);
            put(self.connection(putter)?, &bytes, &address).await?;
            // Asked where links to all of them are open already.
            let holders = net.client(putter).stat(&address, None).await?.holders;
            let holders = holders.iter().filter_map(|peer| index_of.get(peer).copied()).collect();
            stored.push(Stored { address, holders });
        }
        Ok(stored)
    }

    /// Gets each content where that opens a link, if there is still such a reader; who got what.
    async fn get_cold(&mut self, stored: &[Stored]) -> Result<Vec<(u32, String)>> {
        let mut linked: BTreeSet<(u32, u32)> = BTreeSet::new();
        let mut pairs = Vec::new();
        for Stored { address, holders } in stored {
            let is_cold = |reader: &u32| {
                !holders.contains(reader) && holders.iter().all(|holder| !linked.contains(&(*reader, *holder)))
            };
            let cold: Vec<u32> = self.nodes[self.putters..].iter().copied().filter(is_cold).collect();
            if cold.is_empty() {
                continue;
            }
            let reader = *self.dice.choose(&cold);
            get(self.connection(reader)?, address).await?;
            linked.extend(holders.iter().map(|holder| (reader, *holder)));
            pairs.push((reader, address.clone()));
        }
        Ok(pairs)
    }

    /// How long gets have taken so far, on all nodes together.
    async fn times(&self, net: &Net) -> Result<Histogram> {
        let mut sum: Option<Histogram> = None;
        for node in &self.nodes {
            let times = net.metrics(*node).await?.histogram("p2p_get_first_byte_seconds")?;
            sum = Some(sum.map_or_else(|| times.clone(), |sum| sum.plus(&times)));
        }
        sum.ok_or_else(|| Problem::new(Code::NotFound, "there is no node"))
    }
}
