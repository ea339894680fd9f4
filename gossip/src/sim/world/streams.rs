//! Connections: how they come about, what becomes of what is sent on them, and how they end.

use std::time::Duration;

use super::{
    Connection, DIAL_TIME_MAX, Event, HANDSHAKE_LEGS, Happened, Node, STREAM_TIME_MAX, Slot, UNCONFIRMED_MAX, World,
};
use crate::swim::Time;

impl<N: Node> World<N> {
    pub(super) fn stream(&mut self, connection: u32, half: usize, message: N::Message, left: Time) {
        let state = &mut self.connections[connection as usize];
        let [from, to] = if half == 0 { state.ends } else { [state.ends[1], state.ends[0]] };
        let is_cut = self.links.is_cut(from, to);
        let no_answer = self.links.is_cut(to, from);
        let direction = &mut state.halves[half];
        direction.unconfirmed += usize::from(no_answer);
        if is_cut || !direction.blocked.is_empty() || no_answer && direction.unconfirmed > UNCONFIRMED_MAX {
            direction.blocked.push_back(message);
            if direction.blocked_since.is_none() {
                direction.blocked_since = Some(self.now);
                self.queue.push(self.now + STREAM_TIME_MAX, Event::Reset(connection, self.now));
            }
            return;
        }
        match self.links.streamed(from, to, &mut self.rng) {
            Some(time) => {
                let time = time + self.places[to.0 as usize].lag;
                let direction = &mut self.connections[connection as usize].halves[half];
                direction.last_at = direction.last_at.max(left + time);
                let at = direction.last_at;
                self.queue.push(at, Event::Deliver { connection, half, message });
            }
            None => self.queue.push(self.now + STREAM_TIME_MAX, Event::Reset(connection, Time::NEVER)),
        }
    }

    pub(super) fn unblock(&mut self, connection: u32, half: usize) {
        let state = &mut self.connections[connection as usize];
        let [from, to] = if half == 0 { state.ends } else { [state.ends[1], state.ends[0]] };
        let is_whole = state.open && !self.links.is_cut(from, to) && !self.links.is_cut(to, from);
        if is_whole && state.half_closed {
            return self.reset(connection, Time::NEVER);
        }
        let direction = &mut state.halves[half];
        if !is_whole || direction.blocked.is_empty() {
            return;
        }
        direction.blocked_since = None;
        direction.unconfirmed = 0;
        for message in std::mem::take(&mut direction.blocked) {
            self.stream(connection, half, message, self.now);
        }
    }

    /// Ends a connection on which nothing has got through since then.
    pub(super) fn reset(&mut self, connection: u32, since: Time) {
        let state = &self.connections[connection as usize];
        let is_blocked = state.halves.iter().any(|half| half.blocked_since == Some(since));
        let is_lost = since == Time::NEVER;
        let is_dead = state.ends.iter().any(|end| !self.places[end.0 as usize].up);
        if !state.open || !(is_blocked || is_lost || is_dead) {
            return;
        }
        let [a, b] = state.ends;
        for (end, other) in [(a, b), (b, a)] {
            let place = &mut self.places[end.0 as usize];
            let before = place.connections.len();
            place.connections.retain(|(_, id)| *id != connection);
            if place.connections.len() != before {
                self.tell(end, Happened::Closed(other));
            }
        }
        self.forget(connection);
    }

    pub(super) fn forget(&mut self, connection: u32) {
        let state = &mut self.connections[connection as usize];
        state.open = false;
        state.halves = Default::default();
    }

    /// One end has closed a connection; the other hears of it if it can.
    pub(super) fn hang_up(&mut self, slot: Slot, other: Slot, connection: u32) {
        let place = &mut self.places[other.0 as usize];
        let is_there = place.connections.iter().any(|(_, id)| *id == connection);
        let half = usize::from(self.connections[connection as usize].ends[0] != slot);
        if !is_there {
            return self.forget(connection);
        }
        if self.links.is_cut(slot, other) {
            self.connections[connection as usize].half_closed = true;
            self.queue.push(self.now + STREAM_TIME_MAX, Event::Reset(connection, Time::NEVER));
            return;
        }
        place.connections.retain(|(_, id)| *id != connection);
        let process = place.process;
        let last_at = self.connections[connection as usize].halves[half].last_at;
        self.forget(connection);
        let time = self.links.streamed(slot, other, &mut self.rng).unwrap_or(STREAM_TIME_MAX);
        self.queue.push((self.now + time).max(last_at), Event::Tell(other, process, Happened::Closed(slot)));
    }

