//! Arithmetic of the BLAKE3 tree: how a file is cut into objects, and how their ids make the file's hash.
//!
//! A file is cut into leaves of [`Geometry::leaf_len`]; up to [`Geometry::fanout`] neighbours share an index, as many of
//! those the next one, and so on. Every id is a node of the file's own BLAKE3 tree (section 2.1 of the BLAKE3 paper), so
//! the root is what `b3sum` prints. A chaining value depends on where its bytes lie in the file.
//!
//! The length of a file is in no node of that tree. What binds it is its last chunk: the bytes there, hashed under their
//! position, lead to the root only for the true length. An [`Edge`] is that proof, at most [`Geometry::edge_len_max`]
//! bytes, and every index carries the one of its range; so an index proves its own shape, and a lying split of the same
//! tree is refused without asking anybody for anything else.

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Length of a BLAKE3 chunk in bytes.
const CHUNK_LEN: u64 = blake3::CHUNK_LEN as u64;

/// Length of an id in bytes.
pub const ID_LEN: usize = blake3::OUT_LEN;

/// Highest level of an index: 1 covers 1 GiB, 2 covers 1 TiB, 3 covers 1 PiB.
pub const LEVEL_MAX: u8 = 3;

/// The address of a file: the BLAKE3 hash of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RootId(pub [u8; ID_LEN]);

/// The non-root chaining value of a subtree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChainingValue(pub [u8; ID_LEN]);

/// What decides where an object lives, see [`crate::placement`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlacementKey(pub [u8; ID_LEN]);

/// The id of an object: of the whole file, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Id {
    /// The whole file.
    Root(RootId),
    /// A part.
    Subtree(ChainingValue),
}

/// Names an object completely: what it hashes to, and which bytes of the file it stands for.
///
/// The level is not part of it because the length decides it, see [`Geometry::level_of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its id.
    pub id: Id,
    /// First byte, counted from the beginning of the file.
    pub offset: u64,
    /// Bytes of the file below this object.
    pub len: u64,
}

impl ObjectRef {
    /// A whole file.
    pub fn root(id: RootId, len: u64) -> Self {
        Self { id: Id::Root(id), offset: 0, len }
    }

    /// The first byte after it.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
}

impl Id {
    /// The bytes, whatever they name.
    pub fn bytes(&self) -> &[u8; ID_LEN] {
        match self {
            Id::Root(RootId(bytes)) | Id::Subtree(ChainingValue(bytes)) => bytes,
        }
    }
}

/// Where files are cut. One constant serves the network ([`GEOMETRY`]); tests use smaller ones to reach higher levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a leaf: a power of two of at least 1 KiB.
    pub leaf_len: u64,
    /// Children of an index: a power of two.
    pub fanout: u64,
    /// Leaves that are placed together: a power of two, at most `fanout`.
    pub extent_leaves: u64,
}

/// The network's geometry: leaves of 1 MiB, 1,024 to an index, 16 placed together.
pub const GEOMETRY: Geometry = Geometry { leaf_len: 1 << 20, fanout: 1024, extent_leaves: 16 };

impl Geometry {
    /// Bytes below a full object of a level.
    pub const fn span(&self, level: u8) -> u64 {
        self.leaf_len * self.fanout.pow(level as u32)
    }

    /// Longest file.
    pub const fn len_max(&self) -> u64 {
        self.span(LEVEL_MAX)
    }

    /// Bytes that are placed together.
    pub const fn extent_len(&self) -> u64 {
        self.leaf_len * self.extent_leaves
    }

    /// The level of an object with `len` bytes below it: 0 is a leaf. None beyond [`Self::len_max`].
    pub fn level_of(&self, len: u64) -> Option<u8> {
        (0..=LEVEL_MAX).find(|level| len <= self.span(*level))
    }

    /// Whether a reference can name an object at all: a position that the tree has, and a length that fits there.
    pub fn admits(&self, reference: &ObjectRef) -> bool {
        let Some(level) = self.level_of(reference.len) else { return false };
        match reference.id {
            Id::Root(_) => reference.offset == 0,
            Id::Subtree(_) => {
                reference.len > 0
                    && reference.offset.is_multiple_of(self.span(level))
                    && reference.offset.checked_add(reference.len).is_some_and(|end| end <= self.len_max())
            }
        }
    }

