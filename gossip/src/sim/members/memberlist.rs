//! HashiCorp's memberlist with what Serf does around it, as a machine for the virtual world: what our own membership is
//! held against, on the same links.
//!
//! It follows the published behaviour of `hashicorp/memberlist` (SWIM: Das, Gupta, Motivala, 2002; Lifeguard: Dadgar,
//! Phillips, Currey, 2018) with `DefaultLANConfig`, and of `hashicorp/serf` where memberlist leaves to its owner how to
//! come in, to look for the failed and to leave. Packets are datagrams, whole states go on streams.
//!
//! It is not a port, and speaks to nobody: nothing is encoded, only counted ([`message`]). Left out are encryption,
//! labels, user messages, delegates, Serf's own events and coordinates, the limit of 128 exchanges at a time, and the
//! handoff queue: what comes is handled at once. All that spares it bytes and time; so does it that whole states come
//! without what Serf adds to them. A stream begins with the handshake of the virtual world, which is longer than TCP's.
//!
//! ```text
//!   probe ──> rules (alive, suspect, dead) ──> view, suspicion
//!   streams ──┘            └──> broadcasts ──> packets
//! ```

mod awareness;
mod broadcasts;
mod config;
mod message;
mod probe;
mod rules;
mod serf;
mod streams;
mod suspicion;
mod timers;
mod view;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::profile::{Begin, Change, Order, Profile, Shared};
use crate::sim::{Action, Happened, Node, Slot};
use crate::swim::{Member, State, Time};
use awareness::Awareness;
use broadcasts::Broadcasts;
use config::Config;
use message::{Alive, CHECKSUM_LEN, COMPOUND_HEADER_LEN, Message, Status};
use probe::{Probe, Relay};
use serf::Leaving;
use streams::Streams;
use suspicion::Suspicion;
use timers::{Timer, Timers};
use view::View;

/// What outlives a process: Serf's snapshot.
#[derive(Clone, Default)]
pub struct Disk {
    /// Members that were alive.
    alive: Arc<[Member]>,
    /// They all know each other already, and go on where they were.
    acquainted: bool,
}

/// A node.
pub struct Memberlist {
    config: Config,
    me: Member,
    rng: SmallRng,
    view: View,
    incarnation: u32,
    suspicions: BTreeMap<Member, Suspicion>,
    broadcasts: Broadcasts,
    awareness: Awareness,
    timers: Timers,
    /// When the ticks of gossip are, whether or not there is something to say.
    gossip_phase: Time,
    number: u32,
    probe: Option<Probe>,
    probe_index: usize,
    /// A tick has come while a probe was under way.
    probe_waits: bool,
    relays: BTreeMap<u32, Relay>,
    streams: Streams,
    /// Whom it may come in by; empty when it is in.
    contacts: Vec<Member>,
    /// What was on its disk.
    remembered: Arc<[Member]>,
    /// Who has failed, and when.
    failed: Vec<(Member, Time)>,
    leaving: Option<Leaving>,
    orders: Vec<Order>,
    events: Vec<Change>,
}

/// One call of a machine.
struct Turn<'a> {
    shared: &'a Shared,
    now: Time,
    actions: &'a mut Vec<Action<Message>>,
}

impl Turn<'_> {
    /// The next tick of a ticker that was due then; what it has missed in the meantime is lost.
    fn next_tick(&self, due: Time, period: Duration) -> Time {
        let missed = self.now.since(due).as_micros() / period.as_micros();
        due + period * (u32::try_from(missed).unwrap_or(u32::MAX - 1) + 1)
    }

    /// Sends a packet; with a checksum to whom it is known that he can tell.
    fn packet(&mut self, to: Slot, message: Message, checked: bool) {
        let len = message.packet_len() + if checked { CHECKSUM_LEN } else { 0 };
        self.actions.push(Action::Datagram(to, message, len));
    }

    fn stream(&mut self, to: Slot, message: Message) {
        let len = message.stream_len();
        self.actions.push(Action::Send(to, message, len));
    }
}

impl Memberlist {
    /// Sends something, and with it what is to be told everybody, as much as there is room for.
    fn send(&mut self, turn: &mut Turn<'_>, to: Slot, message: Message) {
        let room = self.config.packet_len_max - COMPOUND_HEADER_LEN - message.encoded_len();
        let mut parts = self.take_broadcasts(room);
        if parts.is_empty() {
            return turn.packet(to, message, false);
        }
        parts.insert(0, message);
        turn.packet(to, Message::Compound(parts), false);
    }

