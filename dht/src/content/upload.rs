//! Puts: a stream of bytes becomes objects that are durable here, and copies of them elsewhere.
//!
//! Objects are held here under a *staging* upload until every copy is bound; the copies, one of which may be here too,
//! are pushed under an upload name of their own. What lacks copies is remembered in the store and taken up again after a
//! restart.

#![expect(clippy::disallowed_methods, reason = "the shell: reads the clock and draws names for the machines")]

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt};
use p2p_gossip::wire::Buffer;
use rand::Rng;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::spread::{Event, Names};
use super::{Content, ContentError, Locator};
use crate::blocking;
use crate::exchange::count;
use crate::hold::{self, Stored};
use crate::object::{Built, Group, Object, TreeBuilder, group_leaves};
use crate::put::{PutConfig, Report};
use crate::store::{ObjectStore, Pending, StoreError, StoreResult, UploadId};
use crate::tree::{GEOMETRY, Id, ObjectRef, PlacementKey, RootId};

/// Leaves that are being hashed or stored at once, of one put.
const LEAVES_AT_ONCE: usize = 16;

/// Bytes that are being hashed or stored at once, of all puts.
pub(super) const READING_LEN_MAX: usize = 32 << 20;

/// What a put asks for.
#[derive(Clone, Copy, Debug)]
pub struct PutOptions {
    /// Copies wanted.
    pub replicas: u32,
    /// Copies that make it a success.
    pub acks: u32,
    /// Longest time without progress before it reports what there is.
    pub stall: Duration,
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// The file.
    pub root: RootId,
    /// Its length in bytes.
    pub len: u64,
    /// How far it came; it goes on where that is not all.
    pub report: Report,
}

impl<S: ObjectStore, L: Locator> Content<S, L> {
    /// Stores the bytes of a stream here, spreads copies, and returns once enough of them are bound, or it is clear that
    /// they are not. Copies that lack are brought later. Dropping the future before the stream has ended leaves nothing.
    ///
    /// # Errors
    /// When the bytes cannot be stored here.
    pub async fn put<B>(&self, bytes: B, options: PutOptions) -> Result<Uploaded, ContentError>
    where
        B: Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    {
        let names = Names { staging: random_id(), copies: random_id() };
        let (events, spread_events) = mpsc::channel(64);
        let (report, reported) = oneshot::channel();
        let config = PutConfig { replicas: options.replicas, acks: options.acks, stall: options.stall };
        let spread = tokio::spawn(self.clone().spread(names, config, spread_events, Some(report)));
        let mut unfinished = Unfinished { content: self, names: Some(names), spread: spread.abort_handle() };
        let (root, len) = self.read_in(bytes, names.staging, &events).await?;
        let pending = Pending { staging: names.staging, copies: names.copies, root, len, replicas: options.replicas };
        let place = events.reserve().await.map_err(|_gone| ContentError::Stopping)?;
        self.store.write(0, move |tx| tx.add_pending(&pending)).await?;
        // From here on it goes on by itself, whoever waits for it: these two are one step.
        unfinished.names = None;
        place.send(Event::Complete(root));
        let report = reported.await.map_err(|_gone| ContentError::Stopping)?;
        if !report.enough {
            count(&self.counters.puts_partial);
        }
        Ok(Uploaded { root, len, report })
    }

    /// Takes up puts that lacked copies when the node last stopped. A put whose objects are not all here any more is left
    /// alone and said to be broken.
    pub async fn resume_puts(&self, pending: &[Pending], stall: Duration) {
        for put in pending {
            let groups = match self.groups_here(put.root, put.len).await {
                Ok(groups) => groups,
                Err(error) => {
                    tracing::error!(root = %put.root, %error, "an unfinished put cannot be taken up");
                    continue;
                }
            };
            let (events, spread_events) = mpsc::channel(64);
            let names = Names { staging: put.staging, copies: put.copies };
            // Nobody waits for its success, so it is one as soon as there is anything to settle.
            let config = PutConfig { replicas: put.replicas, acks: 1, stall };
            tokio::spawn(self.clone().spread(names, config, spread_events, None));
            let root = put.root;
            tokio::spawn(async move {
                for group in groups {
                    if events.send(Event::Group(group)).await.is_err() {
                        return;
                    }
                }
                let _ = events.send(Event::Complete(root)).await;
            });
        }
    }

