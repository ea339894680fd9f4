//! What the hostile peer answers when it is asked about the map.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use p2p_gossip::kv::anti_entropy::{Body, Reply, Request, Said};
use p2p_gossip::kv::message::{self, Copy};
use p2p_gossip::kv::{
    Actor, Asked, Closed, Digest, Dot, Entry, Key, Looked, Opened, Place, Rows, Seen, Told, Vector, Wanted,
};
use p2p_gossip::reconcile::{Divided, Range};

use super::super::{Attack, Scenario};
use super::questions::{put_extras, put_number};
use super::{ANSWER, HONEST_KEYS, Line, enter, honest_key, key, nobody};

const FAILED: &[&str] = &["p2p_kv_failed"];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("map-answer-silence", |a| Box::pin(answer(a, Answers::Silence))).moving_later(FAILED),
    Scenario::new("map-answer-garbage", |a| Box::pin(answer(a, Answers::Garbage))).moving(&["p2p_kv_peers_broken"]),
    Scenario::new("map-answer-other-number", |a| Box::pin(answer(a, Answers::OtherNumber))).moving_later(FAILED),
    Scenario::new("map-answer-differs", |a| Box::pin(answer(a, Answers::Differs))).moving(FAILED),
    Scenario::new("map-answer-same-key", |a| Box::pin(answer(a, Answers::SameKey)))
        .moving_later(FAILED)
        .leaving_traces(),
    Scenario::new("map-answer-empty", |a| Box::pin(answer(a, Answers::Empty))),
    Scenario::new("map-answer-empty-ranges", |a| Box::pin(answer(a, Answers::EmptyRanges))),
    Scenario::new("map-answer-outside", |a| Box::pin(answer(a, Answers::Outside))).moving(FAILED),
    Scenario::new("map-answer-unasked", |a| Box::pin(answer(a, Answers::Unasked))).moving(FAILED),
    Scenario::new("map-answer-over", |a| Box::pin(answer(a, Answers::Over))).moving(FAILED),
    Scenario::new("map-answer-rest", |a| Box::pin(answer(a, Answers::Rest))),
    Scenario::new("map-answer-vast-ranges", |a| Box::pin(answer(a, Answers::VastRanges))),
    Scenario::new("map-answer-vast-vector", |a| Box::pin(answer(a, Answers::VastVector))),
    Scenario::new("map-answer-nothing-left", |a| Box::pin(answer(a, Answers::NothingLeft)))
        .moving(FAILED)
        .leaving_traces(),
    Scenario::new("map-answer-keys-gone", |a| Box::pin(answer(a, Answers::KeysGone))).leaving_traces(),
];

/// How questions about the map are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// Not at all.
    Silence,
    /// By bytes that are no answer.
    Garbage,
    /// By what would be the end of another question.
    OtherNumber,
    /// All of the vector is to be told, again and again.
    Differs,
    /// By one key over and over, while there is more to be told.
    SameKey,
    /// It has seen nothing, and no range differs.
    Empty,
    /// It has seen nothing, and has nothing in any range.
    EmptyRanges,
    /// By keys that do not lie where they are said to.
    Outside,
    /// By rows of a range that was not asked for.
    Unasked,
    /// It has forgotten, again and again.
    Over,
    /// One key at a time, and there is always more; it has seen all that honest members will write next.
    Rest,
    /// A beginning with very many ranges.
    VastRanges,
    /// A vector with very many numbers.
    VastVector,
    /// It has seen all that the victim has, and more, and has nothing.
    NothingLeft,
    /// Likewise, key by key.
    KeysGone,
}

/// Between two looks at whether the victim has asked.
const PERIOD: Duration = Duration::from_millis(100);

/// Bytes of the longest answers.
const VAST: usize = 100 << 20;

/// Keys of which there is always one more.
const REST_KEYS: u64 = 200_000;

/// A member that holds something else, whatever the victim comes to hold.
async fn answer(attack: Arc<Attack>, answers: Answers) {
    let member = enter(&attack, 0, answers).await;
    for n in 0_u64.. {
        let digest = Digest { vector: *nobody(n).peer.0.first_chunk().expect("32 bytes are more"), rows: [1; 16] };
        member.seat.tell([message::copy(&Copy { digest, is_joined: false, is_behind: false })]).await;
        tokio::time::sleep(PERIOD).await;
    }
}

