//! Questions and answers about the map, on streams of their own: one that this node asks by, and those by which others do.
//!
//! A question or an answer is one encoding, sent in parts: frames of one type, the last of which says so. Whoever asks has one
//! question under way, and asks the next only when that is answered or given up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use libp2p::PeerId;
use p2p_gossip::kv::anti_entropy::{ANSWER_TIME_MAX, Reply, Request};
use p2p_gossip::kv::{Actor, Malformed, Work};
use p2p_gossip::swim::Name;
use p2p_gossip::wire::frame::KIND_FIRST_FREE;
use p2p_gossip::wire::hello::Versions;
use p2p_gossip::wire::link::{CREDIT_MIN, Receiver, Sender};
use p2p_gossip::wire::streams::{Arrived, Control, Inbound};
use p2p_gossip::wire::{Cap, ClusterId, Frame, Hello, Link, LinkConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::counters::{KvCounters, add, count};
use crate::state::State;

/// The protocol's name.
pub(crate) const PROTOCOL: &str = "/p2p-node/map/1";

/// Versions of it that this node speaks.
const VERSIONS: Versions = Versions { min: 1, max: 1 };

const QUESTION: u8 = KIND_FIRST_FREE;
const ANSWER: u8 = KIND_FIRST_FREE + 1;

/// Bytes of a part.
const PART_LEN_MAX: usize = 256 << 10;

/// Longest question in bytes: a vector of very many lives.
const QUESTION_LEN_MAX: usize = 16 << 20;

/// Longer questions of others are taken one at a time: decoded they take many times their bytes.
const SHORT_LEN_MAX: usize = 64 << 10;

/// Longest answer in bytes: what stands at one key is told whole, whatever it is.
const ANSWER_LEN_MAX: usize = 64 << 20;

/// Longest time without any progress of what is sent.
const STALL_MAX: Duration = Duration::from_secs(30);

/// A stream by which nothing is asked for so long is closed.
const IDLE_TIME_MAX: Duration = Duration::from_secs(20);

/// Streams by which others ask.
const STREAMS_MAX: usize = 64;

/// Those of one peer; the one before may not be known to be gone yet.
const STREAMS_PER_PEER_MAX: usize = 2;

/// Longest wait of a question of another for the thread that answers it.
const WORK_TIME_MAX: Duration = Duration::from_secs(60);

/// Bytes of answers a second, to all others together.
const RATE: u64 = 64 << 20;

/// Questions that wait to be asked: the last alone counts.
const ASKED_MAX: usize = 4;

fn caps(kind: u8) -> Option<Cap> {
    matches!(kind, QUESTION | ANSWER).then_some(Cap { head: 1, payload: PART_LEN_MAX })
}

/// Whose question is being answered.
type Key = (Name, Actor, u64);

/// Questions of others that the thread of the map works on.
type Pending = Arc<Mutex<BTreeMap<Key, oneshot::Sender<Reply>>>>;

/// Asks, and answers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Streams {
    questions: mpsc::Sender<(Name, Request)>,
    pending: Pending,
}

/// What streams are made of.
pub(crate) struct Begin {
    pub(crate) state: State,
    pub(crate) control: Control,
    pub(crate) inbound: Inbound,
    pub(crate) cluster: watch::Receiver<ClusterId>,
    pub(crate) counters: Arc<KvCounters>,
}

impl Streams {
    /// How streams are used, and the tasks that drive them.
    pub(crate) fn start(begin: Begin) -> (Self, impl Future<Output = ()>, impl Future<Output = ()>) {
        let Begin { state, control, inbound, cluster, counters } = begin;
        let (questions, asked) = mpsc::channel(ASKED_MAX);
        let pending = Pending::default();
        let asker = Asker { state: state.clone(), control, cluster: cluster.clone(), counters: counters.clone() };
        let long = Arc::new(Semaphore::new(1));
        let server = Server { state, cluster, counters, pending: pending.clone(), pace: Arc::default(), long };
        (Self { questions, pending }, asker.run(asked), server.run(inbound))
    }

    /// Asks a peer.
    pub(crate) fn ask(&self, to: Name, request: Request) {
        // Where there is no room, the question is given up after a while, and asked anew.
        let _ = self.questions.try_send((to, request));
    }

    /// Answers a peer that has asked.
    pub(crate) fn answer(&self, to: Name, reply: Reply) {
        let waiting = lock(&self.pending).remove(&(to, reply.to, reply.number));
        // Whoever has asked may be gone.
        waiting.into_iter().for_each(|waiting| drop(waiting.send(reply.clone())));
    }

