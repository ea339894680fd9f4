//! Yamux over an encrypted connection: with frames as long as the encryption takes in one piece, and with a bound on what
//! has come and was not read.
//!
//! libp2p's own wrapper of the same library sends frames of 16 KiB, with no way to say otherwise: four times as many frames,
//! each with its own wake-ups, encryption and system calls, and a quarter of the work of moving bulk data (ADR 7).
//!
//! The library takes in whatever a peer may send by the windows of its streams, 64 of 256 KiB or more, whether anybody reads
//! it or not, and pays for each frame of a single byte with some sixty. Here the [`ledger`] counts what is unread, and while
//! that is too much, [`metered`] leaves the socket alone: the peer's system keeps the rest, and nobody but this peer is held
//! up. A peer that breaks the rules of yamux loses its connection.

mod frames;
mod ledger;
mod metered;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::io::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use p2p_gossip::wire::WRITE_LEN_MAX;

use ledger::Ledger;
use metered::Metered;

pub(super) use ledger::Unread;

/// Substreams of one connection. Who opens more loses the connection.
const STREAMS_MAX: usize = 64;

/// Bytes that a peer may send on all streams of a connection before anybody reads them: the least that yamux allows for so
/// many streams, and room for the few on which bulk comes to grow. The ledger leaves far less of it in memory.
const WINDOW_LEN_MAX: usize = STREAMS_MAX * (256 << 10) + (16 << 20);

/// Streams that a peer has opened and this side has not taken yet; more are reset.
const ARRIVED_MAX: usize = STREAMS_MAX;

/// The upgrade to yamux, as libp2p knows it.
#[derive(Clone, Debug)]
pub(super) struct Yamux {
    unread: Arc<Unread>,
}

impl Yamux {
    /// Connections that share a bound on what nobody has read.
    pub(super) fn new(unread: Arc<Unread>) -> Self {
        Self { unread }
    }

    fn upgrade<C: AsyncRead + AsyncWrite + Send + Unpin + 'static>(self, io: C, mode: yamux::Mode) -> Muxer<C> {
        let mut config = yamux::Config::default();
        config
            .set_max_num_streams(STREAMS_MAX)
            .set_max_connection_receive_window(Some(WINDOW_LEN_MAX))
            .set_split_send_size(WRITE_LEN_MAX);
        let ledger = Ledger::new(self.unread, STREAMS_MAX);
        let connection = yamux::Connection::new(Metered::new(io, ledger.clone()), config, mode);
        Muxer { connection, ledger, arrived: VecDeque::new(), inbound: None }
    }
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_inbound(self, io: C, _: &'static str) -> Self::Future {
        ready(Ok(self.upgrade(io, yamux::Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Muxer<C>, Infallible>>;

    fn upgrade_outbound(self, io: C, _: &'static str) -> Self::Future {
        ready(Ok(self.upgrade(io, yamux::Mode::Client)))
    }
}

/// One connection.
pub(super) struct Muxer<C> {
    connection: yamux::Connection<Metered<C>>,
    ledger: Arc<Ledger>,
    /// Came while nobody had asked for one.
    arrived: VecDeque<Stream>,
    /// Who asked for one, and is to be told.
    inbound: Option<Waker>,
}

type Polled<T> = Poll<Result<T, yamux::ConnectionError>>;

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    /// Moves bytes of all streams, until a new one arrives.
    fn drive(&mut self, cx: &mut Context<'_>) -> Polled<Stream> {
        let arrived = self.connection.poll_next_inbound(cx);
        arrived.map(|arrived| {
            let stream = arrived.unwrap_or(Err(yamux::ConnectionError::Closed))?;
            Ok(Stream { stream, ledger: self.ledger.clone() })
        })
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = yamux::ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<Stream> {
        if let Some(stream) = self.arrived.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let polled = self.drive(cx);
        if polled.is_pending() {
            self.inbound = Some(cx.waker().clone());
        }
        polled
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<Stream> {
        self.connection.poll_new_outbound(cx).map_ok(|stream| {
            self.ledger.open(stream.id().val());
            Stream { stream, ledger: self.ledger.clone() }
        })
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<()> {
        self.connection.poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<StreamMuxerEvent> {
        // A bounded number in one call: others wait for their turn on this thread.
        for _ in 0..ARRIVED_MAX {
            let stream = match self.drive(cx) {
                Poll::Ready(Ok(stream)) => stream,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            // Dropped, it is reset.
            if self.arrived.len() < ARRIVED_MAX {
                self.arrived.push_back(stream);
            }
            if let Some(waker) = self.inbound.take() {
                waker.wake();
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A stream whose unread bytes are counted.
pub(super) struct Stream {
    stream: yamux::Stream,
    ledger: Arc<Ledger>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.ledger.close(self.stream.id().val());
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(len)) = read {
            self.ledger.read(self.stream.id().val(), len);
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests;