/// What it knows of the victim by its questions.
struct Liar {
    attack: Arc<Attack>,
    answers: Answers,
    /// What the victim had seen when it asked last.
    seen: Vector,
    /// In the order of their places.
    keys: Vec<(Place, Key)>,
    dots: u64,
}

/// Answers one stream of questions.
pub(crate) async fn serve(attack: Arc<Attack>, answers: Answers, stream: libp2p::Stream) -> std::io::Result<()> {
    let mut line = Line::over(&attack, stream).await?;
    let mut keys = Vec::new();
    if answers == Answers::Rest {
        keys.extend((0..REST_KEYS).map(|n| key(format!("hostile/rest/{n}"))).map(|key| (Place::of(&key), key)));
        keys.sort_unstable();
    }
    let mut liar = Liar { attack: attack.clone(), answers, seen: Vector::default(), keys, dots: 0 };
    loop {
        let request = match Request::decode(line.receive().await?) {
            Ok(request) => request,
            Err(error) => {
                attack.complain(&format!("a question makes no sense: {error}"));
                return Ok(());
            }
        };
        attack.did("asked");
        if let Some(bytes) = liar.answer(request) {
            let sent = line.send(ANSWER, bytes).await;
            attack.did("answered");
            // It may be too long to be taken.
            attack.began();
            sent?;
        }
        attack.began();
    }
}

impl Liar {
    fn me() -> Actor {
        nobody(u64::MAX)
    }

    fn answer(&mut self, request: Request) -> Option<Bytes> {
        let Request { to, number, body } = request;
        if let Body::Keys(Asked { part, .. }) = &body {
            self.seen = part.clone();
        }
        let number = if self.answers == Answers::OtherNumber { number + 1 } else { number };
        let of = |said| Some(Reply { to, number, said }.encode());
        match self.answers {
            Answers::Silence => None,
            Answers::Garbage => Some(super::super::frames::garbage(number as usize).into()),
            Answers::VastRanges => {
                let opened = Opened { by: Self::me(), vector: Vector::default(), divided: Vec::new() };
                let bytes = of(Said::Opened(opened))?;
                let mut vast = BytesMut::from(&bytes[..bytes.len() - 1]);
                // All places, of which nothing is held: three bytes each.
                put_number(&mut vast, VAST as u64 / 3);
                vast.put_bytes(0, VAST / 3 * 3);
                Some(vast.freeze())
            }
            Answers::VastVector => {
                let bytes = of(Said::Keys { keys: Vec::new(), part: Vector::default() })?;
                // No peers, and then no keys.
                let mut vast = BytesMut::from(&bytes[..bytes.len() - 2]);
                put_extras(&mut vast, VAST);
                vast.put_u8(0);
                Some(vast.freeze())
            }
            _ => of(self.said(body)),
        }
    }

    fn said(&mut self, body: Body) -> Said {
        match (self.answers, body) {
            (Answers::Differs, _) => Said::Differs((0..=u8::MAX).collect()),
            (Answers::OtherNumber, _) => Said::Keys { keys: Vec::new(), part: self.seen.clone() },
            (Answers::SameKey, _) => Said::Keys { keys: self.same_key(), part: self.claimed(200) },
            // So that what the victim has seen is known.
            (Answers::KeysGone | Answers::NothingLeft | Answers::Rest, Body::Keys(asked))
                if asked.buckets.len() < 256 =>
            {
                Said::Differs((0..=u8::MAX).collect())
            }
            (Answers::KeysGone, _) => self.keys_gone(),
            (Answers::Over, Body::Look { .. } | Body::Close(_)) => Said::Over,
            (_, Body::Keys(_) | Body::Open) => Said::Opened(self.opened()),
            (Answers::Rest, Body::Look { divided, wanted, .. }) => Said::Looked(self.rest(&divided, &wanted), None),
            (_, Body::Look { divided, wanted, .. }) => Said::Looked(self.looked(&divided, &wanted), None),
            (_, Body::Close(begun)) => Said::Closed(Closed { vector: begun.opened, changed: Vec::new() }),
        }
    }

