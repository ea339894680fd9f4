//! Finding the root object: one member after the other, the likely first, and soon a second one beside one that is slow.
//!
//! A crowd of strangers may stand closest to any key, and be silent. So where a stranger does not answer soon, those who have
//! been reliable are asked whether they have it, and who says so need not wait for anybody's silence.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;

use super::{ANSWER_PATIENCE, Effect, Get, GetError, Outcome, RETRY_PAUSE, ROOT, SOURCE_SILENT_MAX, Want};
use crate::object::Object;
use crate::search::{Search, Step};
use crate::tree::{Id, PlacementKey, RootId};

/// Who was asked for the root object and is silent for so long gets company.
const PATIENCE: Duration = Duration::from_millis(150);

/// Likewise, where something comes, though slowly: a root object may be a whole leaf on a slow line.
const PATIENCE_HEARD: Duration = Duration::from_secs(2);

/// So long after the first stranger was asked for it those are asked who have been reliable, if it is not here. From any honest one
/// on a near line it has come by then: to ask them at once makes up to sixteen questions more, and may bring it twice. A stranger that
/// sends little by little changes nothing about that.
const PATIENCE_STRANGER: Duration = Duration::from_millis(50);

/// Members that are asked for the root object at once.
const ASKED_MAX: usize = 3;

/// The search for the root object.
pub(super) struct Hunt {
    search: Search,
    /// To be asked for it next.
    queue: VecDeque<PeerId>,
    /// Asked for it, since when, and when anything was last heard of them.
    asked: BTreeMap<PeerId, (Instant, Instant)>,
    last_asked: Instant,
    /// When somebody was first asked who has not been reliable.
    stranger_since: Option<Instant>,
    /// They said to have it.
    promised: BTreeSet<PeerId>,
    /// Asked whether they have it, since then.
    awaiting: Option<(BTreeSet<PeerId>, Instant)>,
    /// Somebody could not be asked, so that "nobody has it" is not known.
    unsure: bool,
    retry_at: Option<Instant>,
}

impl Hunt {
    pub(super) fn new(root: &RootId, me: PeerId, now: Instant) -> Self {
        Self {
            search: Search::new(PlacementKey(root.0), [me]),
            queue: VecDeque::new(),
            asked: BTreeMap::new(),
            last_asked: now,
            stranger_since: None,
            promised: BTreeSet::new(),
            awaiting: None,
            unsure: false,
            retry_at: None,
        }
    }

    pub(super) fn hear(&mut self, peer: PeerId, now: Instant) {
        if let Some((_, heard)) = self.asked.get_mut(&peer) {
            *heard = now;
        }
    }

    pub(super) fn excuse(&mut self, lag: Duration, now: Instant) {
        self.last_asked = (self.last_asked + lag).min(now);
        self.stranger_since = self.stranger_since.map(|since| (since + lag).min(now));
        for (since, heard) in self.asked.values_mut() {
            (*since, *heard) = ((*since + lag).min(now), (*heard + lag).min(now));
        }
    }

    /// Who is to be asked now.
    fn next(&mut self, now: Instant) -> Option<PeerId> {
        let is_promised = |peer: &PeerId| self.promised.contains(peer);
        if !self.asked.keys().any(is_promised)
            && let Some(at) = self.queue.iter().position(is_promised)
        {
            return self.queue.remove(at);
        }
        if self.asked.is_empty() || self.may_ask(now) { self.queue.pop_front() } else { None }
    }

    /// Whether somebody may be asked beside those who were.
    fn may_ask(&self, now: Instant) -> bool {
        let comes = self.asked.values().any(|(since, heard)| heard > since);
        let patience = if comes { PATIENCE_HEARD } else { PATIENCE };
        let patience = patience * self.asked.len() as u32;
        self.retry_at.is_none() && self.asked.len() < ASKED_MAX && now >= self.last_asked + patience
    }
}

impl Get {
    /// Asks the next one for the root object, where it is time to.
    pub(super) fn hunt_root(&mut self, now: Instant) {
        while let Some(hunt) = &mut self.hunt {
            if hunt.retry_at.is_some() {
                return;
            }
            if let Some(peer) = hunt.next(now) {
                if !self.sources.get(&peer).is_some_and(|source| source.bad) && !hunt.asked.contains_key(&peer) {
                    self.ask_for_root(peer, now);
                }
                continue;
            }
            if !hunt.asked.is_empty() && !hunt.may_ask(now) {
                return;
            }
            if let Some((peers, since)) = &hunt.awaiting {
                if !peers.is_empty() && now < *since + ANSWER_PATIENCE {
                    return;
                }
                hunt.unsure |= !peers.is_empty();
                hunt.awaiting = None;
            }
            match hunt.search.next(&self.members, &self.standing) {
                Step::Likely(peers) => hunt.queue.extend(peers),
                Step::Unlikely(peers) => {
                    hunt.awaiting = Some((peers.iter().copied().collect(), now));
                    return self.effects.push(Effect::AskRoot(peers));
                }
                Step::Locate => return self.effects.push(Effect::Locate(ROOT, hunt.search.key())),
                Step::Wait => return,
                // Somebody may still send it.
                Step::Exhausted if !hunt.asked.is_empty() => return,
                Step::Exhausted if hunt.unsure => hunt.retry_at = Some(now + RETRY_PAUSE),
                Step::Exhausted => return self.fail(GetError::NotFound { asked: self.answered.len() }),
            }
        }
    }

