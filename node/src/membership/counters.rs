//! What membership has sent, dropped and refused.

use std::sync::atomic::{AtomicU64, Ordering};

use p2p_gossip::swim::Counters;

/// Counters of membership.
#[derive(Debug, Default)]
pub(crate) struct MemberCounters {
    /// Frames that were sent.
    pub(crate) frames_sent: AtomicU64,
    /// Bytes of them, with their headers.
    pub(crate) bytes_sent: AtomicU64,
    /// Edges that ended by a breach of the protocol, a hello that was not acceptable, or a failed stream.
    pub(crate) edges_broken: AtomicU64,
    /// Edges that were ended because the other did not read what waited for it.
    pub(crate) edges_overflown: AtomicU64,
    /// Members that have connected and found no place, because too many names are known.
    pub(crate) names_refused: AtomicU64,
    /// Frames about members that are not known here.
    pub(crate) names_unknown: AtomicU64,
    /// Comparisons that were asked for while the last answer was not read yet.
    pub(crate) comparisons_refused: AtomicU64,
    /// Addresses to join by beyond a limit.
    pub(crate) contacts_dropped: AtomicU64,
    /// Members that were seen to come for the first time.
    pub(crate) joins: AtomicU64,
    /// Members that were seen to come back.
    pub(crate) returns: AtomicU64,
    /// Members that this node has begun to doubt.
    pub(crate) suspicions: AtomicU64,
    /// Members that were seen to be down.
    pub(crate) downs: AtomicU64,
    /// Members that were seen to leave.
    pub(crate) leaves: AtomicU64,
    /// Times that this node has denied that it is down.
    pub(crate) refutations: AtomicU64,
    /// Times that this node found itself cut off.
    pub(crate) isolations: AtomicU64,
    /// By how much a timer was late at most, in microseconds.
    pub(crate) lag_most: AtomicU64,
    /// See [`Counters::forged`].
    pub(crate) forged: AtomicU64,
    /// See [`Counters::unfit`].
    pub(crate) unfit: AtomicU64,
    /// See [`Counters::stale`].
    pub(crate) stale: AtomicU64,
    /// See [`Counters::unmet`].
    pub(crate) unmet: AtomicU64,
    /// See [`Counters::postponed`].
    pub(crate) postponed: AtomicU64,
    /// See [`Counters::full`].
    pub(crate) full: AtomicU64,
    /// See [`Counters::doubts_dropped`].
    pub(crate) doubts_dropped: AtomicU64,
}

impl MemberCounters {
    /// Takes over what the machine has counted.
    pub(super) fn take(&self, counted: Counters) {
        let Counters { forged, unfit, stale, unmet, postponed, full, doubts_dropped } = counted;
        for (counter, value) in [
            (&self.forged, forged),
            (&self.unfit, unfit),
            (&self.stale, stale),
            (&self.unmet, unmet),
            (&self.postponed, postponed),
            (&self.full, full),
            (&self.doubts_dropped, doubts_dropped),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
    }
}
