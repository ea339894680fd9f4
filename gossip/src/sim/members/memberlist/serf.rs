//! What Serf does around memberlist: coming in until somebody answers, looking for those who have failed, and leaving
//! without haste (`serf.go`: `handleRejoin`, `reconnect`, `Leave`).

use rand::Rng;
use rand::seq::IndexedRandom;

use super::message::Accusation;
use super::streams::Purpose;
use super::timers::Timer;
use super::{Memberlist, Turn};
use crate::sim::Action;
use crate::swim::Time;

/// How far a node is that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// Its word is not out.
    Telling,
    /// Others pass it on, and may still ask whether this node is there.
    Waiting,
}

impl Memberlist {
    /// Asks some of the contacts to be let in.
    pub(super) fn join(&mut self, turn: &mut Turn<'_>) {
        let chosen: Vec<_> = self.contacts.choose_multiple(&mut self.rng, self.config.join_contacts).copied().collect();
        for contact in chosen {
            let slot = self.view.slot(turn.shared, contact);
            self.request(turn, slot, Purpose::Join, turn.now + self.config.tcp_timeout);
        }
    }

    /// One has answered, which is enough.
    pub(super) fn joined(&mut self) {
        self.contacts.clear();
        self.timers.cancel(Timer::Join);
    }

    /// One has not answered.
    pub(super) fn join_failed(&mut self, turn: &mut Turn<'_>) {
        if !self.contacts.is_empty() && !self.streams.has_join() {
            self.timers.set(Timer::Join, turn.now + self.config.join_interval);
        }
    }

    /// Looks for one that has failed, with as much chance that all together look for each once in that time.
    pub(super) fn reconnect(&mut self, turn: &mut Turn<'_>) {
        self.timers.set(Timer::Reconnect, turn.now + self.config.reconnect_interval);
        let then = turn.now.before(self.config.reconnect_timeout);
        self.failed.retain(|(_, since)| *since >= then);
        if self.failed.is_empty() {
            return;
        }
        let alive = self.view.living().count().max(1);
        if self.rng.random::<f64>() > self.failed.len() as f64 / alive as f64 {
            return;
        }
        if let Some((member, _)) = self.failed.choose(&mut self.rng).copied() {
            let slot = self.view.slot(turn.shared, member);
            self.request(turn, slot, Purpose::Compare, turn.now + self.config.tcp_timeout);
        }
    }

    /// Says that it goes.
    pub(super) fn leave(&mut self, turn: &mut Turn<'_>) {
        if self.leaving.is_some() {
            return;
        }
        self.leaving = Some(Leaving::Telling);
        let (member, incarnation) = (self.me, self.view.incarnation(self.me));
        self.dead(turn, Accusation { member, incarnation, from: member });
        let is_alone = self.view.living().next().is_none();
        match is_alone {
            true => self.wait_to_leave(turn.now),
            false => self.timers.set(Timer::Leave, turn.now + self.config.leave_broadcast_timeout),
        }
    }

    /// Waits on if all that it has to say is said.
    pub(super) fn leave_if_told(&mut self, now: Time) {
        if self.leaving == Some(Leaving::Telling) && !self.broadcasts.contains(self.me) {
            self.wait_to_leave(now);
        }
    }

    fn wait_to_leave(&mut self, now: Time) {
        self.leaving = Some(Leaving::Waiting);
        self.timers.set(Timer::Leave, now + self.config.leave_propagate_delay);
    }

    pub(super) fn leave_timer(&mut self, turn: &mut Turn<'_>) {
        match self.leaving {
            Some(Leaving::Telling) => self.wait_to_leave(turn.now),
            Some(Leaving::Waiting) => turn.actions.push(Action::Exit),
            None => {}
        }
    }
}