    fn take_broadcasts(&mut self, room: usize) -> Vec<Message> {
        if self.broadcasts.is_empty() {
            return Vec::new();
        }
        self.broadcasts.take(room, self.config.retransmit_limit(self.view.len()))
    }

    /// Tells some others what is new.
    fn gossip(&mut self, turn: &mut Turn<'_>) {
        let (me, view, config) = (self.me, &self.view, self.config);
        let then = turn.now.before(config.gossip_to_the_dead_time);
        let others = view.random(config.gossip_nodes, &mut self.rng, |member| {
            let is_wanted = match view.status(member) {
                Some(Status::Alive | Status::Suspect) => true,
                Some(Status::Dead) => !view.is_since_before(member, then),
                Some(Status::Left) | None => false,
            };
            is_wanted && member != me
        });
        for other in others {
            let mut parts = self.take_broadcasts(config.packet_len_max - COMPOUND_HEADER_LEN);
            let message = match parts.len() {
                0 => return,
                1 => parts.swap_remove(0),
                _ => Message::Compound(parts),
            };
            turn.packet(self.view.slot(turn.shared, other), message, true);
        }
    }

    /// Says something new of a member to whoever watches.
    fn tell(&mut self, member: Member, state: State) {
        let version = u64::from(self.view.incarnation(member));
        self.events.push(Change { member, state, version });
    }

    fn fire(&mut self, turn: &mut Turn<'_>, timer: Timer, due: Time) {
        match timer {
            Timer::Probe => self.probe_tick(turn, due),
            Timer::ProbeTimeout => self.probe_timeout(turn),
            Timer::ProbeEnd => self.probe_end(turn),
            Timer::Gossip => self.gossip(turn),
            Timer::PushPullBegins => self.wait_for_push_pull(turn.now),
            Timer::PushPull => self.push_pull(turn),
            Timer::Reconnect => self.reconnect(turn),
            Timer::Join => self.join(turn),
            Timer::Leave => self.leave_timer(turn),
            Timer::Suspicion(member) => self.suspicion_ends(turn, member),
            Timer::Relay(number) => self.relay_ends(turn, number),
            Timer::Request(id) => self.request_ends(turn, id),
        }
    }

    fn datagram(&mut self, turn: &mut Turn<'_>, from: Slot, message: Message) {
        match message {
            Message::Ping { number, target } => self.ping(turn, from, number, target),
            Message::IndirectPing { number, target, slot } => self.indirect_ping(turn, from, number, target, slot),
            Message::Ack(number) => self.ack(turn, number),
            Message::Nack(number) => self.nack(number),
            Message::Alive(alive) => self.alive(turn, alive, rules::Source::Heard),
            Message::Suspect(accusation) => self.suspect(turn, accusation),
            Message::Dead(accusation) => self.dead(turn, accusation),
            Message::Compound(parts) => parts.into_iter().for_each(|part| self.datagram(turn, from, part)),
            // These go on streams.
            Message::Push(_) | Message::Pull(_) => {}
        }
    }

    /// Ticks with nothing to say do nothing, and are not waited for.
    fn wait_for_gossip(&mut self, turn: &Turn<'_>) {
        if !self.broadcasts.is_empty() && !self.timers.is_set(Timer::Gossip) {
            self.timers.set(Timer::Gossip, turn.next_tick(self.gossip_phase, self.config.gossip_interval));
        }
    }

    /// Who starts at the same moment as others does nothing at the same moment as they.
    fn set_ticks(&mut self, now: Time, acquainted: bool) {
        let config = self.config;
        let mut within = |period: Duration| Duration::from_micros(self.rng.random_range(0..period.as_micros() as u64));
        self.gossip_phase = now.before(within(config.gossip_interval));
        self.timers.set(Timer::Probe, now + within(config.probe_interval));
        self.timers.set(Timer::Reconnect, now + within(config.reconnect_interval));
        // Who goes on is anywhere in the period; a new process waits for a whole one, once it may know how long that is.
        match acquainted {
            true => self.timers.set(Timer::PushPull, now + within(config.push_pull_interval(self.view.len()))),
            false => self.timers.set(Timer::PushPullBegins, now + within(config.push_pull_interval)),
        }
    }
}

impl Node for Memberlist {
    type Message = Message;
    type Shared = Shared;

