//! Dotted version vector sets, as their authors have them (Almeida et al., "Scalable and accurate causality tracking for
//! eventually consistent stores", DAIS 2014, section 5): another way to say which values stand, for the tests.

use std::collections::{BTreeMap, BTreeSet};

/// Of each server how many writes it has made, and the values of the last of them that stand, the newest first.
#[derive(Clone, Debug, Default)]
pub(super) struct DvvSet(BTreeMap<usize, (usize, Vec<u32>)>);

impl DvvSet {
    /// What a reader gets beside the values.
    pub(super) fn context(&self) -> Self {
        Self(self.0.iter().map(|(server, (count, _))| (*server, (*count, Vec::new()))).collect())
    }

    pub(super) fn values(&self) -> BTreeSet<u32> {
        self.0.values().flat_map(|(_, values)| values.iter().copied()).collect()
    }

    /// Takes in what another has seen, and what has become of it there.
    pub(super) fn sync(&mut self, other: &Self) {
        for (server, (theirs, their_values)) in &other.0 {
            let (count, values) = self.0.entry(*server).or_default();
            if *count >= *theirs {
                merge(*count, values, *theirs, their_values.len());
            } else {
                let mut merged = their_values.clone();
                merge(*theirs, &mut merged, *count, values.len());
                (*count, *values) = (*theirs, merged);
            }
        }
    }

    /// A write at a server, of whoever has read this context; None deletes.
    pub(super) fn write(&mut self, server: usize, context: &Self, value: Option<u32>) {
        self.sync(context);
        if let Some(value) = value {
            let (count, values) = self.0.entry(server).or_default();
            *count += 1;
            values.insert(0, value);
        }
    }
}

/// Of the values of one side those that stand beside the other, which has seen no more.
fn merge(count: usize, values: &mut Vec<u32>, theirs: usize, their_values: usize) {
    if count - values.len() < theirs - their_values {
        values.truncate(count - theirs + their_values);
    }
}
