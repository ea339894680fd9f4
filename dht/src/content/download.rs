//! Gets: the bytes of a file, from wherever they are, to a reader.

#![expect(clippy::disallowed_methods, reason = "the shell: reads the clock for the machine")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use libp2p::PeerId;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use super::{Content, ContentError, Locator, TICK};
use crate::blocking;
use crate::exchange::client::{AskError, Lane};
use crate::exchange::{add, count};
use crate::get::{Effect, Get, GetConfig, Input, Outcome, Part, Range, SOURCE_SILENT_MAX, WINDOW_LEN, Wanted};
use crate::hold;
use crate::message::{Reply, Request};
use crate::object::Object;
use crate::placement::READ_CANDIDATES;
use crate::store::ObjectStore;
use crate::tree::{GEOMETRY, ObjectRef, PlacementKey, RootId};

/// Objects that are asked of one source at once, for one part.
const REQUESTS_AT_ONCE: usize = 8;

/// Objects that wait to be kept as cache, of one get.
const CACHED_AT_ONCE: usize = 16;

/// What a get asks for.
#[derive(Clone, Copy, Debug)]
pub struct GetOptions {
    /// Which bytes.
    pub range: Range,
    /// Whether what is fetched stays as cache.
    pub cache: bool,
    /// Longest time without progress, in the search and in the transfer.
    pub stall: Duration,
}

/// Content on its way.
#[derive(Debug)]
pub struct Download {
    /// Length of the whole file in bytes.
    pub file_len: u64,
    bytes: mpsc::Receiver<Result<Bytes, ContentError>>,
}

impl Download {
    /// The next bytes in order, or None at the end. After an error nothing more comes.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn next(&mut self) -> Option<Result<Bytes, ContentError>> {
        self.bytes.recv().await
    }
}

impl<S: ObjectStore, L: Locator> Content<S, L> {
    /// Finds a file and begins to bring its bytes; returns once the first are here. Dropping the result ends it.
    ///
    /// # Errors
    /// When it cannot be found, or nothing of it can be had.
    pub async fn get(&self, root: RootId, options: GetOptions) -> Result<Download, ContentError> {
        let (mut begun, range) = self.begin(root, Wanted::Bytes(options.range), options.cache, options.stall).await?;
        let (sender, bytes) = mpsc::channel(1);
        let file_len = begun.file_len;
        let end = range.end.unwrap_or(file_len).min(file_len);
        tokio::spawn(async move {
            while let Some(object) = begun.objects.recv().await {
                let clipped = object.map(|object| clip(&object, range.start, end));
                if sender.send(clipped).await.is_err() {
                    return;
                }
            }
        });
        Ok(Download { file_len, bytes })
    }

    /// All indexes of a file, or its only leaf: what names its objects.
    ///
    /// # Errors
    /// When the file cannot be found, or one of them cannot be had.
    pub(super) async fn indexes(&self, root: RootId, stall: Duration) -> Result<Vec<Object>, ContentError> {
        let (mut begun, _) = self.begin(root, Wanted::Indexes, true, stall).await?;
        let mut indexes = Vec::new();
        while let Some(object) = begun.objects.recv().await {
            indexes.push(object?);
        }
        Ok(indexes)
    }

    async fn begin(
        &self,
        root: RootId,
        wanted: Wanted,
        cache: bool,
        stall: Duration,
    ) -> Result<(Begun, Range), ContentError> {
        let range = match wanted {
            Wanted::Bytes(range) => range,
            Wanted::Indexes => Range::ALL,
        };
        let config = GetConfig { me: self.locator.me(), stall, window: WINDOW_LEN, geometry: GEOMETRY };
        let (found, begun) = oneshot::channel();
        let (deliver, objects) = mpsc::channel(1);
        let get = Get::new(config, root, wanted, Instant::now());
        let run = Run {
            content: self.clone(),
            root,
            cache: cache.then(|| Arc::new(Semaphore::new(CACHED_AT_ONCE))),
            tasks: JoinSet::new(),
            fetching: BTreeMap::new(),
            moved: BTreeMap::new(),
            deliveries: VecDeque::new(),
            found: Some(found),
            file_len: 0,
        };
        tokio::spawn(run.run(get, deliver));
        let file_len = begun.await.map_err(|_gone| ContentError::Stopping)??;
        Ok((Begun { file_len, objects }, range))
    }
}

