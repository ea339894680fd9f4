//! Telling another what it lacks, key by key.
//!
//! Whoever asks sends its vector. An answer is what the other holds of some keys, with all of their writes that the asker
//! lacks, newer than the question or not: of a key that is told in part, what it lacks would come to stand later though it was
//! replaced. Each answer is one read; different keys may be told at different moments. The asker asks again until nothing is
//! missing, and forgets its question, and whatever is answered to it, when it starts anew.

use std::collections::BTreeSet;

use super::dot::{Dot, Dots};
use super::entry::Entry;
use super::key::Key;
use super::replica::{Replica, Trouble};
use super::store::KvTx;
use super::vector::Vector;

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

/// What is answered to a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These keys, as they are under this vector.
    Keys {
        /// Some of those of which anything is missing; none if nothing is.
        keys: Vec<Told>,
        /// What the other has seen.
        vector: Vector,
    },
    /// Of some of what is missing it is not known any more of which keys it is: all has to be compared.
    TooOld,
}

impl Replica {
    /// Answers whoever has seen this much, with so many keys at most.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn answer<T: KvTx>(&self, tx: &mut T, asked: &Vector, keys_max: usize) -> Result<Answer, Trouble<T::Error>> {
        if !asked.covers(self.dropped()) {
            return Ok(Answer::TooOld);
        }
        let mut keys: Vec<Told> = Vec::new();
        let mut found: BTreeSet<Key> = BTreeSet::new();
        for (actor, run) in self.vector().missing_in(asked) {
            for counter in run {
                if keys.len() == keys_max {
                    return Ok(Answer::Keys { keys, vector: self.vector().clone() });
                }
                let Some((key, _)) = tx.logged(&Dot { actor, counter })? else { return Ok(Answer::TooOld) };
                if found.insert(key.clone()) {
                    let dots = tx.logged_of(&key)?;
                    let dots = dots.into_iter().filter(|dot| self.vector().contains(dot) && !asked.contains(dot));
                    keys.push(Told { entry: self.get(tx, &key)?, dots: dots.collect(), key });
                }
            }
        }
        Ok(Answer::Keys { keys, vector: self.vector().clone() })
    }

    /// Takes in what another holds of some keys under its vector, as an answer to a vector that this replica had since it was
    /// opened. How many writes were new.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn merge<T: KvTx>(&mut self, tx: &mut T, keys: &[Told], theirs: &Vector) -> Result<usize, Trouble<T::Error>> {
        let mut new = 0;
        for Told { key, entry, dots } in keys {
            let loaded = self.load(tx, key)?;
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