    fn ask_for_root(&mut self, peer: PeerId, now: Instant) {
        let Some(hunt) = &mut self.hunt else { return };
        hunt.asked.insert(peer, (now, now));
        hunt.last_asked = now;
        self.effects.push(Effect::Fetch(peer, vec![Want::Root]));
        if peer != self.config.me && !self.standing.reliable.contains(&peer) {
            hunt.stranger_since.get_or_insert(now);
        }
    }

    /// Asks those who have been reliable, where one stranger or several have not brought it in time.
    fn ask_reliable(&mut self, now: Instant) {
        let Some(hunt) = &mut self.hunt else { return };
        if hunt.awaiting.is_some() || hunt.stranger_since.is_none_or(|since| now < since + PATIENCE_STRANGER) {
            return;
        }
        let reliable = hunt.search.reliable(&self.members, &self.standing);
        if !reliable.is_empty() {
            hunt.awaiting = Some((reliable.iter().copied().collect(), now));
            self.effects.push(Effect::AskRoot(reliable));
        }
    }

    pub(super) fn on_root_located(&mut self, closest: Vec<PeerId>, now: Instant) {
        if let Some(hunt) = &mut self.hunt {
            hunt.search.located(closest);
            self.hunt_root(now);
        }
    }

    pub(super) fn on_root_answered(&mut self, peer: PeerId, has: Option<bool>, now: Instant) {
        if has.is_some() {
            self.answered.insert(peer);
        }
        let Some(hunt) = &mut self.hunt else { return };
        hunt.unsure |= has.is_none();
        if has == Some(true) {
            hunt.promised.insert(peer);
            hunt.queue.push_back(peer);
        }
        if let Some((awaited, _)) = &mut hunt.awaiting {
            awaited.remove(&peer);
        }
        self.hunt_root(now);
    }

    pub(super) fn on_root_missed(&mut self, peer: PeerId, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Absent => {
                self.answered.insert(peer);
            }
            Outcome::Bad => self.source(peer, now).bad = true,
            // What this node cannot read says nothing about the rest of what it has.
            Outcome::Failed if peer == self.config.me => {}
            Outcome::Failed => self.source(peer, now).quiet = true,
        }
        let Some(hunt) = &mut self.hunt else { return };
        hunt.unsure |= outcome != Outcome::Absent;
        hunt.asked.remove(&peer);
        self.hunt_root(now);
    }

    pub(super) fn is_wanted_root(&self, object: &Object) -> bool {
        self.hunt.is_some() && object.reference().id == Id::Root(self.root)
    }

    pub(super) fn on_root(&mut self, peer: PeerId, object: Object, now: Instant) {
        let Some(hunt) = self.hunt.take() else { return };
        for (other, (since, heard)) in hunt.asked.into_iter().filter(|(other, _)| *other != peer) {
            if heard == since && now >= since + PATIENCE {
                self.effects.push(Effect::Silent(other));
            }
            self.effects.push(Effect::Cancel(other, Want::Root));
        }
        let len = object.reference().len;
        self.root_source = Some(peer);
        self.file_len = Some(len);
        self.last_progress = now;
        if self.range.start > 0 && self.range.start >= len {
            return self.fail(GetError::OutOfRange(len));
        }
        self.effects.push(Effect::Found(len));
        self.take(object, false);
    }

    pub(super) fn tick_root(&mut self, now: Instant) {
        let Some(hunt) = &mut self.hunt else { return };
        let silent = |heard: Instant| now.duration_since(heard) >= SOURCE_SILENT_MAX;
        for peer in
            hunt.asked.iter().filter(|(_, (_, heard))| silent(*heard)).map(|(peer, _)| *peer).collect::<Vec<_>>()
        {
            hunt.asked.remove(&peer);
            hunt.unsure = true;
            self.sources.entry(peer).or_insert_with(|| super::Source::new(now)).quiet = true;
            self.effects.extend([Effect::Silent(peer), Effect::Cancel(peer, Want::Root)]);
        }
        if hunt.retry_at.is_some_and(|at| at <= now) {
            let anew = Hunt::new(&self.root, self.config.me, now);
            *hunt = Hunt { asked: std::mem::take(&mut hunt.asked), ..anew };
        }
        self.ask_reliable(now);
        self.hunt_root(now);
    }
}
