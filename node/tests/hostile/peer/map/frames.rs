//! Frames about the map that are none, after an honest beginning.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use p2p_gossip::kv::message::{self, CAPABILITY};
use p2p_gossip::kv::{COUNTER_MAX, Dot, Dots, OP_LEN_MAX};
use p2p_gossip::wire::Frame;

use super::super::answers::Manners;
use super::super::door::Member;
use super::super::frames::PAUSE;
use super::super::members::{Hand, MEMBERS, bytes_of};
use super::super::seat::Sitting;
use super::super::wire::header;
use super::super::{Attack, Scenario, again};
use super::answers::Answers;
use super::{key, nobody, write};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("map-frame-wrong", |a| Box::pin(lie(a, "no message", wrong))).moving(&["p2p_kv_peers_broken"]),
    Scenario::new("map-frame-too-long", |a| Box::pin(lie(a, "too long a frame", too_long)))
        .moving(&["p2p_edges_broken"]),
];

const _: () = assert!(CAPABILITY == 1);

/// Types of frames: writes, four with names of writes of which one is what a copy comes to, in the order of their numbers.
const WRITES: u8 = 40;
const HAVE: u8 = 41;
const WANT: u8 = 42;
const COPY: u8 = 43;
const CONFIRM: u8 = 44;
const CONFIRMED: u8 = 45;

/// After an honest beginning, bytes after which the edge must end.
async fn lie(attack: Arc<Attack>, what: &'static str, bytes: fn(usize) -> Vec<u8>) {
    let manners = Manners { seat: Sitting::OnEdges, listens: true, map: Some(Answers::Silence), ..Manners::default() };
    let lanes: Vec<Member> = (0..MEMBERS).map(|n| Member::begin(&attack, n as u32, manners.clone())).collect();
    let next = AtomicUsize::new(0);
    again(&attack, MEMBERS, PAUSE, async |lane| {
        let member = &lanes[lane];
        let mut hand = Hand::met(member).await?;
        // Whoever has told has taken note of the edge.
        while hand.wire.answer().await?.kind != COPY {}
        let n = next.fetch_add(1, Ordering::Relaxed);
        hand.wire.write(&bytes(n)).await?;
        hand.wire.ended(member, &format!("{what}, number {n}")).await;
        Ok(())
    })
    .await;
}

fn frame(kind: u8, payload: impl Into<Bytes>) -> Vec<u8> {
    bytes_of(&Frame::new(kind, Bytes::new(), payload.into()))
}

/// Writes of which one is none: its bytes, and where they are said to end.
fn writes(len: usize, bytes: &[u8]) -> Vec<u8> {
    frame(WRITES, [&(len as u32).to_le_bytes()[..], bytes].concat())
}

/// Frames of every type whose payloads are nothing of the kind.
fn wrong(n: usize) -> Vec<u8> {
    // Format, peer, epoch: then the counter, and the length of the key.
    const COUNTER: usize = 1 + 32 + 8;
    let good = write(Dot { actor: nobody(1), counter: 1 }, key("hostile/wrong"), Some("value".into()), Dots::default());
    let with = |at: usize, bytes: &[u8]| {
        let mut wrong = good.to_vec();
        wrong[at..at + bytes.len()].copy_from_slice(bytes);
        writes(wrong.len(), &wrong)
    };
    let named = [HAVE, WANT, CONFIRM, CONFIRMED][n / 12 % 4];
    match n % 12 {
        0 => frame(named, vec![0; 48]),
        1 => frame(named, vec![7; 47]),
        2 => frame(COPY, vec![0; 32]),
        3 => frame(COPY, vec![4; 33]),
        4 => frame(WRITES, vec![0xff; 100]),
        5 => with(0, &[9]),
        6 => with(COUNTER, &0_u64.to_le_bytes()),
        7 => with(COUNTER, &(COUNTER_MAX + 1).to_le_bytes()),
        8 => with(COUNTER + 8 + 2, &[0xff]),
        9 => with(COUNTER + 8, &u16::MAX.to_le_bytes()),
        10 => writes(good.len() + 1, &good),
        _ => writes(good.len() - 1, &good),
    }
}

/// Frames that are longer than they may be.
fn too_long(n: usize) -> Vec<u8> {
    let kind = WRITES + (n / 2 % 6) as u8;
    let cap = message::caps(kind).expect("one of them");
    match n % 2 {
        0 => header(kind, 0, 1, 0).to_vec(),
        _ => header(kind, 0, 0, cap.payload as u32 + 1 + (OP_LEN_MAX * (n % 7)) as u32).to_vec(),
    }
}
