//! Connections of their own for one protocol, each with one stream: what members hear of each other does not wait behind bulk,
//! and a connection that ends says something of the process at its other end.
//!
//! A connection is an edge once the one who dialed it has opened the protocol's stream on it. [`Reserved`] names all of them,
//! so that other protocols leave them alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, NotifyHandler, Stream,
    StreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use tokio::sync::oneshot;

use super::streams::{Arrived, Handler, OpenError, Reply};

/// Connections that are edges, or are to become that.
#[derive(Clone, Debug, Default)]
pub struct Reserved(Arc<Mutex<BTreeSet<ConnectionId>>>);

impl Reserved {
    /// Whether a connection is for one protocol alone.
    pub fn contains(&self, connection: ConnectionId) -> bool {
        self.lock().contains(&connection)
    }

    fn insert(&self, connection: ConnectionId) {
        self.lock().insert(connection);
    }

    fn remove(&self, connection: ConnectionId) {
        self.lock().remove(&connection);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ConnectionId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happens to edges.
#[derive(Debug)]
pub enum EdgeEvent {
    /// There is one.
    Opened(Opened),
    /// One is gone.
    Closed(PeerId, ConnectionId),
    /// [`Edges::dial`] came to nothing: whoever was reached does not speak the protocol, or took too long.
    Failed(PeerId),
    /// [`Edges::reach`] has come to its end: where the peer was reached, if it was.
    Reached(PeerId, Option<Multiaddr>),
}

/// A new edge.
#[derive(Debug)]
pub struct Opened {
    /// Who is at the other end.
    pub peer: PeerId,
    /// Its connection.
    pub connection: ConnectionId,
    /// Where this node has dialed it; None where the other did.
    pub dialed: Option<Multiaddr>,
    /// Where the connection goes to, as far as its address says.
    pub host: Option<IpAddr>,
    /// Its stream.
    pub stream: Stream,
}

/// The behaviour.
pub struct Edges {
    protocol: StreamProtocol,
    dial_time_max: Duration,
    reserved: Reserved,
    dials: BTreeMap<ConnectionId, Dial>,
    edges: BTreeMap<ConnectionId, Edge>,
    addresses: BTreeMap<PeerId, Vec<Multiaddr>>,
    opening: FuturesUnordered<BoxFuture<'static, (ConnectionId, Result<Stream, OpenError>)>>,
    limits: FuturesUnordered<BoxFuture<'static, ConnectionId>>,
    events: VecDeque<ToSwarm<EdgeEvent, Reply>>,
}

/// A connection that this node is making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// To whom.
    pub peer: PeerId,
    /// Whether it is to become an edge; else it is only to be made.
    pub keep: bool,
    /// Whether one before it has broken off.
    pub again: bool,
    /// It took too long, and nobody waits for it any more.
    abandoned: bool,
}

struct Edge {
    peer: PeerId,
    dialed: Option<Multiaddr>,
    open: bool,
}

impl Edges {
    /// Edges of one protocol. A dial ends after `dial_time_max`, with the stream or without.
    pub fn new(protocol: StreamProtocol, dial_time_max: Duration) -> Self {
        Self {
            protocol,
            dial_time_max,
            reserved: Reserved::default(),
            dials: BTreeMap::new(),
            edges: BTreeMap::new(),
            addresses: BTreeMap::new(),
            opening: FuturesUnordered::new(),
            limits: FuturesUnordered::new(),
            events: VecDeque::new(),
        }
    }

    /// Which connections are edges, for those who look for another one.
    pub fn reserved(&self) -> Reserved {
        self.reserved.clone()
    }

    /// Makes an edge to a peer; answered by [`EdgeEvent::Opened`], [`EdgeEvent::Failed`], or a failed dial of the swarm.
    pub fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        self.begin(peer, addresses, true, false);
    }

    /// Likewise, after a dial that has broken off.
    pub fn dial_again(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        self.begin(peer, addresses, true, true);
    }

    /// Finds out whether a peer can be connected to, and keeps nothing; answered by [`EdgeEvent::Reached`] or a failed dial of
    /// the swarm.
    pub fn reach(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        self.begin(peer, addresses, false, false);
    }

