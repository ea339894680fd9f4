//! One get: from an address to the bytes of the file, in order.
//!
//! Pure: [`Get::handle`] takes what happened and the time, and says what to do. Objects arrive verified; an answer that
//! did not verify is [`Outcome::Bad`] and costs its sender the rest of this transfer. One source at a time is asked for
//! each part, and a source that is silent for [`SOURCE_SILENT_MAX`] is given up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::object::{Object, group_leaves};
use crate::search::{Search, Step};
use crate::tree::{Geometry, Id, ObjectRef, PlacementKey, RootId};

/// A source that sends nothing for so long is given up for the next one.
pub const SOURCE_SILENT_MAX: Duration = Duration::from_secs(3);

/// Pause before everybody is asked again, when somebody could not be reached.
pub const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Default of [`GetConfig::window`].
pub const WINDOW_LEN: u64 = 32 << 20;

/// Which bytes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub start: u64,
    /// The one after the last; None for the end of the file.
    pub end: Option<u64>,
}

impl Range {
    /// The whole file.
    pub const ALL: Range = Range { start: 0, end: None };
}

/// What of a file is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Its bytes, in order.
    Bytes(Range),
    /// Its indexes, or its only leaf: all that is needed to name its objects.
    Indexes,
}

/// How one get behaves.
#[derive(Clone, Copy, Debug)]
pub struct GetConfig {
    /// This node, which is a source like others.
    pub me: PeerId,
    /// Longest time without any progress, in the search and in the transfer.
    pub stall: Duration,
    /// Bytes that are under way or wait for the reader at most, unless a single part is larger.
    pub window: u64,
    /// Where files are cut.
    pub geometry: Geometry,
}

/// Names a part of the file while it is fetched; parts order as the file does. An index and its first child begin at the
/// same byte, so each has a number as well, and what comes late for one is not taken for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    offset: u64,
    number: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// Begin.
    Start,
    /// The closest members to a part's key, best first, and all members that are known.
    Located(Part, Vec<PeerId>, Vec<PeerId>),
    /// A peer that was asked whether it has a part has answered: yes, no, or not at all.
    Answered(Part, PeerId, Option<bool>),
    /// A source sent a wanted object.
    Got(Part, PeerId, Object),
    /// Something came from a source, though not yet a whole object.
    Heard(PeerId),
    /// A source has nothing more to say about a part.
    Ended(Part, PeerId, Outcome),
    /// The reader took so many bytes of leaves.
    Consumed(u64),
    /// Time passed.
    Tick,
}

/// How a source ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It sent all it has; what is still missing it does not have.
    Done,
    /// It sent something that is not what was asked for.
    Bad,
    /// It could not be reached, or broke off.
    Failed,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find out who is closest to the key: [`Input::Located`].
    Locate(Part, PlacementKey),
    /// Ask a source, perhaps this node itself, for the root object: [`Input::Got`], [`Input::Ended`].
    FetchRoot(Part, PeerId),
    /// Ask a source, perhaps this node itself, for objects: [`Input::Got`] for each, [`Input::Ended`].
    Fetch(Part, PeerId, Vec<ObjectRef>),
    /// Ask many whether they have the root object, or this one: [`Input::Answered`] for each.
    Ask(Part, Vec<PeerId>, Option<ObjectRef>),
    /// Nothing more is wanted of this source for this part.
    Abandon(Part, PeerId),
    /// The file exists and has this length.
    Found(u64),
    /// The next leaf of the file, of which the first and the last may reach beyond the range; or, where indexes are wanted,
    /// one of them, in any order.
    Deliver(Object),
    /// All was delivered.
    Finished,
    /// It cannot be had.
    Failed(GetError),
}

/// Why a get failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GetError {
    /// Nobody who could be asked has it.
    #[error("not found on any of {asked} members that could be asked")]
    NotFound {
        /// How many answered.
        asked: usize,
    },
    /// The range begins behind the end.
    #[error("the file has only {0} bytes")]
    OutOfRange(u64),
    /// The file is known, but nothing of it came for too long.
    #[error("no holder of the bytes from {0} on sends them")]
    Stalled(u64),
}

