//! Whom a node knows, and what it takes each for: memberlist's `nodes` and `nodeMap`.
//!
//! Thousands of nodes know thousands of members: what is the same for nearly all is not kept for each.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::message::{Alive, Status};
use crate::sim::Slot;
use crate::sim::members::Shared;
use crate::swim::{Member, Time};

const STATUS_BITS: u32 = 3;

/// Incarnation and status; zero of whom nothing is known.
#[derive(Clone, Copy, Default)]
struct Entry(u32);

impl Entry {
    fn new(incarnation: u32, status: Status) -> Self {
        Self(incarnation << STATUS_BITS | status as u32)
    }

    fn incarnation(self) -> u32 {
        self.0 >> STATUS_BITS
    }

    fn status(self) -> Option<Status> {
        match self.0 & ((1 << STATUS_BITS) - 1) {
            1 => Some(Status::Alive),
            2 => Some(Status::Suspect),
            3 => Some(Status::Dead),
            4 => Some(Status::Left),
            _ => None,
        }
    }
}

/// Whom a node knows.
#[derive(Default)]
pub(super) struct View {
    /// By the number of the member.
    entries: Vec<Entry>,
    /// In the order in which they are probed, the dead included until they are forgotten.
    order: Vec<Member>,
    /// Since when those who are not alive are what they are.
    since: BTreeMap<Member, Time>,
    /// Where those live who are not at home.
    moved: BTreeMap<Member, Slot>,
    metas: BTreeMap<Member, u64>,
}

impl View {
    /// All of these alive, at their first incarnation.
    pub(super) fn acquainted(members: &[Member], rng: &mut SmallRng) -> Self {
        let len = members.iter().map(|member| member.number() as usize + 1).max().unwrap_or(0);
        let mut view = Self { entries: vec![Entry::default(); len], order: members.to_vec(), ..Self::default() };
        members.iter().for_each(|member| view.entries[member.number() as usize] = Entry::new(1, Status::Alive));
        view.order.shuffle(rng);
        view
    }

    fn entry(&self, member: Member) -> Entry {
        self.entries.get(member.number() as usize).copied().unwrap_or_default()
    }

    /// What it takes a member for; None if it does not know it.
    pub(super) fn status(&self, member: Member) -> Option<Status> {
        self.entry(member).status()
    }

    pub(super) fn incarnation(&self, member: Member) -> u32 {
        self.entry(member).incarnation()
    }

    pub(super) fn is_living(&self, member: Member) -> bool {
        matches!(self.status(member), Some(Status::Alive | Status::Suspect))
    }

    /// Members that it knows, the dead included.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Those that it takes for alive or suspect.
    pub(super) fn living(&self) -> impl Iterator<Item = Member> + '_ {
        self.order.iter().copied().filter(|member| self.is_living(*member))
    }

    /// The member at a place of the order.
    pub(super) fn at(&self, index: usize) -> Option<Member> {
        self.order.get(index).copied()
    }

    pub(super) fn meta(&self, member: Member) -> Option<u64> {
        self.metas.get(&member).copied()
    }

    /// Where a member can be reached.
    pub(super) fn slot(&self, shared: &Shared, member: Member) -> Slot {
        let home = || shared.slot_of[member.number() as usize];
        self.moved.get(&member).copied().unwrap_or_else(home)
    }

    /// Takes in somebody new, at a random place of the order, as dead until it is said to be alive.
    pub(super) fn insert(&mut self, member: Member, rng: &mut SmallRng) {
        let index = member.number() as usize;
        if self.entries.len() <= index {
            self.entries.resize(index + 1, Entry::default());
        }
        self.entries[index] = Entry::new(0, Status::Dead);
        let last = self.order.len();
        self.order.push(member);
        if last > 0 {
            self.order.swap(rng.random_range(0..last), last);
        }
    }

    /// Takes a member that it knows for what it says.
    pub(super) fn set_alive(&mut self, shared: &Shared, alive: &Alive) {
        self.entries[alive.member.number() as usize] = Entry::new(alive.incarnation, Status::Alive);
        self.since.remove(&alive.member);
        match alive.meta {
            Some(meta) => self.metas.insert(alive.member, meta),
            None => self.metas.remove(&alive.member),
        };
        match alive.slot == shared.slot_of[alive.member.number() as usize] {
            true => self.moved.remove(&alive.member),
            false => self.moved.insert(alive.member, alive.slot),
        };
    }

    /// Its own incarnation has changed, and nothing else.
    pub(super) fn set_incarnation(&mut self, member: Member, incarnation: u32) {
        let status = self.status(member).unwrap_or(Status::Alive);
        self.entries[member.number() as usize] = Entry::new(incarnation, status);
    }

    /// Takes a member that it knows for something else than alive.
    pub(super) fn set(&mut self, member: Member, incarnation: u32, status: Status, now: Time) {
        self.entries[member.number() as usize] = Entry::new(incarnation, status);
        self.since.insert(member, now);
    }

    /// Whether a member has been what it is since before then.
    pub(super) fn is_since_before(&self, member: Member, then: Time) -> bool {
        self.since.get(&member).is_none_or(|since| *since < then)
    }

    /// Forgets those who were gone before then, and begins a new round in another order.
    pub(super) fn next_round(&mut self, then: Time, rng: &mut SmallRng) {
        let mut order = std::mem::take(&mut self.order);
        order.retain(|member| {
            let stays = self.is_living(*member) || !self.is_since_before(*member, then);
            if !stays {
                self.entries[member.number() as usize] = Entry::default();
                self.since.remove(member);
                self.moved.remove(member);
                self.metas.remove(member);
            }
            stays
        });
        order.shuffle(rng);
        self.order = order;
    }

    /// Some at random that are wanted: fewer than `count` if there are no more, and where many are not wanted perhaps
    /// so too.
    pub(super) fn random(&self, count: usize, rng: &mut SmallRng, wanted: impl Fn(Member) -> bool) -> Vec<Member> {
        let len = self.order.len();
        if len < count * 3 {
            // Of so few, one would easily be missed.
            let mut order = self.order.clone();
            order.shuffle(rng);
            order.retain(|member| wanted(*member));
            order.truncate(count);
            return order;
        }
        let mut chosen = Vec::with_capacity(count);
        for _ in 0..3 * len {
            if chosen.len() == count {
                break;
            }
            let member = self.order[rng.random_range(0..len)];
            if wanted(member) && !chosen.contains(&member) {
                chosen.push(member);
            }
        }
        chosen
    }

    /// All that it knows.
    pub(super) fn states(&self, shared: &Shared) -> Vec<(Alive, Status)> {
        let state = |member: &Member| {
            let entry = self.entry(*member);
            let (slot, meta) = (self.slot(shared, *member), self.meta(*member));
            Some((Alive { member: *member, incarnation: entry.incarnation(), slot, meta }, entry.status()?))
        };
        self.order.iter().filter_map(state).collect()
    }
}
