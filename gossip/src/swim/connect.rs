//! Connections: to the neighbours for as long as they are that, to others for as long as there is something to say.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use super::fact::Fact;
use super::link::{Lateness, Link, State};
use super::members::Merged;
use super::message::Message;
use super::name::{Keys, Member};
use super::overlay;
use super::record::Record;
use super::time::Time;
use super::{At, Effect, Event, Machine, Standing};

/// Connections for a purpose that this node makes, at once, beside those to its neighbours.
pub(super) const BRIEF_MAX: usize = 8;

/// Beside those: to members that are in doubt, which are to be decided on also by whoever looks for others in vain.
pub(super) const DOUBTED_MAX: usize = 2;

/// Connections for a purpose that others may make to this node, at once.
pub(super) const GUESTS_MAX: usize = 64;

/// Connections that others made for a purpose other than to come in, at once.
pub(super) const VISITORS_MAX: usize = 64;

/// What waits for one connection.
const ERRANDS_MAX: usize = 8;

/// Dials that come to nothing before the next on the ring is taken beside a neighbour that was never met.
const FAILURES_MAX: u32 = 3;

impl<K: Keys> Machine<K> {
    pub(super) fn is_first(&self, at: &At, other: Member) -> bool {
        at.directory.name(self.me) < at.directory.name(other)
    }

    /// Keeps connections to the neighbours, as they are now.
    pub(super) fn watch_neighbours(&mut self, at: &mut At) {
        if !std::mem::take(&mut self.neighbours_changed) {
            return;
        }
        let mut wanted = overlay::neighbours(at.directory, &self.members, self.me, |_| false);
        let unreachable = |member: &Member| {
            let generation = self.generation_of(*member);
            self.links.get(*member).is_some_and(|link| link.failures >= FAILURES_MAX && link.heard != generation)
        };
        if wanted.iter().any(unreachable) {
            let pass = |member| unreachable(&member);
            for member in overlay::neighbours(at.directory, &self.members, self.me, pass) {
                if !wanted.contains(&member) {
                    wanted.push(member);
                }
            }
        }
        self.keep_met(at, &mut wanted);
        wanted.sort_unstable();
        for member in &wanted {
            let first = self.is_first(at, *member);
            let is_young = self.join.is_young(at.now);
            let link = self.links.get_or_insert(*member, first);
            if !std::mem::replace(&mut link.ring, true) {
                if link.is_met() {
                    self.begin_exchanges(at, *member);
                } else if let State::Closed(_) = link.state {
                    // The other is most likely about to do the same.
                    let pause = if first || is_young { Duration::ZERO } else { self.config.redial_pause / 2 };
                    link.state = State::Closed(at.now + pause);
                }
            }
        }
        let mut acquitted = Vec::new();
        for link in self.links.iter_mut().filter(|link| link.ring && wanted.binary_search(&link.member).is_err()) {
            link.ring = false;
            if link.missing.take().is_some_and(|missing| missing.suspected) {
                acquitted.push(link.member);
            }
            // The other may be late to see that there is somebody nearer, and asks for it if it needs this for longer.
            link.brief_until = at.now + self.config.redial_pause;
        }
        self.neighbours = wanted;
        for member in acquitted {
            self.event(Event::Suspected(member, false));
        }
    }

    /// Who is a neighbour and was met stays one until whoever came between was met too: members are made up in no time, and
    /// would else take the place of those there are.
    fn keep_met(&self, at: &At, wanted: &mut Vec<Member>) {
        if wanted.iter().all(|member| self.was_met(*member)) {
            return;
        }
        let is_met = |link: &&Link| link.ring && self.was_met(link.member) && self.members.is_live(link.member);
        let met: Vec<Member> = self.links.iter().filter(is_met).map(|link| link.member).collect();
        for member in overlay::nearest(at.directory, &met, self.me) {
            if !wanted.contains(&member) {
                wanted.push(member);
            }
        }
    }

    fn was_met(&self, member: Member) -> bool {
        self.links.get(member).is_some_and(|link| link.heard > 0)
    }

    pub(super) fn generation_of(&self, member: Member) -> u64 {
        self.members.get(member).map_or(0, |fact| fact.version().generation)
    }

