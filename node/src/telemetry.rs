//! Logs of the process: on standard error, for people or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Process};
use crate::error::StartError;

/// Starts logging.
///
/// # Errors
/// When the filter makes no sense.
pub fn start(process: &Process) -> Result<(), StartError> {
    let filter = EnvFilter::try_new(&process.log)
        .map_err(|error| StartError::Config(format!("the log filter {:?} makes no sense: {error}", process.log)))?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match process.log_format {
        LogFormat::Pretty => logs.with_ansi(colour).init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}
