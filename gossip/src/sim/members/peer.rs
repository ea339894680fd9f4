//! One node: the machine of membership, its disk, and what turns members into addresses.

use std::sync::Arc;

use bytes::Bytes;

use super::keys::Key;
use super::profile::{Begin, Change, Order, Profile, Shared};
use crate::sim::{Action, Happened, Node, Slot};
use crate::swim::{
    Claims, Config, Description, Effect, Event, Fact, Input, Machine, Member, Members, Message, Record, Start, State,
    Status, Stop, Time, Version,
};

/// What outlives a process.
#[derive(Clone, Default)]
pub struct Disk {
    /// Starts so far.
    pub generation: u64,
    /// What was known.
    pub members: Members,
}

/// A node.
pub struct Peer {
    /// Its machine.
    pub machine: Machine<Key>,
    slot: Slot,
    /// The generation that is on its disk.
    pub generation: u64,
    events: Vec<Event>,
    orders: Vec<Input>,
    /// Why it has stopped.
    pub stopped: Option<Stop>,
    connected: Vec<(Member, Slot)>,
    effects: Vec<Effect>,
}

fn description(slot: Slot, tags: Bytes) -> Description {
    Description { addresses: vec![address(slot)], tags, fill: 0 }
}

/// The address of a machine, as a record has it.
fn address(slot: Slot) -> Bytes {
    Bytes::copy_from_slice(&slot.0.to_le_bytes())
}

impl Peer {
    /// Tells its machine something as soon as it is called.
    #[cfg(test)]
    pub(super) fn tell(&mut self, input: Input) {
        self.orders.push(input);
    }

    fn slot_of(&self, shared: &Shared, member: Member) -> Slot {
        if let Some((_, slot)) = self.connected.iter().find(|(other, _)| *other == member) {
            return *slot;
        }
        let address = self.machine.members().get(member).and_then(|fact| fact.record().claims().addresses.first());
        let bytes: Option<[u8; 4]> = address.and_then(|address| address.as_ref().try_into().ok());
        bytes.map_or(shared.slot_of[member.number() as usize], |bytes| Slot(u32::from_le_bytes(bytes)))
    }

    fn handle_input(&mut self, shared: &mut Shared, input: Input, now: Time, actions: &mut Vec<Action<Message>>) {
        let mut effects = std::mem::take(&mut self.effects);
        self.machine.handle(&mut shared.directory, input, now, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Persist(generation) => actions.push(Action::Write(generation)),
                Effect::Dial(member) => actions.push(Action::Dial(self.slot_of(shared, member))),
                Effect::Reach(member) => actions.push(Action::Reach(self.slot_of(shared, member))),
                Effect::Close(member) => {
                    actions.push(Action::Close(self.slot_of(shared, member)));
                    self.connected.retain(|(other, _)| *other != member);
                }
                Effect::Send(member, message) => {
                    let len = message.frame_len();
                    actions.push(Action::Send(self.slot_of(shared, member), message, len));
                }
                Effect::Event(event) => self.events.push(event),
                // The directory is everybody's.
                Effect::Forget(_) => {}
                Effect::Stop(stop) => {
                    self.stopped = Some(stop);
                    actions.push(Action::Exit);
                }
            }
        }
        self.effects = effects;
    }
}

impl Node for Peer {
    type Message = Message;
    type Shared = Shared;

