//! What a failed dial means.

use std::io::ErrorKind;

use libp2p::Multiaddr;
use libp2p::swarm::DialError;

use crate::membership::contacts::{DialOutcome, split_peer};

/// Somebody was there, and is not any more.
const ENDED: [ErrorKind; 3] = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe];

/// No connection came about. Of its own type because the transports around it hide a plain system error from whoever asks
/// for the cause.
#[derive(Debug, thiserror::Error)]
#[error("no connection")]
pub(super) struct Unreachable(#[source] pub(super) std::io::Error);

/// Whether somebody was there.
pub(super) fn dial_outcome(error: &DialError) -> DialOutcome {
    match error {
        DialError::WrongPeerId { .. } | DialError::LocalPeerId { .. } => DialOutcome::OtherPeer,
        DialError::Transport(attempts) => {
            let refused = attempts.iter().any(|(_, error)| !is_unreachable(error));
            if refused { DialOutcome::Refused } else { DialOutcome::NoAnswer }
        }
        DialError::NoAddresses
        | DialError::DialPeerConditionFalse(_)
        | DialError::Aborted
        | DialError::Denied { .. } => DialOutcome::NoAnswer,
    }
}

/// How a dial of a member failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DialFailure {
    /// Whether somebody was there.
    pub(crate) outcome: DialOutcome,
    /// Addresses at which the system of another machine has said that nobody listens there.
    pub(crate) refused: Vec<Multiaddr>,
    /// Somebody was there, and was gone before the handshake was over.
    pub(crate) broke_off: bool,
}

impl DialFailure {
    pub(super) fn of(error: &DialError) -> Self {
        let outcome = dial_outcome(error);
        let DialError::Transport(attempts) = error else {
            return Self { outcome, refused: Vec::new(), broke_off: false };
        };
        let is = |error: &libp2p::TransportError<std::io::Error>, wanted: &[ErrorKind]| {
            let libp2p::TransportError::Other(error) = error else { return false };
            causes(error).any(|kind| wanted.contains(&kind))
        };
        let refused = attempts.iter().filter(|(_, error)| is(error, &[ErrorKind::ConnectionRefused]));
        Self {
            outcome,
            refused: refused.map(|(address, _)| split_peer(address).0).collect(),
            broke_off: attempts.iter().any(|(_, error)| is(error, &ENDED)),
        }
    }
}

/// The kinds of system errors among the causes of one.
fn causes(error: &std::io::Error) -> impl Iterator<Item = ErrorKind> + '_ {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    std::iter::from_fn(move || {
        while let Some(this) = cause {
            let io = this.downcast_ref::<std::io::Error>();
            cause = match io.and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => this.source(),
            };
            if let Some(io) = io {
                return Some(io.kind());
            }
        }
        None
    })
}

/// Whether a connection failed below the handshake: by an error of the system, or by silence.
fn is_unreachable(error: &libp2p::TransportError<std::io::Error>) -> bool {
    let libp2p::TransportError::Other(error) = error else { return true };
    let by_kind = |kind| {
        matches!(
            kind,
            ErrorKind::ConnectionRefused
                | ErrorKind::TimedOut
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::AddrNotAvailable
        ) || ENDED.contains(&kind)
    };
    // The time limit on a handshake has no type of its own.
    causes(error).any(by_kind) || error.to_string().contains("Timeout")
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;

    use futures::future::poll_fn;
    use libp2p::PeerId;
    use libp2p::TransportError;
    use libp2p::core::muxing::StreamMuxerBox;
    use libp2p::core::transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent};
    use libp2p::core::{Endpoint, Transport};
    use libp2p::identity::Keypair;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::admission::Admission;
    use crate::cluster::ClusterKey;
    use crate::swarm::setup::transport;

    fn failed(kind: ErrorKind) -> DialError {
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().expect("an address");
        let wrapped = std::io::Error::other(Unreachable(std::io::Error::from(kind)));
        DialError::Transport(vec![(address, TransportError::Other(std::io::Error::other(wrapped)))])
    }

    #[test]
    fn who_refuses_is_told_from_who_breaks_off_and_who_says_nothing() {
        for (kind, refused, broke_off) in [
            (ErrorKind::ConnectionRefused, 1, false),
            (ErrorKind::ConnectionReset, 0, true),
            (ErrorKind::UnexpectedEof, 0, true),
            (ErrorKind::TimedOut, 0, false),
        ] {
            let failure = DialFailure::of(&failed(kind));
            assert_eq!((failure.refused.len(), failure.broke_off), (refused, broke_off), "{kind:?}");
            assert_eq!(failure.outcome, DialOutcome::NoAnswer, "{kind:?}");
        }
        let failure = DialFailure::of(&failed(ErrorKind::InvalidData));
        assert_eq!((failure.outcome, failure.broke_off), (DialOutcome::Refused, false), "a handshake that fails");
    }

    fn transport_by(key: u8) -> Boxed<(PeerId, StreamMuxerBox)> {
        let admission =
            Admission::new(Keypair::generate_ed25519(), &[ClusterKey([key; 32])]).expect("a key that signs");
        transport(admission, None, &Arc::default())
    }

    /// How a dial fails while the other side does this.
    async fn dialed(address: Multiaddr, meet: impl Future<Output = ()>) -> DialFailure {
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let dial = transport_by(7).dial(address.clone(), options).expect("it dials");
        let error = tokio::join!(dial, meet).0.map(drop).expect_err("no handshake");
        DialFailure::of(&DialError::Transport(vec![(address, TransportError::Other(error))]))
    }

    /// How a dial fails of somebody who does this with the connection.
    async fn met(meet: impl AsyncFnOnce(TcpStream)) -> DialFailure {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let address = format!("/ip4/127.0.0.1/tcp/{port}").parse().expect("an address");
        dialed(address, async { meet(listener.accept().await.expect("somebody dials").0).await }).await
    }

    #[tokio::test]
    async fn who_has_another_key_was_there_and_refuses() {
        let mut other = transport_by(8);
        other.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse().expect("an address")).expect("it listens");
        let mut next = async || poll_fn(|cx| Pin::new(&mut other).poll(cx)).await;
        let TransportEvent::NewAddress { listen_addr, .. } = next().await else { panic!("it has an address first") };
        let meet = async {
            let TransportEvent::Incoming { upgrade, .. } = next().await else { panic!("somebody dials") };
            assert!(upgrade.await.is_err(), "with another key");
        };
        let failure = dialed(listen_addr, meet).await;
        assert_eq!((failure.outcome, failure.broke_off), (DialOutcome::Refused, false));
    }

    /// A process that is killed closes its sockets one after the other: who dials it in between is still accepted.
    #[tokio::test]
    async fn who_ends_in_the_middle_of_a_handshake_has_broken_off() {
        let at_once = met(async |met: TcpStream| drop(met)).await;
        let rudely = met(async |met: TcpStream| met.set_zero_linger().expect("set")).await;
        let later = met(async |mut met: TcpStream| {
            met.read_exact(&mut [0; 40]).await.expect("it says what it speaks");
            met.write_all(b"\x13/multistream/1.0.0\n").await.expect("taken");
        });
        for failure in [at_once, rudely, later.await] {
            assert_eq!((failure.outcome, failure.broke_off), (DialOutcome::NoAnswer, true));
        }
    }
}
