//! One watch of every node, from its start on and through its restarts: who has seen what, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use p2p_api::client::Client;
use p2p_api::types::{MemberEvent, MemberEventKind, MemberState};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

/// An event that no start of a node has told: a watch after it begins with all that this start remembers.
const BEFORE_ALL: &str = "0-0";

/// Pause before a node that does not answer is asked again, because it is down or just starting.
const PAUSE: Duration = Duration::from_millis(20);

/// To what nodes round the time of an event down.
const CLOCK_STEP: Duration = Duration::from_millis(1);

/// The watches; they end when this is dropped.
pub(in crate::bench) struct Watches {
    log: Arc<Log>,
    tasks: JoinSet<()>,
}

struct Log {
    seen: Mutex<Vec<Seen>>,
    count: watch::Sender<u64>,
}

/// What a node has seen.
#[derive(Clone, Debug)]
struct Seen {
    observer: u32,
    at: SystemTime,
    event: MemberEvent,
}

impl Default for Watches {
    fn default() -> Self {
        let log = Log { seen: Mutex::default(), count: watch::Sender::new(0) };
        Self { log: Arc::new(log), tasks: JoinSet::new() }
    }
}

impl Watches {
    /// Watches by one more node.
    pub(in crate::bench) fn add(&mut self, observer: u32, client: Client) {
        let log = self.log.clone();
        self.tasks.spawn(async move {
            let mut last = BEFORE_ALL.to_owned();
            loop {
                if let Ok(mut watch) = client.watch_members(Some(&last)).await {
                    while let Some(Ok(event)) = watch.next().await {
                        last.clone_from(&event.id);
                        log.push(observer, event);
                    }
                }
                sleep(PAUSE).await;
            }
        });
    }

    /// Forgets what was seen so far.
    pub(super) fn forget(&self) {
        self.log.lock().clear();
    }

    /// How long after a time each observer has first seen what is wanted. Waits until all have, and no longer than a limit.
    pub(in crate::bench) async fn first(
        &self,
        from: SystemTime,
        observers: &BTreeSet<u32>,
        wanted: impl Fn(&MemberEvent) -> bool,
        limit: Duration,
    ) -> BTreeMap<u32, Duration> {
        let deadline = Instant::now() + limit;
        let mut count = self.log.count.subscribe();
        loop {
            count.borrow_and_update();
            let mut first: BTreeMap<u32, Duration> = BTreeMap::new();
            self.log.each(from, |observer, after, event| {
                if observers.contains(&observer) && wanted(event) {
                    let known = first.entry(observer).or_insert(after);
                    *known = after.min(*known);
                }
            });
            let is_late = Instant::now() >= deadline;
            if first.len() == observers.len() || is_late || timeout_at(deadline, count.changed()).await.is_err() {
                return first;
            }
        }
    }

    /// How often something has happened since a time, in the views of all together.
    pub(super) fn count(&self, from: SystemTime, kind: MemberEventKind) -> usize {
        let mut count = 0;
        self.log.each(from, |_, _, event| count += usize::from(event.kind == kind));
        count
    }

    /// How long after a time somebody has last come to take another for alive; zero where nobody has.
    pub(super) fn last_alive(&self, from: SystemTime) -> Duration {
        let mut last = Duration::ZERO;
        self.log.each(from, |_, after, event| {
            let is_news = matches!(
                event.kind,
                MemberEventKind::Join | MemberEventKind::Return | MemberEventKind::Refute | MemberEventKind::Trust
            );
            if is_news && event.state == MemberState::Alive {
                last = last.max(after);
            }
        });
        last
    }
}

impl Log {
    fn push(&self, observer: u32, event: MemberEvent) {
        // Without a time it is of no use; no node tells such.
        let Ok(at) = humantime::parse_rfc3339(&event.at) else { return };
        self.lock().push(Seen { observer, at, event });
        self.count.send_modify(|count| *count += 1);
    }

    /// Goes through what was seen since a time, with how long after it.
    fn each(&self, from: SystemTime, mut run: impl FnMut(u32, Duration, &MemberEvent)) {
        for Seen { observer, at, event } in self.lock().iter() {
            if *at + CLOCK_STEP > from {
                run(*observer, at.duration_since(from).unwrap_or_default(), event);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: SystemTime, kind: MemberEventKind) -> MemberEvent {
        MemberEvent {
            id: "1-1".into(),
            at: humantime::format_rfc3339_millis(at).to_string(),
            kind,
            peer: "P".into(),
            name: String::new(),
            state: if kind == MemberEventKind::Down { MemberState::Down } else { MemberState::Alive },
            generation: 1,
            incarnation: 0,
            accusers: Vec::new(),
        }
    }

    #[tokio::test]
    async fn times_are_those_of_the_nodes_and_what_was_before_does_not_count() {
        let watches = Watches::default();
        let from = humantime::parse_rfc3339("2026-11-20T12:00:00.0007Z").expect("a time");
        let ms = |ms: u64| from + Duration::from_millis(ms);
        watches.log.push(1, event(from - Duration::from_millis(5), MemberEventKind::Down));
        // In the same millisecond, which the node rounds down.
        watches.log.push(1, event(ms(0), MemberEventKind::Down));
        watches.log.push(2, event(ms(70), MemberEventKind::Down));
        watches.log.push(2, event(ms(300), MemberEventKind::Down));
        watches.log.push(3, event(ms(90), MemberEventKind::Return));
        let down = |event: &MemberEvent| event.kind == MemberEventKind::Down;
        let first = watches.first(from, &[1, 2].into(), down, Duration::from_secs(1)).await;
        assert_eq!(first.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert!(first[&1] < CLOCK_STEP && first[&2].as_millis() == 69, "{first:?}");
        let first = watches.first(from, &[1, 3].into(), down, Duration::from_millis(10)).await;
        assert_eq!(first.len(), 1, "one has not seen it in time");
        assert_eq!(watches.count(from, MemberEventKind::Down), 3);
        assert_eq!(watches.last_alive(from).as_millis(), 89);
        watches.forget();
        assert_eq!((watches.count(from, MemberEventKind::Down), watches.last_alive(from)), (0, Duration::ZERO));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_last_that_was_missing() {
        let watches = Watches::default();
        let from = SystemTime::now();
        let log = watches.log.clone();
        tokio::spawn(async move {
            log.push(1, event(SystemTime::now(), MemberEventKind::Down));
            tokio::task::yield_now().await;
            log.push(2, event(SystemTime::now(), MemberEventKind::Down));
        });
        let first = watches.first(from, &[1, 2].into(), |_| true, Duration::from_secs(60)).await;
        assert_eq!(first.len(), 2);
    }
}
