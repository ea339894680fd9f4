//! The answering side: one task per inbound stream, with bounds on how many there are and on what they hold.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use futures::io::{AsyncRead, AsyncWrite};
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use p2p_gossip::wire::{Link, Received};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{Counters, CurrentCluster, add, count, link_config};
use crate::blocking;
use crate::hold::{self, Bound, HOLDS_PER_SENDER_MAX, Offered, Stored, UPLOADS_PER_SENDER_MAX};
use crate::message::{Refusal, Reply, Request};
use crate::store::{ObjectStore, ObjectTx, SenderId, Sent, StoreError, StoreResult, UploadId};
use crate::tree::{GEOMETRY, ObjectRef};

/// Inbound streams of one peer: two are enough, and some may still be closing.
pub const STREAMS_PER_PEER_MAX: usize = 6;

/// Inbound streams of all peers together.
pub const STREAMS_MAX: usize = 512;

/// Requests of one stream that are worked on at once.
const REQUESTS_AT_ONCE: usize = 32;

/// Bytes of objects that are on their way out, over all streams.
const SERVED_LEN_MAX: usize = 24 << 20;

/// Objects of one stream that are on their way out: a peer that does not read holds up itself.
const SERVED_PER_STREAM: usize = 2;

/// What a server does wrong on purpose, where a test asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// One byte of every object that it serves is wrong.
    pub corrupt: bool,
    /// It takes requests and does not answer until this ends.
    pub stall: bool,
}

/// Answers what other members ask. Cheap to clone.
#[derive(Clone)]
pub struct Server<S> {
    store: S,
    cluster: CurrentCluster,
    counters: Arc<Counters>,
    served: Arc<Semaphore>,
    streams: Arc<Mutex<BTreeMap<PeerId, usize>>>,
    faults: watch::Receiver<Faults>,
    /// What one member may have here.
    most: Sent,
}

impl<S: ObjectStore> Server<S> {
    /// A server of one store.
    pub fn new(store: S, cluster: CurrentCluster, counters: Arc<Counters>) -> Self {
        let served = Arc::new(Semaphore::new(SERVED_LEN_MAX));
        let faults = watch::Sender::default().subscribe();
        let most = Sent { uploads: UPLOADS_PER_SENDER_MAX, holds: HOLDS_PER_SENDER_MAX };
        Self { store, cluster, counters, served, streams: Arc::default(), faults, most }
    }

    /// The same server with faults that may change while it runs.
    #[must_use]
    pub fn with_faults(self, faults: watch::Receiver<Faults>) -> Self {
        Self { faults, ..self }
    }

