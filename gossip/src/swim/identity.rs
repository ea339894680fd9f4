//! What a node says of itself: its record, new generations, that it is not down, and that it leaves.

use std::collections::VecDeque;
use std::sync::Arc;

use super::config::Config;
use super::fact::{ACCUSATIONS_MAX, Cause, Fact};
use super::name::{Keys, Member, Name};
use super::record::{Claims, Record, Status, Version};
use super::time::Time;
use super::{At, Description, Effect, Event, Machine, Message, Start, Stop, verdict};

/// Who leaves answers for so long at most, that others hear of it from itself.
const LEAVE_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(3);

/// Everybody hears each denial, so whoever doubts this node over and over gets no more than one in this time.
const DENIAL_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// Times in [`Config::unreliable_time`] that a node is accused before it stays away.
const FLAPS_MAX: usize = 3;

/// Other instances with the same key that are remembered: of more than so many copies of one home some may go on outbidding
/// each other.
const OUTBID_MAX: usize = 8;

/// Time away is doubled so many times at most.
const TIMES_PUT_OUT_MAX: u32 = 6;

/// Whoever was not put out for so long begins anew.
const RECOVERY_TIME: std::time::Duration = std::time::Duration::from_secs(3600);

/// What a node denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// Somebody wonders whether it is down.
    Doubt,
    /// Others find it silent, and have put it down or are about to.
    Down,
    /// Others have put it down for answering too late too often.
    Unreliable,
}

/// A node's own record, and where it stands with others that use its key.
pub(super) struct Own {
    record: Arc<Record>,
    /// A generation that is not durable yet.
    pending: Option<u64>,
    /// Other instances with this key, which were outbid once, the latest last.
    outbid: VecDeque<u64>,
    /// When it last denied that it is down, and whether it is to again once [`DENIAL_PAUSE`] is over.
    denied_at: Option<Time>,
    denies_again: bool,
    /// When it last stood still, which explains that others took it for down.
    stood_still_at: Option<Time>,
    /// When it last had reason to deny that it is down without having stood still, the latest last.
    accused_at: [Option<Time>; FLAPS_MAX],
    /// Who gave it reason to, and when last, the latest last.
    accusers: VecDeque<(Member, Time)>,
    /// Until then it does not deny that it is down: it is not reliable.
    put_out_until: Option<Time>,
    times_put_out: u32,
    put_out_ended: Option<Time>,
    /// What it is to say of itself once it is back.
    described: Option<Description>,
    /// Answers others until then, and stops.
    leaves_at: Option<Time>,
    stopped: bool,
}

impl Own {
    pub(super) fn new(name: Name, start: &Start, keys: &impl Keys) -> Self {
        let Description { addresses, tags, fill } = start.description.clone();
        let claims = Claims {
            name,
            version: Version { generation: start.generation, incarnation: 0 },
            instance: start.instance,
            status: Status::Alive,
            introducer: None,
            addresses,
            tags,
            fill,
            rest: ::bytes::Bytes::new(),
        };
        Self {
            record: Record::sign(claims, keys),
            pending: None,
            outbid: VecDeque::new(),
            denied_at: None,
            denies_again: false,
            stood_still_at: None,
            accused_at: [None; FLAPS_MAX],
            accusers: VecDeque::new(),
            put_out_until: None,
            times_put_out: 0,
            put_out_ended: None,
            described: None,
            leaves_at: None,
            stopped: false,
        }
    }

