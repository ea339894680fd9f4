//! Exchanges: one question and one answer per pair of neighbours and period, which shows both that the other is there. What
//! was missed is asked again, and others are asked to ask.

use std::time::Duration;

use rand::seq::SliceRandom;

use super::fact::Cause;
use super::link::{Missing, State, Waiting};
use super::name::{Keys, Member};
use super::overlay;
use super::time::Time;
use super::{At, Effect, Event, Machine, Message, verdict};

/// Questions for others that are under way.
const INQUIRIES_MAX: usize = 64;

/// A question that somebody else wants the answer to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inquiry {
    asker: Member,
    subject: Member,
    due: Time,
}

impl<K: Keys> Machine<K> {
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
                    self.send_if_met(watcher, Message::Told(member, true));
                }
            }
        }
        self.drop_case_of_silence(member);
        let told: Vec<Inquiry> = self.inquiries.extract_if(.., |inquiry| inquiry.subject == member).collect();
        for inquiry in told {
            self.send_if_met(inquiry.asker, Message::Told(member, true));
        }
    }

    pub(super) fn on_ping(&mut self, at: &mut At, from: Member, number: u32, digest: u64, answered: bool) {
        let (config, stretch) = (self.config, self.health.stretch());
        let Some(link) = self.links.get_mut(from) else { return };
        if link.is_watched() && (!link.first || !answered) {
            // Whoever begins the exchanges sees for itself what comes in time.
            link.lateness.note(at.now, !answered, config.period.mul_f32(stretch));
        }
        if link.is_watched() && !link.first {
            if answered {
                link.completed_at = at.now;
            }
            link.next = at.now + config.period + link.answer_times.limit(&config);
        } else if !link.is_watched() {
            // Wanted by the other.
            link.brief_until = link.brief_until.max(at.now + config.period * 2 + config.answer_max);
        }
        // Of a pair the one that begins measures every answer. The other asks when no question comes, and would remember nothing
        // but what that took.
        let remembers_slow = link.is_watched() && !link.first && link.answer_times.most() > config.answer_min;
        let asks = remembers_slow && link.waiting.is_none();
        self.send(from, Message::Ack(number, self.members.digest()));
        if asks {
            self.ping(at, from);
        }
        self.try_to_reach(from);
        self.compare_digest(at, from, digest, false);
    }

    pub(super) fn on_ack(&mut self, at: &mut At, from: Member, number: u32, digest: u64) {
        let config = self.config;
        let (late_after, stretch) = (self.health.late_after(&config), self.health.stretch());
        let Some(link) = self.links.get_mut(from) else { return };
        // Late is not never.
        link.completed_at = at.now;
        if let Some((_, sent)) = link.asked.filter(|(asked, _)| *asked == number) {
            let took = at.now.since(sent);
            link.asked = None;
            link.answered = took <= late_after;
            link.lateness.note(at.now, !link.answered, config.period.mul_f32(stretch));
            // Longer than it is waited for is silence, and says nothing of how long answers take.
            link.answer_times.add(took.min(config.answer_max.mul_f32(stretch)));
        }
        let Some(waiting) = link.waiting.filter(|waiting| waiting.number == number) else { return };
        link.waiting = None;
        if link.first {
            link.next = link.next.min(at.now + link.pause(&config));
        } else {
            link.next = at.now + config.period + link.answer_times.limit(&config);
        }
        self.health.better();
        self.confirm_refusals(at, from, waiting.sent);
        self.try_to_reach(from);
        self.compare_digest(at, from, digest, false);
    }

    /// Finds out whether a member that is watched can be reached at its address: afterwards a refusal would mean nothing.
    pub(super) fn try_to_reach(&mut self, member: Member) {
        let Some(link) = self.links.get_mut(member).filter(|link| link.ring) else { return };
        if link.reached != link.heard && link.tried != link.heard {
            link.tried = link.heard;
            self.effects.push(Effect::Reach(member));
        }
    }

    /// Looks for neighbours with which exchanges take too long too often.
    fn count_exchanges(&mut self, at: &mut At) {
        let (period, late_max) = (self.config.period.mul_f32(self.health.stretch()), self.config.late_max);
        let mut unreliable = Vec::new();
        for link in self.links.iter_mut().filter(|link| link.ring && link.is_met()) {
            link.lateness.note_silence(at.now, link.completed_at, period);
            if link.lateness.count() >= late_max {
                unreliable.push(link.member);
            }
        }
        for member in unreliable {
            self.accuse_unreliable(at, member);
        }
    }

    /// Somebody's process has ended, it seems. That this node itself is not cut off shows in an answer of anybody else.
    pub(super) fn note_refusal(&mut self, at: &mut At, member: Member) {
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

    pub(super) fn confirm_refusals(&mut self, at: &mut At, by: Member, sent: Time) {
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
        self.links.drop_unwanted(at.now);
        let late: Vec<Inquiry> = self.inquiries.extract_if(.., |inquiry| inquiry.due <= at.now).collect();
        for inquiry in late {
            self.send_if_met(inquiry.asker, Message::Told(inquiry.subject, false));
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
                // Whoever accepts and says nothing is not there either.
                self.on_dial_failed(at, member, false);
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
                self.try_to_reach(member);
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
            if self.send_or_dial(at, helper, Message::Ask(subject)) {
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

    pub(super) fn on_ask(&mut self, at: &mut At, from: Member, subject: Member) {
        let can_ask = self.links.get(subject).is_some_and(|link| link.is_met());
        if !can_ask || self.inquiries.len() >= INQUIRIES_MAX {
            return self.send(from, Message::Told(subject, false));
        }
        let due = at.now + self.config.help_time / 2;
        self.inquiries.push(Inquiry { asker: from, subject, due });
        // A question that is under way will do: a new one would put off the moment when it is overdue.
        if self.links.get(subject).is_some_and(|link| link.waiting.is_none()) {
            self.ping(at, subject);
        }
    }

    pub(super) fn on_told(&mut self, at: &mut At, from: Member, subject: Member, answered: bool) {
        let Some(fact) = self.members.get(subject) else { return };
        if !verdict::may_accuse(at.directory, &self.members, from, fact.record()) {
            self.counters.unfit += 1;
            return;
        }
        if answered {
            self.drop_case_of_silence(subject);
        }
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
        }
    }

    pub(super) fn inquiries_due(&self) -> Time {
        self.inquiries.iter().map(|inquiry| inquiry.due).min().unwrap_or(Time::NEVER)
    }
}
