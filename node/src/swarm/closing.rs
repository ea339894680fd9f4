//! Closing a connection takes little time, whatever the other side does.
//!
//! To close in order is to say so, and libp2p waits for that without a limit. To somebody who reads nothing any more,
//! because it is stopped or the line is cut, it can never be said: the connection would be counted as open for as long as
//! the system keeps trying.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use tokio::time::Sleep;

use super::counters::{NetCounters, count};

/// Longest orderly end of a connection; then it is dropped.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

/// A muxer that does not wait for ever when it is closed.
pub(super) struct Closing<M> {
    muxer: M,
    limit: Option<Pin<Box<Sleep>>>,
    counters: Arc<NetCounters>,
}

impl<M> Closing<M> {
    pub(super) fn new(muxer: M, counters: Arc<NetCounters>) -> Self {
        Self { muxer, limit: None, counters }
    }
}

impl<M: StreamMuxer + Unpin> StreamMuxer for Closing<M> {
    type Substream = M::Substream;
    type Error = M::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Substream, M::Error>> {
        Pin::new(&mut self.muxer).poll_inbound(cx)
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<M::Substream, M::Error>> {
        Pin::new(&mut self.muxer).poll_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        if let Poll::Ready(closed) = Pin::new(&mut self.muxer).poll_close(cx) {
            return Poll::Ready(closed);
        }
        let limit = self.limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIME_MAX)));
        ready!(limit.as_mut().poll(cx));
        count(&self.counters.connections_cut_short);
        Poll::Ready(Ok(()))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.muxer).poll(cx)
    }
}
