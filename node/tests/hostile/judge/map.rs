//! Honest use of the map, and what must be there of it whatever happens.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use p2p_api::client::KvWriteOptions;

use super::cluster::Node;
use crate::peer::map::{HONEST_KEYS, honest_key};

/// Longest write or read of the map while there is an attack.
pub(crate) const MAP_TIME_MAX: Duration = Duration::from_secs(5);

/// Longest wait for a write to be on two disks where nobody disturbs it.
const SPREAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Writes that are under way together at the beginning.
const AT_ONCE: usize = 64;

/// What was written, and a node has said that it is.
pub(crate) struct Ledger {
    written: Mutex<BTreeMap<String, String>>,
    next: AtomicU64,
    /// From this one on each value is looked at.
    looked_at: AtomicU64,
}

impl Ledger {
    /// Writes so many keys that a comparison that drops all of them is not believed at once.
    pub(crate) async fn begin(node: &Node) -> Self {
        let (written, next, looked_at) = (Mutex::default(), AtomicU64::new(0), AtomicU64::new(0));
        let ledger = Self { written, next, looked_at };
        let writes = futures::stream::iter(0..HONEST_KEYS).map(|_| ledger.write(node));
        writes.buffer_unordered(AT_ONCE).try_collect::<()>().await.expect("it writes");
        ledger
    }

    /// How many keys there are at least.
    pub(crate) fn len(&self) -> u64 {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// Writes a key that nobody else does, and reads it.
    pub(crate) async fn write(&self, node: &Node) -> Result<(), String> {
        self.write_to(node, &KvWriteOptions::default()).await
    }

    /// Writes on one node so that it is on another's disk, and reads it there.
    pub(crate) async fn spread(&self, node: &Node, other: &Node) -> Result<(), String> {
        let options = KvWriteOptions { acks: Some(3), timeout: Some(SPREAD_TIME_MAX), ..KvWriteOptions::default() };
        self.write_to(node, &options).await?;
        let last = honest_key(self.next.load(Ordering::Relaxed) - 1);
        self.is_there(other, &last).await
    }

    async fn write_to(&self, node: &Node, options: &KvWriteOptions) -> Result<(), String> {
        let key = honest_key(self.next.fetch_add(1, Ordering::Relaxed));
        let value = format!("the value of {key}");
        let written = node.client.kv_put(&key, value.clone().into(), options).await;
        let written = written.map_err(|problem| problem.to_string())?;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), value);
        self.is_there(node, &key).await?;
        match written.problem {
            None => Ok(()),
            Some(problem) => Err(format!("a write to the map is on {} disks: {problem}", written.acks)),
        }
    }

    /// Whether a key has its value on a node.
    async fn is_there(&self, node: &Node, key: &str) -> Result<(), String> {
        let expected = self.written.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        let found = node.client.kv_get(key).await.map_err(|problem| format!("{key}: {problem}"))?;
        let values: Vec<Option<Vec<u8>>> = found.siblings.iter().map(|sibling| sibling.bytes()).collect();
        match values == [expected.map(String::into_bytes)] {
            true => Ok(()),
            false => Err(format!("at {key} stands {:?}", found.siblings)),
        }
    }

    /// Whether everything stands on each of these nodes.
    ///
    /// # Errors
    /// What does not.
    pub(crate) async fn stands_on(&self, nodes: [&Node; 3]) -> Result<(), String> {
        let count = self.next.load(Ordering::Relaxed);
        for (n, node) in nodes.into_iter().enumerate() {
            let mut missing = self.written.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut after = None;
            loop {
                let keys = node.client.kv_keys("honest/", after.as_deref(), None).await;
                let keys = keys.map_err(|problem| problem.to_string())?;
                keys.keys.iter().filter(|key| key.siblings == 1).for_each(|key| drop(missing.remove(&key.key)));
                match keys.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            if let Some(key) = missing.keys().next() {
                return Err(format!("node {n} lacks {} keys, {key} among them", missing.len()));
            }
            for number in self.looked_at.load(Ordering::Relaxed)..count {
                let key = honest_key(number);
                if self.written.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&key) {
                    self.is_there(node, &key).await.map_err(|problem| format!("node {n}: {problem}"))?;
                }
            }
        }
        self.looked_at.store(count, Ordering::Relaxed);
        Ok(())
    }
}
