//! A seat among the members: edges on which an identity is one of them, as far as it has to be for what it is up to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use p2p_gossip::kv::message::{self as map_message, CAPABILITY, Copy};
use p2p_gossip::swim::{Claims, Directory, Ed25519, Fact, Message, Name, Record, Standing, Status, Version, codec};
use p2p_gossip::wire::link::Sender;
use p2p_gossip::wire::{Cap, Frame, Hello, Link, LinkConfig, Versions};
use tokio::sync::watch;

use super::Attack;
use super::door::Edge;
use super::wire::CREDIT_LEN;

/// Between two questions to the same member: as often as honest nodes ask.
const PERIOD: Duration = Duration::from_secs(2);

/// Longest time in which nothing that is sent moves.
const STALL_MAX: Duration = Duration::from_secs(60);

/// What an identity does among the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sitting {
    /// It is none: it has a connection and no edge.
    Nowhere,
    /// What a scenario does on the edges that it makes; on those that others make it is one of them.
    OnEdges,
    /// It keeps an edge to the victim, and is one of them in its own way.
    Down(Ways),
}

/// How it goes on after it has said who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ways {
    /// It asks and answers, as everybody does.
    Honest,
    /// It answers what it is asked, and nothing else.
    OnlyAnswers,
    /// It says nothing more.
    Mute,
    /// It does not even read.
    Deaf,
}

/// One identity's place among the members.
pub(crate) struct Seat {
    pub(crate) attack: Arc<Attack>,
    pub(crate) keys: Ed25519,
    ways: Ways,
    has_map: bool,
    state: Mutex<State>,
}

struct State {
    addresses: Vec<Bytes>,
    version: Version,
    edges: BTreeMap<ConnectionId, (PeerId, Sender)>,
    /// What the victim's map came to when it told that last.
    copy: Option<Copy>,
    directory: Directory,
    known: BTreeMap<Name, Arc<Fact>>,
    seated: bool,
}

impl Seat {
    pub(crate) fn new(attack: &Arc<Attack>, n: u32, sitting: Sitting, has_map: bool) -> Self {
        let ways = if let Sitting::Down(ways) = sitting { ways } else { Ways::Honest };
        // Later than whatever this identity was in an earlier attack on the same cluster.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let version = Version { generation: now.as_millis() as u64, incarnation: 0 };
        let (keys, known) = (Ed25519::of_secret(attack.secret(n)), BTreeMap::new());
        let (edges, addresses, directory) = (BTreeMap::new(), Vec::new(), Directory::default());
        let state = State { addresses, version, edges, copy: None, directory, known, seated: false };
        Self { attack: attack.clone(), keys, ways, has_map, state: Mutex::new(state) }
    }

    pub(crate) fn listens_at(&self, address: Multiaddr) {
        self.lock().addresses = vec![address.to_vec().into()];
    }

    pub(crate) fn has_map(&self) -> bool {
        self.has_map
    }

    pub(crate) fn is_seated(&self) -> bool {
        self.lock().seated
    }

    pub(crate) fn sits_down(&self) {
        self.lock().seated = true;
    }

    pub(crate) fn stands_up(&self) {
        self.lock().seated = false;
    }

    /// What it would say of itself if it were honest.
    pub(crate) fn claims(&self) -> Claims {
        let state = self.lock();
        Claims {
            name: self.keys.name(),
            version: state.version,
            instance: 1,
            status: Status::Alive,
            introducer: None,
            addresses: state.addresses.clone(),
            tags: Bytes::new(),
            fill: 0,
            rest: Bytes::new(),
        }
    }

    /// That it is here.
    pub(crate) fn meet(&self) -> Frame {
        let record = Record::sign(self.claims(), &self.keys);
        self.frame(|_| Message::Meet(record, 0, Standing::Settled))
    }

    /// The newest records of the honest nodes that have come so far, the victim's among them.
    pub(crate) fn honest(&self) -> Vec<Arc<Record>> {
        let ip = Multiaddr::from(self.attack.address.ip()).to_vec();
        let is_honest = |record: &&Arc<Record>| record.claims().addresses.iter().any(|at| at.starts_with(&ip));
        self.lock().known.values().map(|fact| fact.record()).filter(is_honest).cloned().collect()
    }

