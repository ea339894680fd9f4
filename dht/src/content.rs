//! The shell around puts and gets: runs the machines, does what they say, tells them what came of it.
//!
//! [`upload`] reads a stream into objects, `spread` brings copies of them to members, [`download`] brings a file's bytes to a reader, [`stat`]
//! counts copies. None of them decides anything that [`crate::put`] and [`crate::get`] could.

pub mod download;
pub mod mend;
mod spread;
mod standing;
pub mod stat;
pub mod upload;

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::Semaphore;

use crate::exchange::Counters;
use crate::exchange::client::Client;
use crate::store::{ObjectStore, StoreError};
use crate::tree::{PlacementKey, RootId};

use standing::Standings;

pub use download::{Download, GetOptions};
pub use mend::Watched;
pub use stat::Stat;
pub use upload::{PutOptions, Uploaded};

/// How often a machine is told that time passes.
const TICK: Duration = Duration::from_millis(100);

/// Who is there, as far as this node knows.
pub trait Locator: Clone + Send + Sync + 'static {
    /// This node.
    fn me(&self) -> PeerId;

    /// Every member that can be reached, this node included.
    fn members(&self) -> Vec<PeerId>;

    /// How many members there are at all, this node and those that cannot be reached included.
    fn known(&self) -> usize;

    /// The members closest to a key, best first, this node included where it is one of them.
    fn closest(&self, key: PlacementKey, count: usize) -> impl Future<Output = Vec<PeerId>> + Send;
}

/// Stores, fetches and counts content. Cheap to clone.
#[derive(Clone)]
pub struct Content<S, L> {
    store: Watched<S>,
    locator: L,
    client: Client,
    counters: Arc<Counters>,
    standings: Standings,
    /// Room for bytes that are being read in.
    reading: Arc<Semaphore>,
    /// Room for objects on their way to members.
    pushing: Arc<Semaphore>,
}

/// Why content could not be stored or fetched.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// See [`crate::get::GetError`].
    #[error(transparent)]
    Get(#[from] crate::get::GetError),
    /// An object of the file is damaged on this node's disk, and nobody else has sent it. The damaged bytes stay.
    #[error("the copy of {root} on this node's disk is damaged, and no other member sends it whole: {error}")]
    Damaged {
        /// The file.
        root: RootId,
        /// How the get ended.
        error: crate::get::GetError,
    },
    /// There is no room here. Nothing of it stays.
    #[error("the store of this node is full")]
    Full,
    /// The store failed. What had been acknowledged stays.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bytes to be stored broke off. Nothing of them stays.
    #[error("the upload broke off: {0}")]
    Source(std::io::Error),
    /// More bytes than the tree can name.
    #[error("the file is longer than a file can be")]
    TooLong,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

impl<S: ObjectStore, L: Locator> Content<S, L> {
    /// Content over a store, the members that the locator knows, and links to them.
    pub fn new(store: S, locator: L, client: Client, counters: Arc<Counters>) -> Self {
        let reading = Arc::new(Semaphore::new(upload::READING_LEN_MAX));
        let pushing = Arc::new(Semaphore::new(spread::PUSHING_LEN_MAX));
        let store = Watched::new(store, counters.clone());
        Self { store, locator, client, counters, standings: Standings::default(), reading, pushing }
    }

    /// The store.
    pub fn store(&self) -> &S {
        self.store.inner()
    }

    /// The store for others that read it, such as the server of other members: what they find damaged is mended.
    pub fn watched_store(&self) -> Watched<S> {
        self.store.clone()
    }
}

#[cfg(test)]
mod tests;
