//! Membership: every node knows who is here, and hears of a change within moments, without anybody in charge.
//!
//! [`Machine`] is one node's part of it, pure: [`Machine::handle`] takes what happened and the time, and says what to do.
//! Whoever runs it owns connections, clock and disk. The protocol as such is described in the crate's `README.md`; it is
//! SWIM (Das, Gupta, Motivala, DSN 2002) with Lifeguard (Dadgar, Phillips, Currey, 2018) on the neighbours of an overlay,
//! with signed records and with accusers in place of one node's verdict (Suresh et al., Rapid, USENIX ATC 2018).
//!
//! ```text
//!            Input ──> Machine ──> Effect
//!                        │
//!   links, probe ── suspicion ── verdict ──> members <── facts, compare, heal, identity
//!   (exchanges)     (accusers)               (newest fact of each)
//! ```

mod bytes;
pub mod codec;
mod compare;
mod config;
mod connect;
mod doubt;
mod ed25519;
mod fact;
mod facts;
mod heal;
mod health;
mod identity;
mod join;
mod link;
mod members;
mod message;
mod name;
mod overlay;
mod probe;
mod record;
mod shown;
mod suspicion;
mod time;
mod verdict;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::SmallRng;

pub use config::Config;
pub use ed25519::Ed25519;
pub use fact::{ACCUSATIONS_MAX, Accusation, Cause, Down, Fact, Precedence};
pub use members::{BUCKETS, GARBAGE_MIN, MEMBERS_MAX, Members, Merged, Sums};
pub use message::{BUCKETS_LEN_MAX, BucketSet, DOUBTS_MAX, FACTS_LEN_MAX, HEADER_LEN, Message, Standing};
pub use name::{Directory, Keys, Member, Name, RINGS, SIGNATURE_LEN, Signature};
pub use overlay::NEIGHBOURS_MAX;
pub use record::{
    ADDRESS_LEN_MAX, ADDRESSES_MAX, Claims, FILL_MAX, RECORD_LEN_MAX, REST_LEN_MAX, Record, RecordError, Status,
    TAGS_LEN_MAX, Version,
};
pub use shown::{Counters, HANDLE_TIME, Sizes};
pub use time::Time;

use compare::Comparison;
use doubt::Doubts;
use heal::Heal;
use health::Health;
use identity::Own;
use link::Links;
use suspicion::Cases;

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The generation that [`Effect::Persist`] named is durable.
    Persisted(u64),
    /// [`Machine::deadline`] has come.
    Wake,
    /// There is a connection to a member, made by this node or by the other.
    Opened {
        /// The other.
        member: Member,
        /// Whether this node has made it.
        dialed: bool,
    },
    /// The connection is gone.
    Closed(Member),
    /// A connection that [`Effect::Dial`] asked for could not be made: an address refused it.
    Refused(Member),
    /// Likewise, and nobody said so.
    Unanswered(Member),
    /// [`Effect::Reach`] has come to its end, well or not.
    Reached(Member, bool),
    /// A member has sent this.
    Frame(Member, Message),
    /// This member may let this node in, or belongs to a part of the cluster that it has not met.
    Contact(Member),
    /// This node has something else to say of itself.
    Describe(Description),
    /// This node is to leave the cluster.
    Leave,
}

/// What a node says of itself beside that it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Where it can be reached.
    pub addresses: Vec<Bytes>,
    /// What its owner says of it.
    pub tags: Bytes,
    /// How full it is, in sixteenths.
    pub fill: u8,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Make this generation durable, then say [`Input::Persisted`].
    Persist(u64),
    /// Connect to a member. Whoever runs this bounds it by a second or so, and says in every case how it ended: by
    /// [`Input::Opened`], [`Input::Refused`] or [`Input::Unanswered`]. Until then it is not asked for again.
    Dial(Member),
    /// Find out whether a member can be connected to, and keep nothing; answered by [`Input::Reached`].
    Reach(Member),
    /// End the connection.
    Close(Member),
    /// Send this.
    Send(Member, Message),
    /// Tell whoever wants to know.
    Event(Event),
    /// Nothing is kept of this member any more.
    Forget(Member),
    /// This node is no part of the cluster any more.
    Stop(Stop),
}

/// What whoever watches membership hears.
#[derive(Clone, Debug)]
pub enum Event {
    /// There is a newer fact about a member.
    Changed(Member, Arc<Fact>),
    /// This node suspects a member, or does not any more.
    Suspected(Member, bool),
    /// This node has noticed that it is cut off, or that it is not any more.
    Isolated(bool),
    /// Somebody else took this node for down, which it has denied.
    Refuted,
    /// This node was put out for not being reliable, and stays away for a while.
    PutOut,
}

/// Why a node stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It has left, and others know.
    Left,
    /// Another live process has the same key.
    DuplicateIdentity,
}

/// What a member is in the view of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It is here.
    Alive,
    /// It is here as far as others know, and this node doubts it.
    Suspect,
    /// It is down.
    Down,
    /// It has left.
    Left,
}

/// What a node begins with.
pub struct Start {
    /// Its own handle.
    pub me: Member,
    /// How often it has started, this time included; durable already.
    pub generation: u64,
    /// 64 random bits, new at every start.
    pub instance: u64,
    /// What it says of itself.
    pub description: Description,
    /// What it knew in an earlier run.
    pub remembered: Members,
    /// Members that may let it in.
    pub contacts: Vec<Member>,
    /// By which whatever is random is chosen.
    pub seed: u64,
}

