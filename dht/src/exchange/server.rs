//! The answering side: one task per inbound stream, with bounds on how many there are and on what they hold.

mod places;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::io::{AsyncRead, AsyncWrite};
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use p2p_gossip::wire::link::{Receiver, Sender};
use p2p_gossip::wire::room::Taken;
use p2p_gossip::wire::{Frame, Link, LinkError, Received};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{Counters, CurrentCluster, add, count, link_config};
use crate::blocking;
use crate::hold::{self, Bound, HOLDS_PER_SENDER_MAX, Offered, Stored, UPLOADS_PER_SENDER_MAX};
use crate::message::{Refusal, Reply, Request};
use crate::store::{ObjectStore, ObjectTx, SenderId, Sent, StoreError, StoreResult, UploadId};
use crate::tree::{GEOMETRY, ObjectRef};

use places::{Admitted, Place, Places};
pub use places::{RECEIVED_LEN_MAX, SERVED_LEN_MAX, STREAMS_MAX, STREAMS_PER_PEER_MAX};

/// Requests of one stream that are worked on at once.
const REQUESTS_AT_ONCE: usize = 32;

/// Objects of one stream that are on their way out, from the store into the last write: a peer that does not read holds up
/// itself.
const SERVED_PER_STREAM: usize = 4;

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
    places: Arc<Places>,
    faults: watch::Receiver<Faults>,
    /// What one member may have here.
    most: Sent,
}

impl<S: ObjectStore> Server<S> {
    /// A server of one store.
    pub fn new(store: S, cluster: CurrentCluster, counters: Arc<Counters>) -> Self {
        let faults = watch::Sender::default().subscribe();
        let most = Sent { uploads: UPLOADS_PER_SENDER_MAX, holds: HOLDS_PER_SENDER_MAX };
        Self { store, cluster, counters, places: Places::new(), faults, most }
    }

    /// The same server with faults that may change while it runs.
    #[must_use]
    pub fn with_faults(self, faults: watch::Receiver<Faults>) -> Self {
        Self { faults, ..self }
    }

