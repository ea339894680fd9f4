//! The socket below yamux, which is not read while too much is unread, and not at all once the peer broke the rules.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};

use super::frames::{Frames, KIND_GO_AWAY, broken};
use super::ledger::Ledger;

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
