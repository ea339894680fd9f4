//! A reader that is killed in the middle of a long get: what it had received must not be fetched again.

use std::path::Path;
use std::time::{Duration, Instant};

use p2p_api::{Code, Problem};

use super::Torture;
use super::judge::{Breach, Broken};
use super::plan::File;
use super::progress::Readers;
use crate::metrics::Metrics;
use crate::programs::{end_of, limit, said_problem};
use crate::state::failed;
use crate::workload::{Dice, content, hash_file, write_file};
use crate::{Cluster, Result, cluster};

/// Length of the file, in bytes.
const LEN: u64 = 256 << 20;

/// The reader is killed once it has received between so much, in bytes ...
const RECEIVED_MIN: u64 = 48 << 20;

/// ... and so much.
const RECEIVED_MAX: u64 = 176 << 20;

/// What it may fetch again of what it had received: what was on its way to the disk.
const AGAIN_MAX: u64 = 32 << 20;

/// Longest wait for the reader to have received enough.
const RECEIVE_LIMIT: Duration = Duration::from_secs(120);

/// Time between two looks at what it has received.
const LOOK_PERIOD: Duration = Duration::from_millis(3);

/// Names of contents that no cycle uses.
const NAMES: u64 = 1 << 48;

/// One such get on a network of its own: a source, and a reader that joins later and so holds nothing.
pub(super) async fn killed_in_the_middle(
    torture: &Torture,
    cycle: u32,
) -> Result<std::result::Result<Readers, Breach>> {
    let scratch = torture.scratch.path();
    let path = scratch.join("long");
    let (seed, name) = (torture.seed, NAMES + u64::from(cycle));
    let address = tokio::task::block_in_place(|| write_file(&path, content(seed, name), LEN))?;
    let mut net = Cluster::up(torture.config("reader", 1)).await?;
    torture.programs.put(&net.dir().home(0), &path, LEN).await?;
    std::fs::remove_file(&path).map_err(|error| failed("a file cannot be removed", &path, &error))?;
    net.add(1).await?;
    let file = File { address, len: LEN, cycle, node: 0, acknowledged: true };
    let kill_at = RECEIVED_MIN + Dice::of_part(seed, name).roll(RECEIVED_MAX - RECEIVED_MIN);
    match one(torture, &mut net, &file, kill_at, scratch).await? {
        Err(broken) => Ok(Err(Breach::look(&net, cycle, broken).await)),
        Ok(readers) => {
            cluster::down(net.dir(), true).await?;
            Ok(Ok(readers))
        }
    }
}

async fn one(
    torture: &Torture,
    net: &mut Cluster,
    file: &File,
    kill_at: u64,
    scratch: &Path,
) -> Result<std::result::Result<Readers, Broken>> {
    let (reader, to) = (1, scratch.join("long-back"));
    let home = net.dir().home(reader);
    let command = || torture.programs.get_command(&home, &file.address, &to, true);
    let first = tokio::spawn(end_of(command(), limit(LEN)));
    let received = await_received(net, reader, kill_at, || first.is_finished()).await?;
    net.kill(reader).await?;
    let first = first.await.map_err(|error| Problem::new(Code::Other, error.to_string()))??;
    let Some(first) = first else { return Ok(Err(Broken::of(file, "a get from a killed node hangs"))) };
    if first.status.success() {
        std::fs::remove_file(&to).map_err(|error| failed("a file cannot be removed", &to, &error))?;
        return Ok(Ok(Readers { too_fast: 1, ..Readers::default() }));
    }
    if to.exists() || said_problem(&first.stderr).is_none() {
        return Ok(Err(Broken::of(file, "a get from a killed node left a file, or no clear error")));
    }
    net.restart(reader).await?;
    let second = end_of(command(), limit(LEN)).await?;
    let Some(second) = second else { return Ok(Err(Broken::of(file, "a get after a restart hangs"))) };
    if !second.status.success() {
        let what = format!("a get after a restart fails: {}", String::from_utf8_lossy(&second.stderr));
        return Ok(Err(Broken::of(file, what)));
    }
    let hash = tokio::task::block_in_place(|| hash_file(&to))?;
    std::fs::remove_file(&to).map_err(|error| failed("a file cannot be removed", &to, &error))?;
    if hash != file.address {
        return Ok(Err(Broken::of(file, format!("a get after a restart brought wrong bytes, of BLAKE3 {hash}"))));
    }
    // The counter began with the process.
    let after = counter(net, reader).await?;
    let again = (received + after).saturating_sub(file.len);
    if again > AGAIN_MAX {
        let what = format!(
            "of {received} bytes received before it was killed, the reader fetched {again} again, and {AGAIN_MAX} are allowed"
        );
        return Ok(Err(Broken::of(file, what)));
    }
    Ok(Ok(Readers { killed: 1, too_fast: 0, fetched_again_most: again }))
}

/// Waits until the reader has received so much, or its get has ended; what it had received at the last look.
async fn await_received(net: &Cluster, reader: u32, wanted: u64, ended: impl Fn() -> bool) -> Result<u64> {
    let deadline = Instant::now() + RECEIVE_LIMIT;
    loop {
        let received = counter(net, reader).await?;
        if received >= wanted || ended() {
            return Ok(received);
        }
        if Instant::now() >= deadline {
            return Err(Problem::new(Code::TimedOut, format!("the reader received {received} bytes and no more")));
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

async fn counter(net: &Cluster, reader: u32) -> Result<u64> {
    Metrics::of(net.client(reader).socket()).await?.counter("p2p_object_received_bytes")
}
