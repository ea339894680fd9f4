//! One source of a get: how fast it is, what it has been asked for, and whether it still says anything.

use std::time::{Duration, Instant};

use super::Span;

/// A source from which nothing came for so long is silent: what it was asked for may be asked of another as well.
pub(super) const SILENT_AFTER: Duration = Duration::from_millis(300);

/// What a source is asked for ahead of what it sends: as much as it sends in this time, which must be longer than the way
/// to it and back.
const AHEAD_TIME: Duration = Duration::from_millis(300);

/// Leaves that a source is asked for before it is known how fast it is.
const UNTESTED_LEAVES: u64 = 2;

/// Shortest time over which a rate is measured, while the source has more to send.
const MEASURE_TIME: Duration = Duration::from_millis(50);

/// A source.
#[derive(Debug)]
pub(super) struct Source {
    /// Asked for and not here yet, in the order of asking, with the bytes of each.
    queue: Vec<(Span, u64)>,
    /// Bytes per second, once measured.
    rate: Option<u64>,
    measured: Instant,
    since_measured: u64,
    /// When the last object came, or the first was asked for.
    last_object: Instant,
    /// When anything came, or the first was asked for.
    heard: Instant,
    /// It was given up because it said nothing or could not be reached, and nothing has come since.
    pub(super) quiet: bool,
    /// It sent something wrong: not asked again.
    pub(super) bad: bool,
}

impl Source {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            queue: Vec::new(),
            rate: None,
            measured: now,
            since_measured: 0,
            last_object: now,
            heard: now,
            quiet: false,
            bad: false,
        }
    }

    pub(super) fn ask(&mut self, span: Span, len: u64, now: Instant) {
        if self.queue.is_empty() {
            (self.measured, self.since_measured) = (now, 0);
            (self.last_object, self.heard) = (now, now);
        }
        self.queue.push((span, len));
    }

    /// It sent this; false if it was not asked for it, or not any more.
    pub(super) fn got(&mut self, span: Span, now: Instant) -> bool {
        self.hear(now);
        self.last_object = now;
        let Some(at) = self.queue.iter().position(|(other, _)| *other == span) else { return false };
        self.since_measured += self.queue.remove(at).1;
        let took = now.duration_since(self.measured);
        if took >= MEASURE_TIME || (self.queue.is_empty() && self.rate.is_none()) {
            let sample = per_second(self.since_measured, took);
            self.rate = Some(self.rate.map_or(sample, |rate| (rate * 3 + sample) / 4));
            (self.measured, self.since_measured) = (now, 0);
        }
        true
    }

    /// Nothing more is expected of it for this.
    pub(super) fn drop_one(&mut self, span: Span) {
        self.queue.retain(|(other, _)| *other != span);
    }

    /// Another brought this sooner, who was asked later. How slow this one is nobody knows: it is taken for a good deal slower
    /// than what it has not done, lest it be tried again and again.
    pub(super) fn lost(&mut self, span: Span, now: Instant) {
        let position = self.position(span);
        if let Some((_, len)) = self.queue.get(position).filter(|_| position == 0) {
            let at_most = per_second(*len, now.duration_since(self.last_object)) / 4;
            self.rate = Some(self.rate.map_or(at_most, |rate| at_most.min(rate / 2)));
        }
        self.drop_one(span);
    }

    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
        self.quiet = false;
    }

    /// Time in which this node did nothing is not the source's silence.
    pub(super) fn excuse(&mut self, lag: Duration, now: Instant) {
        self.heard = (self.heard + lag).min(now);
        self.last_object = (self.last_object + lag).min(now);
        self.measured = (self.measured + lag).min(now);
    }

    pub(super) fn queue(&self) -> impl Iterator<Item = Span> {
        self.queue.iter().map(|(span, _)| *span)
    }

    /// How long nothing has come that was asked for.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        if self.queue.is_empty() { Duration::ZERO } else { now.duration_since(self.heard) }
    }

    pub(super) fn silent(&self, now: Instant) -> bool {
        self.silent_for(now) >= SILENT_AFTER
    }

    /// Bytes per second as it is now: less than was measured, where the next object is overdue.
    pub(super) fn rate(&self, now: Instant) -> Option<u64> {
        let rate = self.rate?;
        let Some((_, len)) = self.queue.first() else { return Some(rate) };
        let waited = now.duration_since(self.last_object);
        Some(if waited > 2 * time_for(*len, rate) { per_second(*len, waited) } else { rate })
    }

    /// Whether so many bytes more may be asked of it.
    pub(super) fn has_room(&self, len: u64, leaf_len: u64, most: u64, now: Instant) -> bool {
        self.queue.is_empty() || self.under_way() + len <= self.depth(leaf_len, most, now)
    }

    /// Whether it has done half of what it may have before it.
    pub(super) fn has_room_for_run(&self, leaf_len: u64, most: u64, now: Instant) -> bool {
        self.under_way() * 2 <= self.depth(leaf_len, most, now)
    }

    /// Bytes that may be asked of it at once.
    fn depth(&self, leaf_len: u64, most: u64, now: Instant) -> u64 {
        let untested = UNTESTED_LEAVES * leaf_len;
        match self.rate(now) {
            Some(_) if self.quiet => leaf_len,
            Some(rate) => (rate / 1000 * AHEAD_TIME.as_millis() as u64).clamp(untested.min(most), most),
            None => untested,
        }
    }

    /// Bytes that are under way.
    pub(super) fn under_way(&self) -> u64 {
        self.queue.iter().map(|(_, len)| len).sum()
    }

    /// How many objects come before this one.
    pub(super) fn position(&self, span: Span) -> usize {
        self.queue.iter().position(|(other, _)| *other == span).unwrap_or(0)
    }

    /// How long it will take until this object is here; None while the source is silent. A source that is late is expected
    /// to take as long again as it is late.
    pub(super) fn expected(&self, span: Span, now: Instant) -> Option<Duration> {
        if self.silent(now) {
            return None;
        }
        let waited = now.duration_since(self.last_object);
        let at = self.position(span);
        let before: u64 = self.queue.iter().take(at + 1).map(|(_, len)| len).sum();
        Some(match self.rate {
            Some(rate) => time_for(before, rate).abs_diff(waited),
            None => waited * (at as u32 + 1),
        })
    }

    /// How long it would take for so many bytes more; None before it was measured.
    pub(super) fn time_for_more(&self, len: u64, now: Instant) -> Option<Duration> {
        Some(time_for(self.under_way() + len, self.rate(now)?))
    }
}

fn per_second(len: u64, took: Duration) -> u64 {
    let micros = (took.as_micros() as u64).max(1);
    (u128::from(len) * 1_000_000 / u128::from(micros)).min(u128::from(u64::MAX)) as u64
}

fn time_for(len: u64, rate: u64) -> Duration {
    Duration::from_secs_f64(len as f64 / rate.max(1) as f64)
}
