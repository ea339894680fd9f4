//! Membership on real connections: runs the machine of [`p2p_gossip::swim`], which decides, with the swarm, the clock and the
//! disk. It lives in the swarm's task and waits for nobody: not for a peer, and not for the disk.
//!
//! ```text
//!   swarm events ──> Membership ──> dials, closes (Edges)
//!   frames of edges ──>   │    ──> frames (Outbox of each edge)
//!   the clock ──>         │    ──> what is known: view, events, state.db
//! ```

pub(crate) mod contacts;
mod counters;
mod edge;
pub(crate) mod events;
mod shown;
pub(crate) mod tags;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use p2p_dht::kademlia::Kademlia;
use p2p_gossip::swim::{
    self, ADDRESSES_MAX, Config, Description, Directory, Ed25519, Effect, Fact, Input, MEMBERS_MAX, Machine, Member,
    Members, Message, Name, Start, Stop, Time, codec,
};
use p2p_gossip::wire::edges::Dial;
use p2p_gossip::wire::hello::Versions;
use p2p_gossip::wire::link::CREDIT_MIN;
use p2p_gossip::wire::{ClusterId, EdgeEvent, Edges, Frame, Hello, LinkConfig, Opened};
use tokio::sync::mpsc;

use contacts::Contacts;
use edge::{Lane, Outbox};
use events::MemberEvents;
use shown::Shown;

use crate::state::State;
use crate::swarm::counters::{add, count};
use crate::swarm::outcome::DialFailure;

pub(crate) use counters::MemberCounters;
pub(crate) use edge::EdgeNews;
pub(crate) use shown::Standing;

/// Versions of the protocol that this node speaks.
const VERSIONS: Versions = Versions { min: 1, max: 1 };

/// Longest time in which nothing that is to be sent moves: a process that stands still for as long as that is not waited for.
const STALL_MAX: Duration = Duration::from_secs(60);

/// News of edges that wait for membership; edges wait where there are more.
const NEWS_MAX: usize = 1024;

/// Names that are known at all: of members, and of whoever has connected and said nothing yet.
const NAMES_MAX: usize = 2 * MEMBERS_MAX;

/// Two connections of one pair that come about within this time were dialed at the same time, one by each.
const CROSSING_TIME: Duration = Duration::from_secs(2);

/// Who is still reading so much is not asked for a comparison again.
const COMPARED_LEN_MAX: usize = 1 << 20;

/// Whoever is hostile is that over and over: it is warned of so often.
const WARN_PERIOD: Duration = Duration::from_secs(10);

/// How often it is looked which names can be forgotten.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

/// When a node starts: long after the beginning of time, so that whatever was never is long ago.
const EPOCH: Time = Time(1_000_000_000);

/// What of the swarm membership works with.
pub(crate) struct Net<'a> {
    pub(crate) edges: &'a mut Edges,
    pub(crate) kademlia: &'a mut Kademlia,
}

/// What membership needs to start.
pub(crate) struct Begin {
    pub(crate) config: Config,
    pub(crate) me: PeerId,
    pub(crate) keys: Ed25519,
    pub(crate) generation: u64,
    pub(crate) cluster: ClusterId,
    /// Name and tags, as they stand in the record.
    pub(crate) tags: Bytes,
    /// What an earlier run has left.
    pub(crate) facts: Vec<Arc<Fact>>,
    pub(crate) ever_met: bool,
    pub(crate) contacts: Contacts,
    pub(crate) state: State,
}

/// One node's part in membership, and its edges.
pub(crate) struct Membership {
    me: PeerId,
    keys: Ed25519,
    config: Config,
    machine: Machine<Ed25519>,
    directory: Directory,
    began: Instant,
    cluster: ClusterId,
    description: Description,
    edges: BTreeMap<Member, Edge>,
    /// Connections whose hellos are under way, or that are edges.
    connections: BTreeMap<ConnectionId, Connection>,
    contacts: Contacts,
    /// Where this node has last reached a member itself.
    reached: BTreeMap<Member, Multiaddr>,
    /// Members of whom nothing may be kept any more, and since when.
    idle: BTreeMap<Member, Time>,
    sweep_at: Time,
    warned_at: Option<Time>,
    shown: Shown,
    state: State,
    news: mpsc::Sender<EdgeNews>,
    /// Bytes that wait in all outboxes.
    waiting: Arc<AtomicUsize>,
    counters: Arc<MemberCounters>,
    effects: Vec<Effect>,
    /// What the machine is to hear as soon as it is not busy.
    inputs: VecDeque<Input>,
    stop: Option<Stop>,
}

