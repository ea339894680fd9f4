//! How one node is prepared, started and awaited. Decides nothing about the network.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use p2p_api::types::{ErrorDocument, Ready};
use p2p_api::{Code, Problem, home};
use serde::Deserialize;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::process::ProcessId;
use crate::state::failed;
use crate::{Result, faults};

/// Longest that `p2p-node init` may take.
const INIT_LIMIT: Duration = Duration::from_secs(30);

/// Time between two looks for the ready file.
const READY_PERIOD: Duration = Duration::from_millis(10);

/// How much of a log's end is read to say why a node ended, in bytes.
const LOG_TAIL_LEN: u64 = 4 << 10;

/// How many lines of it are shown.
const LOG_TAIL_LINES: usize = 8;

/// Finds an executable of this workspace: beside the running one, or one folder up from cargo's `deps`.
///
/// # Errors
/// When it is not there.
pub fn find_binary(name: &str) -> Result<PathBuf> {
    let missing = || {
        Problem::new(Code::Other, format!("{name} is not beside this executable"))
            .hint("cargo build --workspace, or name p2p-node in P2P_NODE_BIN")
    };
    let own = env::current_exe().map_err(|_| missing())?;
    let beside = own.parent().ok_or_else(missing)?;
    let above = beside.parent().filter(|_| beside.ends_with("deps"));
    let found = [Some(beside), above].into_iter().flatten().map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(missing)
}

/// The p2p-node to run: `P2P_NODE_BIN`, else the one beside this executable.
///
/// # Errors
/// When it is not there.
pub fn find_node() -> Result<PathBuf> {
    match env::var_os("P2P_NODE_BIN").filter(|value| !value.is_empty()).map(PathBuf::from) {
        None => find_binary("p2p-node"),
        Some(path) if path.is_file() => Ok(path),
        Some(path) => Err(Problem::new(Code::Other, format!("P2P_NODE_BIN names no file: {}", path.display()))
            .hint("Unset it to use the one beside p2p-testnet.")),
    }
}

/// Writes the configuration of a home, which is made where it is missing.
///
/// # Errors
/// When the home cannot be written.
pub fn write_config(home: &Path, index: u32, port: u16, more: &toml::Table) -> Result<()> {
    let mut config = toml::Table::new();
    config.insert("name".to_owned(), format!("node-{index}").into());
    config.insert("listen".to_owned(), vec![format!("/ip4/127.0.0.1/tcp/{port}")].into());
    config.extend(more.clone());
    let path = home.join("config.toml");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(home)
        .and_then(|()| fs::write(&path, config.to_string()))
        .map_err(|error| failed("a node's configuration cannot be written", &path, &error))
}

/// Starts nodes.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The p2p-node of node 0, of node 1, and so on, and again from the first.
    pub node_bins: Vec<PathBuf>,
    /// More arguments for every `p2p-node run`.
    pub extra_args: Vec<OsString>,
    /// Without the door by which nodes are hurt.
    pub plain: bool,
}

/// A node's process, as long as this one is responsible for it.
#[derive(Debug)]
pub struct Running {
    /// Who it is.
    pub id: ProcessId,
    home: PathBuf,
    log_start: u64,
    child: Child,
    /// Closing it ends a node that was started with `--exit-with-stdin`; so does the end of this process, however it
    /// comes. Apart from `child`, because waiting for that one would close it.
    _stdin: Option<ChildStdin>,
}

/// Why a node that was started is not ready. Either way it may be started again once it is ended.
#[derive(Debug)]
pub enum NotReady {
    /// It ended; what it said.
    Ended(Problem),
    /// It still runs; what it said.
    Late(Problem),
}

#[derive(Deserialize)]
struct Prepared {
    peer: String,
}

