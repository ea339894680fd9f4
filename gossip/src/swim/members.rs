//! The newest fact about every member that is known, and a digest of those who are here.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use super::fact::Fact;
use super::name::{Directory, Member};

/// Parts that tables are compared in, by the first byte of a name's hash.
pub const BUCKETS: usize = 256;

/// A sum for each bucket of a table.
pub type Sums = Box<[u64; BUCKETS]>;

/// Members that are known at all, at most: a bucket of so many still goes into one frame.
pub const MEMBERS_MAX: usize = 32_768;

/// Members that are down or have left and are remembered: as many as are here, and at least so many. The oldest are
/// forgotten first.
pub const GARBAGE_MIN: usize = 1024;

/// Members that are drawn before all are looked through.
const TRIES: u32 = 32;

/// The table of one node.
///
/// The digest is of the living alone: whoever disagrees about who is here has another digest, and those who were forgotten
/// make no difference.
#[derive(Clone)]
pub struct Members {
    facts: Vec<Option<Arc<Fact>>>,
    /// A bit for each of those who are here: asked far more often than the facts themselves.
    here: Vec<u64>,
    sums: Sums,
    digest: u64,
    live: usize,
    known: usize,
    /// Those who are not here, oldest first; some may be back by now.
    garbage: VecDeque<Member>,
}

/// What came of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It is the newest of its subject.
    Newer,
    /// It was known.
    Same,
    /// There is a newer one.
    Older,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            facts: Vec::new(),
            here: Vec::new(),
            sums: Box::new([0; BUCKETS]),
            digest: 0,
            live: 0,
            known: 0,
            garbage: VecDeque::new(),
        }
    }
}

/// The bucket of a member: members are spread evenly, whatever their names.
pub(super) fn bucket(directory: &Directory, member: Member) -> usize {
    usize::from(directory.spread(member))
}

impl Members {
    /// The newest fact about a member.
    pub fn get(&self, member: Member) -> Option<&Arc<Fact>> {
        self.facts.get(member.index())?.as_ref()
    }

    /// Whether a member is here, as far as this node knows.
    pub fn is_live(&self, member: Member) -> bool {
        let word = self.here.get(member.index() / 64);
        word.is_some_and(|word| word >> (member.index() % 64) & 1 == 1)
    }

    /// Those who are here, as far as this node knows, in the order of the directory.
    pub fn living(&self) -> impl Iterator<Item = Member> + '_ {
        self.here.iter().zip(0_u32..).flat_map(|(word, at)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(Member(at * 64 + bit))
            })
        })
    }

    /// Any of those who are here and wanted, each as likely as another.
    pub(super) fn any_living(&self, rng: &mut SmallRng, is_wanted: impl Fn(Member) -> bool) -> Option<Member> {
        let is_it = |member: &Member| self.is_live(*member) && is_wanted(*member);
        let slots = u32::try_from(self.facts.len()).ok().filter(|slots| *slots > 0)?;
        // Most are most of the time, and thousands need not be counted for one.
        let found = (0..TRIES).map(|_| Member(rng.random_range(0..slots))).find(is_it);
        found.or_else(|| self.living().filter(is_it).choose(rng))
    }

    /// Members that are here, this one included.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Whether nobody else can be known.
    pub fn is_full(&self) -> bool {
        self.known >= MEMBERS_MAX
    }

    /// All that is known, in the order of the directory.
    pub fn iter(&self) -> impl Iterator<Item = (Member, &Arc<Fact>)> + '_ {
        self.facts.iter().enumerate().filter_map(|(index, fact)| {
            let member = Member(u32::try_from(index).expect("it came from one"));
            Some((member, fact.as_ref()?))
        })
    }

    /// How a fact stands to what is known; nothing changes.
    pub fn compare(&self, member: Member, fact: &Fact) -> Merged {
        let Some(known) = self.get(member) else { return Merged::Newer };
        match fact.precedence().cmp(&known.precedence()) {
            std::cmp::Ordering::Greater => Merged::Newer,
            std::cmp::Ordering::Equal => Merged::Same,
            std::cmp::Ordering::Less => Merged::Older,
        }
    }

    /// Keeps a fact if it is the newest of its subject.
    pub fn merge(&mut self, directory: &Directory, member: Member, fact: &Arc<Fact>) -> Merged {
        let merged = self.compare(member, fact);
        if merged != Merged::Newer {
            return merged;
        }
        if self.facts.len() <= member.index() {
            self.facts.resize(member.index() + 1, None);
            self.here.resize(member.index() / 64 + 1, 0);
        }
        let before = self.facts[member.index()].replace(fact.clone());
        self.known += usize::from(before.is_none());
        let was_live = self.is_live(member);
        let (word, bit) = (member.index() / 64, 1_u64 << (member.index() % 64));
        self.here[word] = if fact.is_live() { self.here[word] | bit } else { self.here[word] & !bit };
        let bucket = bucket(directory, member);
        if let Some(before) = before.filter(|_| was_live) {
            self.add(bucket, weight(&before).wrapping_neg());
            self.live -= 1;
        }
        if fact.is_live() {
            self.add(bucket, weight(fact));
            self.live += 1;
        } else if was_live || !self.garbage.contains(&member) {
            self.garbage.retain(|other| *other != member);
            self.garbage.push_back(member);
        }
        merged
    }

    /// Keeps another record of this node's own, of a version that nobody has seen yet.
    pub(super) fn replace_own(&mut self, directory: &Directory, me: Member, fact: &Arc<Fact>) {
        let Some(slot) = self.facts.get_mut(me.index()) else { return };
        let Some(before) = slot.replace(fact.clone()) else { return };
        self.add(bucket(directory, me), weight(fact).wrapping_sub(weight(&before)));
    }

    fn add(&mut self, bucket: usize, weight: u64) {
        self.sums[bucket] = self.sums[bucket].wrapping_add(weight);
        self.digest = self.digest.wrapping_add(weight);
    }

    /// Equal at nodes that agree on who is here and what they say of themselves.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The same, bucket by bucket.
    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Those who are not here, oldest first.
    pub fn garbage(&self) -> impl Iterator<Item = Member> + '_ {
        self.garbage.iter().copied().filter(|member| !self.is_live(*member))
    }

    /// Forgets those who have not been here for longest, as far as there are too many.
    pub fn forget_oldest(&mut self) -> Vec<Member> {
        let most = self.live.max(GARBAGE_MIN);
        let mut forgotten = Vec::new();
        while self.garbage.len() > most
            && let Some(member) = self.garbage.pop_front()
        {
            if !self.is_live(member) && self.facts[member.index()].take().is_some() {
                self.known -= 1;
                forgotten.push(member);
            }
        }
        forgotten
    }
}

