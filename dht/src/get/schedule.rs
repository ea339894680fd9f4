//! Who is asked for what, and when a second one is.

use std::time::{Duration, Instant};

use libp2p::PeerId;

use super::source::Source;
use super::{Effect, Get, SOURCE_SILENT_MAX, Span, Want};

/// A source that has been silent for so long loses what it was asked for to others that have it.
const GIVE_UP_AFTER: Duration = Duration::from_secs(1);

/// A source is asked for consecutive objects, as many as it sends in this time, and no more than this part of the window.
const RUN_TIME: Duration = Duration::from_millis(100);
const RUN_PART: u64 = 8;

/// A second source is asked when it should need less than half the time that the first still needs, and this beside.
const HEDGE_GAIN_MIN: Duration = Duration::from_millis(50);

/// Bytes that came twice, and for which a second source is asked, are at most one in so many of those wanted.
const HEDGED_PART: u64 = 50;

/// So many objects of a source's queue are most likely on their way already.
const SENDING: usize = 3;

/// What a source is to have room for.
#[derive(Clone, Copy)]
enum Room {
    /// A new run: it is given when half of what the source may have before it is done, lest runs shrink to single objects.
    ForRun,
    /// One more object.
    ForMore,
}

impl Get {
    pub(super) fn schedule(&mut self, now: Instant) {
        self.assign(now);
        self.hedge(now);
    }

    /// Asks for objects nobody is asked for, in file order, as far as the window and the sources have room.
    fn assign(&mut self, now: Instant) {
        let idle = self.pieces.iter().filter(|(_, piece)| piece.asked.is_empty() && !piece.holders.is_empty());
        let idle: Vec<Span> = idle.map(|(span, _)| *span).collect();
        // What comes first is asked for also where the window is full, if all that the window holds waits for it.
        let first = self.pieces.keys().next().copied().filter(|_| self.unread == 0);
        // The source of the current run, where it ends, and how many bytes more it may take.
        let mut run: Option<(PeerId, u64, u64)> = None;
        for span in idle {
            let len = self.payload_len(span);
            let Some(piece) = self.pieces.get(&span) else { continue };
            let has_room = piece.counted || self.window == 0 || self.window + len <= self.config.window;
            if !has_room && Some(span) != first {
                return;
            }
            let goes_on = run.filter(|(peer, end, left)| {
                *end == span.offset
                    && *left >= len
                    && piece.holders.contains(peer)
                    && self.has_room(peer, len, Room::ForMore, now)
            });
            let Some(peer) = goes_on.map(|(peer, ..)| peer).or_else(|| self.best_source(span, None, now)) else {
                continue;
            };
            let left = goes_on.map_or_else(|| self.run_len(&peer, now), |(_, _, left)| left);
            run = Some((peer, span.offset + span.len, left.saturating_sub(len)));
            self.ask(span, peer, now);
        }
    }

    fn run_len(&self, peer: &PeerId, now: Instant) -> u64 {
        let rate = self.sources.get(peer).and_then(|source| source.rate(now)).unwrap_or(0);
        (rate / 1000 * RUN_TIME.as_millis() as u64).min(self.config.window / RUN_PART)
    }

    fn ask(&mut self, span: Span, peer: PeerId, now: Instant) {
        let len = self.payload_len(span);
        let Some(piece) = self.pieces.get_mut(&span) else { return };
        piece.asked.push(peer);
        let (want, counted) = (Want::Object(piece.reference), std::mem::replace(&mut piece.counted, true));
        self.window += if counted { 0 } else { len };
        self.source(peer, now).ask(span, len, now);
        match self.effects.last_mut() {
            Some(Effect::Fetch(last, wants)) if *last == peer => wants.push(want),
            _ => self.effects.push(Effect::Fetch(peer, vec![want])),
        }
    }

    fn payload_len(&self, span: Span) -> u64 {
        self.config.geometry.payload_len(span.offset, span.len)
    }

    fn has_room(&self, peer: &PeerId, len: u64, room: Room, now: Instant) -> bool {
        let (leaf_len, most) = (self.config.geometry.leaf_len, self.config.window / 2);
        self.sources.get(peer).is_none_or(|source| match room {
            Room::ForRun => source.has_room_for_run(leaf_len, most, now),
            Room::ForMore => source.has_room(len, leaf_len, most, now),
        })
    }

