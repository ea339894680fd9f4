//! Where something may be: whom to ask next about one group of objects.
//!
//! First those who are likely to have it, this node before all; then the closest of the members that are known, which costs
//! nothing to find out; then those that have been reliable; then those that a lookup finds to be closest; then all others,
//! sixteen at a time, because growth of the cluster must not hide content. Pure: it names peers, others ask them.
//!
//! A member is made up in no time, with any distance to a key. Whoever is close and has failed lately is therefore asked only
//! after whoever has sent what it was asked for: a crowd of strangers costs each search little.

use std::collections::BTreeSet;

use libp2p::PeerId;

use crate::placement;
use crate::tree::PlacementKey;

/// Members that are asked at once though nothing speaks for them.
pub const ASKED_AT_ONCE: usize = 16;

/// The search for one group.
#[derive(Debug)]
pub struct Search {
    key: PlacementKey,
    stage: Stage,
    named: BTreeSet<PeerId>,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// These are likely to have it.
    Start(Vec<PeerId>),
    /// The closest of the known members come next.
    Known,
    /// The reliable ones that are not close come next.
    Reliable,
    /// Those come next that are close and have failed.
    Failed,
    /// Who is closest of all is not known yet.
    Unlocated,
    /// They are being found out.
    Locating,
    /// They are these.
    Located(Vec<PeerId>),
    /// They were named; what is left are all others.
    Others,
}

/// What came of asking members lately.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// They sent what they were asked for; at most [`ASKED_AT_ONCE`].
    pub reliable: BTreeSet<PeerId>,
    /// They sent something else, broke off, or were silent.
    pub failed: BTreeSet<PeerId>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Look up who is closest to the key, then call [`Search::located`].
    Locate,
    /// These should have it, best first.
    Likely(Vec<PeerId>),
    /// These may have it.
    Unlikely(Vec<PeerId>),
    /// The lookup is still under way.
    Wait,
    /// Everybody was named.
    Exhausted,
}

impl Search {
    /// A search that begins with peers that are likely to have it.
    pub fn new(key: PlacementKey, likely: impl IntoIterator<Item = PeerId>) -> Self {
        Self { key, stage: Stage::Start(likely.into_iter().collect()), named: BTreeSet::new() }
    }

    /// Where the group should be.
    pub fn key(&self) -> PlacementKey {
        self.key
    }

    /// Whether those have been named who should have it.
    pub fn named_likely(&self) -> bool {
        !matches!(self.stage, Stage::Start(_) | Stage::Known)
    }

    /// The next step; `members` are all that are known.
    pub fn next(&mut self, members: &[PeerId], standing: &Standing) -> Step {
        match std::mem::replace(&mut self.stage, Stage::Locating) {
            Stage::Start(likely) => {
                self.stage = Stage::Known;
                Step::Likely(self.name(likely))
            }
            Stage::Known => {
                self.stage = Stage::Reliable;
                let mut closest = self.closest(members);
                closest.retain(|peer| !standing.failed.contains(peer));
                let is_stranger = |peer: &PeerId| !standing.reliable.contains(peer);
                // The rest has it only if one of these had no room for it or was away.
                let count = closest.len().min(placement::REPLICAS_DEFAULT as usize);
                let (likely, spare) = closest.split_at_mut(count);
                likely.sort_by_key(is_stranger);
                spare.sort_by_key(is_stranger);
                Step::Likely(self.name(closest))
            }
            Stage::Reliable => {
                self.stage = Stage::Failed;
                match self.reliable(members, standing) {
                    nobody if nobody.is_empty() => self.next(members, standing),
                    reliable => Step::Unlikely(reliable),
                }
            }
            Stage::Failed => {
                self.stage = Stage::Unlocated;
                match self.name(self.closest(members)) {
                    nobody if nobody.is_empty() => self.next(members, standing),
                    failed => Step::Likely(failed),
                }
            }
            Stage::Unlocated => Step::Locate,
            Stage::Locating => Step::Wait,
            Stage::Located(closest) => {
                self.stage = Stage::Others;
                Step::Likely(self.name(closest))
            }
            Stage::Others => {
                self.stage = Stage::Others;
                let others = members.iter().copied().filter(|peer| !self.named.contains(peer));
                match placement::closest(&self.key, others, ASKED_AT_ONCE) {
                    nobody if nobody.is_empty() => Step::Exhausted,
                    others => Step::Unlikely(self.name(others)),
                }
            }
        }
    }

    /// The reliable that were not named, for who wants to ask them before their turn.
    pub fn reliable(&mut self, members: &[PeerId], standing: &Standing) -> Vec<PeerId> {
        self.name(members.iter().copied().filter(|peer| standing.reliable.contains(peer)).collect())
    }

