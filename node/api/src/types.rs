//! The JSON documents of the local API. More fields may come; those here stay.

mod kv;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Code;

pub use kv::{
    CONTEXT_HEADER, KEYS_AT_ONCE_MAX, KvEncoding, KvEntry, KvEvent, KvEventKind, KvKey, KvKeys, KvSibling, KvWritten,
};

/// An error as the API sends it (`application/problem+json`) and as people read it: what failed, and what to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What kind of failure.
    pub code: Code,
    /// What failed and the likely cause, in one or two sentences.
    pub message: String,
    /// The next thing to try, often a command.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same problem with the next thing to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// An error on standard error under `--json`: `{"error": {...}}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorDocument {
    /// The error.
    pub error: ErrorBody,
}

/// The inside of an [`ErrorDocument`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What kind of failure.
    pub code: Code,
    /// What failed and the likely cause.
    pub message: String,
    /// The next thing to try.
    pub hint: Option<String>,
    /// The exit code of the process that printed this.
    pub exit: u8,
}

impl From<&Problem> for ErrorDocument {
    fn from(problem: &Problem) -> Self {
        Self {
            error: ErrorBody {
                code: problem.code,
                message: problem.message.clone(),
                hint: problem.hint.clone(),
                exit: problem.code.exit(),
            },
        }
    }
}

/// Result of `POST /v1/content`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutResult {
    /// BLAKE3 of the bytes, 64 hex digits.
    pub address: String,
    /// Bytes.
    pub size: u64,
    /// Copies that are durable and bound, the least of any part.
    pub copies: u32,
    /// Copies wanted.
    pub replicas: u32,
    /// The name that leads to it now, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Set when fewer copies than asked for were acknowledged in time; the node goes on trying.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<Problem>,
}

/// Result of `GET /v1/content/{address}/stat`, counted by asking the holders at that moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stat {
    /// BLAKE3 of the bytes, 64 hex digits.
    pub address: String,
    /// The same address as a CIDv1 (codec `raw`, hash `blake3`).
    pub cid: String,
    /// Bytes.
    pub size: u64,
    /// Leaves and indexes.
    pub objects: u64,
    /// Copies wanted.
    pub replicas: u32,
    /// The least number of durable, bound copies of any part.
    pub copies_min: u32,
    /// Peers that hold at least one part.
    pub holders: Vec<String>,
    /// Peers that did not answer: the copies they may have are not counted.
    pub silent: Vec<String>,
}

/// Result of `GET /v1/status`. A part that is not built is absent, not zero.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// This node's peer id.
    pub peer: String,
    /// Its name, for people.
    pub name: String,
    /// The cluster's id, 32 hex digits.
    pub cluster: String,
    /// Version of the node.
    pub version: String,
    /// Whether the node can do its work.
    pub health: Health,
    /// Why it is not `ok`, one sentence each.
    pub reasons: Vec<String>,
    /// How many members are in which state.
    pub members: MemberCounts,
    /// Where others reach this node, as multiaddresses ending in `/p2p/PEER`.
    pub addresses: Vec<String>,
    /// Objects in the store.
    pub objects: u64,
    /// Bytes of those objects.
    pub bytes: u64,
    /// The most bytes the store takes.
    pub storage_max: u64,
    /// Keys of the replicated map.
    pub kv_keys: u64,
    /// What it is doing.
    pub kv: KvState,
}

/// What the replicated map of a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvState {
    /// It holds what its neighbours hold, as far as they have said.
    Ok,
    /// It is fetching what it lacks.
    CatchingUp,
    /// It has lost something on its disk, was built again of what is left, and is fetching the rest.
    Recovering,
    /// It has never held all that others hold, and answers nothing until it does.
    Joining,
}

impl KvState {
    /// The word used in JSON.
    pub fn word(self) -> &'static str {
        match self {
            KvState::Ok => "ok",
            KvState::CatchingUp => "catching_up",
            KvState::Recovering => "recovering",
            KvState::Joining => "joining",
        }
    }
}

/// Whether a node can do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Everything works.
    Ok,
    /// Something needs attention.
    Degraded,
    /// Members are known, and none can be reached.
    Isolated,
}

impl Health {
    /// The word used in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Health::Ok => "ok",
            Health::Degraded => "degraded",
            Health::Isolated => "isolated",
        }
    }
}

/// Members by state, this node included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberCounts {
    /// Here.
    pub alive: u32,
    /// Here as far as others know, and this node doubts it.
    #[serde(default)]
    pub suspect: u32,
    /// Down, as far as it is remembered.
    #[serde(default)]
    pub down: u32,
    /// Gone by their own will, as far as it is remembered.
    #[serde(default)]
    pub left: u32,
}

/// What a member is in the view of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Here.
    Alive,
    /// Here as far as others know, and this node doubts it.
    Suspect,
    /// Down.
    Down,
    /// Gone by its own will.
    Left,
}

impl MemberState {
    /// The word used in JSON.
    pub fn word(self) -> &'static str {
        match self {
            MemberState::Alive => "alive",
            MemberState::Suspect => "suspect",
            MemberState::Down => "down",
            MemberState::Left => "left",
        }
    }
}

/// Result of `GET /v1/members`, this node included.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Members {
    /// All that are known, by peer id.
    pub members: Vec<Member>,
}

