//! One put: from groups of objects that are durable here to copies that are bound on enough members.
//!
//! Pure: [`Put::handle`] takes what happened and the time, and says what to do. Every group goes to the closest members
//! that take it; when all of a member's pushes are answered and the file is complete, one bind makes its holds stay. A
//! copy counts only then. The put reports once every group has enough copies, or says how far it came; either way it goes
//! on until every group has as many as there can be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::hold::Bound;
use crate::tree::{PlacementKey, RootId};

/// How long a put that has enough copies waits for the rest before it reports.
pub const FULL_COPIES_WAIT: Duration = Duration::from_secs(1);

/// Pause before a group without a willing member is tried again; doubled up to [`RETRY_PAUSE_MAX`].
pub const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Longest such pause.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// A member that could not be asked is tried after the others for so long. Not counted: each of its failures is, as a link
/// that broke or an answer that did not come.
pub const FAILING_TIME: Duration = Duration::from_secs(10);

/// A member that misses what it said it holds for so many binds is not used for this put any more. Not counted: what it
/// costs is a copy, and puts that lack some are.
pub const MISSING_MAX: u32 = 2;

/// How one put behaves.
#[derive(Clone, Copy, Debug)]
pub struct PutConfig {
    /// Copies wanted of every group.
    pub replicas: u32,
    /// Copies of every group that make it a success.
    pub acks: u32,
    /// Longest time without any progress, once all is read, before it reports what there is.
    pub stall: Duration,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// So many objects, placed under this key, are durable here.
    Group(PlacementKey, u64),
    /// The members that may hold a group and can be reached, best first; and how many there are at all, this node and those
    /// that cannot be reached included.
    Located(PlacementKey, Vec<PeerId>, usize),
    /// A member has answered for a whole group.
    Pushed(PlacementKey, PeerId, Pushed),
    /// A member has answered a bind; None if it could not be asked.
    Bound(PeerId, Option<Bound>),
    /// All groups have been named; this is the file.
    Complete(RootId),
    /// Time passed.
    Tick,
}

/// What a member made of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Durable and held.
    Held,
    /// It has no room.
    Full,
    /// It could not be asked, or broke off.
    Failed,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find out who may hold a group: [`Input::Located`].
    Locate(PlacementKey),
    /// Bring a group to a member, perhaps this node itself: [`Input::Pushed`].
    Push(PlacementKey, PeerId),
    /// Bind so many objects on a member: [`Input::Bound`].
    Bind(PeerId, RootId, u64),
    /// Tell the caller; said once.
    Report(Report),
    /// Every group has all the copies it can have: nothing is left to do.
    Settled,
}

/// How far a put came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Bound copies of the group that has the fewest.
    pub copies: u32,
    /// Whether they are as many as were asked for.
    pub enough: bool,
}

/// The machine of one put.
pub struct Put {
    config: PutConfig,
    root: Option<RootId>,
    groups: BTreeMap<PlacementKey, Group>,
    /// Members that there are at all: a cluster smaller than the copies wanted has all it can have.
    members: usize,
    /// Members that could not be asked, until when.
    failing: BTreeMap<PeerId, Instant>,
    /// How often members missed what they had said they hold.
    missing: BTreeMap<PeerId, u32>,
    /// Binds that are under way.
    binding: BTreeSet<PeerId>,
    /// When a bind that failed is sent again.
    bind_again: BTreeMap<PeerId, Instant>,
    enough_since: Option<Instant>,
    last_progress: Instant,
    reported: bool,
    settled: bool,
    effects: Vec<Effect>,
}

struct Group {
    objects: u64,
    /// None while they are being found out.
    candidates: Option<Vec<PeerId>>,
    copies: BTreeMap<PeerId, Copy>,
    /// Said at some time that they hold it: saying so again is no progress.
    held_once: BTreeSet<PeerId>,
    /// Refused or failed since the candidates were found out.
    refused: BTreeSet<PeerId>,
    retry_at: Option<Instant>,
    retry_pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    Pushing,
    Held,
    Binding,
    Bound,
}

impl Put {
    /// A put of a file that is still being read.
    pub fn new(config: PutConfig, now: Instant) -> Self {
        Self {
            config,
            root: None,
            groups: BTreeMap::new(),
            members: usize::MAX,
            failing: BTreeMap::new(),
            missing: BTreeMap::new(),
            binding: BTreeSet::new(),
            bind_again: BTreeMap::new(),
            enough_since: None,
            last_progress: now,
            reported: false,
            settled: false,
            effects: Vec::new(),
        }
    }