/// The machine of one get.
pub struct Get {
    config: GetConfig,
    root: RootId,
    wanted: Wanted,
    range: Range,
    parts: BTreeMap<Part, PartState>,
    next_part: u64,
    members: Vec<PeerId>,
    /// Sent something wrong: not asked again.
    bad: BTreeSet<PeerId>,
    /// Could not be reached or was silent: asked after the others.
    slow: BTreeSet<PeerId>,
    answered: BTreeSet<PeerId>,
    file_len: Option<u64>,
    /// Leaves that came before their turn.
    early: BTreeMap<u64, Object>,
    next_offset: u64,
    /// Bytes asked for and not yet consumed.
    window: u64,
    last_progress: Instant,
    ended: bool,
    effects: Vec<Effect>,
}

struct PartState {
    search: Search,
    /// Empty for the root object, which has no reference yet.
    wants: Vec<ObjectRef>,
    started: bool,
    source: Option<(PeerId, Instant)>,
    /// Somebody could not be asked, so that "nobody has it" is not known.
    unsure: bool,
    retry_at: Option<Instant>,
}

impl Get {
    /// A get that waits for [`Input::Start`].
    pub fn new(config: GetConfig, root: RootId, wanted: Wanted, now: Instant) -> Self {
        let range = match wanted {
            Wanted::Bytes(range) => range,
            Wanted::Indexes => Range::ALL,
        };
        Self {
            next_offset: range.start / config.geometry.leaf_len * config.geometry.leaf_len,
            config,
            root,
            wanted,
            range,
            parts: BTreeMap::new(),
            next_part: 0,
            members: Vec::new(),
            bad: BTreeSet::new(),
            slow: BTreeSet::new(),
            answered: BTreeSet::new(),
            file_len: None,
            early: BTreeMap::new(),
            window: 0,
            last_progress: now,
            ended: false,
            effects: Vec::new(),
        }
    }