/// The part of a leaf that lies in a range.
fn clip(leaf: &Object, start: u64, end: u64) -> Bytes {
    let offset = leaf.reference().offset;
    let from = start.saturating_sub(offset).min(leaf.reference().len);
    let to = end.saturating_sub(offset).min(leaf.reference().len);
    leaf.payload().slice(from as usize..to.max(from) as usize)
}

struct Begun {
    file_len: u64,
    objects: mpsc::Receiver<Result<Object, ContentError>>,
}

/// The task of one get: the machine, and what is under way for it.
struct Run<S, L> {
    content: Content<S, L>,
    root: RootId,
    /// Slots of what is to be kept as cache, where anything is.
    cache: Option<Arc<Semaphore>>,
    tasks: JoinSet<()>,
    fetching: BTreeMap<(Part, PeerId), AbortHandle>,
    /// How much had moved on each source's link when it was last looked at.
    moved: BTreeMap<PeerId, u64>,
    deliveries: VecDeque<Object>,
    /// Told once the first object is ready for the reader, or that there will be none.
    found: Option<oneshot::Sender<Result<u64, ContentError>>>,
    file_len: u64,
}

impl<S: ObjectStore, L: Locator> Run<S, L> {
    async fn run(mut self, mut get: Get, deliver: mpsc::Sender<Result<Object, ContentError>>) {
        let (inputs, mut inbox) = mpsc::channel(64);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut effects = get.handle(Input::Start, Instant::now());
        let mut finished = false;
        loop {
            for effect in effects.drain(..) {
                match effect {
                    Effect::Finished => finished = true,
                    Effect::Failed(error) => return self.fail(error.into(), &deliver).await,
                    other => self.act(other, &inputs),
                }
            }
            self.tell_found();
            if finished && self.deliveries.is_empty() {
                return;
            }
            let input = tokio::select! {
                permit = deliver.reserve(), if !self.deliveries.is_empty() => {
                    // The reader is gone: so is the get, and with it all that is under way.
                    let Ok(permit) = permit else { return };
                    let Some(object) = self.deliveries.pop_front() else { continue };
                    let len = object.reference().len;
                    permit.send(Ok(object));
                    Input::Consumed(len)
                }
                () = deliver.closed() => return,
                Some(input) = inbox.recv() => input,
                Some(_ended) = self.tasks.join_next() => continue,
                _ = tick.tick() => {
                    for peer in self.heard() {
                        effects.extend(get.handle(Input::Heard(peer), Instant::now()));
                    }
                    Input::Tick
                }
            };
            effects.extend(get.handle(input, Instant::now()));
        }
    }

    /// Sources from which something has come since the last call.
    fn heard(&mut self) -> Vec<PeerId> {
        self.fetching.retain(|_, task| !task.is_finished());
        let sources: BTreeSet<PeerId> = self.fetching.keys().map(|(_, peer)| *peer).collect();
        let client = &self.content.client;
        let now: BTreeMap<PeerId, u64> = sources.into_iter().map(|peer| (peer, client.moved(peer))).collect();
        let before = std::mem::replace(&mut self.moved, now);
        self.moved
            .iter()
            .filter(|(peer, moved)| before.get(peer).is_some_and(|b| b != *moved))
            .map(|(p, _)| *p)
            .collect()
    }

    /// Lets the caller go on once there is something to read.
    fn tell_found(&mut self) {
        if !self.deliveries.is_empty()
            && let Some(found) = self.found.take()
        {
            let _ = found.send(Ok(self.file_len));
        }
    }

