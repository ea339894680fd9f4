//! Why a node does not start, and how failures look at its API.

use std::io;
use std::path::{Path, PathBuf};

use p2p_api::{Code, Problem};
use p2p_dht::content::ContentError;
use p2p_dht::get::GetError;
use p2p_dht::store::StoreError;

use crate::Ended;
use crate::sqlite::OpenError;
use crate::state::StateError;

/// Why a node does not start. The home is left as it was.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// Another process holds the home.
    #[error("the home {} is held by another node{}", home.display(), holder(*pid))]
    Locked {
        /// The home.
        home: PathBuf,
        /// The process, where it is known.
        pid: Option<u32>,
    },
    /// Something in the home cannot be used.
    #[error("{0}")]
    Home(String),
    /// Something in the home is not as this program left it.
    #[error("{what}")]
    Damaged {
        /// What, and how.
        what: String,
        /// What the owner can do.
        way_out: String,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// What the node remembers of members cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The API's socket cannot be opened.
    #[error("cannot open the socket {}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Only nodes of a test network let themselves be hurt.
    #[error("the home {} is not one of a test network: a node with faults does harm anywhere else", home.display())]
    NoTestnet {
        /// The home.
        home: PathBuf,
    },
    /// An address alone does not admit a home that has only a key of its own.
    #[error("this home has no key of another cluster, so an address alone does not admit it")]
    NoKey,
    /// The ticket belongs to another cluster, and this home has a history.
    #[error("this home is in another cluster than the ticket")]
    OtherCluster,
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(", process {pid}")).unwrap_or_default()
}

/// What to do about a database that is damaged beyond what can be mended.
const WAY_BACK: &str = "Look at what the system says of the disk (dmesg, smartctl -a). Then move objects.db, objects.db-wal and \
                        objects.db-shm out of the home and start the node again: what it held comes from other members when it \
                        is read. See \"When the disk fails\" in docs/operating.md.";

/// Likewise for what is remembered of members and the map, which they tell again.
const STATE_WAY_BACK: &str = "Look at what the system says of the disk (dmesg, smartctl -a). Then move state.db, state.db-wal and \
                              state.db-shm out of the home and start the node again with a ticket of any member (--join-file FILE): \
                              it comes back as the same member, and fetches the map.";

/// Names the file in a failure.
pub(crate) fn file_error(path: &Path) -> impl FnOnce(io::Error) -> StartError {
    move |error| StartError::Home(format!("{}: {error}", path.display()))
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        match error {
            StartError::Config(_) => {
                Problem::new(Code::Config, message).hint("See `p2p-node run --help` for what can be set.")
            }
            StartError::Locked { home, .. } => Problem::new(Code::Locked, message)
                .hint(format!("Ask that node: p2p-cli --home {} status", home.display())),
            StartError::Home(_) | StartError::Socket { .. } => Problem::new(Code::Other, message),
            StartError::Store(OpenError::Newer { .. }) => Problem::new(Code::UnsupportedVersion, message)
                .hint("Start the newer version that wrote it; the file was not touched."),
            StartError::Damaged { way_out, .. } => Problem::new(Code::Corrupt, message).hint(way_out),
            StartError::Store(OpenError::Corrupt(_)) => Problem::new(Code::Corrupt, message).hint(WAY_BACK),
            StartError::Store(_) => Problem::new(Code::Other, message),
            StartError::State(StateError(OpenError::Newer { .. })) => Problem::new(Code::UnsupportedVersion, message)
                .hint("Start the newer version that wrote it; the file was not touched."),
            StartError::State(StateError(OpenError::Corrupt(_))) => {
                Problem::new(Code::Corrupt, message).hint(STATE_WAY_BACK)
            }
            StartError::State(_) => Problem::new(Code::Other, message),
            StartError::Listen { .. } => {
                Problem::new(Code::Config, message).hint("Choose another address with --listen.")
            }
            StartError::NoTestnet { .. } => {
                Problem::new(Code::Usage, message).hint("Leave --faults out, or start the nodes by p2p-testnet.")
            }
            StartError::NoKey => {
                Problem::new(Code::Usage, message).hint("Join by a ticket: run `p2p-cli ticket` on a member.")
            }
            StartError::OtherCluster => {
                Problem::new(Code::Config, message).hint("Use a new home for the other cluster: --home DIR")
            }
        }
    }
}

