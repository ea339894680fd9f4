//! How many nodes this machine carries, roughly: a network that is far too large for it shows only how it fails.

use std::fs;
use std::thread::available_parallelism;

use bytesize::ByteSize;
use p2p_api::{Code, Problem};
use rustix::process::{Resource, getrlimit};

use crate::Result;

/// Memory of a node that has done some work, in bytes; while it moves bulk it may take twice as much.
const MEMORY_PER_NODE: u64 = 40 << 20;

/// Nodes that one core keeps, with some life of their own.
const NODES_PER_CORE: u64 = 50;

/// Files that a node has open beside its connections: database, log, sockets.
const FILES_PER_NODE: u64 = 64;

/// Connections of a node: 16 of membership at most, and 64 for content.
const CONNECTIONS_MAX: u64 = 16 + 64;

/// What a machine has to give.
#[derive(Clone, Copy, Debug)]
struct Machine {
    cores: u64,
    /// Bytes that can be had without pushing others out; None where the system does not say.
    memory: Option<u64>,
    /// Files that one process may have open; None without a limit.
    files: Option<u64>,
}

impl Machine {
    fn this() -> Self {
        let cores = available_parallelism().map_or(1, |cores| cores.get() as u64);
        Self { cores, memory: memory_available(), files: getrlimit(Resource::Nofile).current }
    }

    /// Refuses a network of `nodes`, of which `starting` are to be started, if it is more than this machine carries.
    fn check(&self, nodes: u32, starting: u32) -> std::result::Result<(), Shortage> {
        let (nodes, starting) = (u64::from(nodes), u64::from(starting));
        let mut lacks = Vec::new();
        let by_cores = self.cores * NODES_PER_CORE;
        if nodes > by_cores {
            lacks.push(format!("{} cores keep about {by_cores} nodes alive", self.cores));
        }
        let memory = starting * MEMORY_PER_NODE;
        let by_memory = self.memory.map_or(u64::MAX, |free| nodes - starting + free / MEMORY_PER_NODE);
        if nodes > by_memory {
            let free = ByteSize(self.memory.unwrap_or(0));
            lacks.push(format!("they take about {} of memory, and {free} are free", ByteSize(memory)));
        }
        // In a small network everybody is connected with everybody, for a moment twice when both dial.
        let files = |nodes: u64| FILES_PER_NODE + 2 * nodes.min(CONNECTIONS_MAX);
        let by_files = match self.files {
            Some(limit) if limit < files(u64::MAX) => limit.saturating_sub(FILES_PER_NODE) / 2,
            Some(_) | None => u64::MAX,
        };
        if nodes > by_files {
            let limit = self.files.unwrap_or(0);
            lacks.push(format!(
                "each takes about {} open files, and a process may have {limit} (ulimit -n)",
                files(nodes)
            ));
        }
        let carried = by_cores.min(by_memory).min(by_files);
        if lacks.is_empty() { Ok(()) } else { Err(Shortage { carried, lacks }) }
    }
}

/// What a machine lacks for a network.
#[derive(Debug)]
struct Shortage {
    carried: u64,
    lacks: Vec<String>,
}

/// Refuses a network of `nodes`, of which `starting` are to be started, if it is more than this machine carries.
///
/// # Errors
/// `full`, with what it would take.
pub(crate) fn check(nodes: u32, starting: u32) -> Result<()> {
    Machine::this().check(nodes, starting).map_err(|Shortage { carried, lacks }| {
        let message = format!("{nodes} nodes are more than this machine carries: {}", lacks.join("; "));
        let hint = match carried {
            0 => "Free some memory, or try all the same with --force.".to_owned(),
            carried => format!("Take up to {carried} nodes, or try all the same with --force."),
        };
        Problem::new(Code::Full, message).hint(hint)
    })
}

fn memory_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Machine = Machine { cores: 2, memory: Some(4 << 30), files: Some(1024) };

    fn shortage(machine: Machine, nodes: u32, starting: u32) -> Shortage {
        machine.check(nodes, starting).expect_err("it lacks something")
    }

    #[test]
    fn what_fits_is_not_talked_about() {
        SMALL.check(5, 5).expect("a usual network");
        SMALL.check(100, 100).expect("a large one");
    }

    #[test]
    fn whatever_is_short_is_named_with_what_would_do() {
        let cores = shortage(SMALL, 101, 101);
        assert_eq!((cores.carried, cores.lacks.len()), (100, 1), "{cores:?}");
        let memory = shortage(Machine { memory: Some(100 << 20), ..SMALL }, 5, 5);
        assert_eq!((memory.carried, memory.lacks.len()), (2, 1), "{memory:?}");
        let files = shortage(Machine { files: Some(100), ..SMALL }, 20, 20);
        assert_eq!((files.carried, files.lacks.len()), (18, 1), "{files:?}");
        assert_eq!(shortage(Machine { cores: 1, memory: Some(0), files: Some(0) }, 1000, 1000).lacks.len(), 3);
    }

    #[test]
    fn a_node_has_no_more_connections_in_a_network_that_is_larger() {
        let many = Machine { cores: 20, memory: None, files: Some(224) };
        many.check(1000, 1000).expect("as many files as each ever opens");
        assert_eq!(shortage(Machine { files: Some(223), ..many }, 1000, 1000).carried, 79);
    }

    #[test]
    fn nodes_that_run_have_their_memory_already() {
        let full = Machine { memory: Some(50 << 20), ..SMALL };
        full.check(10, 1).expect("room for one more");
        assert_eq!(shortage(full, 11, 2).carried, 10);
    }

    #[test]
    fn this_machine_says_what_it_has() {
        let machine = Machine::this();
        assert!(machine.cores >= 1 && machine.memory.is_some_and(|free| free > 0), "{machine:?}");
    }
}