/// What a living member adds to the sums. Its name is part of the hash.
fn weight(fact: &Fact) -> u64 {
    fact.record().hash()
}

#[cfg(test)]
mod tests {
    use super::super::fact::Down;
    use super::super::name::Name;
    use super::super::record::{Claims, Version};
    use super::super::testing::{claims, record};
    use super::*;

    fn said(n: u8, incarnation: u32) -> Arc<Fact> {
        Arc::new(Fact::Said(record(Claims { version: Version { generation: 1, incarnation }, ..claims(n) })))
    }

    fn down(n: u8, incarnation: u32) -> Arc<Fact> {
        Arc::new(Fact::Down(Down::new(said(n, incarnation).record().clone(), [])))
    }

    #[test]
    fn the_digest_is_that_of_who_is_here_whatever_happened_before() {
        let mut directory = Directory::default();
        let members: Vec<Member> = (0..20).map(|n| directory.insert(Name([n; 32]))).collect();
        let (mut one, mut other) = (Members::default(), Members::default());
        for n in 0..20 {
            one.merge(&directory, members[usize::from(n)], &said(n, 0));
            one.merge(&directory, members[usize::from(n)], &down(n, 0));
            assert_eq!(one.merge(&directory, members[usize::from(n)], &said(n, 0)), Merged::Older);
        }
        assert_eq!((one.live(), one.digest()), (0, 0));
        for n in (5..15).rev() {
            one.merge(&directory, members[usize::from(n)], &said(n, 1));
            other.merge(&directory, members[usize::from(n)], &said(n, 1));
        }
        assert_eq!((one.live(), one.digest()), (10, other.digest()));
        assert_eq!(one.sums(), other.sums());
        assert_eq!(one.garbage().count(), 10);
        other.merge(&directory, members[5], &said(5, 2));
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn the_oldest_of_those_who_are_gone_are_forgotten_first() {
        let mut directory = Directory::default();
        let mut table = Members::default();
        for n in 0..GARBAGE_MIN as u32 + 10 {
            let mut name = [0; 32];
            name[..4].copy_from_slice(&n.to_le_bytes());
            let member = directory.insert(Name(name));
            let of = record(Claims { name: Name(name), ..claims(0) });
            table.merge(&directory, member, &Arc::new(Fact::Down(Down::new(of, []))));
        }
        let forgotten = table.forget_oldest();
        assert_eq!(forgotten.iter().map(|member| member.number()).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert!(forgotten.iter().all(|member| table.get(*member).is_none()));
        assert_eq!(table.garbage().count(), GARBAGE_MIN);
    }
}
