//! Which peers count as one, where shares are cut: members are made up in no time, addresses are not.

use std::net::{IpAddr, Ipv6Addr};

use libp2p::core::Multiaddr;
use libp2p::multiaddr::Protocol;

/// The host at an address: an IPv4 address, and as IPv6 whatever one customer is given.
pub fn host_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Some(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
        }
        _ => None,
    }
}
