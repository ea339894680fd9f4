//! What has changed, for whoever watches: keys in the order in which they changed last.
//!
//! A key is there once, however often it has changed: who comes late hears of what is there now and not of all that was in
//! between. So what is kept is bounded by the keys, and at last by [`KEYS_MAX`] and [`LEN_MAX`]; who comes too late is told
//! that something was lost, and has to look at everything.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use super::key::Key;

/// Most keys that are kept.
pub const KEYS_MAX: usize = 1 << 16;

/// Most bytes of keys that are kept.
pub const LEN_MAX: usize = 4 << 20;

/// Up to where somebody has heard: opaque to them, and good for the same life of the same node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    life: u64,
    heard: u64,
}

/// Why text is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no cursor of a watch")]
pub struct NoCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.life, self.heard)
    }
}

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let (life, heard) = text.split_once('-').ok_or(NoCursor)?;
        let life = u64::from_str_radix(life, 16).map_err(|_not_hex| NoCursor)?;
        let cursor = Self { life, heard: heard.parse().map_err(|_no_number| NoCursor)? };
        // One form of each, so that they can be compared as text.
        if cursor.to_string() == text { Ok(cursor) } else { Err(NoCursor) }
    }
}

/// What somebody has not heard of yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether there was more that is not known any more: all has to be looked at.
    pub is_lossy: bool,
    /// Keys, those first that have not changed for longest.
    pub keys: Vec<Key>,
    /// Up to here they are told.
    pub cursor: Cursor,
}

/// Keys as they change.
pub struct Changes {
    life: u64,
    by_number: BTreeMap<u64, Key>,
    number_of: HashMap<Key, u64>,
    len: usize,
    last: u64,
    /// The last change of which it is not known any more what it was.
    forgotten: u64,
}

impl Changes {
    /// Of a life of a node, which is called so.
    pub fn new(life: u64) -> Self {
        Self { life, by_number: BTreeMap::new(), number_of: HashMap::new(), len: 0, last: 0, forgotten: 0 }
    }

    /// A key has changed.
    pub fn add(&mut self, key: Key) {
        self.last += 1;
        // Of two equal keys the newer stays, in both maps: the older has bytes of its own.
        match self.number_of.remove(&key) {
            Some(before) => drop(self.by_number.remove(&before)),
            None => self.len += key.as_bytes().len(),
        }
        self.number_of.insert(key.clone(), self.last);
        self.by_number.insert(self.last, key);
        while (self.by_number.len() > KEYS_MAX || self.len > LEN_MAX)
            && let Some((number, key)) = self.by_number.pop_first()
        {
            self.number_of.remove(&key);
            self.len -= key.as_bytes().len();
            self.forgotten = number;
        }
    }

    /// Where whoever begins now has heard all.
    pub fn now(&self) -> Cursor {
        Cursor { life: self.life, heard: self.last }
    }

    /// What has changed since, of keys that begin so, about `count` at most.
    pub fn since(&self, cursor: Cursor, prefix: &str, count: usize) -> News {
        let is_lossy = cursor.life != self.life || cursor.heard < self.forgotten || cursor.heard > self.last;
        let mut heard = if is_lossy { self.forgotten } else { cursor.heard };
        let mut keys = Vec::new();
        for (number, key) in self.by_number.range(heard + 1..) {
            if keys.len() == count {
                return News { is_lossy, keys, cursor: Cursor { life: self.life, heard } };
            }
            if key.as_str().starts_with(prefix) {
                keys.push(key.clone());
            }
            heard = *number;
        }
        News { is_lossy, keys, cursor: self.now() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn key(n: usize) -> Key {
        Key::new(format!("{}/{n}", ["a", "b"][n % 2])).expect("a key")
    }

    proptest! {
        #[test]
        fn whoever_goes_on_hears_of_each_key_after_its_last_change(
            steps in proptest::collection::vec((0..8_usize, 0..4_usize), 0..60),
        ) {
            let mut changes = Changes::new(7);
            let mut cursor = changes.now();
            let mut unheard: BTreeSet<Key> = BTreeSet::new();
            for (n, count) in steps {
                changes.add(key(n));
                if n % 2 == 1 {
                    unheard.insert(key(n));
                }
                let news = changes.since(cursor, "b/", count);
                prop_assert!(!news.is_lossy && news.keys.len() <= count);
                for key in &news.keys {
                    prop_assert!(unheard.remove(key), "{key:?} has changed since");
                }
                cursor = news.cursor.to_string().parse().expect("it was given out");
            }
            let rest: BTreeSet<Key> = changes.since(cursor, "b/", usize::MAX).keys.into_iter().collect();
            prop_assert_eq!(rest, unheard);
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_was_lost_is_marked() {
        let mut changes = Changes::new(7);
        let begin = changes.now();
        (0..KEYS_MAX).for_each(|n| changes.add(key(n)));
        assert!(!changes.since(begin, "", 1).is_lossy);
        let early = changes.since(begin, "", 1).cursor;
        changes.add(key(KEYS_MAX));
        assert_eq!(changes.by_number.len(), KEYS_MAX);
        let news = changes.since(begin, "", usize::MAX);
        assert!(news.is_lossy && news.keys.len() == KEYS_MAX);
        assert!(!changes.since(early, "", 1).is_lossy, "that one was heard of");
        // Long keys are fewer.
        let long = |n: usize| Key::new(format!("{n:01000}")).expect("a key");
        (0..2 * LEN_MAX / 1000).for_each(|n| changes.add(long(n)));
        let kept: usize = changes.by_number.values().map(|key| key.as_bytes().len()).sum();
        assert_eq!(kept, changes.len);
        assert!((LEN_MAX - 1000..=LEN_MAX).contains(&kept), "{kept}");
        assert_eq!(changes.by_number.len(), changes.number_of.len());
    }

    #[test]
    fn a_cursor_of_another_life_or_of_what_is_to_come_has_lost_something() {
        let (mut one, mut other) = (Changes::new(1), Changes::new(2));
        one.add(key(1));
        other.add(key(2));
        let news = other.since(one.now(), "", 9);
        assert_eq!((news.is_lossy, news.keys), (true, vec![key(2)]));
        assert!(other.since(Cursor { life: 2, heard: 2 }, "", 9).is_lossy);
        assert!(!other.since(news.cursor, "", 9).is_lossy);
        for text in ["", "-", "1-2", "000000000000000g-1", "0000000000000001-01", "0000000000000001-+1"] {
            assert_eq!(text.parse::<Cursor>(), Err(NoCursor), "{text}");
        }
    }
}
