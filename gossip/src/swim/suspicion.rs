//! Accusations: what this node and the others who watch a member say of it, until there is a verdict or it is heard again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;

use super::fact::{Accusation, Cause};
use super::identity::Denied;
use super::link::State;
use super::name::{Keys, Member};
use super::record::Version;
use super::time::Time;
use super::{At, Event, Machine, Message, verdict};

/// Members of which something is said, at once.
const CASES_MAX: usize = 1024;

/// That a member is not reliable counts for so long after it was said.
pub(super) const UNRELIABLE_WORD_TIME: Duration = Duration::from_secs(4);

/// That a member is silent counts for so long after it was last said: longer than the half period in which it is said again,
/// with what may be lost on the way once.
pub(super) const SILENT_WORD_TIME: Duration = Duration::from_millis(1500);

/// After so many long times one of those who should watch a member and never met it is enough: of the others there may be
/// nobody left.
const LONG_UNMET: u32 = 3;

/// Words that were last said so long ago are dropped. Whoever says that it has never met a member does so once for each dial.
fn kept_for(cause: Cause) -> Duration {
    match cause {
        Cause::Gone | Cause::Silent | Cause::LongSilent | Cause::Unreliable => UNRELIABLE_WORD_TIME,
        Cause::Unmet | Cause::LongUnmet => Duration::from_secs(10),
    }
}

/// Where something is said of others, a node looks at the clock so often, so that it does not miss that it stands still itself.
const WATCH_PERIOD: Duration = Duration::from_millis(100);

/// Whoever is later than this may have stood still without noticing it, and calls nobody else late.
const LAG_MAX: Duration = Duration::from_millis(50);

/// What is said of each.
pub(super) struct Cases {
    of: BTreeMap<Member, Case>,
    watch_at: Time,
}

impl Default for Cases {
    fn default() -> Self {
        Self { of: BTreeMap::new(), watch_at: Time::NEVER }
    }
}

pub(super) struct Case {
    pub(super) version: Version,
    pub(super) words: Vec<Word>,
    pub(super) judge_at: Time,
}

/// One accuser's word.
#[derive(Clone)]
pub(super) struct Word {
    pub(super) accuser: Member,
    pub(super) accusation: Arc<Accusation>,
    /// When the first answer that it missed was due, by this node's clock; not before that, at any rate.
    pub(super) missed_at: Time,
    pub(super) came_at: Time,
    /// When it was last said: it holds only while it is said again and again.
    pub(super) said_at: Time,
}

impl Cases {
    pub(super) fn due(&self) -> Time {
        self.of.values().map(|case| case.judge_at).min().unwrap_or(Time::NEVER).min(self.watch_at)
    }

    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether what is said of a member is about an earlier record than this.
    pub(super) fn is_older(&self, member: Member, version: Version) -> bool {
        self.of.get(&member).is_some_and(|case| case.version < version)
    }

    /// Whether a member has said so, or more.
    fn has(&self, subject: Member, accuser: Member, cause: Cause) -> bool {
        let says = |word: &Word| word.accuser == accuser && says_as_much(word.accusation.cause, cause);
        self.of.get(&subject).is_some_and(|case| case.words.iter().any(says))
    }

    /// Whether somebody's words were last said so long ago; from now on they are said again.
    fn is_due_again(&mut self, subject: Member, accuser: Member, cause: Cause, now: Time, pause: Duration) -> bool {
        let words = self.of.get_mut(&subject).into_iter().flat_map(|case| case.words.iter_mut());
        let is_it = |word: &&mut Word| word.accuser == accuser && says_as_much(word.accusation.cause, cause);
        let mut due = words.filter(is_it).filter(|word| now.since(word.said_at) >= pause).peekable();
        let is_due = due.peek().is_some();
        due.for_each(|word| word.said_at = now);
        is_due
    }

    /// Somebody has said so again.
    fn is_said_again(&mut self, subject: Member, accuser: Member, cause: Cause, now: Time) {
        let words = self.of.get_mut(&subject).into_iter().flat_map(|case| case.words.iter_mut());
        let says = |word: &&mut Word| word.accuser == accuser && says_as_much(word.accusation.cause, cause);
        words.filter(says).for_each(|word| word.said_at = now);
    }

    /// Drops what nobody says any more, and cases of which nothing is left.
    fn drop_old(&mut self, now: Time) {
        self.of.retain(|_, case| {
            case.words.retain(|word| now.since(word.said_at) <= kept_for(word.accusation.cause));
            !case.words.is_empty()
        });
    }

