//! What a node counts about itself, read from its `/metrics`.

use std::collections::BTreeMap;
use std::path::Path;

use p2p_api::{Code, Problem};

use crate::Result;
use crate::http::Connection;

/// All numbers of one answer, by name and labels as they stand there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Asks a node.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn of(socket: &Path) -> Result<Self> {
        let body = Connection::open(socket).await?.request("GET", "/metrics", &[], b"").await?.success()?;
        Ok(Self::parse(&String::from_utf8_lossy(&body)))
    }

    /// Lines of the form `name{labels} value`; all others are comments.
    fn parse(text: &str) -> Self {
        let number = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(number).collect())
    }

    /// A counter, by its name without `_total`.
    ///
    /// # Errors
    /// When the node has none of this name.
    pub fn counter(&self, name: &str) -> Result<u64> {
        Ok(self.gauge(&format!("{name}_total"))? as u64)
    }

    /// A gauge, by its whole name.
    ///
    /// # Errors
    /// When the node has none of this name.
    pub fn gauge(&self, name: &str) -> Result<f64> {
        self.0.get(name).copied().ok_or_else(|| Self::missing(name))
    }

    fn missing(name: &str) -> Problem {
        Problem::new(Code::UnsupportedVersion, format!("the node has no {name} among its metrics"))
            .hint("Are node and test network of the same version?")
    }

    /// A histogram: how many values were at most so large, by bound.
    ///
    /// # Errors
    /// When the node has none of this name.
    pub fn histogram(&self, name: &str) -> Result<Histogram> {
        let start = format!("{name}_bucket{{le=\"");
        let bucket = |(key, count): (&String, &f64)| {
            let bound = key.strip_prefix(&start)?.strip_suffix("\"}")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, *count as u64))
        };
        let mut buckets: Vec<(f64, u64)> = self.0.iter().filter_map(bucket).collect();
        if buckets.is_empty() {
            return Err(Self::missing(name));
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(Histogram(buckets))
    }
}

/// Cumulative counts by bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram(Vec<(f64, u64)>);

impl Histogram {
    /// What came between an earlier answer and this one.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |bound: f64| earlier.0.iter().find(|(other, _)| *other == bound).map_or(0, |(_, count)| *count);
        Self(self.0.iter().map(|(bound, count)| (*bound, count.saturating_sub(before(*bound)))).collect())
    }

    /// The values of both.
    pub fn plus(&self, other: &Self) -> Self {
        let of_other = |bound: f64| other.0.iter().find(|(known, _)| *known == bound).map_or(0, |(_, count)| *count);
        Self(self.0.iter().map(|(bound, count)| (*bound, count + of_other(*bound))).collect())
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.0.last().map_or(0, |(_, count)| *count)
    }

    /// The bound that so many of all values, between 0 and 1, do not exceed: the upper one of the bucket, so never less than
    /// the truth. None without values.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * part).ceil() as u64;
        self.0.iter().find(|(_, count)| *count >= wanted && *count > 0).map(|(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP p2p_sent Bytes sent.\n# TYPE p2p_sent counter\np2p_sent_total 7\np2p_objects 3\n\
        p2p_get_seconds_sum 1.5\np2p_get_seconds_count 10\np2p_get_seconds_bucket{le=\"0.001\"} 5\n\
        p2p_get_seconds_bucket{le=\"0.01\"} 9\np2p_get_seconds_bucket{le=\"+Inf\"} 10\n# EOF\n";

    #[test]
    fn counters_are_found_by_name_and_missing_ones_are_said() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.counter("p2p_sent").expect("there"), 7);
        assert_eq!(metrics.counter("p2p_received").expect_err("not there").code, Code::UnsupportedVersion);
        assert!(metrics.histogram("p2p_put_seconds").is_err());
    }

    #[test]
    fn a_quantile_is_never_less_than_the_truth() {
        let histogram = Metrics::parse(TEXT).histogram("p2p_get_seconds").expect("there");
        assert_eq!(histogram.count(), 10);
        assert_eq!(histogram.quantile(0.5), Some(0.001));
        assert_eq!(histogram.quantile(0.51), Some(0.01));
        assert_eq!(histogram.quantile(0.99), Some(f64::INFINITY));
        let twice = histogram.plus(&histogram);
        assert_eq!((twice.count(), twice.quantile(0.5), twice.since(&histogram)), (20, Some(0.001), histogram.clone()));
        let nothing = histogram.since(&histogram);
        assert_eq!((nothing.count(), nothing.quantile(0.5)), (0, None));
    }
}
