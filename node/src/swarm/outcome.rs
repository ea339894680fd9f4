//! What a failed dial means.

use libp2p::swarm::DialError;

use crate::peers::DialOutcome;

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

/// Whether a connection failed below the handshake: by an error of the system, or by silence.
fn is_unreachable(error: &libp2p::TransportError<std::io::Error>) -> bool {
    use std::io::ErrorKind;
    let libp2p::TransportError::Other(error) = error else { return true };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(this) = cause {
        if let Some(io) = this.downcast_ref::<std::io::Error>() {
            let by_kind = matches!(
                io.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::TimedOut
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
                    | ErrorKind::AddrNotAvailable
                    | ErrorKind::ConnectionReset
                    | ErrorKind::UnexpectedEof
            );
            if by_kind {
                return true;
            }
            if let Some(inner) = io.get_ref() {
                cause = Some(inner);
                continue;
            }
        }
        cause = this.source();
    }
    // The time limit on a handshake has no type of its own.
    error.to_string().contains("Timeout")
}
