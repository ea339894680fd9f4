//! `kv put` and `kv del`: what is written, what it takes the place of, and whether enough nodes have it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytes::Bytes;
use p2p_api::client::{KvReplaces, KvWriteOptions};
use p2p_api::types::KvWritten;
use p2p_api::{Code, Problem};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Context;
use crate::args::{self, TokenSource};

/// Longest value in bytes.
const VALUE_LEN_MAX: usize = 64 << 10;
/// Longest file that is read for a token, in bytes; most tokens have less than a hundred.
const TOKEN_FILE_LEN_MAX: u64 = 1 << 20;

pub(super) async fn put(context: &Context, args: &args::KvPut) -> Result<(), Problem> {
    let value = value(&args.value).await?;
    let replaces = match &args.token {
        Some(source) => KvReplaces::Read(token(source).await?),
        None if args.sibling => KvReplaces::Nothing,
        None if args.create => KvReplaces::Absent,
        None if args.force => KvReplaces::AllHeld,
        None => KvReplaces::Held,
    };
    let options = KvWriteOptions { replaces, acks: args.acks, timeout: context.timeout };
    let written = context.while_alive(context.client.kv_put(args.key.as_str(), value, &options)).await?;
    say(context, written)
}

pub(super) async fn del(context: &Context, args: &args::Del) -> Result<(), Problem> {
    let replaces = match &args.token {
        Some(source) => KvReplaces::Read(token(source).await?),
        None if args.force => KvReplaces::AllHeld,
        None => KvReplaces::Held,
    };
    let options = KvWriteOptions { replaces, acks: None, timeout: context.timeout };
    let written = context.while_alive(context.client.kv_del(args.key.as_str(), &options)).await?;
    say(context, written)
}

/// What fewer nodes have than asked for stands all the same, so its document does too.
fn say(context: &Context, written: KvWritten) -> Result<(), Problem> {
    context.output.document(&written)?;
    match written.problem {
        Some(problem) => Err(problem),
        None => Ok(()),
    }
}

/// The bytes that were given, or those of standard input.
async fn value(given: &OsStr) -> Result<Bytes, Problem> {
    let value = if given == "-" {
        read("standard input", tokio::io::stdin(), VALUE_LEN_MAX as u64 + 1).await?
    } else {
        given.as_bytes().to_vec()
    };
    if value.len() > VALUE_LEN_MAX {
        return Err(Problem::new(Code::Usage, format!("the value is longer than {VALUE_LEN_MAX} bytes"))
            .hint("Put it as a file with `p2p-cli put FILE`, and store its address here."));
    }
    Ok(value.into())
}

async fn token(source: &TokenSource) -> Result<String, Problem> {
    match source {
        TokenSource::Given(token) => checked(token.as_bytes(), "what was given"),
        TokenSource::File(file) => read_token(file).await,
    }
}

async fn read_token(file: &Path) -> Result<String, Problem> {
    let name = file.display().to_string();
    let opened = File::open(file).await.map_err(|error| cannot_read(&name, &error))?;
    checked(&read(&name, opened, TOKEN_FILE_LEN_MAX).await?, &name)
}

/// A token that could be one: only the node can tell.
fn checked(bytes: &[u8], name: &str) -> Result<String, Problem> {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Problem::new(
            Code::Usage,
            format!("{name} is no token: a token is one word of letters and digits"),
        )
        .hint("`p2p-cli --json kv get KEY` shows the token of what it reads."));
    }
    Ok(text.to_owned())
}

async fn read(name: &str, source: impl AsyncRead + Unpin, len_max: u64) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    source.take(len_max).read_to_end(&mut bytes).await.map_err(|error| cannot_read(name, &error))?;
    Ok(bytes)
}

fn cannot_read(name: &str, error: &std::io::Error) -> Problem {
    Problem::new(Code::Other, format!("cannot read {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_has_a_length() {
        let longest = "v".repeat(VALUE_LEN_MAX);
        assert_eq!(value(OsStr::new(&longest)).await, Ok(Bytes::from(longest.clone())));
        let problem = value(OsStr::new(&format!("v{longest}"))).await.expect_err("a byte too long");
        assert_eq!((problem.code, problem.message.as_str()), (Code::Usage, "the value is longer than 65536 bytes"));
    }

    #[tokio::test]
    async fn a_token_is_one_word() {
        assert_eq!(checked(b" abc234\n", "F"), Ok("abc234".to_owned()));
        for wrong in [&b""[..], b"\n", b"two words", b"a\xff", "\u{e4}".as_bytes()] {
            assert_eq!(checked(wrong, "F").map_err(|problem| problem.code), Err(Code::Usage));
        }
        let missing = token(&TokenSource::File("/nonexistent/token".into())).await;
        assert_eq!(missing.map_err(|problem| problem.code), Err(Code::Other));
    }
}
