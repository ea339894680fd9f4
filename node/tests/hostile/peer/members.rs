//! Lies on edges: bytes that are no frames, frames that are no messages, and records that are not one's own.

pub(crate) mod floods;
pub(crate) mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use p2p_gossip::swim::{ADDRESSES_MAX, Claims, Message, Name, RECORD_LEN_MAX, Record, TAGS_LEN_MAX, Version, codec};
use p2p_gossip::wire::{ClusterId, Frame, Hello, Versions, encode};

use super::answers::Manners;
use super::door::{Edge, Member};
use super::frames::{LANES, PAUSE};
use super::seat::{self, Sitting};
use super::wire::{CREDIT, HELLO, Wire, header};
use super::{Attack, Scenario, again};

const BROKEN: &[&str] = &["p2p_edges_broken"];
const FORGED: &[&str] = &["p2p_member_facts_forged"];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("edge-hello-wrong", |a| Box::pin(wrong_hellos(a))).moving(BROKEN),
    Scenario::new("edge-garbage", |a| Box::pin(lie(a, Met::No, "garbage", garbage))).moving(BROKEN),
    Scenario::new("edge-frame-wrong", |a| Box::pin(lie(a, Met::No, "no message", wrong_frame))).moving(BROKEN),
    Scenario::new("edge-frame-wrong-met", |a| Box::pin(lie(a, Met::Yes, "no message", wrong_frame))).moving(BROKEN),
    Scenario::new("edge-record-wrong", |a| Box::pin(lie(a, Met::No, "no record", wrong_record))).moving(BROKEN),
    Scenario::new("edge-record-forged", |a| Box::pin(lie(a, Met::No, "a forged record", forged_record))).moving(FORGED),
    Scenario::new("edge-record-of-another", |a| Box::pin(record_of_another(a))).moving(FORGED),
    Scenario::new("edge-record-extreme", |a| Box::pin(extreme_records(a))),
    Scenario::new("edge-no-meet", |a| Box::pin(no_meet(a))).moving(&["p2p_member_frames_unmet"]),
    Scenario::new("edge-again-and-again", |a| Box::pin(again_and_again(a))),
    Scenario::new("edge-crowd-without-hello", |a| Box::pin(crowd(a, Stage::Nothing))).moving(BROKEN),
    Scenario::new("edge-crowd-without-meet", |a| Box::pin(crowd(a, Stage::Hello))).moving(&["p2p_edges_postponed"]),
];

/// Identities in a crowd.
const CROWD: u32 = 100;

/// Longest wait until all of a crowd do what they do: not all may get that far.
const GATHER_TIME: Duration = Duration::from_secs(5);

/// The type of a message that says who this is.
const MEET: u8 = 16;

/// Types of messages, the first and the last.
const KINDS: std::ops::RangeInclusive<u8> = MEET..=27;

/// Whether it has said who it is before it lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Met {
    No,
    Yes,
}

/// An edge by hand.
pub(super) struct Hand {
    pub(super) wire: Wire,
    _edge: Edge,
}

impl Hand {
    /// One on which nothing was said.
    async fn open(member: &Member) -> std::io::Result<Self> {
        let mut edge = member.edge().await?;
        Ok(Self { wire: Wire::of(edge.take_stream()), _edge: edge })
    }

    /// One after both hellos.
    pub(super) async fn greeted(member: &Member) -> std::io::Result<Self> {
        let mut hand = Self::open(member).await?;
        hand.wire.hello(&seat::hello(&member.attack, member.seat.has_map())).await?;
        Ok(hand)
    }

    /// One after both have said who they are.
    pub(super) async fn met(member: &Member) -> std::io::Result<Self> {
        let mut hand = Self::greeted(member).await?;
        hand.wire.say(&member.seat.meet()).await?;
        Ok(hand)
    }
}

/// Identities that become members, at most: so few that every honest node stays one of the five candidates of any file, since
/// these take none of them.
pub(super) const MEMBERS: usize = 2;

/// An identity for each lane: of two edges of one member the victim keeps the newer.
pub(super) fn lanes(attack: &Arc<Attack>, count: usize) -> Vec<Member> {
    let manners = Manners { seat: Sitting::OnEdges, listens: true, ..Manners::default() };
    (0..count).map(|n| Member::begin(attack, n as u32, manners.clone())).collect()
}

/// After an honest hello, bytes after which the edge must end.
async fn lie(attack: Arc<Attack>, met: Met, what: &'static str, bytes: fn(&Member, usize) -> Vec<u8>) {
    let count = if met == Met::Yes { MEMBERS } else { LANES };
    let (lanes, next) = (lanes(&attack, count), AtomicUsize::new(0));
    again(&attack, count, PAUSE, async |lane| {
        let member = &lanes[lane];
        let mut hand = match met {
            Met::No => Hand::greeted(member).await?,
            Met::Yes => Hand::met(member).await?,
        };
        let n = next.fetch_add(1, Ordering::Relaxed);
        hand.wire.write(&bytes(member, n)).await?;
        hand.wire.ended(member, &format!("{what}, number {n}")).await;
        Ok(())
    })
    .await;
}

