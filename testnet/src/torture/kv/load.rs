//! Clients that read and write a few keys through all nodes at once, and take down what they are told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use p2p_api::client::{Client, KvReplaces, KvWriteOptions};
use p2p_api::types::{KvEntry, KvWritten};
use p2p_api::{Code, Problem};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::history::{Call, Outcome, Over, Recorder, Sibling, What};
use crate::Result;
use crate::workload::Dice;

/// Keys of an epoch. Of half of them no write goes without a token but beside: so each loss is certain.
const KEYS: u64 = 40;

/// A call is given up after so long: a stopped node answers nothing.
const CALL_LIMIT: Duration = Duration::from_secs(4);

/// How long a write waits for a second node.
const ACKS_LIMIT: Duration = Duration::from_secs(1);

/// Longest pause of a client between two steps.
const PAUSE_MS: u64 = 40;

/// One of so many values is long.
const LONG_ONE_IN: u8 = 8;

/// The clients of an epoch.
pub(super) struct Load {
    gate: Arc<RwLock<()>>,
    is_over: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    /// Begins: `nodes` are clients of each node.
    pub(super) fn begin(seed: u64, epoch: u32, clients: u32, nodes: &[Client], recorder: &Arc<Recorder>) -> Self {
        let gate = Arc::new(RwLock::new(()));
        let is_over = Arc::new(AtomicBool::new(false));
        let mut all = JoinSet::new();
        for number in 0..clients {
            let part = u64::from(epoch) << 32 | u64::from(number) << 1 | 1;
            let worker = Worker {
                number,
                epoch,
                dice: Dice::of_part(!seed, part),
                nodes: nodes.to_vec(),
                recorder: recorder.clone(),
                written: 0,
                tokens: BTreeMap::new(),
            };
            all.spawn(worker.run(gate.clone(), is_over.clone()));
        }
        Self { gate, is_over, clients: all }
    }

    /// Nothing is under way until this is dropped.
    pub(super) async fn pause(&self) -> OwnedRwLockWriteGuard<()> {
        self.gate.clone().write_owned().await
    }

    /// Ends when all calls have.
    ///
    /// # Errors
    /// When a client has died, which is a mistake of this program.
    pub(super) async fn end(mut self) -> Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.map_err(|error| Problem::new(Code::Other, format!("a client died: {error}")))?;
        }
        Ok(())
    }
}

/// The name of a key of an epoch.
fn key_of(epoch: u32, number: u64) -> String {
    let kind = if is_strict(number) { "strict" } else { "open" };
    format!("torture/{epoch}/{kind}-{number}")
}

fn is_strict(number: u64) -> bool {
    number >= KEYS / 2
}

/// The bytes of a value, by its name: some are long enough to travel another way.
pub(super) fn bytes_of(name: &str) -> Vec<u8> {
    let hash = blake3::hash(name.as_bytes());
    let [dice, low, high, ..] = *hash.as_bytes();
    let mut bytes = name.as_bytes().to_vec();
    if dice.is_multiple_of(LONG_ONE_IN) {
        bytes.push(b' ');
        bytes.resize(bytes.len() + 1_000 + usize::from(u16::from_le_bytes([low, high])) / 4, b'x');
    }
    bytes
}

/// The name of a value that was read; of one that is not as it was written, something that nobody has written.
pub(super) fn name_of(bytes: &[u8]) -> String {
    let name = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
    match std::str::from_utf8(name) {
        Ok(name) if bytes_of(name) == bytes => name.to_owned(),
        _ => format!("{} bytes of BLAKE3 {}", bytes.len(), blake3::hash(bytes)),
    }
}

/// What a node says that stands at a key.
pub(super) fn siblings_of(entry: &KvEntry) -> Vec<Sibling> {
    let sibling = |sibling: &p2p_api::types::KvSibling| Sibling {
        value: sibling.bytes().map_or_else(|| "not as its encoding says".to_owned(), |bytes| name_of(&bytes)),
        dot: sibling.dot.clone(),
    };
    let mut siblings: Vec<Sibling> = entry.siblings.iter().map(sibling).collect();
    siblings.sort();
    siblings
}