    /// Serves an inbound stream until it ends; drops it at once where the peer has too many.
    pub async fn serve<T>(self, peer: PeerId, stream: T)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(_place) = self.admit(peer) else {
            count(&self.counters.streams_refused);
            tracing::debug!(%peer, "refused a stream: too many");
            return;
        };
        match Link::open(stream, link_config(&self.cluster)).await {
            Ok(link) => self.answer_all(peer, link).await,
            Err(error) => {
                count(&self.counters.links_broken);
                tracing::debug!(%peer, %error, "refused a link");
            }
        }
    }

    async fn answer_all(&self, peer: PeerId, link: Link) {
        let Link { sender, mut receiver, .. } = link;
        let slots = Arc::new(Semaphore::new(SERVED_PER_STREAM));
        let mut working = FuturesUnordered::new();
        // How to stop working on each, and what waits for its turn on the link.
        let mut cancels = BTreeMap::new();
        let mut ready: VecDeque<Answer> = VecDeque::new();
        loop {
            tokio::select! {
                biased;
                received = receiver.recv(), if working.len() + ready.len() < REQUESTS_AT_ONCE => {
                    let Some(received) = received else { break };
                    match Request::from_frame(received.frame.clone()) {
                        Ok((number, Request::Cancel)) => {
                            cancels.remove(&number);
                            ready.iter_mut().filter(|answer| answer.number == number).for_each(Answer::cancel);
                        }
                        Ok((number, request)) => {
                            let (cancel, cancelled) = oneshot::channel();
                            cancels.insert(number, cancel);
                            working.push(self.answer(peer, number, request, received, slots.clone(), cancelled));
                        }
                        Err(error) => {
                            count(&self.counters.links_broken);
                            tracing::debug!(%peer, %error, "sent a request that is none");
                            break;
                        }
                    }
                }
                place = sender.reserve(), if !ready.is_empty() => {
                    let (Ok(place), Some(answer)) = (place, ready.pop_front()) else { break };
                    if let Reply::Root(_, bytes) | Reply::Object(bytes) = &answer.reply {
                        add(&self.counters.bytes_sent, bytes.len() as u64);
                    }
                    place.send(answer.reply.into_frame(answer.number));
                }
                Some(answer) = working.next() => {
                    cancels.remove(&answer.number);
                    ready.push_back(answer);
                }
            }
        }
        if let Some(reason) = receiver.reason() {
            count(&self.counters.links_broken);
            tracing::debug!(%peer, %reason, "link ended");
        }
        add(&self.counters.frames_skipped, receiver.skipped());
        sender.abort();
    }

    /// Answers one request, unless it is cancelled before. The request's credit goes back with its answer.
    async fn answer(
        &self,
        peer: PeerId,
        number: u64,
        request: Request,
        _received: Received,
        slots: Arc<Semaphore>,
        cancelled: oneshot::Receiver<()>,
    ) -> Answer {
        let is_for_bulk = request.is_for_bulk();
        let answer = async {
            if is_for_bulk && self.faults.borrow().stall {
                // An error would say that nobody can end it any more, and then nobody has set it either.
                let _ = self.faults.clone().wait_for(|faults| !faults.stall).await;
            }
            let reserved = self.reserve(&request, slots).await;
            let reply = self.reply(peer, request).await;
            (if self.faults.borrow().corrupt { corrupted(reply) } else { reply }, reserved)
        };
        let (reply, reserved) = tokio::select! {
            biased;
            _ = cancelled, if is_for_bulk => (Reply::Refused(Refusal::Cancelled), None),
            answer = answer => answer,
        };
        Answer { number, reply, reserved }
    }

    /// Waits until the answer's payload may be in memory.
    async fn reserve(&self, request: &Request, slots: Arc<Semaphore>) -> Option<Reserved> {
        let longest = GEOMETRY.payload_len_max();
        let len = match request {
            Request::Root(_) => longest,
            Request::Get(reference) => reference.len.min(longest),
            _ => return None,
        };
        let len = u32::try_from(len).ok()?;
        // First its own slot: who waits for that holds nothing of what all share.
        let slot = slots.acquire_owned().await.ok()?;
        let room = self.served.clone().acquire_many_owned(len).await.ok()?;
        Some(Reserved { _slot: slot, _room: room })
    }

    async fn reply(&self, peer: PeerId, request: Request) -> Reply {
        let done = match request {
            Request::Root(root) => {
                let found = self.store.read(move |view| view.root(&root)).await;
                found.map(|object| match object {
                    Some(object) => Reply::Root(object.reference().len, object.payload().clone()),
                    None => Reply::Absent,
                })
            }
            Request::HaveRoot(root) => {
                let found = self.store.read(move |view| view.root_len(&root)).await;
                found.map(|len| Reply::Flags(vec![len.is_some()]))
            }
            Request::Get(reference) => {
                let found = self.store.read(move |view| view.object(&reference)).await;
                found.map(|object| object.map_or(Reply::Absent, |object| Reply::Object(object.payload().clone())))
            }
            Request::Have(objects) => {
                let query = self
                    .store
                    .read(move |view| objects.iter().map(|reference| Ok(view.find(reference)?.is_some())).collect());
                query.await.map(Reply::Flags)
            }
            Request::Count(root, objects) => {
                self.store.read(move |view| hold::bound(view, &root, &objects)).await.map(Reply::Flags)
            }
            Request::Offer(upload, objects) => {
                let upload = of_sender(peer, upload);
                let holds = objects.len() as u64;
                let offered = self.write_held(0, upload, holds, move |tx| hold::offer(tx, upload, &objects)).await;
                offered.map(|offered| match offered {
                    Some(Offered::Wanted(flags)) => Reply::Flags(flags),
                    Some(Offered::Full) => self.full(),
                    None => self.over(peer),
                })
            }
            Request::Push(upload, reference, bytes) => self.store_pushed(peer, upload, reference, bytes).await,
            Request::Bind(upload, root, objects) => {
                let upload = of_sender(peer, upload);
                let bound = self.store.write(0, move |tx| hold::bind(tx, upload, root, objects)).await;
                bound.map(|bound| match bound {
                    Bound::Bound => Reply::Bound,
                    Bound::Missing(held) => Reply::Missing(held),
                })
            }
            Request::Keep(upload) => {
                let upload = of_sender(peer, upload);
                self.store.write(0, move |tx| hold::keep(tx, upload)).await.map(|()| Reply::Noted)
            }
            // Whoever reads the requests has seen to it.
            Request::Cancel => Ok(Reply::Refused(Refusal::Invalid)),
        };
        match done {
            Ok(reply) => reply,
            Err(StoreError::DiskFull) => self.full(),
            // Whoever watches the store has seen to it.
            Err(StoreError::Damaged(_)) => Reply::Absent,
            Err(error) => {
                tracing::warn!(%peer, %error, "cannot answer: the store failed");
                Reply::Refused(Refusal::Failed)
            }
        }
    }

    /// There is no room, which is counted.
    fn full(&self) -> Reply {
        count(&self.counters.pushes_full);
        Reply::Full
    }

    /// The sender has as much here as one may, which is counted. It asks others, as where there is no room.
    fn over(&self, peer: PeerId) -> Reply {
        count(&self.counters.pushes_over);
        tracing::debug!(%peer, "has as much here as one member may");
        Reply::Full
    }

    /// Runs a rule that may add holds to an upload; None where its sender may not have so many.
    async fn write_held<R: Send + 'static>(
        &self,
        weight: usize,
        upload: UploadId,
        holds: u64,
        rule: impl FnOnce(&mut dyn ObjectTx) -> StoreResult<R> + Send + 'static,
    ) -> StoreResult<Option<R>> {
        let most = self.most;
        let rule = move |tx: &mut dyn ObjectTx| {
            if hold::may_hold(tx, upload, holds, &most)? { rule(tx).map(Some) } else { Ok(None) }
        };
        self.store.write(weight, rule).await
    }

    async fn store_pushed(
        &self,
        peer: PeerId,
        upload: UploadId,
        reference: ObjectRef,
        bytes: Bytes,
    ) -> Result<Reply, StoreError> {
        let (len, upload) = (bytes.len(), of_sender(peer, upload));
        let Ok(object) = blocking::verify(reference, bytes).await else {
            count(&self.counters.objects_bad);
            tracing::debug!(%peer, "pushed bytes that do not match their address");
            return Ok(Reply::Refused(Refusal::Invalid));
        };
        add(&self.counters.bytes_received, len as u64);
        let stored = self.write_held(len, upload, 1, move |tx| hold::store(tx, &object, Some(upload))).await?;
        Ok(match stored {
            Some(Stored::Stored) => Reply::Stored,
            Some(Stored::Mended) => {
                self.counters.mended(&reference);
                Reply::Stored
            }
            Some(Stored::Full) => self.full(),
            None => self.over(peer),
        })
    }

    fn admit(&self, peer: PeerId) -> Option<Place<'_, S>> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.values().sum::<usize>() >= STREAMS_MAX {
            return None;
        }
        let of_peer = streams.entry(peer).or_default();
        if *of_peer >= STREAMS_PER_PEER_MAX {
            return None;
        }
        *of_peer += 1;
        Some(Place { server: self, peer })
    }
}

