//! What a user can do with the replicated map.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE32_NOPAD;
use p2p_api::types::{KEYS_AT_ONCE_MAX, KvEntry, KvEvent, KvEventKind, KvKey, KvKeys, KvSibling, KvState, KvWritten};
use p2p_api::{Code, Problem};
use p2p_gossip::kv::watch::{Cursor, News};
use p2p_gossip::kv::{Call, Dot, Entry, Key, KeyError, Token, TokenError, VALUE_LEN_MAX, Work, Write, WriteError};
use tokio_util::sync::CancellationToken;

use super::{Handle, stopping};
use crate::error::store_problem;
use crate::kv::ACKS_MAX;
use crate::state::{CallError, Page, ReadError, State, Watch};

/// Longest wait for other nodes to have a write on their disks, unless a request says otherwise.
const SPREAD_TIME: Duration = Duration::from_secs(10);

/// For how long a neighbour may hold something else before that is worth telling: so long writes are on their way.
const CATCHING_UP_TIME: Duration = Duration::from_secs(5);

/// Keys that are the system's, and how they are written.
const SYSTEM: [(&str, &str); 3] = [
    ("name/", "Names of content are given by `p2p-cli put FILE --name NAME`."),
    ("pin/", "Pins come and go with the content that they are of."),
    ("sys/", "Choose a key that begins otherwise."),
];

/// The system's keys that stand for content.
pub(crate) const NAMES: &str = "name/";

/// How a write is to be made.
#[derive(Clone, Debug)]
pub struct KvWriteRequest {
    /// What it takes the place of.
    pub write: Write,
    /// Nodes on whose disks it is to be, this one included.
    pub acks: Option<u32>,
    /// Longest wait for those.
    pub wait: Option<Duration>,
}

impl Handle {
    /// What stands at a key.
    ///
    /// # Errors
    /// `not_found` where nothing does; when it cannot be said.
    pub async fn kv_get(&self, key: &str) -> Result<KvEntry, Problem> {
        let key = key_of(key)?;
        self.map_is_here()?;
        let entry = self.entry(&key).await?;
        match entry.siblings().is_empty() {
            true => Err(Problem::new(Code::NotFound, format!("nothing stands at {:?}", key.as_str()))),
            false => Ok(document(&key, &entry)),
        }
    }

    /// Writes a value, or with None that the key is gone.
    ///
    /// # Errors
    /// When it is refused. Too few nodes in time are no error: see [`KvWritten::problem`].
    pub async fn kv_write(
        &self,
        key: &str,
        value: Option<Bytes>,
        request: KvWriteRequest,
    ) -> Result<KvWritten, Problem> {
        let key = key_of(key)?;
        // A name may be taken away like any other key.
        let system = SYSTEM.iter().find(|(prefix, _)| key.as_str().starts_with(prefix));
        if let Some((prefix, hint)) = system.filter(|(prefix, _)| value.is_some() || *prefix != NAMES) {
            let message = format!("keys under {prefix} are the system's");
            return Err(Problem::new(Code::Usage, message).hint(*hint));
        }
        self.write(key, value, request).await
    }

    /// The key of a name, if one could be given now.
    ///
    /// # Errors
    /// When it is none, or the map is not here yet.
    pub(super) fn name_of(&self, name: &str) -> Result<Key, Problem> {
        let key = key_of(&format!("{NAMES}{name}"))?;
        if name.is_empty() {
            return Err(Problem::new(Code::Usage, "a name is not empty"));
        }
        self.map_is_here()?;
        Ok(key)
    }

    /// Lets a name stand for content, in place of whatever it stands for here.
    ///
    /// # Errors
    /// As [`Self::kv_write`].
    pub(super) async fn set_name(&self, name: Key, address: String) -> Result<KvWritten, Problem> {
        let write = Write::Held { force: true };
        self.write(name, Some(address.into()), KvWriteRequest { write, acks: None, wait: None }).await
    }

    async fn write(&self, key: Key, value: Option<Bytes>, request: KvWriteRequest) -> Result<KvWritten, Problem> {
        let KvWriteRequest { write, acks, wait } = request;
        let acks = acks.unwrap_or(1);
        if !(1..=ACKS_MAX).contains(&acks) {
            let message =
                format!("acks must be 1 to {ACKS_MAX}, not {acks}: so many nodes a node is surely connected to");
            return Err(Problem::new(Code::Usage, message));
        }
        self.map_is_here()?;
        let named = key.clone();
        let call = |number| Work::Call(Call { number, key: named, value, write });
        let called = self.inner.state.call(call).await;
        let unknown = || stopping().hint("Whether it was written is not known: look after the next start.");
        let text = key.as_str().to_owned();
        match called.ok_or_else(unknown)? {
            Err(error) => Err(refused(&key, &error)),
            // There was nothing to delete.
            Ok(None) => {
                let token = token_text(&Token::new(&key, Default::default()));
                Ok(KvWritten { key: text, token, siblings: 0, acks: 1, problem: None })
            }
            Ok(Some(written)) => {
                let on = 1 + match acks {
                    ..=1 => 0,
                    more => self.inner.kv.spread(written.op.dot, more - 1, wait.unwrap_or(SPREAD_TIME)).await,
                };
                let problem = (on < acks).then(|| {
                    let message = format!("written here, and known to be on {on} of {acks} nodes in time");
                    Problem::new(Code::Partial, message).hint("It stands, and goes on to spread.")
                });
                let siblings = u32::try_from(written.siblings).unwrap_or(u32::MAX);
                Ok(KvWritten { key: text, token: token_text(&written.token), siblings, acks: on, problem })
            }
        }
    }

