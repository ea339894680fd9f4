//! Which port a node listens on, chosen once and kept in its home, so that a restarted network meets again.
//!
//! Ephemeral ports are left out: while a node is down, the system may take its port for somebody's outgoing connection.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;

use p2p_api::{Code, Problem};

use crate::Result;

/// Ports given to nodes: above the registered ones in common use, below the usual ephemeral ones.
const PORTS: RangeInclusive<u16> = 17_460..=32_000;

/// Chooses a free loopback port that is not `taken`. The search starts where the seed says.
///
/// # Errors
/// When every port is in use.
pub fn choose(taken: &BTreeSet<u16>, seed: u64) -> Result<u16> {
    let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let ephemeral = ephemeral.as_deref().and_then(parse_range);
    candidates(ephemeral, seed)
        .find(|port| !taken.contains(port) && is_free(*port))
        .ok_or_else(|| Problem::new(Code::Busy, "no free port is left on the loopback interface"))
}

/// Whether a listener could be opened at this moment.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// All of [`PORTS`] once, from a seeded place on, without the ephemeral ones unless nothing else is left.
fn candidates(ephemeral: Option<RangeInclusive<u16>>, seed: u64) -> impl Iterator<Item = u16> {
    let outside = |port: &u16| !ephemeral.as_ref().is_some_and(|range| range.contains(port));
    let mut ports: Vec<u16> = PORTS.filter(outside).collect();
    if ports.is_empty() {
        ports = PORTS.collect();
    }
    let start = seed % ports.len() as u64;
    ports.rotate_left(start as usize);
    ports.into_iter()
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut bounds = text.split_ascii_whitespace().map(str::parse);
    Some(bounds.next()?.ok()?..=bounds.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_says_where_the_search_starts() {
        assert_eq!(candidates(None, 0).next(), Some(17_460));
        assert_eq!(candidates(None, 7).next(), Some(17_467));
        assert_eq!(candidates(None, u64::MAX).count(), PORTS.len());
    }

    #[test]
    fn ephemeral_ports_are_left_out() {
        assert!(candidates(Some(20_000..=60_999), 5_000).all(|port| port < 20_000));
        assert_eq!(candidates(Some(1_024..=65_535), 0).count(), PORTS.len(), "better one of these than none");
        assert_eq!(parse_range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(parse_range("none"), None);
    }

    #[test]
    fn neither_a_taken_nor_a_bound_port_is_chosen() {
        let first = choose(&BTreeSet::new(), 1).expect("not all are in use");
        let second = choose(&BTreeSet::from([first]), 1).expect("not all are in use");
        assert_ne!(first, second);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, second)).expect("it was free");
        let third = choose(&BTreeSet::from([first]), 1).expect("not all are in use");
        assert!(third != first && third != second, "{first} {second} {third}");
        drop(listener);
    }
}
