//! What has come on a connection and was read by nobody, stream by stream, and whether that is too much.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use super::frames::{FLAG_SYN, Header, KIND_DATA, KIND_WINDOW, broken};

/// Bytes of all connections together that have come and were not read.
const UNREAD_LEN_MAX: usize = 24 << 20;

/// The part of it that one connection may have, however few there are.
const UNREAD_PER_CONNECTION_MAX: usize = 1 << 20;

/// The part of it that one connection may have, however many there are.
const UNREAD_PER_CONNECTION_MIN: usize = 24 << 10;

/// Bytes that a frame takes beside its own, however short it is.
const FRAME_OVERHEAD: usize = 64;

/// Longest frame of data: a little more than members send ([`p2p_gossip::wire::WRITE_LEN_MAX`]).
const FRAME_LEN_MAX: usize = 64 << 10;

/// All connections, as far as this bound is concerned.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    connections: AtomicUsize,
    /// How often a socket was left alone for it.
    pub(crate) pauses: AtomicU64,
}

impl Unread {
    fn limit(&self) -> usize {
        let share = UNREAD_LEN_MAX / self.connections.load(Ordering::Relaxed).max(1);
        share.clamp(UNREAD_PER_CONNECTION_MIN, UNREAD_PER_CONNECTION_MAX)
    }
}

/// One connection.
pub(super) struct Ledger {
    all: Arc<Unread>,
    streams_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    streams: BTreeMap<u32, Of>,
    unread: usize,
    /// Of the socket's reader, while it waits.
    paused: Option<Waker>,
}

/// What of one stream is unread: its bytes, and what frames take beside them.
#[derive(Clone, Copy, Default)]
struct Of {
    bytes: usize,
    overhead: usize,
}

impl Ledger {
    pub(super) fn new(all: Arc<Unread>, streams_max: usize) -> Arc<Self> {
        all.connections.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { all, streams_max, state: Mutex::default() })
    }

    /// A stream of our own.
    pub(super) fn open(&self, id: u32) {
        self.lock().streams.insert(id, Of::default());
    }

    /// So much of a stream was read.
    pub(super) fn read(&self, id: u32, len: usize) {
        let mut state = self.lock();
        let Some(of) = state.streams.get_mut(&id) else { return };
        let before = of.bytes + of.overhead;
        of.bytes = of.bytes.saturating_sub(len);
        if of.bytes == 0 {
            of.overhead = 0;
        }
        let less = before - of.bytes - of.overhead;
        self.release(&mut state, less);
    }

    /// Nobody will read a stream any more.
    pub(super) fn close(&self, id: u32) {
        let mut state = self.lock();
        if let Some(Of { bytes, overhead }) = state.streams.remove(&id) {
            self.release(&mut state, bytes + overhead);
        }
    }

    /// Bytes that nobody has read, and what they take beside them.
    #[cfg(test)]
    pub(super) fn unread(&self) -> usize {
        self.lock().unread
    }

    fn release(&self, state: &mut State, len: usize) {
        state.unread -= len;
        if state.unread < self.all.limit() {
            state.paused.take().into_iter().for_each(Waker::wake);
        }
    }

    /// The header of a frame has come; an error where it breaks the rules.
    pub(super) fn come(&self, header: &Header) -> io::Result<()> {
        let is_data = header.kind == KIND_DATA;
        if is_data && header.len > FRAME_LEN_MAX {
            return Err(broken("a frame is longer than members send"));
        }
        let mut state = self.lock();
        if (is_data || header.kind == KIND_WINDOW) && header.flags & FLAG_SYN != 0 {
            if state.streams.len() >= self.streams_max {
                return Err(broken("too many streams"));
            }
            state.streams.entry(header.stream).or_default();
        }
        // What comes for a stream that is gone is thrown away by yamux.
        if is_data && let Some(of) = state.streams.get_mut(&header.stream) {
            of.bytes += header.len;
            of.overhead += FRAME_OVERHEAD;
            state.unread += header.len + FRAME_OVERHEAD;
        }
        Ok(())
    }

    /// Whether the next frame has to wait; whoever reads the socket is woken then.
    pub(super) fn must_pause(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        let pauses = state.unread >= self.all.limit();
        if pauses && state.paused.replace(cx.waker().clone()).is_none() {
            self.all.pauses.fetch_add(1, Ordering::Relaxed);
        }
        pauses
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.all.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
