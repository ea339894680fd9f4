//! That somebody is down, heard not as it happens but from whoever thinks so: a question first.
//!
//! Two halves of a cluster that were apart each take the other for down. If their tables were merged as they are, the newest
//! facts would put down everybody (ringpop's partitions.md tells how that goes). So whoever learns that a member it takes for
//! living is down in somebody's view asks first, and all who live say so, by records that are newer than what was thought
//! of them. Only then, and only of those who did not, is it believed: by the words that come with it, or because they do not
//! answer this node either.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::fact::{Fact, Precedence};
use super::identity::Denied;
use super::members::Merged;
use super::message::DOUBTS_MAX;
use super::name::{Keys, Member};
use super::record::Version;
use super::time::Time;
use super::{At, Machine, Message};

/// Members in doubt at once. More are dropped: the next comparison of tables brings them again.
const IN_DOUBT_MAX: usize = 16_384;

/// Questions that were passed on, and are not again.
const ASKED_MAX: usize = 16_384;

#[derive(Default)]
pub(super) struct Doubts {
    open: BTreeMap<Member, Doubt>,
    /// To be asked with the next.
    to_ask: Vec<(Member, Version)>,
    asked: BTreeMap<Member, Version>,
    asked_order: VecDeque<(Member, Version)>,
    due: Option<Time>,
}

struct Doubt {
    fact: Arc<Fact>,
    until: Time,
    /// It did not say otherwise, and is asked directly.
    probed: bool,
}

impl Doubts {
    pub(super) fn due(&self) -> Time {
        if self.to_ask.is_empty() { self.due.unwrap_or(Time::NEVER) } else { Time::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len() + self.asked_order.len()
    }

    /// Something at least as new is known.
    pub(super) fn settled(&mut self, member: Member, by: Precedence) {
        if self.open.get(&member).is_some_and(|doubt| doubt.fact.precedence() <= by) {
            self.open.remove(&member);
        }
    }

    /// Whether a question is new.
    fn ask(&mut self, member: Member, version: Version) -> bool {
        if self.asked.get(&member).is_some_and(|asked| *asked >= version) {
            return false;
        }
        self.asked.insert(member, version);
        self.asked_order.push_back((member, version));
        if self.asked_order.len() > ASKED_MAX
            && let Some((member, version)) = self.asked_order.pop_front()
            && self.asked.get(&member) == Some(&version)
        {
            self.asked.remove(&member);
        }
        self.to_ask.push((member, version));
        true
    }

    fn set_due(&mut self) {
        self.due = self.open.values().map(|doubt| doubt.until).min();
    }
}

impl<K: Keys> Machine<K> {
    /// Takes note that a living member is down for somebody else.
    pub(super) fn doubt(&mut self, at: &mut At, member: Member, fact: Arc<Fact>) {
        if self.doubts.open.len() >= IN_DOUBT_MAX {
            self.counters.doubts_dropped += 1;
            return;
        }
        let version = fact.version();
        let until = at.now + self.config.doubt_time;
        let doubt = self.doubts.open.entry(member).or_insert(Doubt { fact: fact.clone(), until, probed: false });
        if doubt.fact.precedence() < fact.precedence() {
            *doubt = Doubt { fact, until, probed: false };
        }
        self.doubts.due = Some(self.doubts.due.map_or(until, |due| due.min(until)));
        self.doubts.ask(member, version);
    }

    /// Somebody asks whether these are alive.
    pub(super) fn on_doubt(&mut self, at: &mut At, from: Member, members: Vec<(Member, Version)>) {
        let mut newer = Vec::new();
        for (member, version) in members.into_iter().take(DOUBTS_MAX) {
            if member == self.me {
                if version == self.own.record().version() && !self.own.is_leaving() {
                    self.deny(at, Denied::Doubt);
                }
                continue;
            }
            match self.members.get(member) {
                Some(fact) if fact.version() > version => newer.push(fact.clone()),
                // Of another version nobody could say anything, and the question would stand in the way of the next.
                Some(fact) if fact.is_live() && fact.version() == version => {
                    self.doubts.ask(member, version);
                }
                Some(_) | None => {}
            }
        }
        for part in super::message::in_parts(newer) {
            self.send(from, Message::Known(part));
        }
    }

    pub(super) fn settle_doubts(&mut self, at: &mut At) {
        let to_ask = std::mem::take(&mut self.doubts.to_ask);
        if !to_ask.is_empty() {
            let open: Vec<Member> = self.links.met().collect();
            for link in open {
                for some in to_ask.chunks(DOUBTS_MAX) {
                    self.send(link, Message::Doubt(some.to_vec()));
                }
            }
        }
        if self.doubts.due.is_none_or(|due| due > at.now) {
            return;
        }
        let due = self.doubts.open.iter().filter(|(_, doubt)| doubt.until <= at.now);
        let due: Vec<(Member, Arc<Fact>, bool)> =
            due.map(|(member, doubt)| (*member, doubt.fact.clone(), doubt.probed)).collect();
        for (member, fact, probed) in due {
            self.settle_doubt(at, member, fact, probed);
        }
        self.doubts.set_due();
    }

    fn settle_doubt(&mut self, at: &mut At, member: Member, fact: Arc<Fact>, probed: bool) {
        let Fact::Down(down) = &*fact else { return };
        let is_open = self.members.compare(member, &fact) == Merged::Newer;
        let heard_from = at.now.before(self.config.doubt_time);
        let is_heard = self.links.get(member).is_some_and(|link| link.is_met() && link.heard_at >= heard_from);
        if !is_open || is_heard {
            self.tell_subject(member, &fact);
            self.doubts.open.remove(&member);
        } else if probed || self.is_enough(at, member, down) {
            self.doubts.open.remove(&member);
            self.learn(at, &fact, None);
        } else {
            let (number, digest) = (self.number(), self.members.digest());
            let asked = self.ask_doubted(at, member, Message::Ping(number, digest, true));
            if let Some(doubt) = self.doubts.open.get_mut(&member) {
                doubt.probed = asked;
                doubt.until = at.now + self.config.doubt_time;
            }
        }
    }
}
