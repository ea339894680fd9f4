//! Handshakes that one host may have under way, and connections that it may have: places are all that a stranger can take,
//! and nobody takes them all.
//!
//! Who opens connections and says nothing holds a place for the length of a handshake; who has the key can make up any
//! number of members. Beside the number of places for everybody there is one for each host, so that the others still get
//! theirs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, ListenFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};
use p2p_gossip::wire::host_of;

/// Inbound handshakes of one host that are under way: a quarter of those of all hosts. Nodes behind one translation of
/// addresses share them, and try again soon.
pub(crate) const HANDSHAKES_PER_HOST_MAX: usize = 32;

/// Inbound connections of one host: a quarter of those of all hosts, and more than the nodes of a test network have among
/// each other on one machine.
pub(crate) const CONNECTIONS_PER_HOST_MAX: usize = 256;

/// A host has too many handshakes under way.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{HANDSHAKES_PER_HOST_MAX} handshakes of this host are under way")]
pub(super) struct TooMany;

/// A host has too many connections.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this host has {CONNECTIONS_PER_HOST_MAX} connections")]
pub(super) struct Crowded;

/// The behaviour: it only says no.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    pending: BTreeMap<ConnectionId, IpAddr>,
    established: BTreeMap<IpAddr, usize>,
}

impl Strangers {
    /// Whether a host that has passed a handshake may have one more connection.
    fn may_stay(&self, remote: &Multiaddr) -> Result<(), Crowded> {
        let connections = host_of(remote).and_then(|host| self.established.get(&host)).copied().unwrap_or(0);
        if connections >= CONNECTIONS_PER_HOST_MAX { Err(Crowded) } else { Ok(()) }
    }

    fn opened(&mut self, endpoint: &ConnectedPoint) {
        if let Some(host) = inbound_host(endpoint) {
            *self.established.entry(host).or_default() += 1;
        }
    }

    fn closed(&mut self, endpoint: &ConnectedPoint) {
        let Some(host) = inbound_host(endpoint) else { return };
        if let Some(connections) = self.established.get_mut(&host) {
            *connections -= 1;
            if *connections == 0 {
                self.established.remove(&host);
            }
        }
    }

    fn admit(&mut self, connection: ConnectionId, remote: &Multiaddr) -> Result<(), TooMany> {
        let Some(host) = host_of(remote) else { return Ok(()) };
        if self.pending.values().filter(|other| **other == host).count() >= HANDSHAKES_PER_HOST_MAX {
            return Err(TooMany);
        }
        self.pending.insert(connection, host);
        Ok(())
    }
}

/// The host that has connected to us, if it was not this node that did.
fn inbound_host(endpoint: &ConnectedPoint) -> Option<IpAddr> {
    match endpoint {
        ConnectedPoint::Listener { send_back_addr, .. } => host_of(send_back_addr),
        ConnectedPoint::Dialer { .. } => None,
    }
}

impl NetworkBehaviour for Strangers {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.admit(connection, remote).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(&connection);
        self.may_stay(remote).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            // Also when another behaviour has said no.
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => drop(self.pending.remove(&connection_id)),
            FromSwarm::ConnectionEstablished(ConnectionEstablished { endpoint, .. }) => self.opened(endpoint),
            FromSwarm::ConnectionClosed(ConnectionClosed { endpoint, .. }) => self.closed(endpoint),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    /// How many handshakes begin, if each comes from another port or, of the form with a place for it, another address.
    fn admitted(strangers: &mut Strangers, first: usize, form: &str) -> usize {
        let begins = |n: &usize| {
            let remote = address(&form.replace('N', &format!("{:x}", n + 1)).replace('P', &(n + 1).to_string()));
            strangers.admit(ConnectionId::new_unchecked(*n), &remote).is_ok()
        };
        (first..first + 1000).filter(begins).count()
    }

    #[test]
    fn one_host_takes_its_places_and_leaves_the_others_theirs() {
        let mut strangers = Strangers::default();
        assert_eq!(admitted(&mut strangers, 0, "/ip4/192.0.2.7/tcp/P"), HANDSHAKES_PER_HOST_MAX);
        assert_eq!(admitted(&mut strangers, 1000, "/ip4/192.0.2.8/tcp/P"), HANDSHAKES_PER_HOST_MAX);
        assert_eq!(
            admitted(&mut strangers, 2000, "/ip6/2001:db8:1:1::N/tcp/7"),
            HANDSHAKES_PER_HOST_MAX,
            "one network"
        );
        assert_eq!(admitted(&mut strangers, 3000, "/ip6/2001:db8:1:2::N/tcp/7"), HANDSHAKES_PER_HOST_MAX);
        // The end of a handshake, whichever, makes room.
        strangers.pending.remove(&ConnectionId::new_unchecked(0));
        assert_eq!(admitted(&mut strangers, 4000, "/ip4/192.0.2.7/tcp/P"), 1);
    }

    #[test]
    fn one_host_has_its_connections_and_leaves_the_others_theirs() {
        let mut strangers = Strangers::default();
        let from = |host: &str| ConnectedPoint::Listener {
            local_addr: address("/ip4/192.0.2.1/tcp/1"),
            send_back_addr: address(&format!("/ip4/{host}/tcp/2")),
        };
        for _ in 0..CONNECTIONS_PER_HOST_MAX {
            assert!(strangers.may_stay(&address("/ip4/192.0.2.7/tcp/3")).is_ok());
            strangers.opened(&from("192.0.2.7"));
        }
        assert!(strangers.may_stay(&address("/ip4/192.0.2.7/tcp/4")).is_err());
        assert!(strangers.may_stay(&address("/ip4/192.0.2.8/tcp/4")).is_ok());
        strangers.closed(&from("192.0.2.7"));
        assert!(strangers.may_stay(&address("/ip4/192.0.2.7/tcp/5")).is_ok());
        (1..CONNECTIONS_PER_HOST_MAX).for_each(|_| strangers.closed(&from("192.0.2.7")));
        assert!(strangers.established.is_empty(), "nothing is left of a host that is gone");
    }
}
