//! How far a node trusts itself (Lifeguard's local health multiplier; memberlist's `awareness.go`).

use std::time::Duration;

/// Zero is well; higher is worse.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awareness {
    score: i32,
    max: i32,
}

impl Awareness {
    /// Well; at worst, times are so many times longer.
    pub(super) fn new(multiplier_max: u32) -> Self {
        Self { score: 0, max: multiplier_max.cast_signed() - 1 }
    }

    /// Something spoke for this node, or against it.
    pub(super) fn apply(&mut self, delta: i32) {
        self.score = (self.score + delta).clamp(0, self.max);
    }

    /// How long something takes that takes so long at a node that is well.
    pub(super) fn scale(&self, time: Duration) -> Duration {
        time * (self.score.unsigned_abs() + 1)
    }
}
