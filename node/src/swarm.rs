//! The only owner of the libp2p swarm: connections, lookups, and who is there.
//!
//! One task. It forwards: requests come in as [`Command`]s, what others need to know goes out through [`NetView`], and
//! streams are handed to those who drive them. Nothing here waits for a peer.

pub(crate) mod cable;
mod closing;
mod counters;
mod muxer;
mod outcome;
mod pace;
pub(crate) mod setup;
mod strangers;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, identify};
use p2p_dht::kademlia::{FoundPeer, Lookups};
use p2p_dht::message::PROTOCOL;
use p2p_gossip::wire::Streams;
use p2p_gossip::wire::streams::{Control, Inbound, StreamCounters};
use tokio::sync::{mpsc, oneshot, watch};

use crate::admission::Admission;
use crate::error::StartError;
use crate::files::{self, Access};
use crate::peers::{self, DialOutcome, Peers, Target, is_loopback, is_useful};

use cable::Cables;
use counters::count;
use outcome::dial_outcome;
use setup::{Behaviour, BehaviourEvent};

pub(crate) use counters::NetCounters;

/// Dials that are begun at once.
const DIALS_AT_ONCE: usize = 16;

/// How often it is looked whom to dial and whom to look for.
const TICK: Duration = Duration::from_millis(250);

/// As long as new members were met within this time, more are looked for at every other tick.
const DISCOVERY_EAGER: Duration = Duration::from_secs(10);

/// Otherwise this often.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(60);

/// Requests that wait for the task.
const COMMANDS_MAX: usize = 256;

/// What others can ask of the swarm.
pub(crate) enum Command {
    /// Peers close to a key.
    Lookup(Vec<u8>, oneshot::Sender<Vec<FoundPeer>>),
    /// Dials an address; answers with the member that is there.
    Dial(Multiaddr, oneshot::Sender<Result<PeerId, DialOutcome>>),
    /// Remembers members' addresses, and dials them.
    Want(Vec<Multiaddr>, oneshot::Sender<()>),
    /// Forgets everybody: this node is in another cluster now.
    Forget(oneshot::Sender<()>),
    /// Ends the task.
    Stop,
}

/// What the swarm knows, for everybody to see.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetView {
    /// Other members with a connection.
    pub(crate) alive: BTreeSet<PeerId>,
    /// Whether anybody else was ever met by this home.
    pub(crate) ever_met: bool,
    /// How many others were met at some time.
    pub(crate) met: usize,
    /// Whether anybody else is known or was named.
    pub(crate) expects_others: bool,
    /// Why members that are known are not there.
    pub(crate) reasons: Vec<String>,
    /// Where others reach this node.
    pub(crate) addresses: Vec<Multiaddr>,
}

/// What a swarm needs to start.
pub(crate) struct NetConfig {
    pub(crate) keypair: Keypair,
    pub(crate) admission: Admission,
    pub(crate) listen: Vec<Multiaddr>,
    pub(crate) advertise: Vec<Multiaddr>,
    pub(crate) peers: Peers,
    pub(crate) peers_file: PathBuf,
    /// Where connections can be cut and slowed.
    pub(crate) cables: Option<Arc<Cables>>,
}

/// A running swarm.
pub(crate) struct Net {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) view: watch::Receiver<NetView>,
    pub(crate) counters: Arc<NetCounters>,
    pub(crate) stream_counters: Arc<StreamCounters>,
    pub(crate) control: Control,
    pub(crate) inbound: Inbound,
    pub(crate) task: tokio::task::JoinHandle<()>,
}

/// Starts the swarm; returns once it listens.
///
/// # Errors
/// When an address cannot be listened on.
pub(crate) async fn start(
    config: NetConfig,
    registry: &mut prometheus_client::registry::Registry,
) -> Result<Net, StartError> {
    let NetConfig { keypair, admission, listen, advertise, peers, peers_file, cables } = config;
    let (objects, control, inbound) = Streams::new(StreamProtocol::new(PROTOCOL));
    let stream_counters = objects.counters();
    let counters = Arc::new(NetCounters::default());
    let mut swarm = setup::build(keypair, admission, cables, objects, &counters);
    for address in &advertise {
        swarm.add_external_address(address.clone());
    }
    setup::listen_on_all(&mut swarm, &listen).await?;
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let (view_sender, view) = watch::channel(NetView::default());
    let mut task = SwarmTask {
        swarm,
        peers,
        peers_file,
        advertise,
        lookups: Lookups::default(),
        dials: HashMap::new(),
        view: view_sender,
        counters: counters.clone(),
        metrics: libp2p::metrics::Metrics::new(registry),
        last_new_member: Instant::now(),
        next_discovery: Instant::now(),
        looked_near_myself: false,
        found: Vec::new(),
        saving: None,
    };
    task.publish();
    let task = tokio::spawn(task.run(receiver));
    Ok(Net { commands, view, counters, stream_counters, control, inbound, task })
}

