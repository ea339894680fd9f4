//! Tells systemd how far the process is: one datagram to the socket named in `NOTIFY_SOCKET` (sd_notify(3)). Without that
//! variable nobody wants to know.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The node serves.
    Ready,
    /// It has begun to end.
    Stopping,
}

/// Tells it, if anybody wants to know. That this fails is no reason to end: the service manager has its own limits.
pub fn notify(state: State) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    let message: &[u8] = match state {
        State::Ready => b"READY=1",
        State::Stopping => b"STOPPING=1",
    };
    if let Err(error) = send(&socket, message) {
        tracing::warn!(%error, socket = %socket.display(), "cannot tell the service manager that this node is {state:?}");
    }
}

fn send(socket: &OsStr, message: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        // A name that is in no file system.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_are_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let name = format!("p2p-node-test-{}", std::process::id());
        let file = UnixDatagram::bind(&path).expect("a socket");
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let hidden = UnixDatagram::bind_addr(&address).expect("a socket");
        for (named, socket) in [(path.into_os_string(), file), (format!("@{name}").into(), hidden)] {
            send(&named, b"READY=1").expect("somebody listens");
            let mut buffer = [0; 64];
            let len = socket.recv(&mut buffer).expect("it has come");
            assert_eq!(&buffer[..len], b"READY=1", "{named:?}");
        }
        send(OsStr::new("/nonexistent/socket"), b"READY=1").expect_err("nobody is there");
    }
}
