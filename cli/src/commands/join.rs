//! `join`: into the cluster of a ticket, or to a member's address.

use std::path::{Path, PathBuf};

use p2p_api::{Code, Problem};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Context;
use crate::args;
use crate::output::Listing;

/// Longest file that is read for a ticket, in bytes; a ticket has a few hundred.
const JOIN_FILE_LEN_MAX: u64 = 64 << 10;

pub(super) async fn run(context: &Context, args: &args::Join) -> Result<(), Problem> {
    let target = target(args).await?;
    let joined = context.while_alive(context.client.join(&target, context.timeout)).await?;
    let text = Listing::default().line("peer", &joined.peer).line("cluster", &joined.cluster).text();
    context.output.result(&joined, &text)
}

async fn target(args: &args::Join) -> Result<String, Problem> {
    let from_env = || std::env::var_os("P2P_JOIN_FILE").filter(|value| !value.is_empty()).map(PathBuf::from);
    match args.target.as_deref() {
        Some("-") => read(Path::new("-")).await,
        Some(target) => Ok(target.to_owned()),
        None => match args.join_file.clone().or_else(from_env) {
            Some(file) => read(&file).await,
            None => Err(Problem::new(Code::Usage, "join needs a ticket or the address of a member")
                .hint("p2p-cli join --join-file FILE")),
        },
    }
}

/// What stands in a file or on standard input. Errors name the file, never what it holds.
async fn read(file: &Path) -> Result<String, Problem> {
    let (name, source): (String, Box<dyn AsyncRead + Unpin>) = if file == Path::new("-") {
        ("standard input".to_owned(), Box::new(tokio::io::stdin()))
    } else {
        let name = file.display().to_string();
        let opened = tokio::fs::File::open(file).await.map_err(|error| cannot_read(&name, &error))?;
        (name, Box::new(opened))
    };
    let mut text = String::new();
    source.take(JOIN_FILE_LEN_MAX).read_to_string(&mut text).await.map_err(|error| cannot_read(&name, &error))?;
    let mut words = text.split_whitespace();
    match (words.next(), words.next()) {
        (Some(target), None) => Ok(target.to_owned()),
        _ => Err(Problem::new(Code::Usage, format!("{name} does not hold exactly one ticket or address"))
            .hint("p2p-cli ticket prints one, on a node of the cluster to join")),
    }
}

fn cannot_read(name: &str, error: &std::io::Error) -> Problem {
    Problem::new(Code::Other, format!("cannot read {name}: {error}"))
}