/// Why a get has nothing to give.
#[derive(Debug)]
pub enum GetFailure {
    /// The file is there, and has only so many bytes: none of those that were asked for.
    OutOfRange(u64),
    /// Anything else.
    Problem(Problem),
}

impl GetFailure {
    /// As others are told.
    pub fn problem(self) -> Problem {
        match self {
            Self::OutOfRange(len) => Problem::new(Code::OutOfRange, format!("the file has only {len} bytes"))
                .hint("Bytes are counted from 0; a range is FIRST-LAST, both included, FIRST- or -COUNT."),
            Self::Problem(problem) => problem,
        }
    }
}

impl From<ContentError> for GetFailure {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::Get(GetError::OutOfRange(len)) => Self::OutOfRange(len),
            other => Self::Problem(content_problem(&other)),
        }
    }
}

/// How a failure of content looks at the API.
pub(crate) fn content_problem(error: &ContentError) -> Problem {
    let message = error.to_string();
    match error {
        ContentError::Get(GetError::NotFound { .. }) => Problem::new(Code::NotFound, message)
            .hint("Check the address, and `p2p-cli status` for how many members are reachable."),
        ContentError::Get(GetError::OutOfRange(len)) => GetFailure::OutOfRange(*len).problem(),
        ContentError::Get(GetError::Stalled(_)) => Problem::new(Code::TimedOut, message)
            .hint("Its holders may be down; `p2p-cli stat ADDRESS` counts the copies that can be reached."),
        ContentError::Damaged { root, .. } => Problem::new(Code::Integrity, message).hint(format!(
            "Bring back the members that hold it (`p2p-cli status`), or put the file again: either mends it. The log names \
             what is damaged of {root}; look at this machine's disk."
        )),
        ContentError::Full => {
            Problem::new(Code::Full, message).hint("Raise --storage-max, free disk space, or put on another node.")
        }
        ContentError::Store(error) => store_problem(error),
        ContentError::Source(_) => Problem::new(Code::Other, message),
        ContentError::TooLong => Problem::new(Code::Usage, message),
        ContentError::Stopping => Problem::new(Code::NotReady, message),
    }
}

/// What a node that has ended by itself ends with; None where that was wanted.
pub fn ending(ended: &Ended) -> Option<Problem> {
    match ended {
        Ended::Failed(error) => Some(failure(error)),
        Ended::Left => None,
        Ended::DuplicateIdentity => {
            let message = "another process has this node's key, and goes on; this one has ended";
            Some(Problem::new(Code::Conflict, message).hint(
                "One home was copied. Each node needs a home of its own: make a new one with `p2p-node init --home DIR --join-file \
                 FILE`.",
            ))
        }
    }
}

/// Why a node ended: a database failed.
fn failure(error: &StoreError) -> Problem {
    if let StoreError::Corrupt(_) = error {
        return Problem::new(Code::Corrupt, format!("{error}; the node has ended")).hint(WAY_BACK);
    }
    let message = format!("{error}; the node has ended, and everything that it acknowledged is on the disk");
    Problem::new(Code::Other, message).hint(
        "Look at what the system says of the disk (dmesg, smartctl -a). Start the node again when it is sound; if it is not, \
         start a new home on another one: other members have copies.",
    )
}

pub(crate) fn store_problem(error: &StoreError) -> Problem {
    let message = error.to_string();
    match error {
        StoreError::Damaged(_) => Problem::new(Code::Integrity, message),
        StoreError::DiskFull => Problem::new(Code::Full, message).hint("Free disk space."),
        StoreError::Failed(_) => Problem::new(Code::Other, message).hint("Look at the node's log and its disk."),
        StoreError::Corrupt(_) => Problem::new(Code::Corrupt, message).hint(WAY_BACK),
        StoreError::Closed => Problem::new(Code::NotReady, "the node is stopping"),
    }
}
