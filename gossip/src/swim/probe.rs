//! Connections and the exchanges on them: one question and one answer per pair of neighbours and period, which shows both
//! that the other is there. What was missed is asked again, and others are asked to ask.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;

use super::fact::{Cause, Fact};
use super::link::{Missing, State, Waiting};
use super::members::Merged;
use super::name::{Keys, Member};
use super::overlay;
use super::record::Record;
use super::time::Time;
use super::{At, Effect, Event, Machine, Message, Standing};

/// Connections for a purpose that this node makes, at once, beside those to its neighbours.
pub(super) const BRIEF_MAX: usize = 8;

/// Connections for a purpose that others may make to this node, at once.
pub(super) const GUESTS_MAX: usize = 64;

/// Connections that others made for a purpose other than to come in, at once.
pub(super) const VISITORS_MAX: usize = 64;

/// What waits for one connection.
const ERRANDS_MAX: usize = 8;

/// Questions for others that are under way.
const INQUIRIES_MAX: usize = 64;

/// Dials that come to nothing before the next on the ring is taken beside a neighbour that was never met.
const FAILURES_MAX: u32 = 3;

/// A question that somebody else wants the answer to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inquiry {
    asker: Member,
    number: u32,
    subject: Member,
    due: Time,
}

impl<K: Keys> Machine<K> {
    fn is_first(&self, at: &At, other: Member) -> bool {
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
        for link in self.links.iter_mut().filter(|link| link.ring && wanted.binary_search(&link.member).is_err()) {
            link.ring = false;
            link.missing = None;
            // The other may be late to see that there is somebody nearer, and asks for it if it needs this for longer.
            link.brief_until = at.now + self.config.redial_pause;
        }
        self.neighbours = wanted;
    }

    pub(super) fn generation_of(&self, member: Member) -> u64 {
        self.members.get(member).map_or(0, |fact| fact.version().generation)
    }

    fn begin_exchanges(&mut self, at: &At, member: Member) {
        let phase = self.rng.random_range(Duration::ZERO..self.config.period);
        let slack = self.config.period + self.config.answer_max;
        let Some(link) = self.links.get_mut(member).filter(|link| link.is_met()) else { return };
        link.waiting = None;
        link.missed = 0;
        (link.counted_at, link.completed_at) = (at.now, at.now);
        link.next = at.now + if link.first { phase } else { slack };
    }

