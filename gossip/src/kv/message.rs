//! What goes along the edges that membership keeps: writes as their authors have made them, and what copies come to. Questions
//! and their answers ([`super::anti_entropy`]) have streams of their own.
//!
//! ```text
//! writes    = (length 4 | write) each          have, want, confirm, confirmed = (peer 32 | epoch 8 | counter 8) each
//! copy      = vector 16 | rows 16 | flags 1: 1 it has held all that others held, 2 it is what was left of one
//! ```
//!
//! Numbers are little-endian. Only who says in its hello that it has a map ([`CAPABILITY`]) is sent any of it, so that nodes
//! without one take part in membership.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::dot::{Actor, Dot};
use super::flood::Carried;
use super::op::{OP_LEN_MAX, Op};
use super::replica::{DIGEST_LEN, Digest};
use crate::swim::Name;
use crate::wire::{Cap, Frame};

/// The first type of frame that is about the map: those before it belong to membership, on the same stream.
const KIND_FIRST: u8 = 40;

const WRITES: u8 = KIND_FIRST;
const HAVE: u8 = KIND_FIRST + 1;
const WANT: u8 = KIND_FIRST + 2;
const COPY: u8 = KIND_FIRST + 3;
const CONFIRM: u8 = KIND_FIRST + 4;
const CONFIRMED: u8 = KIND_FIRST + 5;

/// What a node says in its hello that it can do: it has a map.
pub const CAPABILITY: u64 = 1;

/// Bytes of writes after which none is added to a frame.
const WRITES_LEN: usize = 32 << 10;

/// Names of writes in one frame.
const DOTS_MAX: usize = 512;

const DOT_LEN: usize = 48;

const COPY_LEN: usize = 2 * DIGEST_LEN + 1;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Writes, with their encodings.
    Writes(Vec<(Op, Bytes)>),
    /// There are some of these names.
    Have(Vec<Dot>),
    /// They have not come here.
    Want(Vec<Dot>),
    /// What the sender's copy comes to.
    Copy(Copy),
    /// Whoever gets this is to say when these are on its disk.
    Confirm(Vec<Dot>),
    /// They are on the sender's disk.
    Confirmed(Vec<Dot>),
}

/// What a node's copy comes to, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// What it comes to.
    pub digest: Digest,
    /// Whether it has ever held all that others held.
    pub is_joined: bool,
    /// Whether it was built from what was left of another, and has not been compared with a whole one since.
    pub is_behind: bool,
}

/// A frame that is no message about the map. Whoever sent it does not speak this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of type {0} makes no sense")]
pub struct NoMessage(u8);

/// Whether a frame of this type is about the map.
pub fn is_about_map(kind: u8) -> bool {
    (WRITES..=CONFIRMED).contains(&kind)
}

/// How long frames of each type may be.
pub fn caps(kind: u8) -> Option<Cap> {
    let payload = match kind {
        WRITES => WRITES_LEN + 4 + OP_LEN_MAX,
        HAVE | WANT | CONFIRM | CONFIRMED => DOTS_MAX * DOT_LEN,
        COPY => COPY_LEN,
        _ => return None,
    };
    Some(Cap { head: 0, payload })
}

/// What is carried along one edge, packed.
pub fn pack(carried: impl IntoIterator<Item = Carried>) -> Vec<Frame> {
    let (mut frames, mut writes) = (Vec::new(), BytesMut::new());
    let (mut have, mut want) = (Vec::new(), Vec::new());
    for carried in carried {
        match carried {
            Carried::Write(_, bytes) => {
                writes.put_u32_le(bytes.len() as u32);
                writes.put_slice(&bytes);
                if writes.len() >= WRITES_LEN {
                    frames.push(frame(WRITES, writes.split().freeze()));
                }
            }
            Carried::Have(dot) => have.push(dot),
            Carried::Want(dot) => want.push(dot),
        }
    }
    if !writes.is_empty() {
        frames.push(frame(WRITES, writes.freeze()));
    }
    frames.extend(dots_frames(HAVE, &have));
    frames.extend(dots_frames(WANT, &want));
    frames
}

