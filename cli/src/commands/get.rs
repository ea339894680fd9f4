//! `get`: fetches content to standard output or to a file.

use p2p_api::client::GetOptions;
use p2p_api::{ByteRange, Code, Problem};
use serde::Serialize;

use super::target::{Failure, Readers, Sink, Target};
use super::{Context, name};
use crate::args;

/// What `get -o PATH --json` prints.
#[derive(Serialize)]
struct GetResult<'a> {
    address: &'a str,
    size: u64,
    path: String,
}

pub(super) async fn run(context: &Context, args: &args::Get) -> Result<(), Problem> {
    let (target, mut sink) = Target::open(&args.output, args.force, Readers::Umask).await?;
    let address = name::address_of(context, &args.content).await?;
    let address = address.as_str();
    let fetched = context.while_alive(async { Ok(fetch(context, address, args, &target, &mut sink).await) }).await?;
    let size = match fetched {
        Ok(size) => size,
        Err(failure) => return target.failed(failure).map_or(Ok(()), Err),
    };
    if target.is_stdout() {
        return Ok(());
    }
    let name = target.name();
    target.finish(sink).await?;
    context.output.note(&format!("{size} bytes in {name}"));
    context.output.document(&GetResult { address, size, path: name })
}

/// Brings all bytes to the sink. What breaks off is asked for again from the position reached: the answer is the rest,
/// or the reason why there is none. It ends because every further request must have brought something.
async fn fetch(
    context: &Context,
    address: &str,
    args: &args::Get,
    target: &Target,
    sink: &mut Sink,
) -> Result<u64, Failure> {
    let ask = |range| {
        let options = GetOptions { range, no_cache: args.no_cache, timeout: context.timeout };
        context.client.get(address, options)
    };
    let mut content = ask(args.range).await?;
    let (start, size) = (content.start, content.len);
    let bar = target.bar(context.output, size);
    let mut position = 0;
    let mut asked_again = false;
    loop {
        let arrived = sink.copy(content, &bar).await.map_err(Failure::Write)?;
        position += arrived;
        if position == size {
            return Ok(size);
        }
        if asked_again && arrived == 0 {
            let message = format!("the content broke off after {position} of {size} bytes, twice at the same place");
            return Err(Problem::new(Code::Other, message).hint("The log of the node may say why.").into());
        }
        asked_again = true;
        let from = start + position;
        content = ask(Some(match args.range {
            None => ByteRange::From(from),
            Some(_) => ByteRange::Between(from, start + size - 1),
        }))
        .await?;
        if (content.start, content.len) != (from, size - position) {
            let (len, at) = (content.len, content.start);
            let message =
                format!("the node offers {len} bytes from {at} on instead of {} from {from}", size - position);
            return Err(Problem::new(Code::Other, message)
                .hint("Are node and command line of the same version?")
                .into());
        }
    }
}
