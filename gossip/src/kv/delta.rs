//! Telling another what it lacks, key by key.
//!
//! Whoever asks sends its vector. An answer is what the other holds of some keys, with all of their writes that the asker
//! lacks, newer than the question or not: of a key that is told in part, what it lacks would come to stand later though it was
//! replaced. Each answer is one read; different keys may be told at different moments. The asker asks again until nothing is
//! missing, and forgets its question, and whatever is answered to it, when it starts anew.

use std::collections::{BTreeMap, BTreeSet};

use super::dot::{Dot, Dots};
use super::entry::Entry;
use super::key::Key;
use super::place::Place;
use super::replica::{DIGEST_LEN, Replica, Trouble};
use super::session::DROPPED_MAX;
use super::store::KvTx;
use super::vector::Vector;

/// With more writes missing, all is compared: that takes less than to tell them in parts, each of which looks at all.
pub const MISSING_MAX: u64 = 1 << 13;

/// What one node holds of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The key.
    pub key: Key,
    /// All that is held of it.
    pub entry: Entry,
    /// All writes of it that whoever asked lacks.
    pub dots: Dots,
}

/// A vector, as it is asked with: what it is in the buckets that are thought to differ, and what it comes to in each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Of each bucket that is not told.
    pub digests: BTreeMap<u8, [u8; DIGEST_LEN]>,
    /// Buckets that are told.
    pub buckets: BTreeSet<u8>,
    /// What was seen of their actors.
    pub part: Vector,
}

/// How much is told at once.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Keys at most.
    pub keys: usize,
    /// Bytes of values after which no more keys are added.
    pub bytes: usize,
}

impl Budget {
    pub(super) fn is_spent(&self) -> bool {
        self.keys == 0 || self.bytes == 0
    }

    /// Tells a key more.
    pub(super) fn take(&mut self, entry: &Entry) {
        let len = entry.siblings().iter().map(|sibling| sibling.value.len()).sum();
        (self.keys, self.bytes) = (self.keys.saturating_sub(1), self.bytes.saturating_sub(len));
    }
}

/// What is answered to a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These keys, as they are under the vector whose part this is: elsewhere it is as the one that was asked with.
    Keys {
        /// Some of those of which anything is missing; none if nothing is.
        keys: Vec<Told>,
        /// What the other has seen of the actors in the buckets that were told.
        part: Vector,
    },
    /// These buckets differ, too, and have to be told: all of the vector has to be known in one read.
    Differs(BTreeSet<u8>),
    /// Of some of what is missing it is not known any more of which keys it is: all has to be compared.
    TooOld,
}

/// Keys, and what is held of them.
pub(super) type Entries = Vec<(Key, Entry)>;

/// Writes by their keys.
pub(super) type Missing = BTreeMap<Key, Vec<Dot>>;

impl Replica {
    /// Asks with this vector, and tells these buckets of it.
    pub fn ask(&self, buckets: BTreeSet<u8>) -> Asked {
        let untold = (0..=u8::MAX).filter(|bucket| !buckets.contains(bucket));
        Asked {
            digests: untold.map(|bucket| (bucket, self.bucket_digest(bucket))).collect(),
            part: self.vector().part(|bucket| buckets.contains(&bucket)),
            buckets,
        }
    }