    /// Nobody answers any more what was asked so far.
    pub(crate) fn forget_questions(&self) {
        lock(&self.pending).clear();
    }
}

/// Asks others.
struct Asker {
    state: State,
    control: Control,
    cluster: watch::Receiver<ClusterId>,
    counters: Arc<KvCounters>,
}

/// An open stream to a peer.
struct Open {
    peer: Name,
    sender: Sender,
    receiver: Receiver,
}

impl Asker {
    async fn run(self, mut questions: mpsc::Receiver<(Name, Request)>) {
        let mut open: Option<Open> = None;
        let mut next = None;
        loop {
            let question = match next.take() {
                Some(question) => question,
                None => match timeout(IDLE_TIME_MAX, questions.recv()).await {
                    Ok(Some(question)) => question,
                    Ok(None) => return,
                    Err(_elapsed) => {
                        open = None;
                        match questions.recv().await {
                            Some(question) => question,
                            None => return,
                        }
                    }
                },
            };
            count(&self.counters.questions_asked);
            let (peer, request) = question;
            tokio::select! {
                asked = self.ask(open.take(), peer, &request) => {
                    open = asked;
                    if open.is_none() {
                        self.state.work(Work::Unanswered(peer, request.number));
                    }
                }
                // The one before was given up.
                newer = questions.recv() => match newer {
                    Some(newer) => next = Some(newer),
                    None => return,
                },
            }
        }
    }

    /// Asks, and hands the answer over; the stream, if it is still good.
    async fn ask(&self, open: Option<Open>, peer: Name, request: &Request) -> Option<Open> {
        let ask = async {
            let open = open.filter(|open| open.peer == peer);
            let is_used = open.is_some();
            match self.ask_on(open, peer, request).await {
                // The peer may have started anew since.
                None if is_used => self.ask_on(None, peer, request).await,
                asked => asked,
            }
        };
        timeout(ANSWER_TIME_MAX, ask).await.ok().flatten()
    }

    async fn ask_on(&self, open: Option<Open>, peer: Name, request: &Request) -> Option<Open> {
        let mut open = match open {
            Some(open) => open,
            None => self.open(peer).await?,
        };
        send(&open.sender, QUESTION, request.encode()).await?;
        let received = receive(&mut open.receiver, ANSWER, ANSWER_LEN_MAX, None).await?;
        if let Ok((bytes, _)) = &received {
            add(&self.counters.answers_received, bytes.len() as u64);
        }
        match received.and_then(|(bytes, _)| Reply::decode(bytes)) {
            Ok(reply) => {
                self.state.work(Work::Reply(peer, reply));
                Some(open)
            }
            Err(error) => {
                count(&self.counters.peers_broken);
                tracing::debug!(?peer, %error, "a member makes no sense");
                None
            }
        }
    }

    async fn open(&self, name: Name) -> Option<Open> {
        let stream = self.control.open(name.peer()?).await;
        let stream = stream.inspect_err(|error| tracing::debug!(peer = ?name, %error, "cannot ask a member")).ok()?;
        let config = config(&self.cluster);
        let link = Link::open(stream, config).await;
        let link = link.inspect_err(|error| tracing::debug!(peer = ?name, %error, "cannot ask a member")).ok()?;
        Some(Open { peer: name, sender: link.sender, receiver: link.receiver })
    }
}

/// Answers others.
#[derive(Clone)]
struct Server {
    state: State,
    cluster: watch::Receiver<ClusterId>,
    counters: Arc<KvCounters>,
    pending: Pending,
    pace: Arc<Mutex<Pace>>,
    /// The place for a long question.
    long: Arc<Semaphore>,
}

