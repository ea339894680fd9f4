//! What members say to each other about objects: `/p2p-node/objects/1`, version 1.
//!
//! Every request names itself with a number that its answer repeats. Object bytes travel as the raw payload of a frame.
//! A new message gets a new type; changing one needs a new version.

use bytes::Bytes;
use p2p_gossip::wire::codec::ENCODED_LEN_MAX;
use p2p_gossip::wire::{Cap, DecodeError, Frame, List, Versions, decode, encode};
use serde::{Deserialize, Serialize};

use crate::store::UploadId;
use crate::tree::{GEOMETRY, ObjectRef, RootId};

/// The protocol's name.
pub const PROTOCOL: &str = "/p2p-node/objects/1";

/// The versions spoken.
pub const VERSIONS: Versions = Versions { min: 1, max: 1 };

/// Most references in one message: twice the leaves of an extent, so that a group with its indexes goes in one.
pub const REFS_MAX: usize = 32;

/// Asked by whoever wants something; the answer is a [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The root object of a file.
    Root(RootId),
    /// Whether the root object of a file is there; answered by one flag.
    HaveRoot(RootId),
    /// An object.
    Get(ObjectRef),
    /// Which of these, at most [`REFS_MAX`], are there?
    Have(Vec<ObjectRef>),
    /// Which of these, at most [`REFS_MAX`], are held for this file for good?
    Count(RootId, Vec<ObjectRef>),
    /// Hold those of these, at most [`REFS_MAX`], that are there; say which are not.
    Offer(UploadId, Vec<ObjectRef>),
    /// Store and hold this.
    Push(UploadId, ObjectRef, Bytes),
    /// Keep what this upload holds, which should be so many objects, for this file.
    Bind(UploadId, RootId, u64),
    /// This upload is still going on.
    Keep(UploadId),
    /// The request of this number needs no answer any more. It gets one all the same: what it asked for, where that is on
    /// its way already, else [`Refusal::Cancelled`]. This one gets none of its own.
    Cancel,
}

/// Answers a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The root object, of a file of this length.
    Root(u64, Bytes),
    /// The object.
    Object(Bytes),
    /// It is not here.
    Absent,
    /// One flag for each reference.
    Flags(Vec<bool>),
    /// It is durable and held.
    Stored,
    /// There is no room.
    Full,
    /// The holds stay.
    Bound,
    /// Only so many objects are held.
    Missing(u64),
    /// Noted.
    Noted,
    /// The request made no sense, or the node cannot answer now.
    Refused(Refusal),
}

/// Why a request was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The bytes do not match their reference, or the reference cannot exist.
    Invalid,
    /// The store failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

const ROOT: u8 = 16;
const GET: u8 = 17;
const HAVE: u8 = 18;
const COUNT: u8 = 19;
const OFFER: u8 = 20;
const PUSH: u8 = 21;
const BIND: u8 = 22;
const KEEP: u8 = 23;
const HAVE_ROOT: u8 = 24;
const CANCEL: u8 = 25;
const REPLY_ROOT: u8 = 32;
const REPLY_OBJECT: u8 = 33;
const REPLY_ABSENT: u8 = 34;
const REPLY_FLAGS: u8 = 35;
const REPLY_STORED: u8 = 36;
const REPLY_FULL: u8 = 37;
const REPLY_BOUND: u8 = 38;
const REPLY_MISSING: u8 = 39;
const REPLY_NOTED: u8 = 40;
const REPLY_REFUSED: u8 = 41;

/// How long the frames of each type may be.
pub fn cap(kind: u8) -> Option<Cap> {
    const REFS_LEN_MAX: usize = 64 + REFS_MAX * 64;
    let payload = GEOMETRY.payload_len_max() as usize;
    match kind {
        HAVE | COUNT | OFFER => Some(Cap { head: REFS_LEN_MAX, payload: 0 }),
        PUSH => Some(Cap { head: 128, payload }),
        REPLY_ROOT | REPLY_OBJECT => Some(Cap { head: 64, payload }),
        ROOT | HAVE_ROOT | GET | BIND | KEEP | CANCEL => Some(Cap { head: 128, payload: 0 }),
        REPLY_ABSENT | REPLY_STORED | REPLY_FULL | REPLY_BOUND | REPLY_MISSING | REPLY_NOTED | REPLY_REFUSED
        | REPLY_FLAGS => Some(Cap { head: 128, payload: 0 }),
        _ => None,
    }
}

// The longest head must be something that the codec writes.
const _: () = assert!(64 + REFS_MAX * 64 <= ENCODED_LEN_MAX);

/// References as a peer sends them.
type References = List<ObjectRef, REFS_MAX>;

