//! What a run found: the document, and the same for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::table::{Row, Verdict};
use crate::machine::Machine;

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When, in UTC.
    pub date: String,
    /// The commit that the folder of the command stood at.
    pub commit: String,
    /// Where.
    pub machine: Machine,
    /// Processes that wanted to run in the minute before.
    pub load_before: f64,
    /// The same at the end, this run included.
    pub load_after: f64,
    /// What was asked for, by name.
    #[serde(flatten)]
    pub asked: BTreeMap<&'static str, u64>,
    /// Determines what was left to chance.
    pub seed: u64,
    /// What was measured.
    pub groups: Vec<&'static str>,
    /// Figures.
    pub rows: Vec<Row>,
    /// Figures that were promised.
    pub verdicts: Vec<Verdict>,
    /// What could not be measured, and why.
    pub skipped: Vec<String>,
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(text, "machine  {}", self.machine.text());
        let _ = writeln!(text, "load     {:.2} before, {:.2} after", self.load_before, self.load_after);
        let asked: String = self.asked.iter().map(|(name, number)| format!("{name} {number}, ")).collect();
        let _ = writeln!(text, "run      {asked}commit {}, seed {}", self.commit, self.seed);
        if !self.rows.is_empty() {
            let _ = writeln!(text, "\n{:<52} {:>9} {:>21} {:>9}", "measured", "median", "min .. max", "mad");
        }
        for row in &self.rows {
            let _ = writeln!(text, "{}", figures(row));
        }
        if !self.verdicts.is_empty() {
            let _ = writeln!(text, "\n{:<52} {:>9} {:>21} {:>9}", "promised", "median", "min .. max", "mad");
        }
        for verdict in &self.verdicts {
            let word = if verdict.met { "met" } else { "MISSED" };
            let _ = writeln!(text, "{}  {} {word}", figures(&verdict.row), verdict.target.text());
        }
        for skipped in &self.skipped {
            let _ = writeln!(text, "skipped: {skipped}");
        }
        let _ = writeln!(text, "\n{}", self.summary());
        text
    }

    fn summary(&self) -> String {
        let met = self.verdicts.iter().filter(|verdict| verdict.met).count();
        format!("targets: {met} met, {} missed, {} skipped", self.verdicts.len() - met, self.skipped.len())
    }
}

fn figures(row: &Row) -> String {
    let spread = format!("{} .. {}", number(row.min), number(row.max));
    let (name, unit) = (&row.name, row.unit.word());
    format!("{name:<52} {:>9} {spread:>21} {:>9} {unit}", number(row.median), number(row.mad))
}

/// Three or four digits that say something.
fn number(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{Table, Target, Unit, judge};
    use super::*;

    fn report(skipped: Vec<String>) -> Report {
        let mut table = Table::default();
        table.add("put", Unit::MibPerS, 200.0);
        let verdict = |least| judge("put / rows", Unit::Ratio, Some(vec![0.5]), Target::AtLeast(least));
        Report {
            date: "2026-11-20".into(),
            commit: "abc".into(),
            machine: Machine::here(&std::env::temp_dir()),
            load_before: 0.0,
            load_after: 1.0,
            asked: [("size", 1), ("runs", 1)].into(),
            seed: 7,
            groups: vec!["put"],
            rows: table.rows(),
            verdicts: [verdict(0.4), verdict(0.8)].into_iter().flatten().collect(),
            skipped,
        }
    }

    #[test]
    fn what_was_missed_and_what_was_skipped_can_be_seen() {
        let text = report(vec!["sendme is not installed (cargo install sendme)".into()]).text();
        for shown in
            [">= 0.8 MISSED", ">= 0.4 met", "skipped: sendme is not installed", "1 met, 1 missed, 1 skipped", "0.500"]
        {
            assert!(text.contains(shown), "{shown}: {text}");
        }
    }

    #[test]
    fn the_document_has_every_figure_with_its_unit() {
        let document = serde_json::to_value(report(Vec::new())).expect("plain data");
        assert_eq!((&document["size"], &document["runs"]), (&1.into(), &1.into()));
        assert_eq!(document["rows"][0]["unit"], "MiB/s");
        assert_eq!(document["rows"][0]["samples"][0], 200.0);
        assert_eq!((&document["verdicts"][1]["met"], &document["verdicts"][1]["median"]), (&false.into(), &0.5.into()));
        assert_eq!(document["verdicts"][1]["target"]["at_least"], 0.8);
    }
}