    async fn fail(&mut self, error: ContentError, deliver: &mpsc::Sender<Result<Object, ContentError>>) {
        match self.found.take() {
            Some(found) => {
                let _ = found.send(Err(error));
            }
            None => {
                while let Some(object) = self.deliveries.pop_front() {
                    if deliver.send(Ok(object)).await.is_err() {
                        return;
                    }
                }
                let _ = deliver.send(Err(error)).await;
            }
        }
    }

    fn act(&mut self, effect: Effect, inputs: &mpsc::Sender<Input>) {
        let inputs = inputs.clone();
        let content = self.content.clone();
        match effect {
            Effect::Locate(part, key) => {
                self.tasks.spawn(async move {
                    let closest = content.locator.closest(key, READ_CANDIDATES).await;
                    let _ = inputs.send(Input::Located(part, closest, content.locator.members())).await;
                });
            }
            Effect::Ask(part, peers, reference) => {
                let root = self.root;
                for peer in peers {
                    let (content, inputs) = (content.clone(), inputs.clone());
                    self.tasks.spawn(async move {
                        let has = content.has(peer, root, reference).await;
                        let _ = inputs.send(Input::Answered(part, peer, has)).await;
                    });
                }
            }
            Effect::FetchRoot(part, peer) => {
                let (root, cache) = (self.root, self.cache.clone());
                let task = self.tasks.spawn(async move {
                    let fetch = content.fetch_root(peer, root).await;
                    content.hand_over(part, peer, fetch, &cache, &inputs).await;
                });
                self.fetching.insert((part, peer), task);
            }
            Effect::Fetch(part, peer, wants) => {
                let cache = self.cache.clone();
                let task = self.tasks.spawn(async move {
                    content.fetch_all(part, peer, wants, &cache, &inputs).await;
                });
                self.fetching.insert((part, peer), task);
            }
            Effect::Abandon(part, peer) => {
                if let Some(task) = self.fetching.remove(&(part, peer)) {
                    task.abort();
                }
            }
            Effect::Found(len) => self.file_len = len,
            Effect::Deliver(object) => self.deliveries.push_back(object),
            Effect::Finished | Effect::Failed(_) => unreachable!("handled by the caller"),
        }
    }
}

/// What came of asking one source for one object.
enum Fetched {
    Object(Object),
    Absent,
    Bad,
    Failed,
}

impl<S: ObjectStore, L: Locator> Content<S, L> {
    async fn fetch_all(
        &self,
        part: Part,
        peer: PeerId,
        wants: Vec<ObjectRef>,
        cache: &Option<Arc<Semaphore>>,
        inputs: &mpsc::Sender<Input>,
    ) {
        let mut wants = wants.into_iter();
        let mut under_way = FuturesOrdered::new();
        let mut outcome = Outcome::Done;
        loop {
            while under_way.len() < REQUESTS_AT_ONCE
                && let Some(want) = wants.next()
            {
                under_way.push_back(self.fetch(peer, want));
            }
            let Some(fetched) = under_way.next().await else { break };
            match fetched {
                Fetched::Object(object) => {
                    self.keep_as_cache(peer, &object, cache).await;
                    let _ = inputs.send(Input::Got(part, peer, object)).await;
                }
                Fetched::Absent => {}
                Fetched::Bad => {
                    outcome = Outcome::Bad;
                    break;
                }
                Fetched::Failed => {
                    outcome = Outcome::Failed;
                    break;
                }
            }
        }
        let _ = inputs.send(Input::Ended(part, peer, outcome)).await;
    }

    async fn hand_over(
        &self,
        part: Part,
        peer: PeerId,
        fetched: Fetched,
        cache: &Option<Arc<Semaphore>>,
        inputs: &mpsc::Sender<Input>,
    ) {
        let outcome = match fetched {
            Fetched::Object(object) => {
                self.keep_as_cache(peer, &object, cache).await;
                let _ = inputs.send(Input::Got(part, peer, object)).await;
                Outcome::Done
            }
            Fetched::Absent => Outcome::Done,
            Fetched::Bad => Outcome::Bad,
            Fetched::Failed => Outcome::Failed,
        };
        let _ = inputs.send(Input::Ended(part, peer, outcome)).await;
    }

