//! What was dropped, refused or given up between the wire and whoever uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::swarm::muxer::Unread;

/// Counters of the swarm. What is not here is counted by libp2p under `libp2p_swarm_`: dials that failed, and connections
/// that ended with the reason, such as one on which a peer opened too many streams.
#[derive(Debug, Default)]
pub(crate) struct NetCounters {
    /// Inbound connections whose handshake failed or took too long.
    pub(crate) handshakes_failed: AtomicU64,
    /// Inbound connections of hosts that have too many handshakes under way.
    pub(crate) handshakes_refused: AtomicU64,
    /// Connections beyond a limit.
    pub(crate) connections_denied: AtomicU64,
    /// Connections that could not be closed in order in time.
    pub(crate) connections_cut_short: AtomicU64,
    /// Inbound connections of hosts that have too many.
    pub(crate) connections_crowded: AtomicU64,
    /// What connections have brought and nobody has read.
    pub(crate) unread: Arc<Unread>,
    /// Lookups begun.
    pub(crate) lookups: AtomicU64,
    /// Lookups beyond the number that may be under way.
    pub(crate) lookups_refused: AtomicU64,
    /// Lookups that ended by their time limit, with what they had.
    pub(crate) lookups_timed_out: AtomicU64,
    /// Lookups for which a caller did not wait to the end.
    pub(crate) lookups_abandoned: AtomicU64,
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts so many more.
pub(crate) fn add(counter: &AtomicU64, many: u64) {
    counter.fetch_add(many, Ordering::Relaxed);
}
