//! An object is accepted under its own name and no other, and no name is accepted for other bytes.

use bytes::Bytes;
use p2p_dht::object::{Object, TreeBuilder};
use p2p_dht::tree::{ChainingValue, GEOMETRY, Geometry, Id, ObjectRef, RootId};

use crate::Bits;

/// The network's shape on a small scale, so that a file of some kilobytes has indexes above indexes.
pub(crate) const SMALL: Geometry = Geometry { leaf_len: 1 << 10, fanout: 4, extent_leaves: 2 };

/// Longest file that is built, in bytes: three levels of indexes.
const FILE_LEN_MAX: usize = 40 << 10;

/// A file with all its objects.
pub(crate) struct File {
    pub(crate) root: RootId,
    pub(crate) bytes: Bytes,
    pub(crate) objects: Vec<Object>,
}

impl File {
    /// One of so many bytes, which its length determines.
    pub(crate) fn of_len(len: usize) -> Self {
        let len = len % (FILE_LEN_MAX + 1);
        let bytes: Bytes = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
        if len as u64 <= SMALL.leaf_len {
            let whole = Object::whole_file(bytes.clone());
            let Id::Root(root) = whole.reference().id else { unreachable!("a whole file is a root") };
            return Self { root, bytes, objects: vec![whole] };
        }
        let mut builder = TreeBuilder::new_in(SMALL);
        let mut objects = Vec::new();
        let leaf_len = SMALL.leaf_len as usize;
        for start in (0..len).step_by(leaf_len) {
            let leaf = Object::leaf(bytes.slice(start..len.min(start + leaf_len)), start as u64);
            objects.append(&mut builder.push(&leaf).indexes);
            objects.push(leaf);
        }
        let finished = builder.finish();
        objects.extend(finished.built.indexes);
        Self { root: finished.root, bytes, objects }
    }
}

pub(crate) fn check(data: &[u8]) {
    let mut bits = Bits(data);
    anything(&mut Bits(data));
    let file = File::of_len(usize::from(bits.u16()));
    let object = &file.objects[bits.below(file.objects.len())];
    let (reference, payload) = changed(*object.reference(), object.payload(), &mut bits);
    let is_same = (&reference, &payload) == (object.reference(), object.payload());
    match Object::verify_in(&SMALL, reference, payload) {
        Ok(verified) => {
            assert!(is_same, "{reference:?} was accepted for {:?}", object.reference());
            let below: u64 = verified.children_in(&SMALL).iter().map(|child| child.len).sum();
            assert!(below == 0 || below == reference.len, "the children of {reference:?} have {below} bytes");
        }
        Err(_mismatch) => assert!(!is_same, "{reference:?} was refused"),
    }
}

/// No reference and no payload makes it panic, in the network's geometry or the small one.
fn anything(bits: &mut Bits<'_>) {
    let id = bits.bytes();
    let id = if bits.byte() & 1 == 0 { Id::Root(RootId(id)) } else { Id::Subtree(ChainingValue(id)) };
    let reference = ObjectRef { id, offset: bits.u64(), len: bits.u64() };
    let payload = Bytes::copy_from_slice(bits.0);
    for geometry in [GEOMETRY, SMALL] {
        assert!(Object::verify_in(&geometry, reference, payload.clone()).is_err(), "{reference:?} was guessed");
    }
}

/// An object with up to three things changed: more would be refused for the first of them.
fn changed(mut reference: ObjectRef, payload: &Bytes, bits: &mut Bits<'_>) -> (ObjectRef, Bytes) {
    let mut bytes = payload.to_vec();
    for _ in 0..bits.byte() % 4 {
        match bits.byte() % 8 {
            0 => reference.offset = bits.u64(),
            1 => reference.len = bits.u64(),
            2 => reference.offset = reference.offset.wrapping_add(u64::from(bits.u16())),
            3 => reference.len = reference.len.wrapping_add(u64::from(bits.u16())),
            4 => bytes.truncate(bits.below(bytes.len() + 1)),
            5 => bytes.push(bits.byte()),
            6 => {
                let at = bits.below(bytes.len());
                let flip = bits.byte();
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= flip);
            }
            _ => {
                reference.id = match reference.id {
                    Id::Root(RootId(id)) => Id::Subtree(ChainingValue(id)),
                    Id::Subtree(ChainingValue(id)) => Id::Root(RootId(id)),
                }
            }
        }
    }
    (reference, bytes.into())
}
