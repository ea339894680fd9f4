//! What is asked on streams: for the whole state, and whether a member is there that answers no packets.
//!
//! memberlist connects for every question. Between two machines of the virtual world there is one connection: questions
//! to one share it, and who has made it closes it when it has no more. A dial that was not answered is made again until
//! the question has waited too long, as a system sends again what asks for a connection.

use super::message::{Message, Status};
use super::timers::Timer;
use super::{Memberlist, Turn};
use crate::sim::{Action, Slot};
use crate::swim::{Member, Time};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To come in: tried elsewhere if nobody answers.
    Join,
    /// To compare all that is known.
    Compare,
    /// To hear whether a member is there.
    Ping {
        /// The number of the probe.
        number: u32,
        /// The member.
        target: Member,
    },
}

impl Purpose {
    fn is_ping(self, of: u32) -> bool {
        matches!(self, Purpose::Ping { number, .. } if number == of)
    }
}

/// A question that was not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    id: u32,
    to: Slot,
    purpose: Purpose,
}

/// Connections, and what is asked on them.
#[derive(Default)]
pub(super) struct Streams {
    /// To whom there is one, and whether this end has made it.
    open: Vec<(Slot, bool)>,
    dialing: Vec<Slot>,
    requests: Vec<Request>,
    last: u32,
}

impl Streams {
    fn is_open(&self, to: Slot) -> bool {
        self.open.iter().any(|(other, _)| *other == to)
    }

    fn dial(&mut self, turn: &mut Turn<'_>, to: Slot) {
        if !self.is_open(to) && !self.dialing.contains(&to) {
            self.dialing.push(to);
            turn.actions.push(Action::Dial(to));
        }
    }

    fn close_if_idle(&mut self, turn: &mut Turn<'_>, with: Slot) {
        let is_asked = self.requests.iter().any(|request| request.to == with);
        if !is_asked && self.open.contains(&(with, true)) {
            self.open.retain(|(other, _)| *other != with);
            turn.actions.push(Action::Close(with));
        }
    }

    fn to(&self, to: Slot) -> Vec<Request> {
        self.requests.iter().filter(|request| request.to == to).copied().collect()
    }

    /// Whether somebody was asked to let this node in who may still answer.
    pub(super) fn has_join(&self) -> bool {
        self.requests.iter().any(|request| request.purpose == Purpose::Join)
    }
}

impl Memberlist {
    /// Waits for the next exchange of whole states, which come the less often the more members there are.
    pub(super) fn wait_for_push_pull(&mut self, now: Time) {
        self.timers.set(Timer::PushPull, now + self.config.push_pull_interval(self.view.len()));
    }

    /// Exchanges all that is known with somebody.
    pub(super) fn push_pull(&mut self, turn: &mut Turn<'_>) {
        self.wait_for_push_pull(turn.now);
        let (me, view) = (self.me, &self.view);
        let wanted = |member| member != me && view.status(member) == Some(Status::Alive);
        for member in view.random(1, &mut self.rng, wanted) {
            let slot = self.view.slot(turn.shared, member);
            self.request(turn, slot, Purpose::Compare, turn.now + self.config.tcp_timeout);
        }
    }

    /// Asks somebody something, until then.
    pub(super) fn request(&mut self, turn: &mut Turn<'_>, to: Slot, purpose: Purpose, deadline: Time) {
        self.streams.last += 1;
        let request = Request { id: self.streams.last, to, purpose };
        self.streams.requests.push(request);
        self.timers.set(Timer::Request(request.id), deadline);
        match self.streams.is_open(to) {
            true => self.ask(turn, request),
            false => self.streams.dial(turn, to),
        }
    }

    fn ask(&mut self, turn: &mut Turn<'_>, request: Request) {
        let message = match request.purpose {
            Purpose::Join | Purpose::Compare => Message::Push(self.view.states(turn.shared)),
            Purpose::Ping { number, target } => Message::Ping { number, target },
        };
        turn.stream(request.to, message);
    }

