//! Connections that can be cut and slowed, for networks that test what becomes of them.
//!
//! A cable lies between the handshake, which says who is at the other end, and the muxer, so that every byte of the
//! connection passes by it. Cut, it is silent: nothing is read and nothing written, nobody is told, and what is there
//! goes on when it is whole again, unless one of the two has lost its patience meanwhile. A new connection waits behind
//! its handshake, until the time limit on that ends it. There are cables only in nodes that let themselves be hurt.

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::future::{BoxFuture, FutureExt, poll_fn};
use futures::io::{AsyncRead, AsyncWrite};
use futures::task::AtomicWaker;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::{PeerId, noise};
use tokio::time::Sleep;

use super::pace::Pace;
use crate::admission::{Admission, AdmissionError, ProtocolName};

/// Bytes that a connection asks for at a time when the rate is bounded: few, so that connections take turns.
const PROMISED_LEN: usize = 16 << 10;

/// All cables of a node.
#[derive(Debug, Default)]
pub(crate) struct Cables {
    lines: Mutex<Lines>,
    paced: AtomicBool,
    /// How often the rate was set: who waits by an older one asks again.
    rates_set: AtomicU64,
}

#[derive(Debug, Default)]
struct Lines {
    cut: BTreeSet<PeerId>,
    pace: Option<Pace>,
    ends: Vec<Weak<End>>,
}

/// This node's end of one cable.
#[derive(Debug)]
struct End {
    peer: PeerId,
    cut: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl End {
    /// Pending as long as the cable is cut.
    fn poll_whole(&self, waker: &AtomicWaker, cx: &mut Context<'_>) -> Poll<()> {
        if !self.cut.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        waker.register(cx.waker());
        // It may have been mended before there was anybody to wake.
        if self.cut.load(Ordering::Acquire) { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Cables {
    /// Cuts the cables to these peers and mends all others; from now on all together carry at most `rate` bytes a second
    /// away from here.
    pub(crate) fn set(&self, cut: BTreeSet<PeerId>, rate: Option<u64>) {
        let mut lines = self.lock();
        lines.cut = cut;
        if lines.pace.as_ref().map(Pace::rate) != rate {
            lines.pace = rate.map(|rate| Pace::new(rate, Instant::now()));
            self.paced.store(rate.is_some(), Ordering::Release);
            self.rates_set.fetch_add(1, Ordering::Release);
        }
        for end in lines.ends.iter().filter_map(Weak::upgrade) {
            end.cut.store(lines.cut.contains(&end.peer), Ordering::Release);
            end.reader.wake();
            end.writer.wake();
        }
    }

    /// Lays a cable over a connection.
    fn lay<T>(self: &Arc<Self>, peer: PeerId, io: T) -> Cable<T> {
        let mut lines = self.lock();
        let cut = AtomicBool::new(lines.cut.contains(&peer));
        let end = Arc::new(End { peer, cut, reader: AtomicWaker::new(), writer: AtomicWaker::new() });
        lines.ends.retain(|end| end.strong_count() > 0);
        lines.ends.push(Arc::downgrade(&end));
        Cable { io, end, cables: self.clone(), allowed: 0, waiting: None, rates_seen: 0 }
    }

    /// When so many bytes may go out; None if that is not bounded.
    fn promise(&self, len: usize) -> Option<Instant> {
        self.lock().pace.as_mut().map(|pace| pace.promise(len, Instant::now()))
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that can be cut and slowed.
pub(crate) struct Cable<T> {
    io: T,
    end: Arc<End>,
    cables: Arc<Cables>,
    /// Bytes that may go out now.
    allowed: usize,
    /// Until what was promised may go out.
    waiting: Option<Pin<Box<Sleep>>>,
    rates_seen: u64,
}

impl<T> Cable<T> {
    /// Waits until the cable is whole.
    async fn whole(self) -> Self {
        poll_fn(|cx| self.end.poll_whole(&self.end.reader, cx)).await;
        self
    }

    /// How many of `len` bytes may go out now.
    fn poll_allowed(&mut self, len: usize, cx: &mut Context<'_>) -> Poll<usize> {
        if !self.cables.paced.load(Ordering::Acquire) {
            return Poll::Ready(len);
        }
        // Before the number is read, so that a change of the rate in between is not missed.
        self.end.writer.register(cx.waker());
        let rates_set = self.cables.rates_set.load(Ordering::Acquire);
        if self.rates_seen != rates_set {
            self.rates_seen = rates_set;
            self.allowed = 0;
            self.waiting = None;
        }
        while self.allowed == 0 {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
                self.allowed = PROMISED_LEN;
                break;
            }
            match self.cables.promise(PROMISED_LEN) {
                None => return Poll::Ready(len),
                Some(at) if at <= Instant::now() => self.allowed = PROMISED_LEN,
                Some(at) => self.waiting = Some(Box::pin(tokio::time::sleep_until(at.into()))),
            }
        }
        Poll::Ready(len.min(self.allowed))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Cable<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.end.poll_whole(&self.end.reader, cx));
        Pin::new(&mut self.io).poll_read(cx, buf)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.end.poll_whole(&self.end.reader, cx));
        Pin::new(&mut self.io).poll_read_vectored(cx, bufs)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Cable<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.end.poll_whole(&self.end.writer, cx));
        let len = ready!(self.poll_allowed(buf.len(), cx));
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &buf[..len]))?;
        self.allowed = self.allowed.saturating_sub(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.end.poll_whole(&self.end.writer, cx));
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.end.poll_whole(&self.end.writer, cx));
        Pin::new(&mut self.io).poll_close(cx)
    }
}