/// One member, as a node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Peer id.
    pub peer: String,
    /// Its name, for people.
    pub name: String,
    /// What it is.
    pub state: MemberState,
    /// Since when, as this node has seen it: RFC 3339, UTC.
    pub since: String,
    /// How long its answers take, in milliseconds; absent where this node asks it nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rtt_ms: Option<f64>,
    /// Where it says it can be reached.
    pub addresses: Vec<String>,
    /// What its owner says of it.
    pub tags: BTreeMap<String, String>,
    /// How full it is, in sixteenths of what it may store.
    pub fill: u8,
    /// How often it has started.
    pub generation: u64,
    /// How often it has had to say something new of itself since.
    pub incarnation: u32,
}

/// What has happened to a member, in the view of a node: one event of `GET /v1/members/watch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEvent {
    /// Events after it can be asked for by this.
    pub id: String,
    /// When this node has seen it: RFC 3339, UTC, to the millisecond.
    pub at: String,
    /// What it was.
    pub kind: MemberEventKind,
    /// Of whom; this node where it is about itself.
    pub peer: String,
    /// The name of that member, for people.
    pub name: String,
    /// What the member is now.
    pub state: MemberState,
    /// Which of its starts.
    pub generation: u64,
    /// Which of its records since.
    pub incarnation: u32,
    /// Of a member that is down: who says so, and why.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub accusers: Vec<Accuser>,
}

/// Who has said that a member is down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accuser {
    /// Peer id.
    pub peer: String,
    /// Why: `gone`, `silent`, `long_silent`, `unreliable`, `unmet` or `long_unmet`.
    pub cause: String,
}

/// What can happen to members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberEventKind {
    /// Somebody new is here.
    Join,
    /// Somebody who was down or had left is here again, or has started anew.
    Return,
    /// A member says something else of itself.
    Update,
    /// A member has denied that it is down.
    Refute,
    /// This node doubts that a member is here.
    Suspect,
    /// It does not any more.
    Trust,
    /// A member is down.
    Down,
    /// A member has left.
    Leave,
    /// This node hears nobody any more: it is most likely cut off itself.
    Isolated,
    /// It hears others again.
    Connected,
    /// Others took this node for down, which it has denied.
    Refuted,
    /// This node was put out for answering too late too often, and stays away for a while.
    PutOut,
    /// Events before the next are not kept any more: ask for all members again.
    Gap,
}

impl MemberEventKind {
    /// The word used in JSON.
    pub fn word(self) -> &'static str {
        match self {
            MemberEventKind::Join => "join",
            MemberEventKind::Return => "return",
            MemberEventKind::Update => "update",
            MemberEventKind::Refute => "refute",
            MemberEventKind::Suspect => "suspect",
            MemberEventKind::Trust => "trust",
            MemberEventKind::Down => "down",
            MemberEventKind::Leave => "leave",
            MemberEventKind::Isolated => "isolated",
            MemberEventKind::Connected => "connected",
            MemberEventKind::Refuted => "refuted",
            MemberEventKind::PutOut => "put_out",
            MemberEventKind::Gap => "gap",
        }
    }
}

/// Body of `POST /v1/tags`: what is set, and then what is taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TagsRequest {
    /// Tags by key.
    pub set: BTreeMap<String, String>,
    /// Keys.
    pub delete: Vec<String>,
}

/// Result of `POST /v1/tags`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// What others are told from now on, until the node starts again.
    pub tags: BTreeMap<String, String>,
}

/// Result of `GET /v1/ticket`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TicketResult {
    /// The ticket: a secret, because it holds the cluster key.
    pub ticket: String,
}

/// Body of `POST /v1/join`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// A ticket, or a multiaddress of a member.
    pub target: String,
}

/// Result of `POST /v1/join`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinResult {
    /// The member that answered.
    pub peer: String,
    /// The cluster this node is in now.
    pub cluster: String,
}

/// Body of `PUT /v1/log-level`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLevelRequest {
    /// What to log, such as `debug` or `info,p2p_dht=debug`.
    pub filter: String,
    /// How long, in milliseconds; without it until the node is started again.
    #[serde(default)]
    pub for_ms: Option<u64>,
}

/// Result of `PUT /v1/log-level`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevelResult {
    /// What is logged now.
    pub filter: String,
    /// How long, in milliseconds; null for until the node is started again.
    pub for_ms: Option<u64>,
    /// What is logged afterwards.
    pub configured: String,
}

/// What a node of a test network does wrong on request: body of `PUT` and result of `GET` on `/v1/faults`. The default is
/// a node without a fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Peers to and from which nothing comes through, as if the cable were cut.
    pub blocked: Vec<String>,
    /// Most bytes a second that the node sends to all peers together.
    pub rate: Option<u64>,
    /// Every object that it serves has a wrong byte.
    pub corrupt: bool,
    /// It takes requests for objects and never answers.
    pub stall: bool,
    /// It looks for the holders of content by Kademlia alone, as if it knew no members.
    pub hide_view: bool,
}

/// What `p2p-node init --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prepared {
    /// Peer id.
    pub peer: String,
    /// The home folder.
    pub home: PathBuf,
    /// A ticket of its cluster: a secret.
    pub ticket: String,
}

/// What `--ready-file` holds once the node serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Process id.
    pub pid: u32,
    /// Peer id.
    pub peer: String,
    /// The home folder.
    pub home: PathBuf,
    /// The API socket.
    pub socket: PathBuf,
    /// Where others reach this node, as multiaddresses ending in `/p2p/PEER`.
    pub addresses: Vec<String>,
}
