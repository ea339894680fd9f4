//! Coming together again: members that are down are dialed now and then, and so is anybody at all, lest two halves that do
//! not know of each other never meet.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use super::config::Config;
use super::fact::Fact;
use super::name::{Keys, Member};
use super::time::Time;
use super::{At, Machine, Message};

/// A node that is alone tries so often.
const ALONE_PERIOD: Duration = Duration::from_secs(2);

pub(super) struct Heal {
    redial_at: Time,
    backstop_at: Time,
}

impl Heal {
    pub(super) fn new(config: &Config, now: Time, rng: &mut SmallRng) -> Self {
        let first = rng.random_range(Duration::ZERO..config.backstop_period);
        Self { redial_at: now + ALONE_PERIOD, backstop_at: now + first }
    }

    pub(super) fn due(&self) -> Time {
        self.redial_at.min(self.backstop_at)
    }
}

impl<K: Keys> Machine<K> {
    pub(super) fn heal_on_time(&mut self, at: &mut At) {
        if self.heal.redial_at <= at.now {
            let gap = Duration::from_secs(60) / self.config.heals_per_minute * self.members.live().max(1) as u32;
            let gap = if self.health.is_isolated() { ALONE_PERIOD } else { gap.max(ALONE_PERIOD) };
            // Nodes that were cut off together do not try together.
            self.heal.redial_at = at.now + ALONE_PERIOD.mul_f64(self.rng.random_range(0.5..1.5));
            // Drawn anew each time, for a cluster that may be half as large by now: a pause drawn before a cut would be that of
            // the whole.
            if self.rng.random_bool(ALONE_PERIOD.div_duration_f64(gap)) {
                self.dial_somebody_down(at);
            }
        }
        if self.heal.backstop_at <= at.now {
            self.heal.backstop_at = at.now + self.config.backstop_period.mul_f64(self.rng.random_range(0.5..1.5));
            self.talk_to_anybody(at);
        }
    }

    fn dial_somebody_down(&mut self, at: &mut At) {
        let down = |member: &Member| matches!(self.members.get(*member).map(|fact| &**fact), Some(Fact::Down(_)));
        // Those who came in by each other while nobody else was there would else never look for those they were to join. These
        // may also have left, and come back since.
        let contacts = self.join.contacts().iter().copied();
        let strangers = contacts.filter(|member| *member != self.me && !self.members.is_live(*member));
        let down = self.members.garbage().filter(down).chain(strangers).choose(&mut self.rng);
        // Whoever is isolated has put nobody down, and knows only that nobody answers.
        let silent = self
            .health
            .is_isolated()
            .then(|| self.members.living().filter(|member| *member != self.me).choose(&mut self.rng));
        if let Some(member) = down.or(silent.flatten()) {
            let (number, digest) = (self.number(), self.members.digest());
            self.send_or_dial(at, member, Message::Ping(number, digest, true));
        }
    }

    fn talk_to_anybody(&mut self, at: &mut At) {
        let (me, neighbours) = (self.me, &self.neighbours);
        let is_other = |member: Member| member != me && neighbours.binary_search(&member).is_err();
        if let Some(member) = self.members.any_living(&mut self.rng, is_other) {
            let (number, digest) = (self.number(), self.members.digest());
            self.send_or_dial(at, member, Message::Ping(number, digest, true));
        }
    }
}
