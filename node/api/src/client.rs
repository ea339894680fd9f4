//! The client of the local API: HTTP/1.1 over the node's Unix socket, one connection per request.

mod connection;
mod kv;
mod watch;

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use self::connection::Connection;
pub use self::kv::{Kept, KvReplaces, KvWriteOptions};
pub use self::watch::Watch;
use crate::types::{
    Faults, JoinRequest, JoinResult, LogLevelRequest, LogLevelResult, MemberEvent, Members, PutResult, Stat, Status,
    Tags, TagsRequest, TicketResult,
};
use crate::{ByteRange, Code, Problem};

/// Longest JSON answer that is read, in bytes: all members of the largest cluster.
const ANSWER_LEN_MAX: usize = 32 << 20;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Talks to one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// What `put` asks for beyond the bytes. Unset means the node's own default.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Copies wanted.
    pub replicas: Option<u32>,
    /// Copies that must be durable before the call returns.
    pub acks: Option<u32>,
    /// What leads to it afterwards: its address becomes the value of the key `name/` followed by this.
    pub name: Option<String>,
    /// Longest wait without progress.
    pub timeout: Option<Duration>,
}

/// What `get` asks for beyond the address.
#[derive(Clone, Copy, Debug, Default)]
pub struct GetOptions {
    /// The part wanted; all without one.
    pub range: Option<ByteRange>,
    /// Leave nothing of what is fetched in the node's cache.
    pub no_cache: bool,
    /// Longest wait without progress.
    pub timeout: Option<Duration>,
}

/// Content on its way from the node.
pub struct Content {
    /// Where in the file it begins.
    pub start: u64,
    /// How many bytes come from there.
    pub len: u64,
    /// Bytes of the whole file.
    pub file_len: u64,
    body: Incoming,
}

impl Content {
    /// The next bytes, or None at the end.
    ///
    /// # Errors
    /// When the node broke off: asking again from the position reached tells why.
    pub async fn next(&mut self) -> Option<Result<Bytes, io::Error>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    Err(_trailers) => {}
                },
                Err(error) => return Some(Err(io::Error::other(error))),
            }
        }
    }
}

impl Client {
    /// A client of the node at this socket. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Stores the bytes of a stream. `len`, where known, lets the node notice a stream that ends early.
    ///
    /// # Errors
    /// The node's problem; a [`PutResult`] with `problem` set is not an error here.
    pub async fn put(
        &self,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        len: Option<u64>,
        options: PutOptions,
    ) -> Result<PutResult, Problem> {
        let mut query = Query::new("/v1/content");
        query.add("replicas", options.replicas);
        query.add("acks", options.acks);
        query.add("name", options.name.as_deref().map(escaped));
        query.add("timeout_ms", options.timeout.map(millis));
        let mut request = Request::builder().method(Method::POST).uri(query.0);
        if let Some(len) = len {
            request = request.header(CONTENT_LENGTH, len);
        }
        let body = BodyExt::boxed_unsync(StreamBody::new(bytes.map(|part| part.map(Frame::data))));
        self.call(request.body(body)).await
    }

    /// Starts to read content; returns once the node has found it.
    ///
    /// # Errors
    /// The node's problem.
    pub async fn get(&self, address: &str, options: GetOptions) -> Result<Content, Problem> {
        let mut query = Query::new(&format!("/v1/content/{address}"));
        query.add("cache", options.no_cache.then_some(false));
        query.add("timeout_ms", options.timeout.map(millis));
        let mut request = Request::builder().uri(query.0);
        if let Some(range) = options.range {
            request = request.header(RANGE, format!("bytes={range}"));
        }
        let response = self.send(request.body(empty())).await?;
        let Some((start, len, file_len)) = place(&response) else {
            return Err(Problem::new(Code::Other, "the node sent content without saying how much, or which part"));
        };
        Ok(Content { start, len, file_len, body: response.into_body() })
    }

    /// Size, copies and holders of content.
    ///
    /// # Errors
    /// The node's problem.
    pub async fn stat(&self, address: &str, timeout: Option<Duration>) -> Result<Stat, Problem> {
        let mut query = Query::new(&format!("/v1/content/{address}/stat"));
        query.add("timeout_ms", timeout.map(millis));
        self.call(Request::builder().uri(query.0).body(empty())).await
    }

