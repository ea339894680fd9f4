//! `backup`: the replicated map in a file.

use p2p_api::{Code, Problem};
use serde::Serialize;

use super::Context;
use super::target::{Failure, Readers, Sink, Target};
use crate::args;

/// What `backup FILE --json` prints.
#[derive(Serialize)]
struct BackupResult {
    path: String,
    size: u64,
}

pub(super) async fn run(context: &Context, args: &args::Backup) -> Result<(), Problem> {
    let (target, mut sink) = Target::open(&args.file, args.force, Readers::Owner).await?;
    let fetched = context.while_alive(async { Ok(fetch(context, &target, &mut sink).await) }).await?;
    let size = match fetched {
        Ok(size) => size,
        Err(failure) => return target.failed(failure).map_or(Ok(()), Err),
    };
    if target.is_stdout() {
        return Ok(());
    }
    let path = target.name();
    target.finish(sink).await?;
    context.output.note(&format!("{size} bytes in {path}"));
    context.output.document(&BackupResult { path, size })
}

/// Brings all bytes to the sink. What breaks off is not asked for again: the rest would be of another moment.
async fn fetch(context: &Context, target: &Target, sink: &mut Sink) -> Result<u64, Failure> {
    let backup = context.client.backup().await?;
    let size = backup.len;
    let bar = target.bar(context.output, size);
    let arrived = sink.copy(backup, &bar).await.map_err(Failure::Write)?;
    if arrived != size {
        let message = format!("the backup broke off after {arrived} of {size} bytes");
        return Err(Problem::new(Code::Other, message).hint("The log of the node may say why; try again.").into());
    }
    Ok(size)
}
