//! How the hostile peer gets in: connections of its own making, under the cluster's key, from another address.
//!
//! The derivations of the key are written here once more, so that the node's own are held against a second reading.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncWrite};
use libp2p::core::UpgradeInfo;
use libp2p::core::transport::{DialOpts as TransportDialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, Version};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol as Part;
use libp2p::swarm::{ConnectionId, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, Transport, noise, tcp, yamux};
use p2p_gossip::swim::codec;
use p2p_gossip::wire::streams::{Arrived, Control, Inbound};
use p2p_gossip::wire::{EdgeEvent, Edges, OpenError, Opened, Streams};
use p2p_node::cluster::ClusterKey;
use tokio::net::TcpSocket;
use tokio::sync::{mpsc, oneshot, watch};

use super::answers::{self, Manners};
use super::map;
use super::seat::{Seat, Sitting};
use super::{Attack, SOURCE};

/// Pause before a connection that was lost is made again.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// Longest wait for an edge.
const EDGE_TIME_MAX: Duration = Duration::from_secs(5);

/// What substreams are opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Objects,
    Kad,
    Map,
}

/// The protocols by hand: nothing is said on them that a scenario does not say.
#[derive(NetworkBehaviour)]
struct Everything {
    edges: Edges,
    objects: Streams,
    kad: Streams,
    map: Streams,
}

/// Somebody who waits for an edge.
type Waiting = oneshot::Sender<std::io::Result<Edge>>;

/// What the task of an identity is asked.
enum Command {
    /// An edge to a peer at an address.
    Dial(PeerId, Multiaddr, Waiting),
    /// The end of one.
    Close(PeerId, ConnectionId),
}

/// A stream of membership on a connection of its own, which ends with it.
pub(crate) struct Edge {
    pub(crate) peer: PeerId,
    pub(crate) connection: ConnectionId,
    /// None once it was taken.
    stream: Option<libp2p::Stream>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Edge {
    /// The stream, of which the first to ask makes what it wants.
    pub(crate) fn take_stream(&mut self) -> libp2p::Stream {
        self.stream.take().expect("it is taken once")
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Close(self.peer, self.connection));
    }
}

/// One identity. It has a connection to the victim, made again whenever it is lost, or where it has a seat among the members
/// edges to whoever is one.
pub(crate) struct Member {
    pub(crate) attack: Arc<Attack>,
    pub(crate) seat: Arc<Seat>,
    objects: Control,
    kad: Control,
    map: Control,
    commands: mpsc::UnboundedSender<Command>,
    connected: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Member {
    /// Enters the cluster as identity number `n`, and returns once connected, or met where it has a seat.
    pub(crate) async fn enter(attack: &Arc<Attack>, n: u32, manners: Manners) -> Self {
        let member = Self::begin(attack, n, manners);
        let _ = member.connected.clone().wait_for(|connected| *connected).await;
        member
    }

    /// Begins to enter, whether the victim lets it in or not.
    pub(crate) fn begin(attack: &Arc<Attack>, n: u32, manners: Manners) -> Self {
        let keypair = attack.identity(n);
        let me = keypair.public().to_peer_id();
        let edges = Edges::new(StreamProtocol::new(codec::PROTOCOL), EDGE_TIME_MAX);
        let streams = |name| Streams::new(StreamProtocol::new(name), edges.reserved());
        let (objects, objects_control, objects_inbound) = streams(p2p_dht::message::PROTOCOL);
        let (kad, kad_control, kad_inbound) = streams("/p2p-node/kad/1");
        let (map, map_control, map_inbound) = streams(map::PROTOCOL);
        let behaviour = Everything { edges, objects, kad, map };
        let admission = Admission { keypair, name: name_of(&attack.key), prologue: prologue_of(&attack.key) };
        let tcp = Sourced(tcp::tokio::Transport::new(tcp::Config::default()));
        let mut muxer = yamux::Config::default();
        muxer.set_max_num_streams(4096);
        let transport = tcp.upgrade(Version::V1).authenticate(admission).multiplex(muxer).boxed();
        let config =
            libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(3600));
        let swarm = Swarm::new(transport, behaviour, me, config);
        let (sender, connected) = watch::channel(false);
        let (commands, asked) = mpsc::unbounded_channel();
        let seat = Arc::new(Seat::new(attack, n, manners.seat, manners.map.is_some()));
        let door = Door {
            attack: attack.clone(),
            seat: seat.clone(),
            swarm,
            manners,
            connected: sender,
            commands: commands.clone(),
            waiting: BTreeMap::new(),
        };
        let task = tokio::spawn(door.run(Inbounds { objects_inbound, kad_inbound, map_inbound, asked }));
        let (objects, kad, map) = (objects_control, kad_control, map_control);
        Self { attack: attack.clone(), seat, objects, kad, map, commands, connected, task }
    }

