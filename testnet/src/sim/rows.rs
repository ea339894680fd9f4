//! Rows of results that are kept in a file as they are done, for the sources that they were done with.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use p2p_api::{Code, Problem};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::machine::{self, Machine};
use crate::state::failed;
use crate::{Result, report};

/// One row as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row<F> {
    pub(super) date: String,
    pub(super) commit: String,
    /// What the simulated code is: rows of other code say nothing about this.
    pub(super) sources: String,
    pub(super) machine: String,
    pub(super) command: String,
    pub(super) figures: F,
}

/// What was committed of the simulated code.
pub(super) struct Sources {
    commit: String,
    /// What it hashes to.
    pub(super) tree: String,
}

impl Sources {
    /// Of these paths, from the top of the repository: what was committed last, or rows could not be told apart.
    ///
    /// # Errors
    /// `usage` where there is no repository, or something is changed.
    pub(super) fn of(simulated: &[&'static str]) -> Result<Self> {
        let git = |command: &[&str]| {
            let output = Command::new("git").args(command).stdin(Stdio::null()).output();
            let output = output.map_err(|error| Problem::new(Code::Other, format!("git cannot be run: {error}")))?;
            Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned()))
        };
        let of_simulated = |command: &[&'static str]| git(&[command, &["--"], simulated].concat());
        let listing = of_simulated(&["ls-tree", "-r", "HEAD"])?.filter(|listing| !listing.is_empty());
        let (Some(listing), Some(changes), Some(commit)) =
            (listing, of_simulated(&["status", "--porcelain"])?, git(&["rev-parse", "--short=7", "HEAD"])?)
        else {
            let message = "this is not the top of the repository, whose sources rows are kept for";
            return Err(Problem::new(Code::Usage, message));
        };
        if !changes.is_empty() {
            let message = "what is simulated has changes that are not committed: rows could not be told apart";
            return Err(Problem::new(Code::Usage, message).hint("Commit them, or keep no rows"));
        }
        let tree = blake3::hash(listing.as_bytes()).to_hex().chars().take(12).collect();
        Ok(Sources { commit, tree })
    }

    /// A row that was done with them just now.
    pub(super) fn row<F>(&self, command: String, figures: F) -> Row<F> {
        let (date, machine) = (machine::date(), Machine::here(Path::new(".")).text());
        Row { date, commit: self.commit.clone(), sources: self.tree.clone(), machine, command, figures }
    }
}

/// Rows that are there; whatever else the file holds is somebody else's.
pub(super) fn load<F: DeserializeOwned>(path: &Path) -> Result<Vec<Row<F>>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|error| failed("the rows cannot be read", path, &error))?,
    };
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

pub(super) fn keep<F: Serialize>(path: &Path, row: &Row<F>) -> Result<()> {
    // One write: a row is there whole or not at all.
    let line = report::json(row)?;
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(|error| failed("the row cannot be kept", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_again_among_lines_of_others() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("rows.jsonl");
        let found = || load::<Vec<u32>>(&path);
        assert!(found().expect("nothing is there").is_empty());
        fs::write(&path, "{\"another\":1}\n").expect("written");
        let sources = Sources { commit: "abc".into(), tree: "def".into() };
        keep(&path, &sources.row("c".into(), vec![1_u32, 2])).expect("kept");
        let rows = found().expect("readable");
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((&row.command[..], &row.sources[..], &row.figures[..]), ("c", "def", &[1, 2][..]));
        fs::remove_file(&path).expect("there");
        fs::create_dir(&path).expect("free");
        assert!(keep(&path, row).is_err() && found().is_err());
    }
}
