//! `log-level`: what the running node logs.

use std::time::Duration;

use p2p_api::Problem;
use p2p_api::types::LogLevelResult;

use super::Context;
use crate::args;

pub(super) async fn run(context: &Context, args: &args::LogLevel) -> Result<(), Problem> {
    let set = context.quick(context.client.set_log_level(&args.filter, args.for_time)).await?;
    context.output.result(&set, &text(&set))
}

fn text(set: &LogLevelResult) -> String {
    let LogLevelResult { filter, for_ms, configured } = set;
    match for_ms {
        Some(ms) => {
            let time = humantime::format_duration(Duration::from_millis(*ms));
            format!("logging {filter} for {time}, then {configured} again")
        }
        None => {
            format!("logging {filter} until the node is started again or told otherwise; configured is {configured}")
        }
    }
}
