//! What nodes send each other, and how long it is.
//!
//! Nothing is encoded: a message is its fields, with the length that memberlist's encoding has. That is msgpack with
//! the names of fields (`net.go`), a byte for the kind, names of [`NAME_LEN`] bytes, addresses of four bytes, a port of
//! two, and six bytes of versions: 91 bytes for a ping, 20 for an ack, 59 for a suspicion, 72 for an alive without
//! meta, 78 for a member in a whole state. By default memberlist compresses by LZW, packets where it helps;
//! [`compressed_len`] is read from that compression of such messages, for names of which six bytes of sixteen are the
//! same.

use crate::sim::Slot;
use crate::swim::Member;

/// Bytes of a name.
const NAME_LEN: usize = 16;

/// Bytes before the messages of a packet with several.
pub(super) const COMPOUND_HEADER_LEN: usize = 2;

/// Bytes before each of them.
pub(super) const COMPOUND_ENTRY_LEN: usize = 2;

/// Kind and checksum of a packet to one whose protocol is known to have them.
pub(super) const CHECKSUM_LEN: usize = 5;

/// What a member says of itself, as others pass it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Who.
    pub member: Member,
    /// Later is larger.
    pub incarnation: u32,
    /// Where it can be reached.
    pub slot: Slot,
    /// What its owner says of it.
    pub meta: Option<u64>,
}

/// What one says of another; or of itself, if it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// Of whom.
    pub member: Member,
    /// Which of its own claims is answered by this.
    pub incarnation: u32,
    /// Who says so.
    pub from: Member,
}

/// What a node takes a member for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It is here.
    Alive = 1,
    /// It does not answer.
    Suspect = 2,
    /// It has not answered for too long.
    Dead = 3,
    /// It has said that it goes.
    Left = 4,
}

/// What nodes send each other.
#[derive(Clone, Debug)]
pub enum Message {
    /// Asks a member for an ack.
    Ping {
        /// The number that the ack is to have.
        number: u32,
        /// The member that is meant.
        target: Member,
    },
    /// Asks somebody to ask a member.
    IndirectPing {
        /// The number that the ack is to have.
        number: u32,
        /// The member that is meant.
        target: Member,
        /// Where it can be reached.
        slot: Slot,
    },
    /// Somebody is there.
    Ack(u32),
    /// Whoever was asked to ask is there; the member has not answered.
    Nack(u32),
    /// A member is there.
    Alive(Alive),
    /// A member does not answer.
    Suspect(Accusation),
    /// A member is gone.
    Dead(Accusation),
    /// Several of these in a packet.
    Compound(Vec<Message>),
    /// All that a node knows; the other end of the stream is to answer with the same.
    Push(Vec<(Alive, Status)>),
    /// The answer.
    Pull(Vec<(Alive, Status)>),
}

impl Message {
    /// Bytes of it, not compressed.
    pub(super) fn encoded_len(&self) -> usize {
        match self {
            Message::Ping { number, .. } => 88 + uint_len(u64::from(*number)),
            Message::IndirectPing { number, .. } => 114 + uint_len(u64::from(*number)),
            Message::Ack(number) => 17 + uint_len(u64::from(*number)),
            Message::Nack(number) => 8 + uint_len(u64::from(*number)),
            Message::Alive(alive) => 54 + NAME_LEN + uint_len(u64::from(alive.incarnation)) + meta_len(alive.meta),
            Message::Suspect(accusation) | Message::Dead(accusation) => {
                26 + 2 * NAME_LEN + uint_len(u64::from(accusation.incarnation))
            }
            Message::Compound(parts) => {
                let parts = parts.iter().map(|part| COMPOUND_ENTRY_LEN + part.encoded_len());
                COMPOUND_HEADER_LEN + parts.sum::<usize>()
            }
            Message::Push(states) | Message::Pull(states) => {
                let each = |(alive, _): &(Alive, Status)| {
                    60 + NAME_LEN + uint_len(u64::from(alive.incarnation)) + meta_len(alive.meta)
                };
                28 + uint_len(states.len() as u64) + states.iter().map(each).sum::<usize>()
            }
        }
    }

    /// Bytes of a packet of it, which is compressed where that makes it shorter.
    pub(super) fn packet_len(&self) -> usize {
        let len = self.encoded_len();
        len.min(compressed_len(len))
    }

    /// Bytes of it on a stream, where everything is compressed.
    pub(super) fn stream_len(&self) -> usize {
        compressed_len(self.encoded_len())
    }
}

fn uint_len(number: u64) -> usize {
    match number {
        0..0x80 => 1,
        0x80..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    }
}

/// A byte for its length, or for none.
fn meta_len(meta: Option<u64>) -> usize {
    1 + meta.map_or(0, |meta| size_of_val(&meta))
}

/// Lengths before and after compression; in between and beyond, straight lines.
const COMPRESSED: [(usize, usize); 11] = [
    (0, 15),
    (124, 128),
    (185, 170),
    (307, 238),
    (490, 325),
    (734, 430),
    (1_100, 590),
    (1_400, 680),
    (2_369, 955),
    (7_829, 2_110),
    (78_031, 15_950),
];

/// Length of so many bytes when they are compressed.
fn compressed_len(len: usize) -> usize {
    let index = COMPRESSED.partition_point(|(before, _)| *before <= len).clamp(1, COMPRESSED.len() - 1);
    let ((from, from_len), (to, to_len)) = (COMPRESSED[index - 1], COMPRESSED[index]);
    from_len + (len - from) * (to_len - from_len) / (to - from)
}
