//! A member that is one of them, and says of others what is not so.

use std::sync::Arc;
use std::time::Duration;

use p2p_gossip::swim::{Accusation, Cause, Down, Ed25519, Fact, Keys, Message, Name, Record, Signature, Version};
use p2p_gossip::wire::Frame;

use super::super::door::Member;
use super::super::seat::{Seat, Ways};
use super::super::{Attack, Scenario};
use super::{FORGED, sits};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("member-honest", |a| Box::pin(is_there(a, Ways::Honest))),
    Scenario::new("member-only-answers", |a| Box::pin(is_there(a, Ways::OnlyAnswers))),
    Scenario::new("member-mute", |a| Box::pin(is_there(a, Ways::Mute))).moving_later(&["p2p_member_suspicions"]),
    Scenario::new("member-deaf", |a| Box::pin(is_there(a, Ways::Deaf))).moving_later(&["p2p_member_suspicions"]),
    Scenario::new("member-accuses", |a| Box::pin(says(a, accusations))).moving(&["p2p_refutations"]),
    Scenario::new("member-accuses-itself", |a| Box::pin(says(a, of_itself))).moving(&["p2p_accusations_unfit"]),
    Scenario::new("member-accuses-forged", |a| Box::pin(says(a, forged_accusations))).moving(FORGED),
    Scenario::new("member-puts-down", |a| Box::pin(says(a, downs))).moving(&["p2p_refutations"]),
    Scenario::new("member-puts-down-forged", |a| Box::pin(says(a, forged_downs))).moving(FORGED),
    Scenario::new("member-puts-down-by-nobody", |a| Box::pin(says(a, downs_by_nobody))).moving(FORGED),
    Scenario::new("member-doubts", |a| Box::pin(says(a, doubts))).moving(&["p2p_refutations"]),
    Scenario::new("member-repeats", |a| Box::pin(repeats(a))).moving(&["p2p_member_facts_stale"]),
    Scenario::new("member-tells", |a| Box::pin(says(a, tells))).moving(&["p2p_member_names_unknown"]),
];

/// Between two rounds of words.
const PAUSE: Duration = Duration::from_millis(20);

const CAUSES: [Cause; 6] =
    [Cause::Gone, Cause::Silent, Cause::LongSilent, Cause::Unreliable, Cause::Unmet, Cause::LongUnmet];

/// Somebody who signs with a key, whoever's that is.
struct As<'a>(&'a Ed25519);

impl Keys for As<'_> {
    fn sign(&self, bytes: &[u8]) -> Signature {
        Keys::sign(self.0, bytes)
    }

    fn is_signed(&self, _: &Name, _: &[u8], _: &Signature) -> bool {
        true
    }
}

/// Is a member in its own way, and no more.
async fn is_there(attack: Arc<Attack>, ways: Ways) {
    let _member = Member::enter(&attack, 0, sits(ways)).await;
    attack.began();
    std::future::pending().await
}

/// Says the same of the honest nodes, as they are at that moment, over and over.
async fn says(attack: Arc<Attack>, frames: fn(&Seat, &[Arc<Record>]) -> Vec<Frame>) {
    let member = Member::enter(&attack, 0, sits(Ways::Honest)).await;
    member.seat.knows(3).await;
    loop {
        for frame in frames(&member.seat, &member.seat.honest()) {
            member.seat.say(&frame).await;
        }
        attack.began();
        tokio::time::sleep(PAUSE).await;
    }
}

fn accusations_of(seat: &Seat, of: &Record, accuser: Name) -> Vec<Arc<Accusation>> {
    CAUSES.iter().map(|cause| Accusation::sign(accuser, of, *cause, 4000, &As(&seat.keys))).collect()
}

/// Everybody is down, for every reason there is.
fn accusations(seat: &Seat, honest: &[Arc<Record>]) -> Vec<Frame> {
    let all = honest.iter().flat_map(|record| accusations_of(seat, record, seat.keys.name()));
    all.map(|accusation| seat.frame(|_| Message::Accuse(accusation))).collect()
}

