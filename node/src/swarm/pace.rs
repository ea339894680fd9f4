//! How fast bytes may go out: the generic cell rate algorithm, a token bucket that hands out times instead of tokens, so
//! that those who share it go in turn and each waits once. Pure.

use std::time::{Duration, Instant};

/// What may go out at once after a pause, in bytes. It also makes up for a timer that fires late: with less, a busy machine
/// would stay below a high rate.
pub(super) const BURST_LEN: usize = 256 << 10;

/// A rate that several senders share.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second.
    rate: u64,
    /// When all that was promised has gone out.
    free_at: Instant,
}

impl Pace {
    /// A pace of `rate` bytes a second, which is not 0.
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        Self { rate, free_at: now }
    }

    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// Promises `len` bytes; says when they may go out, which may be a time that has passed.
    pub(super) fn promise(&mut self, len: usize, now: Instant) -> Instant {
        let burst = self.time_of(BURST_LEN);
        let at = now.checked_sub(burst).map_or(self.free_at, |earliest| self.free_at.max(earliest));
        self.free_at = at + self.time_of(len);
        at
    }

    fn time_of(&self, len: usize) -> Duration {
        Duration::from_secs_f64(len as f64 / self.rate as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// How many bytes some senders get out in ten seconds, if their timers fire up to `late` after their time.
    fn sent(rate: u64, senders: usize, late: Duration) -> u64 {
        let start = Instant::now();
        let end = start + Duration::from_secs(10);
        let mut pace = Pace::new(rate, start);
        // Each as the time at which it asks next.
        let mut next = vec![start; senders];
        let mut sent = 0;
        loop {
            let (sender, now) = next.iter().copied().enumerate().min_by_key(|(_, at)| *at).expect("a sender");
            if now >= end {
                return sent;
            }
            let at = pace.promise(16 << 10, now);
            sent += 16 << 10;
            next[sender] = if at <= now { now } else { at + late };
        }
    }

    #[test]
    fn the_rate_is_kept_to_some_percent_by_one_sender_and_by_many() {
        for rate in [MIB / 2, 5 * MIB, 20 * MIB, 100 * MIB] {
            for senders in [1, 7] {
                for late in [Duration::ZERO, Duration::from_millis(1), Duration::from_micros(1900)] {
                    let share = sent(rate, senders, late) as f64 / (10 * rate) as f64;
                    assert!((0.97..1.06).contains(&share), "{share} of {rate} with {senders} at {late:?}");
                }
            }
        }
    }

    #[test]
    fn a_pause_saves_up_no_more_than_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(MIB, start);
        let later = start + Duration::from_secs(3600);
        let mut at_once = 0;
        while pace.promise(4 << 10, later) <= later {
            at_once += 4 << 10;
        }
        assert!((BURST_LEN..=BURST_LEN + (8 << 10)).contains(&at_once), "{at_once}");
    }
}
