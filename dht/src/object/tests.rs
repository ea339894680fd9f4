use proptest::prelude::*;

use super::*;
use crate::testing::bytes;
use crate::tree::LEVEL_MAX;

/// Leaves of one chunk and indexes of four children: level 3 begins at 16 KiB + 1.
const SMALL: Geometry = Geometry { leaf_len: 1024, fanout: 4, extent_leaves: 2 };

/// Every object of a file, root last, and its groups.
struct Cut {
    root: RootId,
    objects: Vec<Object>,
    extents: Vec<Group>,
    under_root: Vec<ObjectRef>,
}

fn cut(geometry: Geometry, content: &Bytes) -> Cut {
    if content.len() as u64 <= geometry.leaf_len {
        let object = Object::whole_file(content.clone());
        let Id::Root(root) = object.reference.id else { unreachable!() };
        return Cut { root, objects: vec![object], extents: vec![], under_root: vec![] };
    }
    let mut builder = TreeBuilder::new_in(geometry);
    let mut cut = Cut { root: RootId([0; 32]), objects: vec![], extents: vec![], under_root: vec![] };
    for start in (0..content.len()).step_by(geometry.leaf_len as usize) {
        let end = content.len().min(start + geometry.leaf_len as usize);
        let leaf = Object::leaf(content.slice(start..end), start as u64);
        let built = builder.push(&leaf);
        cut.objects.push(leaf);
        cut.objects.extend(built.indexes);
        cut.extents.extend(built.extents);
    }
    let finished = builder.finish();
    assert_eq!(finished.len, content.len() as u64);
    cut.root = finished.root;
    cut.objects.extend(finished.built.indexes);
    cut.extents.extend(finished.built.extents);
    cut.under_root = finished.under_root;
    cut
}

/// The one door: a file of this length is cut into objects that hash to what BLAKE3 says, verify, and lead from the root
/// to every leaf.
fn check(geometry: Geometry, len: usize) {
    let content = bytes(len as u64, len);
    let cut = cut(geometry, &content);
    assert_eq!(cut.root.0, *blake3::hash(&content).as_bytes(), "{len} bytes");
    let mut left: std::collections::BTreeMap<ObjectRef, Object> =
        cut.objects.into_iter().map(|object| (object.reference, object)).collect();
    let mut queue = vec![ObjectRef::root(cut.root, len as u64)];
    let mut leaves = Vec::new();
    while let Some(reference) = queue.pop() {
        let object = left.remove(&reference).unwrap_or_else(|| panic!("{len} bytes: no object {reference:?}"));
        let again = Object::verify_in(&geometry, reference, object.payload.clone());
        assert_eq!(again.as_ref(), Ok(&object), "{len} bytes: {reference:?}");
        assert_eq!(object.payload.len() as u64, geometry.payload_len(reference.offset, reference.len));
        let children = object.children_in(&geometry);
        if children.is_empty() {
            leaves.push(object);
        }
        queue.extend(children);
    }
    assert!(left.is_empty(), "{len} bytes: objects that nothing leads to");
    leaves.sort_by_key(|leaf| leaf.reference.offset);
    let joined: Vec<u8> = leaves.iter().flat_map(|leaf| leaf.payload.to_vec()).collect();
    assert!(joined == content, "{len} bytes: leaves are not the file");
    check_groups(geometry, cut.root, &leaves, &cut.extents, &cut.under_root);
}

/// Writer and reader must agree on where a leaf lives.
fn check_groups(geometry: Geometry, root: RootId, leaves: &[Object], extents: &[Group], under_root: &[ObjectRef]) {
    if leaves.len() < 2 {
        return;
    }
    let references: Vec<ObjectRef> = leaves.iter().map(|leaf| leaf.reference).collect();
    let len = references.last().map_or(0, ObjectRef::end);
    let span = geometry.span(1);
    let read: Vec<Group> = references
        .chunk_by(|a, b| a.offset / span == b.offset / span)
        .flat_map(|siblings| group_leaves(&geometry, root, len, siblings))
        .collect();
    if len <= geometry.extent_len() {
        assert!(extents.is_empty());
        assert_eq!(read, [Group { key: PlacementKey(root.0), objects: under_root.to_vec() }]);
    } else {
        assert!(under_root.is_empty());
        assert_eq!(read, extents);
    }
}

#[test]
fn the_address_is_the_blake3_hash_around_every_boundary() {
    let mib = 1 << 20;
    let boundaries = [0, 1024, 64 << 10, mib, 2 * mib, 3 * mib, 16 * mib, 17 * mib];
    for boundary in boundaries {
        for len in [boundary.max(1) - 1, boundary, boundary + 1] {
            check(GEOMETRY, len);
        }
    }
    check(GEOMETRY, 3 * mib + mib / 2);
}

