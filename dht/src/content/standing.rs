//! What came of asking members for objects lately: whom a search asks before strangers, and whom after them.

#![expect(clippy::disallowed_methods, reason = "the shell: failures are forgotten by the clock")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::get::Outcome;
use crate::search::{ASKED_AT_ONCE, Standing};

/// How long a failure is remembered: a member that has restarted has its turn again soon.
const FAILED_TIME: Duration = Duration::from_secs(30);

/// Failures that are remembered. With more the oldest is forgotten, which costs a search one member's patience at most.
const FAILED_MAX: usize = 256;

/// The standings of all members. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Standings(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Who sent an object last, and has not failed since; the last first.
    reliable: VecDeque<PeerId>,
    failed: BTreeMap<PeerId, Instant>,
}

impl Standings {
    pub(super) fn now(&self) -> Standing {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.failed.retain(|_, at| at.elapsed() < FAILED_TIME);
        Standing { reliable: known.reliable.iter().copied().collect(), failed: known.failed.keys().copied().collect() }
    }

    /// What came of asking a member for an object.
    pub(super) fn note(&self, peer: PeerId, fetched: Result<(), Outcome>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            // Not to have something is no failure.
            Err(Outcome::Absent) => {}
            Ok(()) if known.reliable.front() == Some(&peer) => {}
            Ok(()) => {
                known.failed.remove(&peer);
                known.reliable.retain(|other| *other != peer);
                known.reliable.push_front(peer);
                known.reliable.truncate(ASKED_AT_ONCE);
            }
            Err(Outcome::Bad | Outcome::Failed) => {
                known.reliable.retain(|other| *other != peer);
                known.failed.insert(peer, Instant::now());
                if known.failed.len() > FAILED_MAX {
                    let oldest = known.failed.iter().min_by_key(|(_, at)| **at).map(|(peer, _)| *peer);
                    oldest.map(|peer| known.failed.remove(&peer));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::peer;

    #[test]
    fn the_last_that_kept_their_word_are_reliable_and_who_breaks_it_has_failed() {
        let standings = Standings::default();
        (0..30).for_each(|n| standings.note(peer(n), Ok(())));
        assert_eq!(standings.now().reliable, (14..30).map(peer).collect());
        standings.note(peer(14), Ok(()));
        standings.note(peer(40), Ok(()));
        let now = standings.now();
        assert!(now.reliable.contains(&peer(14)), "it has sent something right before");
        assert!(!now.reliable.contains(&peer(15)), "as long as anybody it has not");
        standings.note(peer(14), Err(Outcome::Absent));
        standings.note(peer(41), Err(Outcome::Absent));
        assert!(standings.now().reliable.contains(&peer(14)) && standings.now().failed.is_empty());
        standings.note(peer(14), Err(Outcome::Bad));
        standings.note(peer(20), Err(Outcome::Failed));
        let now = standings.now();
        assert_eq!(now.failed, [peer(14), peer(20)].into_iter().collect());
        assert!(now.reliable.is_disjoint(&now.failed));
        standings.note(peer(20), Ok(()));
        assert_eq!(standings.now().failed, [peer(14)].into_iter().collect());
    }

    #[test]
    fn what_is_remembered_of_a_crowd_is_bounded() {
        let standings = Standings::default();
        (0..2 * FAILED_MAX as u32).for_each(|n| standings.note(peer(n), Err(Outcome::Failed)));
        assert_eq!(standings.now().failed.len(), FAILED_MAX);
    }
}
