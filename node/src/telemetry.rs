//! Logs of the process: on standard error, for people or as JSON, and what they show may be changed while it runs.
//!
//! Logging is the process's, not a node's: there is one place where it is set.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use p2p_api::types::{LogLevelRequest, LogLevelResult};
use p2p_api::{Code, Problem};
use tokio::task::AbortHandle;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::config::{LogFormat, Process};
use crate::error::StartError;

/// Longest filter in bytes.
const FILTER_LEN_MAX: usize = 1024;

/// Words that stand alone in a filter.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How the process logs, once it does.
static LOGS: OnceLock<Logs> = OnceLock::new();

struct Logs {
    /// The filter that the process was started with.
    configured: String,
    filter: reload::Handle<Targets, Registry>,
    /// What brings the configured filter back.
    back: Mutex<Option<AbortHandle>>,
}

/// Starts logging.
///
/// # Errors
/// When the filter makes no sense.
pub fn start(process: &Process) -> Result<(), StartError> {
    let filter = parse(&process.log).map_err(|reason| StartError::Config(format!("log: {reason}")))?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match process.log_format {
        LogFormat::Pretty => lines.with_ansi(colour).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    // It is there only if logging was started before, and that panics above.
    let _ = LOGS.set(Logs { configured: process.log.clone(), filter: handle, back: Mutex::new(None) });
    Ok(())
}

/// Logs by another filter from now on, for a while or until the process ends.
///
/// # Errors
/// When the filter makes no sense, or this process does not log by this module; nothing has changed then.
pub(crate) fn set(request: &LogLevelRequest) -> Result<LogLevelResult, Problem> {
    let filter = parse(&request.filter).map_err(|reason| {
        Problem::new(Code::Usage, reason)
            .hint("p2p-cli log-level debug, or for one part: p2p-cli log-level info,p2p_dht=debug")
    })?;
    let logs = LOGS.get().ok_or_else(|| Problem::new(Code::Other, "the logs of this process are not the node's"))?;
    let mut back = logs.back();
    if logs.filter.reload(filter).is_err() {
        return Err(Problem::new(Code::Other, "the logs of this process cannot be changed any more"));
    }
    if let Some(earlier) = back.take() {
        earlier.abort();
    }
    *back = request.for_ms.map(|ms| tokio::spawn(logs.go_back(Duration::from_millis(ms))).abort_handle());
    // Shown whatever the filter says, as far as it lets anything of this module through.
    tracing::warn!(filter = %request.filter, for_ms = request.for_ms, "logging by another filter");
    let (filter, configured) = (request.filter.clone(), logs.configured.clone());
    Ok(LogLevelResult { filter, for_ms: request.for_ms, configured })
}

impl Logs {
    /// Brings the configured filter back after a while.
    async fn go_back(&self, after: Duration) {
        tokio::time::sleep(after).await;
        // Whoever sets another filter holds this and then aborts: either that comes first, or it replaces this.
        let _back = self.back();
        if let Ok(filter) = parse(&self.configured) {
            // It fails only where nothing logs any more.
            let _ = self.filter.reload(filter);
        }
        tracing::info!(filter = %self.configured, "logging by the configured filter again");
    }

    fn back(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.back.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a filter. A word alone is a level: the library would take any other for a module, and a slip of the pen for
/// silence. Filters by spans and their fields would bring in an engine for regular expressions, 0.26 MB of text,
/// and there are no spans here.
fn parse(text: &str) -> Result<Targets, String> {
    if text.len() > FILTER_LEN_MAX {
        return Err(format!("a log filter has at most {FILTER_LEN_MAX} bytes"));
    }
    let words: Vec<&str> = text.split(',').map(str::trim).collect();
    for word in words.iter().filter(|word| !word.contains('=')) {
        if !LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level)) {
            let levels = LEVELS.join(", ");
            return Err(format!("{word:?} in the log filter is no level ({levels}); a module is written module=debug"));
        }
    }
    if text.contains(['[', ']', '{', '}']) {
        return Err(format!(
            "the log filter {text:?} names spans; it can be by modules only, as in info,p2p_dht=debug"
        ));
    }
    words.join(",").parse().map_err(|error| format!("the log filter {text:?} makes no sense: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_and_modules_with_levels() {
        for fine in
            ["info", "DEBUG", "off", "info,libp2p_kad=error", "warn, p2p_dht=debug", "info,p2p_gossip::wire=trace"]
        {
            parse(fine).expect(fine);
        }
        let long = "info,".repeat(1000);
        for wrong in
            ["", "inof", "p2p_dht", "info,", "p2p_dht=loud", "a=b=c", "info,p2p-dht", "info,[put{id=7}]=trace", &long]
        {
            let reason = parse(wrong).expect_err(wrong);
            assert!(reason.contains("filter"), "{wrong}: {reason}");
        }
    }
}
