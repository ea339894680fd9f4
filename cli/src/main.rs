//! `p2p-cli`: the commands of a node, over its local API and nothing else.
//!
//! [`args`] says what can be asked, [`commands`] holds one file per command, [`output`] is the only place that prints.

mod args;
mod commands;
mod output;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use p2p_api::{Code, Problem};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::Args;
use crate::output::Output;

fn main() -> ExitCode {
    let raw: Vec<OsString> = std::env::args_os().collect();
    let output = Output::new(args::wants_json(&raw));
    let args = match Args::try_parse_from(&raw) {
        Ok(args) => args,
        Err(error) => return ExitCode::from(output.parser_says(&error)),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ExitCode::from(output.failure(&cannot_start(&error))),
    };
    let exit = runtime.block_on(run(args, output));
    // A read from standard input that is still blocked must not hold the process.
    runtime.shutdown_background();
    ExitCode::from(exit)
}

/// Runs the command to its end or to a signal. What a signal cuts short removes its partial file as it is dropped.
async fn run(args: Args, output: Output) -> u8 {
    let (mut interrupt, mut terminate) = match signals() {
        Ok(signals) => signals,
        Err(error) => return output.failure(&cannot_start(&error)),
    };
    tokio::select! {
        result = commands::run(args, output) => match result {
            Ok(()) => 0,
            Err(problem) => output.failure(&problem),
        },
        _ = interrupt.recv() => output.interrupted(SignalKind::interrupt()),
        _ = terminate.recv() => output.interrupted(SignalKind::terminate()),
    }
}

fn signals() -> io::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
}

fn cannot_start(error: &io::Error) -> Problem {
    Problem::new(Code::Other, format!("the system refused what p2p-cli needs to run: {error}"))
}
