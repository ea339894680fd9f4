//! Gets: the bytes of a file, from wherever they are, to a reader.

#![expect(clippy::disallowed_methods, reason = "the shell: reads the clock for the machine")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range as Span;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{AbortHandle, Abortable, BoxFuture};
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Content, ContentError, Locator, TICK};
use crate::blocking;
use crate::exchange::client::{AskError, Lane};
use crate::exchange::{add, count};
use crate::get::{Effect, Get, GetConfig, Input, Outcome, Range, SOURCE_SILENT_MAX, WINDOW_LEN, Want, Wanted};
use crate::hold::{self, Stored};
use crate::message::{Reply, Request};
use crate::object::Object;
use crate::placement::READ_CANDIDATES;
use crate::store::{ObjectStore, StoreError, StoreResult};
use crate::tree::{GEOMETRY, ObjectRef, PlacementKey, RootId};

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
    /// Which bytes of it are wanted.
    wanted: Span<u64>,
    leaves: mpsc::Receiver<Result<Object, ContentError>>,
}

impl Download {
    /// The next bytes in order, or None at the end. After an error nothing more comes.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn next(&mut self) -> Option<Result<Bytes, ContentError>> {
        let leaf = self.leaves.recv().await?;
        Some(leaf.map(|leaf| clip(&leaf, &self.wanted)))
    }
}

impl<S: ObjectStore, L: Locator> Content<S, L> {
    /// Finds a file and begins to bring its bytes; returns once the first are here. Dropping the result ends it.
    ///
    /// # Errors
    /// When it cannot be found, or nothing of it can be had.
    pub async fn get(&self, root: RootId, options: GetOptions) -> Result<Download, ContentError> {
        let Range { start, end } = options.range;
        let Begun { file_len, objects } =
            self.begin(root, Wanted::Bytes(options.range), options.cache, options.stall).await?;
        let wanted = start..end.unwrap_or(file_len).min(file_len);
        Ok(Download { file_len, wanted, leaves: objects })
    }

    /// All indexes of a file, or its only leaf: what names its objects.
    ///
    /// # Errors
    /// When the file cannot be found, or one of them cannot be had.
    pub(super) async fn indexes(&self, root: RootId, stall: Duration) -> Result<Vec<Object>, ContentError> {
        let mut begun = self.begin(root, Wanted::Indexes, true, stall).await?;
        let mut indexes = Vec::new();
        while let Some(object) = begun.objects.recv().await {
            indexes.push(object?);
        }
        Ok(indexes)
    }

    async fn begin(&self, root: RootId, wanted: Wanted, cache: bool, stall: Duration) -> Result<Begun, ContentError> {
        let config = GetConfig { me: self.locator.me(), stall, window: WINDOW_LEN, geometry: GEOMETRY };
        let (found, begun) = oneshot::channel();
        let (deliver, objects) = mpsc::channel(1);
        let get = Get::new(config, root, wanted, Instant::now());
        let run = Run {
            content: self.clone(),
            root,
            cache,
            work: FuturesUnordered::new(),
            requests: BTreeMap::new(),
            moved: BTreeMap::new(),
            caching: BTreeMap::new(),
            deliveries: VecDeque::new(),
            found: Some(found),
            file_len: 0,
        };
        tokio::spawn(run.run(get, deliver));
        let file_len = begun.await.map_err(|_gone| ContentError::Stopping)??;
        Ok(Begun { file_len, objects })
    }
}

/// The part of a leaf that lies in a range.
fn clip(leaf: &Object, wanted: &Span<u64>) -> Bytes {
    let offset = leaf.reference().offset;
    let from = wanted.start.saturating_sub(offset).min(leaf.reference().len);
    let to = wanted.end.saturating_sub(offset).min(leaf.reference().len);
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
    /// Whether what comes from elsewhere is to be kept.
    cache: bool,
    /// What will become inputs. They are polled first in the order in which they were begun, so that requests leave in it.
    work: FuturesUnordered<Abortable<BoxFuture<'static, Input>>>,
    requests: BTreeMap<(PeerId, Want), AbortHandle>,
    /// How much had moved on each source's link when it was last looked at.
    moved: BTreeMap<PeerId, u64>,
    /// Leaves that are being kept, by offset.
    caching: BTreeMap<u64, JoinHandle<()>>,
    deliveries: VecDeque<Object>,
    /// Told once the first object is ready for the reader, or that there will be none.
    found: Option<oneshot::Sender<Result<u64, ContentError>>>,
    file_len: u64,
}

