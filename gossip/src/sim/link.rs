//! What links between nodes do to what is sent on them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use super::world::Slot;

/// First pause before a stream sends again what was lost; doubled each time. What Linux has for near peers.
const RESEND_PAUSE: Duration = Duration::from_millis(200);

/// A stream that gets nothing through for so long is ended by the systems at its ends.
pub(super) const STREAM_TIME_MAX: Duration = Duration::from_secs(30);

/// The links of a world.
#[derive(Clone, Debug)]
pub struct Links {
    /// Shortest and longest time on the way, one way.
    pub latency: (Duration, Duration),
    /// Share of packets that are lost on every link.
    pub loss: f64,
    /// What every node can send, in bytes a second; None is as much as it likes.
    pub uplink: Option<u64>,
    lossy: BTreeMap<Slot, Loss>,
    cut: BTreeSet<(Slot, Slot)>,
    parts: Option<Vec<u32>>,
}

/// Shares of packets that one node loses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Of those that it sends.
    pub sent: f64,
    /// Of those that come to it.
    pub received: f64,
}

impl Links {
    /// Links that lose nothing.
    pub fn new(latency: (Duration, Duration)) -> Self {
        Self { latency, loss: 0.0, uplink: None, lossy: BTreeMap::new(), cut: BTreeSet::new(), parts: None }
    }

    /// Between machines in one place: 0.2 to 2 ms.
    pub fn lan() -> Self {
        Self::new((Duration::from_micros(200), Duration::from_millis(2)))
    }

    /// Between machines in one region: 10 to 40 ms.
    pub fn region() -> Self {
        Self::new((Duration::from_millis(10), Duration::from_millis(40)))
    }

    /// Lets one node lose packets.
    pub fn set_loss_at(&mut self, slot: Slot, loss: Loss) {
        match loss == Loss::default() {
            true => self.lossy.remove(&slot),
            false => self.lossy.insert(slot, loss),
        };
    }

    /// Lets nothing through from one node to another, or lets it through again.
    pub fn set_cut(&mut self, from: Slot, to: Slot, cut: bool) {
        match cut {
            true => self.cut.insert((from, to)),
            false => self.cut.remove(&(from, to)),
        };
    }

    /// Divides the nodes into parts that do not reach each other, by the part of each; None makes it whole again.
    pub fn set_parts(&mut self, parts: Option<Vec<u32>>) {
        self.parts = parts;
    }

    /// Takes back all that single nodes and pairs of them suffer.
    pub fn mend(&mut self) {
        self.lossy.clear();
        self.cut.clear();
        self.parts = None;
    }

    /// Whether nothing gets from one node to another.
    pub fn is_cut(&self, from: Slot, to: Slot) -> bool {
        let part = |slot: Slot| self.parts.as_ref().and_then(|parts| parts.get(slot.0 as usize));
        part(from) != part(to) || !self.cut.is_empty() && self.cut.contains(&(from, to))
    }

    fn loss_between(&self, from: Slot, to: Slot) -> f64 {
        let at = |slot| self.lossy.get(&slot).copied().unwrap_or_default();
        if self.lossy.is_empty() {
            return self.loss;
        }
        1.0 - (1.0 - self.loss) * (1.0 - at(from).sent) * (1.0 - at(to).received)
    }

    pub(super) fn latency(&self, rng: &mut SmallRng) -> Duration {
        let (least, most) = self.latency;
        Duration::from_micros(rng.random_range(least.as_micros() as u64..=most.as_micros() as u64))
    }

    /// Whether a packet gets lost.
    pub(super) fn is_lost(&self, from: Slot, to: Slot, rng: &mut SmallRng) -> bool {
        let loss = self.loss_between(from, to);
        loss > 0.0 && rng.random_bool(loss)
    }

    /// How long something takes on a stream: what is lost is sent again. None if it takes too long.
    pub(super) fn streamed(&self, from: Slot, to: Slot, rng: &mut SmallRng) -> Option<Duration> {
        let mut time = self.latency(rng);
        let mut pause = RESEND_PAUSE;
        while self.is_lost(from, to, rng) {
            time += pause;
            pause *= 2;
            if time > STREAM_TIME_MAX {
                return None;
            }
        }
        Some(time)
    }
}
