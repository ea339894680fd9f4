//! What a node believes: how it takes what it hears of members (memberlist's `aliveNode`, `suspectNode`, `deadNode`,
//! `mergeState`; `state.go`).

use super::message::{Accusation, Alive, Message, Status};
use super::suspicion::Suspicion;
use super::timers::Timer;
use super::{Memberlist, Turn};
use crate::swim::{Member, State};

/// Whose word it is that a member is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// This node says it of itself.
    Own,
    /// It was heard.
    Heard,
}

impl Memberlist {
    /// A member is said to be alive.
    pub(super) fn alive(&mut self, turn: &mut Turn<'_>, alive: Alive, source: Source) {
        let Alive { member, incarnation, slot, meta } = alive;
        let is_me = member == self.me;
        if is_me && self.leaving.is_some() {
            return;
        }
        let mut is_replaced = false;
        match self.view.status(member) {
            None => self.view.insert(member, &mut self.rng),
            Some(status) if slot != self.view.slot(turn.shared, member) => {
                // A name belongs to an address until who has it leaves.
                is_replaced = status == Status::Left;
                if !is_replaced {
                    return;
                }
            }
            Some(_) => {}
        }
        let known = self.view.incarnation(member);
        let is_old = if is_me { incarnation < known } else { incarnation <= known && !is_replaced };
        if is_old {
            return;
        }
        self.forget_suspicion(member);
        if is_me && source == Source::Heard {
            // An earlier process may have said something else under the same number.
            if incarnation > known || meta != self.view.meta(member) {
                self.refute(turn, incarnation);
            }
            return;
        }
        self.view.set_alive(turn.shared, &alive);
        self.broadcasts.push(member, Message::Alive(alive));
        self.failed.retain(|(failed, _)| *failed != member);
        self.tell(member, State::Alive);
    }

    /// A member is suspected.
    pub(super) fn suspect(&mut self, turn: &mut Turn<'_>, accusation: Accusation) {
        let Accusation { member, incarnation, from } = accusation;
        let Some(status) = self.view.status(member).filter(|_| incarnation >= self.view.incarnation(member)) else {
            return;
        };
        if let Some(suspicion) = self.suspicions.get_mut(&member) {
            if suspicion.confirm(from) {
                let ends = suspicion.ends();
                self.broadcasts.push(member, Message::Suspect(accusation));
                self.timers.set(Timer::Suspicion(member), ends);
            }
            return;
        }
        if status != Status::Alive {
            return;
        }
        if member == self.me {
            return self.refute(turn, incarnation);
        }
        self.broadcasts.push(member, Message::Suspect(accusation));
        self.view.set(member, incarnation, Status::Suspect, turn.now);
        let nodes = self.view.len();
        let min = self.config.suspicion_timeout(nodes);
        let max = min * self.config.suspicion_max_timeout_mult;
        let suspicion = Suspicion::new(from, self.config.confirmations(nodes), min, max, turn.now);
        self.timers.set(Timer::Suspicion(member), suspicion.ends());
        self.suspicions.insert(member, suspicion);
        self.tell(member, State::Suspect);
    }

    /// Nobody has refuted a suspicion in time.
    pub(super) fn suspicion_ends(&mut self, turn: &mut Turn<'_>, member: Member) {
        let incarnation = self.view.incarnation(member);
        self.dead(turn, Accusation { member, incarnation, from: self.me });
    }

    /// A member is said to be gone.
    pub(super) fn dead(&mut self, turn: &mut Turn<'_>, accusation: Accusation) {
        let Accusation { member, incarnation, from } = accusation;
        if self.view.status(member).is_none() || incarnation < self.view.incarnation(member) {
            return;
        }
        self.forget_suspicion(member);
        if !self.view.is_living(member) {
            return;
        }
        if member == self.me && self.leaving.is_none() {
            return self.refute(turn, incarnation);
        }
        self.broadcasts.push(member, Message::Dead(accusation));
        let has_left = member == from;
        self.view.set(member, incarnation, if has_left { Status::Left } else { Status::Dead }, turn.now);
        if !has_left {
            self.failed.push((member, turn.now));
        }
        self.tell(member, if has_left { State::Left } else { State::Down });
    }

    /// Takes in what another knows.
    pub(super) fn merge(&mut self, turn: &mut Turn<'_>, states: Vec<(Alive, Status)>) {
        for (alive, status) in states {
            let Alive { member, incarnation, .. } = alive;
            match status {
                Status::Alive => self.alive(turn, alive, Source::Heard),
                Status::Left => self.dead(turn, Accusation { member, incarnation, from: member }),
                // Who is dead to another may still refute it.
                Status::Dead | Status::Suspect => {
                    self.suspect(turn, Accusation { member, incarnation, from: self.me });
                }
            }
        }
    }

    /// Says once more that this node is alive, with a number beyond the one it was accused under.
    fn refute(&mut self, turn: &mut Turn<'_>, accused: u32) {
        self.incarnation = (self.incarnation + 1).max(accused + 1);
        self.view.set_incarnation(self.me, self.incarnation);
        self.awareness.apply(1);
        let (slot, meta) = (self.view.slot(turn.shared, self.me), self.view.meta(self.me));
        let alive = Alive { member: self.me, incarnation: self.incarnation, slot, meta };
        self.broadcasts.push(self.me, Message::Alive(alive));
        self.tell(self.me, State::Alive);
    }

    /// Says something else of this node.
    pub(super) fn describe(&mut self, turn: &mut Turn<'_>, meta: u64) {
        self.incarnation += 1;
        let slot = self.view.slot(turn.shared, self.me);
        let alive = Alive { member: self.me, incarnation: self.incarnation, slot, meta: Some(meta) };
        self.alive(turn, alive, Source::Own);
    }

    fn forget_suspicion(&mut self, member: Member) {
        if self.suspicions.remove(&member).is_some() {
            self.timers.cancel(Timer::Suspicion(member));
        }
    }
}
