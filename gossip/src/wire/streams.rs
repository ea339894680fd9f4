//! Opens and accepts substreams of one protocol on the connections of a swarm, and hands them out.
//!
//! The substreams are driven by whoever gets them, outside the swarm's loop, so that bulk never passes through it. Unlike
//! `libp2p-stream`, a failed dial answers the caller, several streams can be opened at once, and inbound streams that
//! nobody takes are counted and dropped rather than waited for (rust-libp2p#6157, #5651).

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use tokio::sync::{mpsc, oneshot};

use super::edges::Reserved;
use super::host_of;

/// Requests for streams that wait for the swarm.
const COMMANDS_MAX: usize = 256;

/// Callers that wait for one peer to be dialed.
const WAITING_PER_PEER_MAX: usize = 16;

/// Inbound streams that wait to be taken.
const INBOUND_QUEUE_LEN: usize = 64;

/// Longest time from asking for a stream to having it, dial included.
pub const OPEN_TIME_MAX: Duration = Duration::from_secs(10);

/// Why no stream could be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer could not be reached.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The peer does not speak the protocol.
    #[error("does not speak this protocol")]
    Unsupported,
    /// It took too long.
    #[error("no stream within {OPEN_TIME_MAX:?}")]
    TimedOut,
    /// Too many wait already.
    #[error("too many streams are being opened")]
    Busy,
    /// The swarm is gone.
    #[error("the node is stopping")]
    Stopped,
}

/// What was refused or given up.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Inbound streams that nobody took in time.
    pub inbound_dropped: AtomicU64,
    /// Callers turned away because too many wait for the same peer.
    pub opens_refused: AtomicU64,
    /// Streams that did not come within [`OPEN_TIME_MAX`].
    pub opens_timed_out: AtomicU64,
}

pub(super) type Reply = oneshot::Sender<Result<Stream, OpenError>>;

#[derive(Debug)]
struct Open {
    peer: PeerId,
    reply: Reply,
}

/// Asks for streams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    commands: mpsc::Sender<Open>,
    counters: Arc<StreamCounters>,
}

impl Control {
    /// Opens a stream to a peer, dialing it where there is no connection. Answers within [`OPEN_TIME_MAX`].
    ///
    /// # Errors
    /// Why there is none; nothing is left behind.
    pub async fn open(&self, peer: PeerId) -> Result<Stream, OpenError> {
        let (reply, answer) = oneshot::channel();
        let open = async {
            self.commands.send(Open { peer, reply }).await.map_err(|_gone| OpenError::Stopped)?;
            answer.await.unwrap_or(Err(OpenError::Stopped))
        };
        let opened = tokio::time::timeout(OPEN_TIME_MAX, open).await.unwrap_or(Err(OpenError::TimedOut));
        if matches!(opened, Err(OpenError::TimedOut)) {
            count(&self.counters.opens_timed_out);
        }
        opened
    }
}

/// A stream that a peer opened.
#[derive(Debug)]
pub struct Arrived {
    /// Who has opened it.
    pub peer: PeerId,
    /// Where the connection goes to, as far as its address says.
    pub host: Option<IpAddr>,
    /// The stream.
    pub stream: Stream,
}

/// Streams that peers opened, in order of arrival.
pub type Inbound = mpsc::Receiver<Arrived>;

/// The behaviour: one protocol, any number of peers.
pub struct Streams {
    protocol: StreamProtocol,
    commands: mpsc::Receiver<Open>,
    inbound: mpsc::Sender<Arrived>,
    counters: Arc<StreamCounters>,
    reserved: Reserved,
    connections: BTreeMap<PeerId, Vec<ConnectionId>>,
    waiting: BTreeMap<PeerId, Waiting>,
    events: VecDeque<ToSwarm<(), Reply>>,
}

/// Who waits for a connection that is being made.
struct Waiting {
    dial: ConnectionId,
    replies: Vec<Reply>,
}

impl Streams {
    /// A behaviour with the handle that opens streams and the queue of those that peers open. No stream is opened on a
    /// connection that is reserved.
    pub fn new(protocol: StreamProtocol, reserved: Reserved) -> (Self, Control, Inbound) {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (inbound, accepted) = mpsc::channel(INBOUND_QUEUE_LEN);
        let counters = Arc::<StreamCounters>::default();
        let control = Control { commands: sender, counters: counters.clone() };
        let behaviour = Self {
            protocol,
            commands,
            inbound,
            counters,
            reserved,
            connections: BTreeMap::new(),
            waiting: BTreeMap::new(),
            events: VecDeque::new(),
        };
        (behaviour, control, accepted)
    }

