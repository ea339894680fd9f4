//! Nodes, their connections, and time.

mod streams;

use std::collections::VecDeque;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::link::{Links, STREAM_TIME_MAX};
use super::queue::Queue;
use crate::swim::Time;

/// A machine with an address, whichever process runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// When a world begins: nobody's time begins with it, so nothing may depend on it.
pub const BEGINNING: Time = Time(1_000_000_000);

/// Times that a packet goes one way or the other until a connection with Noise and Yamux is there.
const HANDSHAKE_LEGS: u32 = 5;

/// Bytes that a frame takes on the wire beside its own: Yamux 12, Noise 18, TCP with time stamps 32, IP 20. Empty segments that
/// only confirm are not counted.
pub(super) const FRAME_OVERHEAD: u64 = 82;

/// Bytes that a datagram takes on the wire beside its own: UDP 8, IP 20.
const DATAGRAM_OVERHEAD: u64 = 28;

/// Frames that a stream sends without hearing that any has come.
const UNCONFIRMED_MAX: usize = 10;

/// A process whose dials are not answered gives up after this.
const DIAL_TIME_MAX: Duration = Duration::from_secs(1);

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Happened<M> {
    /// Its deadline has come.
    Wake,
    /// There is a connection.
    Opened {
        /// The other end.
        with: Slot,
        /// Whether this end has made it.
        dialed: bool,
    },
    /// A connection is gone.
    Closed(Slot),
    /// A dial was refused.
    Refused(Slot),
    /// A dial was not answered.
    Unanswered(Slot),
    /// A short dial has come to its end.
    Reached(Slot, bool),
    /// Something has come on a connection.
    Message(Slot, M),
    /// Something has come without one.
    Datagram(Slot, M),
    /// What it had written is durable.
    Durable(u64),
}

/// What a node does.
#[derive(Clone, Debug)]
pub enum Action<M> {
    /// Connects.
    Dial(Slot),
    /// Connects and disconnects.
    Reach(Slot),
    /// Disconnects.
    Close(Slot),
    /// Sends something of so many bytes on a connection.
    Send(Slot, M, usize),
    /// Sends something of so many bytes without a connection: it comes, or it does not.
    Datagram(Slot, M, usize),
    /// Writes to its disk.
    Write(u64),
    /// Ends.
    Exit,
}

/// A node in a world, as a machine.
pub trait Node {
    /// What nodes send each other.
    type Message;
    /// What all of them share.
    type Shared;

    /// Takes what happened; adds what it does to `actions`.
    fn handle(
        &mut self,
        shared: &mut Self::Shared,
        happened: Happened<Self::Message>,
        now: Time,
        actions: &mut Vec<Action<Self::Message>>,
    );

    /// When it wants to be woken.
    fn deadline(&self) -> Time;
}

/// What a node has sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Messages.
    pub frames: u64,
    /// Bytes of them, with what the wire adds to each.
    pub bytes: u64,
    /// Connections it has asked for.
    pub dials: u64,
}

struct Place<N: Node> {
    node: Option<N>,
    /// Whether the machine itself is up: then it refuses where no process listens.
    up: bool,
    stalled_until: Option<Time>,
    /// By which everything reaches the process late.
    lag: Duration,
    backlog: VecDeque<Happened<N::Message>>,
    wake_at: Time,
    connections: Vec<(Slot, u32)>,
    uplink_free: Time,
    traffic: Traffic,
    /// Counts processes: what was under way for an earlier one does not reach the next.
    process: u32,
}

struct Connection<M> {
    ends: [Slot; 2],
    open: bool,
    /// One end has closed it, of which the other could not hear.
    half_closed: bool,
    halves: [Half<M>; 2],
}

/// One direction of a connection.
struct Half<M> {
    last_at: Time,
    blocked: VecDeque<M>,
    blocked_since: Option<Time>,
    unconfirmed: usize,
}

impl<M> Default for Half<M> {
    fn default() -> Self {
        Self { last_at: Time::default(), blocked: VecDeque::new(), blocked_since: None, unconfirmed: 0 }
    }
}

enum Event<M> {
    Wake(Slot),
    Resume(Slot),
    /// For the process that ran then.
    Tell(Slot, u32, Happened<M>),
    Deliver {
        connection: u32,
        half: usize,
        message: M,
    },
    /// A handshake is over, of the processes that ran then.
    Connect {
        from: Slot,
        to: Slot,
        process: u32,
        since: Time,
        keep: bool,
    },
    /// A stream got nothing through.
    Reset(u32, Time),
}

/// Nodes and what is between them.
pub struct World<N: Node> {
    /// What all nodes share.
    pub shared: N::Shared,
    /// What is between them.
    pub links: Links,
    places: Vec<Place<N>>,
    connections: Vec<Connection<N::Message>>,
    queue: Queue<Event<N::Message>>,
    now: Time,
    rng: SmallRng,
    actions: Vec<Action<N::Message>>,
    events: u64,
}