#[test]
fn the_address_is_the_blake3_hash_of_several_hundred_mebibytes() {
    check(GEOMETRY, (300 << 20) + 12_345);
}

#[test]
fn higher_levels_are_cut_right_at_every_length() {
    for len in (0..=SMALL.len_max() as usize).step_by(193) {
        check(SMALL, len);
    }
    for level in 0..=LEVEL_MAX {
        let span = SMALL.span(level) as usize;
        for len in [span - 1, span, (span + 1).min(SMALL.len_max() as usize)] {
            check(SMALL, len);
        }
    }
}

#[test]
fn any_changed_byte_in_any_object_is_refused() {
    for len in [1, 1024, 5000, 20_000, 65_536] {
        for object in cut(SMALL, &bytes(7, len)).objects {
            for i in (0..object.payload.len()).step_by(31).chain([object.payload.len() - 1]) {
                let mut wrong = object.payload.to_vec();
                wrong[i] ^= 0x20;
                assert_eq!(Object::verify_in(&SMALL, object.reference, wrong.into()), Err(Mismatch));
            }
            let short = object.payload.slice(..object.payload.len() - 1);
            assert_eq!(Object::verify_in(&SMALL, object.reference, short), Err(Mismatch));
            let mut long = object.payload.to_vec();
            long.push(0);
            assert_eq!(Object::verify_in(&SMALL, object.reference, long.into()), Err(Mismatch));
        }
    }
}

#[test]
fn an_object_at_another_position_or_of_another_length_is_refused() {
    for object in cut(SMALL, &bytes(3, 50_000)).objects {
        let ObjectRef { id, offset, len } = object.reference;
        let mut lies = vec![
            ObjectRef { id, offset: offset + SMALL.leaf_len, len },
            ObjectRef { id, offset, len: len + 1 },
            ObjectRef { id, offset, len: len - 1 },
            ObjectRef { id, offset, len: len * 4 },
            ObjectRef { id, offset: u64::MAX - 1023, len },
            ObjectRef { id, offset, len: u64::MAX },
        ];
        lies.push(match id {
            Id::Root(RootId(bytes)) => ObjectRef { id: Id::Subtree(ChainingValue(bytes)), offset, len },
            Id::Subtree(ChainingValue(bytes)) => ObjectRef { id: Id::Root(RootId(bytes)), offset, len },
        });
        for lie in lies {
            assert_eq!(Object::verify_in(&SMALL, lie, object.payload.clone()), Err(Mismatch), "{lie:?}");
        }
    }
}

/// The two children of a two-leaf file hash to the same root whatever length is claimed for them, as long as the tree has
/// the same shape above: only the edge tells the lengths apart.
#[test]
fn a_lying_split_of_the_same_tree_is_refused() {
    let content = bytes(1, 2048);
    let honest = cut(SMALL, &content);
    let root = honest.objects.last().expect("a root").clone();
    assert_eq!(root.children_in(&SMALL).len(), 2);
    for len in 1025..=SMALL.len_max() {
        let claim = ObjectRef::root(honest.root, len);
        let exact = Object::verify_in(&SMALL, claim, root.payload.clone());
        assert_eq!(exact.is_ok(), len == 2048, "{len}");
        // The liar adapts ids and edge to the length he claims, with all bytes he has.
        if let Some(payload) = adapted(&root, len) {
            assert_eq!(Object::verify_in(&SMALL, claim, payload).is_ok(), len == 2048, "{len}");
        }
    }
}

/// The ids of `root` followed by as much of its edge, repeated, as an index over `len` bytes needs.
fn adapted(root: &Object, len: u64) -> Option<Bytes> {
    let count = SMALL.child_count(len);
    let wanted = SMALL.payload_len(0, len) as usize;
    let ids = root.payload.slice(..2 * tree::ID_LEN);
    (count == 2)
        .then(|| ids.iter().chain(root.payload[2 * tree::ID_LEN..].iter().cycle()).copied().take(wanted).collect())
}

proptest! {
    #[test]
    fn any_length_is_cut_right(len in 0usize..70_000) {
        check(SMALL, len.min(SMALL.len_max() as usize));
    }

    #[test]
    fn no_bytes_of_a_stranger_verify_or_panic(
        id: [u8; 32], root: bool, offset: u64, len: u64, payload in proptest::collection::vec(any::<u8>(), 0..3000)
    ) {
        let id = if root { Id::Root(RootId(id)) } else { Id::Subtree(ChainingValue(id)) };
        for (offset, len) in [(offset, len), (offset & !0xfff, len % 9000), (0, payload.len() as u64)] {
            let reference = ObjectRef { id, offset, len };
            prop_assert_eq!(Object::verify_in(&SMALL, reference, payload.clone().into()), Err(Mismatch));
            prop_assert_eq!(Object::verify(reference, payload.clone().into()), Err(Mismatch));
        }
    }
}