    /// Takes what happened; says what to do.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        if self.settled {
            return Vec::new();
        }
        match input {
            Input::Group(key, objects) => self.on_group(key, objects, now),
            Input::Located(key, candidates, members) => {
                self.members = members;
                self.on_located(key, candidates, now);
            }
            Input::Pushed(key, peer, pushed) => self.on_pushed(key, peer, pushed, now),
            Input::Bound(peer, answer) => self.on_bound(peer, answer, now),
            Input::Complete(root) => {
                self.root = Some(root);
                self.last_progress = now;
            }
            Input::Tick => self.on_tick(now),
        }
        self.bind_where_ready();
        self.judge(now);
        std::mem::take(&mut self.effects)
    }

    fn on_group(&mut self, key: PlacementKey, objects: u64, now: Instant) {
        self.last_progress = now;
        let group = Group {
            objects,
            candidates: None,
            copies: BTreeMap::new(),
            held_once: BTreeSet::new(),
            refused: BTreeSet::new(),
            retry_at: None,
            retry_pause: RETRY_PAUSE,
        };
        self.groups.insert(key, group);
        self.effects.push(Effect::Locate(key));
    }

    fn on_located(&mut self, key: PlacementKey, candidates: Vec<PeerId>, now: Instant) {
        if let Some(group) = self.groups.get_mut(&key) {
            group.candidates = Some(candidates);
            group.refused.clear();
            self.push_where_needed(key, now);
        }
    }

    /// Brings a group to as many candidates as it lacks copies.
    fn push_where_needed(&mut self, key: PlacementKey, now: Instant) {
        let Some(group) = self.groups.get_mut(&key) else { return };
        let Some(candidates) = &group.candidates else { return };
        let lacking = (self.config.replicas as usize).saturating_sub(group.copies.len());
        let useful = |peer: &&PeerId| {
            !group.copies.contains_key(peer) && !group.refused.contains(peer) && !lost_too_often(&self.missing, peer)
        };
        let mut next: Vec<PeerId> = candidates.iter().filter(useful).copied().collect();
        next.sort_by_key(|peer| self.failing.get(peer).is_some_and(|until| *until > now));
        next.truncate(lacking);
        for peer in next {
            group.copies.insert(peer, Copy::Pushing);
            self.effects.push(Effect::Push(key, peer));
        }
    }

    /// Looks again for members to take groups that lack copies: who refused may think better of it, and who is away may
    /// come back.
    fn retry_where_lacking(&mut self, now: Instant) {
        let owed = (self.config.replicas as usize).min(self.members);
        for (key, group) in &mut self.groups {
            if group.retry_at.is_some_and(|at| at <= now) {
                group.retry_at = None;
                group.candidates = None;
                self.effects.push(Effect::Locate(*key));
            } else if group.copies.len() < owed && group.candidates.is_some() && group.retry_at.is_none() {
                group.retry_at = Some(now + group.retry_pause);
                group.retry_pause = (group.retry_pause * 2).min(RETRY_PAUSE_MAX);
            }
        }
    }

    fn on_pushed(&mut self, key: PlacementKey, peer: PeerId, pushed: Pushed, now: Instant) {
        let Some(group) = self.groups.get_mut(&key) else { return };
        if group.copies.get(&peer) != Some(&Copy::Pushing) {
            return;
        }
        match pushed {
            Pushed::Held => {
                group.copies.insert(peer, Copy::Held);
                if group.held_once.insert(peer) {
                    self.last_progress = now;
                }
            }
            Pushed::Full | Pushed::Failed => {
                if pushed == Pushed::Failed {
                    self.failing.insert(peer, now + FAILING_TIME);
                }
                group.copies.remove(&peer);
                group.refused.insert(peer);
                self.push_where_needed(key, now);
            }
        }
    }

    fn on_bound(&mut self, peer: PeerId, answer: Option<Bound>, now: Instant) {
        self.binding.remove(&peer);
        let next = match answer {
            Some(Bound::Bound) => {
                self.last_progress = now;
                Copy::Bound
            }
            Some(Bound::Missing(_)) => {
                *self.missing.entry(peer).or_default() += 1;
                if lost_too_often(&self.missing, &peer) {
                    return self.replace(peer, self.groups.keys().copied().collect(), now);
                }
                // It lost holds, perhaps by their expiry: all goes there once more, and what it has costs nothing.
                Copy::Pushing
            }
            None => {
                self.bind_again.insert(peer, now + RETRY_PAUSE);
                Copy::Held
            }
        };
        for (key, group) in &mut self.groups {
            let Some(copy) = group.copies.get_mut(&peer) else { continue };
            let again = next == Copy::Pushing && *copy != Copy::Pushing;
            if again {
                self.effects.push(Effect::Push(*key, peer));
            }
            if again || *copy == Copy::Binding {
                *copy = next;
            }
        }
    }

    fn on_tick(&mut self, now: Instant) {
        self.retry_where_lacking(now);
        let failing: Vec<PeerId> =
            self.bind_again.iter().filter(|(_, at)| **at <= now).map(|(peer, _)| *peer).collect();
        for peer in failing {
            self.bind_again.remove(&peer);
            self.replace_if_possible(peer, now);
        }
    }

    /// Lets other candidates take what a member that cannot be reached holds unbound; where there is none, it is asked
    /// again.
    fn replace_if_possible(&mut self, peer: PeerId, now: Instant) {
        let has_spare = |group: &Group| {
            group.candidates.iter().flatten().any(|other| {
                *other != peer
                    && !group.copies.contains_key(other)
                    && !group.refused.contains(other)
                    && !lost_too_often(&self.missing, other)
            })
        };
        let waiting = self.groups.iter().filter(|(_, group)| group.copies.get(&peer) == Some(&Copy::Held));
        let replaceable = waiting.filter(|(_, group)| has_spare(group)).map(|(key, _)| *key).collect();
        self.replace(peer, replaceable, now);
    }

    /// Takes a member's copies of some groups for lost, and lets others have them.
    fn replace(&mut self, peer: PeerId, keys: Vec<PlacementKey>, now: Instant) {
        for key in keys {
            let Some(group) = self.groups.get_mut(&key) else { continue };
            if group.copies.remove(&peer).is_some() {
                group.refused.insert(peer);
                self.push_where_needed(key, now);
            }
        }
    }

    /// Sends a bind to every member that has answered for all that was pushed to it.
    fn bind_where_ready(&mut self) {
        let Some(root) = self.root else { return };
        let mut members: BTreeMap<PeerId, (u64, bool, bool)> = BTreeMap::new();
        for group in self.groups.values() {
            for (peer, copy) in &group.copies {
                let (objects, pushing, held) = members.entry(*peer).or_default();
                *objects += group.objects;
                *pushing |= *copy == Copy::Pushing;
                *held |= *copy == Copy::Held;
            }
        }
        for (peer, (objects, pushing, held)) in members {
            if pushing || !held || self.bind_again.contains_key(&peer) || !self.binding.insert(peer) {
                continue;
            }
            for group in self.groups.values_mut() {
                if let Some(copy) = group.copies.get_mut(&peer)
                    && *copy == Copy::Held
                {
                    *copy = Copy::Binding;
                }
            }
            self.effects.push(Effect::Bind(peer, root, objects));
        }
    }

    /// Reports and settles when it is time.
    fn judge(&mut self, now: Instant) {
        if self.root.is_none() {
            return;
        }
        let copies = self.groups.values().map(Group::bound).min().unwrap_or(0);
        let owed = self.config.replicas.min(u32::try_from(self.members).unwrap_or(u32::MAX));
        let all = copies >= owed;
        let enough = copies >= self.config.acks;
        if enough {
            self.enough_since.get_or_insert(now);
        }
        let waited = self.enough_since.is_some_and(|since| now.duration_since(since) >= FULL_COPIES_WAIT);
        let stalled = now.duration_since(self.last_progress) >= self.config.stall;
        if !self.reported && ((enough && (all || waited)) || stalled) {
            self.reported = true;
            self.effects.push(Effect::Report(Report { copies, enough }));
        }
        if self.reported && enough && all {
            self.settled = true;
            self.effects.push(Effect::Settled);
        }
    }
}

fn lost_too_often(missing: &BTreeMap<PeerId, u32>, peer: &PeerId) -> bool {
    missing.get(peer).is_some_and(|times| *times >= MISSING_MAX)
}

impl Group {
    fn bound(&self) -> u32 {
        self.copies.values().filter(|copy| **copy == Copy::Bound).count() as u32
    }
}

#[cfg(test)]
mod tests;
