//! Time as the machine is told it.

use std::ops::{Add, AddAssign};
use std::time::Duration;

/// Microseconds since whatever the shell counts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// Later than anything.
    pub const NEVER: Time = Time(u64::MAX);

    /// How long after another time this is; nothing if it is before.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// So long before this.
    pub fn before(self, by: Duration) -> Time {
        Time(self.0.saturating_sub(micros(by)))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, by: Duration) -> Time {
        Time(self.0.saturating_add(micros(by)))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
