//! What a node waits for. One of each kind; those that are overdue fire late, in the order in which they were due.

use std::collections::{BTreeMap, BTreeSet};

use crate::swim::{Member, Time};

/// What a node waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// To probe the next member.
    Probe,
    /// For an answer to the probe, before it asks others.
    ProbeTimeout,
    /// For an answer to the probe at all.
    ProbeEnd,
    /// To tell others what is new.
    Gossip,
    /// To know how often to exchange whole states.
    PushPullBegins,
    /// To exchange whole states.
    PushPull,
    /// To look for one that has failed.
    Reconnect,
    /// To try again to come in.
    Join,
    /// To be gone.
    Leave,
    /// For a refutation.
    Suspicion(Member),
    /// For an answer to a probe that it makes for another.
    Relay(u32),
    /// For an answer on a stream.
    Request(u32),
}

/// When it waits for what.
#[derive(Default)]
pub(super) struct Timers {
    order: BTreeSet<(Time, Timer)>,
    at: BTreeMap<Timer, Time>,
}

impl Timers {
    /// Waits for something until then, not as before.
    pub(super) fn set(&mut self, timer: Timer, at: Time) {
        if let Some(before) = self.at.insert(timer, at) {
            self.order.remove(&(before, timer));
        }
        self.order.insert((at, timer));
    }

    pub(super) fn cancel(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.order.remove(&(at, timer));
        }
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.at.contains_key(&timer)
    }

    /// When the next fires.
    pub(super) fn next_at(&self) -> Time {
        self.order.first().map_or(Time::NEVER, |(at, _)| *at)
    }

    /// One that fires, and when it was due.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<(Time, Timer)> {
        let due = *self.order.first().filter(|(at, _)| *at <= now)?;
        self.order.remove(&due);
        self.at.remove(&due.1);
        Some(due)
    }
}
