//! `wait`: until the node is ready and enough members are reachable.

use std::time::{Duration, Instant};

use p2p_api::types::Status;
use p2p_api::{Code, Problem};

use super::Context;
use crate::args;

/// How long to wait in all, where the user set no timeout.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Pause between attempts to reach a node that is only starting.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How much later than its own limit a node may say that the time is over.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

pub(super) async fn run(context: &Context, args: &args::Wait) -> Result<(), Problem> {
    let status = until_ready(context, args.members).await?;
    let noun = if status.members.alive == 1 { "member" } else { "members" };
    context.output.result(&status, &format!("ready, {} {noun}", status.members.alive))
}

async fn until_ready(context: &Context, members: Option<u32>) -> Result<Status, Problem> {
    let limit = context.timeout.unwrap_or(WAIT_MAX);
    let started = Instant::now();
    loop {
        let left = limit.saturating_sub(started.elapsed());
        let answer = context.client.wait(members, left);
        let Ok(answer) = tokio::time::timeout(left.saturating_add(ANSWER_GRACE), answer).await else {
            return Err(context.silent(limit));
        };
        match answer {
            Err(problem) if is_starting(problem.code) && !left.is_zero() => {
                tokio::time::sleep(RETRY_PAUSE.min(left)).await;
            }
            Err(problem) if problem.code == Code::NotReady => {
                return Err(Problem { code: Code::TimedOut, ..problem });
            }
            answer => return answer,
        }
    }
}

/// A node that starts has no socket yet, or leaves that of its last run behind, or answers that it is not ready.
fn is_starting(code: Code) -> bool {
    matches!(code, Code::Unreachable | Code::NotReady)
}
