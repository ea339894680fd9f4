//! One watch of every node: when each has told of each key with the value that is waited for.
//!
//! The time is that at which the event came here, so it has in it what telling costs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use p2p_api::client::Watch;
use p2p_api::types::{KvEvent, KvEventKind};
use p2p_api::{Code, Problem};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::LOOK_PERIOD;
use super::load::Keys;
use crate::Result;
use crate::bench::net::Net;

/// Keys, and the value that each is to have. They are numbered from 0.
pub(super) struct Wanted {
    prefix: String,
    numbers: HashMap<String, usize>,
    values: Vec<String>,
}

impl Wanted {
    /// The first keys, with what is written there the how manyth time.
    pub(super) fn new(keys: Keys, count: u64, time: u64) -> Self {
        Self {
            prefix: format!("{}-", keys.word),
            numbers: (0..count).map(|number| (keys.key(number), number as usize)).collect(),
            values: (0..count).map(|number| keys.value(number, time)).collect(),
        }
    }
}

/// Who has seen what, and when. The watches end when it is dropped.
pub(super) struct Seen {
    board: Arc<Board>,
    watches: JoinSet<Problem>,
}

struct Board {
    wanted: Wanted,
    nodes: Vec<u32>,
    began: (Instant, SystemTime),
    /// For every node in turn, for every key: [`Board::now`], or 0 where it has not.
    at: Vec<AtomicU64>,
}

impl Seen {
    /// Watches by every node, from now on.
    ///
    /// # Errors
    /// When a node refuses.
    pub(super) async fn begin(net: &Net, wanted: Wanted) -> Result<Self> {
        let nodes = net.indices()?;
        let board = Arc::new(Board::new(nodes.clone(), wanted));
        let mut watches = JoinSet::new();
        for (place, node) in nodes.into_iter().enumerate() {
            let watch = net.client(node).watch_kv(&board.wanted.prefix, None).await?;
            watches.spawn(hear(watch, board.clone(), place));
        }
        Ok(Self { board, watches })
    }

    /// Microseconds since the beginning; never 0.
    pub(super) fn clock(&self) -> impl Fn() -> u64 + Clone + Send + use<> {
        let board = self.board.clone();
        move || board.now()
    }

    /// When that is by the wall clock.
    pub(super) fn wall(&self, at: u64) -> SystemTime {
        self.board.began.1 + Duration::from_micros(at)
    }

    /// Waits until the nodes have seen all that is wanted of them, and no longer than a limit; false when they have not.
    ///
    /// # Errors
    /// When a watch has ended, or has lost something.
    pub(super) async fn until(&mut self, wanted: impl Fn(u32, usize) -> bool, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while !self.board.has(&wanted) {
            if let Some(ended) = self.watches.try_join_next() {
                return Err(ended.unwrap_or_else(|error| Problem::new(Code::Other, error.to_string())));
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            // What they have seen has its time already.
            sleep(LOOK_PERIOD).await;
        }
        Ok(true)
    }

    /// For every node, when it has seen each key.
    pub(super) fn times(&self) -> Vec<Vec<Option<u64>>> {
        self.board.times()
    }
}

impl Board {
    fn new(nodes: Vec<u32>, wanted: Wanted) -> Self {
        let at = (0..nodes.len() * wanted.values.len()).map(|_| AtomicU64::new(0)).collect();
        Self { wanted, nodes, began: (Instant::now(), SystemTime::now()), at }
    }

    fn now(&self) -> u64 {
        1 + self.began.0.elapsed().as_micros() as u64
    }

    fn take(&self, place: usize, event: &KvEvent) {
        let Some(entry) = &event.entry else { return };
        let Some(number) = self.wanted.numbers.get(&entry.key) else { return };
        let value = &self.wanted.values[*number];
        if entry.siblings.len() == 1 && entry.siblings[0].value == *value {
            let at = &self.at[place * self.wanted.values.len() + number];
            // Told again it is no news.
            let _ = at.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn has(&self, wanted: impl Fn(u32, usize) -> bool) -> bool {
        let times = self.at.chunks(self.wanted.values.len());
        self.nodes.iter().zip(times).all(|(node, times)| {
            times.iter().enumerate().all(|(number, at)| at.load(Ordering::Relaxed) > 0 || !wanted(*node, number))
        })
    }

    fn times(&self) -> Vec<Vec<Option<u64>>> {
        let time = |at: &AtomicU64| Some(at.load(Ordering::Relaxed)).filter(|at| *at > 0);
        self.at.chunks(self.wanted.values.len()).map(|times| times.iter().map(time).collect()).collect()
    }
}

/// Hears a node; why that ended.
async fn hear(mut watch: Watch<KvEvent>, board: Arc<Board>, place: usize) -> Problem {
    let node = board.nodes[place];
    loop {
        match watch.next().await {
            Some(Ok(event)) if event.kind == KvEventKind::Gap => {
                return Problem::new(Code::Other, format!("node {node} has lost some of what its watch is to tell"));
            }
            Some(Ok(event)) => board.take(place, &event),
            Some(Err(problem)) => return problem,
            None => return Problem::new(Code::Unreachable, format!("node {node} tells nothing any more")),
        }
    }
}

#[cfg(test)]
mod tests {
    use p2p_api::types::{KvEntry, KvSibling};

    use super::*;

    #[test]
    fn a_key_is_seen_with_the_value_that_is_waited_for_and_for_the_first_time() {
        let keys = Keys { word: "one", seed: 1 };
        let board = Board::new(vec![4, 7], Wanted::new(keys, 2, 1));
        let event = |key: String, values: &[String]| KvEvent {
            id: "1-1".into(),
            kind: KvEventKind::Put,
            entry: Some(KvEntry {
                key,
                token: "t".into(),
                siblings: values.iter().map(|value| KvSibling::new(value.as_bytes(), "d".into())).collect(),
            }),
        };
        let is_of_seven = |node: u32, number: usize| node == 7 && number == 1;
        let (old, new) = (keys.value(1, 0), keys.value(1, 1));
        for event in [
            event(keys.key(1), std::slice::from_ref(&old)),
            event(keys.key(1), &[old, new.clone()]),
            event(keys.key(2), &[keys.value(2, 1)]),
            KvEvent { entry: None, ..event(keys.key(1), &[]) },
        ] {
            board.take(1, &event);
            assert!(!board.has(is_of_seven), "{event:?}");
        }
        board.take(1, &event(keys.key(1), std::slice::from_ref(&new)));
        assert!(board.has(is_of_seven) && !board.has(|_, _| true));
        let before = board.times();
        assert!(before[0] == [None, None] && before[1][0].is_none() && before[1][1].is_some());
        std::thread::sleep(Duration::from_millis(1));
        board.take(1, &event(keys.key(1), &[new]));
        assert_eq!(board.times(), before);
    }
}
