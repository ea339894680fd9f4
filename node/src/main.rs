//! `p2p-node`: prepares a home, or runs the node of one.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use p2p_api::types::{Prepared as PreparedHome, Ready};
use p2p_api::{Code, Problem};
use p2p_node::config::{Config, Process, Settings};
use p2p_node::{Node, Prepared, Restored, bench, notify, telemetry};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

/// Longest ready file in bytes.
const READY_LEN_MAX: u64 = 64 << 10;

/// A node of a peer-to-peer cluster.
///
/// Run one per machine; talk to it with p2p-cli.
#[derive(Parser)]
#[command(name = "p2p-node", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prepare a home without starting it, and print the ticket of its cluster
    ///
    /// Example: p2p-node init --home /srv/p2p --join-file ticket
    Init {
        #[command(flatten)]
        settings: Settings,
        /// Print a JSON document
        #[arg(long)]
        json: bool,
    },
    /// Run the node of a home, making the home where there is none
    ///
    /// Example: p2p-node run --home /srv/p2p
    Run {
        #[command(flatten)]
        settings: Settings,
        /// End when standard input does, as a child that must not outlive its parent
        #[arg(long, hide = true)]
        exit_with_stdin: bool,
        /// Let itself be hurt on request, in a home of a test network only
        #[arg(long, hide = true)]
        faults: bool,
    },
    /// Put a copy of the replicated map (`p2p-cli backup`) in place of the one of a home that does not run
    ///
    /// The home stays the same member of the same cluster. What was written since the copy was made comes back from other
    /// members; what was written nowhere else is gone. Content is not in the copy.
    ///
    /// Example: p2p-node restore --home /srv/p2p backup.db
    Restore {
        /// The copy
        file: PathBuf,
        /// Replace a map that is there; it is kept as state.db.before
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        settings: Settings,
        /// Print a JSON document
        #[arg(long)]
        json: bool,
    },
    /// Measure what this machine gives to stages of the work alone
    #[command(hide = true)]
    Bench {
        #[command(subcommand)]
        what: bench::What,
    },
}

fn main() -> ExitCode {
    let (result, json) = match Arguments::parse().command {
        Command::Init { settings, json } => (init(settings, json), json),
        Command::Run { settings, exit_with_stdin, faults } => (run(settings, exit_with_stdin, faults), false),
        Command::Restore { file, force, settings, json } => (restore(settings, &file, force, json), json),
        Command::Bench { what } => (bench::run(what), true),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            report(&problem, json);
            ExitCode::from(problem.code.exit())
        }
    }
}

fn init(settings: Settings, json: bool) -> Result<(), Problem> {
    let (config, _) = settings.resolve()?;
    let prepared = Prepared::new(&config)?;
    let ticket = prepared.ticket(&config).to_string();
    let line = if json {
        let document = PreparedHome { peer: prepared.peer.to_string(), home: config.home, ticket };
        serde_json::to_string(&document).map_err(|error| other(&error))?
    } else {
        ticket
    };
    print(&line)
}

fn print(line: &str) -> Result<(), Problem> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(other(&error)),
        _ => Ok(()),
    }
}

fn restore(settings: Settings, file: &Path, force: bool, json: bool) -> Result<(), Problem> {
    let (config, _) = settings.resolve()?;
    let Restored { keys, before } = p2p_node::restore(&config, file, force)?;
    let line = if json {
        serde_json::json!({ "keys": keys, "home": config.home, "before": before }).to_string()
    } else {
        let kept = before.map(|before| format!("; what was there before is {}", before.display())).unwrap_or_default();
        format!("{keys} keys{kept}")
    };
    print(&line)
}

fn run(settings: Settings, exit_with_stdin: bool, faults: bool) -> Result<(), Problem> {
    let (config, process) = settings.resolve()?;
    let mut config = config;
    config.faults = faults;
    telemetry::start(&process)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| other(&error))?;
    let ended = runtime.block_on(run_until_told(config, process, exit_with_stdin));
    // Threads that still read a closed standard input must not keep the process.
    runtime.shutdown_background();
    ended
}

async fn run_until_told(config: Config, process: Process, exit_with_stdin: bool) -> Result<(), Problem> {
    let mut terminated = signal(SignalKind::terminate()).map_err(|error| other(&error))?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(|error| other(&error))?;
    let home = config.home.clone();
    if let Some(path) = &process.ready_file {
        check_ready_file(path)?;
    }
    let node = Node::start(config).await?;
    let until_told = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
            () = end_of_stdin(), if exit_with_stdin => {}
        }
    };
    let announce = async {
        node.handle().until_ready().await;
        let announced = announce(&node, &home, process.ready_file.as_deref());
        match announced {
            Ok(()) => std::future::pending::<Problem>().await,
            Err(problem) => problem,
        }
    };
    let result = tokio::select! {
        () = until_told => Ok(()),
        problem = announce => Err(problem),
        ended = node.ended() => p2p_node::ending(&ended).map_or(Ok(()), Err),
    };
    notify::notify(notify::State::Stopping);
    node.stop().await;
    if let Some(path) = &process.ready_file
        && written_ready(path).is_some_and(|ready| ready.pid == std::process::id())
    {
        let _ = std::fs::remove_file(path);
    }
    result
}

/// Says that the node is ready: in the log, to the service manager, and in a file for whoever started it.
fn announce(node: &Node, home: &Path, ready_file: Option<&Path>) -> Result<(), Problem> {
    let handle = node.handle();
    let ready = Ready {
        pid: std::process::id(),
        peer: handle.peer().to_string(),
        home: std::path::absolute(home).map_err(|error| other(&error))?,
        socket: handle.socket().to_owned(),
        addresses: handle.addresses().iter().map(ToString::to_string).collect(),
    };
    tracing::info!(addresses = ?ready.addresses, socket = %ready.socket.display(), "ready");
    notify::notify(notify::State::Ready);
    let Some(path) = ready_file else { return Ok(()) };
    let temporary = path.with_extension("new");
    let text = serde_json::to_vec(&ready).map_err(|error| other(&error))?;
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|error| Problem::new(Code::Config, format!("cannot write the ready file {}: {error}", path.display())))
}

/// Refuses to replace anything but what an earlier start has left.
fn check_ready_file(path: &Path) -> Result<(), Problem> {
    if std::fs::symlink_metadata(path).is_err() || written_ready(path).is_some() {
        return Ok(());
    }
    let message = format!("the ready file {} exists, and is not one that a node wrote", path.display());
    Err(Problem::new(Code::Config, message).hint("Name a file that does not exist: --ready-file PATH"))
}

/// What a node wrote into a ready file; None if that is something else.
fn written_ready(path: &Path) -> Option<Ready> {
    let found = std::fs::symlink_metadata(path).ok()?;
    if !found.is_file() || found.len() > READY_LEN_MAX {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

async fn end_of_stdin() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 256];
    while stdin.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
}

fn report(problem: &Problem, json: bool) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "{}", p2p_api::text::problem(problem, json));
}

fn other(error: &dyn std::fmt::Display) -> Problem {
    Problem::new(Code::Other, error.to_string())
}