    fn handle(
        &mut self,
        shared: &mut Shared,
        happened: Happened<Message>,
        now: Time,
        actions: &mut Vec<Action<Message>>,
    ) {
        for order in std::mem::take(&mut self.orders) {
            self.handle_input(shared, order, now, actions);
        }
        let member_at = |slot: Slot| shared.of_slot[slot.0 as usize];
        let input = match happened {
            Happened::Wake => Input::Wake,
            Happened::Opened { with, dialed } => {
                let member = member_at(with);
                if let Some((_, other)) = self.connected.iter().find(|(other, _)| *other == member).copied() {
                    // Two processes under one name: the one that came last. With one and the same an earlier connection is gone.
                    if other != with {
                        actions.push(Action::Close(other));
                    }
                    self.connected.retain(|(other, _)| *other != member);
                    self.handle_input(shared, Input::Closed(member), now, actions);
                }
                self.connected.push((member, with));
                Input::Opened { member, dialed }
            }
            Happened::Closed(slot) => {
                let member = member_at(slot);
                let before = self.connected.len();
                self.connected.retain(|(_, other)| *other != slot);
                if self.connected.len() == before {
                    return;
                }
                Input::Closed(member)
            }
            Happened::Refused(slot) => Input::Refused(member_at(slot)),
            Happened::Unanswered(slot) => Input::Unanswered(member_at(slot)),
            Happened::Reached(slot, reached) => Input::Reached(member_at(slot), reached),
            // It sends none, and does not listen for any.
            Happened::Datagram(..) => return,
            Happened::Message(slot, message) => {
                if self.connected.iter().all(|(_, other)| *other != slot) {
                    return;
                }
                Input::Frame(member_at(slot), message)
            }
            Happened::Durable(generation) => {
                self.generation = generation;
                Input::Persisted(generation)
            }
        };
        self.handle_input(shared, input, now, actions);
    }

    fn deadline(&self) -> Time {
        self.machine.deadline()
    }
}

impl Profile for Peer {
    type Config = Config;
    type Disk = Disk;
    type Event = Event;

    fn config() -> Config {
        Config::lan()
    }

    fn acquainted(shared: &Shared, instances: &[(Slot, u64)]) -> Disk {
        let mut members = Members::default();
        for (slot, instance) in instances {
            let member = shared.of_slot[slot.0 as usize];
            let name = *shared.directory.name(member);
            let claims = Claims {
                name,
                version: Version { generation: 1, incarnation: 0 },
                instance: *instance,
                status: Status::Alive,
                introducer: None,
                addresses: vec![address(*slot)],
                tags: Bytes::new(),
                fill: 0,
                rest: Bytes::new(),
            };
            let fact = Arc::new(Fact::Said(Record::sign(claims, &shared.keys.of(member, name))));
            members.merge(&shared.directory, member, &fact);
        }
        Disk { generation: 0, members }
    }

    fn start(config: Config, shared: &Shared, begin: Begin<Disk>) -> Self {
        let Begin { slot, disk, contacts, instance, seed, now } = begin;
        let me = shared.of_slot[slot.0 as usize];
        let generation = disk.generation + 1;
        let start = Start {
            me,
            generation,
            instance,
            description: description(slot, Bytes::new()),
            remembered: disk.members,
            contacts,
            seed,
        };
        let keys = shared.keys.of(me, *shared.directory.name(me));
        let machine = Machine::new(config, keys, start, &shared.directory, now);
        Self {
            machine,
            slot,
            generation,
            events: Vec::new(),
            orders: Vec::new(),
            stopped: None,
            connected: Vec::new(),
            effects: Vec::new(),
        }
    }

    fn disk(&self) -> Disk {
        Disk { generation: self.generation, members: self.machine.members().clone() }
    }

    fn order(&mut self, order: Order) {
        self.orders.push(match order {
            Order::Leave => Input::Leave,
            Order::Describe(tag) => Input::Describe(description(self.slot, Bytes::copy_from_slice(&tag.to_le_bytes()))),
        });
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn change(event: &Event) -> Option<Change> {
        let Event::Changed(member, fact) = event else { return None };
        let state = match &**fact {
            Fact::Down(_) => State::Down,
            Fact::Said(record) if record.claims().status == Status::Left => State::Left,
            Fact::Said(_) => State::Alive,
        };
        let Version { generation, incarnation } = fact.version();
        Some(Change { member: *member, state, version: generation << 32 | u64::from(incarnation) })
    }

    fn state(&self, member: Member) -> Option<State> {
        self.machine.state(member)
    }

    fn living(&self) -> impl Iterator<Item = Member> {
        self.machine.members().living().filter(|member| self.machine.state(*member) != Some(State::Down))
    }
}
