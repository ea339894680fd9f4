//! Objects: verified bytes under a reference, and the building of a file's objects from its bytes.

use bytes::Bytes;

use crate::tree::{self, ChainingValue, Edge, GEOMETRY, Geometry, Id, ObjectRef, PlacementKey, RootId};

/// A leaf or an index whose bytes have been found to be what its reference says. It cannot be made otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    reference: ObjectRef,
    payload: Bytes,
}

/// The bytes are not what the reference says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes do not match their address")]
pub struct Mismatch;

impl Object {
    /// Checks bytes of whatever origin against a reference.
    ///
    /// # Errors
    /// [`Mismatch`] when a single bit, or the claimed position or length, is not right.
    pub fn verify(reference: ObjectRef, payload: Bytes) -> Result<Self, Mismatch> {
        Self::verify_in(&GEOMETRY, reference, payload)
    }

    /// [`Self::verify`] under another geometry.
    ///
    /// # Errors
    /// As there.
    pub fn verify_in(geometry: &Geometry, reference: ObjectRef, payload: Bytes) -> Result<Self, Mismatch> {
        if !geometry.admits(&reference) {
            return Err(Mismatch);
        }
        let matches = if geometry.child_count(reference.len) > 0 {
            tree::index_matches(geometry, &reference, &payload)
        } else {
            payload.len() as u64 == reference.len
                && match reference.id {
                    Id::Root(id) => tree::root_id(&payload) == id,
                    Id::Subtree(id) => tree::subtree_id(&payload, reference.offset) == id,
                }
        };
        if matches { Ok(Self { reference, payload }) } else { Err(Mismatch) }
    }

    /// A file of at most one leaf.
    pub fn whole_file(bytes: Bytes) -> Self {
        debug_assert!(bytes.len() as u64 <= GEOMETRY.leaf_len);
        Self { reference: ObjectRef::root(tree::root_id(&bytes), bytes.len() as u64), payload: bytes }
    }

    /// A leaf of a longer file.
    pub fn leaf(bytes: Bytes, offset: u64) -> Self {
        let id = Id::Subtree(tree::subtree_id(&bytes, offset));
        Self { reference: ObjectRef { id, offset, len: bytes.len() as u64 }, payload: bytes }
    }

    /// What it is called.
    pub fn reference(&self) -> &ObjectRef {
        &self.reference
    }

    /// Its bytes as stored and sent: a leaf's bytes of the file; an index's ids and edge.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Whether it holds bytes of the file rather than ids.
    pub fn is_leaf(&self) -> bool {
        GEOMETRY.child_count(self.reference.len) == 0
    }

    /// The objects right below an index, in file order; none below a leaf.
    pub fn children(&self) -> Vec<ObjectRef> {
        self.children_in(&GEOMETRY)
    }

    /// [`Self::children`] under another geometry.
    pub fn children_in(&self, geometry: &Geometry) -> Vec<ObjectRef> {
        let ObjectRef { offset, len, .. } = self.reference;
        let child = |i| {
            let (offset, len) = geometry.child_range(offset, len, i);
            ObjectRef { id: Id::Subtree(tree::id_at(&self.payload, i)), offset, len }
        };
        (0..geometry.child_count(len)).map(child).collect()
    }
}

/// Objects that are placed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Where they live.
    pub key: PlacementKey,
    /// What they are, in file order.
    pub objects: Vec<ObjectRef>,
}

/// How leaves, all children of one index of a file, are placed: by aligned extents, or all under the root where the file
/// is no longer than one extent.
pub fn group_leaves(geometry: &Geometry, root: RootId, file_len: u64, leaves: &[ObjectRef]) -> Vec<Group> {
    if file_len <= geometry.extent_len() {
        return vec![Group { key: PlacementKey(root.0), objects: leaves.to_vec() }];
    }
    leaves
        .chunk_by(|a, b| a.offset / geometry.extent_len() == b.offset / geometry.extent_len())
        .map(|extent| Group { key: extent_key(extent), objects: extent.to_vec() })
        .collect()
}

/// The placement key of an extent: the id of the subtree that its leaves make.
fn extent_key(leaves: &[ObjectRef]) -> PlacementKey {
    let ids: Vec<ChainingValue> = leaves.iter().map(|leaf| ChainingValue(*leaf.id.bytes())).collect();
    PlacementKey(tree::merge(&ids).0)
}

/// Builds the indexes of a file from its leaves, in one pass, and says which leaves are placed together.
///
/// A file of at most one leaf needs no builder: it is [`Object::whole_file`].
pub struct TreeBuilder {
    geometry: Geometry,
    /// Children of the indexes that are still open; `[0]` are leaves.
    open: Vec<OpenIndex>,
    /// Leaves of the extent that is still open.
    extent: Vec<ObjectRef>,
    len: u64,
    built: Built,
}

