//! What was sent, dropped and refused of the map.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of the map's traffic; those of its transactions are [`crate::state::MapState`].
#[derive(Debug, Default)]
pub(crate) struct KvCounters {
    /// Frames that came along edges and were dropped, because too many waited.
    pub(crate) frames_dropped: AtomicU64,
    /// Frames for edges that were dropped, because the other did not read.
    pub(crate) outbound_dropped: AtomicU64,
    /// Edges and streams that were ended because what came made no sense.
    pub(crate) peers_broken: AtomicU64,
    /// Questions that this node has asked.
    pub(crate) questions_asked: AtomicU64,
    /// Questions of others that it has answered.
    pub(crate) questions_answered: AtomicU64,
    /// Streams of others that were refused, because there were too many.
    pub(crate) streams_refused: AtomicU64,
    /// Bytes of answers that were sent.
    pub(crate) answers_sent: AtomicU64,
    /// Bytes of answers that have come.
    pub(crate) answers_received: AtomicU64,
    /// Times that all that a peer had seen was here, after something was missing.
    pub(crate) caught_up: AtomicU64,
    /// Times that asking a peer came to nothing.
    pub(crate) failed: AtomicU64,
    /// Times that a peer held something else though it had seen the same.
    pub(crate) integrity: AtomicU64,
    /// Keys that were mended after that.
    pub(crate) mended: AtomicU64,
    /// Times that the map was built again of what was left.
    pub(crate) recovered: AtomicU64,
    /// Requests to confirm a write that were dropped, because too many waited.
    pub(crate) confirms_dropped: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