/// Admission that lays a cable over every connection.
#[derive(Clone)]
pub(super) struct Cabled {
    pub(super) admission: Admission,
    pub(super) cables: Arc<Cables>,
}

impl UpgradeInfo for Cabled {
    type Info = ProtocolName;
    type InfoIter = std::vec::IntoIter<ProtocolName>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.admission.protocol_info()
    }
}

type Secured<T> = (PeerId, Cable<noise::Output<T>>);

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<T> for Cabled {
    type Output = Secured<T>;
    type Error = AdmissionError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: T, name: ProtocolName) -> Self::Future {
        async move {
            let (peer, secured) = self.admission.upgrade_inbound(socket, name).await?;
            Ok((peer, self.cables.lay(peer, secured).whole().await))
        }
        .boxed()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<T> for Cabled {
    type Output = Secured<T>;
    type Error = AdmissionError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: T, name: ProtocolName) -> Self::Future {
        async move {
            let (peer, secured) = self.admission.upgrade_outbound(socket, name).await?;
            Ok((peer, self.cables.lay(peer, secured).whole().await))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::io::{AsyncReadExt, AsyncWriteExt, Cursor};
    use tokio::time::timeout;

    use super::*;

    /// Time stands still as long as anything can be done: within this, only those go on who were woken.
    const SOON: Duration = Duration::from_secs(1);

    fn laid(cables: &Arc<Cables>, peer: PeerId) -> Cable<Cursor<Vec<u8>>> {
        cables.lay(peer, Cursor::new(vec![7; 1 << 20]))
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_cut_cable_goes_on_as_soon_as_it_is_whole() {
        let (cables, peer) = (Arc::new(Cables::default()), PeerId::random());
        let (mut reading, mut writing, mut other) =
            (laid(&cables, peer), laid(&cables, peer), laid(&cables, PeerId::random()));
        cables.set([peer].into(), None);
        let new = laid(&cables, peer);
        let read = tokio::spawn(async move { reading.read_exact(&mut [0; 9]).await });
        let written = tokio::spawn(async move { writing.write_all(&[0; 9]).await });
        let up = tokio::spawn(async move { drop(new.whole().await) });
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!read.is_finished() && !written.is_finished() && !up.is_finished(), "nothing comes through");
        other.read_exact(&mut [0; 9]).await.expect("nobody else is cut off");
        cables.set(BTreeSet::new(), None);
        timeout(SOON, read).await.expect("woken").expect("no panic").expect("it reads");
        timeout(SOON, written).await.expect("woken").expect("no panic").expect("it writes");
        timeout(SOON, up).await.expect("woken").expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_by_a_rate_goes_on_as_soon_as_there_is_another_or_none() {
        for rate in [None, Some(1 << 30)] {
            let (cables, peer) = (Arc::new(Cables::default()), PeerId::random());
            let mut writing = laid(&cables, peer);
            cables.set(BTreeSet::new(), Some(1));
            let written = tokio::spawn(async move { writing.write_all(&vec![0; 1 << 20]).await });
            tokio::time::sleep(Duration::from_secs(3600)).await;
            assert!(!written.is_finished(), "a byte a second");
            cables.set(BTreeSet::new(), rate);
            timeout(SOON, written).await.expect("woken").expect("no panic").expect("it writes");
        }
    }

    #[test]
    fn cables_that_are_gone_are_forgotten() {
        let cables = Arc::new(Cables::default());
        (0..100).for_each(|_| drop(laid(&cables, PeerId::random())));
        assert!(cables.lock().ends.len() <= 1);
    }
}