impl<N: Node> World<N> {
    /// A world without nodes.
    pub fn new(shared: N::Shared, links: Links, seed: u64) -> Self {
        Self {
            shared,
            links,
            places: Vec::new(),
            connections: Vec::new(),
            queue: Queue::default(),
            now: BEGINNING,
            rng: SmallRng::seed_from_u64(seed),
            actions: Vec::new(),
            events: 0,
        }
    }

    /// The time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// What happened so far, in number.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// A machine without a process.
    pub fn add(&mut self) -> Slot {
        self.places.push(Place {
            node: None,
            up: true,
            stalled_until: None,
            lag: Duration::ZERO,
            backlog: VecDeque::new(),
            wake_at: Time::NEVER,
            connections: Vec::new(),
            uplink_free: Time::default(),
            traffic: Traffic::default(),
            process: 0,
        });
        Slot(u32::try_from(self.places.len() - 1).expect("fewer"))
    }

    /// Machines there are.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<N> {
        (0..self.places.len() as u32).map(Slot)
    }

    /// The process on a machine.
    pub fn node(&self, slot: Slot) -> Option<&N> {
        self.places[slot.0 as usize].node.as_ref()
    }

    /// The same, to look into or to change.
    pub fn node_mut(&mut self, slot: Slot) -> Option<&mut N> {
        self.places[slot.0 as usize].node.as_mut()
    }

    /// What a machine has sent.
    pub fn traffic(&self, slot: Slot) -> Traffic {
        self.places[slot.0 as usize].traffic
    }

    /// Connections of a machine.
    pub fn connections(&self, slot: Slot) -> usize {
        self.places[slot.0 as usize].connections.len()
    }

    /// Whether a process stands still.
    pub fn is_stalled(&self, slot: Slot) -> bool {
        self.places[slot.0 as usize].stalled_until.is_some()
    }

    /// Starts a process.
    pub fn start(&mut self, slot: Slot, node: N) {
        if !self.places[slot.0 as usize].up {
            self.answer_for_the_dead(slot);
        }
        let place = &mut self.places[slot.0 as usize];
        place.up = true;
        place.process += 1;
        place.node = Some(node);
        place.wake_at = Time::NEVER;
        self.arm(slot);
    }

    /// Ends a process: the system closes what it had open, and refuses what comes.
    pub fn kill(&mut self, slot: Slot) -> Option<N> {
        let node = self.end(slot);
        for (other, connection) in std::mem::take(&mut self.places[slot.0 as usize].connections) {
            self.hang_up(slot, other, connection);
        }
        node
    }

    /// Ends a machine: nobody hears anything of it any more.
    pub fn crash(&mut self, slot: Slot) -> Option<N> {
        let node = self.end(slot);
        self.places[slot.0 as usize].up = false;
        for (other, connection) in std::mem::take(&mut self.places[slot.0 as usize].connections) {
            // The other end does not know, and sends into the void.
            let now = self.now;
            self.queue.push(now + STREAM_TIME_MAX, Event::Reset(connection, now));
            let _ = other;
        }
        node
    }

    fn end(&mut self, slot: Slot) -> Option<N> {
        let place = &mut self.places[slot.0 as usize];
        place.process += 1;
        place.stalled_until = None;
        place.backlog.clear();
        place.wake_at = Time::NEVER;
        place.node.take()
    }

    /// A machine is up again that knows nothing of connections that others still have to it.
    fn answer_for_the_dead(&mut self, slot: Slot) {
        let mut stale = Vec::new();
        for (index, place) in self.places.iter_mut().enumerate() {
            place.connections.retain(|(other, connection)| {
                if *other == slot {
                    stale.push((Slot(index as u32), *connection));
                }
                *other != slot
            });
        }
        for (end, connection) in stale {
            self.forget(connection);
            self.tell(end, Happened::Closed(slot));
        }
    }

    /// Lets a process stand still; what comes for it waits.
    pub fn stall(&mut self, slot: Slot, time: Duration) {
        let until = self.now + time;
        self.places[slot.0 as usize].stalled_until = Some(until);
        self.queue.push(until, Event::Resume(slot));
    }

    /// Lets everything reach a process late from now on: its loop is slow.
    pub fn slow(&mut self, slot: Slot, lag: Duration) {
        self.places[slot.0 as usize].lag = lag;
    }

    /// Lets through again what was held back where links are whole.
    pub fn links_changed(&mut self) {
        for connection in 0..self.connections.len() as u32 {
            for half in 0..2 {
                self.unblock(connection, half);
            }
        }
    }

    /// Does to a process what its owner would.
    pub fn tell(&mut self, slot: Slot, happened: Happened<N::Message>) {
        let process = self.places[slot.0 as usize].process;
        self.queue.push(self.now, Event::Tell(slot, process, happened));
    }

    /// Goes on until a time; `look` is called after everything that happened to a node.
    pub fn run_until(&mut self, end: Time, mut look: impl FnMut(&mut Self, Slot)) {
        while let Some(at) = self.queue.next_at().filter(|at| *at <= end) {
            let Some((_, event)) = self.queue.pop() else { break };
            self.now = at;
            self.step(event, &mut look);
        }
        self.now = end;
    }

    fn step(&mut self, event: Event<N::Message>, look: &mut impl FnMut(&mut Self, Slot)) {
        match event {
            Event::Wake(slot) => {
                let place = &mut self.places[slot.0 as usize];
                if place.wake_at == self.now && place.stalled_until.is_none() {
                    place.wake_at = Time::NEVER;
                    self.happen(slot, Happened::Wake, look);
                }
            }
            Event::Resume(slot) => {
                let place = &mut self.places[slot.0 as usize];
                if place.stalled_until == Some(self.now) {
                    place.stalled_until = None;
                    place.wake_at = Time::NEVER;
                    let backlog = std::mem::take(&mut place.backlog);
                    self.happen(slot, Happened::Wake, look);
                    for happened in backlog {
                        self.happen(slot, happened, look);
                    }
                }
            }
            Event::Tell(slot, process, happened) => {
                // That one is gone which there was before is heard no more where there is another already.
                let is_late = matches!(&happened, Happened::Closed(other) if self.is_connected(slot, *other));
                if self.places[slot.0 as usize].process == process && !is_late {
                    self.happen(slot, happened, look);
                }
            }
            Event::Deliver { connection, half, message } => {
                let state = &mut self.connections[connection as usize];
                let [from, to] = if half == 0 { state.ends } else { [state.ends[1], state.ends[0]] };
                if !state.open {
                    return;
                }
                if self.links.is_cut(from, to) {
                    // It was on its way when the link was cut.
                    state.halves[half].blocked.push_back(message);
                    return;
                }
                state.halves[1 - half].unconfirmed = 0;
                self.happen(to, Happened::Message(from, message), look);
            }
            Event::Connect { from, to, process, since, keep } => self.connect(from, to, process, since, keep, look),
            Event::Reset(connection, since) => self.reset(connection, since),
        }
    }

    fn happen(&mut self, slot: Slot, happened: Happened<N::Message>, look: &mut impl FnMut(&mut Self, Slot)) {
        let place = &mut self.places[slot.0 as usize];
        let Some(node) = &mut place.node else { return };
        if place.stalled_until.is_some() {
            place.backlog.push_back(happened);
            return;
        }
        self.events += 1;
        let mut actions = std::mem::take(&mut self.actions);
        node.handle(&mut self.shared, happened, self.now, &mut actions);
        for action in actions.drain(..) {
            self.act(slot, action);
        }
        self.actions = actions;
        self.arm(slot);
        look(self, slot);
    }

    fn is_connected(&self, slot: Slot, other: Slot) -> bool {
        self.places[slot.0 as usize].connections.iter().any(|(end, _)| *end == other)
    }

    fn arm(&mut self, slot: Slot) {
        let place = &mut self.places[slot.0 as usize];
        let Some(node) = &place.node else { return };
        let deadline = node.deadline().max(self.now) + place.lag;
        if deadline < place.wake_at {
            place.wake_at = deadline;
            self.queue.push(deadline, Event::Wake(slot));
        }
    }

    fn act(&mut self, slot: Slot, action: Action<N::Message>) {
        match action {
            Action::Dial(to) => self.dial(slot, to, true),
            Action::Reach(to) => self.dial(slot, to, false),
            Action::Close(with) => {
                let place = &mut self.places[slot.0 as usize];
                if let Some(index) = place.connections.iter().position(|(other, _)| *other == with) {
                    let (_, connection) = place.connections.swap_remove(index);
                    self.hang_up(slot, with, connection);
                }
            }
            Action::Send(to, message, len) => {
                let place = &self.places[slot.0 as usize];
                if let Some((_, connection)) = place.connections.iter().find(|(other, _)| *other == to) {
                    let connection = *connection;
                    let left = self.leave(slot, len, FRAME_OVERHEAD);
                    let half = usize::from(self.connections[connection as usize].ends[0] != slot);
                    self.stream(connection, half, message, left);
                }
            }
            Action::Datagram(to, message, len) => {
                let left = self.leave(slot, len, DATAGRAM_OVERHEAD);
                let process = self.places[to.0 as usize].process;
                let is_lost = self.links.is_cut(slot, to) || self.links.is_lost(slot, to, &mut self.rng);
                if !is_lost && self.places[to.0 as usize].node.is_some() {
                    let at = left + self.links.latency(&mut self.rng);
                    self.queue.push(at, Event::Tell(to, process, Happened::Datagram(slot, message)));
                }
            }
            Action::Write(what) => {
                let process = self.places[slot.0 as usize].process;
                let took = Duration::from_millis(1);
                self.queue.push(self.now + took, Event::Tell(slot, process, Happened::Durable(what)));
            }
            Action::Exit => {
                self.kill(slot);
            }
        }
    }

    /// When something of so many bytes has left a machine.
    fn leave(&mut self, slot: Slot, len: usize, overhead: u64) -> Time {
        let place = &mut self.places[slot.0 as usize];
        let bytes = len as u64 + overhead;
        place.traffic.frames += 1;
        place.traffic.bytes += bytes;
        let Some(uplink) = self.links.uplink else { return self.now };
        let begins = place.uplink_free.max(self.now);
        place.uplink_free = begins + Duration::from_micros(bytes * 1_000_000 / uplink);
        place.uplink_free
    }
}
