//! Membership on real connections: runs the machine of [`p2p_gossip::swim`], which decides, with the swarm, the clock and the
//! disk. It lives in the swarm's task and waits for nobody: not for a peer, and not for the disk.
//!
//! ```text
//!   swarm events ──> Membership ──> dials, closes (Edges)
//!   frames of edges ──>   │    ──> frames (Outbox of each edge)
//!   the clock ──>         │    ──> what is known: view, events, state.db
//! ```

mod connections;
pub(crate) mod contacts;
mod counters;
mod edge;
pub(crate) mod events;
mod names;
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
    self, ADDRESSES_MAX, Config, Description, Directory, Ed25519, Effect, Fact, Input, Machine, Member, Members,
    Message, Name, Start, Stop, Time,
};
use p2p_gossip::wire::{ClusterId, Edges};
use tokio::sync::mpsc;

use contacts::Contacts;
use edge::Lane;
use events::MemberEvents;
use shown::Shown;

use crate::kv::{Edge as MapEdge, Feed};
use crate::state::State;
use crate::swarm::counters::{add, count};

pub(crate) use counters::MemberCounters;
pub(crate) use edge::{EdgeNews, Outbox};
pub(crate) use shown::Standing;

/// News of edges that wait for membership; edges wait where there are more.
const NEWS_MAX: usize = 1024;

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
    /// Where edges and what comes by them are told that is about the map.
    pub(crate) map: Feed,
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
    map: Feed,
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
        let Begin { config, me, keys, generation, cluster, tags, facts, ever_met, contacts, state, map } = begin;
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
            map,
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
        for (member, edge) in std::mem::take(&mut self.edges) {
            edge.outbox.close();
            self.map.tell(MapEdge::Down(*self.directory.name(member)));
        }
        let all: Vec<PeerId> = self.machine.members().iter().filter_map(|(member, _)| self.peer_of(member)).collect();
        for peer in all {
            net.edges.know(peer, Vec::new());
            net.kademlia.remove_peer(&peer);
        }
        self.map.tell(MapEdge::Anew);
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