struct Edge {
    connection: ConnectionId,
    outbox: Outbox,
    dialed: bool,
    since: Time,
}

struct Connection {
    member: Member,
    peer: PeerId,
    dialed: Option<Multiaddr>,
}

impl Membership {
    /// A node that has just started; what its edges tell comes by the queue.
    pub(crate) fn new(begin: Begin, addresses: &[Multiaddr]) -> (Self, mpsc::Receiver<EdgeNews>) {
        let Begin { config, me, keys, generation, cluster, tags, facts, ever_met, contacts, state } = begin;
        let description = Description { addresses: encode_addresses(addresses), tags, fill: 0 };
        let (news, queue) = mpsc::channel(NEWS_MAX);
        let mut directory = Directory::default();
        let mut remembered = Members::default();
        for fact in facts {
            let member = directory.insert(*fact.subject());
            remembered.merge(&directory, member, &fact);
        }
        let shown = Shown::new(me, generation, ever_met);
        let began = Instant::now();
        let machine =
            start(config, keys.clone(), &mut directory, generation, &description, remembered, &contacts, EPOCH);
        let mut membership = Self {
            me,
            keys,
            config,
            machine,
            directory,
            began,
            cluster,
            description,
            edges: BTreeMap::new(),
            connections: BTreeMap::new(),
            contacts,
            reached: BTreeMap::new(),
            idle: BTreeMap::new(),
            sweep_at: EPOCH,
            warned_at: None,
            shown,
            state,
            news,
            waiting: Arc::default(),
            counters: Arc::default(),
            effects: Vec::new(),
            inputs: VecDeque::new(),
            stop: None,
        };
        membership.show_all();
        (membership, queue)
    }

    /// What was dropped or refused.
    pub(crate) fn counters(&self) -> Arc<MemberCounters> {
        self.counters.clone()
    }

    /// Where whoever watches members hears of them.
    pub(crate) fn events(&self) -> Arc<MemberEvents> {
        self.shown.events()
    }

