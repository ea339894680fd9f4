//! The only owner of the libp2p swarm: connections, lookups, and membership, which works with both.
//!
//! One task. It forwards: requests come in as [`Command`]s, what others need to know goes out through [`NetView`], and
//! streams are handed to those who drive them. Nothing here waits for a peer, or for the disk.

pub(crate) mod cable;
mod closing;
pub(crate) mod counters;
mod muxer;
pub(crate) mod outcome;
mod pace;
pub(crate) mod setup;
mod strangers;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm};
use p2p_api::types::Members;
use p2p_dht::kademlia::{FoundPeer, Lookups};
use p2p_dht::message::PROTOCOL;
use p2p_gossip::swim::{Stop, codec};
use p2p_gossip::wire::streams::{Control, Inbound, StreamCounters};
use p2p_gossip::wire::{ClusterId, Edges, Streams};
use tokio::sync::{mpsc, oneshot, watch};

use crate::admission::Admission;
use crate::error::StartError;
use crate::membership::contacts::{DialOutcome, is_loopback};
use crate::membership::events::MemberEvents;
use crate::membership::{self, Begin, EdgeNews, MemberCounters, Membership, Standing};

use cable::Cables;
use counters::count;
use outcome::{DialFailure, dial_outcome};
use setup::{Behaviour, BehaviourEvent};

pub(crate) use counters::NetCounters;

/// How often it is looked whether anybody is to be found at an address that was named.
const TICK: Duration = Duration::from_millis(250);

/// Requests that wait for the task.
const COMMANDS_MAX: usize = 256;

/// What others can ask of the swarm.
pub(crate) enum Command {
    /// Peers close to a key.
    Lookup(Vec<u8>, oneshot::Sender<Vec<FoundPeer>>),
    /// Dials an address; answers with the member that is there.
    Dial(Multiaddr, oneshot::Sender<Result<PeerId, DialOutcome>>),
    /// Remembers addresses to join by, and tries them.
    Want(Vec<Multiaddr>, oneshot::Sender<()>),
    /// This node is in another cluster now, and knows nobody.
    Enter(ClusterId, oneshot::Sender<()>),
    /// All members.
    Members(oneshot::Sender<Members>),
    /// How full this node is, in sixteenths.
    Fill(u8),
    /// Name and tags, as they stand in the record.
    Tags(Bytes, oneshot::Sender<()>),
    /// Leaves the cluster; answered once others know, and this node has stopped to be part of it.
    Leave(oneshot::Sender<()>),
    /// Ends the task.
    Stop,
}

/// What the swarm knows, for everybody to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NetView {
    /// Who is here.
    pub(crate) standing: Standing,
    /// Where others reach this node.
    pub(crate) addresses: Vec<Multiaddr>,
}

impl Deref for NetView {
    type Target = Standing;

    fn deref(&self) -> &Standing {
        &self.standing
    }
}

/// What a swarm needs to start.
pub(crate) struct NetConfig {
    pub(crate) keypair: Keypair,
    pub(crate) admission: Admission,
    pub(crate) listen: Vec<Multiaddr>,
    pub(crate) advertise: Vec<Multiaddr>,
    /// Where connections can be cut and slowed.
    pub(crate) cables: Option<Arc<Cables>>,
    pub(crate) membership: Begin,
}