    /// Cuts a stream into objects, stores them, and names groups as they become durable.
    async fn read_in<B>(
        &self,
        bytes: B,
        staging: UploadId,
        events: &mpsc::Sender<Event>,
    ) -> Result<(RootId, u64), ContentError>
    where
        B: Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    {
        let mut leaves = Leaves::new(bytes);
        let first = leaves.next().await?.unwrap_or_default();
        let Some(second) = leaves.next().await? else {
            return self.store_whole(first, staging, events).await;
        };
        let mut builder = TreeBuilder::new();
        let mut indexes = Vec::new();
        let mut under_way = FuturesOrdered::new();
        let mut offset = 0;
        for leaf in [first, second] {
            let start = offset;
            offset += leaf.len() as u64;
            under_way.push_back(self.store_leaf(leaf, start, staging, None));
        }
        let mut at_end = false;
        let mut waiting: Option<Bytes> = None;
        while !(at_end && waiting.is_none() && under_way.is_empty()) {
            tokio::select! {
                leaf = leaves.next(), if !at_end && waiting.is_none() => {
                    waiting = leaf?;
                    at_end = waiting.is_none();
                }
                room = self.room_for(&waiting), if waiting.is_some() && under_way.len() < LEAVES_AT_ONCE => {
                    let Some(leaf) = waiting.take() else { continue };
                    let start = offset;
                    offset += leaf.len() as u64;
                    under_way.push_back(self.store_leaf(leaf, start, staging, room));
                }
                Some(stored) = under_way.next() => {
                    let (leaf, _room) = stored?;
                    indexes.extend(self.take_built(builder.push(&leaf), staging, events).await?);
                }
            }
        }
        let finished = builder.finish();
        indexes.extend(self.take_built(finished.built, staging, events).await?);
        indexes.extend(finished.under_root);
        self.name(events, Group { key: PlacementKey(finished.root.0), objects: indexes }).await?;
        Ok((finished.root, finished.len))
    }

    /// A file of at most one leaf.
    async fn store_whole(
        &self,
        bytes: Bytes,
        staging: UploadId,
        events: &mpsc::Sender<Event>,
    ) -> Result<(RootId, u64), ContentError> {
        let object = blocking::run(move || Object::whole_file(bytes)).await;
        let reference = *object.reference();
        self.store_here(object, staging).await?;
        let Id::Root(root) = reference.id else { unreachable!("a whole file has a root") };
        self.name(events, Group { key: PlacementKey(root.0), objects: vec![reference] }).await?;
        Ok((root, reference.len))
    }

    /// Waits until one more leaf may be worked on, over all puts. The first two of each put need not wait, so that none is
    /// held up by others that are slow.
    async fn room_for(&self, leaf: &Option<Bytes>) -> Option<OwnedSemaphorePermit> {
        let len = leaf.as_ref().map_or(0, Bytes::len);
        let len = u32::try_from(len).expect("a leaf is far shorter");
        self.reading.clone().acquire_many_owned(len).await.ok()
    }

