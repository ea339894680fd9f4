//! An entry as it stands on disk, with a hash that tells whether it still is what was written.
//!
//! ```text
//! hash 16 of all after it, and of the key | format 1
//!   | siblings 4 | (peer 32, epoch 8, counter 8, value length 4, value, dots that it replaces) each | dots of the context
//! ```
//!
//! Numbers are little-endian, dots as in a write ([`super::op`]). Of an entry there is one encoding, so what is compared
//! between nodes is a hash of it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::dot::Dot;
use super::entry::{Entry, Sibling};
use super::key::Key;
use super::op::{self, VALUE_LEN_MAX};

const FORMAT: u8 = 1;

const HASH_LEN: usize = 16;

/// A row that is not what was written: its store has lost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a damaged row")]
pub(super) struct Damaged;

/// An entry's row, and the hash that it adds to a sum.
pub(super) fn encode(key: &Key, entry: &Entry) -> (Bytes, blake3::Hash) {
    let mut bytes = BytesMut::zeroed(HASH_LEN);
    bytes.put_u8(FORMAT);
    put(&mut bytes, entry);
    let hash = hash(key, &bytes[HASH_LEN..]);
    bytes[..HASH_LEN].copy_from_slice(&hash.as_bytes()[..HASH_LEN]);
    (bytes.freeze(), hash)
}

/// The entry of a row, and the hash that it has added to a sum.
pub(super) fn decode(key: &Key, row: &Bytes) -> Result<(Entry, blake3::Hash), Damaged> {
    let (stored, rest) = row.split_at_checked(HASH_LEN).ok_or(Damaged)?;
    let hash = hash(key, rest);
    let is_whole = hash.as_bytes()[..HASH_LEN] == *stored;
    let entry = is_whole.then(|| read(row.slice(HASH_LEN..))).flatten().ok_or(Damaged)?;
    Ok((entry, hash))
}

/// The entry of a row that [`encode`] has just made, in the row's bytes: it does not keep what it was made of.
pub(super) fn detached(row: &Bytes) -> Option<Entry> {
    read(row.slice(HASH_LEN..))
}

fn read(mut left: Bytes) -> Option<Entry> {
    let is_known = left.try_get_u8().ok()? == FORMAT;
    is_known.then(|| take(&mut left)).flatten().filter(|_| left.is_empty())
}

/// Writes an entry, as it is in a row.
pub(super) fn put(bytes: &mut BytesMut, entry: &Entry) {
    bytes.put_u32_le(entry.siblings().len() as u32);
    for Sibling { dot, value, replaces } in entry.siblings() {
        op::put_dot(bytes, dot);
        bytes.put_u32_le(value.len() as u32);
        bytes.put_slice(value);
        op::put_dots(bytes, replaces);
    }
    op::put_dots(bytes, entry.context());
}

/// Reads what [`put`] has written.
pub(super) fn take(left: &mut Bytes) -> Option<Entry> {
    let count = left.try_get_u32_le().ok()?;
    let mut siblings: Vec<Sibling> = Vec::new();
    for _ in 0..count {
        let dot: Dot = op::dot(left)?;
        let value_len = usize::try_from(left.try_get_u32_le().ok()?).ok().filter(|len| *len <= VALUE_LEN_MAX)?;
        let value = op::split(left, value_len)?;
        if siblings.last().is_some_and(|last| last.dot >= dot) {
            return None;
        }
        siblings.push(Sibling { dot, value, replaces: op::dots(left)? });
    }
    Some(Entry::from_parts(siblings, op::dots(left)?))
}

fn hash(key: &Key, row: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(b"p2p-node 2026-11 rows of the map");
    hasher.update(&(key.as_bytes().len() as u64).to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.update(row);
    hasher.finalize()
}
