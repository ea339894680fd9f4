//! The JSON documents about the replicated map.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::Problem;

/// Header with the token of what was read: a write with it replaces exactly that.
pub const CONTEXT_HEADER: &str = "p2p-context";

/// Most keys of one answer to `GET /v1/keys`.
pub const KEYS_AT_ONCE_MAX: u32 = 1000;

/// What stands at a key: result of `GET /v1/kv/{key}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEntry {
    /// The key.
    pub key: String,
    /// Names what was read: a write with it replaces exactly that.
    pub token: String,
    /// Values that were written without knowing of each other; one, where nobody did that.
    pub siblings: Vec<KvSibling>,
}

/// One of the values of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvSibling {
    /// The value, as its encoding says.
    pub value: String,
    /// How it stands here.
    pub encoding: KvEncoding,
    /// The write that it is of.
    pub dot: String,
}

impl KvSibling {
    /// A value as text where it is that, else in base64.
    pub fn new(value: &[u8], dot: String) -> Self {
        match std::str::from_utf8(value) {
            Ok(text) => Self { value: text.to_owned(), encoding: KvEncoding::Utf8, dot },
            Err(_) => Self { value: BASE64.encode(value), encoding: KvEncoding::Base64, dot },
        }
    }

    /// The bytes of the value; None where it is not what its encoding says.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self.encoding {
            KvEncoding::Utf8 => Some(self.value.clone().into_bytes()),
            KvEncoding::Base64 => BASE64.decode(self.value.as_bytes()).ok(),
        }
    }
}

/// How a value stands in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvEncoding {
    /// As it is.
    #[serde(rename = "utf-8")]
    Utf8,
    /// In base64 with padding (RFC 4648, section 4).
    #[serde(rename = "base64")]
    Base64,
}

/// What became of a write: result of `PUT` and `DELETE` on `/v1/kv/{key}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvWritten {
    /// The key.
    pub key: String,
    /// Names what this write has left to be replaced: itself, or nothing after a delete.
    pub token: String,
    /// Values that stand now.
    pub siblings: u32,
    /// Nodes on whose disks it is, as far as it was waited for, this one included.
    pub acks: u32,
    /// Set when fewer nodes than asked for had it in time; it stands all the same, and goes on to spread.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<Problem>,
}

/// Keys in the order of their bytes: result of `GET /v1/keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvKeys {
    /// Some of them.
    pub keys: Vec<KvKey>,
    /// What to ask for the rest with (`after`); null at the end.
    pub next: Option<String>,
}

/// A key that has a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvKey {
    /// The key.
    pub key: String,
    /// Values that stand.
    pub siblings: u32,
}

/// What has happened to keys: one event of `GET /v1/keys/watch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEvent {
    /// Events after it can be asked for by this.
    pub id: String,
    /// What it was.
    pub kind: KvEventKind,
    /// What stands at the key now; absent from a gap.
    #[serde(flatten, skip_serializing_if = "Option::is_none", default)]
    pub entry: Option<KvEntry>,
}

/// What can happen to keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvEventKind {
    /// Something stands there, and is not what stood there before.
    Put,
    /// Nothing stands there any more.
    Delete,
    /// Some changes before the next are not known any more: all keys have to be looked at.
    Gap,
}

impl KvEventKind {
    /// The word used in JSON.
    pub fn word(self) -> &'static str {
        match self {
            KvEventKind::Put => "put",
            KvEventKind::Delete => "delete",
            KvEventKind::Gap => "gap",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_whatever_its_bytes_are() {
        for value in [&b""[..], b"text", "\u{e4}\0".as_bytes(), &[0xff, 0, 0x80]] {
            let sibling = KvSibling::new(value, "dot".into());
            let json = serde_json::to_string(&sibling).expect("plain data");
            let read: KvSibling = serde_json::from_str(&json).expect("its own form");
            assert_eq!(read.bytes().as_deref(), Some(value), "{json}");
        }
    }

    #[test]
    fn an_event_is_flat() {
        let entry = KvEntry { key: "color".into(), token: "t".into(), siblings: Vec::new() };
        let event = KvEvent { id: "1-2".into(), kind: KvEventKind::Delete, entry: Some(entry) };
        let json = serde_json::to_string(&event).expect("plain data");
        assert_eq!(json, r#"{"id":"1-2","kind":"delete","key":"color","token":"t","siblings":[]}"#);
        assert_eq!(serde_json::from_str::<KvEvent>(&json).expect("its own form"), event);
        let gap = KvEvent { id: "1-3".into(), kind: KvEventKind::Gap, entry: None };
        let json = serde_json::to_string(&gap).expect("plain data");
        assert_eq!(json, r#"{"id":"1-3","kind":"gap"}"#);
        assert_eq!(serde_json::from_str::<KvEvent>(&json).expect("its own form"), gap);
    }
}
