//! Running programs to their end and seeing what that took.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use p2p_api::bench::Measured;
use p2p_api::types::{ErrorDocument, PutResult};
use p2p_api::{Code, Problem};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::Result;
use crate::launch::{find_binary, find_node};
use crate::process::children_cpu_time;

/// Longest that a program may take, whatever it moves.
const PROGRAM_LIMIT: Duration = Duration::from_secs(120);

/// Longest wait for a program that serves to say that it does.
const SERVES_LIMIT: Duration = Duration::from_secs(60);

/// The slowest transfer that is waited for, in bytes per second.
const RATE_MIN: u64 = 2 << 20;

/// How much of what a program said is told when it fails, in characters.
const SAID_LEN: usize = 400;

/// How long a program may take that moves so many bytes.
pub(crate) fn limit(bytes: u64) -> Duration {
    PROGRAM_LIMIT + Duration::from_secs(bytes / RATE_MIN)
}

/// A program that has ended well.
pub(crate) struct Ran {
    /// What it printed.
    pub(crate) stdout: Vec<u8>,
    /// How long it took, its start included.
    pub(crate) seconds: f64,
    /// What it spent on all cores, with its own children. Of programs that ran at the same time it is the sum.
    pub(crate) cpu_seconds: f64,
}

/// Runs a program that has to succeed.
///
/// # Errors
/// When it cannot be run, fails, or is not done in time; it is ended then.
pub(crate) async fn run(command: Command, limit: Duration) -> Result<Ran> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let (started, cpu) = (Instant::now(), children_cpu_time());
    let Some(output) = end_of(command, limit).await? else {
        return Err(Problem::new(Code::TimedOut, format!("{name} is not done after {} s", limit.as_secs())));
    };
    let seconds = started.elapsed().as_secs_f64();
    if !output.status.success() {
        return Err(failure(&name, &output));
    }
    let cpu_seconds = children_cpu_time().saturating_sub(cpu).as_secs_f64();
    Ok(Ran { stdout: output.stdout, seconds, cpu_seconds })
}

/// Runs a program to its end, whatever that is; None when it does not end in time, and is ended then.
///
/// # Errors
/// When it cannot be run.
pub(crate) async fn end_of(mut command: Command, limit: Duration) -> Result<Option<Output>> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    match timeout(limit, command.output()).await {
        Err(_elapsed) => Ok(None),
        Ok(Ok(output)) => Ok(Some(output)),
        Ok(Err(error)) => Err(Problem::new(Code::Other, format!("{name} cannot be run: {error}"))),
    }
}

/// Starts a program that serves until it is dropped, and waits for the line that tells what is needed to use it.
///
/// # Errors
/// When it cannot be run, ends, or does not say so in time.
pub(crate) async fn serve(mut command: Command, wanted: fn(&str) -> Option<String>) -> Result<(Child, String)> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let problem = |what: &str| Problem::new(Code::Other, format!("{name} {what}"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| problem(&format!("cannot be run: {error}")))?;
    let stdout = child.stdout.take().ok_or_else(|| problem("has no output"))?;
    let mut lines = BufReader::new(stdout).lines();
    let told = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(told) = wanted(&line) {
                return Some(told);
            }
        }
        None
    };
    let told = timeout(SERVES_LIMIT, told).await.map_err(|_| problem("does not say that it serves"))?;
    let told = told.ok_or_else(|| problem("ended instead of serving"))?;
    // Nobody reads on: what it prints from now on must not hold it up, and a closed pipe must not end it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, told))
}

/// The error document that a program of this workspace ended with, if it did.
pub(crate) fn said_problem(stderr: &[u8]) -> Option<Problem> {
    let text = String::from_utf8_lossy(stderr);
    let ErrorDocument { error } = serde_json::from_str(text.lines().next_back()?).ok()?;
    Some(Problem { code: error.code, message: error.message, hint: error.hint })
}

/// The program's own problem where it said one, else the end of what it said.
fn failure(name: &str, output: &Output) -> Problem {
    if let Some(problem) = said_problem(&output.stderr) {
        return Problem { message: format!("{name}: {}", problem.message), ..problem };
    }
    let said: Vec<char> = String::from_utf8_lossy(&output.stderr).trim().chars().collect();
    let said: String = said[said.len().saturating_sub(SAID_LEN)..].iter().collect();
    Problem::new(Code::Other, format!("{name} ended with {}: {said}", output.status))
}

/// Whether a program is on the path.
pub(crate) fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// The programs of this workspace.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// p2p-node.
    pub(crate) node: PathBuf,
    /// p2p-cli.
    pub(crate) cli: PathBuf,
}