/// A running swarm.
pub(crate) struct Net {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) view: watch::Receiver<NetView>,
    pub(crate) counters: Arc<NetCounters>,
    pub(crate) member_counters: Arc<MemberCounters>,
    pub(crate) member_events: Arc<MemberEvents>,
    pub(crate) stream_counters: Arc<StreamCounters>,
    pub(crate) control: Control,
    pub(crate) inbound: Inbound,
    /// Streams of the replicated map.
    pub(crate) map_control: Control,
    pub(crate) map_inbound: Inbound,
    /// Why this node is no part of the cluster any more, once it is not.
    pub(crate) stopped: watch::Receiver<Option<Stop>>,
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
    let NetConfig { keypair, admission, listen, advertise, cables, membership } = config;
    let edges = Edges::new(StreamProtocol::new(codec::PROTOCOL), membership::dial_time_max(&membership.config));
    let (objects, control, inbound) = Streams::new(StreamProtocol::new(PROTOCOL), edges.reserved());
    let (map, map_control, map_inbound) = Streams::new(StreamProtocol::new(crate::kv::PROTOCOL), edges.reserved());
    let stream_counters = objects.counters();
    let counters = Arc::new(NetCounters::default());
    let mut swarm = setup::build(keypair, admission, cables, edges, (objects, map), &counters);
    setup::listen_on_all(&mut swarm, &listen).await?;
    let durable = membership.state.durable_generation();
    let (membership, news) = Membership::new(membership, &own_addresses(&swarm, &advertise));
    let (member_counters, member_events) = (membership.counters(), membership.events());
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let (view_sender, view) = watch::channel(NetView::default());
    let (stop_sender, stopped) = watch::channel(None);
    let mut task = SwarmTask {
        swarm,
        membership,
        news,
        durable,
        advertise,
        lookups: Lookups::default(),
        dials: HashMap::new(),
        view: view_sender,
        counters: counters.clone(),
        metrics: libp2p::metrics::Metrics::new(registry),
        leaving: Vec::new(),
        stopped: stop_sender,
    };
    task.with_membership(Membership::introduce_all);
    task.publish_addresses();
    task.publish();
    let task = tokio::spawn(task.run(receiver));
    Ok(Net {
        commands,
        view,
        counters,
        member_counters,
        member_events,
        stream_counters,
        control,
        inbound,
        map_control,
        map_inbound,
        stopped,
        task,
    })
}

/// Where others reach this node, those first that other machines can use; of this machine's own only where there are no others.
fn own_addresses(swarm: &Swarm<Behaviour>, advertise: &[Multiaddr]) -> Vec<Multiaddr> {
    if !advertise.is_empty() {
        return advertise.to_vec();
    }
    let (local, other): (Vec<_>, Vec<_>) = swarm.listeners().cloned().partition(is_loopback);
    if other.is_empty() { local } else { other }
}

struct SwarmTask {
    swarm: Swarm<Behaviour>,
    membership: Membership,
    news: mpsc::Receiver<EdgeNews>,
    /// The last generation that is durable.
    durable: watch::Receiver<u64>,
    advertise: Vec<Multiaddr>,
    lookups: Lookups,
    dials: HashMap<ConnectionId, Dial>,
    view: watch::Sender<NetView>,
    counters: Arc<NetCounters>,
    metrics: libp2p::metrics::Metrics,
    /// Who waits until this node has left.
    leaving: Vec<oneshot::Sender<()>>,
    stopped: watch::Sender<Option<Stop>>,
}

/// A dial of an address where anybody may be.
struct Dial {
    address: Multiaddr,
    reply: Option<oneshot::Sender<Result<PeerId, DialOutcome>>>,
}

