//! `status`: the state of the node.

use indicatif::BinaryBytes;
use p2p_api::Problem;
use p2p_api::types::Status;

use super::Context;
use crate::output::Listing;

pub(super) async fn run(context: &Context) -> Result<(), Problem> {
    let status = context.quick(context.client.status()).await?;
    context.output.result(&status, &text(&status))
}

fn text(status: &Status) -> String {
    let store =
        format!("{} objects, {} of {}", status.objects, BinaryBytes(status.bytes), BinaryBytes(status.storage_max));
    Listing::default()
        .line("peer", &status.peer)
        .line("name", &status.name)
        .line("cluster", &status.cluster)
        .line("version", &status.version)
        .line("health", status.health.word())
        .lines("", &status.reasons)
        .line("members", format!("{} alive", status.members.alive))
        .lines("addresses", &status.addresses)
        .line("store", store)
        .text()
}
