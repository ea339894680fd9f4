//! What runs are measured by: samples under a name, and what is said about them.

use std::collections::BTreeMap;
use std::time::Duration;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds of virtual time.
    Seconds,
    /// Things; what counts is their sum.
    Count,
    /// Bytes a second of virtual time.
    BytesPerSecond,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// As people write it.
    pub fn word(self) -> &'static str {
        match self {
            Unit::Seconds => "s",
            Unit::Count => "",
            Unit::BytesPerSecond => "B/s",
            Unit::Bytes => "B",
        }
    }
}

/// Samples of one kind.
#[derive(Clone, Debug)]
pub struct Samples {
    /// What they count.
    pub unit: Unit,
    values: Vec<f64>,
}

impl Samples {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All together.
    pub fn sum(&self) -> f64 {
        self.values.iter().sum()
    }

    /// The sample that so large a share is not above: the nearest rank.
    pub fn quantile(&mut self, share: f64) -> f64 {
        self.values.sort_by(f64::total_cmp);
        let rank = (share * self.values.len() as f64).ceil() as usize;
        self.values.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }
}

/// What one run came to, or several.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Under their names.
    pub samples: BTreeMap<&'static str, Samples>,
    /// What should not have been.
    pub problems: Vec<String>,
    /// What happened, in number.
    pub events: u64,
}

impl Figures {
    fn add(&mut self, name: &'static str, unit: Unit, value: f64) {
        self.samples.entry(name).or_insert_with(|| Samples { unit, values: Vec::new() }).values.push(value);
    }

    /// A time that something took.
    pub(super) fn time(&mut self, name: &'static str, time: Duration) {
        self.add(name, Unit::Seconds, time.as_secs_f64());
    }

    /// So many of something.
    pub(super) fn count(&mut self, name: &'static str, count: usize) {
        self.add(name, Unit::Count, count as f64);
    }

    /// Bytes in a time.
    pub(super) fn rate(&mut self, name: &'static str, bytes: u64, time: Duration) {
        self.add(name, Unit::BytesPerSecond, bytes as f64 / time.as_secs_f64());
    }

    /// Bytes.
    pub(super) fn bytes(&mut self, name: &'static str, bytes: u64) {
        self.add(name, Unit::Bytes, bytes as f64);
    }

    /// Takes those of another run too.
    pub fn merge(&mut self, other: Figures) {
        for (name, samples) in other.samples {
            match self.samples.get_mut(name) {
                Some(ours) => ours.values.extend(samples.values),
                None => {
                    self.samples.insert(name, samples);
                }
            }
        }
        self.problems.extend(other.problems);
        self.events += other.events;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_sample_that_so_many_are_not_above() {
        let mut figures = Figures::default();
        for n in (1..=1000).rev() {
            figures.time("t", Duration::from_secs(n));
        }
        let samples = figures.samples.get_mut("t").expect("some");
        assert_eq!([0.0, 0.5, 0.999, 1.0].map(|share| samples.quantile(share)), [1.0, 500.0, 999.0, 1000.0]);
    }

    #[test]
    fn runs_add_up() {
        let run = |count| {
            let mut figures = Figures { events: 3, ..Figures::default() };
            figures.count("n", count);
            figures
        };
        let mut both = run(2);
        both.merge(run(5));
        assert_eq!((both.samples["n"].sum(), both.samples["n"].len(), both.events), (7.0, 2, 6));
    }
}