/// What a read or a write left to be replaced.
#[derive(Clone, Debug)]
struct Token {
    text: String,
    values: Vec<String>,
}

/// A step of a client at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Get,
    /// A get, and a write with its token.
    Replace,
    /// A get, and a delete with its token.
    Remove,
    /// A write with a token from some time ago.
    ReplaceOld,
    Beside,
    Create,
    Put,
    PutForced,
    Delete,
}

impl Step {
    fn roll(is_strict: bool, dice: &mut Dice) -> Self {
        match dice.roll(if is_strict { 70 } else { 100 }) {
            0..20 => Self::Get,
            20..38 => Self::Replace,
            38..48 => Self::Remove,
            48..54 => Self::ReplaceOld,
            54..65 => Self::Beside,
            65..70 => Self::Create,
            70..88 => Self::Put,
            88..92 => Self::PutForced,
            _ => Self::Delete,
        }
    }
}

struct Worker {
    number: u32,
    epoch: u32,
    dice: Dice,
    nodes: Vec<Client>,
    recorder: Arc<Recorder>,
    written: u32,
    /// The last token of each key.
    tokens: BTreeMap<u64, Token>,
}

impl Worker {
    async fn run(mut self, gate: Arc<RwLock<()>>, is_over: Arc<AtomicBool>) {
        while !is_over.load(Ordering::Relaxed) {
            {
                let _open = gate.read().await;
                self.step().await;
            }
            sleep(Duration::from_millis(self.dice.roll(PAUSE_MS))).await;
        }
    }

    fn node(&mut self) -> u32 {
        self.dice.roll(self.nodes.len() as u64) as u32
    }

    async fn step(&mut self) {
        let number = self.dice.roll(KEYS);
        let key = key_of(self.epoch, number);
        let node = self.node();
        let step = Step::roll(is_strict(number), &mut self.dice);
        let left = match step {
            Step::Get => self.get(node, &key).await,
            Step::Replace | Step::Remove => {
                let Some(token) = self.get(node, &key).await else { return };
                // A token is good at any node, which may not have seen as much.
                let node = if self.dice.roll(4) == 0 { self.node() } else { node };
                let value = (step == Step::Replace).then(|| self.value());
                self.write(node, &key, value, KvReplaces::Read(token.text), Over::Read(token.values)).await
            }
            Step::ReplaceOld => {
                let Some(token) = self.tokens.get(&number).cloned() else { return };
                let value = Some(self.value());
                self.write(node, &key, value, KvReplaces::Read(token.text), Over::Read(token.values)).await
            }
            Step::Beside => {
                let value = Some(self.value());
                self.write(node, &key, value, KvReplaces::Nothing, Over::Beside).await
            }
            Step::Create => {
                let value = Some(self.value());
                self.write(node, &key, value, KvReplaces::Absent, Over::Create).await
            }
            Step::Put => {
                let value = Some(self.value());
                self.write(node, &key, value, KvReplaces::Held, Over::Held).await
            }
            Step::PutForced => {
                let value = Some(self.value());
                self.write(node, &key, value, KvReplaces::AllHeld, Over::AllHeld).await
            }
            Step::Delete => self.write(node, &key, None, KvReplaces::Held, Over::Held).await,
        };
        // Kept for some time: an old one replaces what it names, and nothing that has come since.
        if let Some(token) = left
            && self.dice.roll(3) == 0
        {
            self.tokens.insert(number, token);
        }
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("{}-{}-{}", self.epoch, self.number, self.written)
    }

    /// What stands, if anything does.
    async fn get(&self, node: u32, key: &str) -> Option<Token> {
        let began = self.recorder.now();
        let answer = within(self.nodes[node as usize].kv_get(key)).await;
        let (outcome, token) = match answer {
            Ok(entry) => {
                let siblings = siblings_of(&entry);
                let values = siblings.iter().map(|sibling| sibling.value.clone()).collect();
                (Outcome::Seen(siblings), Some(Token { text: entry.token, values }))
            }
            Err(problem) if problem.code == Code::NotFound => (Outcome::Seen(Vec::new()), None),
            Err(problem) => (failed(problem), None),
        };
        self.record(node, key, What::Get, began, outcome);
        token
    }