    /// The node's state.
    ///
    /// # Errors
    /// The node's problem.
    pub async fn status(&self) -> Result<Status, Problem> {
        self.call(Request::builder().uri("/v1/status").body(empty())).await
    }

    /// A ticket that lets others join.
    ///
    /// # Errors
    /// The node's problem.
    pub async fn ticket(&self) -> Result<TicketResult, Problem> {
        self.call(Request::builder().uri("/v1/ticket").body(empty())).await
    }

    /// Joins a cluster by a ticket or a member's address.
    ///
    /// # Errors
    /// The node's problem.
    pub async fn join(&self, target: &str, timeout: Option<Duration>) -> Result<JoinResult, Problem> {
        let mut query = Query::new("/v1/join");
        query.add("timeout_ms", timeout.map(millis));
        let request = Request::builder().method(Method::POST).uri(query.0);
        self.call(json(request, &JoinRequest { target: target.to_owned() })).await
    }

    /// Waits in the node until it is ready and, where asked, knows `members` reachable members, itself included.
    ///
    /// # Errors
    /// The node's problem, `timed_out` after the timeout.
    pub async fn wait(&self, members: Option<u32>, timeout: Duration) -> Result<Status, Problem> {
        let mut query = Query::new("/v1/wait");
        query.add("members", members);
        query.add("timeout_ms", Some(millis(timeout)));
        self.call(Request::builder().uri(query.0).body(empty())).await
    }

    /// All members, as the node sees them.
    ///
    /// # Errors
    /// The node's problem.
    pub async fn members(&self) -> Result<Members, Problem> {
        self.call(Request::builder().uri("/v1/members").body(empty())).await
    }