    fn closest(&self, members: &[PeerId]) -> Vec<PeerId> {
        placement::closest(&self.key, members.iter().copied(), placement::READ_CANDIDATES)
    }

    /// The closest members are these.
    pub fn located(&mut self, closest: Vec<PeerId>) {
        if matches!(self.stage, Stage::Unlocated | Stage::Locating) {
            self.stage = Stage::Located(closest);
        }
    }

    /// Those of some peers that were not named before.
    fn name(&mut self, peers: Vec<PeerId>) -> Vec<PeerId> {
        peers.into_iter().filter(|peer| self.named.insert(*peer)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::peer;

    fn key() -> PlacementKey {
        PlacementKey([5; 32])
    }

    #[test]
    fn the_likely_come_first_then_the_closest_then_everybody_and_nobody_twice() {
        let members: Vec<PeerId> = (0..40).map(peer).collect();
        let mut search = Search::new(key(), [peer(0)]);
        assert_eq!(search.next(&members, &Standing::default()), Step::Likely(vec![peer(0)]));
        assert!(!search.named_likely());
        let Step::Likely(closest) = search.next(&members, &Standing::default()) else {
            panic!("the closest of the members")
        };
        let expected = placement::closest(&key(), members.clone(), 5);
        assert_eq!(closest, expected.into_iter().filter(|other| *other != peer(0)).collect::<Vec<_>>());
        assert!(search.named_likely());
        assert_eq!(search.next(&members, &Standing::default()), Step::Locate);
        assert_eq!(search.next(&members, &Standing::default()), Step::Wait);
        search.located(vec![peer(0), closest[0], peer(50)]);
        assert_eq!(
            search.next(&members, &Standing::default()),
            Step::Likely(vec![peer(50)]),
            "somebody who is not known as a member yet"
        );
        let mut left = 40 - 1 - closest.len();
        while left > 0 {
            let Step::Unlikely(batch) = search.next(&members, &Standing::default()) else {
                panic!("more are to be asked")
            };
            assert_eq!(batch.len(), left.min(16));
            left -= batch.len();
        }
        assert_eq!(search.next(&members, &Standing::default()), Step::Exhausted);
    }

    #[test]
    fn a_crowd_of_strangers_stands_behind_those_that_are_reliable_once_it_has_failed() {
        let members: Vec<PeerId> = (0..100).map(peer).collect();
        let by_distance = placement::closest(&key(), members.clone(), 100);
        let nth = |n: &[usize]| n.iter().map(|n| by_distance[*n]).collect::<Vec<_>>();
        let standing =
            Standing { reliable: nth(&[3, 70]).into_iter().collect(), failed: nth(&[0, 4, 50]).into_iter().collect() };
        let mut search = Search::new(key(), []);
        assert_eq!(search.next(&members, &standing), Step::Likely(vec![]));
        assert_eq!(search.next(&members, &standing), Step::Likely(nth(&[3, 1, 2])));
        assert_eq!(search.next(&members, &standing), Step::Unlikely(nth(&[70])));
        assert_eq!(search.next(&members, &standing), Step::Likely(nth(&[0, 4])), "they are the closest all the same");
        assert_eq!(search.next(&members, &standing), Step::Locate);
    }

    #[test]
    fn who_should_have_it_is_asked_before_who_is_spare() {
        let members: Vec<PeerId> = (0..100).map(peer).collect();
        let closest = placement::closest(&key(), members.clone(), 5);
        let reliable = [closest[1], closest[2], closest[4]].into_iter().collect();
        let mut search = Search::new(key(), []);
        assert_eq!(search.next(&members, &Standing::default()), Step::Likely(vec![]));
        let expected = [1, 2, 0, 4, 3].map(|n| closest[n]).to_vec();
        assert_eq!(search.next(&members, &Standing { reliable, ..Standing::default() }), Step::Likely(expected));
    }

    #[test]
    fn a_member_that_appears_later_is_named_too() {
        let mut search = Search::new(key(), []);
        assert_eq!(search.next(&[], &Standing::default()), Step::Likely(vec![]));
        assert_eq!(search.next(&[], &Standing::default()), Step::Likely(vec![]));
        assert_eq!(search.next(&[], &Standing::default()), Step::Locate);
        search.located(vec![]);
        assert_eq!(search.next(&[], &Standing::default()), Step::Likely(vec![]));
        assert_eq!(search.next(&[], &Standing::default()), Step::Exhausted);
        assert_eq!(search.next(&[peer(1)], &Standing::default()), Step::Unlikely(vec![peer(1)]));
    }
}
