//! The socket below yamux, which is not read while too much is unread, and not at all once the peer broke the rules.
//!
//! It follows the frames by their headers alone; what they mean is the library's business.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};

use super::ledger::Ledger;

/// Length of a frame's header: version, type, flags, stream, length; numbers in network order.
const HEADER_LEN: usize = 12;

pub(super) const KIND_DATA: u8 = 0;
pub(super) const KIND_WINDOW: u8 = 1;
const KIND_GO_AWAY: u8 = 3;
pub(super) const FLAG_SYN: u16 = 1;

pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Where one frame ends and the next begins, in one direction.
#[derive(Default)]
struct Frames {
    header: [u8; HEADER_LEN],
    have: usize,
    body_left: usize,
}

/// What a frame says about itself.
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) flags: u16,
    pub(super) stream: u32,
    /// Of its body where it has one; else another number.
    pub(super) len: usize,
}

impl Frames {
    fn between(&self) -> bool {
        self.have == 0 && self.body_left == 0
    }

    /// Follows some bytes; tells of every header among them.
    fn follow(&mut self, mut bytes: &[u8], mut on_header: impl FnMut(Header) -> io::Result<()>) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let skipped = self.body_left.min(bytes.len());
                self.body_left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEADER_LEN - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER_LEN {
                self.have = 0;
                let [_version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = self.header;
                let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
                // Only data has a body; in the others the length is another number.
                self.body_left = if kind == KIND_DATA { len } else { 0 };
                let (flags, stream) = (u16::from_be_bytes([f0, f1]), u32::from_be_bytes([s0, s1, s2, s3]));
                on_header(Header { kind, flags, stream, len })?;
            }
        }
        Ok(())
    }
}

/// The socket below yamux.
pub(super) struct Metered<C> {
    socket: C,
    ledger: Arc<Ledger>,
    incoming: Frames,
    outgoing: Frames,
    /// Yamux has told the peer that it broke the rules, and would go on.
    ended: bool,
}

impl<C> Metered<C> {
    pub(super) fn new(socket: C, ledger: Arc<Ledger>) -> Self {
        Self { socket, ledger, incoming: Frames::default(), outgoing: Frames::default(), ended: false }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Metered<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(Err(broken("the peer broke the rules of yamux")));
        }
        if this.incoming.between() && this.ledger.must_pause(cx) {
            return Poll::Pending;
        }
        let len = ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
        let ledger = &this.ledger;
        this.incoming.follow(&buf[..len], |header| ledger.come(&header))?;
        Poll::Ready(Ok(len))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Metered<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let len = ready!(Pin::new(&mut this.socket).poll_write(cx, buf))?;
        let ended = &mut this.ended;
        this.outgoing.follow(&buf[..len], |header| {
            // Any reason but 0, which is an end in order.
            *ended |= header.kind == KIND_GO_AWAY && header.len != 0;
            Ok(())
        })?;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}