    /// Sends something once connected, dialing if need be; says whether it will be tried.
    pub(super) fn send_or_dial(&mut self, at: &At, to: Member, message: Message) -> bool {
        let first = self.is_first(at, to);
        let brief = self.links.iter().filter(|link| link.brief_until > at.now && link.dialed && !link.ring).count();
        let brief_time = self.config.brief_time;
        let is_known = self.links.get(to).is_some_and(|link| link.is_watched() || link.brief_until > at.now);
        if !is_known && brief >= BRIEF_MAX {
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

    fn hang_up(&mut self, at: &At, member: Member) {
        let retry_at = at.now + self.config.brief_time;
        if let Some(link) = self.links.get_mut(member) {
            link.closed(retry_at);
            self.effects.push(Effect::Close(member));
        }
    }

    pub(super) fn on_meet(&mut self, at: &mut At, from: Member, record: Arc<Record>, digest: u64, standing: Standing) {
        let generation = record.version().generation;
        let is_theirs = record.name() == at.directory.name(from) && record.is_genuine(&self.keys);
        let Some(link) = self.links.get_mut(from).filter(|link| link.is_open()) else { return };
        if !is_theirs {
            self.counters.forged += 1;
            return self.hang_up(at, from);
        }
        link.met = true;
        link.heard = generation;
        link.failures = 0;
        link.failing_since = Time::NEVER;
        if link.dialed {
            link.reached = generation;
        }
        let is_introducer = record.claims().introducer.as_ref() == Some(at.directory.name(self.me));
        link.guest = is_introducer && standing != Standing::Settled;
        let is_watched = link.is_watched();
        let is_visitor = |link: &&super::link::Link| link.is_met() && !link.dialed && !link.is_watched();
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

    /// A frame of a member has come: it lives.
    pub(super) fn heard(&mut self, at: &mut At, member: Member) {
        let Some(link) = self.links.get_mut(member) else { return };
        link.heard_at = at.now;
        link.refused_at = None;
        self.vouched(at, member);
        let Some(link) = self.links.get_mut(member) else { return };
        if let Some(missing) = link.missing.take() {
            if link.is_watched() && link.is_met() && link.waiting.is_none() {
                let slack = if link.first { Duration::ZERO } else { self.config.answer_max };
                link.next = link.next.min(at.now + self.config.period + slack);
            }
            if missing.suspected {
                self.event(Event::Suspected(member, false));
                // What this node has said does not hold any more, and others must not build on it.
                for watcher in self.watchers_of(at, member) {
                    self.send_if_met(watcher, Message::Told(0, member, true));
                }
            }
            self.drop_case_of_silence(member);
        }
        let told: Vec<Inquiry> = self.inquiries.extract_if(.., |inquiry| inquiry.subject == member).collect();
        for inquiry in told {
            self.send_if_met(inquiry.asker, Message::Told(inquiry.number, member, true));
        }
    }

    pub(super) fn send_if_met(&mut self, to: Member, message: Message) {
        if self.links.get(to).is_some_and(|link| link.is_met()) {
            self.send(to, message);
        }
    }

    pub(super) fn on_ping(&mut self, at: &mut At, from: Member, number: u32, digest: u64, answered: bool) {
        let config = self.config;
        let Some(link) = self.links.get_mut(from) else { return };
        if link.is_watched() && !link.first {
            if answered {
                link.completed_at = at.now;
            }
            link.next = at.now + config.period + link.answer_times.limit(&config);
        } else if !link.is_watched() {
            // Wanted by the other.
            link.brief_until = link.brief_until.max(at.now + config.period * 2 + config.answer_max);
        }
        self.send(from, Message::Ack(number, self.members.digest()));
        self.exchanged(from);
        self.compare_digest(at, from, digest, false);
    }

    pub(super) fn on_ack(&mut self, at: &mut At, from: Member, number: u32, digest: u64) {
        let config = self.config;
        let Some(link) = self.links.get_mut(from) else { return };
        // Late is not never.
        (link.completed_at, link.answered) = (at.now, true);
        if let Some((_, sent)) = link.asked.filter(|(asked, _)| *asked == number) {
            link.asked = None;
            link.answer_times.add(at.now.since(sent));
        }
        let Some(waiting) = link.waiting.filter(|waiting| waiting.number == number) else { return };
        link.waiting = None;
        if link.first {
            link.next = link.next.min(at.now + config.period);
        } else {
            link.next = at.now + config.period + link.answer_times.limit(&config);
        }
        self.health.better();
        self.confirm_refusals(at, from, waiting.sent);
        self.exchanged(from);
        self.compare_digest(at, from, digest, false);
    }

    /// An exchange with a member has come to its end.
    fn exchanged(&mut self, member: Member) {
        let Some(link) = self.links.get_mut(member).filter(|link| link.ring) else { return };
        // It is to be known beforehand whether its address can be reached: afterwards a refusal would mean nothing.
        if link.reached != link.heard && link.tried != link.heard {
            link.tried = link.heard;
            self.effects.push(Effect::Reach(member));
        }
    }

    /// A period is over with those neighbours with which it is.
    fn count_exchanges(&mut self, at: &mut At) {
        let (period, missed_max) = (self.config.period, self.config.missed_max);
        let mut unreliable = Vec::new();
        for link in self.links.iter_mut().filter(|link| link.ring && link.is_met()) {
            link.count(at.now, period);
            if link.missed.count_ones() >= missed_max {
                unreliable.push(link.member);
            }
        }
        for member in unreliable {
            self.accuse_unreliable(at, member);
        }
    }

    pub(super) fn on_reached(&mut self, member: Member, reached: bool) {
        if let Some(link) = self.links.get_mut(member)
            && reached
        {
            link.reached = link.tried;
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

    fn random_pause(&mut self) -> Duration {
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
        let was_met = link.heard == generation && generation > 0;
        let was_reached = was_met && link.reached == generation;
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
            self.neighbours_changed = true;
            self.accuse_unmet(at, member);
        }
    }

    /// Somebody's process has ended, it seems. That this node itself is not cut off shows in an answer of anybody else.
    fn note_refusal(&mut self, at: &mut At, member: Member) {
        let Some(link) = self.links.get_mut(member) else { return };
        if link.refused_at.is_none() {
            link.refused_at = Some(at.now);
        }
        if self.members.live() <= 2 {
            self.accuse(at, member, Cause::Gone, at.now);
            return;
        }
        let others: Vec<Member> = self.links.met().filter(|other| *other != member).take(3).collect();
        for other in others {
            self.ping(at, other);
        }
    }

    fn confirm_refusals(&mut self, at: &mut At, by: Member, sent: Time) {
        let gone: Vec<Member> = self
            .links
            .iter_mut()
            .filter(|link| link.member != by && link.refused_at.is_some_and(|refused| refused <= sent))
            .map(|link| {
                link.refused_at = None;
                link.member
            })
            .collect();
        for member in gone {
            self.accuse(at, member, Cause::Gone, at.now);
        }
    }

    /// Asks whether a member is there.
    pub(super) fn ping(&mut self, at: &At, member: Member) {
        let number = self.number();
        let digest = self.members.digest();
        let stretch = self.health.stretch();
        let config = self.config;
        let Some(link) = self.links.get_mut(member).filter(|link| link.is_met()) else { return };
        let limit = link.answer_times.limit(&config).mul_f32(stretch);
        link.waiting = Some(Waiting { number, sent: at.now, due: at.now + limit });
        // Of several the first says how long answers take.
        link.asked.get_or_insert((number, at.now));
        let answered = link.answered;
        self.send(member, Message::Ping(number, digest, answered));
    }

    pub(super) fn probe_on_time(&mut self, at: &mut At) {
        self.count_exchanges(at);
        let due: Vec<Member> = self.links.iter().filter(|link| link.due() <= at.now).map(|link| link.member).collect();
        for member in due {
            self.probe_one(at, member);
        }
        self.links.retain(|link| link.is_wanted(at.now) || !matches!(link.state, State::Closed(_)));
        let late: Vec<Inquiry> = self.inquiries.extract_if(.., |inquiry| inquiry.due <= at.now).collect();
        for inquiry in late {
            self.send_if_met(inquiry.asker, Message::Told(inquiry.number, inquiry.subject, false));
        }
    }

    fn probe_one(&mut self, at: &mut At, member: Member) {
        let config = self.config;
        let Some(link) = self.links.get_mut(member) else { return };
        match link.state {
            State::Closed(retry_at) if link.is_watched() && retry_at <= at.now => {
                link.state = State::Dialing;
                link.dialed = true;
                self.effects.push(Effect::Dial(member));
            }
            State::Open if !link.is_watched() && link.brief_until <= at.now => {
                link.closed(Time::NEVER);
                self.effects.push(Effect::Close(member));
                return;
            }
            State::Open if !link.met && link.next <= at.now => {
                link.closed(at.now + config.redial_pause);
                self.effects.push(Effect::Close(member));
            }
            State::Open => self.exchange_on_time(at, member),
            State::Closed(_) | State::Dialing => {}
        }
        self.judge_silence(at, member);
    }

    fn exchange_on_time(&mut self, at: &mut At, member: Member) {
        let config = self.config;
        let Some(link) = self.links.get_mut(member) else { return };
        match link.waiting {
            Some(waiting) if waiting.due <= at.now => {
                link.waiting = None;
                link.answered = false;
                if link.is_watched() {
                    // Asked again at once the first time, then at leisure.
                    let again = link.missing.is_none();
                    link.next = if again { Time::NEVER } else { at.now + config.help_time };
                    self.begin_missing(at, member, waiting.due);
                    if again {
                        self.ping(at, member);
                    }
                }
                self.exchanged(member);
            }
            None if link.next <= at.now && link.is_watched() => {
                let is_late = !link.first && link.missing.is_none();
                let since = link.next;
                link.next = if link.first { at.now + config.period } else { Time::NEVER };
                if is_late {
                    self.begin_missing(at, member, since);
                }
                self.ping(at, member);
            }
            None if link.next <= at.now => link.next = Time::NEVER,
            _ => {}
        }
    }

    /// An answer was missed: others who watch the same member are asked whether it is there.
    pub(super) fn begin_missing(&mut self, at: &mut At, member: Member, since: Time) {
        let help_time = self.config.help_time.mul_f32(self.health.stretch());
        let Some(link) = self.links.get_mut(member) else { return };
        if link.missing.is_some() || !link.is_watched() {
            return;
        }
        let judge_at = at.now + help_time;
        link.missing = Some(Missing { since, judge_at, asked: Vec::new(), suspected: false });
        self.ask_helpers(at, member);
    }

    pub(super) fn ask_helpers(&mut self, at: &mut At, subject: Member) {
        let mut helpers = self.watchers_of(at, subject);
        helpers.shuffle(&mut self.rng);
        // Those who are at hand first.
        helpers.sort_by_key(|helper| !self.links.get(*helper).is_some_and(|link| link.is_met()));
        helpers.truncate(self.config.helpers);
        let mut asked = Vec::new();
        for helper in helpers {
            let number = self.number();
            if self.send_or_dial(at, helper, Message::Ask(number, subject)) {
                asked.push(helper);
            }
        }
        if let Some(missing) = self.links.get_mut(subject).and_then(|link| link.missing.as_mut()) {
            missing.asked = asked;
        }
    }

    /// The others that watch a member.
    pub(super) fn watchers_of(&self, at: &At, subject: Member) -> Vec<Member> {
        let mut watchers = overlay::neighbours(at.directory, &self.members, subject, |_| false);
        watchers.retain(|watcher| *watcher != self.me);
        watchers
    }

    pub(super) fn on_ask(&mut self, at: &mut At, from: Member, number: u32, subject: Member) {
        let can_ask = self.links.get(subject).is_some_and(|link| link.is_met());
        if !can_ask || self.inquiries.len() >= INQUIRIES_MAX {
            return self.send(from, Message::Told(number, subject, false));
        }
        let due = at.now + self.config.help_time / 2;
        self.inquiries.push(Inquiry { asker: from, number, subject, due });
        self.ping(at, subject);
    }

    pub(super) fn on_told(&mut self, at: &mut At, from: Member, subject: Member, answered: bool) {
        let Some(link) = self.links.get_mut(subject) else { return };
        let Some(missing) = &mut link.missing else { return };
        missing.asked.retain(|helper| *helper != from);
        if answered {
            // It lives; that it does not answer here is between the two.
            let was_suspected = missing.suspected;
            link.missing = None;
            if link.is_met() && link.waiting.is_none() && link.next == Time::NEVER {
                link.next = at.now + self.config.period;
            }
            if was_suspected {
                self.event(Event::Suspected(subject, false));
            }
            self.drop_case_of_silence(subject);
        }
    }

    pub(super) fn inquiries_due(&self) -> Time {
        self.inquiries.iter().map(|inquiry| inquiry.due).min().unwrap_or(Time::NEVER)
    }
}
