//! Other programs, where they are installed: the same file, on the same disk, in the same rounds.
//!
//! What is not installed is named as skipped, and so is what does not work here, with what it said: the figures of others are
//! not ours to guess.

use std::path::{Path, PathBuf};

use p2p_api::{Code, Problem};
use tokio::process::Command;

use super::kubo::Kubo;
use super::{Bench, Source, mib_per_s};
use crate::Result;
use crate::bench::table::Unit;
use crate::programs::{is_installed, limit, run, serve};
use crate::state::failed;
use crate::workload::hash_file;

/// The programs that are there. One that fails once is left out of the rounds that follow.
#[derive(Default)]
pub(super) struct Others {
    cp: bool,
    sendme: bool,
    kubo: bool,
}

impl Others {
    /// Name of the row.
    pub(super) const SENDME_RECEIVE: &str = "sendme receive, relay off";

    /// Looks for them, and says which are missing.
    pub(super) fn find(bench: &mut Bench) -> Self {
        let mut there = |name: &str, how: &str| {
            let found = is_installed(name);
            if !found {
                bench.skip(format!("{name} is not installed ({how})"));
            }
            found
        };
        Self {
            cp: there("cp", "it comes with coreutils"),
            sendme: there("sendme", "cargo install sendme"),
            kubo: there("ipfs", "https://docs.ipfs.tech/install/command-line/"),
        }
    }

    /// Measures those that are there.
    pub(super) async fn measure(&mut self, bench: &mut Bench, source: &Source) -> Result<()> {
        if self.cp {
            copies(bench, source).await?;
        }
        let folder = bench.dir().join("others");
        let sendme = if self.sendme { Some(sendme(bench, source, &folder).await) } else { None };
        self.sendme &= is_well(bench, "sendme", sendme);
        let kubo = if self.kubo { Some(Kubo::measure(bench, source, &folder).await) } else { None };
        self.kubo &= is_well(bench, "ipfs", kubo);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|error| failed("a folder cannot be removed", &folder, &error))?;
        }
        Ok(())
    }
}

/// Whether a program that was run did what it should; says so if not.
fn is_well(bench: &mut Bench, name: &str, outcome: Option<Result<()>>) -> bool {
    match outcome {
        Some(Err(problem)) => {
            bench.skip(format!("{name} does not work here: {}", problem.message));
            false
        }
        Some(Ok(())) | None => true,
    }
}

/// What the system's own copy takes, as it is and until the copy is durable.
async fn copies(bench: &mut Bench, source: &Source) -> Result<()> {
    let to = bench.dir().join("copy");
    for (name, script) in [("cp", "cp \"$1\" \"$2\""), ("cp and sync", "cp \"$1\" \"$2\" && sync \"$2\"")] {
        bench.settle(source.len).await?;
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&source.path).arg(&to);
        let ran = run(command, limit(source.len)).await?;
        std::fs::remove_file(&to).map_err(|error| failed("a file cannot be removed", &to, &error))?;
        bench.add(name, Unit::MibPerS, mib_per_s(source.len, ran.seconds));
    }
    Ok(())
}

/// One process sends, another receives, both on this machine and without a relay.
async fn sendme(bench: &mut Bench, source: &Source, folder: &Path) -> Result<()> {
    let (from, to) = (make(folder.join("from"))?, make(folder.join("to"))?);
    let plain = ["--relay", "disabled", "--no-progress"];
    let mut send = Command::new("sendme");
    send.arg("send").arg(&source.path).args(["--ticket-type", "addresses"]).args(plain).current_dir(&from);
    let (_sender, ticket) = serve(send, |line| Some(line.trim().strip_prefix("sendme receive ")?.to_owned())).await?;
    bench.settle(source.len).await?;
    let mut receive = Command::new("sendme");
    receive.arg("receive").arg(ticket).args(plain).current_dir(&to);
    let ran = run(receive, limit(source.len)).await?;
    let name = source.path.file_name().unwrap_or_default();
    check(&to.join(name), source)?;
    bench.add(Others::SENDME_RECEIVE, Unit::MibPerS, mib_per_s(source.len, ran.seconds));
    Ok(())
}

/// Makes sure that the same bytes came back.
pub(super) fn check(path: &Path, source: &Source) -> Result<()> {
    let hash = tokio::task::block_in_place(|| hash_file(path))?;
    std::fs::remove_file(path).map_err(|error| failed("a file cannot be removed", path, &error))?;
    if hash == source.hash {
        return Ok(());
    }
    Err(Problem::new(Code::Integrity, format!("{} has other bytes than were sent", path.display())))
}

pub(super) fn make(path: PathBuf) -> Result<PathBuf> {
    match std::fs::create_dir_all(&path) {
        Ok(()) => Ok(path),
        Err(error) => Err(failed("a folder cannot be made", &path, &error)),
    }
}
