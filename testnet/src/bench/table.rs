//! What was measured, one figure for each row and round, and what is said about it: median, spread, ratios, targets.

use serde::Serialize;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Content by the wall clock.
    #[serde(rename = "MiB/s")]
    MibPerS,
    /// Time on all cores for each GiB of content.
    #[serde(rename = "core-s/GiB")]
    CoreSPerGib,
    /// Whole operations.
    #[serde(rename = "1/s")]
    PerS,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Ms,
    /// Microseconds.
    #[serde(rename = "us")]
    Us,
    /// Seconds.
    #[serde(rename = "s")]
    S,
    /// Bytes, in MiB.
    #[serde(rename = "MiB")]
    Mib,
    /// One figure over another.
    #[serde(rename = "x")]
    Ratio,
    /// Bytes.
    #[serde(rename = "B")]
    Bytes,
    /// Bytes, in KiB.
    #[serde(rename = "KiB")]
    Kib,
    /// Parts of a hundred.
    #[serde(rename = "%")]
    Percent,
    /// Traffic.
    #[serde(rename = "B/s")]
    BytesPerS,
    /// Things counted.
    #[serde(rename = "")]
    Count,
}

impl Unit {
    /// As people write it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Unit::MibPerS => "MiB/s",
            Unit::CoreSPerGib => "core-s/GiB",
            Unit::PerS => "1/s",
            Unit::Ms => "ms",
            Unit::Us => "us",
            Unit::S => "s",
            Unit::Mib => "MiB",
            Unit::Bytes => "B",
            Unit::Kib => "KiB",
            Unit::Ratio => "x",
            Unit::Percent => "%",
            Unit::BytesPerS => "B/s",
            Unit::Count => "",
        }
    }
}

/// A row: what was measured in every round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What.
    pub name: String,
    /// What the figures count.
    pub unit: Unit,
    /// Half of the figures are below it.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Median of the distances from the median.
    pub mad: f64,
    /// All, in the order of the rounds.
    pub samples: Vec<f64>,
}

impl Row {
    fn new(name: &str, unit: Unit, samples: Vec<f64>) -> Self {
        let middle = median(&samples);
        let distances: Vec<f64> = samples.iter().map(|sample| (sample - middle).abs()).collect();
        Self {
            name: name.to_owned(),
            unit,
            median: middle,
            min: samples.iter().copied().fold(f64::INFINITY, f64::min),
            max: samples.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            mad: median(&distances),
            samples,
        }
    }
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
}

impl Target {
    fn is_met(self, figure: f64) -> bool {
        match self {
            Target::AtLeast(bound) => figure >= bound,
            Target::AtMost(bound) => figure <= bound,
        }
    }

    /// As people write it.
    pub(super) fn text(self) -> String {
        match self {
            Target::AtLeast(bound) => format!(">= {bound}"),
            Target::AtMost(bound) => format!("<= {bound}"),
        }
    }
}

/// A figure that was promised, and whether it was reached: by the median of its rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The figure in every round.
    #[serde(flatten)]
    pub row: Row,
    /// What it should be.
    pub target: Target,
    /// Whether it is.
    pub met: bool,
}

/// Figures as they come in.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    rows: Vec<(String, Unit, Vec<f64>)>,
}

impl Table {
    /// Adds the figure of one more round to a row.
    pub(super) fn add(&mut self, name: &str, unit: Unit, figure: f64) {
        match self.rows.iter_mut().find(|(known, _, _)| known == name) {
            Some((_, _, samples)) => samples.push(figure),
            None => self.rows.push((name.to_owned(), unit, vec![figure])),
        }
    }

    /// The rows in the order in which they came.
    pub(super) fn rows(&self) -> Vec<Row> {
        self.rows.iter().map(|(name, unit, samples)| Row::new(name, *unit, samples.clone())).collect()
    }

    /// The figures of a row, by round; None where it was not measured.
    pub(super) fn samples(&self, name: &str) -> Option<Vec<f64>> {
        self.rows.iter().find(|(known, _, _)| known == name).map(|(_, _, samples)| samples.clone())
    }

    /// One row over another, round by round, so that what the machine did meanwhile is in both. None where one of them was
    /// not measured.
    pub(super) fn ratio(&self, above: &str, below: &str) -> Option<Vec<f64>> {
        let (above, below) = (self.samples(above)?, self.samples(below)?);
        Some(above.iter().zip(below).map(|(above, below)| above / below).collect())
    }
}

/// A verdict about figures; None where there are none, because it was not measured.
pub(super) fn judge(name: &str, unit: Unit, samples: Option<Vec<f64>>, target: Target) -> Option<Verdict> {
    let row = Row::new(name, unit, samples.filter(|samples| !samples.is_empty())?);
    let met = target.is_met(row.median);
    Some(Verdict { row, target, met })
}

/// The figure that so many of all, between 0 and 1, do not exceed; None where there are none.
pub(super) fn quantile(samples: &[f64], part: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Of an even number of figures, half way between the two in the middle.
fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::default();
        for (ours, theirs) in [(10.0, 5.0), (30.0, 10.0), (2.0, 2.0)] {
            table.add("ours", Unit::MibPerS, ours);
            table.add("theirs", Unit::MibPerS, theirs);
        }
        table
    }

    #[test]
    fn a_row_says_median_and_spread() {
        let rows = table().rows();
        let ours = &rows[0];
        assert_eq!((ours.name.as_str(), ours.median, ours.min, ours.max, ours.mad), ("ours", 10.0, 2.0, 30.0, 8.0));
        assert_eq!(rows[1].samples, [5.0, 10.0, 2.0]);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn a_quantile_is_one_of_the_figures_and_never_less_than_the_truth() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|part| quantile(&samples, part)), [1.0, 100.0, 198.0, 200.0].map(Some));
        assert_eq!(quantile(&[7.0], 0.99), Some(7.0));
        assert_eq!(quantile(&[], 0.99), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        assert_eq!(table().ratio("ours", "theirs"), Some(vec![2.0, 3.0, 1.0]));
        assert_eq!(table().ratio("ours", "nobody's"), None);
    }

    #[test]
    fn a_missed_target_is_missed_and_one_not_measured_is_none() {
        let ratio = || table().ratio("ours", "theirs");
        let verdict = |target| judge("ratio", Unit::Ratio, ratio(), target).expect("measured");
        assert!(verdict(Target::AtLeast(2.0)).met && verdict(Target::AtMost(2.0)).met);
        assert!(!verdict(Target::AtLeast(2.1)).met && !verdict(Target::AtMost(1.9)).met);
        assert_eq!(judge("ratio", Unit::Ratio, None, Target::AtLeast(0.0)), None);
        assert_eq!(judge("ratio", Unit::Ratio, Some(Vec::new()), Target::AtLeast(0.0)), None);
    }
}
