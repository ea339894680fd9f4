//! What a failed dial means.

use std::io::ErrorKind;

use libp2p::Multiaddr;
use libp2p::swarm::DialError;

use crate::membership::contacts::{DialOutcome, split_peer};

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
        let ended = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe];
        Self {
            outcome,
            refused: refused.map(|(address, _)| split_peer(address).0).collect(),
            broke_off: attempts.iter().any(|(_, error)| is(error, &ended)),
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
                | ErrorKind::ConnectionReset
                | ErrorKind::UnexpectedEof
        )
    };
    // The time limit on a handshake has no type of its own.
    causes(error).any(by_kind) || error.to_string().contains("Timeout")
}

#[cfg(test)]
mod tests {
    use libp2p::TransportError;

    use super::*;

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
}