pub(super) fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut bytes = header(frame.kind, frame.flags, frame.head.len() as u16, frame.payload.len() as u32).to_vec();
    bytes.extend_from_slice(&frame.head);
    bytes.extend_from_slice(&frame.payload);
    bytes
}

fn garbage(_: &Member, n: usize) -> Vec<u8> {
    super::frames::garbage(n)
}

/// Frames of every type that are longer than they may be, or cut short; and of types that there are none of.
fn wrong_frame(_: &Member, n: usize) -> Vec<u8> {
    let kind = KINDS.start() + (n / 4 % KINDS.count()) as u8;
    let cap = codec::caps(kind).expect("one of them");
    match n % 4 {
        0 => header(kind, 0, cap.head as u16 + 1, 0).to_vec(),
        1 => header(kind, 0, cap.head as u16, cap.payload as u32 + 1).to_vec(),
        // What has no head has no payload of a single byte either; and what has neither is preceded by what there is none of.
        2 if cap.head > 0 => bytes_of(&Frame::new(kind, vec![0; cap.head - 1].into(), Bytes::new())),
        2 if cap.payload > 0 => bytes_of(&Frame::new(kind, Bytes::new(), vec![0].into())),
        _ => header([2, 15, 28, 99, 255][n % 5], 0xfe, 0, 0).to_vec(),
    }
}

fn meet_with(payload: impl Into<Bytes>) -> Vec<u8> {
    bytes_of(&Frame::new(MEET, vec![0, 0, 0, 0, 0, 0, 0, 0, 2].into(), payload.into()))
}

/// Bytes that are no record, though its owner may have signed them.
fn wrong_record(member: &Member, n: usize) -> Vec<u8> {
    // Format, name, generation, instance, incarnation; then status, introducer, fill, addresses, tags.
    const STATUS: usize = 1 + 32 + 8 + 8 + 4;
    let honest = Record::sign(Claims { addresses: Vec::new(), ..member.seat.claims() }, &member.seat.keys);
    let mut bytes = honest.signed().to_vec();
    match n % 9 {
        0 => bytes.truncate(bytes.len() / 2),
        1 => bytes.clear(),
        2 => bytes[0] = 2,
        3 => bytes[STATUS] = 2,
        4 => bytes[STATUS + 1] = 2,
        5 => bytes[STATUS + 2] = 17,
        6 => bytes[STATUS + 3] = ADDRESSES_MAX as u8 + 1,
        7 => bytes[STATUS + 4..STATUS + 6].copy_from_slice(&(TAGS_LEN_MAX as u16 + 1).to_le_bytes()),
        _ => bytes.resize(RECORD_LEN_MAX, 0),
    }
    meet_with(bytes)
}

/// Records under this identity's name, and others, that nobody has signed.
fn forged_record(member: &Member, n: usize) -> Vec<u8> {
    let mut claims = member.seat.claims();
    if n.is_multiple_of(3) {
        // A name that this one is not, and most likely nobody has.
        claims.name = Name(*blake3::hash(&n.to_le_bytes()).as_bytes());
    }
    let mut bytes = Record::sign(claims, &member.seat.keys).signed().to_vec();
    if n % 3 == 1 {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
    } else if n % 3 == 2 {
        // What was signed is another generation.
        bytes[33] ^= 0xff;
    }
    meet_with(bytes)
}

/// The victim's own record, and those of others, said to be one's own.
async fn record_of_another(attack: Arc<Attack>) {
    let knows = Member::enter(&attack, LANES as u32, sits(seat::Ways::Honest)).await;
    let honest = knows.seat.knows(3).await;
    let (lanes, next) = (lanes(&attack, LANES), AtomicUsize::new(0));
    again(&attack, LANES, PAUSE, async |lane| {
        let member = &lanes[lane];
        let mut hand = Hand::greeted(member).await?;
        let record = &honest[next.fetch_add(1, Ordering::Relaxed) % honest.len()];
        hand.wire.write(&meet_with(record.signed().clone())).await?;
        hand.wire.ended(member, "a record of another").await;
        Ok(())
    })
    .await;
}

pub(super) fn sits(ways: seat::Ways) -> Manners {
    Manners { seat: Sitting::Down(ways), listens: true, ..Manners::default() }
}