    /// There is a connection.
    pub(super) fn opened(&mut self, turn: &mut Turn<'_>, with: Slot, dialed: bool) {
        self.streams.dialing.retain(|other| *other != with);
        self.streams.open.retain(|(other, _)| *other != with);
        self.streams.open.push((with, dialed));
        for request in self.streams.to(with) {
            self.ask(turn, request);
        }
        self.streams.close_if_idle(turn, with);
    }

    /// A connection is gone. What was asked on the other's is asked on an own one.
    pub(super) fn closed(&mut self, turn: &mut Turn<'_>, with: Slot) {
        let Some(index) = self.streams.open.iter().position(|(other, _)| *other == with) else { return };
        let (_, dialed) = self.streams.open.swap_remove(index);
        let requests = self.streams.to(with);
        if !dialed && !requests.is_empty() {
            return self.streams.dial(turn, with);
        }
        requests.into_iter().for_each(|request| self.fails(turn, request));
    }

    /// A dial was refused.
    pub(super) fn refused(&mut self, turn: &mut Turn<'_>, by: Slot) {
        self.streams.dialing.retain(|other| *other != by);
        if !self.streams.is_open(by) {
            self.streams.to(by).into_iter().for_each(|request| self.fails(turn, request));
        }
    }

    /// A dial was not answered.
    pub(super) fn unanswered(&mut self, turn: &mut Turn<'_>, by: Slot) {
        self.streams.dialing.retain(|other| *other != by);
        if self.streams.is_open(by) {
            return;
        }
        for request in self.streams.to(by) {
            // Who cannot come in here tries elsewhere.
            match request.purpose == Purpose::Join {
                true => self.fails(turn, request),
                false => self.streams.dial(turn, by),
            }
        }
    }

    /// Somebody has sent something on a connection.
    pub(super) fn streamed(&mut self, turn: &mut Turn<'_>, from: Slot, message: Message) {
        if !self.streams.is_open(from) {
            return;
        }
        match message {
            Message::Push(states) => {
                let own = self.view.states(turn.shared);
                turn.stream(from, Message::Pull(own));
                self.merge(turn, states);
            }
            Message::Pull(states) => {
                let is_asked = |request: &Request| !matches!(request.purpose, Purpose::Ping { .. });
                if let Some(request) = self.answered(turn, from, is_asked) {
                    self.merge(turn, states);
                    if request.purpose == Purpose::Join {
                        self.joined();
                    }
                }
            }
            Message::Ping { number, target } if target == self.me => turn.stream(from, Message::Ack(number)),
            Message::Ack(number) => {
                let is_asked = |request: &Request| request.purpose.is_ping(number);
                if self.answered(turn, from, is_asked).is_some() {
                    self.note_reached(number);
                }
            }
            // These go by packets.
            Message::Ping { .. }
            | Message::IndirectPing { .. }
            | Message::Nack(_)
            | Message::Alive(_)
            | Message::Suspect(_)
            | Message::Dead(_)
            | Message::Compound(_) => {}
        }
    }

    fn answered(&mut self, turn: &mut Turn<'_>, by: Slot, is_asked: impl Fn(&Request) -> bool) -> Option<Request> {
        let index = self.streams.requests.iter().position(|request| request.to == by && is_asked(request))?;
        let request = self.streams.requests.remove(index);
        self.timers.cancel(Timer::Request(request.id));
        self.streams.close_if_idle(turn, by);
        Some(request)
    }

    /// A question has waited too long.
    pub(super) fn request_ends(&mut self, turn: &mut Turn<'_>, id: u32) {
        if let Some(request) = self.streams.requests.iter().find(|request| request.id == id).copied() {
            self.fails(turn, request);
        }
    }

    fn fails(&mut self, turn: &mut Turn<'_>, request: Request) {
        self.streams.requests.retain(|other| other.id != request.id);
        self.timers.cancel(Timer::Request(request.id));
        self.streams.close_if_idle(turn, request.to);
        if request.purpose == Purpose::Join {
            self.join_failed(turn);
        }
    }
}
