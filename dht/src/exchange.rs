//! Requests and answers about objects, over links to other members.
//!
//! Each side opens its own links: one to ask, one to push, so that bulk flows one way in each. [`client`] keeps them open
//! and matches answers to requests; [`server`] answers what others ask from the store.

pub mod client;
pub mod server;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use p2p_gossip::wire::{ClusterId, Hello, LinkConfig};

use crate::message::{VERSIONS, cap};
use crate::tree::ObjectRef;

/// Bytes that one link may have sent us and we have not consumed.
pub const LINK_CREDIT: u32 = 4 << 20;

/// A link on which nothing of ours moves for so long is given up.
pub const LINK_STALL_MAX: Duration = Duration::from_secs(20);

/// The cluster that this node is in; a fresh node may still be given to another one while it runs.
pub type CurrentCluster = tokio::sync::watch::Receiver<ClusterId>;

/// How links of this protocol behave.
fn link_config(cluster: &CurrentCluster) -> LinkConfig {
    let hello = Hello { cluster: *cluster.borrow(), versions: VERSIONS, capabilities: 0, credit: LINK_CREDIT };
    LinkConfig { hello, caps: cap, stall: LINK_STALL_MAX }
}

/// What was dropped or refused, and what was moved; one counter for every cap on what peers control.
#[derive(Debug, Default)]
pub struct Counters {
    /// Inbound streams beyond the number a peer, or all, may have.
    pub streams_refused: AtomicU64,
    /// Inbound streams that lost their place to others because nothing moved on them.
    pub streams_displaced: AtomicU64,
    /// Requests of peers that asked too fast, and whose next one had to wait.
    pub requests_paced: AtomicU64,
    /// Links ended because they held room that others waited for, and did nothing with it.
    pub links_hoarding: AtomicU64,
    /// Links ended because the peer broke the protocol.
    pub links_broken: AtomicU64,
    /// Links closed to make room for others, see [`client::PEERS_MAX`].
    pub links_evicted: AtomicU64,
    /// Links closed because they were not used, see [`client::LINK_IDLE_MAX`].
    pub links_idle: AtomicU64,
    /// Frames of unknown, ignorable types that were thrown away, counted when their link ends.
    pub frames_skipped: AtomicU64,
    /// Objects that did not match their reference, pushed to us or sent on our request.
    pub objects_bad: AtomicU64,
    /// Objects of this node that were found damaged on its disk.
    pub objects_damaged: AtomicU64,
    /// Those of them that are whole again.
    pub objects_mended: AtomicU64,
    /// Pushes refused for want of room.
    pub pushes_full: AtomicU64,
    /// Pushes and offers refused because as much is kept for their sender as for any one.
    pub pushes_over: AtomicU64,
    /// Puts refused for want of room on this node.
    pub puts_full: AtomicU64,
    /// Puts that reported fewer copies than asked for.
    pub puts_partial: AtomicU64,
    /// Uploads that were never finished and have expired.
    pub uploads_expired: AtomicU64,
    /// Requests that got no answer in time.
    pub requests_silent: AtomicU64,
    /// Objects asked of a second source because the first was slow.
    pub objects_hedged: AtomicU64,
    /// Objects taken from a slow source's queue for a faster one.
    pub objects_stolen: AtomicU64,
    /// Bytes of objects that came twice.
    pub bytes_duplicate: AtomicU64,
    /// Bytes of objects sent to others.
    pub bytes_sent: AtomicU64,
    /// Bytes of objects received from others.
    pub bytes_received: AtomicU64,
}

impl Counters {
    /// Takes note that a damaged object is whole again.
    pub(crate) fn mended(&self, reference: &ObjectRef) {
        count(&self.objects_mended);
        tracing::info!(object = ?reference.id, "an object that was damaged on the disk is mended");
    }
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Counts so many more.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
