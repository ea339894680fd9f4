//! What has happened to members, for whoever watches: the last events, each with an id by which a watch goes on.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use p2p_api::types::{MemberEvent, MemberEventKind, MemberState};
use tokio::sync::watch;

/// Events that are kept: of a whole cluster of thousands that restarts some are lost to who watches slowly.
pub(crate) const EVENTS_MAX: usize = 4096;

/// The last events.
pub(crate) struct MemberEvents {
    me: String,
    generation: u64,
    ring: Mutex<Ring>,
    last: watch::Sender<u64>,
}

#[derive(Default)]
struct Ring {
    /// The oldest first.
    events: VecDeque<MemberEvent>,
    /// Events so far.
    count: u64,
}

/// Where a watch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    generation: u64,
    /// The next event is the one after so many.
    after: u64,
}

impl Cursor {
    /// After the event of an id; None where that is none.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let (generation, after) = id.split_once('-')?;
        Some(Self { generation: generation.parse().ok()?, after: after.parse().ok()? })
    }
}

impl MemberEvents {
    /// Nothing has happened yet in this start of a node.
    pub(crate) fn new(me: String, generation: u64) -> Self {
        Self { me, generation, ring: Mutex::default(), last: watch::Sender::new(0) }
    }

    /// Adds what has happened now; its id and time are given here.
    pub(crate) fn push(&self, event: MemberEvent) {
        let mut ring = self.lock();
        ring.count += 1;
        let count = ring.count;
        let event = MemberEvent { id: format!("{}-{count}", self.generation), at: now(), ..event };
        if ring.events.len() == EVENTS_MAX {
            ring.events.pop_front();
        }
        ring.events.push_back(event);
        drop(ring);
        self.last.send_replace(count);
    }

    /// A watch of what happens from now on.
    pub(crate) fn now(&self) -> Cursor {
        Cursor { generation: self.generation, after: self.lock().count }
    }

    /// Waits for events after a cursor, and moves it behind them. What is not kept any more is a gap.
    pub(crate) async fn after(&self, cursor: &mut Cursor) -> Vec<MemberEvent> {
        let mut last = self.last.subscribe();
        // Of an earlier start nothing is kept.
        let is_other = cursor.generation != self.generation || cursor.after > self.lock().count;
        if is_other {
            *cursor = Cursor { generation: self.generation, after: 0 };
        }
        let after = cursor.after;
        if !is_other && last.wait_for(|count| *count > after).await.is_err() {
            return std::future::pending().await;
        }
        let ring = self.lock();
        let oldest = ring.count - ring.events.len() as u64;
        let skip = cursor.after.saturating_sub(oldest) as usize;
        let mut events: Vec<MemberEvent> = ring.events.iter().skip(skip).cloned().collect();
        if is_other || cursor.after < oldest {
            events.insert(0, self.gap(oldest));
        }
        cursor.after = ring.count;
        events
    }

    fn gap(&self, before: u64) -> MemberEvent {
        MemberEvent {
            id: format!("{}-{before}", self.generation),
            at: now(),
            kind: MemberEventKind::Gap,
            peer: self.me.clone(),
            name: String::new(),
            state: MemberState::Alive,
            generation: self.generation,
            incarnation: 0,
            accusers: Vec::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(incarnation: u32) -> MemberEvent {
        MemberEvent { kind: MemberEventKind::Update, incarnation, ..MemberEvents::new("me".into(), 0).gap(0) }
    }

    fn seen(events: &[MemberEvent]) -> Vec<u32> {
        events.iter().filter(|event| event.kind != MemberEventKind::Gap).map(|event| event.incarnation).collect()
    }

    #[tokio::test]
    async fn a_watch_goes_on_where_it_was() {
        let events = MemberEvents::new("me".into(), 7);
        let mut cursor = events.now();
        (1..=3).for_each(|n| events.push(event(n)));
        let got = events.after(&mut cursor).await;
        assert_eq!((seen(&got), got[2].id.as_str()), (vec![1, 2, 3], "7-3"));
        (4..=5).for_each(|n| events.push(event(n)));
        assert_eq!(seen(&events.after(&mut cursor).await), [4, 5]);
        let mut again = Cursor::parse("7-2").expect("an id");
        assert_eq!(seen(&events.after(&mut again).await), [3, 4, 5]);
        let waits = tokio::time::timeout(std::time::Duration::from_millis(10), events.after(&mut again));
        assert!(waits.await.is_err(), "there is nothing more");
    }

    #[tokio::test]
    async fn what_is_lost_is_said_to_be() {
        let events = MemberEvents::new("me".into(), 7);
        let mut cursor = events.now();
        (0..EVENTS_MAX as u32 + 10).for_each(|n| events.push(event(n)));
        let got = events.after(&mut cursor).await;
        assert_eq!((got[0].kind, got.len()), (MemberEventKind::Gap, EVENTS_MAX + 1));
        for id in ["6-3", "7-99999999"] {
            let mut cursor = Cursor::parse(id).expect("an id");
            let got = events.after(&mut cursor).await;
            assert_eq!((got[0].kind, got.len()), (MemberEventKind::Gap, EVENTS_MAX + 1), "{id}");
            assert_eq!(cursor, events.now());
        }
        assert!(["", "7", "7-x", "-"].into_iter().all(|id| Cursor::parse(id).is_none()));
    }
}
