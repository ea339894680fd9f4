//! One get: from an address to the bytes of the file, in order.
//!
//! Pure: [`Get::handle`] takes what happened and the time, and says what to do. First the root object is found (`root`).
//! What it names is cut into parts, groups of objects that live together; `part` finds out who has them, `schedule` asks
//! several sources at once, each for runs as long as it is fast, and asks a second one for what the first is slow to send
//! (`source` knows how fast). Objects arrive verified; an answer that did not verify is [`Outcome::Bad`] and costs its sender
//! the rest of this transfer.

mod part;
mod root;
mod schedule;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::object::{Object, group_leaves};
use crate::search::Standing;
use crate::tree::{Geometry, ObjectRef, PlacementKey, RootId};

use part::{Group, PartState};
use root::Hunt;
use source::Source;

/// A source that sends nothing for so long is given up, also where nobody else has what it was asked for.
pub const SOURCE_SILENT_MAX: Duration = Duration::from_secs(3);

/// Pause before everybody is asked again, when somebody could not be reached.
pub const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Who was asked and says nothing for so long is no longer waited for before others are asked.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// A later call than this means that this node itself stood still.
const LAG_MIN: Duration = Duration::from_millis(350);

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
    /// Bytes that are under way or wait for the reader at most, unless a single object is larger.
    pub window: u64,
    /// Where files are cut.
    pub geometry: Geometry,
}

/// Names a part of the file while it is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part(u64);

/// The root object, as a part.
const ROOT: Part = Part(0);

/// One object that a source is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// The root object, whose length is not known yet.
    Root,
    /// An object.
    Object(ObjectRef),
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// Begin; these members are known, this node included, and so is this of them.
    Start(Vec<PeerId>, Standing),
    /// The closest members to a part's key, best first, and all members that are known.
    Located(Part, Vec<PeerId>, Vec<PeerId>),
    /// A peer that was asked whether it has the root object has answered: yes, no, or not at all.
    RootAnswered(PeerId, Option<bool>),
    /// A peer that was asked what it has of a part has answered, or not at all.
    Answered(Part, PeerId, Option<Vec<ObjectRef>>),
    /// A source sent a wanted object.
    Got(PeerId, Object),
    /// A source did not send what it was asked for.
    Missed(PeerId, Want, Outcome),
    /// Something came from a source, though not yet a whole object.
    Heard(PeerId),
    /// The reader took so many bytes of what was delivered, and has no more use for the memory.
    Consumed(u64),
    /// Time passed.
    Tick,
}

/// Why a source did not send an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It does not have it.
    Absent,
    /// It sent something that is not what was asked for.
    Bad,
    /// It could not be reached, or broke off.
    Failed,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing came from it, though it was asked long ago.
    Silent(PeerId),
    /// Find out who is closest to the key: [`Input::Located`].
    Locate(Part, PlacementKey),
    /// Ask these whether they have the root object: [`Input::RootAnswered`] for each.
    AskRoot(Vec<PeerId>),
    /// Ask these, perhaps this node itself, which of some objects they have: [`Input::Answered`] for each.
    Ask(Part, Vec<PeerId>, Vec<ObjectRef>),
    /// Ask a source, perhaps this node itself, for objects in this order: [`Input::Got`] or [`Input::Missed`] for each.
    Fetch(PeerId, Vec<Want>),
    /// This is no longer wanted of this source; nothing needs to be said about it any more.
    Cancel(PeerId, Want),
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

/// How a get went, beyond what it delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetStats {
    /// Objects asked of a second source while the first might still send them.
    pub hedged: u64,
    /// Objects taken from a slow source's queue for a faster one.
    pub stolen: u64,
    /// Bytes of objects that came twice.
    pub duplicate: u64,
}

/// Where an object lies. No two objects of one file lie at the same place, for a subtree with one child is that child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    offset: u64,
    len: u64,
}

impl Span {
    fn of(reference: &ObjectRef) -> Self {
        Self { offset: reference.offset, len: reference.len }
    }
}

/// A wanted object of a part that was started.
struct Piece {
    reference: ObjectRef,
    part: Part,
    /// Who said to have it, or most likely has it, and has not failed to send it.
    holders: BTreeSet<PeerId>,
    /// Of whom it is asked.
    asked: Vec<PeerId>,
    /// Whether the window counts it.
    counted: bool,
}