    pub(super) fn begin_exchanges(&mut self, at: &At, member: Member) {
        let phase = self.rng.random_range(Duration::ZERO..self.config.period);
        let slack = self.config.period + self.config.answer_max;
        let Some(link) = self.links.get_mut(member).filter(|link| link.is_met()) else { return };
        link.waiting = None;
        (link.lateness, link.completed_at) = (Lateness::anew(at.now), at.now);
        link.next = at.now + if link.first { phase } else { slack };
        self.try_to_reach(member);
    }

    /// Sends something once connected, dialing if need be; says whether it will be tried.
    pub(super) fn send_or_dial(&mut self, at: &At, to: Member, message: Message) -> bool {
        self.send_or_dial_beside(at, to, message, BRIEF_MAX)
    }

    /// Asks a member that is in doubt whether it is there, whatever else this node is dialing for.
    pub(super) fn ask_doubted(&mut self, at: &At, to: Member, message: Message) -> bool {
        self.send_or_dial_beside(at, to, message, BRIEF_MAX + DOUBTED_MAX)
    }

    fn send_or_dial_beside(&mut self, at: &At, to: Member, message: Message, most: usize) -> bool {
        let first = self.is_first(at, to);
        let is_brief = |link: &&Link| link.brief_until > at.now && link.dialed && !link.ring && !link.is_closed();
        let brief = self.links.iter().filter(is_brief).count();
        let brief_time = self.config.brief_time;
        let is_known = self.links.get(to).is_some_and(|link| link.is_watched() || link.brief_until > at.now);
        if !is_known && brief >= most {
            self.counters.postponed += 1;
            return false;
        }
        let link = self.links.get_or_insert(to, first);
        if link.is_met() {
            if !link.is_watched() {
                link.brief_until = at.now + brief_time;
            }
            self.send(to, message);
            return true;
        }
        if link.errands.len() >= ERRANDS_MAX {
            self.counters.postponed += 1;
            return false;
        }
        link.errands.push(message);
        link.brief_until = at.now + brief_time;
        if let State::Closed(_) = link.state {
            link.state = State::Dialing;
            link.dialed = true;
            self.effects.push(Effect::Dial(to));
        }
        true
    }

    pub(super) fn on_opened(&mut self, at: &mut At, member: Member, dialed: bool) {
        let first = self.is_first(at, member);
        let guests = self.links.iter().filter(|link| link.is_open() && !link.dialed && !link.ring);
        // Newcomers, and those who come for anything else, do not keep each other out.
        let guests = guests.filter(|link| link.guest || !link.met).count();
        let brief_time = self.config.brief_time;
        let link = self.links.get_or_insert(member, first);
        if !dialed && !link.is_watched() && guests >= GUESTS_MAX {
            self.counters.postponed += 1;
            return self.hang_up(at, member);
        }
        link.state = State::Open;
        link.dialed = dialed;
        link.met = false;
        link.waiting = None;
        // It has to say who it is before long.
        link.next = at.now + self.config.answer_max * 2;
        link.brief_until = link.brief_until.max(at.now + brief_time);
        link.refused_at = None;
        if dialed && self.join.needs_introducer() {
            self.join.introduced_by(member);
            self.introduce(at, member);
        }
        self.join.shown();
        let standing = self.join.standing(self.members.live());
        self.send(member, Message::Meet(self.own.record().clone(), self.members.digest(), standing));
    }

    pub(super) fn hang_up(&mut self, at: &At, member: Member) {
        let retry_at = at.now + self.config.brief_time;
        if let Some(link) = self.links.get_mut(member) {
            link.closed(retry_at);
            self.effects.push(Effect::Close(member));
        }
    }

