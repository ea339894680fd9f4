//! Handshakes that one host may have under way: a place in the queue is all that a stranger can take, and nobody takes
//! them all.
//!
//! Who opens connections and says nothing holds a place for the length of a handshake. Beside the number of places for
//! everybody there is one for each host, so that the others still get theirs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::ListenFailure;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};

/// Inbound handshakes of one host that are under way: a quarter of those of all hosts. Nodes behind one translation of
/// addresses share them, and try again soon.
pub(crate) const HANDSHAKES_PER_HOST_MAX: usize = 32;

/// A host has too many handshakes under way.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{HANDSHAKES_PER_HOST_MAX} handshakes of this host are under way")]
pub(super) struct TooMany;

/// The behaviour: it only says no.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    pending: BTreeMap<ConnectionId, IpAddr>,
}

impl Strangers {
    fn admit(&mut self, connection: ConnectionId, remote: &Multiaddr) -> Result<(), TooMany> {
        let Some(host) = host_of(remote) else { return Ok(()) };
        if self.pending.values().filter(|other| **other == host).count() >= HANDSHAKES_PER_HOST_MAX {
            return Err(TooMany);
        }
        self.pending.insert(connection, host);
        Ok(())
    }
}

/// Who counts as one: an IPv4 address, and as IPv6 whatever one customer is given.
fn host_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Some(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
        }
        _ => None,
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
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(&connection);
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
        // Also when another behaviour has said no.
        if let FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) = event {
            self.pending.remove(&connection_id);
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
}
