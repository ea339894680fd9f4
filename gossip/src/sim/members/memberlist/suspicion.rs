//! A suspicion whose time gets shorter as others confirm it (Lifeguard; memberlist's `suspicion.go`).

use std::time::Duration;

use crate::swim::{Member, Time};

/// What is held against one member.
#[derive(Debug)]
pub(super) struct Suspicion {
    began: Time,
    /// With so many confirmations it lasts `min`, with none `max`.
    wanted: u32,
    confirmed: u32,
    min: Duration,
    max: Duration,
    /// Whose word has counted: the first accuser's, which is no confirmation, and of each that confirmed.
    from: Vec<Member>,
}

impl Suspicion {
    pub(super) fn new(from: Member, wanted: u32, min: Duration, max: Duration, now: Time) -> Self {
        Self { began: now, wanted, confirmed: 0, min, max, from: vec![from] }
    }

    /// When the member is given up.
    pub(super) fn ends(&self) -> Time {
        if self.wanted == 0 {
            return self.began + self.min;
        }
        let share = f64::from(self.confirmed + 1).ln() / f64::from(self.wanted + 1).ln();
        let (min, max) = (self.min.as_secs_f64(), self.max.as_secs_f64());
        let millis = ((max - share * (max - min)) * 1000.0).floor() as u64;
        self.began + Duration::from_millis(millis).max(self.min)
    }

    /// Somebody else suspects the member too. Whether that was new, and wanted.
    pub(super) fn confirm(&mut self, from: Member) -> bool {
        if self.confirmed >= self.wanted || self.from.contains(&from) {
            return false;
        }
        self.from.push(from);
        self.confirmed += 1;
        true
    }
}