    /// How many children an index over `len` bytes has; 0 for a leaf.
    pub fn child_count(&self, len: u64) -> usize {
        match self.level_of(len) {
            None | Some(0) => 0,
            Some(level) => len.div_ceil(self.span(level - 1)) as usize,
        }
    }

    /// Offset and length of child `i` of an index over `len` bytes at `offset`.
    pub fn child_range(&self, offset: u64, len: u64, i: usize) -> (u64, u64) {
        let level = self.level_of(len).filter(|level| *level > 0).expect("an index has a level above 0");
        let span = self.span(level - 1);
        let start = span * i as u64;
        (offset + start, span.min(len - start))
    }

    /// Exact length of an object's payload: the bytes of a leaf; the ids and the edge of an index.
    pub fn payload_len(&self, offset: u64, len: u64) -> u64 {
        match self.child_count(len) {
            0 => len,
            count => {
                let (_, last_len) = self.child_range(offset, len, count - 1);
                (count * ID_LEN) as u64 + edge_len(last_len)
            }
        }
    }

    /// Longest edge: one sibling for each doubling from a chunk to the longest file, and a chunk.
    pub const fn edge_len_max(&self) -> u64 {
        (self.len_max() / CHUNK_LEN).ilog2() as u64 * ID_LEN as u64 + CHUNK_LEN
    }

    /// Longest payload of any object.
    pub const fn payload_len_max(&self) -> u64 {
        let index = self.fanout * ID_LEN as u64 + self.edge_len_max();
        if index > self.leaf_len { index } else { self.leaf_len }
    }
}

/// Length of the edge of `len` bytes.
fn edge_len(len: u64) -> u64 {
    let mut left = len;
    let mut siblings = 0;
    while left > CHUNK_LEN {
        left -= left_subtree_len(left);
        siblings += 1;
    }
    siblings * ID_LEN as u64 + left
}

/// The right edge of a subtree: the last chunk, and the left sibling of every node on the way up from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// From the top down.
    siblings: Vec<ChainingValue>,
    chunk: Bytes,
}

impl Edge {
    /// The edge of a leaf's bytes at `offset`.
    pub fn of_leaf(bytes: &Bytes, offset: u64) -> Self {
        let mut siblings = Vec::new();
        let mut start = 0;
        while (bytes.len() - start) as u64 > CHUNK_LEN {
            let left = left_subtree_len((bytes.len() - start) as u64) as usize;
            siblings.push(subtree_id(&bytes[start..start + left], offset + start as u64));
            start += left;
        }
        Self { siblings, chunk: bytes.slice(start..) }
    }

    /// The edge of an index, from the ids of its children and the edge of the last one.
    pub fn of_index(children: &[ChainingValue], last: &Edge) -> Self {
        let mut siblings = Vec::new();
        let mut rest = children;
        while rest.len() > 1 {
            let (left, right) = rest.split_at(left_count(rest.len()));
            siblings.push(merge(left));
            rest = right;
        }
        siblings.extend_from_slice(&last.siblings);
        Self { siblings, chunk: last.chunk.clone() }
    }

    /// Reads the edge of `len` bytes; None unless `bytes` has exactly the length such an edge has.
    fn decode(bytes: &Bytes, len: u64) -> Option<Self> {
        if bytes.len() as u64 != edge_len(len) {
            return None;
        }
        let mut left = len;
        let mut siblings = Vec::new();
        while left > CHUNK_LEN {
            left -= left_subtree_len(left);
            siblings.push(id_at(bytes, siblings.len()));
        }
        Some(Self { chunk: bytes.slice(siblings.len() * ID_LEN..), siblings })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for sibling in &self.siblings {
            out.extend_from_slice(&sibling.0);
        }
        out.extend_from_slice(&self.chunk);
    }