/// It is down itself.
fn of_itself(seat: &Seat, _: &[Arc<Record>]) -> Vec<Frame> {
    let own = Record::sign(seat.claims(), &seat.keys);
    let all = accusations_of(seat, &own, seat.keys.name());
    all.into_iter().map(|accusation| seat.frame(|_| Message::Accuse(accusation))).collect()
}

/// Everybody says so of everybody, though nobody has.
fn forged_accusations(seat: &Seat, honest: &[Arc<Record>]) -> Vec<Frame> {
    let pairs = honest.iter().flat_map(|of| honest.iter().map(move |by| (of, *by.name())));
    let all = pairs.filter(|(of, by)| of.name() != by).flat_map(|(of, by)| accusations_of(seat, of, by));
    all.map(|accusation| seat.frame(|_| Message::Accuse(accusation))).collect()
}

/// A frame of news and one of what is known, for each.
fn both(seat: &Seat, fact: Fact) -> Vec<Frame> {
    let fact = Arc::new(fact);
    vec![seat.frame(|_| Message::News(vec![fact.clone()])), seat.frame(|_| Message::Known(vec![fact.clone()]))]
}

/// Everybody is down, and this one alone says so.
fn downs(seat: &Seat, honest: &[Arc<Record>]) -> Vec<Frame> {
    let words =
        honest.iter().flat_map(|of| accusations_of(seat, of, seat.keys.name()).into_iter().map(move |by| (of, by)));
    words.flat_map(|(of, word)| both(seat, Fact::Down(Down::new(of.clone(), [word])))).collect()
}

/// Everybody is down by the words of all the others, of which this one has signed its own.
fn forged_downs(seat: &Seat, honest: &[Arc<Record>]) -> Vec<Frame> {
    let by_all = |of: &Arc<Record>, cause: usize| {
        let others = honest.iter().map(|record| *record.name()).chain([seat.keys.name()]);
        let words = others.map(|by| accusations_of(seat, of, by)[cause].clone());
        Fact::Down(Down::new(of.clone(), words.collect::<Vec<_>>()))
    };
    let all = honest.iter().flat_map(|of| (0..CAUSES.len()).map(move |cause| (of, cause)));
    all.flat_map(|(of, cause)| both(seat, by_all(of, cause))).collect()
}

/// Everybody is down, and nobody says so.
fn downs_by_nobody(seat: &Seat, honest: &[Arc<Record>]) -> Vec<Frame> {
    honest.iter().flat_map(|of| both(seat, Fact::Down(Down::new(of.clone(), [])))).collect()
}

/// It wonders whether they are down, each and all.
fn doubts(seat: &Seat, honest: &[Arc<Record>]) -> Vec<Frame> {
    vec![seat.frame(|directory| {
        let all = honest.iter().map(|record| (directory.insert(*record.name()), record.version()));
        Message::Doubt(all.collect())
    })]
}

/// That others have or have not answered, asked or not, and that it needs nobody.
fn tells(seat: &Seat, honest: &[Arc<Record>]) -> Vec<Frame> {
    let nobody = Name([9; 32]);
    let names = honest.iter().map(|record| *record.name()).chain([nobody]);
    let told = names.flat_map(|name| [true, false].map(|answered| (name, answered)));
    let mut frames: Vec<Frame> =
        told.map(|(name, answered)| seat.frame(|directory| Message::Told(directory.insert(name), answered))).collect();
    let unknown = Version { generation: u64::MAX, incarnation: u32::MAX };
    frames.push(seat.frame(|directory| Message::Doubt(vec![(directory.insert(nobody), unknown)])));
    frames
}

/// What the honest nodes said of themselves before they had to say something newer.
async fn repeats(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, sits(Ways::Honest)).await;
    let old = member.seat.knows(3).await;
    let is_newer = |now: &Arc<Record>| old.iter().all(|then| then.hash() != now.hash());
    while !member.seat.honest().iter().all(is_newer) {
        for frame in doubts(&member.seat, &old) {
            member.seat.say(&frame).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    loop {
        for fact in old.iter().flat_map(|record| both(&member.seat, Fact::Said(record.clone()))) {
            member.seat.say(&fact).await;
        }
        attack.began();
        tokio::time::sleep(PAUSE).await;
    }
}
