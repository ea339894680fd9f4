//! News: what has just changed goes to everybody, along all connections to neighbours, once.

use std::sync::Arc;

use super::fact::{Cause, Down, Fact};
use super::members::Merged;
use super::message::in_parts;
use super::name::{Keys, Member};
use super::record::Status;
use super::time::Time;
use super::{At, Effect, Event, Machine, Message};

/// What is to be passed on.
#[derive(Default)]
pub(super) struct News {
    /// With who has sent it.
    waiting: Vec<(Arc<Fact>, Option<Member>)>,
    sent_at: Time,
    flush_at: Option<Time>,
}

impl News {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn due(&self) -> Time {
        self.flush_at.unwrap_or(Time::NEVER)
    }
}

impl<K: Keys> Machine<K> {
    /// Keeps a fact and passes it on, if it is the newest. It is genuine, and may be believed.
    pub(super) fn learn(&mut self, at: &mut At, fact: &Arc<Fact>, from: Option<Member>) {
        if self.keep(at, fact) {
            self.news.waiting.push((fact.clone(), from));
        }
    }

    /// Keeps a fact, if it is the newest.
    pub(super) fn keep(&mut self, at: &mut At, fact: &Arc<Fact>) -> bool {
        let member = at.directory.insert(*fact.subject());
        let was_live = self.members.is_live(member);
        if self.members.merge(at.directory, member, fact) != Merged::Newer {
            return false;
        }
        self.doubts.settled(member, fact.precedence());
        if was_live != fact.is_live() {
            self.neighbours_changed = true;
        }
        if !fact.is_live()
            && let Some(link) = self.links.get_mut(member)
        {
            // Whoever is gone is nobody's guest.
            link.guest = false;
        }
        if !fact.is_live() || self.cases.is_older(member, fact.version()) {
            self.close_case(member);
        }
        for forgotten in self.members.forget_oldest() {
            self.forget(forgotten);
        }
        self.event(Event::Changed(member, fact.clone()));
        true
    }

    fn forget(&mut self, member: Member) {
        self.close_case(member);
        if self.links.get(member).is_none_or(|link| !link.is_open()) {
            self.links.forget(member);
            self.effects.push(Effect::Forget(member));
        }
    }

    /// What has just changed.
    pub(super) fn on_news(&mut self, at: &mut At, from: Member, facts: Vec<Arc<Fact>>) {
        self.take_all(at, from, &facts, true);
    }

    /// What somebody knows.
    pub(super) fn on_known(&mut self, at: &mut At, from: Member, facts: Vec<Arc<Fact>>) {
        self.take_all(at, from, &facts, false);
    }

    /// Takes facts up to the first that is forged: to find that out costs far more than to send it.
    fn take_all(&mut self, at: &mut At, from: Member, facts: &[Arc<Fact>], is_news: bool) {
        let _ = facts.iter().all(|fact| self.take(at, from, fact, is_news));
    }

    /// Takes a fact for what it is worth; false if it is forged.
    pub(super) fn take(&mut self, at: &mut At, from: Member, fact: &Arc<Fact>, is_news: bool) -> bool {
        if fact.subject() == at.directory.name(self.me) {
            if !fact.is_genuine(&self.keys) {
                self.counters.forged += 1;
                return false;
            }
            self.on_own_fact(at, from, fact);
            return true;
        }
        let known = at.directory.find(fact.subject()).map(|member| (member, self.members.compare(member, fact)));
        let is_unknown = known.is_none_or(|(member, _)| self.members.get(member).is_none());
        if is_unknown && self.members.is_full() {
            self.counters.full += 1;
            return true;
        }
        match known {
            Some((_, Merged::Same)) => {}
            // Where both are alive the newest is most likely on its way, and if not, the digests will tell.
            Some((member, Merged::Older)) if is_news && fact.is_live() && self.members.is_live(member) => {}
            Some((member, Merged::Older)) => self.answer_stale(from, member),
            Some((_, Merged::Newer)) | None => {
                if !fact.is_genuine(&self.keys) {
                    self.counters.forged += 1;
                    return false;
                }
                match &**fact {
                    Fact::Said(_) => self.take_said(at, from, fact, is_news),
                    Fact::Down(down) => self.take_down(at, from, fact, down, is_news),
                }
            }
        }
        true
    }