    /// Stores a leaf; it keeps its room until it has been taken in its turn.
    async fn store_leaf(
        &self,
        bytes: Bytes,
        offset: u64,
        staging: UploadId,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<(Object, Option<OwnedSemaphorePermit>), ContentError> {
        let leaf = blocking::run(move || Object::leaf(bytes, offset)).await;
        self.store_here(leaf.clone(), staging).await?;
        Ok((leaf, room))
    }

    /// Stores indexes and names extents that became complete; returns the indexes.
    async fn take_built(
        &self,
        built: Built,
        staging: UploadId,
        events: &mpsc::Sender<Event>,
    ) -> Result<Vec<ObjectRef>, ContentError> {
        let mut indexes = Vec::with_capacity(built.indexes.len());
        for index in built.indexes {
            indexes.push(*index.reference());
            self.store_here(index, staging).await?;
        }
        for extent in built.extents {
            self.name(events, extent).await?;
        }
        Ok(indexes)
    }

    async fn store_here(&self, object: Object, staging: UploadId) -> Result<(), ContentError> {
        let (len, reference) = (object.payload().len(), *object.reference());
        match self.store.write(len, move |tx| hold::store(tx, &object, Some(staging))).await {
            Ok(Stored::Stored) => Ok(()),
            Ok(Stored::Mended) => {
                self.counters.mended(&reference);
                Ok(())
            }
            Ok(Stored::Full) | Err(StoreError::DiskFull) => {
                count(&self.counters.puts_full);
                Err(ContentError::Full)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn name(&self, events: &mpsc::Sender<Event>, group: Group) -> Result<(), ContentError> {
        events.send(Event::Group(group)).await.map_err(|_gone| ContentError::Stopping)
    }

    /// The groups of a file whose objects are all here.
    async fn groups_here(&self, root: RootId, len: u64) -> StoreResult<Vec<Group>> {
        let mut under_root = vec![ObjectRef::root(root, len)];
        let mut groups = Vec::new();
        let mut queue = under_root.clone();
        while let Some(reference) = queue.pop() {
            let found = self.store.read(move |view| view.object(&reference)).await?;
            let object = found.ok_or(StoreError::Damaged(reference))?;
            let (leaves, indexes): (Vec<ObjectRef>, Vec<ObjectRef>) =
                object.children().into_iter().partition(|child| GEOMETRY.child_count(child.len) == 0);
            for group in group_leaves(&GEOMETRY, root, len, &leaves).into_iter().filter(|g| !g.objects.is_empty()) {
                if group.key == PlacementKey(root.0) {
                    under_root.extend(group.objects);
                } else {
                    groups.push(group);
                }
            }
            under_root.extend(&indexes);
            queue.extend(indexes);
        }
        groups.push(Group { key: PlacementKey(root.0), objects: under_root });
        Ok(groups)
    }
}

/// Cuts a stream of bytes of any lengths into leaves.
struct Leaves<B> {
    bytes: futures::stream::Fuse<B>,
    /// What has come of the next leaf, in pieces as they came, and how long they are together.
    pieces: VecDeque<Bytes>,
    pieces_len: usize,
    /// Where the next leaf begins.
    offset: u64,
}

impl<B: Stream<Item = std::io::Result<Bytes>> + Unpin> Leaves<B> {
    fn new(bytes: B) -> Self {
        Self { bytes: bytes.fuse(), pieces: VecDeque::new(), pieces_len: 0, offset: 0 }
    }

    /// The next leaf; None at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, ContentError> {
        let leaf_len = GEOMETRY.leaf_len as usize;
        while self.pieces_len < leaf_len {
            match self.bytes.next().await {
                Some(piece) => {
                    let piece = piece.map_err(ContentError::Source)?;
                    self.pieces_len += piece.len();
                    self.pieces.push_back(piece);
                }
                None => break,
            }
        }
        let leaf = self.take(self.pieces_len.min(leaf_len));
        self.offset += leaf.len() as u64;
        if self.offset > GEOMETRY.len_max() {
            return Err(ContentError::TooLong);
        }
        Ok(Some(leaf).filter(|leaf| !leaf.is_empty()))
    }

    /// Joins the first bytes of the pieces.
    fn take(&mut self, len: usize) -> Bytes {
        self.pieces_len -= len;
        let mut leaf = Buffer::new(len);
        let mut filled = 0;
        while filled < len {
            let mut piece = self.pieces.pop_front().expect("the pieces are as long as was counted");
            let used = piece.split_to(piece.len().min(len - filled));
            leaf[filled..filled + used.len()].copy_from_slice(&used);
            filled += used.len();
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
        }
        leaf.freeze()
    }
}

/// A put whose bytes are still being read; dropped, it leaves nothing.
struct Unfinished<'a, S: ObjectStore, L: Locator> {
    content: &'a Content<S, L>,
    names: Option<Names>,
    spread: tokio::task::AbortHandle,
}

impl<S: ObjectStore, L: Locator> Drop for Unfinished<'_, S, L> {
    fn drop(&mut self) {
        if let Some(Names { staging, copies }) = self.names {
            self.spread.abort();
            let content = self.content.clone();
            // Both: this node may be one of those that were to hold a copy.
            tokio::spawn(async move {
                content.settle(staging).await;
                content.settle(copies).await;
            });
        }
    }
}

fn random_id() -> UploadId {
    UploadId(rand::rng().random())
}