    fn handle(
        &mut self,
        shared: &mut Shared,
        happened: Happened<Message>,
        now: Time,
        actions: &mut Vec<Action<Message>>,
    ) {
        let turn = &mut Turn { shared, now, actions };
        for order in std::mem::take(&mut self.orders) {
            match order {
                Order::Leave => self.leave(turn),
                Order::Describe(meta) => self.describe(turn, meta),
            }
        }
        while let Some((due, timer)) = self.timers.pop_due(now) {
            self.fire(turn, timer, due);
        }
        match happened {
            // It writes nothing, and asks for no short dials.
            Happened::Wake | Happened::Durable(_) | Happened::Reached(..) => {}
            Happened::Opened { with, dialed } => self.opened(turn, with, dialed),
            Happened::Closed(with) => self.closed(turn, with),
            Happened::Refused(by) => self.refused(turn, by),
            Happened::Unanswered(by) => self.unanswered(turn, by),
            Happened::Message(from, message) => self.streamed(turn, from, message),
            Happened::Datagram(from, message) => self.datagram(turn, from, message),
        }
        self.leave_if_told(now);
        self.wait_for_gossip(turn);
    }

    fn deadline(&self) -> Time {
        self.timers.next_at()
    }
}

impl Profile for Memberlist {
    type Config = Config;
    type Disk = Disk;
    type Event = Change;

    fn config() -> Config {
        Config::lan()
    }

    fn acquainted(shared: &Shared, instances: &[(Slot, u64)]) -> Disk {
        let mut alive: Vec<Member> = instances.iter().map(|(slot, _)| shared.of_slot[slot.0 as usize]).collect();
        alive.sort_unstable();
        alive.dedup();
        Disk { alive: alive.into(), acquainted: true }
    }

    fn start(config: Config, shared: &Shared, begin: Begin<Disk>) -> Self {
        let Begin { slot, disk, contacts, seed, now, .. } = begin;
        let me = shared.of_slot[slot.0 as usize];
        let mut rng = SmallRng::seed_from_u64(seed);
        let view = if disk.acquainted { View::acquainted(&disk.alive, &mut rng) } else { View::default() };
        let contacts = if contacts.is_empty() && !disk.acquainted { disk.alive.to_vec() } else { contacts };
        let mut node = Self {
            config,
            me,
            rng,
            view,
            incarnation: 1,
            suspicions: BTreeMap::new(),
            broadcasts: Broadcasts::default(),
            awareness: Awareness::new(config.awareness_max_multiplier),
            timers: Timers::default(),
            gossip_phase: now,
            number: 0,
            probe: None,
            probe_index: 0,
            probe_waits: false,
            relays: BTreeMap::new(),
            streams: Streams::default(),
            contacts: contacts.into_iter().filter(|contact| *contact != me).collect(),
            remembered: disk.alive,
            failed: Vec::new(),
            leaving: None,
            orders: Vec::new(),
            events: Vec::new(),
        };
        if !disk.acquainted {
            let alive = Alive { member: me, incarnation: node.incarnation, slot, meta: None };
            node.view.insert(me, &mut node.rng);
            node.view.set_alive(shared, &alive);
            node.broadcasts.push(me, Message::Alive(alive));
        }
        if !node.contacts.is_empty() {
            node.timers.set(Timer::Join, now);
        }
        node.set_ticks(now, disk.acquainted);
        node
    }

    fn disk(&self) -> Disk {
        // Who leaves does not want to come back by itself.
        if self.leaving.is_some() {
            return Disk::default();
        }
        let alive: Arc<[Member]> = self.view.living().filter(|member| *member != self.me).collect();
        // Whoever knows nobody yet has not found that those it knew are gone.
        let alive = if alive.is_empty() { self.remembered.clone() } else { alive };
        Disk { alive, acquainted: false }
    }

    fn order(&mut self, order: Order) {
        self.orders.push(order);
    }

    fn take_events(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.events)
    }

    fn change(event: &Change) -> Option<Change> {
        Some(*event)
    }

    fn state(&self, member: Member) -> Option<State> {
        match self.view.status(member) {
            Some(Status::Alive) => Some(State::Alive),
            Some(Status::Suspect) => Some(State::Suspect),
            Some(Status::Dead) => Some(State::Down),
            Some(Status::Left) => Some(State::Left),
            // memberlist has forgotten it, and Serf has not.
            None => self.failed.iter().any(|(failed, _)| *failed == member).then_some(State::Down),
        }
    }

    fn living(&self) -> impl Iterator<Item = Member> {
        self.view.living()
    }
}