    fn begin(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, keep: bool, again: bool) {
        let opts =
            DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::Always).allocate_new_port().build();
        let (connection, limit) = (opts.connection_id(), self.dial_time_max);
        self.dials.insert(connection, Dial { peer, keep, again, abandoned: false });
        self.reserved.insert(connection);
        self.limits.push(Box::pin(async move {
            tokio::time::sleep(limit).await;
            connection
        }));
        self.events.push_back(ToSwarm::Dial { opts });
    }

    /// Ends the connection of an edge.
    pub fn close(&mut self, peer: PeerId, connection: ConnectionId) {
        let connection = CloseConnection::One(connection);
        self.events.push_back(ToSwarm::CloseConnection { peer_id: peer, connection });
    }

    /// Where a peer can be reached, for whoever dials it without saying where. No addresses forget it.
    pub fn know(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        match addresses.is_empty() {
            true => drop(self.addresses.remove(&peer)),
            false => drop(self.addresses.insert(peer, addresses)),
        }
    }

    /// The swarm could not make a connection, as it tells its owner: the dial that this was, if somebody waits for it.
    pub fn dial_failed(&mut self, connection: ConnectionId) -> Option<Dial> {
        let dial = self.dials.remove(&connection)?;
        self.reserved.remove(connection);
        (!dial.abandoned).then_some(dial)
    }

    fn tell(&mut self, event: EdgeEvent) {
        self.events.push_back(ToSwarm::GenerateEvent(event));
    }

    fn on_established(&mut self, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let Some(Dial { peer, keep, abandoned, .. }) = self.dials.remove(&connection) else { return };
        if abandoned || !keep {
            self.close(peer, connection);
            if !abandoned {
                let address = endpoint.get_remote_address().clone();
                self.tell(EdgeEvent::Reached(peer, Some(address)));
            }
            return;
        }
        let dialed = Some(endpoint.get_remote_address().clone());
        self.edges.insert(connection, Edge { peer, dialed, open: false });
        let (reply, opened) = oneshot::channel();
        self.opening.push(Box::pin(async move { (connection, opened.await.unwrap_or(Err(OpenError::Stopped))) }));
        let handler = NotifyHandler::One(connection);
        self.events.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: reply });
    }

    /// A dial that did not even begin, of which the swarm tells nobody else.
    fn on_dial_failure(&mut self, connection: ConnectionId, error: &DialError) {
        let is_told = !matches!(
            error,
            DialError::NoAddresses
                | DialError::DialPeerConditionFalse(_)
                | DialError::Aborted
                | DialError::LocalPeerId { .. }
                | DialError::Denied { .. }
        );
        if is_told {
            return;
        }
        if let Some(Dial { peer, keep, .. }) = self.dial_failed(connection) {
            tracing::debug!(%peer, %error, "no edge");
            self.tell(if keep { EdgeEvent::Failed(peer) } else { EdgeEvent::Reached(peer, None) });
        }
    }

    fn on_closed(&mut self, connection: ConnectionId) {
        self.reserved.remove(connection);
        match self.edges.remove(&connection) {
            None => {}
            Some(Edge { peer, open: true, .. }) => self.tell(EdgeEvent::Closed(peer, connection)),
            Some(Edge { peer, open: false, .. }) => self.tell(EdgeEvent::Failed(peer)),
        }
    }

    fn on_opened(&mut self, connection: ConnectionId, opened: Result<Stream, OpenError>) {
        // Who was faster, the stream or the limit, has decided.
        let Some(edge) = self.edges.get_mut(&connection).filter(|edge| !edge.open) else { return };
        let peer = edge.peer;
        match opened {
            Ok(stream) => {
                edge.open = true;
                let dialed = edge.dialed.clone();
                let host = dialed.as_ref().and_then(super::host_of);
                self.tell(EdgeEvent::Opened(Opened { peer, connection, dialed, host, stream }));
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "no edge");
                self.give_up(connection);
            }
        }
    }

    fn give_up(&mut self, connection: ConnectionId) {
        if let Some(Edge { peer, .. }) = self.edges.remove(&connection) {
            self.close(peer, connection);
            self.tell(EdgeEvent::Failed(peer));
        }
    }

    /// A dial has had its time.
    fn on_limit(&mut self, connection: ConnectionId) {
        if self.edges.get(&connection).is_some_and(|edge| !edge.open) {
            return self.give_up(connection);
        }
        let Some(dial) = self.dials.get_mut(&connection) else { return };
        dial.abandoned = true;
        let Dial { peer, keep, .. } = *dial;
        self.tell(if keep { EdgeEvent::Failed(peer) } else { EdgeEvent::Reached(peer, None) });
    }
}

