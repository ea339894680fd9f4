//! `bugs`: planted bugs, each of which a test must catch. Tests that never fail prove nothing.
//!
//! A bug is a patch in `testnet/bugs`, applied to a copy of the sources: the product has no switch for it. Before the diff it
//! says what it breaks and which command must fail then; the same command must succeed without it, and name at least one
//! test. What a bug does not build with, or no longer applies to, is no bug that was caught.

mod patch;
mod tree;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use p2p_api::{Code, Problem};
use serde::Serialize;

use crate::Result;

use tree::{Run, Tree};

pub use patch::{Bug, load};
pub use tree::{applies, root};

/// Which bugs, and where to work.
#[derive(Clone, Debug)]
pub struct Options {
    /// Top of the repository.
    pub root: PathBuf,
    /// Folder to copy the sources into; None takes a temporary one.
    pub dir: Option<PathBuf>,
    /// Names; empty means all.
    pub names: Vec<String>,
}

/// What came of one bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The command succeeds without it and fails with it.
    Caught,
    /// The command succeeds with it too.
    NotCaught,
    /// The sources do not build with it.
    DoesNotBuild,
    /// It does not apply to the sources as they are.
    DoesNotApply,
    /// The command fails without it.
    FailsAnyway,
    /// The command names no test.
    NoTest,
    /// The command names no test yet, and the bug says that it waits for one.
    Pending,
    /// The command does not end.
    Hangs,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Caught => "caught",
            Verdict::NotCaught => "NOT CAUGHT",
            Verdict::DoesNotBuild => "DOES NOT BUILD",
            Verdict::DoesNotApply => "DOES NOT APPLY",
            Verdict::FailsAnyway => "FAILS ANYWAY",
            Verdict::NoTest => "NO SUCH TEST",
            Verdict::Pending => "pending",
            Verdict::Hangs => "HANGS",
        }
    }

    /// Whether nothing has to be done about it.
    fn is_well(self) -> bool {
        matches!(self, Verdict::Caught | Verdict::Pending)
    }
}

/// A bug and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The bug.
    #[serde(flatten)]
    pub bug: Bug,
    /// What came of it.
    pub verdict: Verdict,
    /// Tests that failed with it.
    pub failed: Vec<String>,
    /// How long its build and its tests took.
    pub seconds: f64,
}

/// What came of all.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One for each bug.
    pub bugs: Vec<Outcome>,
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Outcome { bug, verdict, failed, seconds } in &self.bugs {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{:<14} {:<24} {} ({seconds:.0} s)", verdict.word(), bug.name, bug.breaks);
            let why = match (verdict, &bug.pending) {
                (Verdict::Caught, _) => format!("by {}", failed.join(", ")),
                (Verdict::Pending, Some(pending)) => format!("waits for {pending}"),
                _ => bug.command.join(" "),
            };
            let _ = writeln!(text, "{:<14} {why}", "");
        }
        text
    }

    /// What a command ends with.
    ///
    /// # Errors
    /// When a bug was not caught.
    pub fn verdict(&self) -> Result<()> {
        let ill: Vec<&str> =
            self.bugs.iter().filter(|bug| !bug.verdict.is_well()).map(|bug| &bug.bug.name[..]).collect();
        if ill.is_empty() {
            return Ok(());
        }
        Err(Problem::new(Code::Other, format!("not every bug is caught: {}", ill.join(", "))))
    }
}

/// Plants the bugs one after the other and runs what must catch them; `say` gets a line for each step.
///
/// # Errors
/// When a name is unknown, or git or cargo cannot be run.
pub async fn run(options: Options, say: fn(&str)) -> Result<Report> {
    let bugs = chosen(load(&options.root)?, &options.names)?;
    let tree = Tree::copy(&options.root, options.dir.as_deref())?;
    // Without any bug first: a test that fails anyway, or is not there, catches nothing.
    let mut without: BTreeMap<Vec<String>, Run> = BTreeMap::new();
    let mut outcomes = Vec::new();
    for bug in bugs {
        if !without.contains_key(&bug.command) {
            say(&format!("without bugs: {}", bug.command.join(" ")));
            without.insert(bug.command.clone(), tree.test(&bug.command).await?);
        }
        let began = Instant::now();
        let (verdict, failed) = match before(&without[&bug.command], &bug) {
            Some(verdict) => (verdict, Vec::new()),
            None => {
                say(&format!("{}: {}", bug.name, bug.command.join(" ")));
                planted(&tree, &bug).await?
            }
        };
        say(&format!("{}: {}", bug.name, verdict.word()));
        outcomes.push(Outcome { bug, verdict, failed, seconds: began.elapsed().as_secs_f64() });
    }
    Ok(Report { bugs: outcomes })
}