    /// Serves an inbound stream until it ends; drops it at once where the peer has too many.
    pub async fn serve<T>(self, peer: PeerId, host: Option<IpAddr>, stream: T)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let place = match self.places.admit(peer, host) {
            Admitted::Yes(place) => place,
            Admitted::Instead(place) => {
                count(&self.counters.streams_displaced);
                place
            }
            Admitted::No => {
                count(&self.counters.streams_refused);
                tracing::debug!(%peer, "refused a stream: too many");
                return;
            }
        };
        let served = async {
            match Link::open_as(stream, link_config(&self.cluster), Some(place.rights.received.clone())).await {
                Ok(link) => self.answer_all(link, &place).await,
                Err(error) => {
                    count(&self.counters.links_broken);
                    tracing::debug!(%peer, %error, "refused a link");
                }
            }
        };
        tokio::select! {
            () = served => {}
            () = place.displaced() => tracing::debug!(%peer, "ended a stream on which nothing moves: others want its place"),
        }
    }

    async fn answer_all(&self, link: Link, place: &Place) {
        let peer = place.peer;
        let Link { sender, mut receiver, .. } = link;
        place.opened(&sender);
        let slots = Arc::new(Semaphore::new(SERVED_PER_STREAM));
        let mut working = FuturesUnordered::new();
        // How to stop working on each, and what waits for its turn on the link.
        let mut cancels = BTreeMap::new();
        let mut ready: VecDeque<Answer> = VecDeque::new();
        // Every request may be cancelled once.
        let mut uncancelled = 0_u64;
        let mut rest = None;
        loop {
            tokio::select! {
                biased;
                // What was asked and not taken up is given back at once: others may need the room.
                () = sender.ended() => break,
                received = receiver.recv(), if working.len() + ready.len() < REQUESTS_AT_ONCE && rest.is_none() => {
                    let Some(received) = received else { break };
                    match Request::from_frame(received.frame.clone()) {
                        Ok((number, Request::Cancel)) if uncancelled > 0 => {
                            uncancelled -= 1;
                            cancels.remove(&number);
                            ready.iter_mut().filter(|answer| answer.number == number).for_each(Answer::cancel);
                        }
                        Ok((_, Request::Cancel)) => {
                            count(&self.counters.links_broken);
                            tracing::debug!(%peer, "cancels more than it asks");
                            break;
                        }
                        Ok((number, request)) => {
                            uncancelled += 1;
                            rest = place.rights.asked();
                            if rest.is_some() {
                                count(&self.counters.requests_paced);
                            }
                            let (cancel, cancelled) = oneshot::channel();
                            cancels.insert(number, cancel);
                            working.push(self.answer(place, number, request, received, slots.clone(), cancelled));
                        }
                        Err(error) => {
                            count(&self.counters.links_broken);
                            tracing::debug!(%peer, %error, "sent a request that is none");
                            break;
                        }
                    }
                }
                turn = sender.reserve(), if !ready.is_empty() => {
                    let (Ok(turn), Some(answer)) = (turn, ready.pop_front()) else { break };
                    if let Reply::Root(_, bytes) | Reply::Object(bytes) = &answer.reply {
                        add(&self.counters.bytes_sent, bytes.len() as u64);
                    }
                    turn.send(answer.into_frame());
                }
                Some(answer) = working.next() => {
                    cancels.remove(&answer.number);
                    ready.push_back(answer.waiting_for(&sender));
                }
                () = tokio::time::sleep_until(rest.unwrap_or_else(tokio::time::Instant::now)), if rest.is_some() => {
                    rest = None;
                }
            }
        }
        self.count_end(peer, &receiver);
        sender.abort();
    }

    fn count_end(&self, peer: PeerId, receiver: &Receiver) {
        add(&self.counters.frames_skipped, receiver.skipped());
        let Some(reason) = receiver.reason() else { return };
        tracing::debug!(%peer, %reason, "link ended");
        count(match reason {
            LinkError::Hoarding => &self.counters.links_hoarding,
            _ => &self.counters.links_broken,
        });
    }

    /// Answers one request, unless it is cancelled before. The request's credit goes back with its answer.
    async fn answer(
        &self,
        place: &Place,
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
            let reserved = self.reserve(&request, place, slots).await;
            let reply = self.reply(place, request).await;
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
    async fn reserve(&self, request: &Request, place: &Place, slots: Arc<Semaphore>) -> Option<Reserved> {
        let longest = GEOMETRY.payload_len_max();
        let len = match request {
            Request::Root(_) => longest,
            Request::Get(reference) => reference.len.min(longest),
            _ => return None,
        };
        let len = usize::try_from(len).ok()?;
        // First its own slot: who waits for that holds nothing of what all share.
        let slot = slots.acquire_owned().await.ok()?;
        Some(Reserved { _slot: slot, taken: place.rights.served.take(len).await })
    }

    async fn reply(&self, place: &Place, request: Request) -> Reply {
        let peer = place.peer;
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
            Request::Push(upload, reference, bytes) => {
                let _turn = place.rights.write(bytes.len()).await;
                self.store_pushed(peer, upload, reference, bytes).await
            }
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
    /// Counts as under way until the payload is written.
    reserved: Option<Reserved>,
}

impl Answer {
    /// Nobody wants the object any more.
    fn cancel(&mut self) {
        if self.reserved.take().is_some() {
            self.reply = Reply::Refused(Refusal::Cancelled);
        }
    }

    /// From here on it is the peer who has to read.
    fn waiting_for(mut self, link: &Sender) -> Self {
        self.reserved.iter_mut().for_each(|reserved| reserved.taken.awaits(link));
        self
    }

    /// The frame, which keeps what is reserved for as long as its payload is there.
    fn into_frame(self) -> Frame {
        let mut frame = self.reply.into_frame(self.number);
        if let Some(reserved) = self.reserved {
            frame.payload = Bytes::from_owner(InRoom { bytes: frame.payload, reserved });
        }
        frame
    }
}

/// Room for an answer's payload.
struct Reserved {
    _slot: OwnedSemaphorePermit,
    taken: Taken,
}

/// A payload in its room.
struct InRoom {
    bytes: Bytes,
    reserved: Reserved,
}

impl Drop for InRoom {
    fn drop(&mut self) {
        self.reserved.taken.settled();
    }
}

impl AsRef<[u8]> for InRoom {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests;