    /// Answers whoever asks with this.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn answer<T: KvTx>(&self, tx: &mut T, asked: &Asked, budget: Budget) -> Result<Answer, Trouble<T::Error>> {
        let is_known = |bucket: &u8| {
            asked.buckets.contains(bucket) || asked.digests.get(bucket) == Some(&self.bucket_digest(*bucket))
        };
        let differs: BTreeSet<u8> = (0..=u8::MAX).filter(|bucket| !is_known(bucket)).collect();
        if !differs.is_empty() {
            return Ok(Answer::Differs(differs));
        }
        let part = self.vector().part(|bucket| asked.buckets.contains(&bucket));
        let Some(missing) = self.missing(tx, &part, &asked.part, MISSING_MAX)? else { return Ok(Answer::TooOld) };
        let keys = missing.keys().take(budget.keys).cloned().collect();
        let mut told: Vec<Told> = Vec::new();
        let mut left = budget;
        for (key, entry) in self.entries(tx, keys, usize::MAX)?.unwrap_or_default() {
            if left.is_spent() {
                break;
            }
            left.take(&entry);
            let dots = missing.get(&key).into_iter().flatten().copied().collect();
            told.push(Told { key, entry, dots });
        }
        Ok(Answer::Keys { keys: told, part })
    }

    /// All writes that one vector has seen and another has not, by their keys. None if that cannot be said of each, or there
    /// are too many: of a key that is told in part, what it lacks would come to stand later though it was replaced.
    pub(super) fn missing<T: KvTx>(
        &self,
        tx: &mut T,
        seen: &Vector,
        asked: &Vector,
        count_max: u64,
    ) -> Result<Option<Missing>, Trouble<T::Error>> {
        let mut left = count_max;
        for (actor, run) in seen.missing_in(asked) {
            let len = run.end() - run.start() + 1;
            if len > left || tx.count_logged(&actor, run)? != len {
                return Ok(None);
            }
            left -= len;
        }
        let mut keys = Missing::new();
        for (actor, run) in seen.missing_in(asked) {
            for counter in run {
                let dot = Dot { actor, counter };
                let Some((key, _)) = tx.logged(&dot)? else { return Ok(None) };
                keys.entry(key).or_default().push(dot);
            }
        }
        Ok(Some(keys))
    }

    /// What is held of some keys, with proof that it is all: a row that was lost would be taken for one that was deleted. None
    /// if it is more than so many bytes.
    pub(super) fn entries<T: KvTx>(
        &self,
        tx: &mut T,
        keys: BTreeSet<Key>,
        len_max: usize,
    ) -> Result<Option<Entries>, Trouble<T::Error>> {
        let mut len = 0;
        let mut by_leaf: BTreeMap<usize, Vec<Key>> = BTreeMap::new();
        for key in keys {
            by_leaf.entry(Place::of(&key).leaf()).or_default().push(key);
        }
        let mut entries = Vec::new();
        for (leaf, keys) in by_leaf {
            let rows = self.leaf(tx, leaf)?;
            for key in keys {
                let row = rows.iter().find(|row| row.key == key);
                let entry = row.map(|row| row.entry.clone()).unwrap_or_default();
                len += key.as_bytes().len() + entry.siblings().iter().map(|sibling| sibling.value.len()).sum::<usize>();
                if len > len_max {
                    return Ok(None);
                }
                entries.push((key, entry));
            }
        }
        Ok(Some(entries))
    }

    /// How many of these keys would have no value any more by what another holds of them under its vector.
    ///
    /// # Errors
    /// When that cannot be said.
    pub(super) fn would_drop_of<T: KvTx>(
        &self,
        tx: &mut T,
        keys: &[Told],
        theirs: &Vector,
    ) -> Result<u64, Trouble<T::Error>> {
        let mut dropped = 0;
        // Fewer cannot be too many.
        if self.len() > DROPPED_MAX {
            for Told { key, entry, .. } in keys {
                let mut ours = self.load(tx, key)?.map(|(ours, _)| ours).unwrap_or_default();
                let had_value = !ours.siblings().is_empty();
                ours.merge(self.vector(), entry, theirs);
                dropped += u64::from(had_value && ours.siblings().is_empty());
            }
        }
        Ok(dropped)
    }

    /// Takes in what another holds of some keys under its vector, as an answer to a vector that this replica had in this life.
    /// How many writes were new: none while all is being compared.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn merge<T: KvTx>(&mut self, tx: &mut T, keys: &[Told], theirs: &Vector) -> Result<usize, Trouble<T::Error>> {
        if self.session.is_some() {
            return Ok(0);
        }
        self.notice_all(theirs);
        let (mut new, mut checked) = (0, BTreeSet::new());
        for Told { key, entry, dots } in keys {
            entry.names().for_each(|dot| self.notice(&dot));
            let loaded = self.load_from_whole(tx, key, &mut checked)?;
            let (mut ours, before) = loaded.map_or_else(Default::default, |(entry, hash)| (entry, Some(hash)));
            ours.merge(self.vector(), entry, theirs);
            self.store(tx, key, before, &ours)?;
            for dot in dots.iter().filter(|dot| theirs.contains(dot)) {
                if !self.vector().contains(dot) {
                    tx.append(dot, key, None)?;
                    self.learn(*dot);
                    new += 1;
                }
            }
        }
        Ok(new)
    }
}