/// What a copy comes to, as a frame.
pub fn copy(Copy { digest, is_joined, is_behind }: &Copy) -> Frame {
    let mut bytes = BytesMut::with_capacity(COPY_LEN);
    bytes.put_slice(&digest.encode());
    bytes.put_u8(u8::from(*is_joined) | u8::from(*is_behind) << 1);
    frame(COPY, bytes.freeze())
}

/// Asks to be told when these are on another disk.
pub fn confirm(dots: &[Dot]) -> Vec<Frame> {
    dots_frames(CONFIRM, dots)
}

/// These are on this node's disk.
pub fn confirmed(dots: &[Dot]) -> Vec<Frame> {
    dots_frames(CONFIRMED, dots)
}

impl Message {
    /// Reads a frame that came from an edge.
    ///
    /// # Errors
    /// When it is no message.
    pub fn from_frame(frame: &Frame) -> Result<Self, NoMessage> {
        let payload = frame.payload.clone();
        let read = match frame.kind {
            WRITES => writes(payload).map(Message::Writes),
            HAVE => dots(payload).map(Message::Have),
            WANT => dots(payload).map(Message::Want),
            CONFIRM => dots(payload).map(Message::Confirm),
            CONFIRMED => dots(payload).map(Message::Confirmed),
            COPY => copied(payload),
            _ => None,
        };
        read.filter(|_| frame.head.is_empty()).ok_or(NoMessage(frame.kind))
    }
}

fn frame(kind: u8, payload: Bytes) -> Frame {
    Frame::new(kind, Bytes::new(), payload)
}

fn dots_frames(kind: u8, dots: &[Dot]) -> Vec<Frame> {
    let pack = |dots: &[Dot]| {
        let mut bytes = BytesMut::with_capacity(dots.len() * DOT_LEN);
        for Dot { actor, counter } in dots {
            bytes.put_slice(&actor.peer.0);
            bytes.put_u64_le(actor.epoch);
            bytes.put_u64_le(*counter);
        }
        frame(kind, bytes.freeze())
    };
    dots.chunks(DOTS_MAX).map(pack).collect()
}

fn writes(mut payload: Bytes) -> Option<Vec<(Op, Bytes)>> {
    let mut writes = Vec::new();
    while !payload.is_empty() {
        let len = usize::try_from(payload.try_get_u32_le().ok()?).ok()?;
        if len > payload.len() {
            return None;
        }
        let bytes = payload.split_to(len);
        // A buffer of its own: what is kept of one write does not keep those that came with it.
        let bytes = Bytes::copy_from_slice(&bytes);
        writes.push((Op::decode(&bytes).ok()?, bytes));
    }
    Some(writes)
}

fn dots(mut payload: Bytes) -> Option<Vec<Dot>> {
    let mut dots = Vec::with_capacity(payload.len() / DOT_LEN);
    while !payload.is_empty() {
        let mut peer = [0; 32];
        payload.try_copy_to_slice(&mut peer).ok()?;
        let epoch = payload.try_get_u64_le().ok()?;
        let counter = payload.try_get_u64_le().ok().filter(|counter| *counter > 0)?;
        dots.push(Dot { actor: Actor { peer: Name(peer), epoch }, counter });
    }
    Some(dots)
}

