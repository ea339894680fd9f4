//! `leave`: this node leaves the cluster, and ends.

use p2p_api::{Code, Problem};

use super::Context;
use crate::args;

pub(super) async fn run(context: &Context, args: &args::Leave) -> Result<(), Problem> {
    if !args.now {
        let message = "copies that this node holds are not brought elsewhere first: that is not built yet";
        return Err(Problem::new(Code::Usage, message)
            .hint("See with `p2p-cli stat ADDRESS` that others hold what matters, then: p2p-cli leave --now"));
    }
    context.quick(context.client.leave()).await?;
    context.output.note("left; the node ends");
    context.output.document(&serde_json::json!({ "left": true }))
}