/// One flag for each of them.
type Flags = List<bool, REFS_MAX>;

/// A frame is not a message of this protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Its type is not one that this side expects.
    #[error("frame type {0} is not expected here")]
    Unexpected(u8),
    /// Its head cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Request {
    /// As a frame that names itself `number`.
    pub fn into_frame(self, number: u64) -> Frame {
        let none = Bytes::new();
        match self {
            Request::Root(root) => Frame::new(ROOT, encode(&(number, root)), none),
            Request::HaveRoot(root) => Frame::new(HAVE_ROOT, encode(&(number, root)), none),
            Request::Get(reference) => Frame::new(GET, encode(&(number, reference)), none),
            Request::Have(objects) => Frame::new(HAVE, encode(&(number, objects)), none),
            Request::Count(root, objects) => Frame::new(COUNT, encode(&(number, root, objects)), none),
            Request::Offer(upload, objects) => Frame::new(OFFER, encode(&(number, upload, objects)), none),
            Request::Push(upload, reference, bytes) => Frame::new(PUSH, encode(&(number, upload, reference)), bytes),
            Request::Bind(upload, root, objects) => Frame::new(BIND, encode(&(number, upload, root, objects)), none),
            Request::Keep(upload) => Frame::new(KEEP, encode(&(number, upload)), none),
            Request::Cancel => Frame::new(CANCEL, encode(&number), none),
        }
    }

    /// Reads a peer's frame.
    ///
    /// # Errors
    /// When it is no request.
    pub fn from_frame(frame: Frame) -> Result<(u64, Self), MessageError> {
        let head = &frame.head[..];
        Ok(match frame.kind {
            ROOT => decode(head).map(|(n, root)| (n, Request::Root(root)))?,
            HAVE_ROOT => decode(head).map(|(n, root)| (n, Request::HaveRoot(root)))?,
            GET => decode(head).map(|(n, reference)| (n, Request::Get(reference)))?,
            HAVE => decode::<(u64, References)>(head).map(|(n, list)| (n, Request::Have(list.0)))?,
            COUNT => decode::<(u64, _, References)>(head).map(|(n, root, list)| (n, Request::Count(root, list.0)))?,
            OFFER => {
                decode::<(u64, _, References)>(head).map(|(n, upload, list)| (n, Request::Offer(upload, list.0)))?
            }
            PUSH => decode(head).map(|(n, upload, reference)| (n, Request::Push(upload, reference, frame.payload)))?,
            BIND => decode(head).map(|(n, upload, root, objects)| (n, Request::Bind(upload, root, objects)))?,
            KEEP => decode(head).map(|(n, upload)| (n, Request::Keep(upload)))?,
            CANCEL => (decode(head)?, Request::Cancel),
            other => return Err(MessageError::Unexpected(other)),
        })
    }

    /// Whether its answer carries an object.
    pub fn is_for_bulk(&self) -> bool {
        matches!(self, Request::Root(_) | Request::Get(_))
    }
}

impl Reply {
    /// As a frame that answers request `number`.
    pub fn into_frame(self, number: u64) -> Frame {
        let none = Bytes::new();
        match self {
            Reply::Root(len, bytes) => Frame::new(REPLY_ROOT, encode(&(number, len)), bytes),
            Reply::Object(bytes) => Frame::new(REPLY_OBJECT, encode(&number), bytes),
            Reply::Absent => Frame::new(REPLY_ABSENT, encode(&number), none),
            Reply::Flags(flags) => Frame::new(REPLY_FLAGS, encode(&(number, flags)), none),
            Reply::Stored => Frame::new(REPLY_STORED, encode(&number), none),
            Reply::Full => Frame::new(REPLY_FULL, encode(&number), none),
            Reply::Bound => Frame::new(REPLY_BOUND, encode(&number), none),
            Reply::Missing(held) => Frame::new(REPLY_MISSING, encode(&(number, held)), none),
            Reply::Noted => Frame::new(REPLY_NOTED, encode(&number), none),
            Reply::Refused(refusal) => Frame::new(REPLY_REFUSED, encode(&(number, refusal)), none),
        }
    }

