//! Comparing tables: a digest rides on every exchange, and where two differ for longer than news take, the buckets that
//! differ are swapped.

use std::sync::Arc;
use std::time::Duration;

use super::fact::Fact;
use super::members::{self, BUCKETS, Sums};
use super::message::{BucketSet, FACTS_LEN_MAX, in_parts};
use super::name::{Keys, Member};
use super::time::Time;
use super::{At, Machine, Message};

/// A comparison that brought nothing after so long is given up.
const COMPARISON_TIME_MAX: Duration = Duration::from_secs(2);

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

impl<K: Keys> Machine<K> {
    /// Looks at the digest of somebody else's table; on a new connection a difference counts at once.
    pub(super) fn compare_digest(&mut self, at: &mut At, with: Member, digest: u64, is_new: bool) {
        let differs = digest != self.members.digest();
        let differ_time = self.config.differ_time;
        let Some(link) = self.links.get_mut(with) else { return };
        if !differs {
            link.differs_since = None;
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
        for (bucket, some) in by_bucket.into_iter().enumerate().filter(|(bucket, _)| contains(&differing, *bucket)) {
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
            self.take(at, from, fact, false);
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