impl Server {
    async fn run(self, mut inbound: Inbound) {
        let mut tasks = tokio::task::JoinSet::new();
        let mut of_peers: BTreeMap<PeerId, Arc<Semaphore>> = BTreeMap::new();
        loop {
            tokio::select! {
                arrived = inbound.recv() => {
                    let Some(Arrived { peer, stream, .. }) = arrived else { return };
                    of_peers.retain(|_, places| places.available_permits() < STREAMS_PER_PEER_MAX);
                    let places = of_peers.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(STREAMS_PER_PEER_MAX)));
                    match (places.clone().try_acquire_owned(), Name::of_peer(&peer)) {
                        (Ok(place), Some(name)) if tasks.len() < STREAMS_MAX => {
                            tasks.spawn(self.clone().serve(name, stream, place));
                        }
                        _ => count(&self.counters.streams_refused),
                    }
                }
                Some(_ended) = tasks.join_next() => {}
            }
        }
    }

    async fn serve(self, peer: Name, stream: libp2p::Stream, _place: OwnedSemaphorePermit) {
        let config = config(&self.cluster);
        let Ok(link) = Link::open(stream, config).await else { return };
        let Link { sender, mut receiver, .. } = link;
        loop {
            let question = receive(&mut receiver, QUESTION, QUESTION_LEN_MAX, Some(&self.long));
            let Ok(Some(received)) = timeout(IDLE_TIME_MAX, question).await else { return };
            let decoded = received.and_then(|(bytes, place)| Ok((Request::decode(bytes)?, place)));
            let Ok((request, place)) = decoded else {
                count(&self.counters.peers_broken);
                tracing::debug!(?peer, "a member makes no sense");
                return;
            };
            let key = (peer, request.to, request.number);
            let (reply, answered) = oneshot::channel();
            lock(&self.pending).insert(key, reply);
            self.state.work(Work::Request(peer, request));
            let Ok(Ok(reply)) = timeout(WORK_TIME_MAX, answered).await else {
                lock(&self.pending).remove(&key);
                return;
            };
            drop(place);
            let bytes = reply.encode();
            if bytes.len() > ANSWER_LEN_MAX {
                tracing::warn!(?peer, len = bytes.len(), "an answer is longer than any may be");
                return;
            }
            let pause = lock(&self.pace).take(bytes.len() as u64, Instant::now());
            tokio::time::sleep(pause).await;
            count(&self.counters.questions_answered);
            add(&self.counters.answers_sent, bytes.len() as u64);
            if send(&sender, ANSWER, bytes).await.is_none() {
                return;
            }
        }
    }
}

/// Lets so many bytes a second go.
#[derive(Debug, Default)]
struct Pace {
    /// When all that was let go has gone.
    until: Option<Instant>,
}

impl Pace {
    /// How long to wait before so many go.
    fn take(&mut self, len: u64, now: Instant) -> Duration {
        let from = self.until.map_or(now, |until| until.max(now));
        self.until = Some(from + Duration::from_nanos(len.saturating_mul(1_000_000_000) / RATE));
        from - now
    }
}

fn config(cluster: &watch::Receiver<ClusterId>) -> LinkConfig {
    let cluster = *cluster.borrow();
    let hello = Hello { cluster, versions: VERSIONS, capabilities: 0, credit: CREDIT_MIN };
    LinkConfig { hello, caps, stall: STALL_MAX }
}

/// Sends something in parts; None once the link has ended.
async fn send(sender: &Sender, kind: u8, bytes: Bytes) -> Option<()> {
    let mut left = bytes;
    loop {
        let part = left.split_to(left.len().min(PART_LEN_MAX));
        let head = Bytes::from_static(if left.is_empty() { &[1] } else { &[0] });
        sender.send(Frame::new(kind, head, part)).await.ok()?;
        if left.is_empty() {
            return Some(());
        }
    }
}

/// What has come, and the place that it takes while there is anything of it.
type Came<'a> = (Bytes, Option<SemaphorePermit<'a>>);

/// Something that was sent in parts; None once the link has ended. What is long waits for a place, where there are such.
async fn receive<'a>(
    receiver: &mut Receiver,
    kind: u8,
    len_max: usize,
    long: Option<&'a Semaphore>,
) -> Option<Result<Came<'a>, Malformed>> {
    let (mut bytes, mut place) = (BytesMut::new(), None);
    loop {
        let frame = receiver.recv().await?.into_frame();
        let len = bytes.len() + frame.payload.len();
        if frame.kind != kind || len > len_max {
            return Some(Err(Malformed));
        }
        if let (Some(long), None, true) = (long, &place, len > SHORT_LEN_MAX) {
            place = Some(long.acquire().await.ok()?);
        }
        bytes.extend_from_slice(&frame.payload);
        match &frame.head[..] {
            [1] => return Some(Ok((bytes.freeze(), place))),
            // A part that is none brings nothing nearer.
            [0] if !frame.payload.is_empty() => {}
            _ => return Some(Err(Malformed)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_go_at_a_rate() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.take(RATE, now), Duration::ZERO);
        assert_eq!(pace.take(RATE / 2, now), Duration::from_secs(1));
        assert_eq!(pace.take(1, now + Duration::from_secs(1)), Duration::from_millis(500));
        assert_eq!(pace.take(1, now + Duration::from_secs(9)), Duration::ZERO);
    }
}