    /// Keys that begin so and have a value, in the order of their bytes.
    ///
    /// # Errors
    /// When that cannot be said.
    pub async fn kv_keys(&self, prefix: String, after: Option<&str>, limit: Option<u32>) -> Result<KvKeys, Problem> {
        self.map_is_here()?;
        let limit = limit.unwrap_or(KEYS_AT_ONCE_MAX).clamp(1, KEYS_AT_ONCE_MAX) as usize;
        let after = after.map(key_of).transpose()?;
        // One more says whether there are more.
        let page = Page { prefix, after, limit: limit + 1 };
        let mut keys = self.inner.state.keys(page).await.map_err(|error| self.unreadable(&error))?;
        let has_more = keys.len() > limit;
        keys.truncate(limit);
        let next = keys.last().filter(|_| has_more).map(|(key, _)| key.as_str().to_owned());
        let document = |(key, siblings): (Key, usize)| KvKey {
            key: key.as_str().to_owned(),
            siblings: u32::try_from(siblings).unwrap_or(u32::MAX),
        };
        Ok(KvKeys { keys: keys.into_iter().map(document).collect(), next })
    }

    /// What happens to keys that begin so, from now on or after an event.
    ///
    /// # Errors
    /// `usage` for an id that is none.
    pub(crate) fn kv_watch(&self, prefix: String, since: Option<&str>) -> Result<KvWatch, Problem> {
        self.map_is_here()?;
        let state = self.inner.state.clone();
        let watch = state.watch();
        let cursor = match since {
            None => watch.now(),
            Some(id) => id.parse().map_err(|_no_cursor| {
                Problem::new(Code::Usage, format!("{id:?} is no id of an event"))
                    .hint("Leave it out to watch from now on.")
            })?,
        };
        Ok(KvWatch { state, watch, cursor, prefix, left: VecDeque::new(), stopping: self.inner.stopping.clone() })
    }

    /// A copy of the map as it is now, without anything that says whose it is; it is gone from the folder already. One at a
    /// time.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn back_up(&self) -> Result<std::fs::File, Problem> {
        let _one = self.inner.backing_up.lock().await;
        let path: PathBuf = self.inner.config.home.join("backup.tmp");
        let failed = |error: std::io::Error| Problem::new(Code::Other, format!("cannot copy the map: {error}"));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        self.inner.state.back_up(path.clone()).await.map_err(|error| store_problem(&error))?;
        let file = std::fs::File::open(&path).map_err(failed)?;
        std::fs::remove_file(&path).map_err(failed)?;
        Ok(file)
    }

    /// What the map is doing.
    pub(crate) fn kv_state(&self) -> KvState {
        let map = self.inner.state.map();
        let differs = map.differs_ms.load(std::sync::atomic::Ordering::Relaxed);
        if !self.inner.kv.is_joined() {
            KvState::Joining
        } else if map.is_behind.load(std::sync::atomic::Ordering::Relaxed) {
            KvState::Recovering
        } else if Duration::from_millis(differs) >= CATCHING_UP_TIME {
            KvState::CatchingUp
        } else {
            KvState::Ok
        }
    }

    /// Refuses while this node has never held what others hold: what it lacks would look like what is not there.
    fn map_is_here(&self) -> Result<(), Problem> {
        if self.inner.kv.is_joined() {
            return Ok(());
        }
        Err(Problem::new(
            Code::NotReady,
            "this node is fetching the map from other members, and has not got all of it yet",
        )
        .hint("`p2p-cli status` says whom it reaches."))
    }

    async fn entry(&self, key: &Key) -> Result<std::sync::Arc<Entry>, Problem> {
        self.inner.state.entry(key).await.map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &ReadError) -> Problem {
        match error {
            ReadError::Damaged(_) => {
                // Whoever writes it finds the damage, too, and mends it.
                self.inner.state.work(Work::Audit);
                Problem::new(Code::Integrity, error.to_string())
                    .hint("It is built again, and what is missing fetched from other members: try again, and look at the disk.")
            }
            ReadError::Store(error) => store_problem(error),
        }
    }
}

