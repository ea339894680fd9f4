//! What a protocol of membership is to the virtual world, so that ours and the one it is held against run on the same links.

use super::keys::KeyRing;
use crate::sim::{Node, Slot};
use crate::swim::{Directory, Member, State, Time};

/// What all nodes of a simulated cluster share: names, and where they live unless somebody says otherwise.
#[derive(Default)]
pub struct Shared {
    /// Names, the same for all.
    pub directory: Directory,
    /// Whose home is on a machine.
    pub of_slot: Vec<Member>,
    /// The machine of the first home of each.
    pub slot_of: Vec<Slot>,
    /// What they sign with.
    pub keys: KeyRing,
}

/// What a process begins with.
pub struct Begin<D> {
    /// The machine it runs on.
    pub slot: Slot,
    /// What an earlier one has left there.
    pub disk: D,
    /// Whom it may come in by.
    pub contacts: Vec<Member>,
    /// Drawn anew for every start.
    pub instance: u64,
    /// By which whatever is random is chosen.
    pub seed: u64,
    /// The time.
    pub now: Time,
}

/// What the owner of a node wants of it.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// To leave.
    Leave,
    /// To tell everybody something else of itself: a tag of this value.
    Describe(u64),
}

/// What a node now takes a member for; of one that was alive and is, that it has said something new of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whom.
    pub member: Member,
    /// What for.
    pub state: State,
    /// By which the things that the member has said of itself are told apart: later is larger.
    pub version: u64,
}

/// A node that knows who else is there.
pub trait Profile: Node<Shared = Shared> + Sized {
    /// Its times and counts.
    type Config: Copy;
    /// What outlives its process.
    type Disk: Clone + Default;
    /// What it tells whoever watches.
    type Event;

    /// Times and counts for machines in one place.
    fn config() -> Self::Config;

    /// What is on the disks of nodes that all know each other, and are about to start with these instances.
    fn acquainted(shared: &Shared, instances: &[(Slot, u64)]) -> Self::Disk;

    /// A process that begins with what is on its disk.
    fn start(config: Self::Config, shared: &Shared, begin: Begin<Self::Disk>) -> Self;

    /// What would be on its disk if it ended now.
    fn disk(&self) -> Self::Disk;

    /// Takes an order, which is carried out when the node is next told something.
    fn order(&mut self, order: Order);

    /// What it has told since this was last asked.
    fn take_events(&mut self) -> Vec<Self::Event>;

    /// What of an event is about who is there.
    fn change(event: &Self::Event) -> Option<Change>;

    /// What it takes a member for; None of whom it knows nothing.
    fn state(&self, member: Member) -> Option<State>;

    /// Members that it takes for alive or suspect, in no order, itself included.
    fn living(&self) -> impl Iterator<Item = Member>;
}
