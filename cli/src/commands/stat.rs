//! `stat`: size, copies and holders of content.

use indicatif::BinaryBytes;
use p2p_api::Problem;
use p2p_api::types::Stat;

use super::{Context, name};
use crate::args;
use crate::output::Listing;

pub(super) async fn run(context: &Context, args: &args::Stat) -> Result<(), Problem> {
    let address = name::address_of(context, &args.content).await?;
    let stat = context.while_alive(context.client.stat(address.as_str(), context.timeout)).await?;
    context.output.result(&stat, &text(&stat))
}

fn text(stat: &Stat) -> String {
    Listing::default()
        .line("address", &stat.address)
        .line("cid", &stat.cid)
        .line("size", format!("{} bytes ({})", stat.size, BinaryBytes(stat.size)))
        .line("objects", stat.objects.to_string())
        .line("copies", format!("{}/{}", stat.copies_min, stat.replicas))
        .lines("holders", &stat.holders)
        .lines("silent", &stat.silent)
        .text()
}