    async fn fetch_root(&self, peer: PeerId, root: RootId) -> Fetched {
        if peer == self.locator.me() {
            return local(self.store.read(move |view| view.root(&root)).await);
        }
        match self.client.ask(peer, Lane::Ask, Request::Root(root)).await {
            Ok(Reply::Root(len, bytes)) => self.check(peer, ObjectRef::root(root, len), bytes).await,
            answer => no_object(peer, answer),
        }
    }

    async fn fetch(&self, peer: PeerId, want: ObjectRef) -> Fetched {
        if peer == self.locator.me() {
            return local(self.store.read(move |view| view.object(&want)).await);
        }
        match self.client.ask(peer, Lane::Ask, Request::Get(want)).await {
            Ok(Reply::Object(bytes)) => self.check(peer, want, bytes).await,
            answer => no_object(peer, answer),
        }
    }

    async fn check(&self, peer: PeerId, reference: ObjectRef, bytes: Bytes) -> Fetched {
        add(&self.counters.bytes_received, bytes.len() as u64);
        match blocking::verify(reference, bytes).await {
            Ok(object) => Fetched::Object(object),
            Err(_mismatch) => {
                count(&self.counters.objects_bad);
                tracing::warn!(%peer, "sent bytes that do not match their address");
                Fetched::Bad
            }
        }
    }

    /// Begins to keep what came from elsewhere, as far as there is room; the get that it came by may end meanwhile. Waits
    /// when the disk is slower than the network.
    async fn keep_as_cache(&self, peer: PeerId, object: &Object, cache: &Option<Arc<Semaphore>>) {
        let Some(slots) = cache.clone().filter(|_| peer != self.locator.me()) else { return };
        let Ok(slot) = slots.acquire_owned().await else { return };
        let (store, object) = (self.store.clone(), object.clone());
        tokio::spawn(async move {
            let kept = store.write(object.payload().len(), move |tx| hold::store(tx, &object, None)).await;
            if let Err(error) = kept {
                tracing::debug!(%error, "not kept as cache");
            }
            drop(slot);
        });
    }

    /// Whether a member has an object, or the root object; None if it does not say.
    async fn has(&self, peer: PeerId, root: RootId, reference: Option<ObjectRef>) -> Option<bool> {
        if peer == self.locator.me() {
            // It is the first source of every part.
            return Some(false);
        }
        let request = match reference {
            Some(reference) => Request::Have(vec![reference]),
            None => Request::HaveRoot(root),
        };
        let asked = self.client.ask(peer, Lane::Ask, request);
        match tokio::time::timeout(SOURCE_SILENT_MAX, asked).await {
            Ok(Ok(Reply::Flags(flags))) => flags.first().copied(),
            _ => None,
        }
    }

    /// The locator's answer for the closest members.
    pub(super) async fn closest(&self, key: PlacementKey, count: usize) -> Vec<PeerId> {
        self.locator.closest(key, count).await
    }
}

fn local(read: Result<Option<Object>, crate::store::StoreError>) -> Fetched {
    match read {
        Ok(Some(object)) => Fetched::Object(object),
        Ok(None) => Fetched::Absent,
        Err(error) => {
            tracing::error!(%error, "cannot read an object; asking others for it");
            Fetched::Failed
        }
    }
}

fn no_object(peer: PeerId, answer: Result<Reply, AskError>) -> Fetched {
    match answer {
        Ok(Reply::Absent) => Fetched::Absent,
        Ok(other) => {
            tracing::debug!(%peer, ?other, "answered with something else");
            Fetched::Failed
        }
        Err(error) => {
            tracing::debug!(%peer, %error, "no answer");
            Fetched::Failed
        }
    }
}
