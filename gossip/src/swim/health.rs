//! How far a node may trust its own judgement: Lifeguard's self-health, stalls of its own, and whether it is cut off.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use super::config::Config;
use super::link::Lateness;
use super::name::{Keys, Member};
use super::time::Time;
use super::{At, Event, Machine, Message};

/// Worst score. Each step stretches this node's timers by a quarter, to three times their length.
const SCORE_MAX: u8 = 8;

/// By which a node's timers are longer at most.
const STRETCH_MAX: f32 = 3.0;

/// With fewer neighbours nobody can say what is usual.
const PACE_LINKS_MIN: usize = 3;

/// Members that are asked by whoever hears from fewer than half of its neighbours.
const STRANGERS: usize = 8;

pub(super) struct Health {
    score: u8,
    check_at: Time,
    /// Since when it has heard from fewer than half of its neighbours.
    cut_since: Option<Time>,
    /// When anybody else has last answered.
    vouched_at: Option<Time>,
    isolated: bool,
    trust_time: Duration,
    /// What answers of most neighbours hardly ever take longer than; None where there are too few to tell.
    pace: Option<Duration>,
    pace_stretch: f32,
}

impl Health {
    pub(super) fn new(config: &Config, now: Time, rng: &mut SmallRng) -> Self {
        Self {
            score: 0,
            check_at: now + rng.random_range(Duration::ZERO..config.period),
            cut_since: None,
            vouched_at: None,
            isolated: false,
            trust_time: config.period * 2,
            pace: None,
            pace_stretch: 1.0,
        }
    }

    pub(super) fn due(&self) -> Time {
        self.check_at
    }

    pub(super) fn worse(&mut self) {
        self.score = (self.score + 1).min(SCORE_MAX);
    }

    pub(super) fn better(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// By which this node's own timers are longer: because it has reason to doubt itself, or because answers take long from
    /// almost everybody.
    pub(super) fn stretch(&self) -> f32 {
        (1.0 + 0.25 * f32::from(self.score)).max(self.pace_stretch)
    }

    /// An exchange that takes longer than this is late. Where everybody takes long, nobody is.
    pub(super) fn late_after(&self, config: &Config) -> Duration {
        self.pace.map_or(config.answer_max * 2, |pace| config.answer_min.max(pace * 2))
    }

    fn set_pace(&mut self, mut times: Vec<Duration>, config: &Config) {
        times.sort_unstable();
        self.pace = (times.len() >= PACE_LINKS_MIN).then(|| times[times.len() / 2]);
        let pace = self.pace.unwrap_or_default().as_secs_f32();
        self.pace_stretch = (pace / config.answer_min.as_secs_f32()).clamp(1.0, STRETCH_MAX);
    }

    pub(super) fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// Whether silence of others is theirs, and not this node's own.
    pub(super) fn may_accuse(&self) -> bool {
        self.cut_since.is_none() || self.vouched_at.is_some()
    }
}

impl<K: Keys> Machine<K> {
    /// Notices that it was called later than it asked for: what it missed meanwhile says nothing of others.
    pub(super) fn notice_stall(&mut self, at: &mut At) {
        if at.lag < self.config.stall_min {
            return;
        }
        self.health.worse();
        self.own.stood_still(at.now);
        self.revoke_own_words();
        let (period, config) = (self.config.period, self.config);
        let (mut acquitted, mut overdue) = (Vec::new(), Vec::new());
        for link in self.links.iter_mut() {
            if link.first && link.next <= at.now && link.is_watched() && link.is_met() {
                // Asked at once, and from then on not all at the same time.
                link.next = at.now + self.rng.random_range(Duration::ZERO..period);
                if link.waiting.is_none() {
                    overdue.push(link.member);
                }
            }
            if let Some(waiting) = &mut link.waiting {
                waiting.due = waiting.due.max(at.now + config.answer_max);
            } else if link.next != Time::NEVER && !link.first {
                link.next = link.next.max(at.now + period);
            }
            if let Some(missing) = &mut link.missing {
                missing.since = at.now;
                if std::mem::take(&mut missing.suspected) {
                    acquitted.push(link.member);
                }
                missing.judge_at = at.now + config.answer_max + config.help_time;
            }
            link.refused_at = None;
            if link.failing_since != Time::NEVER {
                link.failing_since = at.now;
            }
            // How long that answer takes says nothing of the other.
            (link.asked, link.answered) = (None, true);
            (link.lateness, link.completed_at) = (Lateness::anew(at.now), at.now);
        }
        for member in acquitted {
            self.event(Event::Suspected(member, false));
        }
        for member in overdue {
            self.ping(at, member);
        }
        self.health.check_at = self.health.check_at.max(at.now + period);
        self.deadline = at.now;
    }

    /// Somebody has answered.
    pub(super) fn vouched(&mut self, at: &mut At, by: Member) {
        if self.health.cut_since.is_some() && !self.neighbours.contains(&by) {
            self.health.vouched_at = Some(at.now);
        }
    }

    pub(super) fn check_health(&mut self, at: &mut At) {
        if self.health.check_at > at.now {
            return;
        }
        self.health.check_at = at.now + self.config.period / 2;
        let heard_from = at.now.before(self.config.period * 2);
        let is_heard = |member: &&Member| {
            self.links.get(**member).is_some_and(|link| link.heard > 0 && link.heard_at >= heard_from)
        };
        let heard = self.neighbours.iter().filter(is_heard).count();
        let is_cut = heard * 2 < self.neighbours.len();
        let times = self.links.iter().filter(|link| link.ring && link.is_met()).map(|link| link.answer_times.most());
        self.health.set_pace(times.collect(), &self.config);
        let trust_time = self.health.trust_time;
        self.health.vouched_at =
            self.health.vouched_at.filter(|vouched| is_cut && at.now.since(*vouched) <= trust_time);
        if !is_cut {
            self.health.cut_since = None;
        } else if self.health.cut_since.is_none() {
            self.health.cut_since = Some(at.now);
        }
        let since = self.health.cut_since.unwrap_or(at.now);
        if is_cut && self.health.vouched_at.is_none() {
            let anybody = self.ask_strangers(at);
            // Where nobody else is there to ask, or of the many that were asked by now nobody answers, whoever does of the
            // neighbours is all that is left.
            if heard > 0 && (!anybody || at.now.since(since) >= self.config.long) {
                self.health.vouched_at = Some(at.now);
            }
        }
        let is_alone = heard == 0 && self.health.vouched_at.is_none();
        let isolated = is_cut && (is_alone || self.health.isolated) && at.now.since(since) >= self.config.long;
        let isolated = isolated && self.health.vouched_at.is_none();
        if isolated != std::mem::replace(&mut self.health.isolated, isolated) {
            self.event(Event::Isolated(isolated));
        }
    }

    /// Whether it is this node that is cut off shows in whether anybody else hears it. False where there is nobody to ask.
    fn ask_strangers(&mut self, at: &mut At) -> bool {
        let others = self.members.living().filter(|member| *member != self.me && !self.neighbours.contains(member));
        let strangers = others.choose_multiple(&mut self.rng, STRANGERS);
        for stranger in &strangers {
            let (number, digest) = (self.number(), self.members.digest());
            self.send_or_dial(at, *stranger, Message::Ping(number, digest, true));
        }
        !strangers.is_empty()
    }
}
