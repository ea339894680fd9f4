//! What clients have seen, and whether it can be: judged without knowing how anything is kept.
//!
//! A value that was acknowledged stays until a write takes its place that can have: one with a token that its reader got with
//! the value, or one without a token, which takes the place of what its node holds at that moment. A value whose place was
//! taken by a write that has read it does not come back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::kv::Key;

/// How a write takes the place of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Of these values, which were read together.
    Read(BTreeSet<Bytes>),
    /// Of what the node holds then.
    Held,
    /// Of none.
    Beside,
}

/// A call.
#[derive(Clone, Debug)]
pub(super) struct Past {
    key: Key,
    /// Its value, which no other has; None deletes.
    value: Option<Bytes>,
    kind: Kind,
    /// It was acknowledged.
    done: bool,
    /// It is not known whether it took effect.
    unknown: bool,
}

/// All calls, by their numbers: of two that were not under way together the later has the higher.
#[derive(Default)]
pub(super) struct History {
    calls: BTreeMap<u64, Past>,
    /// Numbers of calls that began before another had ended.
    ended: BTreeMap<u64, u64>,
    next: u64,
}

impl History {
    /// The number that the next call gets.
    pub(super) fn next(&self) -> u64 {
        self.next + 1
    }

    /// A call begins.
    pub(super) fn begin(&mut self, key: Key, value: Option<Bytes>, kind: Kind) -> u64 {
        self.next += 1;
        self.calls.insert(self.next, Past { key, value, kind, done: false, unknown: true });
        self.next
    }

    /// It has ended: well, or without having done anything.
    pub(super) fn end(&mut self, number: u64, done: bool) {
        if let Some(call) = self.calls.get_mut(&number) {
            (call.done, call.unknown) = (done, false);
            self.ended.insert(number, self.next);
        }
    }

    /// What was acknowledged by a node whose disk was lost is not owed to anybody: as if its outcome was not known.
    pub(super) fn forget(&mut self, number: u64) {
        if let Some(call) = self.calls.get_mut(&number) {
            (call.done, call.unknown) = (false, true);
        }
    }

    /// Whether these values of a key can be all that is there when nothing is under way any more.
    pub(super) fn check(&self, key: &Key, values: &BTreeSet<Bytes>) -> Result<(), String> {
        let of_key: Vec<(&u64, &Past)> = self.calls.iter().filter(|(_, call)| call.key == *key).collect();
        for value in values {
            let made = of_key.iter().find(|(_, call)| call.value.as_ref() == Some(value));
            match made {
                Some((_, call)) if call.done || call.unknown => {}
                _ => return Err(format!("{key:?} has {value:?}, which nobody has put there")),
            }
            let over = of_key
                .iter()
                .find(|(_, call)| call.done && matches!(&call.kind, Kind::Read(read) if read.contains(value)));
            if let Some((number, _)) = over {
                return Err(format!("{key:?} has {value:?} again, the place of which call {number} has taken"));
            }
        }
        for (number, call) in &of_key {
            let Some(value) = call.value.as_ref().filter(|_| call.done) else { continue };
            let may_be_over = of_key.iter().any(|(other, later)| {
                let took_effect = later.done || later.unknown;
                took_effect
                    && other != number
                    && match &later.kind {
                        Kind::Read(read) => read.contains(value),
                        // It had not ended when this began.
                        Kind::Held => self.ended.get(other).is_none_or(|ended| ended >= number),
                        Kind::Beside => false,
                    }
            });
            if !values.contains(value) && !may_be_over {
                return Err(format!("{key:?} has lost {value:?}, which call {number} has put there"));
            }
        }
        Ok(())
    }
}
