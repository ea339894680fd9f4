//! Which members hold what: the closest ones in Kademlia's own metric.
//!
//! Distance is that of libp2p-kad, XOR of SHA-256 of peer id and placement key, so that the answer computed here and the
//! one that Kademlia finds name the same members (Maymounkov and Mazières, "Kademlia", section 2.1).

use libp2p::PeerId;
use libp2p::kad::KBucketKey;

use crate::tree::PlacementKey;

/// Copies of everything, unless a put asks for another number.
pub const REPLICAS_DEFAULT: u32 = 3;

/// Most copies that a put may ask for.
pub const REPLICAS_MAX: u32 = 16;

/// Candidates beyond the number of copies: slack for members that are full or gone.
pub const CANDIDATES_SPARE: usize = 2;

/// How many of the closest a reader asks first, whatever number of copies the writer wanted.
pub const READ_CANDIDATES: usize = REPLICAS_DEFAULT as usize + CANDIDATES_SPARE;

/// How many members are candidates for `replicas` copies.
pub fn candidate_count(replicas: u32) -> usize {
    replicas as usize + CANDIDATES_SPARE
}

/// Sorts peers by distance from a key, closest first; duplicates go.
pub fn rank(key: &PlacementKey, peers: impl IntoIterator<Item = PeerId>) -> Vec<PeerId> {
    let target = KBucketKey::new(key.0.to_vec());
    let mut ranked: Vec<_> = peers.into_iter().map(|peer| (target.distance(&KBucketKey::from(peer)), peer)).collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked.into_iter().map(|(_, peer)| peer).collect()
}

/// The closest `count` of some peers.
pub fn closest(key: &PlacementKey, peers: impl IntoIterator<Item = PeerId>, count: usize) -> Vec<PeerId> {
    let mut ranked = rank(key, peers);
    ranked.truncate(count);
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::peer;

    #[test]
    fn every_member_names_the_same_candidates() {
        let peers: Vec<PeerId> = (0..50).map(peer).collect();
        let mut shuffled = peers.clone();
        shuffled.reverse();
        for i in 0..20u8 {
            let key = PlacementKey([i; 32]);
            assert_eq!(closest(&key, peers.clone(), 5), closest(&key, shuffled.clone(), 5));
        }
    }

    #[test]
    fn a_newcomer_displaces_at_most_one_candidate() {
        let key = PlacementKey([9; 32]);
        let before = closest(&key, (0..20).map(peer), 5);
        let after = closest(&key, (0..21).map(peer), 5);
        assert!(before.iter().filter(|old| !after.contains(old)).count() <= 1);
    }

    #[test]
    fn a_peer_named_twice_is_one_candidate() {
        let key = PlacementKey([1; 32]);
        assert_eq!(rank(&key, [peer(1), peer(2), peer(1)]).len(), 2);
    }
}