fn copied(mut payload: Bytes) -> Option<Message> {
    if payload.len() != COPY_LEN {
        return None;
    }
    let digest = Digest::decode(payload.split_to(2 * DIGEST_LEN)).ok()?;
    let flags = payload.get_u8();
    let copy = Copy { digest, is_joined: flags & 1 != 0, is_behind: flags & 2 != 0 };
    (flags < 4).then_some(Message::Copy(copy))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dot::Dots;
    use super::super::key::Key;
    use super::*;

    fn dot(counter: u64) -> Dot {
        Dot { actor: Actor { peer: Name([7; 32]), epoch: 9 }, counter }
    }

    fn write(counter: u64, len: usize) -> (Op, Bytes) {
        let key = Key::new("key").expect("a key");
        let op = Op { dot: dot(counter), key, value: Some(vec![1; len].into()), replaces: Dots::default() };
        let mut bytes = BytesMut::new();
        op.encode(&mut bytes);
        (op, bytes.freeze())
    }

    #[test]
    fn what_is_carried_arrives_packed() {
        let all: Vec<(Op, Bytes)> = (1..=40).map(|n| write(n, if n == 40 { 64 << 10 } else { 3000 })).collect();
        let carried = all.iter().map(|(op, bytes)| Carried::Write(op.dot, bytes.clone()));
        let named = (1..=1000).flat_map(|n| [Carried::Have(dot(n)), Carried::Want(dot(n))]);
        let frames = pack(carried.chain(named));
        let (mut came, mut have, mut want) = (Vec::new(), Vec::new(), Vec::new());
        for frame in &frames {
            let cap = caps(frame.kind).expect("a type of ours");
            assert!(is_about_map(frame.kind) && frame.payload.len() <= cap.payload);
            match Message::from_frame(frame).expect("our own") {
                Message::Writes(writes) => came.extend(writes),
                Message::Have(dots) => have.extend(dots),
                Message::Want(dots) => want.extend(dots),
                other => panic!("not sent: {other:?}"),
            }
        }
        let all_dots: Vec<Dot> = (1..=1000).map(dot).collect();
        assert_eq!((came, have, want), (all, all_dots.clone(), all_dots));
        assert!(frames.len() <= 4 + 2 + 2, "{} frames", frames.len());
    }

    #[test]
    fn the_longest_write_fits_behind_a_frame_that_is_nearly_full() {
        let frames =
            pack([write(1, WRITES_LEN - 200), write(2, 64 << 10)].map(|(op, bytes)| Carried::Write(op.dot, bytes)));
        assert_eq!(frames.len(), 1);
        assert!(frames[0].payload.len() <= caps(WRITES).expect("known").payload);
    }

    #[test]
    fn other_messages_arrive() {
        let digest = Digest { vector: [1; 16], rows: [2; 16] };
        for (is_joined, is_behind) in [(false, false), (true, false), (false, true), (true, true)] {
            let sent = Copy { digest, is_joined, is_behind };
            assert_eq!(Message::from_frame(&copy(&sent)), Ok(Message::Copy(sent)));
        }
        assert_eq!(Message::from_frame(&confirm(&[dot(1)])[0]), Ok(Message::Confirm(vec![dot(1)])));
        assert_eq!(Message::from_frame(&confirmed(&[dot(2)])[0]), Ok(Message::Confirmed(vec![dot(2)])));
        assert_eq!(confirm(&[]), []);
    }

    #[test]
    fn what_makes_no_sense_is_no_message() {
        let (_, bytes) = write(1, 10);
        let mut long = BytesMut::new();
        long.put_u32_le(bytes.len() as u32 + 1);
        long.put_slice(&bytes);
        let mut zero = dots_frames(HAVE, &[dot(1)]).remove(0).payload.to_vec();
        zero[40..].fill(0);
        let wrong = [
            frame(WRITES, long.freeze()),
            frame(WRITES, Bytes::from_static(&[1, 0, 0, 0, 9])),
            frame(WRITES, Bytes::from_static(&[1, 0])),
            frame(HAVE, Bytes::from_static(&[0; 47])),
            frame(HAVE, zero.into()),
            frame(COPY, Bytes::from_static(&[0; 32])),
            frame(COPY, Bytes::from_static(&[4; 33])),
            frame(CONFIRMED + 1, Bytes::new()),
            Frame::new(HAVE, Bytes::from_static(b"head"), Bytes::new()),
        ];
        for frame in wrong {
            assert_eq!(Message::from_frame(&frame), Err(NoMessage(frame.kind)), "{frame:?}");
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_read_or_refused(kind in KIND_FIRST..=CONFIRMED, payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::from_frame(&frame(kind, payload.into()));
        }
    }
}
