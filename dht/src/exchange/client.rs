//! The asking side: one link per peer and direction of bulk, kept open, with many requests under way on each.

#![expect(clippy::disallowed_methods, reason = "the shell: links are idle by the clock")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use p2p_gossip::wire::link::{Receiver, Sender};
use p2p_gossip::wire::{Control, Link, OpenError};
use tokio::sync::oneshot;

use super::{Counters, CurrentCluster, count, link_config};
use crate::message::{Reply, Request};

/// Peers to which links are kept, least recently used closed first.
pub const PEERS_MAX: usize = 64;

/// A link that was not used for so long is closed.
pub const LINK_IDLE_MAX: Duration = Duration::from_secs(5 * 60);

/// A request on whose link nothing has moved for so long is given up, and the link with it.
pub const ANSWER_SILENT_MAX: Duration = Duration::from_secs(8);

/// Which of a peer's two links a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Bulk comes to us.
    Ask,
    /// Bulk goes out.
    Push,
}

/// Why there is no answer. Whether the request took effect is unknown; all requests may be repeated.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AskError {
    /// No link could be opened.
    #[error("no link: {0}")]
    Open(#[from] OpenError),
    /// The peer's hello was not acceptable.
    #[error("{0}")]
    Hello(String),
    /// The link ended before the answer.
    #[error("the link ended")]
    Ended,
    /// Nothing moved for [`ANSWER_SILENT_MAX`].
    #[error("no answer for {ANSWER_SILENT_MAX:?}")]
    Silent,
}

/// Asks other members. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    control: Control,
    cluster: CurrentCluster,
    counters: Arc<Counters>,
    slots: Arc<Mutex<BTreeMap<(PeerId, Lane), Slot>>>,
}

/// A place for a link; the lock is held while it is being opened, so that one dial serves all who wait.
#[derive(Clone)]
struct Slot {
    session: Arc<tokio::sync::Mutex<Option<Session>>>,
    last_used: Instant,
}

#[derive(Clone)]
struct Session {
    sender: Sender,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

/// Requests under way, None once the link has ended.
type Waiting = Arc<Mutex<Option<BTreeMap<u64, oneshot::Sender<Reply>>>>>;

impl Client {
    /// A client without any link yet.
    pub fn new(control: Control, cluster: CurrentCluster, counters: Arc<Counters>) -> Self {
        Self { control, cluster, counters, slots: Arc::default() }
    }

    /// Asks a peer and waits for its answer, opening a link where there is none.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, peer: PeerId, lane: Lane, request: Request) -> Result<Reply, AskError> {
        let (session, fresh) = self.session(peer, lane).await?;
        match self.ask_on(&session, request.clone()).await {
            // The link was old, and the peer may have restarted since.
            Err(AskError::Ended) if !fresh => {
                let (session, _) = self.session(peer, lane).await?;
                self.ask_on(&session, request).await
            }
            answer => answer,
        }
    }

    /// Closes links that were idle for too long.
    pub fn close_idle(&self) {
        let now = Instant::now();
        lock(&self.slots).retain(|_, slot| now.duration_since(slot.last_used) < LINK_IDLE_MAX);
    }

    /// Closes all links to a peer; the next request opens new ones.
    pub fn forget(&self, peer: &PeerId) {
        lock(&self.slots).retain(|(other, _), _| other != peer);
    }

    async fn session(&self, peer: PeerId, lane: Lane) -> Result<(Session, bool), AskError> {
        let slot = self.slot(peer, lane);
        let mut place = slot.session.lock().await;
        if let Some(session) = place.as_ref().filter(|session| lock(&session.waiting).is_some()) {
            return Ok((session.clone(), false));
        }
        let stream = self.control.open(peer).await?;
        let link = match Link::open(stream, link_config(&self.cluster)).await {
            Ok(link) => link,
            Err(error) => {
                count(&self.counters.links_broken);
                tracing::debug!(%peer, %error, "refused a link");
                return Err(AskError::Hello(error.to_string()));
            }
        };
        let waiting: Waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let receive = receive(peer, link.receiver, link.sender.clone(), waiting.clone(), self.counters.clone());
        tokio::spawn(receive);
        let session = Session { sender: link.sender, waiting, next: Arc::default() };
        *place = Some(session.clone());
        Ok((session, true))
    }

    fn slot(&self, peer: PeerId, lane: Lane) -> Slot {
        let mut slots = lock(&self.slots);
        let slot = slots
            .entry((peer, lane))
            .and_modify(|slot| slot.last_used = Instant::now())
            .or_insert_with(|| Slot { session: Arc::default(), last_used: Instant::now() })
            .clone();
        if slots.len() > 2 * PEERS_MAX {
            let oldest = slots.iter().min_by_key(|(_, slot)| slot.last_used).map(|(key, _)| *key);
            oldest.and_then(|key| slots.remove(&key));
        }
        slot
    }

    async fn ask_on(&self, session: &Session, request: Request) -> Result<Reply, AskError> {
        let number = session.next.fetch_add(1, Ordering::Relaxed);
        let (answer, mut answered) = oneshot::channel();
        match lock(&session.waiting).as_mut() {
            Some(waiting) => waiting.insert(number, answer),
            None => return Err(AskError::Ended),
        };
        session.sender.send(request.into_frame(number)).await.map_err(|_closed| AskError::Ended)?;
        let mut moved = session.sender.moved();
        loop {
            match tokio::time::timeout(ANSWER_SILENT_MAX, &mut answered).await {
                Ok(answer) => return answer.map_err(|_gone| AskError::Ended),
                Err(_elapsed) if session.sender.moved() != moved => moved = session.sender.moved(),
                Err(_elapsed) => {
                    count(&self.counters.requests_silent);
                    session.sender.abort();
                    return Err(AskError::Silent);
                }
            }
        }
    }
}

/// Hands answers to those who wait for them, until the link ends.
async fn receive(peer: PeerId, mut receiver: Receiver, sender: Sender, waiting: Waiting, counters: Arc<Counters>) {
    while let Some(received) = receiver.recv().await {
        let answer = Reply::from_frame(received.into_frame());
        let Ok((number, reply)) = answer else {
            count(&counters.links_broken);
            tracing::debug!(%peer, "sent an answer that is none");
            break;
        };
        let waiter = lock(&waiting).as_mut().and_then(|waiting| waiting.remove(&number));
        let Some(waiter) = waiter else {
            count(&counters.links_broken);
            tracing::debug!(%peer, number, "answered what was not asked");
            break;
        };
        // Whoever gave up in the meantime does not need it.
        let _ = waiter.send(reply);
    }
    if receiver.reason().is_some() {
        count(&counters.links_broken);
    }
    sender.abort();
    lock(&waiting).take();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
