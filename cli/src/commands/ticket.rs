//! `ticket`: a ticket that lets others join.

use p2p_api::Problem;

use super::Context;

pub(super) async fn run(context: &Context) -> Result<(), Problem> {
    let ticket = context.quick(context.client.ticket()).await?;
    context.output.result(&ticket, &ticket.ticket)?;
    context.output.note("A secret: whoever has it can join this cluster.");
    Ok(())
}