    /// The source that should bring an object soonest, of those that have it; this node before all others. None where that
    /// one has no room now: waiting for it is better than asking a slower one. Who is silent comes into question only where
    /// nobody else has it, and never as a second source.
    fn best_source(&self, span: Span, except: Option<PeerId>, now: Instant) -> Option<PeerId> {
        let piece = self.pieces.get(&span)?;
        let len = self.payload_len(span);
        let me = self.config.me;
        let fastest_of_all = self.sources.values().filter_map(|source| source.rate(now)).max().unwrap_or(0);
        let best = if piece.holders.contains(&me) {
            Some(me).filter(|_| except.is_none())
        } else {
            let holders = || piece.holders.iter().filter(|peer| Some(**peer) != except && !self.is_bad(peer));
            let fastest = holders().filter_map(|peer| self.rate(peer, now)).max().unwrap_or(1).max(1);
            // Who was not measured yet is taken for as fast as the fastest.
            let rate = |peer: &PeerId| self.rate(peer, now).unwrap_or(fastest).max(1);
            let under_way = |peer: &PeerId| self.sources.get(peer).map_or(0, Source::under_way);
            let needs = |peer: &&PeerId| u128::from(under_way(peer) + len) * 1_000_000 / u128::from(rate(peer));
            let speaking = holders().filter(|peer| !self.is_silent(peer, now)).min_by_key(needs);
            speaking.or_else(|| holders().filter(|_| except.is_none()).min_by_key(needs)).copied()
        };
        // A better one may just be about to say that it has it, too.
        let poor =
            |peer: &PeerId| self.is_silent(peer, now) || self.rate(peer, now).is_some_and(|r| r < fastest_of_all / 2);
        let best = best.filter(|peer| *peer == me || !self.is_asking(piece.part) || !poor(peer));
        best.filter(|peer| self.has_room(peer, len, if except.is_none() { Room::ForRun } else { Room::ForMore }, now))
    }

    fn rate(&self, peer: &PeerId, now: Instant) -> Option<u64> {
        self.sources.get(peer)?.rate(now)
    }

    /// Asks sources that have nothing else to do for what others are slow to send.
    fn hedge(&mut self, now: Instant) {
        let asked_once = self.pieces.iter().filter(|(_, piece)| piece.asked.len() == 1 && piece.holders.len() > 1);
        let asked_once: Vec<(Span, PeerId)> = asked_once.map(|(span, piece)| (*span, piece.asked[0])).collect();
        for (span, first) in asked_once {
            if first == self.config.me {
                continue;
            }
            let expected = self.sources.get(&first).and_then(|source| source.expected(span, now));
            let Some(second) = self.best_source(span, Some(first), now) else { continue };
            if !self.is_faster(&second, span, expected, now) {
                continue;
            }
            let position = self.sources.get(&first).map_or(0, |source| source.position(span));
            if expected.is_some() && position >= SENDING {
                self.stats.stolen += 1;
                self.cancel(span, first);
            } else {
                if !self.may_hedge(self.payload_len(span)) {
                    continue;
                }
                self.stats.hedged += 1;
            }
            self.ask(span, second, now);
        }
    }

    /// Whether so many bytes may come twice.
    fn may_hedge(&self, len: u64) -> bool {
        let wanted = self.file_len.unwrap_or(0).min(self.range.end.unwrap_or(u64::MAX));
        let most = (wanted.saturating_sub(self.range.start) / HEDGED_PART).max(self.config.geometry.leaf_len);
        let asked_twice = self.pieces.iter().filter(|(_, piece)| piece.asked.len() > 1);
        let twice: u64 = asked_twice.map(|(span, _)| self.payload_len(*span)).sum();
        self.stats.duplicate + twice + len <= most
    }

    /// Whether another source should bring an object much sooner than the first, of whom it is expected so late.
    fn is_faster(&self, second: &PeerId, span: Span, expected: Option<Duration>, now: Instant) -> bool {
        let len = self.payload_len(span);
        let needs = self.sources.get(second).and_then(|source| source.time_for_more(len, now));
        match (expected, needs) {
            (None, _) => true,
            (Some(expected), Some(needs)) => expected > 2 * needs + HEDGE_GAIN_MIN,
            (Some(_), None) => false,
        }
    }

    /// Takes back what silent sources were asked for: at once where others have it, in the end in any case.
    pub(super) fn give_up_silent(&mut self, now: Instant) {
        let silent = self.sources.iter().map(|(peer, source)| (*peer, source.silent_for(now)));
        let others = silent.filter(|(peer, silence)| *peer != self.config.me && *silence >= GIVE_UP_AFTER);
        for (peer, silence) in others.collect::<Vec<(PeerId, Duration)>>() {
            self.source(peer, now).quiet = true;
            if silence >= SOURCE_SILENT_MAX {
                for span in self.release(peer, |_| true) {
                    self.lose_holder(span, peer, now);
                }
            } else {
                let has_other = |get: &Get, span: Span| get.best_source(span, Some(peer), now).is_some();
                let spans: Vec<Span> = self.sources[&peer].queue().filter(|span| has_other(self, *span)).collect();
                self.release(peer, |span| spans.contains(span));
            }
        }
    }

    /// Takes objects back from a source; says which.
    pub(super) fn release(&mut self, peer: PeerId, which: impl Fn(&Span) -> bool) -> Vec<Span> {
        let queue = self.sources.get(&peer).into_iter().flat_map(|source| source.queue());
        let spans: Vec<Span> = queue.filter(which).collect();
        for span in &spans {
            self.cancel(*span, peer);
        }
        spans
    }

    fn cancel(&mut self, span: Span, peer: PeerId) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.drop_one(span);
        }
        if let Some(piece) = self.pieces.get_mut(&span) {
            piece.asked.retain(|other| *other != peer);
            self.effects.push(Effect::Cancel(peer, Want::Object(piece.reference)));
        }
    }
}