    fn has_any(&self, subject: Member, accuser: Member) -> bool {
        self.of.get(&subject).is_some_and(|case| case.words.iter().any(|word| word.accuser == accuser))
    }

    /// Takes a word down; whether it says more than the last of the same accuser.
    fn add(&mut self, subject: Member, version: Version, word: Word) -> bool {
        self.watch_at = self.watch_at.min(word.came_at + WATCH_PERIOD);
        if !self.of.contains_key(&subject) && self.of.len() >= CASES_MAX {
            return false;
        }
        let case = self.of.entry(subject).or_insert_with(|| Case { version, words: Vec::new(), judge_at: Time::NEVER });
        if case.version != version {
            *case = Case { version, words: Vec::new(), judge_at: Time::NEVER };
        }
        let of_accuser = |other: &Word| other.accuser == word.accuser;
        if case
            .words
            .iter()
            .any(|other| of_accuser(other) && says_as_much(other.accusation.cause, word.accusation.cause))
        {
            return false;
        }
        // Nothing is said twice, so words that are passed on from one to the next come to rest.
        case.words.retain(|other| !(of_accuser(other) && says_as_much(word.accusation.cause, other.accusation.cause)));
        case.words.push(word);
        true
    }
}

/// Whether one cause says as much as another, and maybe more. That a member is not reliable says nothing of its silence.
fn says_as_much(one: Cause, other: Cause) -> bool {
    let strength = |cause| match cause {
        Cause::Unmet => Some(0),
        Cause::Silent => Some(1),
        Cause::Gone => Some(2),
        Cause::LongUnmet => Some(3),
        Cause::LongSilent => Some(4),
        Cause::Unreliable => None,
    };
    match (strength(one), strength(other)) {
        (Some(one), Some(other)) => one >= other,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

impl<K: Keys> Machine<K> {
    /// Whether this node itself doubts a member.
    pub(super) fn suspicion_of(&self, member: Member) -> bool {
        let suspects = |missing: &super::link::Missing| missing.suspected;
        self.links.get(member).is_some_and(|link| link.missing.as_ref().is_some_and(suspects))
            || self.cases.has_any(member, self.me)
    }

    pub(super) fn close_case(&mut self, member: Member) {
        self.cases.of.remove(&member);
        if let Some(missing) = self.links.get_mut(member).and_then(|link| link.missing.as_mut())
            && std::mem::take(&mut missing.suspected)
        {
            // What it said since has to be missed anew.
            missing.since = Time::NEVER;
            self.event(Event::Suspected(member, false));
        }
    }

    /// It was heard: whoever said it was silent is answered, as far as this node is concerned.
    pub(super) fn drop_case_of_silence(&mut self, member: Member) {
        let Some(case) = self.cases.of.get_mut(&member) else { return };
        case.words.retain(|word| word.accusation.cause == Cause::Unreliable);
        case.judge_at = Time::NEVER;
        if case.words.is_empty() {
            self.cases.of.remove(&member);
        }
    }

    /// Those who were asked to help have had their time.
    pub(super) fn judge_silence(&mut self, at: &mut At, member: Member) {
        let (period, long) = (self.config.period, self.config.long.mul_f32(self.health.stretch()));
        let Some(link) = self.links.get_mut(member) else { return };
        let Some(missing) = link.missing.as_mut().filter(|missing| missing.judge_at <= at.now) else { return };
        missing.judge_at = at.now + period / 2;
        if missing.since == Time::NEVER {
            missing.since = at.now;
        }
        let since = missing.since;
        let unheard = std::mem::take(&mut missing.asked).len();
        let was_suspected = std::mem::replace(&mut missing.suspected, true);
        for _ in 0..unheard {
            // Who asks for help and is not even refused it has reason to doubt itself.
            self.health.worse();
        }
        if !was_suspected {
            self.event(Event::Suspected(member, true));
        }
        let cause = if at.now.since(since) >= long { Cause::LongSilent } else { Cause::Silent };
        self.accuse(at, member, cause, since);
        if self.links.get(member).is_some_and(|link| link.missing.is_some()) {
            self.ask_helpers(at, member);
        }
    }

    /// A helper could not be reached.
    pub(super) fn could_not_probe(&mut self, helper: Member) {
        for link in self.links.iter_mut() {
            if let Some(missing) = &mut link.missing {
                // It says nothing of this node, as silence would: most likely both have ended together.
                missing.asked.retain(|asked| *asked != helper);
            }
        }
    }

    /// Says that a member is down, to those who watch it and to itself.
    pub(super) fn accuse(&mut self, at: &mut At, subject: Member, cause: Cause, since: Time) {
        let Some(fact) = self.members.get(subject).filter(|fact| fact.is_live()).cloned() else { return };
        let may = cause == Cause::Gone || self.health.may_accuse() && !self.is_unreliable_itself(at);
        if !may || self.own.is_leaving() || self.own.is_put_out() {
            return;
        }
        let ago = at.now.since(since).min(self.config.period * 2);
        let me = *at.directory.name(self.me);
        let due_ago_ms = u16::try_from(ago.as_millis()).unwrap_or(u16::MAX);
        let accusation = Accusation::sign(me, fact.record(), cause, due_ago_ms, &self.keys);
        let word = Word {
            accuser: self.me,
            accusation: accusation.clone(),
            missed_at: since,
            came_at: at.now,
            said_at: at.now,
        };
        let is_new = self.cases.add(subject, fact.version(), word);
        // Some may not have been reached before, or not have watched it yet.
        if is_new || self.cases.is_due_again(subject, self.me, cause, at.now, self.config.period / 2) {
            self.send_if_met(subject, Message::Accuse(accusation.clone()));
            let mut watchers = self.watchers_of(at, subject);
            watchers.shuffle(&mut self.rng);
            for watcher in watchers {
                self.send_or_dial(at, watcher, Message::Accuse(accusation.clone()));
            }
        }
        self.judge(at, subject);
    }

    /// Too many exchanges with a neighbour were missed, though it lives; unless that is so with many, and the fault with this
    /// node.
    pub(super) fn accuse_unreliable(&mut self, at: &mut At, subject: Member) {
        if at.lag <= LAG_MAX && !self.is_unreliable_itself(at) {
            self.accuse(at, subject, Cause::Unreliable, at.now);
        }
    }

    /// Whether exchanges are late with so many neighbours, who live, that the fault is most likely this node's.
    fn is_unreliable_itself(&self, at: &At) -> bool {
        let heard_from = at.now.before(self.config.period * 3);
        let watched = self.links.iter().filter(|link| link.ring).count();
        let is_late = |link: &&super::link::Link| {
            link.ring
                && link.is_met()
                && link.lateness.count() * 2 >= self.config.late_max
                && link.heard_at >= heard_from
        };
        self.links.iter().filter(is_late).count() * 3 > watched && watched > 2
    }

    /// A neighbour was never met, and cannot be reached.
    pub(super) fn accuse_unmet(&mut self, at: &mut At, subject: Member) {
        let long = self.config.long.mul_f32(self.health.stretch());
        let since = self.links.get(subject).map_or(at.now, |link| link.failing_since.min(at.now));
        let for_long = at.now.since(since);
        if for_long >= long {
            let cause = if for_long >= long * LONG_UNMET { Cause::LongUnmet } else { Cause::Unmet };
            self.accuse(at, subject, cause, since);
        }
    }

    pub(super) fn on_accusation(&mut self, at: &mut At, from: Member, accusation: Arc<Accusation>) {
        if accusation.subject == *at.directory.name(self.me) {
            return self.on_own_accusation(at, from, &accusation);
        }
        let Some(subject) = at.directory.find(&accusation.subject) else { return };
        let Some(accuser) = at.directory.find(&accusation.accuser) else { return };
        let Some(fact) = self.members.get(subject).cloned() else { return };
        if fact.version() > accusation.version || !fact.is_live() {
            self.send(from, Message::Known(vec![fact]));
            return;
        }
        if fact.version() < accusation.version {
            return;
        }
        if accuser == self.me {
            return;
        }
        if self.cases.has(subject, accuser, accusation.cause) {
            if from == accuser {
                self.cases.is_said_again(subject, accuser, accusation.cause, at.now);
            }
            return;
        }
        if !verdict::may_accuse(at.directory, &self.members, accuser, fact.record()) {
            self.counters.unfit += 1;
            return;
        }
        if !accusation.is_genuine(&self.keys) {
            self.counters.forged += 1;
            return;
        }
        let ago = Duration::from_millis(u64::from(accusation.due_ago_ms)).min(self.config.period * 2);
        if self.has_heard(at, subject, &accusation, ago) {
            self.send(from, Message::Told(subject, true));
            if accuser != from {
                self.send_if_met(accuser, Message::Told(subject, true));
            }
            return;
        }
        let word = Word {
            accuser,
            accusation: accusation.clone(),
            missed_at: at.now.before(ago),
            came_at: at.now,
            said_at: at.now,
        };
        if !self.cases.add(subject, fact.version(), word) {
            return;
        }
        // Not all who watch it are connected to each other.
        for watcher in self.watchers_of(at, subject) {
            if watcher != from && watcher != accuser {
                self.send_if_met(watcher, Message::Accuse(accusation.clone()));
            }
        }
        self.look_closer(at, subject, accusation.cause);
        self.judge(at, subject);
    }

    /// Whether this node has heard a member since an accuser missed it: then the fault is between those two.
    fn has_heard(&self, at: &At, subject: Member, accusation: &Accusation, ago: Duration) -> bool {
        let is_silence = matches!(accusation.cause, Cause::Silent | Cause::LongSilent);
        let heard_at = self.links.get(subject).filter(|link| link.is_met()).map(|link| link.heard_at);
        is_silence && heard_at.is_some_and(|heard_at| heard_at > at.now.before(ago))
    }

    /// Somebody takes this node for silent, or its process for ended. Whoever says so hears it by this; everybody is told only
    /// where so many say so that a verdict is near.
    fn on_own_accusation(&mut self, at: &mut At, from: Member, accusation: &Arc<Accusation>) {
        let version = self.own.record().version();
        if accusation.version != version || accusation.cause == Cause::Unreliable || self.own.is_leaving() {
            return;
        }
        let Some(accuser) = at.directory.find(&accusation.accuser) else { return };
        let is_fit = verdict::may_accuse(at.directory, &self.members, accuser, self.own.record());
        if !is_fit || !accusation.is_genuine(&self.keys) {
            return;
        }
        self.own.accused_by(accuser, at.now);
        let word =
            Word { accuser, accusation: accusation.clone(), missed_at: at.now, came_at: at.now, said_at: at.now };
        if !self.cases.add(self.me, version, word) {
            self.cases.is_said_again(self.me, accuser, accusation.cause, at.now);
        }
        if accusation.cause == Cause::LongSilent {
            return self.deny(at, Denied::Down);
        }
        self.ping(at, from);
        if accuser != from {
            self.ping(at, accuser);
        }
        // If that does not reach them, everybody is told, before the grace is over.
        let own = self.cases.of.get_mut(&self.me);
        if let Some(case) = own {
            case.judge_at = case.judge_at.min(at.now + self.config.answer_min);
        }
    }

    /// Denies what is said of this node, where so many have not been answered that a verdict is near.
    pub(super) fn judge_own_case(&mut self, at: &mut At) {
        let recent = at.now.before(self.config.period * 2);
        let Some(case) = self.case(self.me) else { return };
        let is_open = |word: &&Word| {
            let answered_at = self.links.get(word.accuser).map_or(Time::default(), |link| link.completed_at);
            word.said_at >= recent && answered_at < word.said_at
        };
        let accusers = case.words.iter().filter(is_open).count();
        if accusers + 1 >= self.config.accusers.min(self.neighbours.len()).max(2) {
            self.deny(at, Denied::Down);
        }
    }

    /// Others miss a member that this node watches: it finds out for itself, now.
    fn look_closer(&mut self, at: &mut At, subject: Member, cause: Cause) {
        if !matches!(cause, Cause::Silent | Cause::Gone) {
            return;
        }
        let Some(link) = self.links.get_mut(subject).filter(|link| link.is_watched()) else { return };
        if link.is_met() && link.waiting.is_none() && link.missing.is_none() {
            self.ping(at, subject);
        } else if let State::Closed(retry_at) = &mut link.state
            && cause == Cause::Gone
        {
            *retry_at = at.now;
        }
    }

    pub(super) fn judge_on_time(&mut self, at: &mut At) {
        if self.cases.watch_at <= at.now {
            self.cases.drop_old(at.now);
            self.cases.watch_at = if self.cases.of.is_empty() { Time::NEVER } else { at.now + WATCH_PERIOD };
        }
        let due: Vec<Member> =
            self.cases.of.iter().filter(|(_, case)| case.judge_at <= at.now).map(|(member, _)| *member).collect();
        for member in due {
            if let Some(case) = self.cases.of.get_mut(&member) {
                case.judge_at = Time::NEVER;
            }
            if member == self.me {
                self.judge_own_case(at);
            } else {
                self.judge(at, member);
            }
        }
    }

    /// This node stood still: what it missed meanwhile says nothing of others.
    pub(super) fn revoke_own_words(&mut self) {
        let me = self.me;
        for case in self.cases.of.values_mut() {
            case.words.retain(|word| word.accuser != me);
        }
    }

    pub(super) fn case(&self, member: Member) -> Option<&Case> {
        self.cases.of.get(&member)
    }

    pub(super) fn judge_later(&mut self, member: Member, at: Time) {
        if let Some(case) = self.cases.of.get_mut(&member) {
            case.judge_at = at;
        }
    }
}