/// An answer with a wrong byte in the object that it carries.
fn corrupted(reply: Reply) -> Reply {
    let flip = |bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        // Nothing can be wrong with no bytes.
        bytes.get_mut(middle).into_iter().for_each(|byte| *byte ^= 1);
        Bytes::from(bytes)
    };
    match reply {
        Reply::Root(len, bytes) => Reply::Root(len, flip(bytes)),
        Reply::Object(bytes) => Reply::Object(flip(bytes)),
        other => other,
    }
}

/// The name under which an upload is kept here: every sender has names of its own, so that nobody can bind or prolong what
/// somebody else uploads, and what is kept for each can be counted.
fn of_sender(peer: PeerId, upload: UploadId) -> UploadId {
    let sender = blake3::derive_key("p2p-node 2026-11 sender", &peer.to_bytes());
    let mut hasher = blake3::Hasher::new_derive_key("p2p-node 2026-11 upload of a sender");
    let name = hasher.update(&upload.0).update(&peer.to_bytes()).finalize();
    UploadId::of(SenderId(first_8(&sender)), first_8(name.as_bytes()))
}

fn first_8(hash: &[u8; 32]) -> [u8; 8] {
    *hash.first_chunk().expect("a hash is longer")
}

/// An answer on its way to the link.
struct Answer {
    number: u64,
    reply: Reply,
    /// Counts as under way until the link has taken the payload.
    reserved: Option<Reserved>,
}

impl Answer {
    /// Nobody wants the object any more.
    fn cancel(&mut self) {
        if self.reserved.take().is_some() {
            self.reply = Reply::Refused(Refusal::Cancelled);
        }
    }
}

/// Room for an answer's payload.
struct Reserved {
    _slot: OwnedSemaphorePermit,
    _room: OwnedSemaphorePermit,
}

/// A stream that is counted.
struct Place<'a, S> {
    server: &'a Server<S>,
    peer: PeerId,
}

impl<S> Drop for Place<'_, S> {
    fn drop(&mut self) {
        let mut streams = self.server.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_peer) = streams.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                streams.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests;
