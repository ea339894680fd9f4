//! Many clients that ask one node at once, on a single thread: what is measured is the node, and the less of the cores this
//! takes, the more that is so.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use p2p_api::{Code, Problem};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::timeout;

use super::CLIENTS;
use crate::Result;
use crate::http::Connection;

/// Bytes of a value. It is text, as most values are.
pub(super) const VALUE_LEN: usize = 256;

/// Bytes of a key.
pub(super) const KEY_LEN: usize = 20;

/// Longest time that is added to what so many requests take at the least rate.
const LOAD_TIME: Duration = Duration::from_secs(60);

/// The least rate that is waited for, in requests per second.
const RATE_MIN: u64 = 200;

/// Keys and their values; none of those of other words or seeds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    /// Three letters.
    pub(super) word: &'static str,
    pub(super) seed: u64,
}

impl Keys {
    /// The key of a number. In their order the numbers have none.
    pub(super) fn key(self, number: u64) -> String {
        format!("{}-{:016x}", self.word, number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// What is written there, the first time or a later one.
    pub(super) fn value(self, number: u64, time: u64) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in [self.seed, number, time] {
            hasher.update(&part.to_le_bytes());
        }
        let (mut bytes, mut value, mut part) = (hasher.finalize_xof(), String::with_capacity(VALUE_LEN), [0; 32]);
        while value.len() < VALUE_LEN {
            bytes.fill(&mut part);
            value.push_str(&blake3::Hash::from_bytes(part).to_hex());
        }
        value
    }
}

/// What is asked for a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    /// To write its value of this time.
    Put(u64),
    /// To read it, which has to be that of this time.
    Get(u64),
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asks {
    pub(super) keys: Keys,
    /// Number of the first key.
    pub(super) from: u64,
    /// How many keys.
    pub(super) count: u64,
    /// How often each of them, one after the other.
    pub(super) times: u64,
    pub(super) ask: Ask,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) seconds: f64,
    /// What this process has spent on all cores meanwhile.
    pub(super) cpu_seconds: f64,
    /// How long each request took, in milliseconds.
    pub(super) times: Vec<f64>,
}

impl Load {
    /// Requests a second.
    pub(super) fn rate(&self) -> f64 {
        self.times.len() as f64 / self.seconds
    }
}

/// Asks a node by as many clients as there are at once.
///
/// # Errors
/// When anything is refused, or takes too long.
pub(super) async fn run(socket: PathBuf, asks: Asks) -> Result<Load> {
    let failed = |error: &dyn std::fmt::Display| Problem::new(Code::Other, format!("no clients: {error}"));
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let limit = LOAD_TIME + Duration::from_secs(asks.count * asks.times / RATE_MIN);
        let late = |_| Problem::new(Code::TimedOut, format!("requests are not answered after {} s", limit.as_secs()));
        runtime
            .map_err(|error| failed(&error))?
            .block_on(async { timeout(limit, all(socket, asks)).await.map_err(late)? })
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(&error))?
}

async fn all(socket: PathBuf, asks: Asks) -> Result<Load> {
    let total = asks.count * asks.times;
    let mut connections = Vec::new();
    for _ in 0..CLIENTS.min(total) {
        connections.push(Connection::open(&socket).await?);
    }
    let next = Cell::new(0);
    let (started, cpu) = (Instant::now(), cpu_time());
    let clients = connections.into_iter().map(|connection| client(connection, asks, &next));
    let times = try_join_all(clients).await?;
    let (seconds, cpu_seconds) = (started.elapsed().as_secs_f64(), (cpu_time() - cpu).as_secs_f64());
    Ok(Load { seconds, cpu_seconds, times: times.concat() })
}

async fn client(mut connection: Connection, asks: Asks, next: &Cell<u64>) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity((asks.count * asks.times / CLIENTS) as usize);
    loop {
        let turn = next.get();
        if turn >= asks.count * asks.times {
            return Ok(times);
        }
        next.set(turn + 1);
        let number = asks.from + turn % asks.count;
        let path = format!("/v1/kv/{}", asks.keys.key(number));
        let started = match asks.ask {
            Ask::Put(time) => {
                let value = asks.keys.value(number, time);
                let started = Instant::now();
                connection.request("PUT", &path, &[], value.as_bytes()).await?.success()?;
                started
            }
            Ask::Get(time) => {
                let started = Instant::now();
                let answer = connection.request("GET", &path, &[], b"").await?.success()?;
                must_hold(&answer, &asks.keys.value(number, time))?;
                started
            }
        };
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
}

/// Makes sure that an answer has a value in it, without reading all of it.
fn must_hold(answer: &[u8], value: &str) -> Result<()> {
    match str::from_utf8(answer).is_ok_and(|answer| answer.contains(value)) {
        true => Ok(()),
        false => Err(Problem::new(Code::Integrity, "a key does not have the value that was written")),
    }
}

/// What this process has spent on all cores so far, user and system.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_and_values_are_as_long_as_said_and_never_the_same() {
        let (one, other) = (Keys { word: "one", seed: 1 }, Keys { word: "two", seed: 2 });
        let keys: BTreeSet<String> = (0..100).flat_map(|n| [one.key(n), other.key(n)]).collect();
        assert_eq!(keys.len(), 200);
        assert!(
            keys.iter().all(|key| key.len() == KEY_LEN && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        );
        let values: BTreeSet<String> =
            (0..10).flat_map(|n| [one.value(n, 0), one.value(n, 1), other.value(n, 0)]).collect();
        assert_eq!((values.len(), values.iter().all(|value| value.len() == VALUE_LEN)), (30, true));
        assert_eq!(one.value(3, 1), one.value(3, 1));
    }

    #[test]
    fn another_value_is_not_taken_for_the_one_that_was_written() {
        let keys = Keys { word: "one", seed: 1 };
        let answer = format!("{{\"siblings\":[{{\"value\":\"{}\"}}]}}", keys.value(1, 0));
        must_hold(answer.as_bytes(), &keys.value(1, 0)).expect("it is there");
        assert_eq!(must_hold(answer.as_bytes(), &keys.value(1, 1)).expect_err("older").code, Code::Integrity);
    }

    #[test]
    fn a_rate_is_that_of_all_requests() {
        let load = Load { seconds: 0.5, cpu_seconds: 0.1, times: vec![1.0; 40] };
        assert_eq!(load.rate(), 80.0);
    }
}
