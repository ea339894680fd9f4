//! What a node costs that has nothing to do but to know the others.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use p2p_api::{Code, Problem};
use tokio::time::{Instant, sleep};

use super::{Bench, Unit, World, most};
use crate::Result;
use crate::process::{Memory, ProcessId};
use crate::state::failed;

/// Where the system counts what its network devices send.
const DEVICES: &str = "/proc/net/dev";

/// The device by which all nodes reach each other.
const LOOPBACK: &str = "lo";

pub(super) async fn measure(bench: &mut Bench, world: &World) -> Result<()> {
    let rest = bench.own.options.extent.rest;
    sleep(rest).await;
    let running = world.running()?;
    let processes = running.iter().map(|node| world.process(*node)).collect::<Result<Vec<_>>>()?;
    let (started, cpu, sent) = (Instant::now(), cpu_times(&processes)?, sent_bytes()?);
    sleep(rest).await;
    let (seconds, sent) = (started.elapsed().as_secs_f64(), sent_bytes()? - sent);
    for (before, after) in cpu.iter().zip(cpu_times(&processes)?) {
        let share = after.saturating_sub(*before).as_secs_f64() / seconds;
        bench.add("idle, share of a core by node", Unit::Percent, 100.0 * share);
    }
    let mut memory = Vec::new();
    for (node, process) in running.iter().zip(&processes) {
        let Memory { now, own, .. } = Memory::of(process.pid).ok_or_else(|| gone(*node))?;
        let [resident, own] = [now, own].map(|bytes| bytes as f64 / f64::from(1 << 20));
        bench.add("idle, resident memory by node", Unit::Mib, resident);
        bench.add("idle, of that not of the program's file, by node", Unit::Mib, own);
        let connections = process.connections().ok_or_else(|| gone(*node))?;
        bench.add("idle, connections by node", Unit::Count, connections as f64);
        memory.push(resident);
    }
    let shares = bench.table.samples("idle, share of a core by node").unwrap_or_default();
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    bench.promise("idle, resident memory, most of all nodes", Unit::Mib, most(&memory), 20.0);
    bench.promise("idle, share of a core, mean", Unit::Percent, mean, 0.3);
    let each = sent as f64 / seconds / processes.len() as f64;
    bench.promise("idle, sent on loopback by anybody / nodes", Unit::BytesPerS, each, 1000.0);
    Ok(())
}

fn cpu_times(processes: &[ProcessId]) -> Result<Vec<Duration>> {
    let time = |process: &ProcessId| process.cpu_time().ok_or_else(|| gone(process.pid));
    processes.iter().map(time).collect()
}

fn gone(who: u32) -> Problem {
    Problem::new(Code::Other, format!("{who} has ended while it was to rest"))
}

/// Bytes that were sent on loopback since the boot, headers included: by nodes, and by whoever else uses it.
fn sent_bytes() -> Result<u64> {
    let path = Path::new(DEVICES);
    let text = fs::read_to_string(path).map_err(|error| failed("traffic cannot be read", path, &error))?;
    let unknown = || failed("no loopback device", path, &io::Error::from(io::ErrorKind::InvalidData));
    sent_by(&text, LOOPBACK).ok_or_else(unknown)
}

/// Eight fields of what is received stand before the bytes that are sent.
fn sent_by(text: &str, device: &str) -> Option<u64> {
    let of_line = |line: &str| line.trim().strip_prefix(device)?.strip_prefix(':').map(str::to_owned);
    text.lines().find_map(of_line)?.split_ascii_whitespace().nth(8)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_has_sent_is_read() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n    \
            lo: 100 2 0 0 0 0 0 0 777 2 0 0 0 0 0 0\n  lo2:1 2 0 0 0 0 0 0 8 2 0 0 0 0 0 0\n";
        assert_eq!((sent_by(text, "lo"), sent_by(text, "lo2"), sent_by(text, "eth0")), (Some(777), Some(8), None));
        assert!(sent_bytes().is_ok());
    }
}
