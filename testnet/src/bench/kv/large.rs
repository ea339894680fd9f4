//! Many keys on one node: what of memory it takes, and how soon it answers after it was killed.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use p2p_api::{Code, Problem};
use tokio::time::{sleep, timeout};

use super::load::{self, Ask, Asks, Keys};
use super::{Bench, Target, Unit};
use crate::Result;
use crate::bench::net::Net;
use crate::http::Connection;
use crate::process::{Memory, ProcessId};

/// Longest wait until a node that was started answers.
const OPEN_LIMIT: Duration = Duration::from_secs(120);

/// Pause before a node that does not answer is asked again.
const PAUSE: Duration = Duration::from_millis(1);

/// A MiB, in bytes.
const MIB: f64 = 1048576.0;

const MEMORY: &str = "large, resident memory after loading";
const OPEN: &str = "large, start until a key is answered";

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    let count = bench.own.options.keys;
    let mut net = bench.net(1, true).await?;
    let keys = Keys { word: "lrg", seed: bench.seed };
    (bench.say)(&format!("putting {count} keys"));
    let load = load::run(net.socket(0), Asks { keys, from: 0, count, times: 1, ask: Ask::Put(0) }).await?;
    bench.add("large, writes", Unit::PerS, load.rate());
    bench.add_times("large, writes", &load.times);
    let memory = memory(&net)?;
    bench.promise(MEMORY, Unit::Mib, memory.now as f64 / MIB, 300.0);
    bench.add("large, resident memory, most", Unit::Mib, memory.peak as f64 / MIB);
    let file = net.metrics(0).await?.gauge("p2p_kv_bytes")?;
    bench.add("large, bytes of the file for each key", Unit::Bytes, file / count as f64);
    for _ in 0..bench.own.options.runs {
        net.kill(0).await?;
        let answer = first_answer(net.socket(0), keys.key(count / 2), keys.value(count / 2, 0));
        let (answered, started) = tokio::join!(timeout(OPEN_LIMIT, answer), net.restart(0));
        started?;
        let late = |_| Problem::new(Code::TimedOut, format!("no answer {} s after the start", OPEN_LIMIT.as_secs()));
        let took = answered.map_err(late)?.duration_since(process(&net)?.started_at()).unwrap_or_default();
        bench.add(OPEN, Unit::S, took.as_secs_f64());
        bench.add("large, resident memory after a start", Unit::Mib, self::memory(&net)?.now as f64 / MIB);
    }
    bench.judge_row(OPEN, Unit::S, Target::AtMost(1.0));
    net.down().await
}

/// Asks until the value comes; when it has.
async fn first_answer(socket: PathBuf, key: String, value: String) -> SystemTime {
    let path = format!("/v1/kv/{key}");
    loop {
        if let Ok(mut connection) = Connection::open(&socket).await
            && let Ok(answer) = connection.request("GET", &path, &[], b"").await
            && String::from_utf8_lossy(&answer.body).contains(&value)
        {
            return SystemTime::now();
        }
        sleep(PAUSE).await;
    }
}

fn process(net: &Net) -> Result<ProcessId> {
    let process = net.cluster.dir().load()?.node(0)?.process.clone();
    process.ok_or_else(|| Problem::new(Code::Conflict, "the node does not run"))
}

fn memory(net: &Net) -> Result<Memory> {
    let pid = process(net)?.pid;
    Memory::of(pid).ok_or_else(|| Problem::new(Code::Conflict, format!("process {pid} is gone")))
}