impl SwarmTask {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let sleep = tokio::time::sleep_until(self.membership.deadline().into());
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Stop) | None => break,
                    Some(command) => self.on_command(command),
                },
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(news) = self.news.recv() => self.with_membership(|membership, net| membership.on_news(net, news)),
                () = &mut sleep => self.with_membership(Membership::wake),
                Ok(()) = self.durable.changed() => {
                    let generation = *self.durable.borrow_and_update();
                    self.with_membership(|membership, net| membership.persisted(net, generation));
                }
                _ = tick.tick() => self.dial_contacts(),
            }
            self.publish();
            sleep.as_mut().reset(self.membership.deadline().into());
            if let Some(stop) = self.membership.stopped() {
                self.stopped.send_replace(Some(stop));
                for left in self.leaving.drain(..) {
                    let _ = left.send(());
                }
                break;
            }
        }
    }

    fn with_membership<R>(&mut self, run: impl FnOnce(&mut Membership, &mut membership::Net<'_>) -> R) -> R {
        let Behaviour { edges, kademlia, .. } = self.swarm.behaviour_mut();
        run(&mut self.membership, &mut membership::Net { edges, kademlia })
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Lookup(key, reply) => {
                let begun = self.lookups.start(&mut self.swarm.behaviour_mut().kademlia, key, reply);
                count(if begun { &self.counters.lookups } else { &self.counters.lookups_refused });
            }
            Command::Dial(address, reply) => self.dial_address(address, Some(reply)),
            Command::Want(addresses, done) => {
                self.with_membership(|membership, net| {
                    addresses.into_iter().for_each(|address| membership.want(net, address));
                });
                self.dial_contacts();
                self.publish();
                let _ = done.send(());
            }
            Command::Enter(cluster, done) => {
                let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
                for peer in connected {
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
                self.with_membership(|membership, net| membership.enter(net, cluster));
                self.publish();
                let _ = done.send(());
            }
            Command::Members(reply) => drop(reply.send(self.membership.list())),
            Command::Fill(fill) => {
                self.with_membership(|membership, net| membership.describe(net, |said| said.fill = fill));
            }
            Command::Tags(tags, done) => {
                self.with_membership(|membership, net| membership.describe(net, |said| said.tags = tags));
                let _ = done.send(());
            }
            Command::Leave(left) => {
                self.leaving.push(left);
                self.with_membership(Membership::leave);
            }
            Command::Stop => {}
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        libp2p::metrics::Recorder::record(&self.metrics, &event);
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                self.on_connected(peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.on_dial_failed(connection_id, &error);
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
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => {
                self.publish_addresses();
            }
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Kademlia(event) => {
                libp2p::metrics::Recorder::record(&self.metrics, &event);
                if self.lookups.on_event(event) {
                    count(&self.counters.lookups_timed_out);
                }
            }
            BehaviourEvent::Edges(event) => self.with_membership(|membership, net| membership.on_edge(net, event)),
            // Limits have no events, and streams go their own way.
            BehaviourEvent::Limits(never) => match never {},
            BehaviourEvent::Strangers(never) => match never {},
            BehaviourEvent::Objects(()) | BehaviourEvent::Map(()) => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(Dial { address, reply }) = self.dials.remove(&connection) else { return };
        self.with_membership(|membership, net| membership.found(net, &address, peer));
        if let Some(reply) = reply {
            let _ = reply.send(Ok(peer));
        }
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, error: &DialError) {
        if matches!(error, DialError::Denied { .. }) {
            count(&self.counters.connections_denied);
        }
        let outcome = dial_outcome(error);
        if let Some(dial) = self.swarm.behaviour_mut().edges.dial_failed(connection) {
            tracing::debug!(peer = %dial.peer, ?outcome, %error, "cannot reach a member");
            let failure = DialFailure::of(error);
            return self.with_membership(|membership, net| membership.dial_failed(net, dial, &failure));
        }
        let Some(Dial { address, reply }) = self.dials.remove(&connection) else { return };
        tracing::debug!(%address, ?outcome, %error, "nobody is found");
        self.membership.not_found(&address, outcome);
        if let Some(reply) = reply {
            let _ = reply.send(Err(outcome));
        }
    }

    fn dial_contacts(&mut self) {
        for address in self.membership.due_contacts() {
            self.dial_address(address, None);
        }
    }

    fn dial_address(&mut self, address: Multiaddr, reply: Option<oneshot::Sender<Result<PeerId, DialOutcome>>>) {
        let opts = DialOpts::unknown_peer_id().address(address.clone()).allocate_new_port().build();
        let connection = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => drop(self.dials.insert(connection, Dial { address, reply })),
            Err(error) => {
                let outcome = dial_outcome(&error);
                self.membership.not_found(&address, outcome);
                if let Some(reply) = reply {
                    let _ = reply.send(Err(outcome));
                }
            }
        }
    }

    /// Tells the rest of the node what has changed.
    fn publish(&mut self) {
        if let Some(standing) = self.membership.take_standing() {
            self.view.send_modify(|view| view.standing = standing);
        }
    }

    /// Tells everybody where this node is reached.
    fn publish_addresses(&mut self) {
        let addresses = own_addresses(&self.swarm, &self.advertise);
        let encoded = membership::encode_addresses(&addresses);
        self.with_membership(|membership, net| membership.describe(net, |said| said.addresses = encoded));
        let me = *self.swarm.local_peer_id();
        let named = addresses.into_iter().map(|address| address.with(Protocol::P2p(me))).collect();
        self.view.send_modify(|view| view.addresses = named);
    }
}
