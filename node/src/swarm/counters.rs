//! What was dropped, refused or given up between the wire and whoever uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::peers::Dropped;
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
    /// Connections that did not answer a ping in time.
    pub(crate) connections_silent: AtomicU64,
    /// Connections that could not be closed in order in time.
    pub(crate) connections_cut_short: AtomicU64,
    /// Inbound connections of hosts that have too many.
    pub(crate) connections_crowded: AtomicU64,
    /// What connections have brought and nobody has read.
    pub(crate) unread: Arc<Unread>,
    /// Lookups beyond the number that may be under way.
    pub(crate) lookups_refused: AtomicU64,
    /// Lookups that ended by their time limit, with what they had.
    pub(crate) lookups_timed_out: AtomicU64,
    /// Lookups for which a caller did not wait to the end.
    pub(crate) lookups_abandoned: AtomicU64,
    /// See [`Dropped::members`].
    pub(crate) members_forgotten: AtomicU64,
    /// See [`Dropped::strangers`].
    pub(crate) strangers_forgotten: AtomicU64,
    /// See [`Dropped::addresses`], and addresses of one message beyond those that are looked at.
    pub(crate) addresses_dropped: AtomicU64,
    /// See [`Dropped::named`].
    pub(crate) join_addresses_dropped: AtomicU64,
}

impl NetCounters {
    /// Adds what the list of members has dropped.
    pub(super) fn add(&self, dropped: Dropped) {
        let Dropped { members, strangers, addresses, named } = dropped;
        for (counter, amount) in [
            (&self.members_forgotten, members),
            (&self.strangers_forgotten, strangers),
            (&self.addresses_dropped, addresses),
            (&self.join_addresses_dropped, named),
        ] {
            counter.fetch_add(amount, Ordering::Relaxed);
        }
    }
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