    /// Whoever claims what is not true any more hears what is: otherwise it might never.
    fn answer_stale(&mut self, from: Member, subject: Member) {
        self.counters.stale += 1;
        let Some(newest) = self.members.get(subject).cloned() else { return };
        if self.links.get(subject).is_some_and(|link| link.is_met()) && subject != from && !newest.is_live() {
            self.send(subject, Message::Known(vec![newest.clone()]));
        }
        self.send(from, Message::Known(vec![newest]));
    }

    fn take_said(&mut self, at: &mut At, from: Member, fact: &Arc<Fact>, is_news: bool) {
        let member = at.directory.insert(*fact.subject());
        let was_down = self.members.get(member).is_some_and(|known| !known.is_live());
        // What a table that was compared says of somebody unknown has most likely been told to everybody else before.
        if is_news || was_down || fact.record().claims().status == Status::Left {
            self.learn(at, fact, Some(from));
        } else {
            self.keep(at, fact);
        }
    }

    fn take_down(&mut self, at: &mut At, from: Member, fact: &Arc<Fact>, down: &Down, is_news: bool) {
        let member = at.directory.insert(*fact.subject());
        // Of somebody who is not here, or was never heard of, nothing is lost by believing it.
        let is_here = self.members.is_live(member);
        if !is_here || is_news && self.is_enough(at, member, down) && !self.knows_better(at, member, down) {
            self.tell_subject(member, fact);
            self.learn(at, fact, Some(from));
            return;
        }
        self.doubt(at, member, fact.clone());
    }

    /// Whether this node has heard a member lately of which one accuser alone says that it has been silent for long, or could
    /// never be met: then it asks first. Three who say so may be right though it is heard by a fourth.
    fn knows_better(&self, at: &At, member: Member, down: &Down) -> bool {
        let heard_from = at.now.before(self.config.period * 2);
        matches!(self.decides(at, member, down), Some(Cause::LongSilent | Cause::LongUnmet))
            && self.links.get(member).is_some_and(|link| link.is_met() && link.heard_at > heard_from)
    }

    /// Whoever is put down hears it first, if it can: it may be wrong.
    pub(super) fn tell_subject(&mut self, member: Member, fact: &Arc<Fact>) {
        if self.links.get(member).is_some_and(|link| link.is_met()) {
            self.send(member, Message::News(vec![fact.clone()]));
        }
    }

    /// Sends what waits, unless something was sent a moment ago.
    pub(super) fn send_news(&mut self, at: &mut At) {
        if self.news.waiting.is_empty() {
            self.news.flush_at = None;
            return;
        }
        let free_at = self.news.sent_at + self.config.batch_time;
        if free_at <= at.now || self.news.sent_at == Time::default() {
            self.flush_news(at);
        } else {
            self.news.flush_at = Some(free_at);
        }
    }

    pub(super) fn flush_news(&mut self, at: &mut At) {
        let mut waiting = std::mem::take(&mut self.news.waiting);
        // Of what a member has said since only the last is told: else whoever says ever more would be said by all to all.
        waiting.retain(|(fact, _)| {
            let newest = at.directory.find(fact.subject()).and_then(|member| self.members.get(member));
            newest.is_none_or(|newest| newest.precedence() == fact.precedence())
        });
        self.news.sent_at = at.now;
        self.news.flush_at = None;
        // That somebody leaves is first in line.
        let (left, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(fact, _)| fact.record().claims().status == Status::Left);
        let waiting = [left, rest].concat();
        let me = *at.directory.name(self.me);
        let told: Vec<(Member, bool)> =
            self.links.iter().filter(|link| link.is_met()).map(|link| (link.member, link.ring)).collect();
        for (link, ring) in told {
            // Others hear news from those who watch them, or a member that lets in many would tell each of all the others. What
            // this node says of itself everybody hears who came to ask it.
            let is_due = |fact: &Fact| ring || *fact.subject() == me;
            let news = waiting.iter().filter(|(fact, from)| *from != Some(link) && is_due(fact));
            for part in in_parts(news.map(|(fact, _)| fact.clone()).collect()) {
                self.send(link, Message::News(part));
            }
        }
    }
}
