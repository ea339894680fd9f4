//! The hostile peer as a process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Longest wait until an attack has begun, and until it has ended.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(60);

/// An attack that goes on.
pub(crate) struct Attacker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    complaints: Vec<String>,
}

/// What there was to say about it.
pub(crate) struct Done {
    /// What the victim did that it must not do.
    pub(crate) complaints: Vec<String>,
    /// What was done how often.
    pub(crate) tally: String,
}

/// Complaints that are shown of one attack; the rest say the same.
const COMPLAINTS_MAX: usize = 5;

impl Attacker {
    /// Starts an attack, and returns once it has begun; one that gives way has what time nobody else wants.
    ///
    /// # Errors
    /// That it did not begin.
    pub(crate) async fn start(ticket_file: &Path, scenarios: &[&str], gives_way: bool) -> Result<Self, String> {
        let own = std::env::current_exe().expect("this program");
        let mut command = Command::new(own);
        command.arg("peer").arg("--ticket-file").arg(ticket_file).args(scenarios);
        if gives_way {
            command.arg("--gives-way");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("this program runs");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut attacker = Self { child, lines, complaints: Vec::new() };
        match tokio::time::timeout(BEGIN_TIME_MAX, attacker.line("begun")).await {
            Ok(Some(_)) => Ok(attacker),
            Ok(None) => Err("the attacker has ended before it began".into()),
            Err(_elapsed) => Err(format!("the attack did not begin within {BEGIN_TIME_MAX:?}")),
        }
    }

    /// Ends it, and waits until its process is gone.
    pub(crate) async fn stop(mut self) -> Done {
        drop(self.child.stdin.take());
        let done = tokio::time::timeout(BEGIN_TIME_MAX, self.line("done: ")).await;
        let tally = done.ok().flatten().unwrap_or_default();
        let _ = self.child.kill().await;
        self.complaints.truncate(COMPLAINTS_MAX);
        Done { complaints: self.complaints, tally }
    }

    /// The rest of the next line that begins so.
    async fn line(&mut self, beginning: &str) -> Option<String> {
        while let Some(line) = self.lines.next_line().await.ok()? {
            if let Some(rest) = line.strip_prefix(beginning) {
                return Some(rest.to_owned());
            }
            if let Some(complaint) = line.strip_prefix("complaint: ")
                && self.complaints.len() < 1000
            {
                self.complaints.push(complaint.to_owned());
            }
        }
        None
    }
}