impl Launcher {
    /// Prepares a home without starting it: a new cluster, or the one of the ticket in `join_file`. Returns the peer id.
    ///
    /// # Errors
    /// When p2p-node cannot be run or refuses.
    pub async fn init(&self, home: &Path, join_file: Option<&Path>) -> Result<String> {
        let mut command = self.command("init", home);
        command.arg("--json").stdin(Stdio::null()).kill_on_drop(true);
        if let Some(file) = join_file {
            command.arg("--join-file").arg(file);
        }
        let output = match timeout(INIT_LIMIT, command.output()).await {
            Err(_) => return Err(Problem::new(Code::TimedOut, "p2p-node init does not come to its end")),
            Ok(output) => output.map_err(|error| self.not_executable(home, &error))?,
        };
        if !output.status.success() {
            return Err(init_failed(&String::from_utf8_lossy(&output.stderr), output.status));
        }
        let prepared: Prepared = serde_json::from_slice(&output.stdout)
            .map_err(|error| Problem::new(Code::Other, format!("p2p-node init printed no peer: {error}")))?;
        Ok(prepared.peer)
    }

    /// Starts a node on a prepared home. A held one ends with this process, another one outlives it.
    ///
    /// # Errors
    /// When p2p-node cannot be run.
    pub fn start(&self, home: &Path, held: bool) -> Result<Running> {
        let ready_file = ready_file(home);
        match fs::remove_file(&ready_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("an old ready file cannot be removed", &ready_file, &error));
            }
            _ => {}
        }
        // Also where an earlier p2p-testnet has made the home.
        faults::mark(home)?;
        let (log, log_start) = open_log(home)?;
        let mut command = self.command("run", home);
        if !self.plain {
            command.arg("--faults");
        }
        command.arg("--ready-file").arg(&ready_file).args(&self.extra_args);
        let stdin = if held { Stdio::piped() } else { Stdio::null() };
        if held {
            command.arg("--exit-with-stdin");
        }
        let stdout = log.try_clone().map_err(|error| failed("a node's log cannot be shared", home, &error))?;
        // Its own group, so that Ctrl-C in a terminal reaches only the command, which then ends the nodes in order.
        let child = command.process_group(0).stdin(stdin).stdout(stdout).stderr(log).spawn();
        let mut child = child.map_err(|error| self.not_executable(home, &error))?;
        let stdin = child.stdin.take();
        match child.id().and_then(ProcessId::of) {
            Some(id) => Ok(Running { id, home: home.to_owned(), log_start, child, _stdin: stdin }),
            None => {
                let _ = child.start_kill();
                Err(Problem::new(Code::Other, "a node that was started is not in /proc").hint("Is /proc mounted?"))
            }
        }
    }

    fn node_bin(&self, home: &Path) -> &Path {
        let number = home.file_name().and_then(|name| name.to_str()?.rsplit_once('-')?.1.parse::<usize>().ok());
        let turn = number.unwrap_or(0) % self.node_bins.len().max(1);
        self.node_bins.get(turn).map_or(Path::new("p2p-node"), PathBuf::as_path)
    }

    fn command(&self, verb: &str, home: &Path) -> Command {
        let mut command = Command::new(self.node_bin(home));
        // The user's own node may be configured through the environment, which would outrank the homes' files here.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("P2P_") && !text.starts_with("P2P_LOG") {
                command.env_remove(&name);
            }
        }
        command.arg(verb).arg("--home").arg(home);
        command
    }

    fn not_executable(&self, home: &Path, error: &io::Error) -> Problem {
        failed("p2p-node cannot be run", self.node_bin(home), error).hint("cargo build --workspace")
    }
}

impl Running {
    /// Waits until the node says that it is ready.
    ///
    /// # Errors
    /// When it ends, or the deadline passes.
    pub async fn ready(&mut self, deadline: Instant) -> std::result::Result<Ready, NotReady> {
        loop {
            if let Some(ready) = read_ready(&self.home).filter(|ready| ready.pid == self.id.pid) {
                return Ok(ready);
            }
            if let Some(status) = self.ended() {
                return Err(NotReady::Ended(self.blame(&format!("ended with {status}"), Code::Other)));
            }
            if Instant::now() >= deadline {
                return Err(NotReady::Late(self.blame("is not ready in time", Code::TimedOut)));
            }
            sleep(READY_PERIOD).await;
        }
    }

    /// How the node ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks the system to kill the node; does not wait.
    pub fn kill(&mut self) {
        let _ = self.child.start_kill();
    }

    fn blame(&self, what: &str, code: Code) -> Problem {
        let log = log_file(&self.home);
        let said = log_tail(&log, self.log_start);
        Problem::new(code, format!("the node in {} {what}. Its log ends with:\n{said}", self.home.display()))
            .hint(format!("less {}", log.display()))
    }
}