/// The machine of one get.
pub struct Get {
    config: GetConfig,
    root: RootId,
    wanted: Wanted,
    range: Range,
    /// The search for the root object, until it is here.
    hunt: Option<Hunt>,
    /// Who sent the root object.
    root_source: Option<PeerId>,
    /// Groups that were not started yet.
    waiting: BTreeMap<Span, Group>,
    parts: BTreeMap<Part, PartState>,
    next_part: u64,
    pieces: BTreeMap<Span, Piece>,
    sources: BTreeMap<PeerId, Source>,
    members: Vec<PeerId>,
    standing: Standing,
    answered: BTreeSet<PeerId>,
    file_len: Option<u64>,
    /// Leaves that came before their turn.
    early: BTreeMap<u64, Object>,
    next_offset: u64,
    /// Bytes asked for and not yet consumed.
    window: u64,
    /// Bytes delivered and not yet consumed.
    unread: u64,
    last_progress: Instant,
    last_call: Instant,
    ended: bool,
    stats: GetStats,
    effects: Vec<Effect>,
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
            hunt: Some(Hunt::new(&root, config.me, now)),
            config,
            root,
            wanted,
            range,
            root_source: None,
            waiting: BTreeMap::new(),
            parts: BTreeMap::new(),
            next_part: ROOT.0 + 1,
            pieces: BTreeMap::new(),
            sources: BTreeMap::new(),
            members: Vec::new(),
            standing: Standing::default(),
            answered: BTreeSet::new(),
            file_len: None,
            early: BTreeMap::new(),
            window: 0,
            unread: 0,
            last_progress: now,
            last_call: now,
            ended: false,
            stats: GetStats::default(),
            effects: Vec::new(),
        }
    }

    /// Takes what happened; says what to do.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        if self.ended {
            return Vec::new();
        }
        self.excuse_lag(now);
        match input {
            Input::Start(members, standing) => {
                (self.members, self.standing) = (members, standing);
                self.hunt_root(now);
            }
            Input::Located(part, closest, members) => self.on_located(part, closest, members, now),
            Input::RootAnswered(peer, has) => self.on_root_answered(peer, has, now),
            Input::Answered(part, peer, has) => self.on_answered(part, peer, has, now),
            Input::Got(peer, object) => self.on_object(peer, object, now),
            Input::Missed(peer, Want::Root, outcome) => self.on_root_missed(peer, outcome, now),
            Input::Missed(peer, Want::Object(reference), outcome) => self.on_missed(peer, reference, outcome, now),
            Input::Heard(peer) => self.on_heard(peer, now),
            Input::Consumed(bytes) => {
                self.window = self.window.saturating_sub(bytes);
                self.unread = self.unread.saturating_sub(bytes);
                self.last_progress = now;
            }
            Input::Tick => self.on_tick(now),
        }
        if !self.ended {
            self.start_groups(now);
            self.schedule(now);
        }
        std::mem::take(&mut self.effects)
    }

    /// The file's length, once its root is found.
    pub fn file_len(&self) -> Option<u64> {
        self.file_len
    }

    /// How it went so far.
    pub fn stats(&self) -> GetStats {
        self.stats
    }

    /// A machine that was not called for a while has not listened either: nobody was silent in that time.
    fn excuse_lag(&mut self, now: Instant) {
        let lag = now.duration_since(self.last_call);
        self.last_call = now;
        if lag >= LAG_MIN {
            self.sources.values_mut().for_each(|source| source.excuse(lag, now));
            if let Some(hunt) = &mut self.hunt {
                hunt.excuse(lag, now);
            }
        }
    }

    fn on_located(&mut self, part: Part, closest: Vec<PeerId>, members: Vec<PeerId>, now: Instant) {
        self.members = members;
        if part == ROOT {
            self.on_root_located(closest, now);
        } else {
            self.on_part_located(part, closest, now);
        }
    }

    /// One source may serve several objects over one slow link: it is silent only if nothing at all comes from it.
    fn on_heard(&mut self, peer: PeerId, now: Instant) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.hear(now);
        }
        if let Some(hunt) = &mut self.hunt {
            hunt.hear(peer, now);
        }
        self.last_progress = now;
    }

    fn on_object(&mut self, peer: PeerId, object: Object, now: Instant) {
        self.on_heard(peer, now);
        self.answered.insert(peer);
        if self.is_wanted_root(&object) {
            return self.on_root(peer, object, now);
        }
        let span = Span::of(object.reference());
        self.source(peer, now).got(span, now);
        if self.pieces.get(&span).is_none_or(|piece| piece.reference != *object.reference()) {
            // Another source was faster.
            self.stats.duplicate += object.payload().len() as u64;
            return;
        }
        let Some(piece) = self.pieces.remove(&span) else { return };
        for other in piece.asked.iter().filter(|other| **other != peer) {
            self.source(*other, now).lost(span, now);
            self.effects.push(Effect::Cancel(*other, Want::Object(piece.reference)));
        }
        self.done_with(&piece, span);
        self.take(object, piece.counted);
    }

    /// A new object of the file: an index leads to more objects, a leaf goes to the reader in its turn.
    fn take(&mut self, object: Object, counted: bool) {
        let children = object.children_in(&self.config.geometry);
        let len = object.payload().len() as u64;
        if self.wanted == Wanted::Indexes {
            self.window += if counted { 0 } else { len };
            self.unread += len;
            self.effects.push(Effect::Deliver(object));
            self.expand(&children);
            if self.waiting.is_empty() && self.pieces.is_empty() {
                self.ended = true;
                self.effects.push(Effect::Finished);
            }
        } else if children.is_empty() {
            self.window += if counted { 0 } else { len };
            self.early.insert(object.reference().offset, object);
            self.deliver();
        } else {
            self.window = self.window.saturating_sub(if counted { len } else { 0 });
            self.expand(&children);
        }
    }

    /// What an index names becomes groups that wait to be started.
    fn expand(&mut self, children: &[ObjectRef]) {
        let geometry = self.config.geometry;
        let Some(file_len) = self.file_len else { return };
        let (start, end) = (self.range.start, self.range.end.unwrap_or(file_len));
        let wanted = |child: &ObjectRef| child.offset < end && child.end() > start;
        let is_leaf = |child: &ObjectRef| geometry.child_count(child.len) == 0;
        for run in children.chunk_by(|a, b| is_leaf(a) == is_leaf(b)) {
            let groups = if !is_leaf(&run[0]) {
                let key = PlacementKey(self.root.0);
                run.iter().map(|child| Group { key, objects: vec![*child] }).collect()
            } else if self.wanted == Wanted::Indexes {
                Vec::new()
            } else {
                group_leaves(&geometry, self.root, file_len, run)
            };
            for mut group in groups {
                group.objects.retain(wanted);
                if let Some(first) = group.objects.first() {
                    self.waiting.insert(Span::of(first), group);
                }
            }
        }
    }

    fn deliver(&mut self) {
        let file_len = self.file_len.unwrap_or(0);
        let end = self.range.end.unwrap_or(file_len).min(file_len);
        while let Some(object) = self.early.remove(&self.next_offset) {
            self.next_offset = object.reference().end();
            self.unread += object.payload().len() as u64;
            self.effects.push(Effect::Deliver(object));
            if self.next_offset >= end {
                self.ended = true;
                self.effects.push(Effect::Finished);
                return;
            }
        }
    }

    fn on_tick(&mut self, now: Instant) {
        if self.unread > 0 {
            // It is the reader that takes its time.
            self.last_progress = now;
        }
        if now.duration_since(self.last_progress) >= self.config.stall {
            return self.fail(match self.file_len {
                None => GetError::NotFound { asked: self.answered.len() },
                Some(_) => GetError::Stalled(self.next_offset),
            });
        }
        self.tick_root(now);
        self.give_up_silent(now);
        self.tick_parts(now);
    }

    fn fail(&mut self, error: GetError) {
        self.ended = true;
        self.effects.push(Effect::Failed(error));
    }

    fn source(&mut self, peer: PeerId, now: Instant) -> &mut Source {
        self.sources.entry(peer).or_insert_with(|| Source::new(now))
    }

    fn is_bad(&self, peer: &PeerId) -> bool {
        self.sources.get(peer).is_some_and(|source| source.bad)
    }

    fn is_silent(&self, peer: &PeerId, now: Instant) -> bool {
        self.sources.get(peer).is_some_and(|source| source.quiet || source.silent(now))
    }
}

#[cfg(test)]
mod tests;
