//! The asking side: one link per peer and direction of bulk, kept open, with many requests under way on each.

#![expect(clippy::disallowed_methods, reason = "the shell: links are idle by the clock")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use p2p_gossip::wire::link::{Receiver, Sender};
use p2p_gossip::wire::{Control, Link, LinkError, OpenError};
use tokio::sync::oneshot;

use super::{Counters, CurrentCluster, add, count, link_config};
use crate::message::{Reply, Request};

/// Peers to which links are kept, least recently used closed first.
pub const PEERS_MAX: usize = 64;

/// A link that was not used for so long is closed.
pub const LINK_IDLE_MAX: Duration = Duration::from_secs(5 * 60);

/// A request on whose link nothing has moved for so long is given up, and the link with it.
pub const ANSWER_SILENT_MAX: Duration = Duration::from_secs(8);

/// Longest wait for one answer, whatever else moves on the link: enough for a full link's worth of objects at the slowest
/// rate at which frames may come.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(20 * 60);

/// How long a failure to open a link answers further requests. Not counted: the failure is.
const FAILURE_TIME: Duration = Duration::from_secs(1);

/// Longest such time, to which it doubles for a peer that goes on saying nothing: it costs its time now and then, and not
/// everybody who asks.
const SILENCE_TIME_MAX: Duration = Duration::from_secs(8);

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
    /// Nothing moved for [`ANSWER_SILENT_MAX`], or no hello came, now or when it was last asked.
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

/// A place for a link.
#[derive(Clone)]
struct Slot {
    place: Arc<Place>,
    last_used: Instant,
}

#[derive(Default)]
struct Place {
    /// Held while a link is being opened, so that one dial serves all who wait.
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    failure: Mutex<Option<Failure>>,
    /// Held by whoever finds out whether a silent peer says something again.
    probe: tokio::sync::Mutex<()>,
}

/// The last failure, until an answer comes.
#[derive(Clone)]
struct Failure {
    at: Instant,
    error: AskError,
    /// How often in a row it was silence.
    silent: u32,
}

impl Failure {
    /// Until when it answers whoever asks.
    fn ends(&self) -> Instant {
        let doubled = FAILURE_TIME.saturating_mul(1 << self.silent.saturating_sub(1).min(10));
        self.at + doubled.min(SILENCE_TIME_MAX)
    }
}

impl Place {
    fn failed(&self, error: &AskError) {
        let mut failure = lock(&self.failure);
        let before = failure.as_ref().map_or(0, |failure| failure.silent);
        let silent = if matches!(error, AskError::Silent) { before + 1 } else { before };
        *failure = Some(Failure { at: Instant::now(), error: error.clone(), silent });
    }

    fn answered(&self) {
        *lock(&self.failure) = None;
    }
}

