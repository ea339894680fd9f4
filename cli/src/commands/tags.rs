//! `tags`: what members are told of this node.

use p2p_api::Problem;
use p2p_api::types::TagsRequest;

use super::Context;
use crate::args;

pub(super) async fn run(context: &Context, args: &args::Tags) -> Result<(), Problem> {
    let request = TagsRequest { set: args.set.iter().cloned().collect(), delete: args.delete.clone() };
    let tags = context.quick(context.client.set_tags(&request)).await?;
    let lines: Vec<String> = tags.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    context.output.result(&tags, &lines.join("\n"))
}
