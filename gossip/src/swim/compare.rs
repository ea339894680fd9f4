//! Comparing tables: a digest rides on every exchange, and where two differ for longer than news take, the buckets that
//! differ are swapped.

use std::sync::Arc;
use std::time::Duration;

use super::fact::Fact;
use super::members::{self, BUCKETS, Sums};
use super::message::{BUCKETS_LEN_MAX, BucketSet, FACTS_LEN_MAX, in_parts};
use super::name::{Keys, Member};
use super::time::Time;
use super::{At, Machine, Message};

/// A comparison that brought nothing after so long is given up.
const COMPARISON_TIME_MAX: Duration = Duration::from_secs(2);

/// Two tables that were equal so long ago still count as that.
const AGREED_TIME: Duration = Duration::from_secs(10);

/// The one that is under way.
pub(super) struct Comparison {
    with: Member,
    until: Time,
}

impl Comparison {
    pub(super) fn due(&self) -> Time {
        self.until
    }
}

fn contains(set: &BucketSet, bucket: usize) -> bool {
    set[bucket / 64] >> (bucket % 64) & 1 == 1
}

/// Leaves out what one frame does not hold: the receiver says of it that it is lacking here, which is for nothing.
fn shorten(facts: &mut Vec<Arc<Fact>>) {
    let mut len = 0;
    let beyond = facts.iter().position(|fact| {
        len += fact.encoded_len();
        len > BUCKETS_LEN_MAX
    });
    facts.truncate(beyond.unwrap_or(facts.len()));
}

impl<K: Keys> Machine<K> {
    /// Whether this node knows of everybody, as far as that can be known: half of those whom it watches have had the same
    /// table a moment ago. Whoever is alone, and does not expect to be, knows of nobody.
    pub fn is_complete(&self, now: Time) -> bool {
        if self.neighbours.is_empty() {
            return self.join.contacts().is_empty() && self.members.garbage().next().is_none();
        }
        let agrees = |member: &&Member| {
            let agreed_at = self.links.get(**member).and_then(|link| link.agreed_at);
            agreed_at.is_some_and(|agreed_at| now.since(agreed_at) <= AGREED_TIME)
        };
        let agreeing = self.neighbours.iter().filter(agrees).count();
        agreeing * 2 >= self.neighbours.len() && !self.health.is_isolated()
    }

    /// Looks at the digest of somebody else's table; on a new connection a difference counts at once.
    pub(super) fn compare_digest(&mut self, at: &mut At, with: Member, digest: u64, is_new: bool) {
        let differs = digest != self.members.digest();
        let differ_time = self.config.differ_time;
        let Some(link) = self.links.get_mut(with) else { return };
        if !differs {
            link.differs_since = None;
            link.agreed_at = Some(at.now);
            return;
        }
        let since = if is_new && link.ring { at.now.before(differ_time) } else { at.now };
        let since = *link.differs_since.get_or_insert(since);
        if self.comparison.is_none() && at.now.since(since) >= differ_time {
            self.compare(at, with);
        }
    }

    fn compare(&mut self, at: &mut At, with: Member) {
        let Some(link) = self.links.get_mut(with) else { return };
        link.differs_since = None;
        self.comparison = Some(Comparison { with, until: at.now + COMPARISON_TIME_MAX });
        let sums = self.members.sums().clone();
        self.send(with, Message::Sums(sums));
    }

    pub(super) fn compare_on_time(&mut self, at: &mut At) {
        if self.comparison.as_ref().is_some_and(|comparison| comparison.until <= at.now) {
            self.comparison = None;
        }
    }

    pub(super) fn on_sums(&mut self, at: &mut At, from: Member, sums: &Sums) {
        let mut by_bucket: Vec<Vec<Arc<Fact>>> = vec![Vec::new(); BUCKETS];
        let mut differing: BucketSet = Default::default();
        for (bucket, (ours, theirs)) in self.members.sums().iter().zip(sums.iter()).enumerate() {
            if ours != theirs {
                differing[bucket / 64] |= 1 << (bucket % 64);
            }
        }
        for (member, fact) in self.members.iter().filter(|(_, fact)| fact.is_live()) {
            let bucket = members::bucket(at.directory, member);
            if contains(&differing, bucket) {
                by_bucket[bucket].push(fact.clone());
            }
        }
        // As many buckets in one message as go into one; what the receiver has beside it lacks here.
        let (mut set, mut facts, mut len) = (BucketSet::default(), Vec::new(), 0);
        for (bucket, mut some) in by_bucket.into_iter().enumerate().filter(|(bucket, _)| contains(&differing, *bucket))
        {
            shorten(&mut some);
            let more: usize = some.iter().map(|fact| fact.encoded_len()).sum();
            if len + more > FACTS_LEN_MAX && len > 0 {
                let full = Message::Buckets(Box::new(std::mem::take(&mut set)), std::mem::take(&mut facts));
                self.send(from, full);
                len = 0;
            }
            set[bucket / 64] |= 1 << (bucket % 64);
            facts.extend(some);
            len += more;
        }
        self.send(from, Message::Buckets(Box::new(set), facts));
    }

    pub(super) fn on_buckets(&mut self, at: &mut At, from: Member, set: &BucketSet, facts: Vec<Arc<Fact>>) {
        if self.comparison.as_ref().is_some_and(|comparison| comparison.with == from) {
            self.comparison = None;
        }
        let mut theirs: Vec<Member> = Vec::with_capacity(facts.len());
        for fact in &facts {
            if !fact.is_live() {
                continue;
            }
            if !self.take(at, from, fact, false) {
                return;
            }
            if let Some(member) = at.directory.find(fact.subject()) {
                // Where ours is newer they hear it as of anything stale.
                theirs.push(member);
            }
        }
        theirs.sort_unstable();
        let lacking = self.members.iter().filter(|(member, fact)| {
            fact.is_live()
                && contains(set, members::bucket(at.directory, *member))
                && theirs.binary_search(member).is_err()
        });
        let lacking: Vec<Arc<Fact>> = lacking.map(|(_, fact)| fact.clone()).collect();
        for part in in_parts(lacking) {
            self.send(from, Message::Known(part));
        }
    }
}
