//! Puts: a stream of bytes becomes objects that are durable here, and copies of them elsewhere.
//!
//! Objects are held here under a *staging* upload until every copy is bound; the copies, one of which may be here too,
//! are pushed under an upload name of their own. What lacks copies is remembered in the store and taken up again after a
//! restart.

#![expect(clippy::disallowed_methods, reason = "the shell: reads the clock and draws names for the machines")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesOrdered, FuturesUnordered};
use futures::{Stream, StreamExt};
use libp2p::PeerId;
use rand::Rng;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Content, ContentError, Locator, TICK};
use crate::blocking;
use crate::exchange::add;
use crate::exchange::client::Lane;
use crate::hold::{self, Bound, Stored};
use crate::message::{REFS_MAX, Reply, Request};
use crate::object::{Built, Group, Object, TreeBuilder, group_leaves};
use crate::placement;
use crate::put::{Effect, Input, Pushed, Put, PutConfig, Report};
use crate::store::{ObjectStore, Pending, StoreError, StoreResult, UploadId};
use crate::tree::{GEOMETRY, Id, ObjectRef, PlacementKey, RootId};

/// Leaves that are being hashed or stored at once, of one put.
const LEAVES_AT_ONCE: usize = 16;

/// Bytes that are being hashed or stored at once, of all puts.
pub(super) const READING_LEN_MAX: usize = 32 << 20;

/// Groups that are being pushed at once, of one put.
const GROUPS_AT_ONCE: usize = 6;

/// Objects of one group that are on their way to one member at once.
const PUSHES_AT_ONCE: usize = 4;

/// Bytes of objects that are on their way to members, of all puts.
pub(super) const PUSHING_LEN_MAX: usize = 24 << 20;

/// How often the machine of a put is told that time passes, once nobody waits for it any more.
const PATIENT_TICK: Duration = Duration::from_secs(1);

/// How often holders are told that an upload which is not bound is still going on.
const KEEP_PERIOD: Duration = Duration::from_secs(3600);

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

/// What the task that spreads a put is told.
enum Event {
    Group(Group),
    Complete(RootId),
}