impl NetworkBehaviour for Edges {
    type ConnectionHandler = Handler;
    type ToSwarm = EdgeEvent;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone(), peer, remote))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        Ok(peer.and_then(|peer| self.addresses.get(&peer)).cloned().unwrap_or_default())
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
            FromSwarm::ConnectionEstablished(ConnectionEstablished { connection_id, endpoint, .. }) => {
                self.on_established(connection_id, endpoint);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => self.on_closed(connection_id),
            FromSwarm::DialFailure(DialFailure { connection_id, error, .. }) => {
                self.on_dial_failure(connection_id, error)
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        Arrived { host, stream, .. }: THandlerOutEvent<Self>,
    ) {
        // One stream on each connection, opened by whoever has made it.
        if self.edges.contains_key(&connection) || self.dials.contains_key(&connection) {
            tracing::debug!(%peer, "dropped a stream: there is one");
            return;
        }
        self.reserved.insert(connection);
        self.edges.insert(connection, Edge { peer, dialed: None, open: true });
        self.tell(EdgeEvent::Opened(Opened { peer, connection, dialed: None, host, stream }));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            if let Poll::Ready(Some((connection, opened))) = self.opening.poll_next_unpin(cx) {
                self.on_opened(connection, opened);
                continue;
            }
            if let Poll::Ready(Some(connection)) = self.limits.poll_next_unpin(cx) {
                self.on_limit(connection);
                continue;
            }
            return Poll::Pending;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::poll_fn;

    use super::*;

    fn edges() -> Edges {
        Edges::new(StreamProtocol::new("/test"), Duration::from_secs(1))
    }

    /// The next thing that the swarm is to do or to tell.
    async fn next(edges: &mut Edges) -> ToSwarm<EdgeEvent, Reply> {
        poll_fn(|cx| edges.poll(cx)).await
    }

    async fn dialed(edges: &mut Edges) -> ConnectionId {
        match next(edges).await {
            ToSwarm::Dial { opts } => opts.connection_id(),
            other => panic!("no dial: {other:?}"),
        }
    }

    fn nothing_is_left(edges: &Edges) -> bool {
        edges.dials.is_empty() && edges.edges.is_empty() && edges.reserved.lock().is_empty()
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_that_does_not_begin_is_told_at_once_and_nothing_is_left_of_it() {
        let (mut edges, peer) = (edges(), PeerId::random());
        for keep in [true, false] {
            if keep {
                edges.dial(peer, Vec::new())
            } else {
                edges.reach(peer, Vec::new())
            }
            let connection_id = dialed(&mut edges).await;
            assert!(edges.reserved().contains(connection_id));
            let error = DialError::NoAddresses;
            let failure = DialFailure { peer_id: Some(peer), connection_id, error: &error };
            edges.on_swarm_event(FromSwarm::DialFailure(failure));
            let told = next(&mut edges).await;
            match keep {
                true => assert!(matches!(told, ToSwarm::GenerateEvent(EdgeEvent::Failed(failed)) if failed == peer)),
                false => assert!(matches!(told, ToSwarm::GenerateEvent(EdgeEvent::Reached(_, None)))),
            }
            assert!(nothing_is_left(&edges));
            assert_eq!(edges.dial_failed(connection_id), None, "told once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_that_takes_too_long_is_given_up_and_closed_when_it_comes_all_the_same() {
        let (mut edges, peer) = (edges(), PeerId::random());
        edges.dial(peer, vec!["/ip4/192.0.2.1/tcp/1".parse().expect("an address")]);
        let connection_id = dialed(&mut edges).await;
        let told = next(&mut edges).await;
        assert!(matches!(told, ToSwarm::GenerateEvent(EdgeEvent::Failed(failed)) if failed == peer), "after a second");
        let endpoint = ConnectedPoint::Dialer {
            address: "/ip4/192.0.2.1/tcp/1".parse().expect("an address"),
            role_override: Endpoint::Dialer,
            port_use: PortUse::New,
        };
        let established = ConnectionEstablished {
            peer_id: peer,
            connection_id,
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established: 0,
        };
        edges.on_swarm_event(FromSwarm::ConnectionEstablished(established));
        assert!(matches!(next(&mut edges).await, ToSwarm::CloseConnection { peer_id, .. } if peer_id == peer));
        edges.on_closed(connection_id);
        assert!(nothing_is_left(&edges));
    }
}
