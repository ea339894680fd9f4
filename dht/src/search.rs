//! Where something may be: which peer to ask next for one group of objects.
//!
//! First the closest members, one after the other; then all others, sixteen at a time, who are only asked whether they
//! have it, because growth of the cluster must not hide content. Pure: it names peers, others ask them.

use std::collections::{BTreeSet, VecDeque};

use libp2p::PeerId;

use crate::placement;
use crate::tree::PlacementKey;

/// Members that are asked at once whether they have something.
pub const ASKED_AT_ONCE: usize = 16;

/// The search for one group.
#[derive(Debug)]
pub struct Search {
    key: PlacementKey,
    stage: Stage,
    /// To be asked next, best first.
    queue: VecDeque<PeerId>,
    tried: BTreeSet<PeerId>,
    /// To be tried when nobody else is left.
    deferred: VecDeque<PeerId>,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// The closest members are not known yet.
    Start,
    /// They are being found out.
    Locating,
    /// Those in the queue are likely to have it.
    Closest,
    /// Some of all others are being asked whether they have it; so many answers are due.
    Asking(usize),
    /// Only those that were put off are left.
    Last,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Find out who is closest to the key, then call [`Search::located`].
    Locate,
    /// Ask this peer for it.
    Try(PeerId),
    /// Ask these whether they have it; call [`Search::answered`] for each.
    Ask(Vec<PeerId>),
    /// Wait for what is under way.
    Wait,
    /// Everybody was tried.
    Exhausted,
}

impl Search {
    /// A search that begins with peers that are likely to have it, this node first.
    pub fn new(key: PlacementKey, likely: impl IntoIterator<Item = PeerId>) -> Self {
        Self {
            key,
            stage: Stage::Start,
            queue: likely.into_iter().collect(),
            tried: BTreeSet::new(),
            deferred: VecDeque::new(),
        }
    }

    /// Where the group should be.
    pub fn key(&self) -> PlacementKey {
        self.key
    }

    /// The next step; `members` are all that are known.
    pub fn next(&mut self, members: &[PeerId]) -> Step {
        while let Some(peer) = self.queue.pop_front() {
            if self.tried.insert(peer) {
                return Step::Try(peer);
            }
        }
        match self.stage {
            Stage::Start => {
                self.stage = Stage::Locating;
                Step::Locate
            }
            Stage::Locating => Step::Wait,
            Stage::Asking(due) if due > 0 => Step::Wait,
            Stage::Closest | Stage::Asking(_) | Stage::Last => self.ask_more(members),
        }
    }

    /// Puts off a peer that was just named, until nobody else is left; false if that is now.
    pub fn defer(&mut self, peer: PeerId) -> bool {
        let put_off = self.stage != Stage::Last;
        if put_off {
            self.deferred.push_back(peer);
        }
        put_off
    }

    /// The closest members are these.
    pub fn located(&mut self, closest: Vec<PeerId>) {
        if self.stage == Stage::Locating {
            self.stage = Stage::Closest;
            self.queue.extend(closest);
        }
    }

    /// A peer that was asked whether it has it has answered.
    pub fn answered(&mut self, peer: PeerId, has: bool) {
        if let Stage::Asking(due) = &mut self.stage {
            *due = due.saturating_sub(1);
        }
        if has {
            self.tried.remove(&peer);
            self.queue.push_back(peer);
        }
    }

    fn ask_more(&mut self, members: &[PeerId]) -> Step {
        let untried = members.iter().copied().filter(|peer| !self.tried.contains(peer));
        let asked = placement::closest(&self.key, untried, ASKED_AT_ONCE);
        if asked.is_empty() {
            self.stage = Stage::Last;
            return self.deferred.pop_front().map_or(Step::Exhausted, Step::Try);
        }
        self.tried.extend(&asked);
        self.stage = Stage::Asking(asked.len());
        Step::Ask(asked)
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
    fn the_likely_come_first_then_the_closest_then_everybody() {
        let members: Vec<PeerId> = (0..40).map(peer).collect();
        let mut search = Search::new(key(), [peer(0)]);
        assert_eq!(search.next(&members), Step::Try(peer(0)));
        assert_eq!(search.next(&members), Step::Locate);
        assert_eq!(search.next(&members), Step::Wait);
        search.located(vec![peer(0), peer(1), peer(2)]);
        assert_eq!(search.next(&members), Step::Try(peer(1)), "nobody is tried twice");
        assert_eq!(search.next(&members), Step::Try(peer(2)));
        let mut asked = 3;
        for expected in [16, 16, 5] {
            let Step::Ask(batch) = search.next(&members) else { panic!("more are to be asked") };
            assert_eq!(batch.len(), expected);
            assert_eq!(search.next(&members), Step::Wait);
            asked += batch.len();
            batch.into_iter().for_each(|peer| search.answered(peer, false));
        }
        assert_eq!(asked, 40);
        assert_eq!(search.next(&members), Step::Exhausted);
    }

    #[test]
    fn who_says_to_have_it_is_tried_at_once() {
        let members: Vec<PeerId> = (0..10).map(peer).collect();
        let mut search = Search::new(key(), []);
        assert_eq!(search.next(&members), Step::Locate);
        search.located(vec![]);
        assert!(matches!(search.next(&members), Step::Ask(batch) if batch.len() == 10));
        search.answered(peer(4), true);
        assert_eq!(search.next(&members), Step::Try(peer(4)));
        assert_eq!(search.next(&members), Step::Wait);
    }

    #[test]
    fn who_is_put_off_comes_last() {
        let members: Vec<PeerId> = (0..3).map(peer).collect();
        let mut search = Search::new(key(), [peer(0)]);
        assert_eq!(search.next(&members), Step::Try(peer(0)));
        assert!(search.defer(peer(0)));
        assert_eq!(search.next(&members), Step::Locate);
        search.located(vec![peer(0), peer(1)]);
        assert_eq!(search.next(&members), Step::Try(peer(1)));
        assert_eq!(search.next(&members), Step::Ask(vec![peer(2)]));
        search.answered(peer(2), false);
        assert_eq!(search.next(&members), Step::Try(peer(0)));
        assert!(!search.defer(peer(0)), "nobody else is left");
        assert_eq!(search.next(&members), Step::Exhausted);
    }

    #[test]
    fn a_member_that_appears_later_is_asked_too() {
        let mut search = Search::new(key(), []);
        assert_eq!(search.next(&[]), Step::Locate);
        search.located(vec![]);
        assert_eq!(search.next(&[]), Step::Exhausted);
        assert_eq!(search.next(&[peer(1)]), Step::Ask(vec![peer(1)]));
    }
}
