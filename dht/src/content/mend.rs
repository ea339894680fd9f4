//! Mending: what has changed on this node's disk comes again from a member that has it.
//!
//! Whoever reads through a [`Watched`] store finds damage without looking for it. It is noted in the store before the
//! reader hears of it: from then on the object does not count as there, and whoever brings its bytes mends it, be that a
//! push, a put or a get that keeps what it fetches. What nobody brings is fetched by [`Content::keep_whole`], with a get
//! like any other.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::sync::Notify;

use super::{Content, ContentError, GetOptions, Locator};
use crate::exchange::{Counters, count};
use crate::get::{GetError, Range};
use crate::hold::{self, Damage};
use crate::store::{ObjectStore, ObjectTx, ObjectView, Row, StoreError, StoreResult};
use crate::tree::{ObjectRef, RootId};

/// How often what could not be mended is tried again.
pub const MEND_PERIOD: Duration = Duration::from_secs(60);

/// Longest time without progress of a get that mends.
const MEND_STALL: Duration = Duration::from_secs(10);

/// Objects that are mended at once.
const MENDED_AT_ONCE: usize = 4;

/// Damaged objects that are taken from the store at a time.
const DAMAGED_PER_QUERY: u32 = 64;

/// A store whose damage is noted, whoever reads it. Cheap to clone.
#[derive(Clone)]
pub struct Watched<S> {
    store: S,
    found: Arc<Notify>,
    counters: Arc<Counters>,
}

impl<S: ObjectStore> Watched<S> {
    /// Watches a store.
    pub(super) fn new(store: S, counters: Arc<Counters>) -> Self {
        Self { store, found: Arc::default(), counters }
    }

    /// The store itself.
    pub(super) fn inner(&self) -> &S {
        &self.store
    }

    /// Takes note of damage; said and counted once for each object, however often it is read.
    async fn note(&self, reference: ObjectRef) {
        // The writer looks at the object again, so that nobody's word is taken for it.
        match self.store.write(0, move |tx| hold::note_damage(tx, &reference)).await {
            Ok(Damage::None | Damage::Known) => {}
            Ok(Damage::Gone) => {
                count(&self.counters.objects_damaged);
                tracing::warn!(object = ?reference.id, "a cached object was damaged on the disk, and is thrown away");
            }
            Ok(Damage::Held(files)) => {
                count(&self.counters.objects_damaged);
                tracing::error!(
                    object = ?reference.id,
                    ?files,
                    "an object is damaged on the disk: look at it; the bytes are fetched from another member"
                );
                self.found.notify_one();
            }
            Err(StoreError::Closed) => {}
            Err(error) => tracing::warn!(object = ?reference.id, %error, "cannot take note of a damaged object"),
        }
    }
}

impl<S: ObjectStore> ObjectStore for Watched<S> {
    // No rule but the one that notes damage reads a payload.
    async fn write<R: Send + 'static>(
        &self,
        weight: usize,
        rule: impl FnOnce(&mut dyn ObjectTx) -> StoreResult<R> + Send + 'static,
    ) -> StoreResult<R> {
        self.store.write(weight, rule).await
    }

    async fn read<R: Send + 'static>(
        &self,
        query: impl FnOnce(&mut dyn ObjectView) -> StoreResult<R> + Send + 'static,
    ) -> StoreResult<R> {
        let result = self.store.read(query).await;
        if let Err(StoreError::Damaged(reference)) = &result {
            self.note(*reference).await;
        }
        result
    }
}

impl<S: ObjectStore, L: Locator> Content<S, L> {
    /// Mends what is known to be damaged: now, whenever damage is found, and every [`MEND_PERIOD`]. Ends with the store.
    pub async fn keep_whole(self) {
        let mut period = tokio::time::interval(MEND_PERIOD);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.store.found.notified() => {}
                _ = period.tick() => {}
            }
            match self.mend_all().await {
                Ok(()) => {}
                Err(StoreError::Closed) => return,
                Err(error) => tracing::warn!(%error, "cannot mend what is damaged"),
            }
        }
    }

    async fn mend_all(&self) -> StoreResult<()> {
        let mut after = Row(i64::MIN);
        loop {
            let damaged = self.store.read(move |view| hold::damaged(view, after, DAMAGED_PER_QUERY)).await?;
            let Some((last, ..)) = damaged.last() else { return Ok(()) };
            after = *last;
            let mends = damaged.into_iter().map(|(_, reference, files)| self.mend(reference, files));
            stream::iter(mends).buffer_unordered(MENDED_AT_ONCE).collect::<()>().await;
        }
    }

    /// Gets so much of a file that holds an object that this object is fetched, which mends it.
    async fn mend(&self, reference: ObjectRef, files: Vec<RootId>) {
        // Every object that covers this byte is on the way to it.
        let end = reference.offset + reference.len.min(1);
        let range = if reference.len == 0 { Range::ALL } else { Range { start: reference.offset, end: Some(end) } };
        for root in files {
            let got = async {
                let mut download = self.get(root, GetOptions { range, cache: true, stall: MEND_STALL }).await?;
                while let Some(bytes) = download.next().await {
                    bytes?;
                }
                Ok::<(), ContentError>(())
            };
            match got.await {
                Ok(()) => return,
                Err(error) => tracing::debug!(object = ?reference.id, %root, %error, "not mended yet"),
            }
        }
    }

    /// Why a get failed, with this node's own damage if that has to do with it.
    pub(super) async fn reason(&self, root: RootId, error: GetError) -> ContentError {
        match error {
            GetError::OutOfRange(_) => return error.into(),
            GetError::NotFound { .. } | GetError::Stalled(_) => {}
        }
        match self.store.read(move |view| hold::is_damaged(view, &root)).await {
            Ok(true) => ContentError::Damaged { root, error },
            Ok(false) | Err(_) => error.into(),
        }
    }
}
