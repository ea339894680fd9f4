//! A copy of the sources that bugs are planted in, and what cargo says about it.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::time::Duration;

use p2p_api::{Code, Problem};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::Bug;
use crate::Result;
use crate::state::failed;

/// Where the copy is built, in the folder that cargo was told to build in.
const OWN_TARGET: &str = "planted-bugs";

/// Longest build: everything, on a small machine.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// Longest run of the tests that a bug names.
const TEST_LIMIT: Duration = Duration::from_secs(900);

/// What came of a command that runs tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// So many tests, and none failed.
    Succeeded { tests: u64 },
    /// These failed.
    Failed(Vec<String>),
    /// There was nothing to run.
    DidNotBuild,
    /// No end in time.
    Hung,
}

/// The top of the repository that the current folder is in.
///
/// # Errors
/// When it is in none, or there is no git.
pub fn root() -> Result<PathBuf> {
    let text = git(Path::new("."), &["rev-parse", "--show-toplevel"])?;
    Ok(PathBuf::from(String::from_utf8_lossy(&text).trim_end()))
}

/// Whether a bug applies to the sources as they are.
///
/// # Errors
/// When it does not, or there is no git to try it with.
pub fn applies(root: &Path, bug: &Bug) -> Result<()> {
    apply(root, bug, &["--check"])
}

/// The files of a repository: what git knows, and what is new and not to be ignored.
///
/// # Errors
/// When there is no git, or no repository.
pub(super) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    use std::os::unix::ffi::OsStringExt;
    let listed = git(root, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    let names = listed.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsString::from_vec(name.to_vec()).into()).collect())
}

/// The copy.
pub(super) struct Tree {
    temp: TempDir,
    /// Where cargo builds: in a folder of its own. Cargo tells sources apart by their times and not by where they are, so what
    /// is built here from a bug would later be taken for what the sources of the same time make.
    target: PathBuf,
    /// Two runs in one folder would take each other's bugs for their own.
    _lock: File,
}

impl Tree {
    /// Copies the sources as they are, whether or not that is committed.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub(super) fn copy(root: &Path, dir: Option<&Path>) -> Result<Self> {
        let parent = dir.map_or_else(env::temp_dir, Path::to_owned);
        let temp = tempfile::Builder::new().prefix("p2p-bugs-").tempdir_in(&parent);
        let temp = temp.map_err(|error| failed("no folder for a copy", &parent, &error))?;
        let given = env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()).map(PathBuf::from);
        let (target, lock) = own_target(given.as_deref().unwrap_or(temp.path()))?;
        let tree = Self { temp, target, _lock: lock };
        for file in files(root)? {
            let (from, to) = (root.join(&file), tree.path().join(&file));
            // One that was removed and not yet committed.
            if !from.exists() {
                continue;
            }
            let parent = to.parent().unwrap_or(&to);
            let copied = fs::create_dir_all(parent).and_then(|()| fs::copy(&from, &to));
            copied.map_err(|error| failed("a file cannot be copied", &from, &error))?;
        }
        Ok(tree)
    }

    fn path(&self) -> PathBuf {
        self.temp.path().join("tree")
    }

    /// Plants a bug; false when it does not apply.
    pub(super) fn apply(&self, bug: &Bug) -> Result<bool> {
        match apply(&self.path(), bug, &[]) {
            Ok(()) => Ok(true),
            Err(problem) if problem.code == Code::Conflict => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    /// Takes a bug out again.
    pub(super) fn restore(&self, bug: &Bug) -> Result<()> {
        apply(&self.path(), bug, &["--reverse"])
    }

    /// Builds and runs a command.
    ///
    /// # Errors
    /// When cargo cannot be run.
    pub(super) async fn test(&self, command: &[String]) -> Result<Run> {
        let (args, filter) = command.split_at(command.iter().position(|word| word == "--").unwrap_or(command.len()));
        let build: Vec<&String> = args.iter().skip(1).collect();
        let no_run = "--no-run".to_owned();
        let built = self.cargo(build.iter().copied().chain([&no_run]), BUILD_LIMIT).await?;
        if built.is_none_or(|(success, _)| !success) {
            return Ok(Run::DidNotBuild);
        }
        // All of them: a run that stops at the first crate says nothing about the others.
        let rest = "--no-fail-fast".to_owned();
        let ran = self.cargo(build.iter().copied().chain([&rest]).chain(filter), TEST_LIMIT).await?;
        let Some((success, said)) = ran else { return Ok(Run::Hung) };
        Ok(match success {
            true => Run::Succeeded { tests: passed(&said) },
            false => Run::Failed(failures(&said)),
        })
    }

    /// Runs cargo in the copy; None when it does not end in time.
    async fn cargo(&self, args: impl IntoIterator<Item = &String>, limit: Duration) -> Result<Option<(bool, String)>> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let problem = |what: String| Problem::new(Code::Other, format!("cargo {what}"));
        let mut command = Command::new(cargo);
        command.args(args).current_dir(self.path()).env("CARGO_TARGET_DIR", &self.target);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().map_err(|error| problem(format!("cannot be run: {error}")))?;
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        let mut stdout = child.stdout.take().ok_or_else(|| problem("has no output".to_owned()))?;
        let run = async {
            let mut said = Vec::new();
            stdout.read_to_end(&mut said).await?;
            Ok::<_, io::Error>((child.wait().await?.success(), String::from_utf8_lossy(&said).into_owned()))
        };
        let Ok(ran) = tokio::time::timeout(limit, run).await else { return Ok(None) };
        // Its number may be somebody else's soon.
        group.0 = None;
        ran.map(Some).map_err(|error| problem(format!("is lost: {error}")))
    }
}

