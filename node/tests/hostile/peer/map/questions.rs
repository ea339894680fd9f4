//! Questions about the map: none, too long ones, too many, and those that cost most to answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use p2p_gossip::kv::anti_entropy::{Begun, Body};
use p2p_gossip::kv::{Asked, Vector, Wanted};
use p2p_gossip::reconcile::{Divided, Range};

use super::super::door::{Member, Protocol};
use super::super::frames::PAUSE;
use super::super::wire::Wire;
use super::super::{Attack, Scenario, again};
use super::{Line, PART_LEN, QUESTION, asker, hello, nobody};

const BROKEN: &[&str] = &["p2p_kv_peers_broken"];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("map-question-garbage", |a| Box::pin(lie(a, "garbage", garbage))).moving(BROKEN),
    Scenario::new("map-question-endless", |a| Box::pin(endless(a))).moving(BROKEN),
    Scenario::new("map-question-vast", |a| Box::pin(vast(a))),
    Scenario::new("map-question-unread", |a| Box::pin(unread(a))),
    Scenario::new("map-question-crowd", |a| Box::pin(crowd(a))).moving(&["p2p_kv_streams_refused"]),
    Scenario::new("map-question-open", |a| Box::pin(ask(a, |_| Body::Open))),
    Scenario::new("map-question-keys", |a| Box::pin(ask(a, |_| keys()))),
    Scenario::new("map-question-look", |a| Box::pin(ask(a, |_| look(Range::ALL, RANGES_MAX)))),
    Scenario::new("map-question-look-rows", |a| Box::pin(ask(a, |_| look_rows(RANGES_MAX)))),
    Scenario::new("map-question-close", |a| Box::pin(ask(a, Body::Close))),
];

/// Streams of one peer that a node answers by at once.
const LANES: usize = 2;

/// Bytes of a question after which it is none.
const QUESTION_LEN_MAX: usize = 16 << 20;

/// Ranges of a question after which it is none.
const RANGES_MAX: usize = 1 << 16;

/// A stream by hand, after both hellos.
async fn greeted(member: &Member) -> std::io::Result<Wire> {
    let mut wire = Wire::of(member.open(Protocol::Map).await?);
    wire.hello(&hello(&member.attack)).await?;
    Ok(wire)
}

/// Type, head and payload of a frame.
type Lie = (u8, Vec<u8>, Vec<u8>);

/// A frame after which the stream must end.
async fn lie(attack: Arc<Attack>, what: &'static str, lie: fn(usize) -> Lie) {
    let member = asker(&attack, 0).await;
    let next = AtomicUsize::new(0);
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = greeted(&member).await?;
        let n = next.fetch_add(1, Ordering::Relaxed);
        let (kind, head, payload) = lie(n);
        wire.send(kind, 0, &head, &payload).await?;
        wire.ended(&member, &format!("{what}, number {n}")).await;
        Ok(())
    })
    .await;
}

fn garbage(n: usize) -> Lie {
    let bytes = super::super::frames::garbage(n);
    let long = |body| p2p_gossip::kv::anti_entropy::Request { to: nobody(0), number: 1, body }.encode().to_vec();
    match n % 7 {
        0 => (QUESTION, vec![1], bytes),
        1 => (QUESTION, vec![1], Vec::new()),
        2 => (QUESTION, vec![2], bytes),
        3 => (QUESTION, vec![0], Vec::new()),
        4 => (super::ANSWER, vec![1], bytes),
        // Short enough for one frame, but with too many parts.
        5 => (QUESTION, vec![1], long(look_rows(RANGES_MAX + 1))),
        _ => (QUESTION, vec![1, 1], bytes),
    }
}

/// Parts without end.
async fn endless(attack: Arc<Attack>) {
    let member = asker(&attack, 0).await;
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = greeted(&member).await?;
        let part = vec![0; PART_LEN];
        // What is on its way when the other ends comes beside it.
        for _ in 0..2 * QUESTION_LEN_MAX / PART_LEN {
            if let Err(_ended) = wire.send(QUESTION, 0, &[0], &part).await {
                return Ok(());
            }
        }
        wire.ended(&member, "a question without end").await;
        Ok(())
    })
    .await;
}

/// Asks the same over and over, on as many streams as there may be.
async fn ask(attack: Arc<Attack>, body: fn(Begun) -> Body) {
    let member = asker(&attack, 0).await;
    again(&attack, LANES, PAUSE, async |_| {
        let mut line = Line::open(&member).await?;
        let opened = line.opened().await?;
        loop {
            line.ask(body(Begun { by: opened.by, opened: Vector::default() })).await?;
            attack.did("answers");
            attack.began();
        }
    })
    .await;
}

/// What is missing to somebody who has nothing.
fn keys() -> Body {
    let buckets: BTreeSet<u8> = (0..=u8::MAX).collect();
    Body::Keys(Asked { digests: BTreeMap::new(), buckets, part: Vector::default() })
}

/// To look at the same range very often.
fn look(range: Range, count: usize) -> Body {
    Body::Look { divided: vec![Divided { range, parts: [[1; 16]; 4] }; count], wanted: Vec::new(), end_of: None }
}

/// To tell all rows very often.
fn look_rows(count: usize) -> Body {
    Body::Look { divided: Vec::new(), wanted: vec![Wanted { range: Range::ALL, after: None }; count], end_of: None }
}

/// Questions as long as they may be, with as much in them as can be said in so many bytes.
async fn vast(attack: Arc<Attack>) {
    let member = asker(&attack, 0).await;
    let bytes = of_extras(QUESTION_LEN_MAX - 1000);
    again(&attack, LANES, PAUSE, async |_| {
        let mut line = Line::open(&member).await?;
        line.send(QUESTION, bytes.clone()).await?;
        // It may be refused.
        let _ = line.receive().await;
        Ok(())
    })
    .await;
}

/// The end of a comparison, of somebody who has seen every other write of somebody.
fn of_extras(count: usize) -> Bytes {
    let begun = Begun { by: nobody(0), opened: Vector::default() };
    let request = p2p_gossip::kv::anti_entropy::Request { to: nobody(0), number: 1, body: Body::Close(begun) };
    let bytes = request.encode();
    let mut vast = BytesMut::from(&bytes[..bytes.len() - 1]);
    put_extras(&mut vast, count);
    vast.freeze()
}

/// A vector with so many writes beyond the first of one actor.
pub(super) fn put_extras(out: &mut BytesMut, count: usize) {
    out.put_u8(1);
    out.put_slice(&nobody(1).peer.0);
    out.put_u8(1);
    out.put_u64_le(1);
    out.put_u8(1);
    put_number(out, count as u64);
    out.put_bytes(2, count);
}

/// A number in groups of seven bits, the lowest first.
pub(super) fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// Asks, and reads nothing.
async fn unread(attack: Arc<Attack>) {
    let member = asker(&attack, 0).await;
    again(&attack, LANES, PAUSE, async |_| {
        let line = Line::open(&member).await?;
        while line.begin(keys()).await.is_ok() {
            attack.did("questions");
            attack.began();
        }
        Ok(())
    })
    .await;
}

/// More streams than there may be.
async fn crowd(attack: Arc<Attack>) {
    let member = asker(&attack, 0).await;
    again(&attack, 5 * LANES, PAUSE, async |_| {
        let mut line = Line::open(&member).await?;
        loop {
            line.ask(Body::Open).await?;
            attack.did("answers");
            attack.began();
        }
    })
    .await;
}