    pub(super) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaves_at.is_some()
    }

    pub(super) fn stood_still(&mut self, now: Time) {
        self.stood_still_at = Some(now);
    }

    /// A member whose business this node is has called it silent, or down.
    pub(super) fn accused_by(&mut self, accuser: Member, now: Time) {
        self.accusers.retain(|(other, _)| *other != accuser);
        self.accusers.push_back((accuser, now));
        if self.accusers.len() > ACCUSATIONS_MAX {
            self.accusers.pop_front();
        }
    }

    /// It is down for others, or about to be; whether that has come so often, and from as many as could put it down together,
    /// that it should stay away for a while, being unreliable in a way that it does not see itself. One who says so alone may
    /// have a bad line, or lie.
    fn is_flapping(&mut self, now: Time, config: &Config, needed: usize) -> bool {
        let is_recent = |at: Option<Time>, time| at.is_some_and(|at| now.since(at) <= time);
        if is_recent(self.stood_still_at, config.long) {
            return false;
        }
        self.accused_at.rotate_left(1);
        let [.., last] = &mut self.accused_at;
        *last = Some(now);
        let accusers = self.accusers.iter().filter(|(_, at)| is_recent(Some(*at), config.unreliable_time)).count();
        accusers >= needed && self.accused_at.into_iter().all(|at| is_recent(at, config.unreliable_time))
    }

    /// Whether it stays away because it was found unreliable.
    pub(super) fn is_put_out(&self) -> bool {
        self.put_out_until.is_some()
    }

    pub(super) fn due(&self) -> Time {
        let denies_at = self.denied_at.filter(|_| self.denies_again).map(|denied_at| denied_at + DENIAL_PAUSE);
        [self.leaves_at, self.put_out_until, denies_at].into_iter().flatten().min().unwrap_or(Time::NEVER)
    }
}

impl<K: Keys> Machine<K> {
    /// Says something else of itself: everybody is to hear it.
    fn reassert(&mut self, at: &mut At, change: impl FnOnce(&mut Claims)) {
        let mut claims = self.own.record.claims().clone();
        claims.version.incarnation = match claims.version.incarnation.checked_add(1) {
            Some(incarnation) => incarnation,
            // Nobody gets that far but by somebody's doing, and the next start sets it back.
            None => return,
        };
        claims.introducer = None;
        change(&mut claims);
        self.publish(at, claims);
    }

    fn publish(&mut self, at: &mut At, claims: Claims) {
        self.join.shown();
        self.own.record = Record::sign(claims, &self.keys);
        let fact = Arc::new(Fact::Said(self.own.record.clone()));
        self.learn(at, &fact, None);
    }

    /// Names its introducer, before anybody but that has heard of it.
    pub(super) fn introduce(&mut self, at: &mut At, introducer: Member) {
        let claims = Claims { introducer: Some(*at.directory.name(introducer)), ..self.own.record.claims().clone() };
        self.own.record = Record::sign(claims, &self.keys);
        let fact = Arc::new(Fact::Said(self.own.record.clone()));
        self.members.replace_own(at.directory, self.me, &fact);
    }

    pub(super) fn describe(&mut self, at: &mut At, description: Description) {
        if self.own.is_put_out() {
            // Said once it is back: whatever it says brings it back.
            self.own.described = Some(description);
            return;
        }
        let Description { addresses, tags, fill } = description;
        self.reassert(at, |claims| (claims.addresses, claims.tags, claims.fill) = (addresses, tags, fill));
    }

    /// Somebody has said something of this node: that it is down, or something that it has not said in this run.
    pub(super) fn on_own_fact(&mut self, at: &mut At, from: Member, fact: &Arc<Fact>) {
        let own = self.own.record.claims();
        let is_ours = fact.record().claims().instance == own.instance;
        if !is_ours && fact.version() >= (Version { generation: own.version.generation, incarnation: 0 }) {
            return self.outbid(fact.version(), fact.record().claims().instance);
        }
        match &**fact {
            // Said in this run, of which this node knows nothing: its memory is older than what others know.
            _ if fact.version().generation > own.version.generation => {
                self.outbid(fact.version(), own.instance);
            }
            _ if fact.version() > own.version => {
                let said = fact.version().incarnation;
                self.reassert(at, |claims| {
                    claims.version.incarnation = claims.version.incarnation.max(said.saturating_add(1));
                });
            }
            Fact::Down(down) if fact.version() == own.version && !self.own.is_leaving() => {
                for accuser in down.accusations().iter().filter_map(|word| at.directory.find(&word.accuser)) {
                    if verdict::may_accuse(at.directory, &self.members, accuser, down.record()) {
                        self.own.accused_by(accuser, at.now);
                    }
                }
                // Of words that others would not believe none is a reason to stay away.
                let what = match self.decides(at, self.me, down) {
                    None => Denied::Doubt,
                    Some(Cause::Unreliable) => Denied::Unreliable,
                    Some(_) => Denied::Down,
                };
                self.deny(at, what);
            }
            _ if fact.version() < own.version => {
                let newest = Arc::new(Fact::Said(self.own.record.clone()));
                self.send(from, Message::Known(vec![newest]));
            }
            _ => {}
        }
    }

