//! Whether others are there: one is asked at a time, in turn; who does not answer is asked by others, and on a stream
//! (memberlist's `probe`, `probeNode` and `handleIndirectPing`).
//!
//! A nack leaves whoever was asked to ask after `ProbeTimeout`, which is as long as a probe of a healthy node still
//! lasts: it comes too late to such a node, which then trusts itself less, and so waits long enough for the next.

use super::message::{Accusation, Message, Status};
use super::streams::Purpose;
use super::timers::Timer;
use super::{Memberlist, Turn};
use crate::sim::Slot;
use crate::swim::{Member, Time};

/// A probe that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    number: u32,
    target: Member,
    /// The incarnation it was begun at.
    incarnation: u32,
    deadline: Time,
    nacks_expected: i32,
    nacks: i32,
    /// It has answered on a stream.
    reached: bool,
}

/// A probe that another has asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relay {
    /// The number that it knows the probe by.
    number: u32,
    to: Slot,
}

impl Memberlist {
    /// It is time to probe; one tick waits while a probe is under way, more are dropped.
    pub(super) fn probe_tick(&mut self, turn: &mut Turn<'_>, due: Time) {
        self.timers.set(Timer::Probe, turn.next_tick(due, self.config.probe_interval));
        match self.probe {
            Some(_) => self.probe_waits = true,
            None => self.probe_next(turn),
        }
    }

    fn next_target(&mut self, turn: &Turn<'_>) -> Option<Member> {
        let mut looked_at = 0;
        while looked_at < self.view.len() {
            looked_at += 1;
            let Some(member) = self.view.at(self.probe_index) else {
                let then = turn.now.before(self.config.gossip_to_the_dead_time);
                self.view.next_round(then, &mut self.rng);
                self.probe_index = 0;
                continue;
            };
            self.probe_index += 1;
            if member != self.me && self.view.is_living(member) {
                return Some(member);
            }
        }
        None
    }

    fn probe_next(&mut self, turn: &mut Turn<'_>) {
        let Some(target) = self.next_target(turn) else { return };
        let number = self.next_number();
        let incarnation = self.view.incarnation(target);
        let deadline = turn.now + self.awareness.scale(self.config.probe_interval);
        self.probe = Some(Probe { number, target, incarnation, deadline, nacks_expected: 0, nacks: 0, reached: false });
        self.timers.set(Timer::ProbeTimeout, turn.now + self.config.probe_timeout);
        self.timers.set(Timer::ProbeEnd, deadline);
        let ping = Message::Ping { number, target };
        let slot = self.view.slot(turn.shared, target);
        if self.view.status(target) == Some(Status::Alive) {
            return self.send(turn, slot, ping);
        }
        // It hears first of all that it is suspected.
        let suspicion = Message::Suspect(Accusation { member: target, incarnation, from: self.me });
        turn.packet(slot, Message::Compound(vec![ping, suspicion]), true);
    }

    /// The member that is probed has not answered: others ask it, and this node on a stream.
    pub(super) fn probe_timeout(&mut self, turn: &mut Turn<'_>) {
        let Some(Probe { number, target, deadline, .. }) = self.probe else { return };
        let (me, view) = (self.me, &self.view);
        let others = view.random(self.config.indirect_checks, &mut self.rng, |member| {
            member != me && member != target && view.status(member) == Some(Status::Alive)
        });
        let slot = self.view.slot(turn.shared, target);
        for other in &others {
            let to = self.view.slot(turn.shared, *other);
            self.send(turn, to, Message::IndirectPing { number, target, slot });
        }
        if let Some(probe) = &mut self.probe {
            probe.nacks_expected = others.len() as i32;
        }
        if turn.now < deadline {
            self.request(turn, slot, Purpose::Ping { number, target }, deadline);
        }
    }

    /// The time of a probe is over.
    pub(super) fn probe_end(&mut self, turn: &mut Turn<'_>) {
        let Some(probe) = self.probe else { return };
        if probe.reached {
            return self.probe_succeeds(turn);
        }
        // Where others should have said that they are there, those who did not speak against this node.
        let missing = if probe.nacks_expected == 0 { 1 } else { probe.nacks_expected - probe.nacks };
        self.awareness.apply(missing.max(0));
        let Probe { target, incarnation, .. } = probe;
        self.suspect(turn, Accusation { member: target, incarnation, from: self.me });
        self.probe_is_over(turn);
    }

    fn probe_succeeds(&mut self, turn: &mut Turn<'_>) {
        self.awareness.apply(-1);
        self.probe_is_over(turn);
    }

    fn probe_is_over(&mut self, turn: &mut Turn<'_>) {
        self.probe = None;
        self.timers.cancel(Timer::ProbeTimeout);
        self.timers.cancel(Timer::ProbeEnd);
        if std::mem::take(&mut self.probe_waits) {
            self.probe_next(turn);
        }
    }

    /// A member has answered on a stream. That does not end the probe: answers by packets would be better.
    pub(super) fn note_reached(&mut self, number: u32) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.number == number) {
            probe.reached = true;
        }
    }

    pub(super) fn ping(&mut self, turn: &mut Turn<'_>, from: Slot, number: u32, target: Member) {
        if target == self.me {
            self.send(turn, from, Message::Ack(number));
        }
    }

    pub(super) fn indirect_ping(&mut self, turn: &mut Turn<'_>, from: Slot, number: u32, target: Member, slot: Slot) {
        let own = self.next_number();
        self.relays.insert(own, Relay { number, to: from });
        self.timers.set(Timer::Relay(own), turn.now + self.config.probe_timeout);
        self.send(turn, slot, Message::Ping { number: own, target });
    }

    /// A member that another wants to hear of has not answered.
    pub(super) fn relay_ends(&mut self, turn: &mut Turn<'_>, own: u32) {
        if let Some(Relay { number, to }) = self.relays.remove(&own) {
            self.send(turn, to, Message::Nack(number));
        }
    }

    pub(super) fn ack(&mut self, turn: &mut Turn<'_>, number: u32) {
        if self.probe.is_some_and(|probe| probe.number == number) {
            return self.probe_succeeds(turn);
        }
        if let Some(Relay { number: theirs, to }) = self.relays.remove(&number) {
            self.timers.cancel(Timer::Relay(number));
            self.send(turn, to, Message::Ack(theirs));
        }
    }

    pub(super) fn nack(&mut self, number: u32) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.number == number) {
            probe.nacks += 1;
        }
    }

    fn next_number(&mut self) -> u32 {
        self.number += 1;
        self.number
    }
}
