//! A cluster of simulated nodes, and what can be done to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::peer::{Disk, Peer, Shared, StandIn, address, met};
use crate::sim::{Happened, Links, Slot, World};
use crate::swim::{Claims, Config, Event, Fact, Input, Member, Name, Record, State, Status, Time, Version};

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its process is killed; its system lives, and refuses.
    Killed,
    /// Its machine goes dark.
    Crashed,
}

/// Nodes in a world, and their disks.
pub struct Cluster {
    /// The world.
    pub world: World<Peer>,
    /// What outlives each node's process.
    pub disks: Vec<Disk>,
    /// By which whatever happens to nodes is chosen.
    pub rng: SmallRng,
    config: Config,
}

impl Cluster {
    /// So many machines without a process.
    pub fn new(nodes: usize, config: Config, links: Links, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x6d65_6d62_6572_7321);
        let mut world: World<Peer> = World::new(Shared::default(), links, seed);
        for _ in 0..nodes {
            let name = Name(rng.random());
            let slot = world.add();
            let member = world.shared.directory.insert(name);
            world.shared.of_slot.push(member);
            world.shared.slot_of.push(slot);
        }
        Self { world, disks: vec![Disk::default(); nodes], rng, config }
    }

    /// A machine with a copy of another's home.
    pub fn add_clone(&mut self, of: Slot) -> Slot {
        let member = self.member(of);
        let slot = self.world.add();
        self.world.shared.of_slot.push(member);
        self.disks.push(self.disks[of.0 as usize].clone());
        slot
    }

    /// Starts all nodes with a complete view of each other, and lets them connect.
    pub fn start_formed(&mut self, rest: Duration) {
        let slots: Vec<Slot> = self.world.slots().collect();
        let instances: Vec<u64> = slots.iter().map(|_| self.rng.random()).collect();
        let facts = slots.iter().zip(&instances).map(|(slot, instance)| {
            let member = self.member(*slot);
            let name = *self.world.shared.directory.name(member);
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
            (member, Arc::new(Fact::Said(Record::sign(claims, &StandIn(name)))))
        });
        let table = met(&self.world.shared, facts);
        for (slot, instance) in slots.into_iter().zip(instances) {
            let disk = Disk { generation: 0, members: table.clone() };
            let seed = self.rng.random();
            let peer = Peer::start(
                self.config,
                &self.world.shared,
                slot,
                disk,
                Vec::new(),
                (instance, seed),
                self.world.now(),
            );
            self.world.start(slot, peer);
        }
        self.run(rest, |_, _| {});
        for slot in self.world.slots() {
            if let Some(peer) = self.world.node_mut(slot) {
                peer.events.clear();
            }
        }
    }

    /// Starts one node with what is on its disk.
    pub fn start(&mut self, slot: Slot, contacts: &[Slot]) {
        let contacts = contacts.iter().map(|contact| self.member(*contact)).collect();
        let disk = self.disks[slot.0 as usize].clone();
        let random = (self.rng.random(), self.rng.random());
        let peer = Peer::start(self.config, &self.world.shared, slot, disk, contacts, random, self.world.now());
        self.disks[slot.0 as usize].generation = peer.generation.max(self.disks[slot.0 as usize].generation + 1);
        self.world.start(slot, peer);
    }

    /// Ends one node.
    pub fn end(&mut self, slot: Slot, fate: Fate) {
        let ended = match fate {
            Fate::Killed => self.world.kill(slot),
            Fate::Crashed => self.world.crash(slot),
        };
        if let Some(peer) = ended {
            self.disks[slot.0 as usize] = peer.disk();
        }
    }

    /// Writes what a node knows to its disk, as it would be found in a copy.
    pub fn save(&mut self, slot: Slot) {
        if let Some(peer) = self.world.node(slot) {
            self.disks[slot.0 as usize] = peer.disk();
        }
    }

    /// Tells a node to leave.
    pub fn leave(&mut self, slot: Slot) {
        self.tell(slot, Input::Leave);
    }

    fn tell(&mut self, slot: Slot, input: Input) {
        let Some(peer) = self.world.node_mut(slot) else { return };
        peer.orders.push(input);
        self.world.tell(slot, Happened::Wake);
    }

    /// Lets time pass; `look` hears whatever nodes tell.
    pub fn run(&mut self, time: Duration, mut look: impl FnMut(Heard<'_>, Event)) {
        let end = self.world.now() + time;
        self.world.run_until(end, |world, slot| {
            let now = world.now();
            let Some(peer) = world.node_mut(slot) else { return };
            if peer.events.is_empty() {
                return;
            }
            for event in std::mem::take(&mut peer.events) {
                look(Heard { world, slot, now }, event);
            }
        });
    }

    /// Whose home is on a machine.
    pub fn member(&self, slot: Slot) -> Member {
        self.world.shared.of_slot[slot.0 as usize]
    }

    /// What one node takes another for.
    pub fn view(&self, of: Slot, member: Member) -> Option<State> {
        self.world.node(of)?.machine.state(member)
    }

    /// Machines on which a process runs.
    pub fn running(&self) -> Vec<Slot> {
        self.world.slots().filter(|slot| self.world.node(*slot).is_some()).collect()
    }

    /// Whether all that run take exactly each other for living; else who does not, and for what.
    pub fn disagreement(&self) -> Option<(Slot, Member)> {
        let running = self.running();
        let mut expected: Vec<Member> = running.iter().map(|slot| self.member(*slot)).collect();
        expected.sort_unstable();
        expected.dedup();
        for slot in &running {
            let Some(peer) = self.world.node(*slot) else { continue };
            let members = peer.machine.members();
            let lacking = expected
                .iter()
                .find(|member| !matches!(peer.machine.state(**member), Some(State::Alive | State::Suspect)));
            if let Some(member) = lacking {
                return Some((*slot, *member));
            }
            if members.live() != expected.len() {
                let extra = members.iter().find(|(member, fact)| {
                    fact.is_live()
                        && expected.binary_search(member).is_err()
                        && peer.machine.state(*member) != Some(State::Down)
                });
                if let Some((member, _)) = extra {
                    return Some((*slot, member));
                }
            }
        }
        None
    }

    /// Lets time pass until all views are equal and right; how long that took, if it was not too long.
    pub fn run_until_agreed(&mut self, limit: Duration, mut look: impl FnMut(Heard<'_>, Event)) -> Option<Duration> {
        const STEP: Duration = Duration::from_millis(50);
        let began = self.world.now();
        while self.world.now() < began + limit {
            if self.disagreement().is_none() {
                return Some(self.world.now().since(began));
            }
            self.run(STEP, &mut look);
        }
        None
    }
}

/// Who has told something, and when.
pub struct Heard<'a> {
    /// The world, at that moment.
    pub world: &'a World<Peer>,
    /// Who has told it.
    pub slot: Slot,
    /// When.
    pub now: Time,
}
