//! The only place that prints: results on standard output, everything else on standard error.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::os::fd::AsFd;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use p2p_api::text::{self, plain};
use p2p_api::types::{ErrorBody, ErrorDocument};
use p2p_api::{Code, Problem};
use serde::Serialize;
use tokio::signal::unix::SignalKind;

use crate::args;

const BAR_KNOWN: &str = "{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
const BAR_UNKNOWN: &str = "{spinner} {binary_bytes}, {binary_bytes_per_sec}";

/// How to print: as text for people, or as JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints the result of a command. A reader that has gone away is no failure.
    pub(crate) fn result(self, document: &impl Serialize, text: &str) -> Result<(), Problem> {
        if self.json {
            self.line(document)?
        } else {
            self.text(text)?
        };
        Ok(())
    }

    /// Prints the result of a command whose text form is silence.
    pub(crate) fn document(self, document: &impl Serialize) -> Result<(), Problem> {
        if self.json { self.result(document, "") } else { Ok(()) }
    }

    /// Prints one JSON document of many; false once nobody reads them any more.
    pub(crate) fn line(self, document: &impl Serialize) -> Result<bool, Problem> {
        is_read(serde_json::to_string(document).map_err(io::Error::from).and_then(|json| print(&json)))
    }

    /// Prints some lines of many, without a document; false once nobody reads them any more.
    pub(crate) fn text(self, lines: &str) -> Result<bool, Problem> {
        is_read(print(lines))
    }

    /// Prints bytes as they are, and nothing behind them.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Problem> {
        let mut stdout = io::stdout().lock();
        is_read(stdout.write_all(bytes).and_then(|()| stdout.flush()))?;
        Ok(())
    }

    /// Says something beside the result. Silent with JSON: standard error then carries failures only.
    pub(crate) fn note(self, text: &str) {
        if !self.json {
            complain(&plain(text));
        }
    }

    /// Prints a failure and returns its exit code.
    pub(crate) fn failure(self, problem: &Problem) -> u8 {
        complain(&text::problem(problem, self.json));
        problem.code.exit()
    }

    /// Help and version where asked for, a failure otherwise. Returns the exit code.
    pub(crate) fn parser_says(self, error: &clap::Error) -> u8 {
        if !error.use_stderr() {
            // Nobody is left to tell when help cannot be printed.
            let _ = error.print();
            return 0;
        }
        let problem = args::usage(error);
        if self.json || error.kind() != clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return self.failure(&problem);
        }
        let _ = error.print();
        problem.code.exit()
    }

    /// Ends a command cut short by a signal: silent for people, who pressed the key. Returns the exit code.
    pub(crate) fn interrupted(self, signal: SignalKind) -> u8 {
        let exit = u8::try_from(128 + signal.as_raw_value()).unwrap_or(u8::MAX);
        if self.json {
            let error = ErrorBody { code: Code::Other, message: "interrupted".to_owned(), hint: None, exit };
            complain(&serde_json::to_string(&ErrorDocument { error }).unwrap_or_default());
        }
        exit
    }

    /// A bar on standard error when that is a terminal, and one that draws nothing otherwise. It goes when dropped.
    pub(crate) fn bar(self, len: Option<u64>) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let template = if len.is_some() { BAR_KNOWN } else { BAR_UNKNOWN };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::with_draw_target(len, ProgressDrawTarget::stderr())
            .with_style(style)
            .with_finish(ProgressFinish::AndClear)
    }
}

/// Whether standard output is a terminal, where content and a bar would mix.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Standard output for content: without the line buffer of `io::stdout`, which would search it for newlines.
pub(crate) fn stdout_for_content() -> io::Result<std::fs::File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// What to say when bytes cannot be written.
pub(crate) fn cannot_write(what: &str, error: &io::Error) -> Problem {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::Full,
        _ => Code::Other,
    };
    Problem::new(code, format!("cannot write {what}: {error}"))
}

/// Names with their values, aligned; a name has as many lines as it has values.
#[derive(Default)]
pub(crate) struct Listing(Vec<(&'static str, String)>);

impl Listing {
    #[must_use]
    pub(crate) fn line(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// One line per value, the name on the first only.
    #[must_use]
    pub(crate) fn lines<'a>(mut self, name: &'static str, values: impl IntoIterator<Item = &'a String>) -> Self {
        let mut name = name;
        for value in values {
            self.0.push((name, value.clone()));
            name = "";
        }
        self
    }

    pub(crate) fn text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (index, (name, value)) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            // Writing to a string cannot fail.
            let _ = write!(text, "{end}{name:width$}  {}", plain(value));
        }
        text
    }
}

fn print(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Whether somebody reads standard output, after something was printed there.
fn is_read(printed: io::Result<()>) -> Result<bool, Problem> {
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(cannot_write("standard output", &error)),
        Ok(()) => Ok(true),
    }
}

/// Nobody is left to tell when standard error is closed, so a failure here is none.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
