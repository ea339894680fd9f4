//! Too much of what may be said about the map.

use std::sync::Arc;

use p2p_gossip::kv::flood::Carried;
use p2p_gossip::kv::message::{self, Copy};
use p2p_gossip::kv::{Digest, Dot, Dots, REPLACES_MAX};
use p2p_gossip::wire::Frame;

use super::super::{Attack, Scenario};
use super::answers::Answers;
use super::{enter, key, nobody, write};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("map-flood-have", |a| Box::pin(flood(a, have))),
    Scenario::new("map-flood-want", |a| Box::pin(flood(a, want))),
    Scenario::new("map-flood-confirm", |a| Box::pin(flood(a, confirm))).moving(&["p2p_kv_confirms_dropped"]),
    Scenario::new("map-flood-confirmed", |a| Box::pin(flood(a, confirmed))),
    Scenario::new("map-flood-copies", |a| Box::pin(flood(a, copies))),
    Scenario::new("map-flood-copies-unequal", |a| Box::pin(unequal(a))),
    Scenario::new("map-flood-writes", |a| Box::pin(flood(a, writes)))
        .leaving_traces()
        .not_withstood("what others write is bounded by --state-max alone"),
    Scenario::new("map-flood-writes-one-key", |a| Box::pin(flood(a, one_key)))
        .leaving_traces()
        .not_withstood("values beside each other at one key are bounded by nothing, and cost their square"),
    Scenario::new("map-flood-replaces", |a| Box::pin(flood(a, replaces))).leaving_traces(),
];

/// Names in one frame, the most that there may be.
const DOTS: u64 = 512;

/// Whose writes are made up: each of them is remembered for ever.
const ACTORS: u64 = 20_000;

/// Keys that they write to.
const KEYS: u64 = 2_000;

/// As fast as the victim takes them, frames by their numbers.
async fn flood(attack: Arc<Attack>, frames: fn(u64) -> Vec<Frame>) {
    let member = enter(&attack, 0, Answers::Silence).await;
    for n in 0.. {
        member.seat.tell(frames(n)).await;
        attack.began();
    }
}

/// Names that there are none of.
fn made_up(n: u64) -> Vec<Dot> {
    (n * DOTS..(n + 1) * DOTS).map(|n| Dot { actor: nobody(n), counter: n % 7 + 1 }).collect()
}

fn have(n: u64) -> Vec<Frame> {
    message::pack(made_up(n).into_iter().map(Carried::Have))
}

fn want(n: u64) -> Vec<Frame> {
    message::pack(made_up(n).into_iter().map(Carried::Want))
}

fn confirm(n: u64) -> Vec<Frame> {
    message::confirm(&made_up(n))
}

fn confirmed(n: u64) -> Vec<Frame> {
    message::confirmed(&made_up(n))
}

fn copies(n: u64) -> Vec<Frame> {
    let copy = |n: u64| {
        let digest = Digest { vector: [n as u8; 16], rows: [(n >> 8) as u8; 16] };
        message::copy(&Copy { digest, is_joined: n.is_multiple_of(2), is_behind: n.is_multiple_of(3) })
    };
    (n * 100..(n + 1) * 100).map(copy).collect()
}

/// That it has seen the same and holds something else, and the same after all, in turn.
async fn unequal(attack: Arc<Attack>) {
    let member = enter(&attack, 0, Answers::Silence).await;
    loop {
        let copy = member.seat.copy().await;
        let other = Copy { digest: Digest { rows: [1; 16], ..copy.digest }, ..copy };
        member.seat.tell((0..100).flat_map(|_| [message::copy(&other), message::copy(&copy)])).await;
        attack.began();
    }
}

/// Many short writes, each of somebody else, that take the place of nothing.
fn written(n: u64, of_key: impl Fn(u64) -> String) -> Vec<Frame> {
    let one = |n: u64| {
        let dot = Dot { actor: nobody(n % ACTORS), counter: n / ACTORS + 1 };
        Carried::Write(dot, write(dot, key(of_key(n)), Some("x".into()), Dots::default()))
    };
    message::pack((n * 300..(n + 1) * 300).map(one))
}

fn writes(n: u64) -> Vec<Frame> {
    written(n, |n| format!("hostile/{}", n % KEYS))
}

fn one_key(n: u64) -> Vec<Frame> {
    written(n, |_| "hostile/one".to_owned())
}

/// Writes that take the place of as many as one may, which nobody has made.
fn replaces(n: u64) -> Vec<Frame> {
    let dot = Dot { actor: nobody(n % ACTORS), counter: n / ACTORS + 1 };
    let others = (0..REPLACES_MAX as u64).map(|other| Dot { actor: nobody(n * 10_000 + other), counter: 1 });
    let bytes = write(dot, key(format!("hostile/{}", n % KEYS)), Some("x".into()), others.collect());
    message::pack([Carried::Write(dot, bytes)])
}