/// A folder to build in, below the one that is given, and the right to it.
fn own_target(given: &Path) -> Result<(PathBuf, File)> {
    let no_folder = |error: io::Error| failed("no folder to build in", given, &error);
    let target = std::path::absolute(given).map_err(no_folder)?.join(OWN_TARGET);
    fs::create_dir_all(&target).map_err(no_folder)?;
    let lock = File::create(target.join("lock")).map_err(no_folder)?;
    match lock.try_lock() {
        Ok(()) => Ok((target, lock)),
        Err(TryLockError::WouldBlock) => {
            let message = format!("bugs are being planted in {} already", target.display());
            Err(Problem::new(Code::Busy, message).hint("Wait for that to end, or set another CARGO_TARGET_DIR."))
        }
        Err(TryLockError::Error(error)) => Err(no_folder(error)),
    }
}

/// The processes of a command that has not ended: cargo, and the compilers and tests that it starts. They end with this.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Nobody may be left in it.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// How many tests passed, over all that a command ran.
fn passed(said: &str) -> u64 {
    let results = said.lines().filter_map(|line| line.strip_prefix("test result: ok. "));
    results.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum()
}

/// Names of the tests that failed; without any, what it ended with.
fn failures(said: &str) -> Vec<String> {
    let name = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
    let names: Vec<String> = said.lines().filter_map(name).collect();
    if names.is_empty() { vec!["a test that did not come to its end".to_owned()] } else { names }
}

