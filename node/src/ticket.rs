//! Tickets: one string that lets another machine join.
//!
//! ```text
//! "p2p" + base32(version u8 = 1 | cluster 16 | key 32 | count u8 | count x (length u16 LE | multiaddr) | check 4)
//! ```
//!
//! Lower case without padding; the check is the beginning of the BLAKE3 hash of what stands before it.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use libp2p::Multiaddr;
use p2p_gossip::wire::ClusterId;

use crate::cluster::ClusterKey;

/// Most addresses in a ticket.
pub const ADDRESSES_MAX: usize = 4;

/// Longest ticket in characters: more is refused unread.
pub const TICKET_LEN_MAX: usize = 4096;

const PREFIX: &str = "p2p";
const VERSION: u8 = 1;
const CHECK_LEN: usize = 4;

/// What a ticket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The cluster.
    pub cluster: ClusterId,
    /// Admits to it.
    pub key: ClusterKey,
    /// Members, as multiaddresses that end in `/p2p/PEER`.
    pub addresses: Vec<Multiaddr>,
}

/// It is not a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotATicket {
    /// It does not look like one.
    #[error("not a ticket: it begins with `{PREFIX}` and goes on in lower-case letters and digits")]
    Form,
    /// A part is missing or was changed.
    #[error("the ticket is damaged: was it copied whole?")]
    Damaged,
    /// It is of a newer kind.
    #[error("the ticket is of version {0}, and this program knows {VERSION}")]
    Version(u8),
}

/// Whether a text is meant to be a ticket.
pub fn looks_like_ticket(text: &str) -> bool {
    text.starts_with(PREFIX)
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.cluster.0);
        bytes.extend_from_slice(&self.key.0);
        let addresses = &self.addresses[..self.addresses.len().min(ADDRESSES_MAX)];
        bytes.push(addresses.len() as u8);
        for address in addresses {
            bytes.extend_from_slice(&(address.len() as u16).to_le_bytes());
            bytes.extend_from_slice(address.as_ref());
        }
        let check = check(&bytes);
        bytes.extend_from_slice(&check);
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = NotATicket;

    fn from_str(text: &str) -> Result<Self, NotATicket> {
        let text = text.trim();
        if text.len() > TICKET_LEN_MAX {
            return Err(NotATicket::Form);
        }
        let body = text.strip_prefix(PREFIX).ok_or(NotATicket::Form)?;
        let bytes = BASE32_NOPAD.decode(body.to_uppercase().as_bytes()).map_err(|_| NotATicket::Form)?;
        let split = bytes.len().checked_sub(CHECK_LEN).ok_or(NotATicket::Damaged)?;
        let (bytes, found) = bytes.split_at(split);
        if check(bytes) != found {
            return Err(NotATicket::Damaged);
        }
        let (version, rest) = bytes.split_first().ok_or(NotATicket::Damaged)?;
        if *version != VERSION {
            return Err(NotATicket::Version(*version));
        }
        parse(rest).ok_or(NotATicket::Damaged)
    }
}

fn parse(bytes: &[u8]) -> Option<Ticket> {
    let (cluster, rest) = bytes.split_first_chunk::<16>()?;
    let (key, rest) = rest.split_first_chunk::<32>()?;
    let (count, mut rest) = rest.split_first()?;
    if usize::from(*count) > ADDRESSES_MAX {
        return None;
    }
    let mut addresses = Vec::with_capacity(usize::from(*count));
    for _ in 0..*count {
        let (len, after) = rest.split_first_chunk::<2>()?;
        let (address, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        addresses.push(Multiaddr::try_from(address.to_vec()).ok()?);
        rest = after;
    }
    rest.is_empty().then_some(Ticket { cluster: ClusterId(*cluster), key: ClusterKey(*key), addresses })
}

fn check(bytes: &[u8]) -> [u8; CHECK_LEN] {
    *blake3::hash(bytes).as_bytes().first_chunk().expect("a hash is longer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        let peer = libp2p::identity::Keypair::ed25519_from_bytes([1; 32]).expect("a key").public().to_peer_id();
        let address = |host: &str| format!("/ip4/{host}/tcp/7460/p2p/{peer}").parse().expect("an address");
        Ticket {
            cluster: ClusterId([7; 16]),
            key: ClusterKey([9; 32]),
            addresses: vec![address("192.0.2.1"), address("192.0.2.2")],
        }
    }

    #[test]
    fn a_ticket_survives_being_written_down() {
        let text = ticket().to_string();
        assert!(text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{text}");
        assert_eq!(text.parse(), Ok(ticket()));
        assert_eq!(format!("  {text}\n").parse(), Ok(ticket()));
    }

    #[test]
    fn every_changed_or_missing_letter_is_noticed() {
        let text = ticket().to_string();
        for i in PREFIX.len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[i] = if changed[i] == b'a' { b'b' } else { b'a' };
            assert!(String::from_utf8(changed).expect("letters").parse::<Ticket>().is_err(), "{i}");
            assert!(text[..i].parse::<Ticket>().is_err(), "{i}");
        }
        assert_eq!("hello".parse::<Ticket>(), Err(NotATicket::Form));
        assert_eq!("p".repeat(TICKET_LEN_MAX + 1).parse::<Ticket>(), Err(NotATicket::Form));
    }

    #[test]
    fn the_key_is_not_shown_by_accident() {
        assert!(!format!("{:?}", ticket()).contains('9'.to_string().repeat(4).as_str()));
        assert!(format!("{:?}", ticket()).contains("secret"));
    }
}