    /// A fresh stream to the victim on which nothing was said but the protocol's name.
    pub(crate) async fn open(&self, protocol: Protocol) -> std::io::Result<libp2p::Stream> {
        let control = match protocol {
            Protocol::Objects => &self.objects,
            Protocol::Kad => &self.kad,
            Protocol::Map => &self.map,
        };
        let _ = self.connected.clone().wait_for(|connected| *connected).await;
        control.open(self.attack.victim).await.map_err(|error: OpenError| std::io::Error::other(error))
    }

    /// A fresh edge to the victim on which nothing was said.
    pub(crate) async fn edge(&self) -> std::io::Result<Edge> {
        let (reply, edge) = oneshot::channel();
        let _ = self.commands.send(Command::Dial(self.attack.victim, self.attack.multiaddr(), reply));
        edge.await.unwrap_or(Err(std::io::ErrorKind::NotConnected.into()))
    }
}

/// What comes to an identity.
struct Inbounds {
    objects_inbound: Inbound,
    kad_inbound: Inbound,
    map_inbound: Inbound,
    asked: mpsc::UnboundedReceiver<Command>,
}

/// The task of an identity.
struct Door {
    attack: Arc<Attack>,
    seat: Arc<Seat>,
    swarm: Swarm<Everything>,
    manners: Manners,
    connected: watch::Sender<bool>,
    commands: mpsc::UnboundedSender<Command>,
    waiting: BTreeMap<PeerId, VecDeque<Waiting>>,
}

impl Door {
    async fn run(mut self, mut inbounds: Inbounds) {
        if self.manners.listens {
            self.listen().await;
        }
        let mut redial = tokio::time::interval(REDIAL_PAUSE);
        redial.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                _ = redial.tick() => self.redial(),
                Some(command) = inbounds.asked.recv() => match command {
                    Command::Dial(peer, address, waiting) => self.dial(peer, address, waiting),
                    Command::Close(peer, connection) => self.swarm.behaviour_mut().edges.close(peer, connection),
                },
                Some(Arrived { stream, .. }) = inbounds.objects_inbound.recv() => {
                    tokio::spawn(answers::objects(self.attack.clone(), self.manners.clone(), stream));
                }
                Some(Arrived { stream, .. }) = inbounds.map_inbound.recv() => {
                    if let Some(answers) = self.manners.map {
                        tokio::spawn(map::answers::serve(self.attack.clone(), answers, stream));
                    }
                }
                // A lookup is answered with an end.
                Some(Arrived { stream, .. }) = inbounds.kad_inbound.recv() => drop(stream),
            }
        }
    }

    async fn listen(&mut self) {
        let _ = self.swarm.listen_on(Multiaddr::from(SOURCE).with(Part::Tcp(0)));
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = self.swarm.select_next_some().await {
                return self.seat.listens_at(address);
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<EverythingEvent>) {
        match event {
            // Whoever has a seat is in once it has said who it is.
            SwarmEvent::ConnectionEstablished { peer_id, .. }
                if peer_id == self.attack.victim && self.manners.seat == Sitting::Nowhere =>
            {
                self.connected.send_replace(true);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } if peer_id == self.attack.victim => {
                self.attack.did("lost connections");
                self.connected.send_replace(false);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(dial) = self.swarm.behaviour_mut().edges.dial_failed(connection_id) {
                    self.failed(dial.peer, std::io::Error::other(error));
                }
            }
            SwarmEvent::Behaviour(EverythingEvent::Edges(EdgeEvent::Opened(opened))) => self.on_edge(opened),
            SwarmEvent::Behaviour(EverythingEvent::Edges(EdgeEvent::Failed(peer))) => {
                self.failed(peer, std::io::ErrorKind::ConnectionReset.into());
            }
            _ => {}
        }
    }

    fn on_edge(&mut self, opened: Opened) {
        let Opened { peer, connection, dialed, stream, .. } = opened;
        let edge = Edge { peer, connection, stream: Some(stream), commands: self.commands.clone() };
        let waiting = dialed.and_then(|_| self.waiting.get_mut(&peer)?.pop_front());
        match waiting {
            Some(waiting) => drop(waiting.send(Ok(edge))),
            None => drop(tokio::spawn(self.seat.clone().sit(edge, None))),
        }
    }

    fn failed(&mut self, peer: PeerId, error: std::io::Error) {
        if let Some(waiting) = self.waiting.get_mut(&peer).and_then(VecDeque::pop_front) {
            let _ = waiting.send(Err(error));
        }
    }

    fn dial(&mut self, peer: PeerId, address: Multiaddr, waiting: Waiting) {
        self.waiting.entry(peer).or_default().push_back(waiting);
        self.swarm.behaviour_mut().edges.dial(peer, vec![address]);
    }

    /// Keeps what it is to have: a connection, or an edge.
    fn redial(&mut self) {
        let (victim, address) = (self.attack.victim, self.attack.multiaddr());
        match self.manners.seat {
            Sitting::Nowhere => {
                let opts = DialOpts::peer_id(victim).addresses(vec![address]).allocate_new_port().build();
                // Refused while there is a connection, or a dial under way.
                let _ = self.swarm.dial(opts);
            }
            Sitting::OnEdges => {}
            Sitting::Down(_) if self.seat.is_seated() => {}
            Sitting::Down(_) => {
                let (reply, edge) = oneshot::channel();
                self.seat.sits_down();
                self.dial(victim, address, reply);
                let (seat, connected) = (self.seat.clone(), self.connected.clone());
                tokio::spawn(async move {
                    match edge.await {
                        Ok(Ok(edge)) => seat.clone().sit(edge, Some(&connected)).await,
                        _ => tokio::time::sleep(REDIAL_PAUSE).await,
                    }
                    seat.stands_up();
                });
            }
        }
    }
}