/// An open link. It ends with the last of those who use it.
struct Session {
    sender: Sender,
    waiting: Waiting,
    next: AtomicU64,
    silent: AtomicBool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sender.abort();
    }
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
        let place = self.place(peer, lane);
        let failure = lock(&place.failure).clone();
        // Who is silent is asked by one at a time, and the others need not wait for that.
        let _probe = match failure.filter(|failure| failure.silent > 0) {
            Some(failure) if Instant::now() < failure.ends() => return Err(failure.error),
            Some(failure) => Some(place.probe.try_lock().map_err(|_held| failure.error)?),
            None => None,
        };
        let (session, fresh) = self.session(peer, &place).await?;
        match self.ask_on(&session, &place, request.clone()).await {
            // The link was old, and the peer may have restarted since.
            Err(AskError::Ended) if !fresh => {
                let (session, _) = self.session(peer, &place).await?;
                self.ask_on(&session, &place, request).await
            }
            answer => answer,
        }
    }

    /// Closes links that were idle for too long.
    pub fn close_idle(&self) {
        let now = Instant::now();
        let mut slots = lock(&self.slots);
        let before = slots.len();
        slots.retain(|_, slot| now.duration_since(slot.last_used) < LINK_IDLE_MAX);
        add(&self.counters.links_idle, (before - slots.len()) as u64);
    }

    /// Closes all links to a peer; the next request opens new ones.
    pub fn forget(&self, peer: &PeerId) {
        lock(&self.slots).retain(|(other, _), _| other != peer);
    }

    /// Bytes that have moved on the link that bulk comes by from a peer; 0 where there is none.
    pub fn moved(&self, peer: PeerId) -> u64 {
        let place = lock(&self.slots).get(&(peer, Lane::Ask)).map(|slot| slot.place.clone());
        // A link that is just being opened has moved nothing.
        place.and_then(|place| Some(place.session.try_lock().ok()?.as_ref()?.sender.moved())).unwrap_or(0)
    }

    /// The link to a peer, opened where there is none; and whether it was opened for this.
    async fn session(&self, peer: PeerId, place: &Place) -> Result<(Arc<Session>, bool), AskError> {
        let asked = Instant::now();
        let mut session = place.session.lock().await;
        if let Some(session) = session.as_ref().filter(|session| lock(&session.waiting).is_some()) {
            return Ok((session.clone(), false));
        }
        // Whoever waited while somebody else failed has its answer, and so have those who come right after: a peer that
        // does not answer costs its time once, not once for each request.
        if let Some(failure) = lock(&place.failure).as_ref().filter(|failure| failure.at + FAILURE_TIME > asked) {
            return Err(failure.error.clone());
        }
        match self.open(peer).await {
            Ok(opened) => {
                let opened = Arc::new(opened);
                *session = Some(opened.clone());
                Ok((opened, true))
            }
            Err(error) => {
                *session = None;
                place.failed(&error);
                Err(error)
            }
        }
    }

    async fn open(&self, peer: PeerId) -> Result<Session, AskError> {
        let stream = self.control.open(peer).await?;
        let link = Link::open(stream, link_config(&self.cluster)).await.map_err(|error| {
            count(&self.counters.links_broken);
            tracing::debug!(%peer, %error, "refused a link");
            match error {
                LinkError::Silent => AskError::Silent,
                other => AskError::Hello(other.to_string()),
            }
        })?;
        let waiting: Waiting = Arc::new(Mutex::new(Some(BTreeMap::new())));
        // It holds no sender: when the session goes, the link ends, and this with it.
        tokio::spawn(receive(peer, link.receiver, waiting.clone(), self.counters.clone()));
        Ok(Session { sender: link.sender, waiting, next: AtomicU64::new(0), silent: AtomicBool::new(false) })
    }

    fn place(&self, peer: PeerId, lane: Lane) -> Arc<Place> {
        let mut slots = lock(&self.slots);
        let slot = slots
            .entry((peer, lane))
            .and_modify(|slot| slot.last_used = Instant::now())
            .or_insert_with(|| Slot { place: Arc::default(), last_used: Instant::now() });
        let place = slot.place.clone();
        if slots.len() > 2 * PEERS_MAX {
            let oldest = slots.iter().min_by_key(|(_, slot)| slot.last_used).map(|(key, _)| *key);
            oldest.and_then(|key| slots.remove(&key));
            count(&self.counters.links_evicted);
        }
        place
    }

    async fn ask_on(&self, session: &Arc<Session>, place: &Place, request: Request) -> Result<Reply, AskError> {
        let answer = self.ask_and_wait(session, request).await;
        match &answer {
            Ok(_) => place.answered(),
            // Many may wait on one link: its silence is one.
            Err(error @ AskError::Silent) if !session.silent.swap(true, Ordering::Relaxed) => place.failed(error),
            Err(_) => {}
        }
        answer
    }

    async fn ask_and_wait(&self, session: &Arc<Session>, request: Request) -> Result<Reply, AskError> {
        let number = session.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let place = session.sender.reserve().await.map_err(|_closed| AskError::Ended)?;
        match lock(&session.waiting).as_mut() {
            Some(waiting) => drop(waiting.insert(number, answer)),
            None => return Err(AskError::Ended),
        }
        let mut due = Due { session: session.clone(), counters: self.counters.clone(), number, answered };
        let is_for_bulk = request.is_for_bulk();
        place.send(request.into_frame(number));
        if is_for_bulk { CancelledOnDrop(Some(due)).answer().await } else { due.answer().await }
    }
}

/// A request that was sent, and its answer that is due.
struct Due {
    session: Arc<Session>,
    counters: Arc<Counters>,
    number: u64,
    answered: oneshot::Receiver<Reply>,
}

impl Due {
    /// Waits for the answer, as long as anything moves; a link on which nothing does is ended.
    async fn answer(&mut self) -> Result<Reply, AskError> {
        let latest = Instant::now() + ANSWER_TIME_MAX;
        let sender = &self.session.sender;
        let mut moved = sender.moved();
        loop {
            match tokio::time::timeout(ANSWER_SILENT_MAX, &mut self.answered).await {
                Ok(answer) => return answer.map_err(|_gone| AskError::Ended),
                Err(_elapsed) if sender.moved() != moved && Instant::now() < latest => {
                    moved = sender.moved();
                }
                Err(_elapsed) => {
                    count(&self.counters.requests_silent);
                    sender.abort();
                    return Err(AskError::Silent);
                }
            }
        }
    }

    /// Tells the peer that no answer is wanted. It has to answer all the same, by which a dead link is found out.
    async fn cancel(mut self) {
        if self.session.sender.send(Request::Cancel.into_frame(self.number)).await.is_ok() {
            let _ = self.answer().await;
        }
    }
}

/// A request for an object, called back when nobody waits for it any more.
struct CancelledOnDrop(Option<Due>);

impl CancelledOnDrop {
    async fn answer(mut self) -> Result<Reply, AskError> {
        let Some(due) = &mut self.0 else { return Err(AskError::Ended) };
        let answer = due.answer().await;
        self.0 = None;
        answer
    }
}

impl Drop for CancelledOnDrop {
    fn drop(&mut self) {
        if let Some(due) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(due.cancel());
        }
    }
}

/// Hands answers to those who wait for them, until the link ends.
async fn receive(peer: PeerId, mut receiver: Receiver, waiting: Waiting, counters: Arc<Counters>) {
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
    add(&counters.frames_skipped, receiver.skipped());
    drop(receiver);
    lock(&waiting).take();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
