//! `status`: the state of the node.

use indicatif::BinaryBytes;
use p2p_api::types::{Health, MemberCounts, Status};
use p2p_api::{Code, Problem};

use super::Context;
use crate::args;
use crate::output::Listing;

pub(super) async fn run(context: &Context, args: &args::Status) -> Result<(), Problem> {
    let status = context.quick(context.client.status()).await?;
    if !args.check {
        return context.output.result(&status, &text(&status));
    }
    context.output.result(&status, status.health.word())?;
    match status.health {
        Health::Ok => Ok(()),
        Health::Degraded | Health::Isolated => Err(trouble(&status)),
    }
}

/// Why the health is not ok, in one sentence.
fn trouble(status: &Status) -> Problem {
    let message = format!("the node is {}: {}", status.health.word(), status.reasons.join("; "));
    Problem::new(Code::Partial, message).hint("docs/operating.md says what to do about each.")
}

/// How many there are of each state; of those that there are none of, nothing but of the living.
fn members(MemberCounts { alive, suspect, down, left }: MemberCounts) -> String {
    let others = [(suspect, "suspect"), (down, "down"), (left, "left")];
    let others = others.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!(", {count} {word}"));
    format!("{alive} alive{}", others.collect::<String>())
}

fn text(status: &Status) -> String {
    let store =
        format!("{} objects, {} of {}", status.objects, BinaryBytes(status.bytes), BinaryBytes(status.storage_max));
    let keys = if status.kv_keys == 1 { "key" } else { "keys" };
    Listing::default()
        .line("peer", &status.peer)
        .line("name", &status.name)
        .line("cluster", &status.cluster)
        .line("version", &status.version)
        .line("health", status.health.word())
        .lines("", &status.reasons)
        .line("members", members(status.members))
        .lines("addresses", &status.addresses)
        .line("store", store)
        .line("kv", format!("{} {keys}, {}", status.kv_keys, status.kv.word()))
        .text()
}