/// The name of the security protocol under a key.
pub(crate) fn name_of(key: &ClusterKey) -> String {
    let hash = blake3::derive_key("p2p-node 2026-11 name of a cluster key", &key.0);
    format!("/p2p-node/noise/1/{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3])
}

/// What both sides of a handshake under a key put before it.
pub(crate) fn prologue_of(key: &ClusterKey) -> Vec<u8> {
    blake3::derive_key("p2p-node 2026-11 noise prologue of a cluster key", &key.0).to_vec()
}

/// Noise under the cluster's key.
#[derive(Clone)]
pub(crate) struct Admission {
    pub(crate) keypair: Keypair,
    pub(crate) name: String,
    pub(crate) prologue: Vec<u8>,
}

impl UpgradeInfo for Admission {
    type Info = String;
    type InfoIter = std::iter::Once<String>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(self.name.clone())
    }
}

type Secured<T> = (PeerId, noise::Output<T>);

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<T> for Admission {
    type Output = Secured<T>;
    type Error = noise::Error;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: T, _: String) -> Self::Future {
        Box::pin(async move { self.noise()?.upgrade_inbound(socket, "/noise").await })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<T> for Admission {
    type Output = Secured<T>;
    type Error = noise::Error;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: T, _: String) -> Self::Future {
        Box::pin(async move { self.noise()?.upgrade_outbound(socket, "/noise").await })
    }
}

impl Admission {
    fn noise(&self) -> Result<noise::Config, noise::Error> {
        Ok(noise::Config::new(&self.keypair)?.with_prologue(self.prologue.clone()))
    }
}

/// A TCP connection to the victim from [`SOURCE`].
pub(crate) async fn connect(to: SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((SOURCE, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// TCP whose connections come from [`SOURCE`].
struct Sourced(tcp::tokio::Transport);

impl Transport for Sourced {
    type Output = tcp::tokio::TcpStream;
    type Error = std::io::Error;
    type ListenerUpgrade = <tcp::tokio::Transport as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, std::io::Result<tcp::tokio::TcpStream>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.0.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, _: TransportDialOpts) -> Result<Self::Dial, TransportError<Self::Error>> {
        let mut parts = address.iter();
        let (Some(Part::Ip4(ip)), Some(Part::Tcp(port))) = (parts.next(), parts.next()) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        Ok(Box::pin(async move { connect((ip, port).into()).await.map(tcp::tokio::TcpStream) }))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}
