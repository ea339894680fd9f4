//! What a swarm is made of: transport, behaviours, limits, listeners.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::io::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::transport::upgrade::Authenticated;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, Transport, connection_limits, tcp};
use p2p_dht::kademlia::{self, Kademlia};
use p2p_gossip::wire::{Edges, Streams};

use crate::admission::Admission;
use crate::error::StartError;
use crate::swarm::cable::{Cabled, Cables};
use crate::swarm::closing::Closing;
use crate::swarm::counters::NetCounters;
use crate::swarm::muxer::Yamux;
use crate::swarm::outcome::Unreachable;
use crate::swarm::strangers::Strangers;

/// Connections, over all peers.
pub(crate) const CONNECTIONS_MAX: u32 = 1024;

/// Connections of one peer: one for membership, one for content, and both sides may dial at once.
pub(crate) const CONNECTIONS_PER_PEER_MAX: u32 = 8;

/// Connections whose handshake is under way.
pub(crate) const HANDSHAKES_MAX: u32 = 128;

/// Longest handshake, as far as this node began it, with the time it takes to connect.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest handshake of somebody who has connected to us: some round trips, on any line that is of use.
const INBOUND_HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// A connection on which no protocol has a stream is closed after this.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) strangers: Strangers,
    pub(super) kademlia: Kademlia,
    pub(super) edges: Edges,
    pub(super) objects: Streams,
    pub(super) map: Streams,
}

/// Puts the parts together.
pub(crate) fn build(
    keypair: Keypair,
    admission: Admission,
    cables: Option<Arc<Cables>>,
    edges: Edges,
    (objects, map): (Streams, Streams),
    counters: &Arc<NetCounters>,
) -> Swarm<Behaviour> {
    let me = keypair.public().to_peer_id();
    let transport = transport(admission, cables, counters);
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_established(Some(CONNECTIONS_MAX))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX))
        .with_max_pending_incoming(Some(HANDSHAKES_MAX))
        .with_max_pending_outgoing(Some(HANDSHAKES_MAX));
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        strangers: Strangers::default(),
        kademlia: kademlia::new(me),
        edges,
        objects,
        map,
    };
    let config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_TIME_MAX)
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    Swarm::new(transport, behaviour, me, config)
}

/// Makes connections: TCP, the handshake, and streams.
pub(super) fn transport(
    admission: Admission,
    cables: Option<Arc<Cables>>,
    counters: &Arc<NetCounters>,
) -> Boxed<(PeerId, StreamMuxerBox)> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default()).map_err(Unreachable).upgrade(Version::V1Lazy);
    match cables {
        Some(cables) => multiplexed(tcp.authenticate(Cabled { admission, cables }), counters),
        None => multiplexed(tcp.authenticate(admission), counters),
    }
}

/// Puts streams on connections that have passed the handshake.
fn multiplexed<T, C>(authenticated: Authenticated<T>, counters: &Arc<NetCounters>) -> Boxed<(PeerId, StreamMuxerBox)>
where
    T: Transport<Output = (PeerId, C)> + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let counters = counters.clone();
    authenticated
        .multiplex(Yamux::new(counters.unread.clone()))
        .outbound_timeout(HANDSHAKE_TIME_MAX)
        .inbound_timeout(INBOUND_HANDSHAKE_TIME_MAX)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(Closing::new(muxer, counters))))
        .boxed()
}

/// Listens on every address, and waits until each has at least one that others can dial.
pub(crate) async fn listen_on_all(swarm: &mut Swarm<Behaviour>, listen: &[Multiaddr]) -> Result<(), StartError> {
    let mut waiting = HashMap::new();
    for address in listen {
        let failed = |reason: String| StartError::Listen { address: address.to_string(), reason };
        is_free(address).map_err(|error| failed(error.to_string()))?;
        let id = swarm.listen_on(address.clone()).map_err(|error| failed(error.to_string()))?;
        waiting.insert(id, address.to_string());
    }
    let wait = async {
        while !waiting.is_empty() {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, .. } => drop(waiting.remove(&listener_id)),
                SwarmEvent::ListenerClosed { listener_id, reason: Err(error), .. } => {
                    let address = waiting.remove(&listener_id).unwrap_or_default();
                    return Err(StartError::Listen { address, reason: error.to_string() });
                }
                _ => {}
            }
        }
        Ok(())
    };
    match tokio::time::timeout(HANDSHAKE_TIME_MAX, wait).await {
        Ok(done) => done,
        Err(_elapsed) => {
            let address = waiting.into_values().next().unwrap_or_default();
            Err(StartError::Listen { address, reason: "no network interface has it".into() })
        }
    }
}

/// Whether nobody listens there yet. libp2p listens with `SO_REUSEPORT`, so that a second node on the same port would
/// start without a word and take half of the other's connections.
fn is_free(address: &Multiaddr) -> std::io::Result<()> {
    let mut parts = address.iter();
    let ip: std::net::IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => std::net::TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}