    pub(super) fn on_meet(&mut self, at: &mut At, from: Member, record: Arc<Record>, digest: u64, standing: Standing) {
        let generation = record.version().generation;
        let is_theirs = record.name() == at.directory.name(from) && record.is_genuine(&self.keys);
        // Once on each connection.
        let Some(link) = self.links.get_mut(from).filter(|link| link.is_open() && !link.met) else { return };
        if !is_theirs {
            self.counters.forged += 1;
            return self.hang_up(at, from);
        }
        link.met = true;
        // Others may have stayed neighbours until then.
        self.neighbours_changed |= link.ring && link.heard == 0;
        link.heard = generation;
        link.failures = 0;
        link.failing_since = Time::NEVER;
        if link.dialed {
            link.reached = generation;
            link.reached_at.clone_from(&record.claims().addresses);
        }
        let is_introducer = record.claims().introducer.as_ref() == Some(at.directory.name(self.me));
        let is_guest = is_introducer && standing != Standing::Settled;
        link.guest = false;
        if is_guest && self.links.iter().filter(|link| link.guest).count() >= GUESTS_MAX {
            self.counters.postponed += 1;
            return self.hang_up(at, from);
        }
        let Some(link) = self.links.get_mut(from) else { return };
        link.guest = is_guest;
        let is_watched = link.is_watched();
        let is_visitor = |link: &&Link| link.is_met() && !link.dialed && !link.is_watched();
        if self.links.iter().filter(is_visitor).count() > VISITORS_MAX && !is_watched {
            self.counters.postponed += 1;
            return self.hang_up(at, from);
        }
        let Some(link) = self.links.get_mut(from) else { return };
        let errands = std::mem::take(&mut link.errands);
        let fact = Arc::new(Fact::Said(record));
        let is_news = self.members.compare(from, &fact) == Merged::Newer;
        self.take(at, from, &fact, is_news);
        self.heard(at, from);
        self.settle(from);
        if is_watched {
            self.begin_exchanges(at, from);
        }
        if standing == Standing::Alone {
            self.tell_some(from);
        }
        for errand in errands {
            self.send(from, errand);
        }
        // New connections find differences at once.
        self.compare_digest(at, from, digest, true);
    }

    pub(super) fn send_if_met(&mut self, to: Member, message: Message) {
        if self.links.get(to).is_some_and(|link| link.is_met()) {
            self.send(to, message);
        }
    }

    pub(super) fn on_reached(&mut self, member: Member, reached: bool) {
        if let Some(link) = self.links.get_mut(member)
            && reached
        {
            link.reached = link.tried;
            if let Some(fact) = self.members.get(member) {
                link.reached_at.clone_from(&fact.record().claims().addresses);
            }
        }
    }

    pub(super) fn on_closed(&mut self, at: &mut At, member: Member) {
        let is_live = self.members.is_live(member);
        let Some(link) = self.links.get_mut(member) else { return };
        let was_met = link.met;
        link.closed(Time::NEVER);
        if link.is_watched() && is_live {
            // At once where it was there a moment ago: a process that has ended is refused.
            let pause = if was_met { Duration::ZERO } else { self.random_pause() };
            if let Some(link) = self.links.get_mut(member) {
                link.state = State::Closed(at.now + pause);
            }
        }
        self.join.lost(at.now, member);
    }

    pub(super) fn random_pause(&mut self) -> Duration {
        let most = self.config.redial_pause;
        self.rng.random_range(most / 5..most)
    }

    pub(super) fn on_dial_failed(&mut self, at: &mut At, member: Member, refused: bool) {
        let generation = self.generation_of(member);
        let retry_at = at.now + self.config.redial_pause;
        // The other may have been faster: then there is a connection, and one more was not needed.
        let Some(link) = self.links.get_mut(member).filter(|link| !link.is_open()) else { return };
        link.closed(retry_at);
        link.failures += 1;
        link.failing_since = link.failing_since.min(at.now);
        let (was_met, is_met) = (link.heard > 0, link.heard == generation);
        // Where it was reached in an earlier generation it would be now, if there were a process: it may have ended again before
        // anybody had the time to find out.
        let addresses = self.members.get(member).map(|fact| &fact.record().claims().addresses);
        let is_same_place = addresses.is_some_and(|addresses| !addresses.is_empty() && *addresses == link.reached_at);
        let was_reached = was_met && (is_same_place || link.reached == generation);
        self.join.lost(at.now, member);
        self.could_not_probe(member);
        if !self.links.get(member).is_some_and(|link| link.is_watched()) || !self.members.is_live(member) {
            return;
        }
        if was_met {
            if refused && was_reached {
                self.note_refusal(at, member);
            }
            self.begin_missing(at, member, at.now);
        } else {
            self.accuse_unmet(at, member);
        }
        self.neighbours_changed |= !is_met;
    }
}
