//! Kademlia, for finding peers and never for data: libp2p-kad's store is synchronous inside the swarm's poll, and its
//! acknowledgements say that something was received, not that it is stored.
//!
//! Used as its users found best: server mode at once, manual inserts, no records, no periodic jobs.

use std::collections::HashMap;
use std::time::Duration;

use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::kad::{self, BucketInserts, Mode, QueryId, QueryResult, StoreInserts};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::oneshot;

use crate::tree::PlacementKey;

/// The protocol's name.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/p2p-node/kad/1");

/// Longest time of one lookup.
pub const LOOKUP_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest message; libp2p-kad drops longer ones, and does not say so. Answers name twenty peers with several addresses each, more than the 16 KiB that are the default.
const PACKET_LEN_MAX: usize = 64 << 10;

/// Lookups under way at once; more wait for their turn with their callers.
pub const LOOKUPS_MAX: usize = 32;

/// A peer that a lookup found, with where it says it is.
#[derive(Clone, Debug)]
pub struct FoundPeer {
    /// The peer.
    pub peer: PeerId,
    /// Its addresses.
    pub addresses: Vec<Multiaddr>,
}

/// The behaviour, to be part of a node's.
pub type Kademlia = kad::Behaviour<MemoryStore>;

/// Makes the behaviour of a node.
pub fn new(me: PeerId) -> Kademlia {
    let mut config = kad::Config::new(PROTOCOL);
    config
        .set_query_timeout(LOOKUP_TIME_MAX)
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_max_packet_size(PACKET_LEN_MAX)
        .set_periodic_bootstrap_interval(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None);
    let nothing = MemoryStoreConfig { max_records: 0, max_provided_keys: 0, ..MemoryStoreConfig::default() };
    let mut kademlia = Kademlia::with_config(me, MemoryStore::with_config(me, nothing), config);
    // Client mode, the default until an external address is confirmed, would leave a local network without any table.
    kademlia.set_mode(Some(Mode::Server));
    kademlia
}

/// Lookups and who waits for them.
#[derive(Default)]
pub struct Lookups {
    waiting: HashMap<QueryId, oneshot::Sender<Vec<FoundPeer>>>,
}

impl Lookups {
    /// Looks for the peers closest to a key. False where there is too much to do: the answer is then empty, as it is where
    /// there are none.
    pub fn start(&mut self, kademlia: &mut Kademlia, key: Vec<u8>, reply: oneshot::Sender<Vec<FoundPeer>>) -> bool {
        if self.waiting.len() >= LOOKUPS_MAX {
            let _ = reply.send(Vec::new());
            return false;
        }
        let query = kademlia.get_closest_peers(key);
        self.waiting.insert(query, reply);
        true
    }

    /// Takes an event of the behaviour; answers where it ends a lookup. True where that was for want of time.
    pub fn on_event(&mut self, event: kad::Event) -> bool {
        let kad::Event::OutboundQueryProgressed { id, result: QueryResult::GetClosestPeers(result), step, .. } = event
        else {
            return false;
        };
        if !step.last {
            return false;
        }
        let (peers, timed_out) = match result {
            Ok(found) => (found.peers, false),
            // Who answered in time is still the best answer there is.
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => (peers, true),
        };
        if let Some(reply) = self.waiting.remove(&id) {
            let found = peers.into_iter().map(|info| FoundPeer { peer: info.peer_id, addresses: info.addrs });
            let _ = reply.send(found.collect());
        }
        timed_out
    }
}

/// The key that a lookup for a placement key takes.
pub fn lookup_key(key: &PlacementKey) -> Vec<u8> {
    key.0.to_vec()
}