    /// When [`Self::wake`] is wanted, at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        let deadline = self.machine.deadline().min(self.now() + Duration::from_secs(3600));
        self.began + deadline.since(EPOCH)
    }

    /// Why this node is no part of the cluster any more.
    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.stop
    }

    fn now(&self) -> Time {
        EPOCH + self.began.elapsed()
    }

    /// Tells members that are remembered to those who look for them: once, at the start.
    pub(crate) fn introduce_all(&mut self, net: &mut Net<'_>) {
        let all: Vec<(Member, Arc<Fact>)> =
            self.machine.members().iter().map(|(member, fact)| (member, fact.clone())).collect();
        for (member, fact) in all {
            self.introduce(net, member, &fact);
        }
        self.wake(net);
    }

    /// The time has come for something.
    pub(crate) fn wake(&mut self, net: &mut Net<'_>) {
        self.handle(net, Input::Wake);
        if self.sweep_at <= self.now() {
            self.sweep_at = self.now() + SWEEP_PERIOD;
            self.sweep();
        }
    }

    /// A generation is durable.
    pub(crate) fn persisted(&mut self, net: &mut Net<'_>, generation: u64) {
        self.handle(net, Input::Persisted(generation));
    }

    /// Wants whoever is at an address, now and after the next start.
    pub(crate) fn want(&mut self, net: &mut Net<'_>, address: Multiaddr) {
        if contacts::split_peer(&address).1 == Some(self.me) {
            return;
        }
        let wanted = self.contacts.want(address);
        self.keep_contacts();
        if let Some(member) = wanted.and_then(|peer| self.member_of(&peer)) {
            self.handle(net, Input::Contact(member));
        }
    }

    /// Addresses to find out who is there.
    pub(crate) fn due_contacts(&mut self) -> Vec<Multiaddr> {
        self.contacts.due(Instant::now())
    }

    /// Somebody is at an address.
    pub(crate) fn found(&mut self, net: &mut Net<'_>, address: &Multiaddr, peer: PeerId) {
        let (address, _) = contacts::split_peer(address);
        self.contacts.found(&address, peer);
        self.want(net, address.with(libp2p::multiaddr::Protocol::P2p(peer)));
    }

    /// Nobody is, or somebody else.
    pub(crate) fn not_found(&mut self, address: &Multiaddr, outcome: contacts::DialOutcome) {
        self.contacts.address_failed(address, outcome, Instant::now());
        self.shown.changed();
    }

    /// Says something else of this node.
    pub(crate) fn describe(&mut self, net: &mut Net<'_>, change: impl FnOnce(&mut Description)) {
        let mut description = self.description.clone();
        change(&mut description);
        if description != self.description {
            self.description = description.clone();
            self.handle(net, Input::Describe(description));
        }
    }

    /// Leaves the cluster.
    pub(crate) fn leave(&mut self, net: &mut Net<'_>) {
        self.handle(net, Input::Leave);
    }

    /// Forgets everybody and begins anew, in another cluster.
    pub(crate) fn enter(&mut self, net: &mut Net<'_>, cluster: ClusterId) {
        self.cluster = cluster;
        for (connection, Connection { peer, .. }) in std::mem::take(&mut self.connections) {
            net.edges.close(peer, connection);
        }
        std::mem::take(&mut self.edges).into_values().for_each(|edge| edge.outbox.close());
        let all: Vec<PeerId> = self.machine.members().iter().filter_map(|(member, _)| self.peer_of(member)).collect();
        for peer in all {
            net.edges.know(peer, Vec::new());
            net.kademlia.remove_peer(&peer);
        }
        self.state.forget_all();
        self.contacts.clear();
        self.directory = Directory::default();
        (self.reached, self.idle) = (BTreeMap::new(), BTreeMap::new());
        let (generation, now) = (self.machine.record().version().generation, self.now());
        self.machine = start(
            self.config,
            self.keys.clone(),
            &mut self.directory,
            generation,
            &self.description,
            Members::default(),
            &self.contacts,
            now,
        );
        self.shown.forget_all();
        self.show_all();
        self.wake(net);
    }

    /// The swarm could not make a connection that is an edge's.
    pub(crate) fn dial_failed(&mut self, net: &mut Net<'_>, dial: Dial, failure: &DialFailure) {
        let Dial { peer, keep, again, .. } = dial;
        let DialFailure { outcome, refused, broke_off } = failure;
        let Some(member) = self.known(&peer) else { return };
        if *broke_off && keep && !again {
            // A process that ends closes one socket after the other: this one was accepted by a listener that is gone now.
            return net.edges.dial_again(peer, self.addresses_of(member, &peer));
        }
        self.contacts.peer_failed(&peer, *outcome);
        self.shown.changed();
        if !keep {
            return self.handle(net, Input::Reached(member, false));
        }
        // Refused elsewhere than where it was reached says nothing of its process.
        let is_refused = self.reached.get(&member).is_some_and(|reached| refused.contains(reached));
        self.handle(net, if is_refused { Input::Refused(member) } else { Input::Unanswered(member) });
    }

    /// Something has happened to an edge's connection.
    pub(crate) fn on_edge(&mut self, net: &mut Net<'_>, event: EdgeEvent) {
        match event {
            EdgeEvent::Opened(opened) => self.on_opened(net, opened),
            EdgeEvent::Closed(_, connection) => self.on_ended(net, connection),
            EdgeEvent::Failed(peer) => {
                self.contacts.peer_failed(&peer, contacts::DialOutcome::NoAnswer);
                if let Some(member) = self.known(&peer) {
                    self.handle(net, Input::Unanswered(member));
                }
            }
            EdgeEvent::Reached(peer, address) => {
                let Some(member) = self.known(&peer) else { return };
                let reached = address.is_some();
                if let Some(address) = address {
                    self.reached.insert(member, contacts::split_peer(&address).0);
                }
                self.handle(net, Input::Reached(member, reached));
            }
        }
    }

    /// An edge has something to tell.
    pub(crate) fn on_news(&mut self, net: &mut Net<'_>, news: EdgeNews) {
        match news {
            EdgeNews::Ready(connection, outbox) => self.on_ready(net, connection, outbox),
            EdgeNews::Frame(connection, frame) => self.on_frame(net, connection, &frame),
            EdgeNews::Ended(connection, reason) => {
                let Some(Connection { peer, .. }) = self.connections.get(&connection) else { return };
                let peer = *peer;
                if let Some(reason) = reason {
                    count(&self.counters.edges_broken);
                    tracing::debug!(%peer, %reason, "an edge has ended");
                }
                net.edges.close(peer, connection);
                self.on_ended(net, connection);
            }
        }
    }

    fn on_opened(&mut self, net: &mut Net<'_>, opened: Opened) {
        let Opened { peer, connection, dialed, stream, .. } = opened;
        let Some(member) = self.member_of(&peer) else {
            count(&self.counters.names_refused);
            return net.edges.close(peer, connection);
        };
        self.connections.insert(connection, Connection { member, peer, dialed });
        let hello = Hello { cluster: self.cluster, versions: VERSIONS, capabilities: 0, credit: CREDIT_MIN };
        let config = LinkConfig { hello, caps: codec::caps, stall: STALL_MAX };
        let outbox = Outbox::new(self.waiting.clone());
        tokio::spawn(edge::run(stream, config, connection, outbox, dial_time_max(&self.config), self.news.clone()));
    }

    fn on_ready(&mut self, net: &mut Net<'_>, connection: ConnectionId, outbox: Outbox) {
        let Some(Connection { member, peer, dialed }) = self.connections.get(&connection) else {
            return outbox.close();
        };
        let (member, peer, dialed) = (*member, *peer, dialed.clone());
        let (now, is_dialed) = (self.now(), dialed.is_some());
        if let Some(old) = self.edges.get(&member) {
            let crossing = old.dialed != is_dialed && now.since(old.since) < CROSSING_TIME;
            // Both ends keep the one that was dialed by the smaller; of others the newer, which its dialer lacked.
            if crossing && is_dialed != self.is_first(member) {
                self.connections.remove(&connection);
                outbox.close();
                return net.edges.close(peer, connection);
            }
            self.drop_edge(net, member);
            self.inputs.push_back(Input::Closed(member));
        }
        if let Some(address) = dialed {
            self.reached.insert(member, contacts::split_peer(&address).0);
        }
        self.edges.insert(member, Edge { connection, outbox, dialed: is_dialed, since: now });
        self.handle(net, Input::Opened { member, dialed: is_dialed });
    }

    fn is_first(&self, other: Member) -> bool {
        Name::of_peer(&self.me).is_some_and(|me| me < *self.directory.name(other))
    }

    fn on_frame(&mut self, net: &mut Net<'_>, connection: ConnectionId, frame: &Frame) {
        let Some(Connection { member, peer, .. }) = self.connections.get(&connection) else { return };
        let (member, peer) = (*member, *peer);
        let Some(edge) = self.edges.get(&member).filter(|edge| edge.connection == connection) else { return };
        let message = match Message::from_frame(frame, &self.directory) {
            Ok(Some(message)) => message,
            Ok(None) => return count(&self.counters.names_unknown),
            Err(error) => {
                count(&self.counters.edges_broken);
                tracing::debug!(%peer, %error, "a member makes no sense");
                return self.cut(net, member);
            }
        };
        if matches!(message, Message::Sums(_)) && edge.outbox.len() > COMPARED_LEN_MAX {
            return count(&self.counters.comparisons_refused);
        }
        let forged = self.machine.counters().forged;
        self.handle(net, Input::Frame(member, message));
        if self.machine.counters().forged != forged {
            // Whoever passes something on has checked it.
            self.warn_of_forger(&peer);
            self.cut(net, member);
        }
    }

    fn warn_of_forger(&mut self, peer: &PeerId) {
        let now = self.now();
        if self.warned_at.is_none_or(|warned_at| now.since(warned_at) >= WARN_PERIOD) {
            self.warned_at = Some(now);
            tracing::warn!(%peer, "a member has sent what nobody has signed");
        } else {
            tracing::debug!(%peer, "a member has sent what nobody has signed");
        }
    }

    /// A connection is gone.
    fn on_ended(&mut self, net: &mut Net<'_>, connection: ConnectionId) {
        let Some(Connection { member, dialed, .. }) = self.connections.remove(&connection) else { return };
        if self.edges.get(&member).is_some_and(|edge| edge.connection == connection) {
            self.drop_edge(net, member);
            return self.handle(net, Input::Closed(member));
        }
        self.leave_idle(member);
        if dialed.is_some() && !self.edges.contains_key(&member) {
            self.handle(net, Input::Unanswered(member));
        }
    }

    /// Ends an edge for what came over it.
    fn cut(&mut self, net: &mut Net<'_>, member: Member) {
        if self.edges.contains_key(&member) {
            self.drop_edge(net, member);
            self.handle(net, Input::Closed(member));
        }
    }

    fn drop_edge(&mut self, net: &mut Net<'_>, member: Member) {
        let Some(Edge { connection, outbox, .. }) = self.edges.remove(&member) else { return };
        outbox.close();
        if let Some(Connection { peer, .. }) = self.connections.remove(&connection) {
            net.edges.close(peer, connection);
        }
        self.leave_idle(member);
    }

    fn handle(&mut self, net: &mut Net<'_>, input: Input) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            let now = self.now();
            let lag = now.since(self.machine.deadline());
            self.counters.lag_most.fetch_max(lag.as_micros() as u64, Ordering::Relaxed);
            self.machine.handle(&mut self.directory, input, now, &mut self.effects);
            // What is to be done after several inputs that belong together is done once.
            if self.inputs.is_empty() {
                for effect in std::mem::take(&mut self.effects) {
                    self.act(net, effect);
                }
            }
        }
        self.trust_again();
        self.shown.set_complete(self.machine.is_complete(self.now()));
        self.counters.take(self.machine.counters());
    }

    fn act(&mut self, net: &mut Net<'_>, effect: Effect) {
        match effect {
            Effect::Persist(generation) => self.state.persist(generation),
            // It has come meanwhile.
            Effect::Dial(member) if self.edges.contains_key(&member) => {}
            Effect::Dial(member) => match self.peer_of(member) {
                Some(peer) => net.edges.dial(peer, self.addresses_of(member, &peer)),
                None => self.inputs.push_back(Input::Unanswered(member)),
            },
            Effect::Reach(member) => match self.peer_of(member) {
                Some(peer) => net.edges.reach(peer, self.addresses_of(member, &peer)),
                None => self.inputs.push_back(Input::Reached(member, false)),
            },
            Effect::Close(member) => self.drop_edge(net, member),
            Effect::Send(member, message) => self.send(net, member, &message),
            Effect::Event(event) => self.on_event(net, event),
            Effect::Forget(member) => {
                self.state.remember(*self.directory.name(member), None);
                self.shown.forget(member);
                self.leave_idle(member);
            }
            Effect::Stop(stop) => self.stop = Some(stop),
        }
    }

    fn send(&mut self, net: &mut Net<'_>, member: Member, message: &Message) {
        let Some(edge) = self.edges.get(&member) else { return };
        let lane = match message {
            Message::News(_) | Message::Known(_) | Message::Doubt(_) | Message::Sums(_) | Message::Buckets(..) => {
                Lane::Bulk
            }
            _ => Lane::Urgent,
        };
        let frame = message.to_frame(&self.directory);
        add(&self.counters.bytes_sent, message.frame_len() as u64);
        count(&self.counters.frames_sent);
        let overflow = edge.outbox.push(frame, lane).is_err();
        let full = self.waiting.load(Ordering::Relaxed) > edge::OUTBOXES_LEN_MAX;
        let longest = || self.edges.iter().max_by_key(|(_, edge)| edge.outbox.len()).map(|(member, _)| *member);
        let longest = if full { longest() } else { None };
        // Who does not read is let go; digests tell the rest once it is there again.
        for slow in overflow.then_some(member).into_iter().chain(longest) {
            count(&self.counters.edges_overflown);
            self.drop_edge(net, slow);
            self.inputs.push_back(Input::Closed(slow));
        }
    }

    fn on_event(&mut self, net: &mut Net<'_>, event: swim::Event) {
        if let swim::Event::Changed(member, fact) = &event {
            self.state.remember(*fact.subject(), Some(fact.clone()));
            self.introduce(net, *member, fact);
        }
        self.show(event);
    }

    /// Tells those who look for members where this one is, or that it is not.
    fn introduce(&mut self, net: &mut Net<'_>, member: Member, fact: &Fact) {
        let Some(peer) = self.peer_of(member).filter(|peer| *peer != self.me) else { return };
        let addresses = if fact.is_live() { self.addresses_of(member, &peer) } else { Vec::new() };
        if addresses.is_empty() {
            net.kademlia.remove_peer(&peer);
        }
        for address in &addresses {
            net.kademlia.add_address(&peer, address.clone());
        }
        net.edges.know(peer, addresses);
        if fact.is_live() {
            if self.shown.met() {
                self.state.met();
            }
            self.contacts.met(&peer);
            self.keep_contacts();
        }
    }

    fn keep_contacts(&mut self) {
        if let Some(contacts) = self.contacts.take_changes() {
            self.state.set_contacts(contacts);
        }
        add(&self.counters.contacts_dropped, self.contacts.take_dropped());
        self.shown.changed();
    }

    /// Where a member may be: where it was reached last, where it says it is, where its owner said it is.
    fn addresses_of(&self, member: Member, peer: &PeerId) -> Vec<Multiaddr> {
        let reached = self.reached.get(&member).cloned();
        let record = self.machine.members().get(member).map(|fact| fact.record());
        let said = record.into_iter().flat_map(|record| record.claims().addresses.iter());
        let said = said.filter_map(|bytes| Multiaddr::try_from(bytes.to_vec()).ok());
        let mut addresses: Vec<Multiaddr> = Vec::new();
        for address in reached.into_iter().chain(said).chain(self.contacts.addresses(peer).iter().cloned()) {
            let (address, _) = contacts::split_peer(&address);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    fn peer_of(&self, member: Member) -> Option<PeerId> {
        self.directory.name(member).peer()
    }

    /// The member with a peer id, if there is one.
    fn known(&self, peer: &PeerId) -> Option<Member> {
        self.directory.find(&Name::of_peer(peer)?)
    }

    /// The member with a peer id, from now on.
    fn member_of(&mut self, peer: &PeerId) -> Option<Member> {
        let name = Name::of_peer(peer)?;
        let known = self.directory.find(&name);
        (known.is_some() || self.directory.len() < NAMES_MAX).then(|| {
            let member = self.directory.insert(name);
            self.leave_idle(member);
            member
        })
    }

    /// Nothing may be kept of a member any more: that is looked at in a while.
    fn leave_idle(&mut self, member: Member) {
        let now = self.now();
        self.idle.entry(member).or_insert(now);
    }

    /// Forgets the names of whoever is nobody any more.
    fn sweep(&mut self) {
        let now = self.now();
        let waits = |since: &Time| now.since(*since) <= swim::HANDLE_TIME;
        let is_used = |membership: &Self, member: Member| {
            let connections = &membership.connections;
            membership.machine.holds(member) || connections.values().any(|connection| connection.member == member)
        };
        for (member, since) in std::mem::take(&mut self.idle) {
            if waits(&since) {
                self.idle.insert(member, since);
            } else if !is_used(self, member) {
                self.directory.remove(member);
                self.reached.remove(&member);
            }
        }
    }
}

/// The machine of a node that starts.
#[expect(clippy::too_many_arguments, reason = "each is said once, here and where it is called")]
fn start(
    config: Config,
    keys: Ed25519,
    directory: &mut Directory,
    generation: u64,
    description: &Description,
    remembered: Members,
    contacts: &Contacts,
    now: Time,
) -> Machine<Ed25519> {
    let me = directory.insert(keys.name());
    let names: Vec<Name> = contacts.named().filter_map(|peer| Name::of_peer(&peer)).collect();
    let start = Start {
        me,
        generation,
        instance: rand::random(),
        description: description.clone(),
        remembered,
        contacts: names.into_iter().map(|name| directory.insert(name)).collect(),
        seed: rand::random(),
    };
    Machine::new(config, keys, start, directory, now)
}

/// How long a dial may take, and hellos after it: as long as an answer may is enough for a handshake on the same line.
pub(crate) fn dial_time_max(config: &Config) -> Duration {
    config.answer_max
}

/// Addresses as they stand in a record.
pub(crate) fn encode_addresses(addresses: &[Multiaddr]) -> Vec<Bytes> {
    addresses.iter().take(ADDRESSES_MAX).map(|address| Bytes::from(address.to_vec())).collect()
}
