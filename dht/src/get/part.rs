//! Parts: groups of objects that live together, and who has which of them.
//!
//! All likely holders are asked at once what they have; who has something can be asked for it as soon as it has said so.

use std::collections::BTreeSet;
use std::time::Instant;

use libp2p::PeerId;

use super::{ANSWER_PATIENCE, Effect, Get, Outcome, Part, Piece, RETRY_PAUSE, Span, Wanted};
use crate::search::{Search, Step};
use crate::tree::{ObjectRef, PlacementKey};

pub(super) use crate::object::Group;

/// A part that was started and is not complete.
pub(super) struct PartState {
    search: Search,
    /// What of it is not here yet.
    missing: BTreeSet<Span>,
    /// Asked what they have, since then.
    awaiting: Option<(BTreeSet<PeerId>, Instant)>,
    retry_at: Option<Instant>,
}

impl Get {
    /// Starts groups in file order, early enough that it is known who has them when their turn comes.
    pub(super) fn start_groups(&mut self, now: Instant) {
        while let Some(place) = self.waiting.keys().next().copied()
            && self.ahead(place) < self.config.window / 2
            && let Some(group) = self.waiting.remove(&place)
        {
            self.start(group, now);
        }
    }

    /// Bytes of the file before a place, in objects that were started and nobody was asked for.
    fn ahead(&self, place: Span) -> u64 {
        let idle = self.pieces.range(..place).map(|(_, piece)| piece).filter(|piece| piece.asked.is_empty());
        idle.map(|piece| match self.wanted {
            Wanted::Bytes(_) => piece.reference.len,
            Wanted::Indexes => self.config.geometry.leaf_len,
        })
        .sum()
    }

    fn start(&mut self, group: Group, now: Instant) {
        let part = Part(self.next_part);
        self.next_part += 1;
        let search = Search::new(group.key, [self.config.me]);
        let mut holders = BTreeSet::new();
        if group.key == PlacementKey(self.root.0) {
            // Who had the root has most likely all that lives beside it, and need not be asked first.
            holders.extend(self.root_source);
        }
        for reference in &group.objects {
            let holders = holders.clone();
            let piece = Piece { reference: *reference, part, holders, asked: Vec::new(), counted: false };
            self.pieces.insert(Span::of(reference), piece);
        }
        let missing = group.objects.iter().map(Span::of).collect();
        self.parts.insert(part, PartState { search, missing, awaiting: None, retry_at: None });
        self.step(part, now);
    }

    /// Asks more members what they have of a part, as long as that is worth knowing.
    pub(super) fn step(&mut self, part: Part, now: Instant) {
        while let Some(state) = self.parts.get_mut(&part) {
            if state.retry_at.is_some() {
                return;
            }
            if let Some((peers, since)) = &state.awaiting {
                if !peers.is_empty() && now < *since + ANSWER_PATIENCE {
                    return;
                }
                state.awaiting = None;
            }
            let me = self.config.me;
            let missing = state.missing.iter().filter_map(|span| self.pieces.get(span));
            let all_found = if state.search.named_likely() {
                missing.clone().all(|piece| !piece.holders.is_empty())
            } else {
                missing.clone().all(|piece| piece.holders.contains(&me))
            };
            if all_found {
                return;
            }
            match state.search.next(&self.members, &self.standing) {
                Step::Likely(peers) | Step::Unlikely(peers) => {
                    let objects: Vec<ObjectRef> = missing.map(|piece| piece.reference).collect();
                    let bad = |peer: &PeerId| self.sources.get(peer).is_some_and(|source| source.bad);
                    let peers: Vec<PeerId> = peers.into_iter().filter(|peer| !bad(peer)).collect();
                    state.awaiting = Some((peers.iter().copied().collect(), now));
                    if !peers.is_empty() {
                        self.effects.push(Effect::Ask(part, peers, objects));
                    }
                }
                Step::Locate => return self.effects.push(Effect::Locate(part, state.search.key())),
                Step::Wait => return,
                // A holder may be restarting; the limit on progress ends this.
                Step::Exhausted => state.retry_at = Some(now + RETRY_PAUSE),
            }
        }
    }

    /// Whether more holders of a part may become known at any moment.
    pub(super) fn is_asking(&self, part: Part) -> bool {
        let awaiting = self.parts.get(&part).and_then(|state| state.awaiting.as_ref());
        awaiting.is_some_and(|(peers, _)| !peers.is_empty())
    }

    pub(super) fn on_part_located(&mut self, part: Part, closest: Vec<PeerId>, now: Instant) {
        if let Some(state) = self.parts.get_mut(&part) {
            state.search.located(closest);
            self.step(part, now);
        }
    }

    pub(super) fn on_answered(&mut self, part: Part, peer: PeerId, has: Option<Vec<ObjectRef>>, now: Instant) {
        if has.is_some() {
            self.answered.insert(peer);
        }
        for reference in has.into_iter().flatten() {
            if let Some(piece) = self.pieces.get_mut(&Span::of(&reference))
                && piece.reference == reference
            {
                piece.holders.insert(peer);
            }
        }
        if let Some((awaited, _)) = self.parts.get_mut(&part).and_then(|state| state.awaiting.as_mut()) {
            awaited.remove(&peer);
        }
        self.step(part, now);
    }

    pub(super) fn on_missed(&mut self, peer: PeerId, reference: ObjectRef, outcome: Outcome, now: Instant) {
        let span = Span::of(&reference);
        self.source(peer, now).drop_one(span);
        match outcome {
            Outcome::Absent => {
                self.answered.insert(peer);
            }
            Outcome::Bad => {
                self.source(peer, now).bad = true;
                self.release(peer, |_| true);
            }
            // What this node cannot read says nothing about the rest of what it has.
            Outcome::Failed if peer == self.config.me => {}
            Outcome::Failed => self.source(peer, now).quiet = true,
        }
        if let Some(piece) = self.pieces.get_mut(&span).filter(|piece| piece.reference == reference) {
            piece.asked.retain(|other| *other != peer);
            self.lose_holder(span, peer, now);
        }
    }

    /// A source does not have, or does not send, an object.
    pub(super) fn lose_holder(&mut self, span: Span, peer: PeerId, now: Instant) {
        let Some(piece) = self.pieces.get_mut(&span) else { return };
        piece.holders.remove(&peer);
        let (part, nobody) = (piece.part, piece.holders.is_empty());
        if nobody {
            self.step(part, now);
        }
    }

    /// An object is here.
    pub(super) fn done_with(&mut self, piece: &Piece, span: Span) {
        if let Some(state) = self.parts.get_mut(&piece.part) {
            state.missing.remove(&span);
            if state.missing.is_empty() {
                self.parts.remove(&piece.part);
            }
        }
    }

    pub(super) fn tick_parts(&mut self, now: Instant) {
        for part in self.parts.keys().copied().collect::<Vec<_>>() {
            if let Some(state) = self.parts.get_mut(&part)
                && state.retry_at.is_some_and(|at| at <= now)
            {
                state.retry_at = None;
                state.search = Search::new(state.search.key(), [self.config.me]);
            }
            self.step(part, now);
        }
    }
}
