//! How the hostile peer gets in: connections of its own making, under the cluster's key, from another address.
//!
//! The derivations of the key are written here once more, so that the node's own are held against a second reading.

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
use libp2p::swarm::{NetworkBehaviour, SwarmEvent, dial_opts::DialOpts};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, Transport, noise, tcp, yamux};
use p2p_gossip::wire::streams::{Arrived, Control, Inbound};
use p2p_gossip::wire::{OpenError, Streams};
use p2p_node::cluster::ClusterKey;
use tokio::net::TcpSocket;
use tokio::sync::watch;

use super::answers::{self, Manners};
use super::{Attack, SOURCE};

/// Pause before a connection that was lost is made again.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// What substreams are opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Objects,
    Kad,
    Push,
    Ping,
}

/// The protocols by hand: nothing is said on them that a scenario does not say.
#[derive(NetworkBehaviour)]
struct Everything {
    objects: Streams,
    kad: Streams,
    identify: Streams,
    push: Streams,
    ping: Streams,
}

/// One identity with one connection to the victim, made again whenever it is lost.
pub(crate) struct Member {
    pub(crate) attack: Arc<Attack>,
    objects: Control,
    kad: Control,
    push: Control,
    ping: Control,
    connected: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Member {
    /// Enters the cluster as identity number `n`, and returns once connected.
    pub(crate) async fn enter(attack: &Arc<Attack>, n: u32, manners: Manners) -> Self {
        let member = Self::begin(attack, n, manners);
        let _ = member.connected.clone().wait_for(|connected| *connected).await;
        member
    }

    /// Begins to enter, whether the victim lets it in or not.
    pub(crate) fn begin(attack: &Arc<Attack>, n: u32, manners: Manners) -> Self {
        let keypair = attack.identity(n);
        let me = keypair.public().to_peer_id();
        let streams = |name| Streams::new(StreamProtocol::new(name), Default::default());
        let (objects, objects_control, objects_inbound) = streams(p2p_dht::message::PROTOCOL);
        let (kad, kad_control, kad_inbound) = streams("/p2p-node/kad/1");
        let (identify, _, identify_inbound) = streams("/ipfs/id/1.0.0");
        let (push, push_control, push_inbound) = streams("/ipfs/id/push/1.0.0");
        let (ping, ping_control, ping_inbound) = streams("/ipfs/ping/1.0.0");
        let behaviour = Everything { objects, kad, identify, push, ping };
        let admission =
            Admission { keypair: keypair.clone(), name: name_of(&attack.key), prologue: prologue_of(&attack.key) };
        let tcp = Sourced(tcp::tokio::Transport::new(tcp::Config::default()));
        let mut muxer = yamux::Config::default();
        muxer.set_max_num_streams(4096);
        let transport = tcp.upgrade(Version::V1).authenticate(admission).multiplex(muxer).boxed();
        let config =
            libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(3600));
        let swarm = Swarm::new(transport, behaviour, me, config);
        let inbounds = Inbounds { objects_inbound, kad_inbound, identify_inbound, push_inbound, ping_inbound };
        let (sender, connected) = watch::channel(false);
        let task = tokio::spawn(drive(attack.clone(), keypair, swarm, inbounds, manners, sender));
        Self {
            attack: attack.clone(),
            objects: objects_control,
            kad: kad_control,
            push: push_control,
            ping: ping_control,
            connected,
            task,
        }
    }

    /// A fresh stream to the victim on which nothing was said but the protocol's name.
    pub(crate) async fn open(&self, protocol: Protocol) -> std::io::Result<libp2p::Stream> {
        let control = match protocol {
            Protocol::Objects => &self.objects,
            Protocol::Kad => &self.kad,
            Protocol::Push => &self.push,
            Protocol::Ping => &self.ping,
        };
        let _ = self.connected.clone().wait_for(|connected| *connected).await;
        control.open(self.attack.victim).await.map_err(|error: OpenError| std::io::Error::other(error))
    }
}

/// Streams that the victim opens.
struct Inbounds {
    objects_inbound: Inbound,
    kad_inbound: Inbound,
    identify_inbound: Inbound,
    push_inbound: Inbound,
    ping_inbound: Inbound,
}

async fn drive(
    attack: Arc<Attack>,
    keypair: Keypair,
    mut swarm: Swarm<Everything>,
    mut inbounds: Inbounds,
    manners: Manners,
    connected: watch::Sender<bool>,
) {
    let victim = Multiaddr::from(attack.address.ip()).with(Part::Tcp(attack.address.port()));
    let mut listening = Vec::new();
    if manners.listens {
        let _ = swarm.listen_on(Multiaddr::from(SOURCE).with(Part::Tcp(0)));
        while listening.is_empty() {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                listening.push(address);
            }
        }
    }
    let mut redial = tokio::time::interval(REDIAL_PAUSE);
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == attack.victim => {
                    connected.send_replace(true);
                }
                SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } if peer_id == attack.victim => {
                    attack.did("lost connections");
                    connected.send_replace(false);
                }
                _ => {}
            },
            _ = redial.tick() => {
                let opts = DialOpts::peer_id(attack.victim).addresses(vec![victim.clone()]).allocate_new_port().build();
                // Refused while there is a connection, or a dial under way.
                let _ = swarm.dial(opts);
            }
            Some(Arrived { stream, .. }) = inbounds.objects_inbound.recv() => {
                tokio::spawn(answers::objects(attack.clone(), manners.clone(), stream));
            }
            Some(Arrived { stream, .. }) = inbounds.kad_inbound.recv() => {
                tokio::spawn(answers::kad(manners.clone(), stream));
            }
            Some(Arrived { stream, .. }) = inbounds.identify_inbound.recv() => {
                tokio::spawn(answers::identify(keypair.public(), manners.clone(), listening.clone(), stream));
            }
            Some(Arrived { stream, .. }) = inbounds.push_inbound.recv() => drop(stream),
            Some(Arrived { stream, .. }) = inbounds.ping_inbound.recv() => {
                tokio::spawn(answers::pong(manners.clone(), stream));
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