/// What became complete.
#[derive(Default, Debug)]
pub struct Built {
    /// Indexes.
    pub indexes: Vec<Object>,
    /// Extents, in file order.
    pub extents: Vec<Group>,
}

/// The end of a file.
#[derive(Debug)]
pub struct Finished {
    /// The file's address and length.
    pub root: RootId,
    /// Its length in bytes.
    pub len: u64,
    /// What became complete at the end; the root is among the indexes.
    pub built: Built,
    /// Leaves that are placed under the root, because the file is no longer than one extent.
    pub under_root: Vec<ObjectRef>,
}

#[derive(Default)]
struct OpenIndex {
    children: Vec<ObjectRef>,
    last: Option<LastChild>,
}

/// The edge of the last child, worked out only when an index needs it.
enum LastChild {
    Leaf(Bytes),
    Index(Edge),
}

impl TreeBuilder {
    /// A builder for the network's geometry.
    pub fn new() -> Self {
        Self::new_in(GEOMETRY)
    }

    /// A builder for another geometry.
    pub fn new_in(geometry: Geometry) -> Self {
        Self { geometry, open: Vec::new(), extent: Vec::new(), len: 0, built: Built::default() }
    }

    /// Adds the next leaf and returns what it completed.
    ///
    /// # Panics
    /// When it does not follow the one before, or the file is longer than a file may be.
    pub fn push(&mut self, leaf: &Object) -> Built {
        assert_eq!(leaf.reference.offset, self.len, "leaves come in order");
        assert!(leaf.reference.end() <= self.geometry.len_max(), "a file of more than the longest length");
        self.len = leaf.reference.end();
        if self.extent.len() as u64 == self.geometry.extent_leaves {
            self.close_extent();
        }
        self.extent.push(leaf.reference);
        self.add(0, leaf.reference, LastChild::Leaf(leaf.payload.clone()));
        std::mem::take(&mut self.built)
    }

    /// Ends the file.
    ///
    /// # Panics
    /// When it has fewer than two leaves.
    pub fn finish(mut self) -> Finished {
        let mut under_root = Vec::new();
        if self.len > self.geometry.extent_len() {
            self.close_extent();
        } else {
            under_root = std::mem::take(&mut self.extent);
        }
        let root = self.close_all();
        Finished { root, len: self.len, built: self.built, under_root }
    }

    fn close_extent(&mut self) {
        let objects = std::mem::take(&mut self.extent);
        self.built.extents.push(Group { key: extent_key(&objects), objects });
    }

    /// Adds a child to the open index `at`, closing that one first where it is full.
    fn add(&mut self, at: usize, child: ObjectRef, last: LastChild) {
        if self.open.len() == at {
            self.open.push(OpenIndex::default());
        }
        if self.open[at].children.len() as u64 == self.geometry.fanout {
            let (index, edge) = self.close(at, false);
            self.add(at + 1, index, LastChild::Index(edge));
        }
        self.open[at].children.push(child);
        self.open[at].last = Some(last);
    }

    /// Makes an index of the open one at `at`, and returns it with its edge.
    fn close(&mut self, at: usize, is_root: bool) -> (ObjectRef, Edge) {
        let OpenIndex { children, last } = std::mem::take(&mut self.open[at]);
        let (first, end) = (children[0], children[children.len() - 1]);
        let last = match last.expect("an index that is closed has children") {
            LastChild::Leaf(bytes) => Edge::of_leaf(&bytes, end.offset),
            LastChild::Index(edge) => edge,
        };
        let ids: Vec<ChainingValue> = children.iter().map(|child| ChainingValue(*child.id.bytes())).collect();
        let id = if is_root { Id::Root(tree::merge_root(&ids)) } else { Id::Subtree(tree::merge(&ids)) };
        let reference = ObjectRef { id, offset: first.offset, len: end.end() - first.offset };
        self.built.indexes.push(Object { reference, payload: tree::encode_index(&ids, &last) });
        (reference, Edge::of_index(&ids, &last))
    }

    /// Closes what is open from the leaves up; the last one closed is the root.
    fn close_all(&mut self) -> RootId {
        let mut carried: Option<(ObjectRef, LastChild)> = None;
        let mut at = 0;
        loop {
            if let Some((child, last)) = carried.take() {
                self.add(at, child, last);
            }
            let is_root = self.open[at + 1..].iter().all(|index| index.children.is_empty());
            if self.open[at].children.len() == 1 {
                // A subtree with one child is that child.
                assert!(!is_root, "a file of one leaf has no index");
                let OpenIndex { children, last } = std::mem::take(&mut self.open[at]);
                carried = last.map(|last| (children[0], last));
            } else {
                let (reference, edge) = self.close(at, is_root);
                if let Id::Root(root) = reference.id {
                    return root;
                }
                carried = Some((reference, LastChild::Index(edge)));
            }
            at += 1;
        }
    }
}

impl Default for TreeBuilder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