/// What is known of a bug from a run without it; None where it has to be planted.
fn before(without: &Run, bug: &Bug) -> Option<Verdict> {
    match without {
        Run::Succeeded { tests: 0 } if bug.pending.is_some() => Some(Verdict::Pending),
        Run::Succeeded { tests: 0 } => Some(Verdict::NoTest),
        Run::Succeeded { .. } => None,
        Run::Failed(_) | Run::DidNotBuild => Some(Verdict::FailsAnyway),
        Run::Hung => Some(Verdict::Hangs),
    }
}

async fn planted(tree: &Tree, bug: &Bug) -> Result<(Verdict, Vec<String>)> {
    if !tree.apply(bug)? {
        return Ok((Verdict::DoesNotApply, Vec::new()));
    }
    let run = tree.test(&bug.command).await;
    tree.restore(bug)?;
    Ok(match run? {
        Run::Succeeded { .. } => (Verdict::NotCaught, Vec::new()),
        Run::Failed(failed) => (Verdict::Caught, failed),
        Run::DidNotBuild => (Verdict::DoesNotBuild, Vec::new()),
        Run::Hung => (Verdict::Hangs, Vec::new()),
    })
}

fn chosen(bugs: Vec<Bug>, names: &[String]) -> Result<Vec<Bug>> {
    if let Some(unknown) = names.iter().find(|name| bugs.iter().all(|bug| bug.name != **name)) {
        return Err(Problem::new(Code::NotFound, format!("there is no bug {unknown}")).hint("p2p-testnet bugs --list"));
    }
    Ok(bugs.into_iter().filter(|bug| names.is_empty() || names.contains(&bug.name)).collect())
}

/// A list for people: what there is, what it breaks, what catches it.
pub fn list(bugs: &[Bug]) -> String {
    let mut text = String::new();
    for Bug { name, breaks, command, pending, .. } in bugs {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<24} {breaks}\n{:<24} {}", "", command.join(" "));
        if let Some(pending) = pending {
            let _ = writeln!(text, "{:<24} pending: waits for {pending}", "");
        }
    }
    text
}

/// Whether something that a command filters tests by stands somewhere in the sources.
#[cfg(test)]
fn is_named(root: &std::path::Path, filter: &str) -> Result<bool> {
    let last = filter.rsplit("::").find(|part| !part.is_empty()).unwrap_or(filter).to_owned();
    let sources = tree::files(root)?.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "rs"));
    let mut texts = sources.filter_map(|path| std::fs::read_to_string(root.join(path)).ok());
    Ok(texts.any(|text| text.lines().any(|line| is_defined(line, &last))))
}

#[cfg(test)]
fn is_defined(line: &str, name: &str) -> bool {
    let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
    let mut defining = false;
    words.any(|word| {
        let found = defining && word.contains(name);
        defining = matches!(word, "fn" | "mod");
        found
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn every_planted_bug_applies_to_the_sources_as_they_are() {
        let root = repository();
        let bugs = load(&root).expect("bugs");
        assert!(!bugs.is_empty());
        for bug in bugs {
            applies(&root, &bug).unwrap_or_else(|problem| panic!("{}: {problem}", bug.name));
        }
    }

    #[test]
    fn every_planted_bug_names_tests_that_there_are() {
        let root = repository();
        for bug in load(&root).expect("bugs") {
            let filters: Vec<&String> = bug
                .command
                .iter()
                .skip_while(|word| *word != "--")
                .skip(1)
                .filter(|word| !word.starts_with('-'))
                .collect();
            assert!(!filters.is_empty(), "{}: its command runs every test there is", bug.name);
            for filter in filters {
                let named = is_named(&root, filter).expect("readable sources");
                assert!(named || bug.pending.is_some(), "{}: there is no test {filter}", bug.name);
            }
        }
    }

    #[test]
    fn what_is_defined_is_told_from_what_is_mentioned() {
        assert!(is_defined("async fn a_test_of_this() {", "test_of"));
        assert!(is_defined("mod tests {", "tests"));
        assert!(!is_defined("// see fn", "tests") && !is_defined("use tests;", "tests"));
    }

    #[test]
    fn what_a_run_without_the_bug_says() {
        let bug = |pending: Option<&str>| Bug {
            name: "b".into(),
            breaks: "all".into(),
            command: vec!["cargo".into()],
            pending: pending.map(str::to_owned),
            patch: PathBuf::new(),
        };
        assert_eq!(before(&Run::Succeeded { tests: 1 }, &bug(None)), None);
        assert_eq!(before(&Run::Succeeded { tests: 1 }, &bug(Some("x"))), None, "it waits no longer");
        assert_eq!(before(&Run::Succeeded { tests: 0 }, &bug(None)), Some(Verdict::NoTest));
        assert_eq!(before(&Run::Succeeded { tests: 0 }, &bug(Some("x"))), Some(Verdict::Pending));
        assert_eq!(before(&Run::Failed(Vec::new()), &bug(None)), Some(Verdict::FailsAnyway));
    }
}
