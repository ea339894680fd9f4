//! Too much of what members may say, nothing read of what comes, and members that somebody has made up.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use p2p_gossip::swim::{
    BUCKETS, BUCKETS_LEN_MAX, Claims, DOUBTS_MAX, Ed25519, FACTS_LEN_MAX, Fact, Message, RECORD_LEN_MAX, Record,
    Status, Version,
};
use p2p_gossip::wire::{Frame, Link};

use super::super::door::Member;
use super::super::frames::PAUSE;
use super::super::seat::{Seat, Ways, config};
use super::super::{Attack, Scenario, again};
use super::{FORGED, MEMBERS, lanes, sits};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("flood-pings", |a| Box::pin(flood(a, Reading::All, pings))),
    Scenario::new("flood-asks", |a| Box::pin(flood(a, Reading::All, asks))),
    Scenario::new("flood-sums", |a| Box::pin(flood(a, Reading::All, sums))),
    Scenario::new("flood-doubts", |a| Box::pin(flood(a, Reading::All, doubts))),
    Scenario::new("flood-facts", |a| Box::pin(flood(a, Reading::All, old_facts))),
    Scenario::new("flood-facts-forged", |a| Box::pin(flood(a, Reading::All, forged_facts))).moving(FORGED),
    Scenario::new("unread-pings", |a| Box::pin(flood(a, Reading::Nothing, pings)))
        .moving_later(&["p2p_edges_overflown"]),
    Scenario::new("unread-sums", |a| Box::pin(flood(a, Reading::Nothing, sums)))
        .moving_later(&["p2p_comparisons_refused"]),
    Scenario::new("flood-records", |a| Box::pin(ever_newer(a))),
    Scenario::new("made-up-members", |a| Box::pin(made_up(a))).making_up(),
];

/// Frames in one batch.
const BATCH: u32 = 100;

/// Members that flood, beside the one that finds out who is honest.
const FLOODING: usize = MEMBERS - 1;

/// What becomes of the answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    All,
    Nothing,
}

/// The same frames on each of several edges, as fast as the victim takes them.
async fn flood(attack: Arc<Attack>, reading: Reading, frames: fn(&Seat, &[Arc<Record>]) -> Vec<Frame>) {
    let knows = Member::enter(&attack, FLOODING as u32, sits(Ways::Honest)).await;
    let honest = knows.seat.knows(3).await;
    let lanes = lanes(&attack, FLOODING);
    again(&attack, FLOODING, PAUSE, async |lane| {
        let member = &lanes[lane];
        let mut edge = member.edge().await?;
        let link = Link::open(edge.take_stream(), config(&attack, false)).await.map_err(std::io::Error::other)?;
        let Link { sender, mut receiver, .. } = link;
        let read = async {
            while reading == Reading::All && receiver.recv().await.is_some() {}
            sender.ended().await;
        };
        let frames = frames(&member.seat, &honest);
        let write = async {
            let mut sent = sender.send(member.seat.meet()).await;
            while sent.is_ok() {
                for frame in &frames {
                    sent = sent.and(sender.send(frame.clone()).await);
                }
                attack.did("batches");
                attack.began();
            }
        };
        futures::future::join(read, write).await;
        Ok(())
    })
    .await;
}

fn batch(frame: impl Fn(u32) -> Frame) -> Vec<Frame> {
    (0..BATCH).map(frame).collect()
}

fn pings(seat: &Seat, _: &[Arc<Record>]) -> Vec<Frame> {
    batch(|number| seat.frame(|_| Message::Ping(number, 0, true)))
}

fn asks(seat: &Seat, honest: &[Arc<Record>]) -> Vec<Frame> {
    let of = |n: u32| *honest[n as usize % honest.len()].name();
    batch(|n| seat.frame(|directory| Message::Ask(directory.insert(of(n)))))
}