impl<S: ObjectStore, L: Locator> Run<S, L> {
    async fn run(mut self, mut get: Get, deliver: mpsc::Sender<Result<Object, ContentError>>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut effects =
            get.handle(Input::Start(self.content.locator.members(), self.content.standings.now()), Instant::now());
        let mut finished = false;
        loop {
            for effect in effects.drain(..) {
                match effect {
                    Effect::Finished => finished = true,
                    Effect::Failed(error) => {
                        self.count_stats(&get);
                        let error = self.content.reason(self.root, error).await;
                        return self.fail(error, &deliver).await;
                    }
                    other => self.act(other),
                }
            }
            self.tell_found();
            if finished && self.deliveries.is_empty() {
                return self.count_stats(&get);
            }
            let input = tokio::select! {
                permit = deliver.reserve(), if !self.deliveries.is_empty() => {
                    // The reader is gone: so is the get, and with it all that is under way.
                    let Ok(permit) = permit else { return self.count_stats(&get) };
                    let Some(object) = self.deliveries.pop_front() else { continue };
                    let consumed = self.consumed(&object);
                    permit.send(Ok(object));
                    let Some(consumed) = consumed else { continue };
                    consumed
                }
                () = deliver.closed() => return self.count_stats(&get),
                Some(done) = self.work.next() => match done {
                    Ok(input) => self.note(input),
                    Err(_cancelled) => continue,
                },
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

    /// What is to be remembered of an input before the machine takes it.
    fn note(&mut self, input: Input) -> Input {
        match &input {
            Input::Got(peer, object) => {
                let want = if self.file_len == 0 { Want::Root } else { Want::Object(*object.reference()) };
                self.requests.remove(&(*peer, want));
                self.keep_as_cache(*peer, object);
            }
            Input::Missed(peer, want, _) => {
                self.requests.remove(&(*peer, *want));
            }
            _ => {}
        }
        input
    }

    /// The reader takes an object. Its memory is free once it is also kept: so a disk that is slower than the network slows
    /// the get down and fills no memory.
    fn consumed(&mut self, object: &Object) -> Option<Input> {
        let input = Input::Consumed(object.payload().len() as u64);
        match self.caching.remove(&object.reference().offset) {
            Some(task) if !task.is_finished() => {
                self.begin(async move {
                    let _ = task.await;
                    input
                });
                None
            }
            _ => Some(input),
        }
    }

    fn begin(&mut self, work: impl Future<Output = Input> + Send + 'static) -> AbortHandle {
        let (handle, registration) = AbortHandle::new_pair();
        self.work.push(Abortable::new(Box::pin(work), registration));
        handle
    }

    /// Sources from which something has come since the last call.
    fn heard(&mut self) -> Vec<PeerId> {
        let sources: BTreeSet<PeerId> = self.requests.keys().map(|(peer, _)| *peer).collect();
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

    fn count_stats(&self, get: &Get) {
        let (stats, counters) = (get.stats(), &self.content.counters);
        add(&counters.objects_hedged, stats.hedged);
        add(&counters.objects_stolen, stats.stolen);
        add(&counters.bytes_duplicate, stats.duplicate);
    }

    fn act(&mut self, effect: Effect) {
        let content = self.content.clone();
        match effect {
            Effect::Locate(part, key) => {
                self.begin(async move {
                    let closest = content.locator.closest(key, READ_CANDIDATES).await;
                    Input::Located(part, closest, content.locator.members())
                });
            }
            Effect::AskRoot(peers) => {
                let root = self.root;
                for peer in peers {
                    let content = content.clone();
                    self.begin(async move { Input::RootAnswered(peer, content.has_root(peer, root).await) });
                }
            }
            Effect::Ask(part, peers, objects) => {
                for peer in peers {
                    let (content, objects) = (content.clone(), objects.clone());
                    self.begin(async move { Input::Answered(part, peer, content.which_of(peer, objects).await) });
                }
            }
            Effect::Fetch(peer, wants) => {
                let root = self.root;
                for want in wants {
                    let content = content.clone();
                    let request = self.begin(async move {
                        match content.fetch(peer, root, want).await {
                            Ok(object) => Input::Got(peer, object),
                            Err(outcome) => Input::Missed(peer, want, outcome),
                        }
                    });
                    self.requests.insert((peer, want), request);
                }
            }
            Effect::Cancel(peer, want) => {
                if let Some(request) = self.requests.remove(&(peer, want)) {
                    request.abort();
                }
            }
            Effect::Silent(peer) => content.standings.note(peer, Err(Outcome::Failed)),
            Effect::Found(len) => self.file_len = len,
            Effect::Deliver(object) => self.deliveries.push_back(object),
            Effect::Finished | Effect::Failed(_) => unreachable!("handled by the caller"),
        }
    }

    /// Begins to keep what came from elsewhere, as far as there is room; the get that it came by may end meanwhile.
    fn keep_as_cache(&mut self, peer: PeerId, object: &Object) {
        if !self.cache || peer == self.content.locator.me() {
            return;
        }
        let (content, kept) = (self.content.clone(), object.clone());
        let task = tokio::spawn(async move {
            let reference = *kept.reference();
            match content.store.write(kept.payload().len(), move |tx| hold::store(tx, &kept, None)).await {
                Ok(Stored::Mended) => content.counters.mended(&reference),
                Ok(Stored::Stored | Stored::Full) => {}
                Err(error) => tracing::debug!(%error, "not kept as cache"),
            }
        });
        if object.is_leaf() {
            self.caching.insert(object.reference().offset, task);
        }
    }
}

impl<S: ObjectStore, L: Locator> Content<S, L> {
    async fn fetch(&self, peer: PeerId, root: RootId, want: Want) -> Result<Object, Outcome> {
        if peer == self.locator.me() {
            return local(match want {
                Want::Root => self.store.read(move |view| view.root(&root)).await,
                Want::Object(reference) => self.store.read(move |view| view.object(&reference)).await,
            });
        }
        let request = match want {
            Want::Root => Request::Root(root),
            Want::Object(reference) => Request::Get(reference),
        };
        let fetched = match (want, self.client.ask(peer, Lane::Ask, request).await) {
            (Want::Root, Ok(Reply::Root(len, bytes))) => self.check(peer, ObjectRef::root(root, len), bytes).await,
            (Want::Object(reference), Ok(Reply::Object(bytes))) => self.check(peer, reference, bytes).await,
            (_, answer) => Err(no_object(peer, answer)),
        };
        self.standings.note(peer, fetched.as_ref().map(drop).map_err(|outcome| *outcome));
        fetched
    }

    async fn check(&self, peer: PeerId, reference: ObjectRef, bytes: Bytes) -> Result<Object, Outcome> {
        add(&self.counters.bytes_received, bytes.len() as u64);
        blocking::verify(reference, bytes).await.map_err(|_mismatch| {
            count(&self.counters.objects_bad);
            tracing::warn!(%peer, "sent bytes that do not match their address");
            Outcome::Bad
        })
    }

    /// Whether a member has the root object; None if it does not say.
    async fn has_root(&self, peer: PeerId, root: RootId) -> Option<bool> {
        self.flags(peer, Request::HaveRoot(root)).await?.first().copied()
    }

    /// Which of some objects a member has; None if it does not say.
    async fn which_of(&self, peer: PeerId, objects: Vec<ObjectRef>) -> Option<Vec<ObjectRef>> {
        if peer == self.locator.me() {
            let found = self.store.read(move |view| {
                let mut found = Vec::new();
                for reference in objects {
                    if view.find(&reference)?.is_some() {
                        found.push(reference);
                    }
                }
                Ok(found)
            });
            return found.await.ok();
        }
        let flags = self.flags(peer, Request::Have(objects.clone())).await?;
        Some(objects.into_iter().zip(flags).filter(|(_, has)| *has).map(|(reference, _)| reference).collect())
    }

    async fn flags(&self, peer: PeerId, request: Request) -> Option<Vec<bool>> {
        let asked = self.client.ask(peer, Lane::Ask, request);
        match tokio::time::timeout(SOURCE_SILENT_MAX, asked).await {
            Ok(Ok(Reply::Flags(flags))) => Some(flags),
            _ => None,
        }
    }

    /// The locator's answer for the closest members.
    pub(super) async fn closest(&self, key: PlacementKey, count: usize) -> Vec<PeerId> {
        self.locator.closest(key, count).await
    }
}

fn local(read: StoreResult<Option<Object>>) -> Result<Object, Outcome> {
    match read {
        Ok(Some(object)) => Ok(object),
        Ok(None) => Err(Outcome::Absent),
        // Whoever watches the store has said so.
        Err(StoreError::Damaged(_)) => Err(Outcome::Absent),
        Err(error) => {
            tracing::error!(%error, "cannot read an object; asking others for it");
            Err(Outcome::Failed)
        }
    }
}

fn no_object(peer: PeerId, answer: Result<Reply, AskError>) -> Outcome {
    match answer {
        Ok(Reply::Absent) => return Outcome::Absent,
        Ok(other) => tracing::debug!(%peer, ?other, "answered with something else"),
        Err(error) => tracing::debug!(%peer, %error, "no answer"),
    }
    Outcome::Failed
}