/// Records that are as large, as new and as odd as they may be, by identities of their own: there is nothing after the last.
async fn extreme_records(attack: Arc<Attack>) {
    const FIRST: u32 = 1000;
    let manners = Manners { seat: Sitting::OnEdges, listens: true, ..Manners::default() };
    let members: Vec<Member> =
        (0..MEMBERS as u32).map(|n| Member::begin(&attack, FIRST + n, manners.clone())).collect();
    let next = AtomicUsize::new(0);
    again(&attack, members.len(), PAUSE, async |lane| {
        let member = &members[lane];
        let mut claims = member.seat.claims();
        let n = next.fetch_add(1, Ordering::Relaxed);
        match (lane, n % 4 / 2) {
            (0, 0) => claims.version = Version { generation: u64::MAX, incarnation: u32::MAX },
            (0, _) => claims.version = Version { generation: u64::MAX, incarnation: n as u32 },
            (_, 0) => claims.addresses.extend([Bytes::new(), vec![0xff; 128].into()]),
            (_, _) => (claims.tags, claims.rest) = (vec![0xff; TAGS_LEN_MAX].into(), vec![0xff; 256].into()),
        }
        // Within one version another each time.
        claims.instance = n as u64;
        let record = Record::sign(claims, &member.seat.keys);
        let mut hand = Hand::greeted(member).await?;
        hand.wire.write(&meet_with(record.signed().clone())).await?;
        let _ = tokio::time::timeout(PAUSE, hand.wire.next()).await;
        Ok(())
    })
    .await;
}

/// What may only be said by who has said who it is.
async fn no_meet(attack: Arc<Attack>) {
    let lanes = lanes(&attack, LANES);
    again(&attack, LANES, PAUSE, async |lane| {
        let member = &lanes[lane];
        let mut hand = Hand::greeted(member).await?;
        for number in 0..100 {
            hand.wire.say(&member.seat.frame(|_| Message::Ping(number, 0, true))).await?;
            hand.wire.say(&member.seat.frame(|_| Message::Settled)).await?;
            hand.wire.say(&member.seat.frame(|_| Message::News(Vec::new()))).await?;
        }
        // The first is its Meet; what follows would be an answer.
        hand.wire.answer().await?;
        if let Ok(Ok(frame)) = tokio::time::timeout(Duration::from_millis(200), hand.wire.answer()).await {
            attack.complain(&format!("a frame of type {} answers whom it has not met", frame.kind));
        }
        Ok(())
    })
    .await;
}

/// Edges made and ended, as fast as it goes.
async fn again_and_again(attack: Arc<Attack>) {
    let lanes = lanes(&attack, MEMBERS);
    again(&attack, MEMBERS, Duration::ZERO, async |lane| Hand::met(&lanes[lane]).await.map(drop)).await;
}

/// How far each of a crowd gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Nothing,
    Hello,
}

/// Many identities, each with an edge on which it says no more.
async fn crowd(attack: Arc<Attack>, stage: Stage) {
    let manners = Manners { seat: Sitting::OnEdges, ..Manners::default() };
    let one = async |n| {
        let member = Member::begin(&attack, n, manners.clone());
        loop {
            let hand = match stage {
                Stage::Nothing => Hand::open(&member).await,
                Stage::Hello => Hand::greeted(&member).await,
            };
            if let Ok(hand) = hand {
                attack.did("fell silent");
                super::wire::drain(hand.wire.reader).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let late = async {
        tokio::time::sleep(GATHER_TIME).await;
        attack.began();
    };
    futures::future::join(late, futures::future::join_all((0..CROWD).map(one))).await;
}

/// What may come instead of a hello.
async fn wrong_hellos(attack: Arc<Attack>) {
    let honest = seat::hello(&attack, false);
    let wrong = [
        Hello { cluster: ClusterId([0xee; 16]), ..honest },
        Hello { versions: Versions { min: 2, max: 3 }, ..honest },
        Hello { versions: Versions { min: 1, max: 0 }, ..honest },
        Hello { credit: 0, ..honest },
        Hello { credit: u32::MAX, ..honest },
    ];
    let good = encode(&honest).to_vec();
    let mut all: Vec<(u8, Vec<u8>)> = wrong.iter().map(|wrong| (HELLO, encode(wrong).to_vec())).collect();
    all.extend([(HELLO, good[1..].to_vec()), (HELLO, vec![0xff; 64]), (CREDIT, vec![1]), (MEET, good)]);
    let (lanes, next) = (lanes(&attack, LANES), AtomicUsize::new(0));
    again(&attack, LANES, PAUSE, async |lane| {
        let (kind, head) = &all[next.fetch_add(1, Ordering::Relaxed) % all.len()];
        let mut hand = Hand::open(&lanes[lane]).await?;
        hand.wire.send(*kind, 0, head, &[]).await?;
        hand.wire.ended(&lanes[lane], &format!("{kind} {head:?} instead of a hello")).await;
        Ok(())
    })
    .await;
}