/// Every bucket differs from the victim's.
fn sums(seat: &Seat, _: &[Arc<Record>]) -> Vec<Frame> {
    batch(|n| seat.frame(|_| Message::Sums(Box::new([u64::from(n) + 1; BUCKETS]))))
}

/// As many doubts as one message holds, of members that are there, at every version.
fn doubts(seat: &Seat, honest: &[Arc<Record>]) -> Vec<Frame> {
    batch(|n| {
        seat.frame(|directory| {
            let version = Version { generation: 1, incarnation: n };
            let names = honest.iter().cycle().take(DOUBTS_MAX);
            Message::Doubt(names.map(|record| (directory.insert(*record.name()), version)).collect())
        })
    })
}

/// What everybody knows, as often as it goes into a message.
fn old_facts(seat: &Seat, honest: &[Arc<Record>]) -> Vec<Frame> {
    let facts = honest.iter().map(|record| Arc::new(Fact::Said(record.clone())));
    let count = FACTS_LEN_MAX / RECORD_LEN_MAX;
    let facts: Vec<Arc<Fact>> = facts.collect::<Vec<_>>().into_iter().cycle().take(count).collect();
    batch(|n| seat.frame(|_| if n % 2 == 0 { Message::News(facts.clone()) } else { Message::Known(facts.clone()) }))
}

/// As many facts as the longest message holds, each newer than the one before, and none of them signed: the dearest lie.
fn forged_facts(seat: &Seat, _: &[Arc<Record>]) -> Vec<Frame> {
    let mut signed = Record::sign(seat.claims(), &seat.keys).signed().to_vec();
    let mut facts = BytesMut::new();
    for generation in 0_u64.. {
        if facts.len() + 3 + signed.len() > BUCKETS_LEN_MAX {
            break;
        }
        signed[GENERATION..GENERATION + 8].copy_from_slice(&(u64::MAX / 2 + generation).to_le_bytes());
        facts.put_u8(0);
        facts.put_u16_le(signed.len() as u16);
        facts.put_slice(&signed);
    }
    vec![Frame::new(BUCKETS_OF, vec![0; BUCKETS / 8].into(), facts.freeze())]
}

/// Where the generation stands in a record, after format and name.
const GENERATION: usize = 33;

/// The type of a message with buckets of a table.
const BUCKETS_OF: u8 = 26;

/// Ever more members that there are not, each signed by the key that it was made up with.
async fn made_up(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, sits(Ways::Honest)).await;
    member.seat.knows(3).await;
    for first in (0_u32..).step_by(MADE_UP) {
        let facts = (first..first + MADE_UP as u32).map(|n| Arc::new(Fact::Said(nobody(&attack, n, 0))));
        let facts = facts.collect::<Vec<_>>();
        member.seat.say(&member.seat.frame(|_| Message::News(facts))).await;
        attack.did("hundreds made up");
        attack.began();
    }
}

/// Members that are made up in one message.
const MADE_UP: usize = 100;

/// A member that there is not, which has ever more to say of itself.
async fn ever_newer(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, sits(Ways::Honest)).await;
    member.seat.knows(3).await;
    for first in (0_u32..).step_by(MADE_UP) {
        let facts = (first..first + MADE_UP as u32).map(|n| Arc::new(Fact::Said(nobody(&attack, 0, n))));
        let facts = facts.collect::<Vec<_>>();
        member.seat.say(&member.seat.frame(|_| Message::News(facts))).await;
        attack.did("hundreds said");
        attack.began();
    }
}

fn nobody(attack: &Attack, n: u32, incarnation: u32) -> Arc<Record> {
    // Far from the identities that there are.
    let keys = Ed25519::of_secret(attack.secret(u32::MAX / 2 + n));
    let claims = Claims {
        name: keys.name(),
        version: Version { generation: 1, incarnation },
        instance: 1,
        status: Status::Alive,
        introducer: None,
        addresses: Vec::new(),
        tags: Bytes::new(),
        fill: 0,
        rest: Bytes::new(),
    };
    Record::sign(claims, &keys)
}
