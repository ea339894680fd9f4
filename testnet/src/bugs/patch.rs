//! A planted bug as it stands in its file: what it says of itself, then a diff.

use std::fs;
use std::path::{Path, PathBuf};

use p2p_api::{Code, Problem};
use serde::Serialize;

use crate::Result;
use crate::state::failed;

/// Where they are, below the top of the repository.
const DIR: &str = "testnet/bugs";

const BREAKS: &str = "Breaks:";
const CAUGHT_BY: &str = "Caught by:";
const PENDING: &str = "Pending:";

/// A planted bug.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bug {
    /// Name of its file, without the end.
    pub name: String,
    /// What it breaks, in a sentence.
    pub breaks: String,
    /// The command that must fail with it.
    pub command: Vec<String>,
    /// What has to be there before anything can catch it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
    /// The file.
    pub patch: PathBuf,
}

/// All bugs of a repository, by name.
///
/// # Errors
/// When there is none, or one does not say what it must.
pub fn load(root: &Path) -> Result<Vec<Bug>> {
    let dir = root.join(DIR);
    let unreadable = |error| failed("the planted bugs cannot be read", &dir, &error);
    let mut bugs = Vec::new();
    for entry in fs::read_dir(&dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|kind| kind == "patch") {
            let text = fs::read_to_string(&path).map_err(|error| failed("a bug cannot be read", &path, &error))?;
            bugs.push(parse(path, &text)?);
        }
    }
    bugs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(bugs)
}

fn parse(path: PathBuf, text: &str) -> Result<Bug> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let head = text.lines().take_while(|line| !line.starts_with("diff ") && !line.starts_with("--- "));
    let head: Vec<&str> = head.collect();
    let said = |word: &str| head.iter().find_map(|line| Some(line.strip_prefix(word)?.trim().to_owned()));
    let missing = |word: &str| Problem::new(Code::Usage, format!("{} does not say: {word}", path.display()));
    let breaks = said(BREAKS).ok_or_else(|| missing(BREAKS))?;
    let command = said(CAUGHT_BY).ok_or_else(|| missing(CAUGHT_BY))?;
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    if command.first().is_none_or(|program| program != "cargo") || command.iter().all(|word| word != "--") {
        return Err(missing("a cargo command with `--` and what it filters by"));
    }
    Ok(Bug { name, breaks, command, pending: said(PENDING), patch: path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Bug> {
        parse("/b/some-bug.patch".into(), text)
    }

    #[test]
    fn a_bug_says_what_it_breaks_and_what_catches_it() {
        let text =
            "Breaks: all of it\nCaught by: cargo test --lib -- this\nPending: that\n\ndiff --git a/x b/x\nBreaks: no\n";
        let bug = parsed(text).expect("a bug");
        assert_eq!((bug.name.as_str(), bug.breaks.as_str()), ("some-bug", "all of it"));
        assert_eq!(bug.command, ["cargo", "test", "--lib", "--", "this"]);
        assert_eq!(bug.pending.as_deref(), Some("that"));
    }

    #[test]
    fn a_bug_that_says_too_little_is_refused() {
        for text in [
            "diff --git a/x b/x\nBreaks: x\nCaught by: cargo test -- x\n",
            "Breaks: x\n",
            "Caught by: cargo test -- x\n",
            "Breaks: x\nCaught by: rm -- x\n",
            "Breaks: x\nCaught by: cargo test\n",
        ] {
            assert_eq!(parsed(text).expect_err(text).code, Code::Usage, "{text}");
        }
    }
}