/// Names of one put.
#[derive(Clone, Copy)]
struct Names {
    staging: UploadId,
    copies: UploadId,
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
        let mut unfinished = Unfinished { content: self, staging: Some(names.staging), spread: spread.abort_handle() };
        let (root, len) = self.read_in(bytes, names.staging, &events).await?;
        let pending = Pending { staging: names.staging, copies: names.copies, root, len, replicas: options.replicas };
        self.store.write(0, move |tx| tx.add_pending(&pending)).await?;
        // From here on it goes on by itself, whoever waits for it.
        unfinished.staging = None;
        events.send(Event::Complete(root)).await.map_err(|_gone| ContentError::Stopping)?;
        let report = reported.await.map_err(|_gone| ContentError::Stopping)?;
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
        let mut leaves = Leaves { bytes: bytes.fuse(), buffer: BytesMut::new(), offset: 0 };
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
            under_way.push_back(self.store_leaf(leaf, start, staging));
        }
        let mut at_end = false;
        while !(at_end && under_way.is_empty()) {
            tokio::select! {
                leaf = leaves.next(), if !at_end && under_way.len() < LEAVES_AT_ONCE => match leaf? {
                    Some(leaf) => {
                        let start = offset;
                        offset += leaf.len() as u64;
                        under_way.push_back(self.store_leaf(leaf, start, staging));
                    }
                    None => at_end = true,
                },
                Some(leaf) = under_way.next() => {
                    indexes.extend(self.take_built(builder.push(&leaf?), staging, events).await?);
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

    async fn store_leaf(&self, bytes: Bytes, offset: u64, staging: UploadId) -> Result<Object, ContentError> {
        let len = u32::try_from(bytes.len()).expect("a leaf is far shorter");
        let _room = self.reading.acquire_many(len).await;
        let leaf = blocking::run(move || Object::leaf(bytes, offset)).await;
        self.store_here(leaf.clone(), staging).await?;
        Ok(leaf)
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
        let len = object.payload().len();
        match self.store.write(len, move |tx| hold::store(tx, &object, Some(staging))).await {
            Ok(Stored::Stored) => Ok(()),
            Ok(Stored::Full) | Err(StoreError::DiskFull) => Err(ContentError::Full),
            Err(error) => Err(error.into()),
        }
    }

    async fn name(&self, events: &mpsc::Sender<Event>, group: Group) -> Result<(), ContentError> {
        events.send(Event::Group(group)).await.map_err(|_gone| ContentError::Stopping)
    }

    /// Runs the machine of one put until it has settled.
    async fn spread(
        self,
        names: Names,
        config: PutConfig,
        mut events: mpsc::Receiver<Event>,
        mut report: Option<oneshot::Sender<Report>>,
    ) {
        let mut put = Put::new(config, Instant::now());
        let mut groups: BTreeMap<PlacementKey, Arc<[ObjectRef]>> = BTreeMap::new();
        let mut under_way = FuturesUnordered::new();
        let slots = Arc::new(Semaphore::new(GROUPS_AT_ONCE));
        let mut tick = ticks(TICK);
        let mut keep_at = Instant::now() + KEEP_PERIOD;
        let mut holders: BTreeSet<PeerId> = BTreeSet::new();
        let mut complete = false;
        loop {
            let input = tokio::select! {
                event = events.recv(), if !complete => match event {
                    Some(Event::Group(group)) => {
                        let count = group.objects.len() as u64;
                        groups.insert(group.key, group.objects.into());
                        Input::Group(group.key, count)
                    }
                    Some(Event::Complete(root)) => {
                        complete = true;
                        Input::Complete(root)
                    }
                    // The put failed before its end: what was pushed expires by itself.
                    None => return,
                },
                Some(input) = under_way.next() => input,
                _ = tick.tick() => Input::Tick,
            };
            let now = Instant::now();
            if now >= keep_at {
                keep_at = now + KEEP_PERIOD;
                self.keep(names.copies, &holders).await;
            }
            for effect in put.handle(input, now) {
                match effect {
                    Effect::Report(reached) => {
                        if let Some(report) = report.take() {
                            let _ = report.send(reached);
                        }
                        // Nobody waits any more.
                        tick = ticks(PATIENT_TICK);
                    }
                    Effect::Settled => return self.settle(names.staging).await,
                    Effect::Push(key, peer) => {
                        holders.insert(peer);
                        let objects = groups.get(&key).cloned().unwrap_or_default();
                        let work = Work::Push(key, peer, objects, slots.clone());
                        under_way.push(self.work(work, names, config.replicas));
                    }
                    Effect::Locate(key) => under_way.push(self.work(Work::Locate(key), names, config.replicas)),
                    Effect::Bind(peer, root, objects) => {
                        under_way.push(self.work(Work::Bind(peer, root, objects), names, config.replicas));
                    }
                }
            }
        }
    }

    /// Does one thing that the machine asked for.
    async fn work(&self, work: Work, names: Names, replicas: u32) -> Input {
        match work {
            Work::Locate(key) => {
                let count = placement::candidate_count(replicas);
                Input::Located(key, self.locator.closest(key, count).await, self.locator.known())
            }
            Work::Push(key, peer, objects, slots) => {
                let _slot = slots.acquire().await;
                let pushed = self.push_group(peer, names.copies, &objects).await;
                Input::Pushed(key, peer, pushed)
            }
            Work::Bind(peer, root, objects) => Input::Bound(peer, self.bind(peer, names.copies, root, objects).await),
        }
    }

    async fn push_group(&self, peer: PeerId, upload: UploadId, objects: &[ObjectRef]) -> Pushed {
        for some in objects.chunks(REFS_MAX) {
            let pushed = self.push_some(peer, upload, some).await;
            if pushed != Pushed::Held {
                return pushed;
            }
        }
        Pushed::Held
    }

    /// Offers some objects to a member, and sends those it lacks.
    async fn push_some(&self, peer: PeerId, upload: UploadId, objects: &[ObjectRef]) -> Pushed {
        let offered = objects.to_vec();
        let wanted = if peer == self.locator.me() {
            self.store.write(0, move |tx| hold::offer(tx, upload, &offered)).await.ok()
        } else {
            match self.client.ask(peer, Lane::Push, Request::Offer(upload, offered)).await {
                Ok(Reply::Flags(wanted)) if wanted.len() == objects.len() => Some(wanted),
                Ok(other) => {
                    tracing::debug!(%peer, ?other, "answered an offer with something else");
                    None
                }
                Err(error) => {
                    tracing::debug!(%peer, %error, "an offer was not answered");
                    None
                }
            }
        };
        let Some(wanted) = wanted else { return Pushed::Failed };
        let wanted: Vec<ObjectRef> =
            objects.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(reference, _)| *reference).collect();
        let mut wanted = wanted.into_iter();
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < PUSHES_AT_ONCE
                && let Some(reference) = wanted.next()
            {
                under_way.push(self.push_one(peer, upload, reference));
            }
            match under_way.next().await {
                Some(Pushed::Held) => {}
                Some(other) => return other,
                None => return Pushed::Held,
            }
        }
    }

    async fn push_one(&self, peer: PeerId, upload: UploadId, reference: ObjectRef) -> Pushed {
        if peer == self.locator.me() {
            // Its own offer said that the object is not here: it was held, so the disk has lost it.
            tracing::error!(?reference, "an object that is held is not in the store");
            return Pushed::Failed;
        }
        let room = u32::try_from(reference.len.min(GEOMETRY.payload_len_max())).expect("a payload is far shorter");
        let _room = self.pushing.acquire_many(room).await;
        let object = match self.store.read(move |view| view.object(&reference)).await {
            Ok(Some(object)) => object,
            Ok(None) => return Pushed::Failed,
            Err(error) => {
                tracing::warn!(%error, "cannot read an object to push it");
                return Pushed::Failed;
            }
        };
        let bytes = object.payload().clone();
        let len = bytes.len() as u64;
        drop(object);
        match self.client.ask(peer, Lane::Push, Request::Push(upload, reference, bytes)).await {
            Ok(Reply::Stored) => {
                add(&self.counters.bytes_sent, len);
                Pushed::Held
            }
            Ok(Reply::Full) => Pushed::Full,
            Ok(other) => {
                tracing::debug!(%peer, ?other, "refused a push");
                Pushed::Failed
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "a push was not answered");
                Pushed::Failed
            }
        }
    }

    async fn bind(&self, peer: PeerId, upload: UploadId, root: RootId, objects: u64) -> Option<Bound> {
        if peer == self.locator.me() {
            return self.store.write(0, move |tx| hold::bind(tx, upload, root, objects)).await.ok();
        }
        match self.client.ask(peer, Lane::Push, Request::Bind(upload, root, objects)).await {
            Ok(Reply::Bound) => Some(Bound::Bound),
            Ok(Reply::Missing(held)) => Some(Bound::Missing(held)),
            Ok(_) | Err(_) => None,
        }
    }

    async fn keep(&self, upload: UploadId, holders: &BTreeSet<PeerId>) {
        for peer in holders.iter().filter(|peer| **peer != self.locator.me()) {
            if let Err(error) = self.client.ask(*peer, Lane::Push, Request::Keep(upload)).await {
                tracing::debug!(%peer, %error, "cannot say that an upload goes on");
            }
        }
        if let Err(error) = self.store.write(0, move |tx| hold::keep(tx, upload)).await {
            tracing::warn!(%error, "cannot note that an upload goes on");
        }
    }

    /// Lets go of what was held here for a put: all its copies are where they belong.
    async fn settle(&self, staging: UploadId) {
        loop {
            match self.store.write(0, move |tx| hold::settle(tx, staging)).await {
                Ok(true) | Err(StoreError::Closed) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot let go of an upload; it is taken up again after a restart");
                    return;
                }
            }
        }
    }

    /// The groups of a file whose objects are all here.
    async fn groups_here(&self, root: RootId, len: u64) -> StoreResult<Vec<Group>> {
        let mut under_root = vec![ObjectRef::root(root, len)];
        let mut groups = Vec::new();
        let mut queue = under_root.clone();
        while let Some(reference) = queue.pop() {
            let found = self.store.read(move |view| view.object(&reference)).await?;
            let object = found.ok_or(StoreError::Damaged(reference.id))?;
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

enum Work {
    Locate(PlacementKey),
    Push(PlacementKey, PeerId, Arc<[ObjectRef]>, Arc<Semaphore>),
    Bind(PeerId, RootId, u64),
}

/// Cuts a stream of bytes of any lengths into leaves.
struct Leaves<B> {
    bytes: futures::stream::Fuse<B>,
    buffer: BytesMut,
    offset: u64,
}

impl<B: Stream<Item = std::io::Result<Bytes>> + Unpin> Leaves<B> {
    /// The next leaf; None at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, ContentError> {
        let leaf_len = GEOMETRY.leaf_len as usize;
        while self.buffer.len() < leaf_len {
            match self.bytes.next().await {
                Some(part) => self.buffer.extend_from_slice(&part.map_err(ContentError::Source)?),
                None => break,
            }
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let leaf = self.buffer.split_to(self.buffer.len().min(leaf_len)).freeze();
        self.offset += leaf.len() as u64;
        if self.offset > GEOMETRY.len_max() {
            return Err(ContentError::TooLong);
        }
        Ok(Some(leaf))
    }
}

/// A put whose bytes are still being read; dropped, it leaves nothing.
struct Unfinished<'a, S: ObjectStore, L: Locator> {
    content: &'a Content<S, L>,
    staging: Option<UploadId>,
    spread: tokio::task::AbortHandle,
}

impl<S: ObjectStore, L: Locator> Drop for Unfinished<'_, S, L> {
    fn drop(&mut self) {
        if let Some(staging) = self.staging {
            self.spread.abort();
            let content = self.content.clone();
            tokio::spawn(async move { content.settle(staging).await });
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

fn random_id() -> UploadId {
    UploadId(rand::rng().random())
}
