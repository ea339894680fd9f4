//! The times and counts of membership, and what each costs.

use std::time::Duration;

/// How one node watches and tells. All nodes of a cluster use the same.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Each pair of neighbours exchanges a question and an answer so often. Less is seen sooner, and costs more at rest.
    pub period: Duration,
    /// Shortest and longest wait for an answer; in between, what the last answers took decides. Less is seen sooner, and takes
    /// the slow for silent; the shortest leaves a stream the time to send again what was lost once.
    pub answer_min: Duration,
    /// See [`Self::answer_min`].
    pub answer_max: Duration,
    /// How long the helpers of whoever missed an answer have: to be reached, and to ask themselves.
    pub help_time: Duration,
    /// Nobody is down by several accusers before so long after the first answer that any of them missed: longer than any
    /// stall that is to be lived through.
    pub grace: Duration,
    /// After so long one accuser is enough, and who hears from nobody takes itself for cut off.
    pub long: Duration,
    /// Accusers that are enough after [`Self::grace`]; a majority of the neighbours where there are fewer.
    pub accusers: usize,
    /// Other neighbours that are asked to try when an answer is missed.
    pub helpers: usize,
    /// Accusers that saw a process end count together for so long.
    pub gone_time: Duration,
    /// So many of the last eight exchanges with a neighbour took too long when it is called unreliable.
    pub late_max: u32,
    /// Whoever was put out for being unreliable stays away for so long, and twice as long each time after.
    pub unreliable_time: Duration,
    /// Pause before a neighbour that could not be reached is dialed again.
    pub redial_pause: Duration,
    /// How often a random member that is no neighbour is talked to.
    pub backstop_period: Duration,
    /// Times a minute that the whole cluster dials somebody who is down.
    pub heals_per_minute: u32,
    /// Digests that differ for so long are a reason to compare tables.
    pub differ_time: Duration,
    /// A member that somebody takes for down, not from what happens now, has so long to say otherwise.
    pub doubt_time: Duration,
    /// Connections for one purpose stay open for so long after it was last needed.
    pub brief_time: Duration,
    /// A timer that is late by more than this says that this node stood still.
    pub stall_min: Duration,
    /// News that come within this time of the last are sent together.
    pub batch_time: Duration,
}

impl Config {
    /// For machines in one place: milliseconds apart.
    pub fn lan() -> Self {
        Self {
            period: Duration::from_secs(2),
            answer_min: Duration::from_millis(300),
            answer_max: Duration::from_secs(1),
            help_time: Duration::from_millis(800),
            grace: Duration::from_millis(2500),
            long: Duration::from_secs(12),
            accusers: 3,
            helpers: 3,
            gone_time: Duration::from_secs(1),
            late_max: 5,
            unreliable_time: Duration::from_secs(120),
            redial_pause: Duration::from_secs(1),
            backstop_period: Duration::from_secs(30),
            heals_per_minute: 30,
            differ_time: Duration::from_secs(1),
            doubt_time: Duration::from_secs(3),
            brief_time: Duration::from_secs(5),
            stall_min: Duration::from_millis(250),
            batch_time: Duration::from_millis(5),
        }
    }

    /// For machines far from each other.
    pub fn wan() -> Self {
        Self {
            period: Duration::from_secs(5),
            answer_min: Duration::from_secs(1),
            answer_max: Duration::from_secs(3),
            help_time: Duration::from_secs(3),
            grace: Duration::from_secs(8),
            long: Duration::from_secs(60),
            gone_time: Duration::from_secs(3),
            ..Self::lan()
        }
    }
}
