//! One file per command, and what some share: [`name`]s for content, and the [`target`] of many bytes. Here what all share:
//! which node, and how long it may stay silent.

mod backup;
mod get;
mod join;
mod kv;
mod leave;
mod log_level;
mod members;
mod name;
mod put;
mod stat;
mod status;
mod tags;
mod target;
mod ticket;
mod wait;

use std::path::{Path, PathBuf};
use std::time::Duration;

use p2p_api::client::{Client, Watch};
use p2p_api::text::shell_word;
use p2p_api::{Code, Problem, home};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::args::{Args, Command, Global};
use crate::output::Output;

/// Longest wait for what a node answers from memory.
const QUICK_ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long work may go on before the node is asked whether it still lives, where the user set no timeout.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Least time a node gets to say that it lives, however short the user's timeout: it may just be busy.
const SIGN_OF_LIFE_MIN: Duration = Duration::from_secs(5);

/// What every command needs.
struct Context {
    client: Client,
    /// Home of the node, where known: for the hint that says how to start it.
    home: Option<PathBuf>,
    timeout: Option<Duration>,
    output: Output,
}

/// Runs one command.
pub(crate) async fn run(args: Args, output: Output) -> Result<(), Problem> {
    let context = Context::new(args.global, output)?;
    let result = match args.command {
        Command::Put(args) => put::run(&context, &args).await,
        Command::Get(args) => get::run(&context, &args).await,
        Command::Stat(args) => stat::run(&context, &args).await,
        Command::Kv(args) => kv::run(&context, &args).await,
        Command::Status(args) => status::run(&context, &args).await,
        Command::Ticket => ticket::run(&context).await,
        Command::Join(args) => join::run(&context, &args).await,
        Command::Members(args) => members::run(&context, &args).await,
        Command::Tags(args) => tags::run(&context, &args).await,
        Command::Leave(args) => leave::run(&context, &args).await,
        Command::LogLevel(args) => log_level::run(&context, &args).await,
        Command::Backup(args) => backup::run(&context, &args).await,
        Command::Wait(args) => wait::run(&context, &args).await,
    };
    match result {
        Err(problem) => Err(context.say_how_to_start(problem).await),
        Ok(()) => Ok(()),
    }
}

impl Context {
    fn new(global: Global, output: Output) -> Result<Self, Problem> {
        let (socket, home) = find_node(global.socket, global.home)?;
        Ok(Self { client: Client::new(socket), home, timeout: global.timeout, output })
    }

    /// Waits for an answer that the node gives from memory.
    async fn quick<T>(&self, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        let limit = self.timeout.unwrap_or(QUICK_ANSWER_MAX);
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(self.silent(limit)))
    }

    /// Waits for work that the node bounds by itself, as long as the node gives signs of life.
    ///
    /// Only the node knows whether it makes progress, so a limit here would cut work that goes on. But a node that
    /// hangs bounds nothing: it is asked for its status now and then, and given up when it fails to answer that.
    async fn while_alive<T>(&self, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        let pause = self.timeout.unwrap_or(SILENCE_MAX);
        let limit = pause.max(SIGN_OF_LIFE_MIN);
        let hangs = async {
            loop {
                tokio::time::sleep(pause).await;
                if tokio::time::timeout(limit, self.client.status()).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            result = work => result,
            () = hangs => Err(self.silent(limit)),
        }
    }

    /// One JSON line for each event, until the command is interrupted or its reader goes.
    async fn print_events<T: Serialize + DeserializeOwned>(&self, mut events: Watch<T>) -> Result<(), Problem> {
        while let Some(event) = events.next().await {
            if !self.output.line(&event?)? {
                break;
            }
        }
        Ok(())
    }

    fn silent(&self, limit: Duration) -> Problem {
        let socket = self.client.socket().display();
        let limit = humantime::format_duration(limit);
        Problem::new(Code::TimedOut, format!("the node at {socket} takes requests but gave no answer for {limit}"))
            .hint("It may be suspended or overloaded; look at its process and its log.")
    }

    /// Names the command that starts the node, if the reason is that none listens. The same code may also come from a
    /// running node, about somebody else.
    async fn say_how_to_start(&self, problem: Problem) -> Problem {
        let about_us = problem.code == Code::Unreachable && problem.hint.is_none();
        if !about_us || UnixStream::connect(self.client.socket()).await.is_ok() {
            return problem;
        }
        let home = self.home.as_deref().map_or_else(|| "DIR".to_owned(), shell_word);
        problem.hint(format!("p2p-node run --home {home}"))
    }
}

/// The socket to talk to, and the home behind it where that is known.
fn find_node(socket: Option<PathBuf>, home: Option<PathBuf>) -> Result<(PathBuf, Option<PathBuf>), Problem> {
    let from_env = || std::env::var_os("P2P_SOCKET").filter(|value| !value.is_empty()).map(PathBuf::from);
    // What is typed goes before what the environment says.
    let socket = socket.or_else(|| if home.is_none() { from_env() } else { None });
    if let Some(socket) = socket {
        let home = if socket.ends_with("api.sock") { socket.parent().map(Path::to_owned) } else { None };
        return Ok((socket, home.filter(|home| !home.as_os_str().is_empty())));
    }
    let Some(home) = home.or_else(home::default_home) else {
        return Err(Problem::new(Code::Usage, "no home is known: neither P2P_HOME nor HOME is set")
            .hint("Name the home of the node: --home DIR"));
    };
    let socket = home::socket_path(&home)
        .map_err(|error| Problem::new(Code::Other, format!("cannot find the socket of {}: {error}", home.display())))?;
    Ok((socket, Some(home)))
}