/// One node's part in membership.
pub struct Machine<K> {
    config: Config,
    me: Member,
    keys: K,
    rng: SmallRng,
    own: Own,
    members: Members,
    links: Links,
    /// Who this node watches, in the order of the directory.
    neighbours: Vec<Member>,
    neighbours_changed: bool,
    cases: Cases,
    inquiries: Vec<probe::Inquiry>,
    health: Health,
    comparison: Option<Comparison>,
    doubts: Doubts,
    heal: Heal,
    join: join::Join,
    news: facts::News,
    next_number: u32,
    /// When it asked to be woken.
    deadline: Time,
    effects: Vec<Effect>,
    counters: Counters,
}

/// One call of the machine.
struct At<'a> {
    now: Time,
    /// By which the call comes later than it was asked for.
    lag: Duration,
    directory: &'a mut Directory,
}

impl<K: Keys> Machine<K> {
    /// A node that has just started.
    pub fn new(config: Config, keys: K, start: Start, directory: &Directory, now: Time) -> Self {
        let mut rng = SmallRng::seed_from_u64(start.seed);
        let own = Own::new(*directory.name(start.me), &start, &keys);
        let mut machine = Self {
            config,
            me: start.me,
            keys,
            own,
            members: start.remembered,
            links: Links::default(),
            neighbours: Vec::new(),
            neighbours_changed: true,
            cases: Cases::default(),
            inquiries: Vec::new(),
            health: Health::new(&config, now, &mut rng),
            comparison: None,
            doubts: Doubts::default(),
            heal: Heal::new(&config, now, &mut rng),
            join: join::Join::new(start.contacts, now),
            news: facts::News::default(),
            next_number: 0,
            deadline: now,
            effects: Vec::new(),
            counters: Counters::default(),
            rng,
        };
        if machine.members.get(machine.me).is_some_and(|known| known.version() >= machine.own.record().version()) {
            machine.join.is_known();
        }
        let me = Arc::new(Fact::Said(machine.own.record().clone()));
        // Whatever an earlier run has said of itself, this one has started since.
        machine.members.merge(directory, machine.me, &me);
        machine
    }

    /// Takes what happened; adds what to do, in order, to `effects`.
    pub fn handle(&mut self, directory: &mut Directory, input: Input, now: Time, effects: &mut Vec<Effect>) {
        let at = &mut At { now, lag: now.since(self.deadline), directory };
        if self.own.has_stopped() {
            return;
        }
        self.notice_stall(at);
        match input {
            Input::Persisted(generation) => self.on_persisted(at, generation),
            Input::Wake => {}
            Input::Opened { member, dialed } => self.on_opened(at, member, dialed),
            Input::Closed(member) => self.on_closed(at, member),
            Input::Refused(member) => self.on_dial_failed(at, member, true),
            Input::Unanswered(member) => self.on_dial_failed(at, member, false),
            Input::Reached(member, reached) => self.on_reached(member, reached),
            Input::Frame(member, message) => self.on_frame(at, member, message),
            Input::Contact(member) => self.on_contact(at, member),
            Input::Describe(description) => self.describe(at, description),
            Input::Leave => self.leave(at),
        }
        if at.now >= self.deadline {
            self.on_time(at);
        }
        self.watch_neighbours(at);
        self.send_news(at);
        // What is overdue already is no sign that this node stood still.
        self.deadline = self.next_deadline().max(at.now);
        effects.append(&mut self.effects);
    }

    fn on_frame(&mut self, at: &mut At, from: Member, message: Message) {
        let is_met = self.links.get(from).is_some_and(|link| link.is_met());
        if !is_met && !matches!(message, Message::Meet(..)) {
            self.counters.unmet += 1;
            return;
        }
        if is_met {
            self.heard(at, from);
        }
        match message {
            Message::Meet(record, digest, standing) => self.on_meet(at, from, record, digest, standing),
            Message::Ping(number, digest, answered) => self.on_ping(at, from, number, digest, answered),
            Message::Ack(number, digest) => self.on_ack(at, from, number, digest),
            Message::Ask(subject) => self.on_ask(at, from, subject),
            Message::Told(subject, answered) => self.on_told(at, from, subject, answered),
            Message::News(facts) => self.on_news(at, from, facts),
            Message::Known(facts) => self.on_known(at, from, facts),
            Message::Accuse(accusation) => self.on_accusation(at, from, accusation),
            Message::Doubt(members) => self.on_doubt(at, from, members),
            Message::Sums(sums) => self.on_sums(at, from, &sums),
            Message::Buckets(buckets, facts) => self.on_buckets(at, from, &buckets, facts),
            Message::Settled => self.on_settled(from),
        }
    }

    /// Does whatever the time has come for.
    fn on_time(&mut self, at: &mut At) {
        self.probe_on_time(at);
        self.judge_on_time(at);
        self.check_health(at);
        self.settle_doubts(at);
        self.compare_on_time(at);
        self.heal_on_time(at);
        self.join_on_time(at);
        self.own_on_time(at);
    }

    fn next_deadline(&self) -> Time {
        let links = self.links.iter().map(|link| link.due()).min().unwrap_or(Time::NEVER);
        let parts = [
            links,
            self.cases.due(),
            self.inquiries_due(),
            self.health.due(),
            self.doubts.due(),
            self.comparison.as_ref().map_or(Time::NEVER, Comparison::due),
            self.heal.due(),
            self.join.due(),
            self.news.due(),
            self.own.due(),
        ];
        parts.into_iter().min().unwrap_or(Time::NEVER)
    }

    fn send(&mut self, to: Member, message: Message) {
        self.effects.push(Effect::Send(to, message));
    }

    fn event(&mut self, event: Event) {
        self.effects.push(Effect::Event(event));
    }

    fn number(&mut self) -> u32 {
        self.next_number = self.next_number.wrapping_add(1);
        self.next_number
    }
}