    /// Waits until so many of them are known.
    pub(crate) async fn knows(&self, count: usize) -> Vec<Arc<Record>> {
        loop {
            let honest = self.honest();
            if honest.len() >= count {
                return honest;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A message about members by name, as a frame.
    pub(crate) fn frame(&self, message: impl FnOnce(&mut Directory) -> Message) -> Frame {
        let directory = &mut self.lock().directory;
        let message = message(directory);
        message.to_frame(directory)
    }

    /// Says something to everybody with whom it has an edge.
    pub(crate) async fn say(&self, frame: &Frame) {
        let edges: Vec<Sender> = self.lock().edges.values().map(|(_, edge)| edge.clone()).collect();
        for edge in edges {
            if edge.send(frame.clone()).await.is_ok() {
                self.attack.did("said");
            }
        }
    }

    /// Says something to the victim, once there is an edge to it.
    pub(crate) async fn tell(&self, frames: impl IntoIterator<Item = Frame>) {
        let victim = self.attack.victim;
        let edge = || self.lock().edges.values().find(|(peer, _)| *peer == victim).map(|(_, edge)| edge.clone());
        for frame in frames {
            while edge().is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if let Some(edge) = edge()
                && edge.send(frame).await.is_ok()
            {
                self.attack.did("told");
            }
        }
    }

    /// What the victim's map came to when it told that last.
    pub(crate) async fn copy(&self) -> Copy {
        loop {
            if let Some(copy) = self.lock().copy {
                return copy;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Is one of the members on an edge, until it ends.
    pub(crate) async fn sit(self: Arc<Self>, mut edge: Edge, connected: Option<&watch::Sender<bool>>) {
        let stream = edge.take_stream();
        let Ok(Link { sender, mut receiver, .. }) = Link::open(stream, config(&self.attack, self.has_map)).await else {
            return;
        };
        if sender.send(self.meet()).await.is_err() {
            return;
        }
        self.attack.did("sat down");
        self.lock().edges.insert(edge.connection, (edge.peer, sender.clone()));
        if let Some(connected) = connected {
            connected.send_replace(true);
        }
        let mut ask = tokio::time::interval(PERIOD);
        let (mut number, mut digest) = (0, 0);
        loop {
            tokio::select! {
                received = receiver.recv(), if self.ways != Ways::Deaf => {
                    let Some(received) = received else { break };
                    if map_message::is_about_map(received.frame.kind) {
                        self.hear(edge.peer, &received.frame);
                        continue;
                    }
                    let answers = self.answers(edge.peer, &received.frame, &mut digest);
                    if self.ways == Ways::Mute {
                        continue;
                    }
                    for answer in answers {
                        let _ = sender.send(answer).await;
                    }
                }
                _ = ask.tick(), if self.ways == Ways::Honest => {
                    number += 1;
                    let _ = sender.send(self.frame(|_| Message::Ping(number, digest, true))).await;
                }
                () = sender.ended() => break,
            }
        }
        self.lock().edges.remove(&edge.connection);
    }

    /// What is to be answered; of what is said of others it takes note.
    fn answers(&self, from: PeerId, frame: &Frame, digest: &mut u64) -> Vec<Frame> {
        let message = match Message::from_frame(frame, &self.lock().directory) {
            Ok(Some(message)) => message,
            Ok(None) => return Vec::new(),
            Err(error) => {
                self.attack.complain(&format!("{from} sent what is no message: {error}"));
                return Vec::new();
            }
        };
        match message {
            Message::Meet(record, theirs, _) => {
                *digest = theirs;
                self.learn([Arc::new(Fact::Said(record))]);
            }
            Message::Ping(number, theirs, _) => {
                *digest = theirs;
                return vec![self.frame(|_| Message::Ack(number, theirs))];
            }
            Message::Ack(_, theirs) => *digest = theirs,
            Message::Ask(subject) => return vec![self.frame(|_| Message::Told(subject, true))],
            Message::News(facts) | Message::Known(facts) | Message::Buckets(_, facts) => self.learn(facts),
            Message::Accuse(_) | Message::Told(..) | Message::Doubt(_) | Message::Sums(_) | Message::Settled => {}
        }
        Vec::new()
    }

    fn hear(&self, from: PeerId, frame: &Frame) {
        match map_message::Message::from_frame(frame) {
            Ok(map_message::Message::Copy(copy)) if from == self.attack.victim => self.lock().copy = Some(copy),
            Ok(_) => {}
            Err(error) => self.attack.complain(&format!("{from} sent what is no message: {error}")),
        }
    }

    fn learn(&self, facts: impl IntoIterator<Item = Arc<Fact>>) {
        let mut state = self.lock();
        for fact in facts {
            let known = state.known.get(fact.subject());
            if known.is_none_or(|known| known.precedence() < fact.precedence()) {
                state.directory.insert(*fact.subject());
                state.known.insert(*fact.subject(), fact);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An honest hello on an edge, of somebody who has a map or none.
pub(crate) fn hello(attack: &Attack, has_map: bool) -> Hello {
    let capabilities = if has_map { CAPABILITY } else { 0 };
    Hello { cluster: attack.cluster, versions: Versions { min: 1, max: 1 }, capabilities, credit: CREDIT_LEN }
}

/// How an edge is run that is not run by hand.
pub(crate) fn config(attack: &Attack, has_map: bool) -> LinkConfig {
    LinkConfig { hello: hello(attack, has_map), caps, stall: STALL_MAX }
}

fn caps(kind: u8) -> Option<Cap> {
    codec::caps(kind).or_else(|| map_message::caps(kind))
}
