//! A cluster of simulated nodes, and what can be done to it.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::keys::KeyRing;
use super::peer::Peer;
use super::profile::{Begin, Order, Profile, Shared};
use crate::sim::{Happened, Links, Slot, World};
use crate::swim::{Member, State, Time};

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its process is killed; its system lives, and refuses.
    Killed,
    /// Its machine goes dark.
    Crashed,
}

/// Nodes in a world, and their disks.
pub struct Cluster<P: Profile = Peer> {
    /// The world.
    pub world: World<P>,
    /// What outlives each node's process.
    pub disks: Vec<P::Disk>,
    /// By which whatever happens to nodes is chosen.
    pub rng: SmallRng,
    config: P::Config,
}

impl<P: Profile> Cluster<P> {
    /// So many machines without a process.
    pub fn new(nodes: usize, config: P::Config, links: Links, seed: u64) -> Self {
        Self::with_keys(KeyRing::StandIns, nodes, config, links, seed)
    }

    /// The same, with another kind of keys.
    pub fn with_keys(keys: KeyRing, nodes: usize, config: P::Config, links: Links, seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed ^ 0x6d65_6d62_6572_7321);
        let world: World<P> = World::new(Shared { keys, ..Shared::default() }, links, seed);
        let mut cluster = Self { world, disks: Vec::new(), rng, config };
        for _ in 0..nodes {
            cluster.add();
        }
        cluster
    }

    /// A machine of a new member, without a process.
    pub fn add(&mut self) -> Slot {
        let slot = self.world.add();
        let name = self.world.shared.keys.add(self.rng.random());
        let member = self.world.shared.directory.insert(name);
        self.world.shared.of_slot.push(member);
        // Members are numbered as they come; only machines with copied homes are more than they.
        self.world.shared.slot_of.push(slot);
        self.disks.push(P::Disk::default());
        slot
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
        let instances: Vec<(Slot, u64)> = slots.into_iter().map(|slot| (slot, self.rng.random())).collect();
        let disk = P::acquainted(&self.world.shared, &instances);
        for (slot, instance) in instances {
            let (seed, now) = (self.rng.random(), self.world.now());
            let begin = Begin { slot, disk: disk.clone(), contacts: Vec::new(), instance, seed, now };
            let peer = P::start(self.config, &self.world.shared, begin);
            self.world.start(slot, peer);
        }
        self.run(rest, |_, _| {});
    }

    /// Starts one node with what is on its disk.
    pub fn start(&mut self, slot: Slot, contacts: &[Slot]) {
        let contacts = contacts.iter().map(|contact| self.member(*contact)).collect();
        let disk = self.disks[slot.0 as usize].clone();
        let (instance, seed, now) = (self.rng.random(), self.rng.random(), self.world.now());
        let begin = Begin { slot, disk, contacts, instance, seed, now };
        let peer = P::start(self.config, &self.world.shared, begin);
        self.disks[slot.0 as usize] = peer.disk();
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

    /// Gives a node an order.
    pub fn order(&mut self, slot: Slot, order: Order) {
        let Some(peer) = self.world.node_mut(slot) else { return };
        peer.order(order);
        self.world.tell(slot, Happened::Wake);
    }

    /// Lets time pass; `hear` gets whatever nodes tell.
    pub fn run(&mut self, time: Duration, hear: impl FnMut(Heard<'_, P>, P::Event)) {
        self.run_watched(time, &mut Hearing(hear));
    }

    /// Lets time pass under somebody's eyes.
    pub fn run_watched(&mut self, time: Duration, watcher: &mut impl Watcher<P>) {
        let end = self.world.now() + time;
        self.world.run_until(end, |world, slot| {
            let now = world.now();
            let Some(peer) = world.node_mut(slot) else { return };
            for event in peer.take_events() {
                watcher.hear(Heard { world, slot, now }, event);
            }
            watcher.look_at(world, slot);
        });
    }

    /// Whose home is on a machine.
    pub fn member(&self, slot: Slot) -> Member {
        self.world.shared.of_slot[slot.0 as usize]
    }

    /// What one node takes another for.
    pub fn view(&self, of: Slot, member: Member) -> Option<State> {
        self.world.node(of)?.state(member)
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
            let mut living: Vec<Member> = peer.living().collect();
            living.sort_unstable();
            if living != expected {
                let lacks = expected.iter().find(|member| living.binary_search(member).is_err());
                let extra = || living.iter().find(|member| expected.binary_search(member).is_err());
                return lacks.or_else(extra).map(|member| (*slot, *member));
            }
        }
        None
    }

    /// Lets time pass until all views are equal and right; how long that took, if it was not too long.
    pub fn run_until_agreed(
        &mut self,
        limit: Duration,
        mut hear: impl FnMut(Heard<'_, P>, P::Event),
    ) -> Option<Duration> {
        const STEP: Duration = Duration::from_millis(50);
        let began = self.world.now();
        while self.world.now() < began + limit {
            if self.disagreement().is_none() {
                return Some(self.world.now().since(began));
            }
            self.run(STEP, &mut hear);
        }
        None
    }
}

/// Sees what happens to nodes, step by step.
pub trait Watcher<P: Profile> {
    /// A node has told something.
    fn hear(&mut self, heard: Heard<'_, P>, event: P::Event);

    /// Something has just happened to a node.
    fn look_at(&mut self, _world: &World<P>, _slot: Slot) {}
}

/// Whoever only listens.
struct Hearing<F>(F);

impl<P: Profile, F: FnMut(Heard<'_, P>, P::Event)> Watcher<P> for Hearing<F> {
    fn hear(&mut self, heard: Heard<'_, P>, event: P::Event) {
        (self.0)(heard, event);
    }
}

/// Who has told something, and when.
pub struct Heard<'a, P: Profile = Peer> {
    /// The world, at that moment.
    pub world: &'a World<P>,
    /// Who has told it.
    pub slot: Slot,
    /// When.
    pub now: Time,
}
