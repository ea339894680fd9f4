//! Keeping what was measured: one more line in a file that only grows.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use p2p_api::{Code, Problem};
use serde::Serialize;

use super::Report;
use crate::Result;
use crate::state::failed;

/// A line of the file, as those that are there already.
#[derive(Serialize)]
struct Line<'a> {
    date: &'a str,
    commit: &'a str,
    machine: String,
    command: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    figures: &'a Report,
}

/// Makes sure, before anything is measured, that there is a file to record in.
///
/// # Errors
/// `usage` when it is not there: figures belong to those of earlier runs.
pub fn check_record(path: &Path) -> Result<()> {
    open(path).map(drop)
}

/// Adds a run to the file.
///
/// # Errors
/// When it cannot be written.
pub fn record(path: &Path, command: &str, note: Option<&str>, report: &Report) -> Result<()> {
    let machine = report.machine.text();
    let line = Line { date: &report.date, commit: &report.commit, machine, command, note, figures: report };
    let mut text = serde_json::to_string(&line).map_err(|error| Problem::new(Code::Other, error.to_string()))?;
    text.push('\n');
    let mut file = open(path)?;
    // One write: a line is there whole or not at all.
    file.write_all(text.as_bytes()).map_err(|error| failed("the figures cannot be recorded", path, &error))
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Problem::new(Code::Usage, format!("there is no file {} to record in", path.display()))
                .hint("Run it at the top of the repository, or name the file: --record FILE")
        }
        _ => failed("the figures cannot be recorded", path, &error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn a_run_is_one_more_line_and_nothing_else_changes() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("results.jsonl");
        assert_eq!(check_record(&path).expect_err("nothing is there").code, Code::Usage);
        std::fs::write(&path, "{\"before\":1}\n").expect("written");
        check_record(&path).expect("it is there");
        let report = Report {
            date: "2026-11-20".into(),
            commit: "abc".into(),
            machine: Machine::here(temp.path()),
            load_before: 0.0,
            load_after: 0.0,
            asked: [("size", 1)].into(),
            seed: 1,
            groups: Vec::new(),
            rows: Vec::new(),
            verdicts: Vec::new(),
            skipped: Vec::new(),
        };
        record(&path, "p2p-testnet bench content", Some("quiet"), &report).expect("recorded");
        let text = std::fs::read_to_string(&path).expect("there");
        let (before, line) = text.split_once('\n').expect("two lines");
        assert_eq!(before, "{\"before\":1}");
        let line: serde_json::Value = serde_json::from_str(line.trim_end()).expect("one document");
        assert_eq!((&line["command"], &line["note"]), (&"p2p-testnet bench content".into(), &"quiet".into()));
        assert!(line["figures"]["rows"].is_array() && line["machine"].as_str().is_some_and(|text| !text.is_empty()));
    }
}
