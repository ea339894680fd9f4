//! A node that answers as a test says, and remembers what it was asked.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use assert_cmd::assert::Assert;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;
use futures::StreamExt;
use p2p_api::ByteRange;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;

/// BLAKE3 of nothing.
pub(crate) const ADDRESS: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

/// Longest a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// One request as the node saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) range: Option<ByteRange>,
    pub(crate) body: Bytes,
}

/// A folder that serves as home and as the place for files, and the node in it, if it runs.
pub(crate) struct World {
    dir: TempDir,
    runtime: Runtime,
    seen: Arc<Mutex<Vec<Seen>>>,
    arrivals: (mpsc::Sender<String>, mpsc::Receiver<String>),
}

impl World {
    /// A home without a running node.
    pub(crate) fn without_node() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
            runtime: runtime.expect("a runtime"),
            seen: Arc::default(),
            arrivals: mpsc::channel(),
        }
    }

    /// A home whose node answers like this.
    pub(crate) fn answering(answer: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> Self {
        let world = Self::without_node();
        world.start(answer);
        world
    }

    pub(crate) fn start(&self, answer: impl Fn(&Seen) -> Response + Send + Sync + 'static) {
        let _inside = self.runtime.enter();
        let listener = UnixListener::bind(self.path("api.sock")).expect("a socket");
        let (answer, log, arrivals) = (Arc::new(answer), self.seen.clone(), self.arrivals.0.clone());
        let router = Router::new().fallback(move |request: Request| {
            let (answer, log) = (answer.clone(), log.clone());
            // The test may be over already.
            let _ = arrivals.send(format!("{} {}", request.method(), request.uri().path()));
            async move {
                let seen = Seen::new(request).await;
                log.lock().expect("no test panics with it").push(seen.clone());
                answer(&seen)
            }
        });
        self.runtime.spawn(async { axum::serve(listener, router).await });
    }

    /// A socket that takes connections and never answers.
    pub(crate) fn hang(&self) -> std::os::unix::net::UnixListener {
        std::os::unix::net::UnixListener::bind(self.path("api.sock")).expect("a socket")
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).expect("a file can be written");
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("the file is there")
    }

    /// Names in the folder, the socket left out.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).expect("the folder is there");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name != "api.sock")
            .collect();
        names.sort();
        names
    }

    /// The binary, in the folder, without the options of whoever runs the tests.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-cli"));
        command.current_dir(self.dir.path()).env("P2P_HOME", self.dir.path()).env("NO_COLOR", "1");
        command.env_remove("P2P_SOCKET").env_remove("P2P_JOIN_FILE").stdin(Stdio::null());
        command
    }

    pub(crate) fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Assert {
        assert_cmd::Command::from_std(self.command()).args(args).timeout(PATIENCE).assert()
    }

    pub(crate) fn run_with_stdin<'a>(&self, args: impl IntoIterator<Item = &'a str>, stdin: &[u8]) -> Assert {
        assert_cmd::Command::from_std(self.command()).args(args).write_stdin(stdin).timeout(PATIENCE).assert()
    }

    pub(crate) fn spawn<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Child {
        let mut command = self.command();
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the binary starts")
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test panics with it").clone()
    }

    /// Waits until a request for this has arrived; its body may still be on its way.
    pub(crate) fn wait_for(&self, line: &str) {
        while self.arrivals.1.recv_timeout(PATIENCE).expect("the request comes") != line {}
    }

    /// The lines of the requests that have arrived whole.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

impl Seen {
    /// The first byte that was asked for.
    pub(crate) fn offset(&self) -> usize {
        self.part(usize::MAX).start
    }

    /// A header of the request.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The part of so many bytes that was asked for.
    fn part(&self, len: usize) -> Range<usize> {
        let part = self.range.unwrap_or(ByteRange::From(0)).within(len as u64).unwrap_or(0..0);
        part.start as usize..part.end as usize
    }

    async fn new(request: Request) -> Self {
        let (parts, body) = request.into_parts();
        let range = parts.headers.get("range").and_then(|value| value.to_str().ok());
        let range = range.and_then(|value| value.strip_prefix("bytes=")?.parse().ok());
        Self {
            line: format!("{} {}", parts.method, parts.uri),
            headers: parts.headers,
            range,
            // A request that breaks off leaves an empty body here, as the node leaves no content.
            body: axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default(),
        }
    }
}

pub(crate) fn answer(status: u16, document: &Value) -> Response {
    Response::builder().status(status).body(Body::from(document.to_string())).expect("a response")
}

pub(crate) fn problem(status: u16, code: &str) -> Response {
    answer(status, &json!({"code": code, "message": format!("it is {code}"), "hint": "try again"}))
}

/// The part of content that was asked for.
pub(crate) fn content(seen: &Seen, bytes: &[u8]) -> Response {
    content_until(seen, bytes, bytes.len())
}

/// Content that is announced to its end and breaks off before `until`.
pub(crate) fn content_until(seen: &Seen, bytes: &[u8], until: usize) -> Response {
    let part = seen.part(bytes.len());
    let sent = Bytes::copy_from_slice(&bytes[part.start..until.clamp(part.start, part.end)]);
    let complete = until >= part.end;
    let end = futures::stream::once(async move {
        // Lets the server flush first: it drops what it has not sent yet, the head too, when a body breaks off.
        tokio::task::yield_now().await;
        if complete { Ok(Bytes::new()) } else { Err(std::io::Error::other("broken off")) }
    });
    let body = futures::stream::once(async { Ok(sent) }).chain(end);
    respond(seen.range.map(|_| part), bytes.len(), Body::from_stream(body))
}

/// Content that is announced and of which nothing but the first bytes ever comes.
pub(crate) fn content_that_stalls(first: &'static [u8], len: usize) -> Response {
    let first = futures::stream::once(async move { Ok::<_, std::io::Error>(Bytes::from_static(first)) });
    respond(None, len, Body::from_stream(first.chain(futures::stream::pending())))
}

fn respond(part: Option<Range<usize>>, len: usize, body: Body) -> Response {
    let response = Response::builder();
    let response = match part {
        None => response.status(200).header("content-length", len),
        Some(Range { start, end }) => response
            .status(206)
            .header("content-length", end - start)
            .header("content-range", format!("bytes {start}-{}/{len}", end - 1)),
    };
    response.body(body).expect("a response")
}

/// Events of a watch that ends after them.
pub(crate) fn watched(events: &[Value]) -> Response {
    let said: String = events
        .iter()
        .map(|event| format!("id: {}\nevent: {}\ndata: {event}\n\n:\n\n", event["id"], event["kind"]))
        .collect();
    Response::builder().header("content-type", "text/event-stream").body(Body::from(said)).expect("a response")
}

/// Standard output of a finished command.
pub(crate) fn stdout(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).expect("text")
}

pub(crate) fn stderr(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).expect("text")
}

/// The result document of a finished command.
pub(crate) fn document(assert: &Assert) -> Value {
    serde_json::from_slice(&assert.get_output().stdout).expect("one JSON document on standard output")
}

/// The inside of the error document of a finished command.
pub(crate) fn error(assert: &Assert) -> Value {
    let error: Value =
        serde_json::from_slice(&assert.get_output().stderr).expect("one JSON document on standard error");
    error["error"].clone()
}
