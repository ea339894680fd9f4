//! What a member's owner says of it, as it stands in the record: a name for people, and tags.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use p2p_gossip::swim::TAGS_LEN_MAX;

/// The first byte of the encoding.
const FORMAT: u8 = 1;

/// Longest key of a tag, in bytes.
const KEY_LEN_MAX: usize = 64;

/// A member's name and tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    /// For people; need not be unique.
    pub(crate) name: String,
    /// By key.
    pub(crate) tags: BTreeMap<String, String>,
}

impl Labels {
    /// The encoding: format, name, then keys and values in order, each with its length before it.
    ///
    /// # Errors
    /// When that is too long for a record, or a key makes no sense: which, and how.
    pub(crate) fn encode(&self) -> Result<Bytes, String> {
        let mut bytes = BytesMut::new();
        bytes.put_u8(FORMAT);
        put(&mut bytes, &self.name);
        for (key, value) in &self.tags {
            if key.is_empty() || key.len() > KEY_LEN_MAX {
                return Err(format!("the key of a tag has 1 to {KEY_LEN_MAX} bytes, and {key:?} has {}", key.len()));
            }
            put(&mut bytes, key);
            put(&mut bytes, value);
        }
        match bytes.len() {
            0..=TAGS_LEN_MAX => Ok(bytes.freeze()),
            len => Err(format!("name and tags take {len} bytes, and may take {TAGS_LEN_MAX}")),
        }
    }

    /// Reads what a member says; what makes no sense is left out.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let mut labels = Self::default();
        let Some((&FORMAT, mut rest)) = bytes.split_first() else { return labels };
        let Some(name) = take(&mut rest) else { return labels };
        labels.name = name;
        while let (Some(key), Some(value)) = (take(&mut rest), take(&mut rest)) {
            labels.tags.insert(key, value);
        }
        labels
    }
}

fn put(bytes: &mut BytesMut, text: &str) {
    // Longer ones exceed the whole, which is checked in the end.
    bytes.put_u16_le(u16::try_from(text.len()).unwrap_or(u16::MAX));
    bytes.put_slice(text.as_bytes());
}

fn take(rest: &mut &[u8]) -> Option<String> {
    let (len, after) = rest.split_first_chunk()?;
    let (text, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    *rest = after;
    // Shown to people: what could move a terminal's cursor is not.
    let text = String::from_utf8_lossy(text);
    Some(text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(tags: &[(&str, &str)]) -> Labels {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Labels { name: "höst".into(), tags }
    }

    #[test]
    fn what_is_said_is_what_is_read() {
        for labels in [labels(&[]), labels(&[("rack", "4"), ("zone", ""), ("a", "=,\"")])] {
            assert_eq!(Labels::decode(&labels.encode().expect("short")), labels);
        }
        assert_eq!(
            &Labels { name: "n".into(), ..labels(&[("k", "v")]) }.encode().expect("short")[..],
            b"\x01\x01\0n\x01\0k\x01\0v"
        );
    }

    #[test]
    fn too_much_and_keys_without_sense_are_refused() {
        let long = "v".repeat(TAGS_LEN_MAX);
        assert!(labels(&[("k", &long)]).encode().is_err());
        assert!(labels(&[("k", &"v".repeat(70_000))]).encode().is_err());
        assert!(labels(&[("", "v")]).encode().is_err());
        assert!(labels(&[(&"k".repeat(KEY_LEN_MAX + 1), "v")]).encode().is_err());
    }

    #[test]
    fn what_others_say_is_read_as_far_as_it_makes_sense() {
        let encoded = labels(&[("rack", "4"), ("zone", "b")]).encode().expect("short");
        for len in 0..encoded.len() {
            assert!(Labels::decode(&encoded[..len]).tags.len() <= 1, "the second is cut short at {len}");
        }
        assert_eq!(Labels::decode(b"\x02\x01\0n"), Labels::default());
        assert_eq!(Labels::decode(b"\x01\x05\0a\x1b[2J").name, "a\u{fffd}[2J");
    }
}