    /// Takes what happened; says what to do.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        if self.ended {
            return Vec::new();
        }
        match input {
            Input::Start => {
                self.add_part(0, PlacementKey(self.root.0), Vec::new());
                self.start_parts(now);
            }
            Input::Located(part, closest, members) => self.on_located(part, closest, members, now),
            Input::Answered(part, peer, has) => self.on_answered(part, peer, has, now),
            Input::Got(part, peer, object) => self.on_object(part, peer, object, now),
            Input::Heard(peer) => self.on_heard(peer, now),
            Input::Ended(part, peer, outcome) => self.on_ended(part, peer, outcome, now),
            Input::Consumed(bytes) => {
                self.window = self.window.saturating_sub(bytes);
                self.last_progress = now;
                self.start_parts(now);
            }
            Input::Tick => self.on_tick(now),
        }
        std::mem::take(&mut self.effects)
    }

    /// The file's length, once its root is found.
    pub fn file_len(&self) -> Option<u64> {
        self.file_len
    }

    fn add_part(&mut self, offset: u64, key: PlacementKey, wants: Vec<ObjectRef>) {
        let part = Part { offset, number: self.next_part };
        self.next_part += 1;
        let search = Search::new(key, [self.config.me]);
        let state = PartState { search, wants, started: false, source: None, unsure: false, retry_at: None };
        self.parts.insert(part, state);
    }

    /// Starts parts in file order as far as the window allows.
    fn start_parts(&mut self, now: Instant) {
        let mut begun = Vec::new();
        for (part, state) in self.parts.iter_mut().filter(|(_, state)| !state.started) {
            let bytes = weight(&self.config.geometry, &state.wants);
            if self.window > 0 && self.window + bytes > self.config.window {
                break;
            }
            self.window += bytes;
            state.started = true;
            begun.push(*part);
        }
        for part in begun {
            self.step(part, now);
        }
    }

    /// Finds the next source of a part that has none.
    fn step(&mut self, part: Part, now: Instant) {
        while let Some(state) = self.parts.get_mut(&part) {
            if state.source.is_some() || state.retry_at.is_some() {
                return;
            }
            match state.search.next(&self.members) {
                Step::Try(peer) if self.bad.contains(&peer) => {}
                Step::Try(peer) if self.slow.contains(&peer) && state.search.defer(peer) => {}
                Step::Try(peer) => {
                    state.source = Some((peer, now));
                    self.effects.push(match state.wants.as_slice() {
                        [] => Effect::FetchRoot(part, peer),
                        wants => Effect::Fetch(part, peer, wants.to_vec()),
                    });
                    return;
                }
                Step::Locate => {
                    self.effects.push(Effect::Locate(part, state.search.key()));
                    return;
                }
                Step::Ask(peers) => {
                    self.effects.push(Effect::Ask(part, peers, state.wants.first().copied()));
                    return;
                }
                Step::Wait => return,
                Step::Exhausted => {
                    self.on_exhausted(part, now);
                    return;
                }
            }
        }
    }

    fn on_exhausted(&mut self, part: Part, now: Instant) {
        let Some(state) = self.parts.get_mut(&part) else { return };
        if self.file_len.is_none() && !state.unsure {
            return self.fail(GetError::NotFound { asked: self.answered.len() });
        }
        // A holder may be restarting; the limit on progress ends this.
        state.retry_at = Some(now + RETRY_PAUSE);
    }

    fn on_located(&mut self, part: Part, closest: Vec<PeerId>, members: Vec<PeerId>, now: Instant) {
        self.members = members;
        if let Some(state) = self.parts.get_mut(&part) {
            state.search.located(closest);
            self.step(part, now);
        }
    }

    fn on_answered(&mut self, part: Part, peer: PeerId, has: Option<bool>, now: Instant) {
        if has.is_some() {
            self.answered.insert(peer);
        }
        if let Some(state) = self.parts.get_mut(&part) {
            state.unsure |= has.is_none();
            state.search.answered(peer, has == Some(true) && !self.bad.contains(&peer));
            self.step(part, now);
        }
    }

    /// One source may serve several parts over one slow link: it is silent only if nothing at all comes from it.
    fn on_heard(&mut self, peer: PeerId, now: Instant) {
        let sources = self.parts.values_mut().filter_map(|state| state.source.as_mut());
        for (_, last) in sources.filter(|(source, _)| *source == peer) {
            *last = now;
            self.last_progress = now;
        }
    }

    fn on_object(&mut self, part: Part, peer: PeerId, object: Object, now: Instant) {
        self.on_heard(peer, now);
        let Some(state) = self.parts.get_mut(&part) else { return };
        let reference = *object.reference();
        let is_root = state.wants.is_empty() && reference.id == Id::Root(self.root);
        if is_root {
            self.file_len = Some(reference.len);
            if self.range.start > 0 && self.range.start >= reference.len {
                return self.fail(GetError::OutOfRange(reference.len));
            }
            self.effects.push(Effect::Found(reference.len));
        } else if let Some(i) = state.wants.iter().position(|want| *want == reference) {
            state.wants.remove(i);
        } else {
            // Late, from a source that was given up: another brought it already.
            return;
        }
        self.answered.insert(peer);
        self.last_progress = now;
        if self.parts.get(&part).is_some_and(|state| state.wants.is_empty())
            && let Some((source, _)) = self.parts.remove(&part).and_then(|state| state.source)
            && source != peer
        {
            self.effects.push(Effect::Abandon(part, source));
        }
        self.take(object, is_root, now);
    }

    /// A new object of the file: an index leads to more parts, a leaf goes to the reader in its turn.
    fn take(&mut self, object: Object, is_root: bool, now: Instant) {
        let children = object.children_in(&self.config.geometry);
        if self.wanted == Wanted::Indexes {
            self.effects.push(Effect::Deliver(object));
            self.expand(&children);
            if self.parts.is_empty() {
                self.ended = true;
                self.effects.push(Effect::Finished);
            }
        } else if children.is_empty() {
            if is_root {
                self.window += object.reference().len;
            }
            self.early.insert(object.reference().offset, object);
            self.deliver();
        } else {
            if !is_root {
                self.window = self.window.saturating_sub(object.payload().len() as u64);
            }
            self.expand(&children);
        }
        self.start_parts(now);
    }

    fn expand(&mut self, children: &[ObjectRef]) {
        let geometry = self.config.geometry;
        let Some(file_len) = self.file_len else { return };
        let (start, end) = (self.range.start, self.range.end.unwrap_or(file_len));
        let wanted = |child: &ObjectRef| child.offset < end && child.end() > start;
        let is_leaf = |child: &ObjectRef| geometry.child_count(child.len) == 0;
        for run in children.chunk_by(|a, b| is_leaf(a) == is_leaf(b)) {
            if is_leaf(&run[0]) {
                if self.wanted == Wanted::Indexes {
                    continue;
                }
                for group in group_leaves(&geometry, self.root, file_len, run) {
                    let wants: Vec<ObjectRef> = group.objects.into_iter().filter(wanted).collect();
                    if let Some(first) = wants.first() {
                        self.add_part(first.offset, group.key, wants);
                    }
                }
            } else {
                for child in run.iter().filter(|child| wanted(child)) {
                    self.add_part(child.offset, PlacementKey(self.root.0), vec![*child]);
                }
            }
        }
    }

    fn deliver(&mut self) {
        let file_len = self.file_len.unwrap_or(0);
        let end = self.range.end.unwrap_or(file_len).min(file_len);
        while let Some(object) = self.early.remove(&self.next_offset) {
            self.next_offset = object.reference().end();
            self.effects.push(Effect::Deliver(object));
            if self.next_offset >= end {
                self.ended = true;
                self.effects.push(Effect::Finished);
                return;
            }
        }
    }

    fn on_ended(&mut self, part: Part, peer: PeerId, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Done => {
                self.answered.insert(peer);
            }
            Outcome::Bad => {
                self.bad.insert(peer);
            }
            // What this node cannot read says nothing about the rest of what it has.
            Outcome::Failed if peer == self.config.me => {}
            Outcome::Failed => {
                self.slow.insert(peer);
            }
        }
        let Some(state) = self.parts.get_mut(&part) else { return };
        state.unsure |= outcome != Outcome::Done;
        if state.source.is_some_and(|(source, _)| source == peer) {
            state.source = None;
            self.step(part, now);
        }
    }

    fn on_tick(&mut self, now: Instant) {
        let started: Vec<Part> = self.parts.iter().filter(|(_, state)| state.started).map(|(part, _)| *part).collect();
        if started.is_empty() {
            // Everything asked for is here: it is the reader that takes its time.
            self.last_progress = now;
            return;
        }
        if now.duration_since(self.last_progress) >= self.config.stall {
            return self.fail(match self.file_len {
                None => GetError::NotFound { asked: self.answered.len() },
                Some(_) => GetError::Stalled(self.next_offset),
            });
        }
        for part in started {
            self.tick_part(part, now);
        }
    }

    fn tick_part(&mut self, part: Part, now: Instant) {
        let Some(state) = self.parts.get_mut(&part) else { return };
        if let Some((peer, last)) = state.source
            && now.duration_since(last) >= SOURCE_SILENT_MAX
        {
            state.source = None;
            state.unsure = true;
            self.slow.insert(peer);
            self.effects.push(Effect::Abandon(part, peer));
        }
        if state.retry_at.is_some_and(|at| at <= now) {
            state.retry_at = None;
            state.unsure = false;
            state.search = Search::new(state.search.key(), [self.config.me]);
        }
        self.step(part, now);
    }

    fn fail(&mut self, error: GetError) {
        self.ended = true;
        self.effects.push(Effect::Failed(error));
    }
}

/// Bytes that some wants will take.
fn weight(geometry: &Geometry, wants: &[ObjectRef]) -> u64 {
    wants.iter().map(|want| geometry.payload_len(want.offset, want.len)).sum()
}

#[cfg(test)]
mod tests;