    pub(super) fn dial(&mut self, from: Slot, to: Slot, keep: bool) {
        self.places[from.0 as usize].traffic.dials += 1;
        let process = self.places[from.0 as usize].process;
        let now = self.now;
        let fail = |happened| Event::Tell(from, process, happened);
        let unanswered = || if keep { Happened::Unanswered(to) } else { Happened::Reached(to, false) };
        let refused = || if keep { Happened::Refused(to) } else { Happened::Reached(to, false) };
        let place = &self.places[to.0 as usize];
        let is_cut = self.links.is_cut(from, to) || self.links.is_cut(to, from);
        let (up, runs) = (place.up, place.node.is_some());
        let legs = if runs { HANDSHAKE_LEGS } else { 2 };
        let mut took = Some(Duration::ZERO);
        for leg in 0..legs {
            let [a, b] = if leg % 2 == 0 { [from, to] } else { [to, from] };
            took = took.and_then(|took| Some(took + self.links.streamed(a, b, &mut self.rng)?));
        }
        match took.filter(|took| up && !is_cut && *took <= DIAL_TIME_MAX && from != to) {
            None => self.queue.push(now + DIAL_TIME_MAX, fail(unanswered())),
            Some(took) if !runs => self.queue.push(now + took, fail(refused())),
            Some(took) => self.queue.push(now + took, Event::Connect { from, to, process, since: now, keep }),
        }
    }

    pub(super) fn connect(
        &mut self,
        from: Slot,
        to: Slot,
        process: u32,
        since: Time,
        keep: bool,
        look: &mut impl FnMut(&mut Self, Slot),
    ) {
        if self.places[from.0 as usize].process != process {
            return;
        }
        let place = &self.places[to.0 as usize];
        if place.node.is_none() {
            let refused = if keep { Happened::Refused(to) } else { Happened::Reached(to, false) };
            return self.happen(from, refused, look);
        }
        if let Some(until) = place.stalled_until {
            // The system accepts, and the process has to do the rest.
            let (at, event) = if until.since(since) <= DIAL_TIME_MAX {
                (until, Event::Connect { from, to, process, since, keep })
            } else {
                let unanswered = if keep { Happened::Unanswered(to) } else { Happened::Reached(to, false) };
                (since + DIAL_TIME_MAX, Event::Tell(from, process, unanswered))
            };
            return self.queue.push(at.max(self.now), event);
        }
        if !keep {
            return self.happen(from, Happened::Reached(to, true), look);
        }
        if self.places[from.0 as usize].connections.iter().any(|(other, _)| *other == to) {
            // The other has dialed at the same time, and was faster.
            return;
        }
        // One that the other end has given up while nothing got through: the new one takes its place.
        let stale = self.places[to.0 as usize].connections.iter().position(|(other, _)| *other == from);
        if let Some(index) = stale {
            let (_, old) = self.places[to.0 as usize].connections.swap_remove(index);
            self.forget(old);
            self.happen(to, Happened::Closed(from), look);
        }
        let connection = u32::try_from(self.connections.len()).expect("fewer");
        self.connections.push(Connection {
            ends: [from, to],
            open: true,
            half_closed: false,
            halves: Default::default(),
        });
        let ends = [(from, to, true), (to, from, false)];
        for (end, other, _) in ends {
            self.places[end.0 as usize].connections.push((other, connection));
        }
        for (end, other, dialed) in ends {
            // The first may have closed it already.
            if self.connections[connection as usize].open {
                self.happen(end, Happened::Opened { with: other, dialed }, look);
            }
        }
    }
}
