//! `get`: fetches content to standard output or to a file.

mod sink;
mod target;

use std::io;

use indicatif::ProgressBar;
use p2p_api::client::{Content, GetOptions};
use p2p_api::{ByteRange, Code, Problem};
use serde::Serialize;

use self::sink::Sink;
use self::target::Target;
use super::Context;
use crate::args;
use crate::output::{cannot_write, stdout_is_terminal};

/// What `get -o PATH --json` prints.
#[derive(Serialize)]
struct GetResult<'a> {
    address: &'a str,
    size: u64,
    path: String,
}

/// Why content did not arrive: no fault of the node's in the second case.
enum Failure {
    Node(Problem),
    Write(io::Error),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Node(problem)
    }
}

pub(super) async fn run(context: &Context, args: &args::Get) -> Result<(), Problem> {
    let (target, mut sink) = Target::open(&args.output, args.force).await?;
    let fetched = context.while_alive(async { Ok(fetch(context, args, &target, &mut sink).await) }).await?;
    let size = match fetched {
        Ok(size) => size,
        Err(Failure::Write(error)) if target.is_stdout() && error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        Err(Failure::Write(error)) => return Err(cannot_write(&target.name(), &error)),
        Err(Failure::Node(problem)) => return Err(problem),
    };
    if target.is_stdout() {
        return Ok(());
    }
    let name = target.name();
    target.finish(sink).await?;
    context.output.note(&format!("{size} bytes in {name}"));
    context.output.document(&GetResult { address: args.address.as_str(), size, path: name })
}

/// Brings all bytes to the sink. What breaks off is asked for again from the position reached: the answer is the rest,
/// or the reason why there is none. It ends because every further request must have brought something.
async fn fetch(context: &Context, args: &args::Get, target: &Target, sink: &mut Sink) -> Result<u64, Failure> {
    let ask = |range| {
        let options = GetOptions { range, no_cache: args.no_cache, timeout: context.timeout };
        context.client.get(args.address.as_str(), options)
    };
    let mut content = ask(args.range).await?;
    let (start, size) = (content.start, content.len);
    let bar = match target.is_stdout() && stdout_is_terminal() {
        true => ProgressBar::hidden(),
        false => context.output.bar(Some(size)),
    };
    let mut position = 0;
    let mut asked_again = false;
    loop {
        let arrived = copy(content, sink, &bar).await.map_err(Failure::Write)?;
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

/// Copies until the content ends or breaks off, and says how many bytes were written.
async fn copy(mut content: Content, sink: &mut Sink, bar: &ProgressBar) -> io::Result<u64> {
    let mut arrived = 0;
    while let Some(Ok(bytes)) = content.next().await {
        sink.write(&bytes).await?;
        arrived += bytes.len() as u64;
        bar.inc(bytes.len() as u64);
    }
    // The file writes behind: only now is it known whether all was taken.
    sink.flush().await?;
    Ok(arrived)
}