    /// Says that it is alive, unless it was found unreliable: then it stays away for a while, lest it come and go for ever.
    pub(super) fn deny(&mut self, at: &mut At, what: Denied) {
        if self.own.put_out_until.is_some() {
            return;
        }
        let is_soon = self.own.denied_at.is_some_and(|denied_at| at.now.since(denied_at) < DENIAL_PAUSE);
        if is_soon && what != Denied::Unreliable {
            self.own.denies_again = true;
            return;
        }
        let put_out = match what {
            // Anybody may ask.
            Denied::Doubt => false,
            Denied::Down => {
                let needed = Cause::Silent.needed(self.neighbours.len(), self.config.accusers);
                self.own.is_flapping(at.now, &self.config, needed)
            }
            Denied::Unreliable => true,
        };
        if put_out {
            let recovered = self.own.put_out_ended.is_some_and(|ended| at.now.since(ended) > RECOVERY_TIME);
            if recovered {
                self.own.times_put_out = 0;
            }
            let time = self.config.unreliable_time.saturating_mul(1 << self.own.times_put_out.min(TIMES_PUT_OUT_MAX));
            self.own.times_put_out += 1;
            self.own.accused_at = Default::default();
            self.own.accusers.clear();
            (self.own.put_out_until, self.own.denies_again) = (Some(at.now + time), false);
            return self.event(Event::PutOut);
        }
        (self.own.denied_at, self.own.denies_again) = (Some(at.now), false);
        self.health.worse();
        self.close_case(self.me);
        self.reassert(at, |_| {});
        self.event(Event::Refuted);
    }

    /// Somebody with the same key has got as far as this process, or further. Most likely an earlier run of this node, of
    /// which the disk knows nothing any more.
    fn outbid(&mut self, theirs: Version, instance: u64) {
        let own = self.own.record.claims();
        // Outbid again by the same: it lives, and goes on as this one does.
        let lives = self.own.outbid.contains(&instance) && self.own.pending.is_none();
        if lives && own.instance < instance {
            self.own.stopped = true;
            self.effects.push(Effect::Stop(Stop::DuplicateIdentity));
            return;
        }
        let highest = theirs.generation.max(own.version.generation);
        let Some(next) = highest.checked_add(1) else { return };
        if self.own.pending.is_none_or(|pending| pending < next) {
            if !self.own.outbid.contains(&instance) {
                self.own.outbid.push_back(instance);
            }
            if self.own.outbid.len() > OUTBID_MAX {
                self.own.outbid.pop_front();
            }
            self.own.pending = Some(next);
            self.effects.push(Effect::Persist(next));
        }
    }

    pub(super) fn on_persisted(&mut self, at: &mut At, generation: u64) {
        if self.own.pending != Some(generation) {
            return;
        }
        self.own.pending = None;
        let version = Version { generation, incarnation: 0 };
        let claims = Claims { version, introducer: None, ..self.own.record.claims().clone() };
        self.publish(at, claims);
    }

    pub(super) fn leave(&mut self, at: &mut At) {
        if self.own.is_leaving() {
            return;
        }
        self.reassert(at, |claims| claims.status = Status::Left);
        // At once, before whatever else is to be sent.
        self.flush_news(at);
        (self.own.leaves_at, self.own.denies_again) = (Some(at.now + LEAVE_TIME_MAX), false);
    }

    pub(super) fn own_on_time(&mut self, at: &mut At) {
        if self.own.put_out_until.is_some_and(|until| until <= at.now) {
            (self.own.put_out_until, self.own.put_out_ended) = (None, Some(at.now));
            match self.own.described.take() {
                Some(description) => self.describe(at, description),
                None => self.deny(at, Denied::Doubt),
            }
        }
        let denied_at = self.own.denied_at.filter(|_| self.own.denies_again);
        if denied_at.is_some_and(|denied_at| denied_at + DENIAL_PAUSE <= at.now) && !self.own.is_leaving() {
            self.deny(at, Denied::Doubt);
        }
        if self.own.leaves_at.is_some_and(|leaves_at| leaves_at <= at.now) {
            self.own.stopped = true;
            self.effects.push(Effect::Stop(Stop::Left));
        }
    }
}
