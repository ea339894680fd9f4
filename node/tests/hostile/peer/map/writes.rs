//! Writes under names that are not the hostile peer's to give.

use std::sync::Arc;
use std::time::Duration;

use p2p_gossip::kv::flood::Carried;
use p2p_gossip::kv::{Actor, COUNTER_MAX, Dot, Dots, message};

use super::super::{Attack, Scenario};
use super::answers::Answers;
use super::{Line, asker, enter, key, write};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("map-write-of-victim", |a| Box::pin(of_victim(a, |last| last + 1, Names::Own))).leaving_traces(),
    Scenario::new("map-write-of-victim-last", |a| Box::pin(of_victim(a, |_| COUNTER_MAX, Names::Own))).leaving_traces(),
    Scenario::new("map-write-over-victim", |a| Box::pin(of_victim(a, |last| last + 1, Names::Replaced)))
        .leaving_traces(),
];

/// Between two of them.
const PAUSE: Duration = Duration::from_millis(20);

/// Where the victim's name stands in a write.
#[derive(Clone, Copy)]
enum Names {
    /// It is said to be the author.
    Own,
    /// It is said to have written what is replaced.
    Replaced,
}

/// Writes that the victim would have made next, under each of its names, whenever it has a new one.
async fn of_victim(attack: Arc<Attack>, counter: fn(u64) -> u64, names: Names) {
    let member = enter(&attack, 0, Answers::Silence).await;
    let asks = asker(&attack, 1).await;
    let mut last: Option<Actor> = None;
    let mut made = 0;
    loop {
        let opened = async { Line::open(&asks).await?.opened().await };
        let Ok(opened) = opened.await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if last.replace(opened.by) != Some(opened.by) {
            attack.did("names of the victim");
        }
        made += 1;
        let seen = opened.vector.seen(&opened.by).map_or(0, |seen| seen.last());
        let next = Dot { actor: opened.by, counter: counter(seen).min(COUNTER_MAX) };
        let own = Dot { actor: super::nobody(u64::MAX), counter: made };
        let (dot, replaces) = match names {
            Names::Own => (next, Dots::default()),
            Names::Replaced => (own, [next].into_iter().collect()),
        };
        let bytes = write(dot, key(format!("hostile/{made}")), Some("x".into()), replaces);
        member.seat.tell(message::pack([Carried::Write(dot, bytes)])).await;
        attack.began();
        tokio::time::sleep(PAUSE).await;
    }
}
