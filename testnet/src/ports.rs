//! Which port a node listens on, chosen once and kept in its home, so that a restarted network meets again.
//!
//! Ephemeral ports are left out: while a node is down, the system may take its port for somebody's outgoing connection.
//! And while a node is down, or not yet up, no other network may choose its port: see [`Reservation`].

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use p2p_api::{Code, Problem};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::Result;

/// Ports given to nodes: above the registered ones in common use, below the usual ephemeral ones.
const PORTS: RangeInclusive<u16> = 17_460..=32_000;

/// Keeps a loopback port for the node that is to listen on it: a socket that is bound and never listens.
///
/// It was bound alone, and from then on suffers others that set `SO_REUSEADDR`, as every listener does that wants to come
/// back after a crash. So the node can listen beside it as often as it likes, and whoever else reserves is refused. The
/// kernel takes it back with this process, however that ends.
#[derive(Debug)]
pub struct Reservation {
    port: u16,
    _socket: OwnedFd,
}

impl Reservation {
    /// Reserves one port. None when it is in use or reserved.
    pub fn of(port: u16) -> Option<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok()?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).ok()?;
        sockopt::set_socket_reuseaddr(&socket, true).ok()?;
        Some(Self { port, _socket: socket })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Reserves a free loopback port that is not `taken`. The search starts where the seed says.
///
/// # Errors
/// When every port is in use.
pub fn choose(taken: &BTreeSet<u16>, seed: u64) -> Result<Reservation> {
    let ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let ephemeral = ephemeral.as_deref().and_then(parse_range);
    candidates(ephemeral, seed)
        .filter(|port| !taken.contains(port))
        .find_map(Reservation::of)
        .ok_or_else(|| Problem::new(Code::Busy, "no free port is left on the loopback interface"))
}

/// Whether a listener could be opened at this moment, beside a reservation.
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
    fn neither_a_taken_nor_a_bound_nor_a_reserved_port_is_chosen() {
        let chosen = |taken: &[u16]| choose(&taken.iter().copied().collect(), 1).expect("not all are in use");
        let first = chosen(&[]);
        let second = chosen(&[]);
        assert_ne!(first.port(), second.port(), "the first is reserved");
        let (first, second) = (first.port(), second.port());
        let third = chosen(&[first, second]).port();
        assert!(third != first && third != second, "{first} {second} {third}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).expect("it is given back");
        assert!(Reservation::of(first).is_none(), "it is in use");
        drop(listener);
    }

    #[test]
    fn the_node_listens_on_its_reserved_port_as_often_as_it_likes() {
        let reserved = choose(&BTreeSet::new(), 2).expect("not all are in use");
        for _ in 0..2 {
            // The standard library sets `SO_REUSEADDR`, and so does the node.
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, reserved.port())).expect("it is ours");
            assert!(!is_free(reserved.port()), "somebody listens");
            drop(listener);
            assert!(is_free(reserved.port()) && Reservation::of(reserved.port()).is_none(), "and it stays ours");
        }
    }
}