impl Programs {
    /// Those beside this one, unless another node is named.
    ///
    /// # Errors
    /// When they are not there.
    pub(crate) fn find(node: Option<PathBuf>) -> Result<Self> {
        let node = match node {
            Some(node) => node,
            None => find_node()?,
        };
        Ok(Self { node, cli: find_binary("p2p-cli")? })
    }

    /// Measures stages alone, on so many bytes: `p2p-node bench ARGS`.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) async fn stages(&self, args: &[&str], dir: Option<&Path>, size: u64) -> Result<Measured> {
        let size_arg = format!("{size}B");
        self.measure(&[args, &["--size", &size_arg]].concat(), dir, limit(size)).await
    }

    /// Measures what it is asked to: `p2p-node bench ARGS`.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) async fn measure(&self, args: &[&str], dir: Option<&Path>, limit: Duration) -> Result<Measured> {
        let mut command = Command::new(&self.node);
        command.arg("bench").args(args);
        if let Some(dir) = dir {
            command.arg("--dir").arg(dir);
        }
        let ran = run(command, limit).await?;
        serde_json::from_slice(&ran.stdout)
            .map_err(|error| Problem::new(Code::Other, format!("p2p-node bench printed no document: {error}")))
    }

    /// `p2p-cli --json ARGS` against the node of a home.
    pub(crate) fn cli(&self, home: &Path) -> Command {
        let mut command = Command::new(&self.cli);
        command.env_remove("P2P_SOCKET").env_remove("P2P_HOME").arg("--json").arg("--home").arg(home);
        command
    }

    /// Stores a file as a user does.
    ///
    /// # Errors
    /// When that fails, or fewer copies than asked for were acknowledged.
    pub(crate) async fn put(&self, home: &Path, file: &Path, size: u64) -> Result<(PutResult, Ran)> {
        let mut command = self.cli(home);
        command.arg("put").arg(file);
        let ran = run(command, limit(size)).await?;
        let result = serde_json::from_slice(&ran.stdout)
            .map_err(|error| Problem::new(Code::Other, format!("p2p-cli put printed no document: {error}")))?;
        Ok((result, ran))
    }

    /// Fetches content into a new file as a user does.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) async fn get(&self, home: &Path, address: &str, to: &Path, cache: bool, size: u64) -> Result<Ran> {
        run(self.get_command(home, address, to, cache), limit(size)).await
    }

    /// What [`Self::get`] runs.
    pub(crate) fn get_command(&self, home: &Path, address: &str, to: &Path, cache: bool) -> Command {
        let mut command = self.cli(home);
        command.arg("get").arg(address).arg("-o").arg(to);
        if !cache {
            command.arg("--no-cache");
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_program_is_seen_to_its_end() {
        let ran = run(shell("echo yes"), PROGRAM_LIMIT).await.expect("it succeeds");
        assert_eq!(ran.stdout, b"yes\n");
        assert!(ran.seconds > 0.0 && ran.cpu_seconds >= 0.0);
    }

    #[tokio::test]
    async fn a_failure_says_what_the_program_said() {
        let said = run(shell("echo no room >&2; exit 3"), PROGRAM_LIMIT).await.err().expect("it fails");
        assert!(said.message.contains("no room") && said.message.contains('3'), "{said}");
        let script =
            r#"echo '{"error":{"code":"full","message":"the store is full","hint":null,"exit":10}}' >&2; exit 10"#;
        let said = run(shell(script), PROGRAM_LIMIT).await.err().expect("it fails");
        assert_eq!(said.code, Code::Full);
    }

    #[tokio::test]
    async fn what_does_not_end_is_ended() {
        let problem = run(shell("exec sleep 600"), Duration::from_millis(50)).await.err().expect("it hangs");
        assert_eq!(problem.code, Code::TimedOut);
    }

    #[test]
    fn what_is_on_the_path_is_found() {
        assert!(is_installed("sh") && !is_installed("surely-nobody-has-this"));
    }

    #[tokio::test]
    async fn a_server_is_used_as_it_says_and_ends_when_dropped() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo starting; echo ticket 7; exec sleep 600"]);
        let wanted = |line: &str| line.strip_prefix("ticket ").map(str::to_owned);
        let (mut child, told) = serve(command, wanted).await.expect("it serves");
        assert_eq!(told, "7");
        assert!(child.try_wait().expect("our own child").is_none());
    }

    #[tokio::test]
    async fn a_server_that_ends_is_no_server() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo nothing"]);
        assert!(serve(command, |_| None).await.is_err());
    }
}