/// Changes as they come.
pub(crate) struct KvWatch {
    state: State,
    watch: Watch,
    cursor: Cursor,
    prefix: String,
    left: VecDeque<KvEvent>,
    stopping: CancellationToken,
}

impl KvWatch {
    /// The next event; None once the node stops, or the map cannot be read.
    pub(crate) async fn next(&mut self) -> Option<KvEvent> {
        while self.left.is_empty() {
            let News { is_lossy, keys, cursor } = tokio::select! {
                news = self.watch.after(&mut self.cursor, &self.prefix) => news,
                () = self.stopping.cancelled() => return None,
            };
            let id = cursor.to_string();
            if is_lossy {
                self.left.push_back(KvEvent { id: id.clone(), kind: KvEventKind::Gap, entry: None });
            }
            for key in keys {
                let entry = self.state.entry(&key).await.ok()?;
                let kind = if entry.siblings().is_empty() { KvEventKind::Delete } else { KvEventKind::Put };
                self.left.push_back(KvEvent { id: id.clone(), kind, entry: Some(document(&key, &entry)) });
            }
        }
        self.left.pop_front()
    }
}

/// Reads a token that somebody brings back.
///
/// # Errors
/// When it is none.
pub(crate) fn token_of(text: &str) -> Result<Token, Problem> {
    let bytes = BASE32_NOPAD.decode(text.trim().to_ascii_uppercase().as_bytes()).ok();
    bytes.and_then(|bytes| Token::decode(&bytes.into()).ok()).ok_or_else(malformed_token)
}

fn malformed_token() -> Problem {
    Problem::new(Code::Usage, "this is no token, or not as it was given out").hint("Get one: p2p-cli --json kv get KEY")
}

fn token_text(token: &Token) -> String {
    BASE32_NOPAD.encode(&token.encode()).to_lowercase()
}

fn key_of(text: &str) -> Result<Key, Problem> {
    Key::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|error| {
        let problem = Problem::new(Code::Usage, error.to_string());
        match error {
            KeyError::TooLong(_) => problem.hint("Store what is long as the value, or its address as content."),
            _ => problem,
        }
    })
}

fn document(key: &Key, entry: &Entry) -> KvEntry {
    let dots = entry.siblings().iter().map(|sibling| sibling.dot).collect();
    KvEntry {
        key: key.as_str().to_owned(),
        token: token_text(&Token::new(key, dots)),
        siblings: entry
            .siblings()
            .iter()
            .map(|sibling| KvSibling::new(&sibling.value, dot_text(&sibling.dot)))
            .collect(),
    }
}

/// A write's name: the peer, which of its lives, and the how manyth write of that.
fn dot_text(Dot { actor, counter }: &Dot) -> String {
    let peer = actor.peer.peer().map_or_else(|| format!("{:?}", actor.peer), |peer| peer.to_string());
    format!("{peer}/{:016x}:{counter}", actor.epoch)
}

fn refused(key: &Key, error: &CallError) -> Problem {
    let key = key.as_str();
    let shown = p2p_api::text::shell_word(std::path::Path::new(key));
    match error {
        CallError::Refused(refusal) => {
            let problem = |code| Problem::new(code, format!("{key:?}: {refusal}"));
            match refusal {
                WriteError::TooLong(_) => problem(Code::Usage)
                    .hint("Store it as content, and its address as the value: p2p-cli put FILE"),
                WriteError::Conflict(_) => problem(Code::Conflict).hint(format!(
                    "See them: p2p-cli --json kv get {shown}; then write with --token and what is shown there, or with --force"
                )),
                WriteError::Exists => problem(Code::Exists).hint(format!("See it: p2p-cli kv get {shown}")),
                WriteError::Full { .. } => problem(Code::Conflict)
                    .hint(format!("Write one value in place of them: p2p-cli kv put {shown} VALUE --force")),
                WriteError::Token(TokenError::Ahead) => {
                    problem(Code::Conflict).hint(format!("Read here, and write with that token: p2p-cli --json kv get {shown}"))
                }
                WriteError::Token(_) => problem(Code::Usage)
                    .hint(format!("Read it again, and write with that token: p2p-cli --json kv get {shown}")),
            }
        }
        CallError::Full(reason) => Problem::new(Code::Full, format!("{key:?}: {reason}"))
            .hint("Delete what is not needed, or start the node with a higher --state-max."),
        CallError::Recovered => Problem::new(Code::Busy, error.to_string()).hint("Nothing was written: try again."),
    }
}

/// Longest value that is read from a request, in bytes: one more than may be, to tell the difference.
pub(crate) const BODY_LEN_MAX: usize = VALUE_LEN_MAX + 1;