    /// What happens to members, from now on or after an event.
    ///
    /// # Errors
    /// The node's problem, `usage` for an id that is none.
    pub async fn watch_members(&self, since: Option<&str>) -> Result<Watch<MemberEvent>, Problem> {
        let request = Request::builder().uri("/v1/members/watch");
        let request = match since {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        Ok(Watch::new(self.send(request.body(empty())).await?.into_body()))
    }

    /// Leaves the cluster; the node ends then.
    ///
    /// # Errors
    /// The node's problem.
    pub async fn leave(&self) -> Result<(), Problem> {
        self.call(Request::builder().method(Method::POST).uri("/v1/leave").body(empty())).await
    }

    /// Changes what members are told of the node; all that they are told then.
    ///
    /// # Errors
    /// The node's problem, `usage` for too much.
    pub async fn set_tags(&self, request: &TagsRequest) -> Result<Tags, Problem> {
        self.call(json(Request::builder().method(Method::POST).uri("/v1/tags"), request)).await
    }

    /// A copy of the replicated map as it is at this moment, for a file that `p2p-node restore` reads.
    ///
    /// # Errors
    /// The node's problem.
    pub async fn backup(&self) -> Result<Content, Problem> {
        let response = self.send(Request::builder().uri("/v1/backup").body(empty())).await?;
        let Some((start, len, file_len)) = place(&response) else {
            return Err(Problem::new(Code::Other, "the node sent a backup without saying how much it is"));
        };
        Ok(Content { start, len, file_len, body: response.into_body() })
    }

    /// Changes what the node logs, for a while or until it is started again.
    ///
    /// # Errors
    /// The node's problem, `usage` for a filter that makes no sense.
    pub async fn set_log_level(&self, filter: &str, time: Option<Duration>) -> Result<LogLevelResult, Problem> {
        let request = LogLevelRequest { filter: filter.to_owned(), for_ms: time.map(millis) };
        self.call(json(Request::builder().method(Method::PUT).uri("/v1/log-level"), &request)).await
    }

    /// What a node of a test network does wrong on request.
    ///
    /// # Errors
    /// The node's problem; a node of no test network has no such thing.
    pub async fn faults(&self) -> Result<Faults, Problem> {
        self.call(Request::builder().uri("/v1/faults").body(empty())).await
    }

    /// Sets everything that a node of a test network does wrong on request; returns what is now set.
    ///
    /// # Errors
    /// As [`Self::faults`]; nothing has changed then.
    pub async fn set_faults(&self, faults: &Faults) -> Result<Faults, Problem> {
        self.call(json(Request::builder().method(Method::PUT).uri("/v1/faults"), faults)).await
    }

    async fn call<T: DeserializeOwned>(&self, request: hyper::http::Result<Request<Body>>) -> Result<T, Problem> {
        read_document(self.send(request).await?).await
    }

    /// Sends a request over a connection of its own.
    async fn send(&self, request: hyper::http::Result<Request<Body>>) -> Result<Response<Incoming>, Problem> {
        self.send_over(&mut self.connect().await?, request).await
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Problem> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(Connection(stream))).await.map_err(|error| self.broken(&error))?;
        // Ends by itself once the sender is gone, and the response has been read or dropped.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Sends a request; anything but success comes back as the problem it carries.
    async fn send_over(
        &self,
        sender: &mut SendRequest<Body>,
        request: hyper::http::Result<Request<Body>>,
    ) -> Result<Response<Incoming>, Problem> {
        let request = request.map_err(|error| Problem::new(Code::Usage, error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = read_answer(response).await?;
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| unexpected(status)))
    }

    fn unreachable(&self, error: &io::Error) -> Problem {
        Problem::new(Code::Unreachable, format!("no node answers at {}: {error}", self.socket.display()))
    }

    fn broken(&self, error: &hyper::Error) -> Problem {
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Problem::new(Code::Unreachable, format!("the node at {} broke off: {cause}", self.socket.display()))
            .hint("It may have been stopped; look at its log.")
    }
}

/// Where the content of an answer begins, how long it is, and how long the whole file.
fn place(response: &Response<Incoming>) -> Option<(u64, u64, u64)> {
    let header = |name| response.headers().get(name)?.to_str().ok();
    let len: u64 = header(CONTENT_LENGTH)?.parse().ok()?;
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Some((0, len, len));
    }
    let (range, file_len) = header(CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let file_len = file_len.parse().ok()?;
    let part = range.parse::<ByteRange>().ok()?.within(file_len)?;
    (part.end - part.start == len).then_some((part.start, len, file_len))
}

async fn read_document<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, Problem> {
    let body = read_answer(response).await?;
    serde_json::from_slice(&body)
        .map_err(|error| Problem::new(Code::Other, format!("the node's answer cannot be read: {error}")))
}

async fn read_answer(response: Response<Incoming>) -> Result<Bytes, Problem> {
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_LEN_MAX);
    match body.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(Problem::new(Code::Unreachable, format!("the node broke off its answer: {error}"))),
    }
}

fn unexpected(status: StatusCode) -> Problem {
    let code = if status == StatusCode::NOT_FOUND { Code::UnsupportedVersion } else { Code::Other };
    Problem::new(code, format!("the node answered {status}")).hint("Are node and command line of the same version?")
}

fn empty() -> Body {
    Empty::new().map_err(never).boxed_unsync()
}

/// A request with a document as its body.
fn json(request: hyper::http::request::Builder, document: &impl Serialize) -> hyper::http::Result<Request<Body>> {
    let text = serde_json::to_vec(document).expect("documents of this API are plain data");
    let body = Full::new(Bytes::from(text)).map_err(never).boxed_unsync();
    request.header(CONTENT_TYPE, "application/json").body(body)
}

fn never(never: Infallible) -> io::Error {
    match never {}
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Text as a part of a path or a query (RFC 3986, section 2): what is not unreserved is escaped.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => escaped.push(char::from(byte)),
            // A segment of dots alone means something else in a path.
            b'.' if text.bytes().any(|byte| byte != b'.') => escaped.push('.'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// A path with a query of plain words, numbers and escaped text.
struct Query(String);

impl Query {
    fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    fn add(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            let joint = if self.0.contains('?') { '&' } else { '?' };
            self.0.push_str(&format!("{joint}{name}={value}"));
        }
    }
}