/// A client of the node in this home, whether or not it runs.
pub(crate) fn socket(home: &Path) -> PathBuf {
    // Fails only for a relative home in a deleted current directory, and homes here are absolute.
    home::socket_path(home).unwrap_or_else(|_| home.join("api.sock"))
}

fn ready_file(home: &Path) -> PathBuf {
    home.join("ready.json")
}

fn log_file(home: &Path) -> PathBuf {
    home.join("log")
}

fn read_ready(home: &Path) -> Option<Ready> {
    serde_json::from_slice(&fs::read(ready_file(home)).ok()?).ok()
}

/// The node's own problem, where its last line is one.
fn init_failed(stderr: &str, status: ExitStatus) -> Problem {
    let last = stderr.lines().next_back().unwrap_or_default();
    match serde_json::from_str::<ErrorDocument>(last) {
        Ok(ErrorDocument { error }) => Problem { code: error.code, message: error.message, hint: error.hint },
        Err(_) => Problem::new(Code::Other, format!("p2p-node init ended with {status}: {}", last_lines(stderr))),
    }
}

/// Opens the log to append to, and says where this start's part of it begins.
fn open_log(home: &Path) -> Result<(File, u64)> {
    let path = log_file(home);
    let open = || -> io::Result<(File, u64)> {
        let file = File::options().create(true).append(true).mode(0o600).open(&path)?;
        let len = file.metadata()?.len();
        Ok((file, len))
    };
    open().map_err(|error| failed("a node's log cannot be opened", &path, &error))
}

fn log_tail(path: &Path, start: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(len.saturating_sub(LOG_TAIL_LEN))))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_LEN).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    last_lines(&String::from_utf8_lossy(&read().unwrap_or_default()))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return "(nothing)".to_owned();
    }
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_this_starts_part_of_the_log_is_shown() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let path = temp.path().join("log");
        let old = "of an earlier start\n".repeat(5);
        let new: String = (0..1_000).map(|i| format!("line {i}\n")).collect();
        fs::write(&path, format!("{old}{new}")).expect("a writable folder");
        let tail = log_tail(&path, old.len() as u64);
        assert!(tail.ends_with("line 998\nline 999"), "{tail}");
        assert_eq!(tail.lines().count(), LOG_TAIL_LINES);
        assert_eq!(log_tail(&path, (old.len() + new.len()) as u64), "(nothing)");
        assert_eq!(log_tail(&temp.path().join("none"), 0), "(nothing)");
    }

    #[test]
    fn a_home_is_configured_with_its_port_and_what_a_test_adds() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let home = temp.path().join("node-3");
        let mut more = toml::Table::new();
        more.insert("storage_max".to_owned(), "1GiB".into());
        write_config(&home, 3, 17_500, &more).expect("a writable folder");
        let text = fs::read_to_string(home.join("config.toml")).expect("it was written");
        let read: toml::Table = text.parse().expect("valid TOML");
        assert_eq!(read["name"].as_str(), Some("node-3"));
        assert_eq!(read["listen"][0].as_str(), Some("/ip4/127.0.0.1/tcp/17500"));
        assert_eq!(read["storage_max"].as_str(), Some("1GiB"));
    }

    #[test]
    fn programs_take_turns_by_the_number_of_the_node() {
        let node_bins = vec!["/a".into(), "/b".into(), "/c".into()];
        let launcher = Launcher { node_bins, extra_args: Vec::new(), plain: false };
        for (home, program) in [("/net/node-0", "/a"), ("/net/node-2", "/c"), ("/net/node-4", "/b"), ("/copy", "/a")] {
            assert_eq!(launcher.node_bin(Path::new(home)), Path::new(program), "{home}");
        }
    }

    #[tokio::test]
    async fn a_node_that_ends_at_once_is_reported_with_what_it_said() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let launcher = Launcher { node_bins: vec!["/bin/ls".into()], extra_args: Vec::new(), plain: false };
        let mut running = launcher.start(temp.path(), true).expect("ls is everywhere");
        let deadline = Instant::now() + Duration::from_secs(10);
        let Err(NotReady::Ended(problem)) = running.ready(deadline).await else { panic!("ls is no node") };
        assert!(problem.message.contains("--home"), "{}", problem.message);
    }
}