    /// What a write has left to be replaced, if it was acknowledged.
    async fn write(
        &mut self,
        node: u32,
        key: &str,
        value: Option<String>,
        replaces: KvReplaces,
        over: Over,
    ) -> Option<Token> {
        let acks = (self.dice.roll(10) == 0).then_some(2);
        let options = KvWriteOptions { replaces, acks, timeout: acks.map(|_| ACKS_LIMIT) };
        let client = &self.nodes[node as usize];
        let began = self.recorder.now();
        let answer = match &value {
            Some(value) => within(client.kv_put(key, Bytes::from(bytes_of(value)), &options)).await,
            None => within(client.kv_del(key, &options)).await,
        };
        let values = value.iter().cloned().collect();
        let what = match value {
            Some(value) => What::Put { value, over },
            None => What::Delete { over },
        };
        let (outcome, token) = match answer {
            // Too few in time is no failure: it stands where it was counted.
            Ok(KvWritten { token, acks, .. }) => (Outcome::Ok { on: acks }, Some(Token { text: token, values })),
            Err(problem) => (failed(problem), None),
        };
        self.record(node, key, what, began, outcome);
        token
    }

    fn record(&self, node: u32, key: &str, what: What, began: u64, outcome: Outcome) {
        let ended = self.recorder.now();
        self.recorder.call(Call { client: self.number, node, key: key.to_owned(), what, began, ended, outcome });
    }
}

async fn within<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let silent = |_elapsed| Problem::new(Code::TimedOut, format!("no answer for {} s", CALL_LIMIT.as_secs()));
    timeout(CALL_LIMIT, call).await.map_err(silent)?
}

/// Whether a call that failed has surely done nothing.
fn failed(problem: Problem) -> Outcome {
    let Problem { code, message, hint } = problem;
    let is_refused = match code {
        // Nobody listened at all; whoever breaks off later may have taken it.
        Code::Unreachable => message.starts_with("no node answers"),
        // One that stops in the middle of a write says that it does not know.
        Code::NotReady => !hint.is_some_and(|hint| hint.contains("not known")),
        Code::Usage | Code::OutOfRange | Code::NotFound | Code::Conflict | Code::Exists | Code::Full | Code::Busy => {
            true
        }
        Code::Other
        | Code::Partial
        | Code::Unauthorised
        | Code::TimedOut
        | Code::Integrity
        | Code::Corrupt
        | Code::Locked
        | Code::Config
        | Code::UnsupportedVersion => false,
    };
    if is_refused { Outcome::Refused { code, why: message } } else { Outcome::Unknown { code, why: message } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_again_only_as_it_was_written() {
        let names: Vec<String> = (0..200).map(|n| format!("1-2-{n}")).collect();
        for name in &names {
            let mut bytes = bytes_of(name);
            assert_eq!(name_of(&bytes), *name);
            bytes.push(b'x');
            assert_ne!(name_of(&bytes), *name);
        }
        assert!(names.iter().any(|name| bytes_of(name).len() > 10_000));
        assert!(name_of(&[0xff, 0]).contains("BLAKE3"));
    }

    #[test]
    fn only_who_surely_did_nothing_has_refused() {
        let refused = |problem: Problem| matches!(failed(problem), Outcome::Refused { .. });
        assert!(refused(Problem::new(Code::Unreachable, "no node answers at /s: refused")));
        assert!(!refused(Problem::new(Code::Unreachable, "the node at /s broke off: reset")));
        assert!(refused(Problem::new(Code::NotReady, "this node is fetching the map")));
        let hint = "Whether it was written is not known: look after the next start.";
        assert!(!refused(Problem::new(Code::NotReady, "the node is stopping").hint(hint)));
        assert!(refused(Problem::new(Code::Conflict, "two values")));
        assert!(!refused(Problem::new(Code::TimedOut, "no answer for 4 s")));
    }

    #[test]
    fn of_strict_keys_only_what_was_read_is_replaced() {
        let mut dice = Dice::new(1);
        for _ in 0..1_000 {
            let step = Step::roll(true, &mut dice);
            assert!(!matches!(step, Step::Put | Step::PutForced | Step::Delete), "{step:?}");
        }
    }
}
