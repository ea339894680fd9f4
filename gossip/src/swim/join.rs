//! Coming in: by a contact, who is observer until others have met the newcomer.

use std::sync::Arc;
use std::time::Duration;

use rand::seq::IteratorRandom;

use super::fact::Fact;
use super::name::{Keys, Member};
use super::time::Time;
use super::{At, Effect, Machine, Message, Standing};

/// Members that a newcomer is told of, beside whoever tells it: enough to find its neighbours by.
const TOLD: usize = 24;

/// Contacts that are dialed at once.
const DIALED_MAX: usize = 3;

/// Contacts that are remembered; of more the oldest are forgotten.
const CONTACTS_MAX: usize = 64;

/// Pause before the contacts are dialed again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// For so long after its start a node dials its neighbours at once, rather than wait for them.
const YOUNG_TIME: Duration = Duration::from_secs(10);

/// How far a node is in.
pub(super) struct Join {
    contacts: Vec<Member>,
    began: Time,
    introducer: Option<Member>,
    /// Somebody has seen its record: it says no more whom it came in by.
    shown: bool,
    /// Others watch it.
    settled: bool,
    dial_at: Time,
    next: usize,
}

impl Join {
    pub(super) fn new(contacts: Vec<Member>, now: Time) -> Self {
        Self { contacts, began: now, introducer: None, shown: false, settled: false, dial_at: now, next: 0 }
    }

    pub(super) fn due(&self) -> Time {
        if self.settled || self.contacts.is_empty() { Time::NEVER } else { self.dial_at }
    }

    pub(super) fn is_young(&self, now: Time) -> bool {
        now.since(self.began) < YOUNG_TIME
    }

    /// Others have heard of this start of it: it needs nobody to let it in.
    pub(super) fn is_known(&mut self) {
        self.settled = true;
    }

    pub(super) fn needs_introducer(&self) -> bool {
        self.introducer.is_none() && !self.settled && !self.shown
    }

    pub(super) fn shown(&mut self) {
        self.shown = true;
    }

    pub(super) fn introduced_by(&mut self, member: Member) {
        self.introducer = Some(member);
    }

    /// Members that it was told it may come in by.
    pub(super) fn contacts(&self) -> &[Member] {
        &self.contacts
    }

    /// What it says of itself to whoever it meets.
    pub(super) fn standing(&self, live: usize) -> Standing {
        match self.settled {
            true => Standing::Settled,
            false if live <= DIALED_MAX => Standing::Alone,
            false => Standing::Arriving,
        }
    }

    /// A connection came to nothing.
    pub(super) fn lost(&mut self, now: Time, member: Member) {
        if !self.settled && self.contacts.contains(&member) {
            self.dial_at = self.dial_at.min(now + AGAIN_AFTER);
        }
    }
}

impl<K: Keys> Machine<K> {
    /// Somebody was named to come in by, or to come together with: it is dialed at once.
    pub(super) fn on_contact(&mut self, at: &mut At, contact: Member) {
        if contact == self.me {
            return;
        }
        let contacts = &mut self.join.contacts;
        if !contacts.contains(&contact) {
            contacts.push(contact);
            let beyond = contacts.len().saturating_sub(CONTACTS_MAX);
            contacts.drain(..beyond);
        }
        self.join.dial_at = at.now;
        let (number, digest) = (self.number(), self.members.digest());
        self.send_or_dial(at, contact, Message::Ping(number, digest, true));
    }

    pub(super) fn join_on_time(&mut self, at: &mut At) {
        if self.join.due() > at.now {
            return;
        }
        let pause = AGAIN_AFTER.mul_f64(rand::Rng::random_range(&mut self.rng, 0.5..2.0));
        self.join.dial_at = at.now + pause;
        if self.links.met().next().is_some() {
            return;
        }
        for _ in 0..DIALED_MAX.min(self.join.contacts.len()) {
            let contact = self.join.contacts[self.join.next % self.join.contacts.len()];
            self.join.next += 1;
            if contact != self.me {
                let (number, digest) = (self.number(), self.members.digest());
                self.send_or_dial(at, contact, Message::Ping(number, digest, true));
            }
        }
    }

    /// Tells a newcomer of some others.
    pub(super) fn tell_some(&mut self, to: Member) {
        let some = self.members.living().filter(|member| *member != to).choose_multiple(&mut self.rng, TOLD);
        let some: Vec<Arc<Fact>> = some.into_iter().filter_map(|member| self.members.get(member).cloned()).collect();
        self.send(to, Message::Known(some));
    }

    /// A neighbour and this node have met: who let it in need not watch it any more.
    pub(super) fn settle(&mut self, by: Member) {
        if self.join.settled || !self.links.get(by).is_some_and(|link| link.ring) {
            return;
        }
        self.join.settled = true;
        if let Some(introducer) = self.join.introducer {
            self.send_if_met(introducer, Message::Settled);
        }
    }

    pub(super) fn on_settled(&mut self, from: Member) {
        let Some(link) = self.links.get_mut(from) else { return };
        link.guest = false;
        if !link.ring {
            // Others want to come in.
            link.closed(Time::NEVER);
            self.effects.push(Effect::Close(from));
        }
    }
}