    /// What was refused or given up so far.
    pub fn counters(&self) -> Arc<StreamCounters> {
        self.counters.clone()
    }

    fn on_command(&mut self, Open { peer, reply }: Open) {
        let mut connections = self.connections.get(&peer).into_iter().flatten().rev();
        if let Some(connection) = connections.find(|connection| !self.reserved.contains(**connection)) {
            let handler = NotifyHandler::One(*connection);
            self.events.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: reply });
            return;
        }
        if let Some(Waiting { replies, .. }) = self.waiting.get_mut(&peer) {
            // Callers that gave up make room.
            replies.retain(|reply| !reply.is_closed());
            if replies.len() >= WAITING_PER_PEER_MAX {
                count(&self.counters.opens_refused);
                let _ = reply.send(Err(OpenError::Busy));
            } else {
                replies.push(reply);
            }
            return;
        }
        // Also where there are connections, or dials: they may be others' alone.
        let opts = DialOpts::peer_id(peer).condition(PeerCondition::Always).allocate_new_port().build();
        self.waiting.insert(peer, Waiting { dial: opts.connection_id(), replies: vec![reply] });
        self.events.push_back(ToSwarm::Dial { opts });
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId) {
        self.connections.entry(peer).or_default().push(connection);
        for reply in self.take_waiting(peer, connection) {
            let handler = NotifyHandler::One(connection);
            self.events.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: reply });
        }
    }

    /// Who has waited for this dial.
    fn take_waiting(&mut self, peer: PeerId, dial: ConnectionId) -> Vec<Reply> {
        if self.waiting.get(&peer).is_none_or(|waiting| waiting.dial != dial) {
            return Vec::new();
        }
        self.waiting.remove(&peer).map_or_else(Vec::new, |waiting| waiting.replies)
    }

    fn on_disconnected(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(all) = self.connections.get_mut(&peer) {
            all.retain(|other| *other != connection);
            if all.is_empty() {
                self.connections.remove(&peer);
            }
        }
    }

    fn on_dial_failure(&mut self, peer: PeerId, connection: ConnectionId, reason: &str) {
        for reply in self.take_waiting(peer, connection) {
            let _ = reply.send(Err(OpenError::Unreachable(reason.to_owned())));
        }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = ();

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone(), peer, remote))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone(), peer, remote))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                self.on_connected(peer_id, connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.on_disconnected(peer_id, connection_id);
            }
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), connection_id, error }) => {
                self.on_dial_failure(peer, connection_id, &error.to_string());
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        if self.inbound.try_send(event).is_err() {
            count(&self.counters.inbound_dropped);
            tracing::debug!(%peer, "dropped an inbound stream: too many wait");
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            match self.commands.poll_recv(cx) {
                Poll::Ready(Some(open)) => self.on_command(open),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One connection's part: asks for outbound substreams, passes inbound ones up.
pub struct Handler {
    protocol: StreamProtocol,
    peer: PeerId,
    host: Option<IpAddr>,
    wanted: VecDeque<Reply>,
    accepted: VecDeque<Stream>,
}

impl Handler {
    pub(super) fn new(protocol: StreamProtocol, peer: PeerId, remote: &Multiaddr) -> Self {
        Self { protocol, peer, host: host_of(remote), wanted: VecDeque::new(), accepted: VecDeque::new() }
    }

    fn upgrade(&self) -> ReadyUpgrade<StreamProtocol> {
        ReadyUpgrade::new(self.protocol.clone())
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Reply;
    type ToBehaviour = Arrived;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(self.upgrade(), ())
    }

    fn on_behaviour_event(&mut self, reply: Reply) {
        self.wanted.push_back(reply);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), Reply>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, info: () }) => {
                self.accepted.push_back(stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: reply }) => {
                // A caller that gave up gets nothing; dropping the stream closes it.
                let _ = reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                let _ = reply.send(Err(match error {
                    StreamUpgradeError::Timeout => OpenError::TimedOut,
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Io(error) => OpenError::Unreachable(error.to_string()),
                    StreamUpgradeError::Apply(never) => match never {},
                }));
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if let Some(stream) = self.accepted.pop_front() {
            let arrived = Arrived { peer: self.peer, host: self.host, stream };
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(arrived));
        }
        while let Some(reply) = self.wanted.pop_front() {
            if !reply.is_closed() {
                let protocol = SubstreamProtocol::new(self.upgrade(), reply);
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
        }
        Poll::Pending
    }
}