    /// The id of the `len` bytes at `offset` that this is the edge of.
    fn subtree_id(&self, offset: u64, len: u64) -> ChainingValue {
        let mut start = offset;
        let mut left = len;
        while left > CHUNK_LEN {
            let skipped = left_subtree_len(left);
            start += skipped;
            left -= skipped;
        }
        let last = subtree_id(&self.chunk, start);
        self.siblings.iter().rev().fold(last, |right, left| merge_two(left, &right))
    }
}

/// The chaining value of a file's bytes at `offset`, which must be a subtree of its BLAKE3 tree.
///
/// # Panics
/// When `bytes` is empty: an empty subtree has no chaining value.
pub fn subtree_id(bytes: &[u8], offset: u64) -> ChainingValue {
    ChainingValue(blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root())
}

/// The address of a file that is all in memory.
pub fn root_id(bytes: &[u8]) -> RootId {
    RootId(*blake3::hash(bytes).as_bytes())
}

/// The id above neighbouring children, all full but the last.
///
/// # Panics
/// When there is none.
pub fn merge(children: &[ChainingValue]) -> ChainingValue {
    match children {
        [] => panic!("no subtree is empty"),
        [one] => *one,
        more => {
            let (left, right) = more.split_at(left_count(more.len()));
            merge_two(&merge(left), &merge(right))
        }
    }
}

/// The address of the file whose topmost children these are.
///
/// # Panics
/// When there are fewer than two: a single child is the file, and hashed as such.
pub fn merge_root(children: &[ChainingValue]) -> RootId {
    assert!(children.len() > 1, "a root has at least two children");
    let (left, right) = children.split_at(left_count(children.len()));
    RootId(*merge_subtrees_root(&merge(left).0, &merge(right).0, Mode::Hash).as_bytes())
}

fn merge_two(left: &ChainingValue, right: &ChainingValue) -> ChainingValue {
    ChainingValue(merge_subtrees_non_root(&left.0, &right.0, Mode::Hash))
}

/// How many of `count` children go left: the largest power of two below it, as in BLAKE3.
fn left_count(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

/// The id number `i` of a payload.
pub(crate) fn id_at(bytes: &[u8], i: usize) -> ChainingValue {
    ChainingValue(bytes[i * ID_LEN..(i + 1) * ID_LEN].try_into().expect("the slice has the length of an id"))
}

/// The payload of an index.
pub(crate) fn encode_index(children: &[ChainingValue], last: &Edge) -> Bytes {
    let mut payload = Vec::with_capacity(children.len() * ID_LEN + last.siblings.len() * ID_LEN + last.chunk.len());
    for child in children {
        payload.extend_from_slice(&child.0);
    }
    last.encode(&mut payload);
    payload.into()
}

/// Whether `payload` is the index that `reference` names: its ids merge to the id, and its edge binds the length.
pub(crate) fn index_matches(geometry: &Geometry, reference: &ObjectRef, payload: &Bytes) -> bool {
    let count = geometry.child_count(reference.len);
    if count < 2 || payload.len() as u64 != geometry.payload_len(reference.offset, reference.len) {
        return false;
    }
    let children: Vec<ChainingValue> = (0..count).map(|i| id_at(payload, i)).collect();
    let (last_offset, last_len) = geometry.child_range(reference.offset, reference.len, count - 1);
    let Some(edge) = Edge::decode(&payload.slice(count * ID_LEN..), last_len) else { return false };
    edge.subtree_id(last_offset, last_len) == children[count - 1]
        && match reference.id {
            Id::Root(id) => merge_root(&children) == id,
            Id::Subtree(id) => merge(&children) == id,
        }
}

macro_rules! shown_as_hex {
    ($($name:ident),*) => {$(
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}..", data_encoding::HEXLOWER.encode(&self.0[..4]))
            }
        }
    )*};
}

shown_as_hex!(RootId, ChainingValue, PlacementKey);

/// Not an address: it must be 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address is 64 hex digits, as b3sum prints them")]
pub struct NotAnAddress;

impl std::str::FromStr for RootId {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| NotAnAddress)?;
        Ok(Self(bytes.try_into().map_err(|_| NotAnAddress)?))
    }
}