    fn opened(&self) -> Opened {
        let vector = match self.answers {
            Answers::Empty | Answers::EmptyRanges => Vector::default(),
            // What honest members will write next, too.
            Answers::Rest => ahead(&self.seen, 1 << 20),
            _ => self.claimed(1),
        };
        // Of 64 ranges each has something else.
        let divide = |prefix| Some(Divided { range: Range::of_prefix(prefix, 3)?, parts: [[7; 16]; 4] });
        let divided = match self.answers {
            Answers::Empty => Vec::new(),
            _ => (0..64).filter_map(divide).collect(),
        };
        Opened { by: Self::me(), vector, divided }
    }

    /// What the victim has seen, and so many writes of nobody's.
    fn claimed(&self, count: u64) -> Vector {
        let mut claimed = self.seen.clone();
        claimed.join(&Vector::of(Seen::new(count, &[]).map(|seen| (Self::me(), seen))));
        claimed
    }

    fn same_key(&self) -> Vec<Told> {
        let dots = (1..100).map(|counter| Dot { actor: Self::me(), counter });
        vec![Told { key: key("hostile/same"), entry: Entry::default(), dots: dots.collect() }; 10_000]
    }

    /// Nothing stands at any key of an honest member, and each has been written once more.
    fn keys_gone(&mut self) -> Said {
        let first = self.seen.seen(&Self::me()).map_or(0, Seen::last).max(self.dots);
        let told = (0..HONEST_KEYS as u64).map(|n| Told {
            key: key(honest_key(n)),
            entry: Entry::default(),
            dots: [Dot { actor: Self::me(), counter: first + n + 1 }].into_iter().collect(),
        });
        let keys: Vec<Told> = told.collect();
        self.dots = first + keys.len() as u64;
        self.attack.did("took all away");
        Said::Keys { keys, part: self.claimed(self.dots) }
    }

    /// Nothing in any range; or not what was asked for.
    fn looked(&self, divided: &[Divided], wanted: &[Wanted]) -> Looked {
        let parts = divided.iter().filter_map(|divided| divided.range.parts()).flatten();
        let ranges: BTreeSet<Range> = parts.chain(wanted.iter().map(|wanted| wanted.range)).collect();
        let outside = |range: Range| {
            let keys = (0..).map(|n| key(format!("hostile/{n}")));
            let mut keys = keys.filter(move |key| !range.places().contains(&Place::of(key).0));
            keys.next().map(|key| (key, Entry::default()))
        };
        let told = ranges.into_iter().map(|range| {
            let range = if self.answers == Answers::Unasked { Range::ALL } else { range };
            let rows = if self.answers == Answers::Outside { outside(range).into_iter().collect() } else { Vec::new() };
            Rows { range, rows, rest: None }
        });
        Looked { divided: Vec::new(), rows: told.collect() }
    }

    /// One key of each range that was asked for, and more to come.
    fn rest(&self, divided: &[Divided], wanted: &[Wanted]) -> Looked {
        let of = |range: Range, after: Option<&Key>| {
            let after = after.map(|key| (Place::of(key), key.clone()));
            let from = self.keys.partition_point(|(place, key)| match &after {
                Some((last, last_key)) => (place, key) <= (last, last_key),
                None => *place < Place(*range.places().start()),
            });
            let next = self.keys.get(from).filter(|(place, _)| range.places().contains(&place.0));
            let rows: Vec<(Key, Entry)> = next.map(|(_, key)| (key.clone(), Entry::default())).into_iter().collect();
            let last = rows.last().map(|(key, _)| key.clone());
            Rows { range, rest: last.map(|last| Wanted { range, after: Some(last) }), rows }
        };
        let first = divided.first().and_then(|divided| divided.range.parts()).map(|parts| of(parts[0], None));
        let wanted = wanted.iter().map(|wanted| of(wanted.range, wanted.after.as_ref()));
        Looked { divided: Vec::new(), rows: first.into_iter().chain(wanted).collect() }
    }
}

/// A vector that has seen so many more writes of everybody.
fn ahead(seen: &Vector, count: u64) -> Vector {
    Vector::of(seen.iter().filter_map(|(actor, seen)| Some((*actor, Seen::new(seen.last() + count, &[])?))))
}