    /// Reads a peer's frame.
    ///
    /// # Errors
    /// When it is no reply.
    pub fn from_frame(frame: Frame) -> Result<(u64, Self), MessageError> {
        let head = &frame.head[..];
        Ok(match frame.kind {
            REPLY_ROOT => decode(head).map(|(n, len)| (n, Reply::Root(len, frame.payload)))?,
            REPLY_OBJECT => (decode(head)?, Reply::Object(frame.payload)),
            REPLY_ABSENT => (decode(head)?, Reply::Absent),
            REPLY_FLAGS => decode::<(u64, Flags)>(head).map(|(n, flags)| (n, Reply::Flags(flags.0)))?,
            REPLY_STORED => (decode(head)?, Reply::Stored),
            REPLY_FULL => (decode(head)?, Reply::Full),
            REPLY_BOUND => (decode(head)?, Reply::Bound),
            REPLY_MISSING => decode(head).map(|(n, held)| (n, Reply::Missing(held)))?,
            REPLY_NOTED => (decode(head)?, Reply::Noted),
            REPLY_REFUSED => decode(head).map(|(n, refusal)| (n, Reply::Refused(refusal)))?,
            other => return Err(MessageError::Unexpected(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::{ChainingValue, Id};

    fn reference() -> ObjectRef {
        ObjectRef { id: Id::Subtree(ChainingValue([9; 32])), offset: u64::MAX, len: u64::MAX }
    }

    fn requests() -> Vec<Request> {
        let many = vec![reference(); REFS_MAX];
        vec![
            Request::Root(RootId([1; 32])),
            Request::HaveRoot(RootId([1; 32])),
            Request::Get(reference()),
            Request::Have(many.clone()),
            Request::Count(RootId([1; 32]), many.clone()),
            Request::Offer(UploadId([2; 16]), many),
            Request::Push(UploadId([2; 16]), reference(), Bytes::from_static(b"bytes")),
            Request::Bind(UploadId([2; 16]), RootId([1; 32]), u64::MAX),
            Request::Keep(UploadId([2; 16])),
            Request::Cancel,
        ]
    }

    fn replies() -> Vec<Reply> {
        vec![
            Reply::Root(u64::MAX, Bytes::from_static(b"bytes")),
            Reply::Object(Bytes::from_static(b"bytes")),
            Reply::Absent,
            Reply::Flags(vec![true; REFS_MAX]),
            Reply::Stored,
            Reply::Full,
            Reply::Bound,
            Reply::Missing(u64::MAX),
            Reply::Noted,
            Reply::Refused(Refusal::Failed),
            Reply::Refused(Refusal::Cancelled),
        ]
    }

    fn within_cap(frame: &Frame) -> bool {
        cap(frame.kind).is_some_and(|cap| frame.head.len() <= cap.head && frame.payload.len() <= cap.payload)
    }

    #[test]
    fn every_message_survives_the_way_and_fits_its_cap() {
        for request in requests() {
            let frame = request.clone().into_frame(u64::MAX);
            assert!(within_cap(&frame), "{request:?} takes {}", frame.head.len());
            assert_eq!(Request::from_frame(frame), Ok((u64::MAX, request)));
        }
        for reply in replies() {
            let frame = reply.clone().into_frame(u64::MAX);
            assert!(within_cap(&frame), "{reply:?} takes {}", frame.head.len());
            assert_eq!(Reply::from_frame(frame), Ok((u64::MAX, reply)));
        }
    }

    /// The encoding is part of the protocol: a change here breaks every running cluster.
    #[test]
    fn golden_vectors_stay_as_they_are() {
        let mut get = vec![5, 1];
        get.extend_from_slice(&[7; 32]);
        get.extend_from_slice(&[252, 0, 0, 16, 0, 251, 0, 4]);
        let reference = ObjectRef { id: Id::Subtree(ChainingValue([7; 32])), offset: 1 << 20, len: 1024 };
        assert_eq!(Request::Get(reference).into_frame(5).head, get);
        let mut bind = vec![5];
        bind.extend_from_slice(&[2; 16]);
        bind.extend_from_slice(&[1; 32]);
        bind.push(17);
        assert_eq!(Request::Bind(UploadId([2; 16]), RootId([1; 32]), 17).into_frame(5).head, bind);
        assert_eq!(&Reply::Flags(vec![true, false]).into_frame(5).head[..], [5, 2, 1, 0]);
        assert_eq!(&Reply::Refused(Refusal::Failed).into_frame(5).head[..], [5, 1]);
    }

    #[test]
    fn more_references_than_allowed_are_refused() {
        let frame = Request::Have(vec![reference(); REFS_MAX + 1]).into_frame(1);
        assert!(matches!(Request::from_frame(frame), Err(MessageError::Decode(DecodeError::Malformed(_)))));
        let frame = Reply::Flags(vec![true; REFS_MAX + 1]).into_frame(1);
        assert!(matches!(Reply::from_frame(frame), Err(MessageError::Decode(DecodeError::Malformed(_)))));
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_stranger_panic(kind: u8, head in proptest::collection::vec(any::<u8>(), 0..300)) {
            let frame = Frame::new(kind, head.into(), Bytes::new());
            let _ = Request::from_frame(frame.clone());
            let _ = Reply::from_frame(frame);
        }
    }
}