struct SwarmTask {
    swarm: Swarm<Behaviour>,
    peers: Peers,
    peers_file: PathBuf,
    advertise: Vec<Multiaddr>,
    lookups: Lookups,
    dials: HashMap<ConnectionId, Dial>,
    view: watch::Sender<NetView>,
    counters: Arc<NetCounters>,
    metrics: libp2p::metrics::Metrics,
    last_new_member: Instant,
    next_discovery: Instant,
    looked_near_myself: bool,
    /// Answers of lookups for members.
    found: Vec<oneshot::Receiver<Vec<FoundPeer>>>,
    /// The file is written elsewhere, one version after the other.
    saving: Option<tokio::task::JoinHandle<()>>,
}

/// A dial that we began.
struct Dial {
    /// Set where no peer was named.
    address: Option<Multiaddr>,
    reply: Option<oneshot::Sender<Result<PeerId, DialOutcome>>>,
}

impl SwarmTask {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Stop) | None => break,
                    Some(command) => self.on_command(command),
                },
                event = self.swarm.select_next_some() => self.on_event(event),
                _ = tick.tick() => self.on_tick(),
            }
        }
        if let Some(saving) = self.saving.take() {
            let _ = saving.await;
        }
        self.save();
        if let Some(saving) = self.saving.take() {
            let _ = saving.await;
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Lookup(key, reply) => {
                self.look_up(key, reply);
            }
            Command::Dial(address, reply) => self.dial_address(address, Some(reply)),
            Command::Want(addresses, done) => {
                addresses.into_iter().for_each(|address| self.peers.want(address));
                self.dial_due();
                self.publish();
                let _ = done.send(());
            }
            Command::Forget(done) => {
                self.peers.clear();
                let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
                for peer in connected {
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
                self.save();
                self.publish();
                let _ = done.send(());
            }
            Command::Stop => {}
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        libp2p::metrics::Recorder::record(&self.metrics, &event);
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, .. } if self.peers.disconnected(&peer_id) => {
                tracing::info!(peer = %peer_id, "member is gone");
                self.publish();
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => match error {
                ListenError::Denied { cause } if cause.downcast_ref::<strangers::TooMany>().is_some() => {
                    count(&self.counters.handshakes_refused);
                    tracing::debug!(from = %send_back_addr, "refused a connection: too many of this host");
                }
                ListenError::Denied { cause } if cause.downcast_ref::<strangers::Crowded>().is_some() => {
                    count(&self.counters.connections_crowded);
                    tracing::debug!(from = %send_back_addr, "refused a connection: this host has too many");
                }
                ListenError::Denied { .. } => count(&self.counters.connections_denied),
                error => {
                    count(&self.counters.handshakes_failed);
                    tracing::debug!(from = %send_back_addr, %error, "refused a connection");
                }
            },
            SwarmEvent::NewListenAddr { .. }
            | SwarmEvent::ExpiredListenAddr { .. }
            | SwarmEvent::ExternalAddrConfirmed { .. } => self.publish(),
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(event) => {
                libp2p::metrics::Recorder::record(&self.metrics, &event);
                if let identify::Event::Received { peer_id, info, connection_id } = event {
                    self.on_identified(peer_id, connection_id, &info);
                }
            }
            BehaviourEvent::Ping(event) => {
                libp2p::metrics::Recorder::record(&self.metrics, &event);
                if let Err(error) = event.result {
                    count(&self.counters.connections_silent);
                    tracing::debug!(peer = %event.peer, %error, "a connection does not answer");
                    self.swarm.close_connection(event.connection);
                }
            }
            BehaviourEvent::Kademlia(event) => {
                libp2p::metrics::Recorder::record(&self.metrics, &event);
                if self.lookups.on_event(event) {
                    count(&self.counters.lookups_timed_out);
                }
            }
            // Limits have no events, and streams go their own way.
            BehaviourEvent::Limits(never) => match never {},
            BehaviourEvent::Strangers(never) => match never {},
            BehaviourEvent::Objects(()) => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let dialed = match endpoint {
            ConnectedPoint::Dialer { address, .. } => Some(address),
            ConnectedPoint::Listener { .. } => None,
        };
        if let Some(Dial { reply: Some(reply), .. }) = self.dials.remove(&connection) {
            let _ = reply.send(Ok(peer));
        }
        if self.peers.connected(peer, dialed) {
            tracing::info!(%peer, "member is here");
            self.last_new_member = Instant::now();
            self.next_discovery = self.last_new_member;
            if let Some(address) = dialed {
                let address = peers::split_peer(address).0;
                self.swarm.behaviour_mut().kademlia.add_address(&peer, address);
            }
            self.publish();
        }
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        let Dial { address, reply } = self.dials.remove(&connection).unwrap_or(Dial { address: None, reply: None });
        match error {
            DialError::DialPeerConditionFalse(_) => return,
            DialError::Denied { .. } => count(&self.counters.connections_denied),
            _ => {}
        }
        let outcome = dial_outcome(error);
        tracing::debug!(?peer, ?outcome, %error, "cannot reach a member");
        let now = Instant::now();
        if let Some(peer) = peer {
            // A second dial may fail while the first connection is fine.
            if !self.swarm.is_connected(&peer) {
                self.swarm.behaviour_mut().kademlia.remove_peer(&peer);
            }
            self.peers.dial_failed(&peer, outcome, now);
        }
        if let Some(address) = address {
            self.peers.address_failed(&address, outcome, now);
        }
        if let Some(reply) = reply {
            let _ = reply.send(Err(outcome));
        }
        self.publish();
    }

    /// A member has told where it listens.
    fn on_identified(&mut self, peer: PeerId, _connection: ConnectionId, info: &identify::Info) {
        // What we see of it tells whether it is on this machine.
        let local = is_loopback(&info.observed_addr);
        let mut useful: Vec<Multiaddr> =
            info.listen_addrs.iter().filter(|address| is_useful(address, local)).cloned().collect();
        let beyond = useful.len().saturating_sub(peers::ADDRESSES_PER_PEER_MAX);
        self.counters.addresses_dropped.fetch_add(beyond as u64, Ordering::Relaxed);
        useful.truncate(peers::ADDRESSES_PER_PEER_MAX);
        for address in &useful {
            self.swarm.behaviour_mut().kademlia.add_address(&peer, address.clone());
        }
        self.peers.learn(peer, useful);
        self.last_new_member = Instant::now();
    }

    fn on_tick(&mut self) {
        self.dial_due();
        self.discover();
        self.take_found();
        self.counters.add(self.peers.take_dropped());
        self.save();
    }

    fn dial_due(&mut self) {
        for target in self.peers.due(Instant::now(), DIALS_AT_ONCE) {
            match target {
                Target::Peer(peer, addresses) => self.dial_peer(peer, addresses),
                Target::Address(address) => self.dial_address(address, None),
            }
        }
    }

    fn dial_peer(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let opts = DialOpts::peer_id(peer)
            .addresses(addresses)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .allocate_new_port()
            .build();
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%peer, %error, "cannot dial");
            self.peers.dial_failed(&peer, DialOutcome::NoAnswer, Instant::now());
        }
    }

    fn dial_address(&mut self, address: Multiaddr, reply: Option<oneshot::Sender<Result<PeerId, DialOutcome>>>) {
        let opts = DialOpts::unknown_peer_id().address(address.clone()).allocate_new_port().build();
        let connection = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => drop(self.dials.insert(connection, Dial { address: Some(address), reply })),
            Err(error) => {
                let outcome = dial_outcome(&error);
                self.peers.address_failed(&address, outcome, Instant::now());
                if let Some(reply) = reply {
                    let _ = reply.send(Err(outcome));
                }
            }
        }
    }

    /// Looks for members that nobody has named yet, near this node and anywhere in turn.
    fn discover(&mut self) {
        let now = Instant::now();
        if now < self.next_discovery || self.peers.alive().is_empty() {
            return;
        }
        let eager = now.duration_since(self.last_new_member) < DISCOVERY_EAGER;
        self.next_discovery = now + if eager { 2 * TICK } else { DISCOVERY_PERIOD };
        self.looked_near_myself = !self.looked_near_myself;
        let key = if self.looked_near_myself {
            self.swarm.local_peer_id().to_bytes()
        } else {
            rand::random::<[u8; 32]>().to_vec()
        };
        let (reply, answer) = oneshot::channel();
        self.look_up(key, reply);
        self.found.push(answer);
    }

    fn look_up(&mut self, key: Vec<u8>, reply: oneshot::Sender<Vec<FoundPeer>>) {
        if !self.lookups.start(&mut self.swarm.behaviour_mut().kademlia, key, reply) {
            count(&self.counters.lookups_refused);
        }
    }

    fn take_found(&mut self) {
        let peers = &mut self.peers;
        self.found.retain_mut(|answer| match answer.try_recv() {
            Ok(found) => {
                for FoundPeer { peer, addresses } in found {
                    peers.learn(peer, addresses);
                }
                false
            }
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => false,
        });
    }

    fn publish(&mut self) {
        let me = *self.swarm.local_peer_id();
        let listening = self.swarm.listeners().cloned();
        let mut addresses: Vec<Multiaddr> =
            if self.advertise.is_empty() { listening.collect() } else { self.advertise.clone() };
        // Those that other machines can use first.
        addresses.sort_by_key(is_loopback);
        let named = addresses.into_iter().map(|address| address.with(Protocol::P2p(me)));
        self.view.send_replace(NetView {
            alive: self.peers.alive(),
            ever_met: self.peers.ever_met(),
            met: self.peers.met(),
            expects_others: self.peers.expects_others(),
            reasons: self.peers.reasons(),
            addresses: named.collect(),
        });
    }

    fn save(&mut self) {
        if self.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            return;
        }
        let Some(file) = self.peers.take_changes() else { return };
        let path = self.peers_file.clone();
        self.saving = Some(tokio::task::spawn_blocking(move || {
            let saved = serde_json::to_vec_pretty(&file)
                .map_err(std::io::Error::other)
                .and_then(|bytes| files::replace(&path, &bytes, Access::Plain));
            if let Err(error) = saved {
                tracing::warn!(%error, "cannot remember the members in {}", path.display());
            }
        }));
    }
}
