//! What all nodes of a run are to learn, and how long each takes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::{Cluster, Heard};
use super::profile::{Change, Profile};
use crate::sim::Slot;
use crate::swim::{Member, State, Time};

/// Members of which something is to be learned.
pub(super) struct Awaited {
    /// As what.
    states: &'static [State],
    /// Of each since when, and the nodes that have not learned it.
    open: BTreeMap<Member, (Time, Vec<Slot>)>,
    /// How long each node took for each.
    pub(super) each: Vec<Duration>,
    /// How long it took until all had learned it, or as many as are enough.
    pub(super) all: Vec<Duration>,
    /// Of so many nodes one may be late.
    spare: usize,
}

impl Awaited {
    /// That they are in one of these states.
    pub(super) fn new(states: &'static [State]) -> Self {
        Self { states, open: BTreeMap::new(), each: Vec::new(), all: Vec::new(), spare: usize::MAX }
    }

    /// It is enough that one of so many nodes is late.
    pub(super) fn all_but_one_of(mut self, nodes: usize) -> Self {
        self.spare = nodes;
        self
    }

    /// From now on these nodes are to learn it of a member.
    pub(super) fn expect(&mut self, member: Member, since: Time, nodes: &[Slot]) {
        self.open.insert(member, (since, nodes.to_vec()));
    }

    /// Looks at what a node has told.
    pub(super) fn look<P: Profile>(&mut self, heard: &Heard<'_, P>, event: &P::Event) {
        let Some(Change { member, state, .. }) = P::change(event) else { return };
        let Some((since, nodes)) = self.open.get_mut(&member).filter(|_| self.states.contains(&state)) else { return };
        let Some(index) = nodes.iter().position(|slot| *slot == heard.slot) else { return };
        nodes.swap_remove(index);
        let took = heard.now.since(*since);
        self.each.push(took);
        let late = heard.world.slots().count() / self.spare;
        if nodes.len() <= late {
            self.all.push(took);
            self.open.remove(&member);
        }
    }

    /// Lets time pass until everything is learned, or for so long.
    pub(super) fn wait<P: Profile>(&mut self, cluster: &mut Cluster<P>, limit: Duration) {
        const STEP: Duration = Duration::from_millis(50);
        let end = cluster.world.now() + limit;
        while !self.open.is_empty() && cluster.world.now() < end {
            cluster.run(STEP, |heard, event| self.look(&heard, &event));
        }
    }

    /// Members of which not all have learned it; they are given up.
    pub(super) fn give_up(&mut self) -> usize {
        std::mem::take(&mut self.open).len()
    }
}
