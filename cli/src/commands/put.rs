//! `put`: stores a file or standard input.

use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;

use bytes::Bytes;
use futures::Stream;
use indicatif::ProgressBar;
use p2p_api::client::PutOptions;
use p2p_api::text::shell_word;
use p2p_api::{Code, Problem};
use tokio::sync::mpsc;

use super::Context;
use crate::args;

/// Bytes per read.
const READ_LEN: usize = 256 << 10;
/// Reads that wait to be sent; the reader stops when there are more.
const READS_AHEAD: usize = 4;

pub(super) async fn run(context: &Context, args: &args::Put) -> Result<(), Problem> {
    let source = Source::open(&args.file).await?;
    let (name, len) = (source.name.clone(), source.len);
    let bar = context.output.bar(len);
    let broken = Arc::new(OnceLock::new());
    let bytes = counted(read_ahead(source, broken.clone())?, bar.clone());
    let options =
        PutOptions { replicas: args.replicas, acks: args.acks, name: args.name.clone(), timeout: context.timeout };
    let result = context.while_alive(context.client.put(bytes, len, options)).await;
    bar.finish_and_clear();
    // The client sees no more than that the request broke off; the reason is on this side.
    if let Some(reason) = broken.get() {
        return Err(Problem::new(Code::Other, format!("cannot read {name}: {reason}")));
    }
    let stored = result?;
    context.output.result(&stored, &stored.address)?;
    match stored.problem {
        Some(problem) => Err(problem),
        None => {
            let named = stored.name.map(|name| format!(" as name/{name}")).unwrap_or_default();
            context.output.note(&format!("stored on {}/{}{named}", stored.copies, stored.replicas));
            Ok(())
        }
    }
}

/// What is to be stored.
struct Source {
    name: String,
    /// Bytes, where known before reading.
    len: Option<u64>,
    bytes: Box<dyn Read + Send>,
}

impl Source {
    async fn open(path: &Path) -> Result<Self, Problem> {
        if path == Path::new("-") {
            return Ok(Self { name: "standard input".to_owned(), len: None, bytes: Box::new(io::stdin()) });
        }
        let name = path.display().to_string();
        let cannot = |error: io::Error| Problem::new(Code::Other, format!("cannot open {name}: {error}"));
        // Not std's: opening a named pipe blocks until it has a writer.
        let file = tokio::fs::File::open(path).await.map_err(cannot)?;
        let found = file.metadata().await.map_err(cannot)?;
        if found.is_dir() {
            return Err(Problem::new(Code::Usage, format!("{name} is a directory, put stores single files"))
                .hint(format!("tar -cf - {} | p2p-cli put -", shell_word(path))));
        }
        // Files of /proc and the like say 0 and hold more, so 0 means unknown.
        let len = (found.is_file() && found.len() > 0).then_some(found.len());
        let file = file.into_std().await;
        let bytes: Box<dyn Read + Send> = match len {
            // A file that grows meanwhile is stored as it was when opened.
            Some(len) => Box::new(file.take(len)),
            None => Box::new(file),
        };
        Ok(Self { name, len, bytes })
    }
}

/// Reads on a thread of its own: neither the connection nor Ctrl-C waits for a slow disk or an idle pipe.
fn read_ahead(source: Source, broken: Arc<OnceLock<String>>) -> Result<mpsc::Receiver<io::Result<Bytes>>, Problem> {
    let (sender, receiver) = mpsc::channel(READS_AHEAD);
    let read = move || {
        if let Err(error) = read_all(source, &sender) {
            // First the reason, then the end of the request that makes somebody look for it.
            let _ = broken.set(error.to_string());
            let _ = sender.blocking_send(Err(error));
        }
    };
    thread::Builder::new()
        .name("read".to_owned())
        .spawn(read)
        .map_err(|error| Problem::new(Code::Other, format!("cannot start a thread: {error}")))?;
    Ok(receiver)
}

/// Sends everything, and stops early only when nobody listens any more.
fn read_all(mut source: Source, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut total = 0;
    loop {
        let mut buffer = vec![0; READ_LEN];
        let len = match source.bytes.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        buffer.truncate(len);
        total += len as u64;
        if sender.blocking_send(Ok(buffer.into())).is_err() {
            return Ok(());
        }
    }
    match source.len {
        Some(len) if total < len => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("it became shorter while it was read, {total} bytes instead of {len}"),
        )),
        _ => Ok(()),
    }
}

fn counted(mut reads: mpsc::Receiver<io::Result<Bytes>>, bar: ProgressBar) -> impl Stream<Item = io::Result<Bytes>> {
    futures::stream::poll_fn(move |cx| {
        reads.poll_recv(cx).map(|read| {
            if let Some(Ok(bytes)) = &read {
                bar.inc(bytes.len() as u64);
            }
            read
        })
    })
}