/// `git apply`: `conflict` when the patch does not fit.
fn apply(root: &Path, bug: &Bug, args: &[&str]) -> Result<()> {
    let patch = std::path::absolute(&bug.patch).map_err(|error| failed("a bug cannot be read", &bug.patch, &error))?;
    let root = fs::canonicalize(root).map_err(|error| failed("the sources cannot be read", root, &error))?;
    let mut command = process::Command::new("git");
    // A copy may lie inside of another repository, whose paths are not meant.
    command.env("GIT_CEILING_DIRECTORIES", root.parent().unwrap_or(&root));
    command.current_dir(&root).arg("apply").args(args).arg(&patch);
    let output = command.stdin(Stdio::null()).output().map_err(|error| no_git(&error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Problem::new(Code::Conflict, format!("{} does not apply: {said}", bug.patch.display()))
        .hint("Make the same change in the sources as they are now, and write the patch anew: git diff -U2"))
}

fn git(dir: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let output = process::Command::new("git").current_dir(dir).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| no_git(&error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Problem::new(Code::Usage, format!("git {}: {said}", args.join(" "))).hint("Run it in the repository."))
}

fn no_git(error: &io::Error) -> Problem {
    Problem::new(Code::Other, format!("git cannot be run, and bugs are planted with it: {error}")).hint("Install git.")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "running 2 tests\ntest a::one ... ok\ntest a::two ... FAILED\n\nfailures:\n\n\
        test result: FAILED. 1 passed; 1 failed; 0 ignored\nrunning 3 tests\n\
        test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\n\
        test result: ok. 0 passed; 0 failed\n";

    #[test]
    fn what_passed_and_what_failed_is_read_from_what_was_said() {
        assert_eq!(passed(SAID), 3);
        assert_eq!(failures(SAID), ["a::two"]);
        assert_eq!(failures("").len(), 1);
    }

    #[test]
    fn a_bug_is_planted_in_a_copy_and_taken_out_again() {
        let (temp, away) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        git(temp.path(), &["init", "--quiet"]).expect("git is there");
        fs::write(temp.path().join("file"), "one\ntwo\nthree\n").expect("written");
        fs::write(temp.path().join(".gitignore"), "ignored\n").expect("written");
        fs::write(temp.path().join("ignored"), "").expect("written");
        let patch = away.path().join("bug.patch");
        let diff = "Breaks: two\n\n--- a/file\n+++ b/file\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";
        fs::write(&patch, diff).expect("written");
        let bug = Bug { name: "bug".into(), breaks: String::new(), command: Vec::new(), pending: None, patch };
        let tree = Tree::copy(temp.path(), None).expect("a copy");
        let read = |path: PathBuf| fs::read_to_string(path).expect("there");
        assert!(tree.apply(&bug).expect("git is there"));
        assert_eq!(read(tree.path().join("file")), "one\n2\nthree\n");
        assert!(!tree.apply(&bug).expect("git is there"), "twice is once too often");
        tree.restore(&bug).expect("it was planted");
        assert_eq!(read(tree.path().join("file")), "one\ntwo\nthree\n");
        assert_eq!(read(temp.path().join("file")), "one\ntwo\nthree\n");
        assert!(!tree.path().join("ignored").exists());
        assert!(applies(temp.path(), &bug).is_ok());
        fs::write(temp.path().join("file"), "one\nand a half\nthree\n").expect("written");
        assert_eq!(applies(temp.path(), &bug).expect_err("it was changed").code, Code::Conflict);
    }

    #[test]
    fn what_is_built_has_a_folder_of_its_own_and_one_user() {
        let temp = tempfile::tempdir().expect("a folder");
        let (target, lock) = own_target(temp.path()).expect("nobody is there");
        assert_ne!(target, temp.path());
        assert_eq!(own_target(temp.path()).expect_err("somebody is there").code, Code::Busy);
        drop(lock);
        own_target(temp.path()).expect("nobody is there any more");
    }

    #[tokio::test]
    async fn what_does_not_end_is_ended_with_all_it_started() {
        let temp = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        let pid = temp.path().join("pid");
        command.args(["-c", "sleep 600 & echo $! > pid; wait"]).current_dir(temp.path()).process_group(0);
        let mut child = command.spawn().expect("a shell is everywhere");
        let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
        let started = loop {
            let text = fs::read_to_string(&pid).unwrap_or_default();
            if let Ok(pid) = text.trim().parse() {
                break crate::process::ProcessId::of(pid).expect("it sleeps");
            }
            tokio::task::yield_now().await;
        };
        drop(group);
        child.wait().await.expect("our own child");
        assert!(started.reaches(crate::process::Condition::Exited, Duration::from_secs(10)).await);
    }
}
