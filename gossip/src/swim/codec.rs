//! Messages as frames: a type for each message, what is small and fixed in the head, records and facts as they were signed in
//! the payload. Hashes and numbers have their full width, so that a frame is as long as [`Message::frame_len`] says.
//!
//! A peer's frame may name members that this node has never heard of. Such a name is not kept: what is said of it means
//! nothing here yet.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::bytes::Reader;
use super::fact::{ACCUSATION_LEN, Accusation, Fact};
use super::members::BUCKETS;
use super::message::{BUCKETS_LEN_MAX, BucketSet, DOUBT_LEN, DOUBTS_MAX, FACTS_LEN_MAX, Message, Standing};
use super::name::{Directory, Member, Name};
use super::record::{RECORD_LEN_MAX, Record, RecordError, Version};
use crate::wire::frame::KIND_FIRST_FREE;
use crate::wire::{Cap, DecodeError, Frame, decode, encode};

/// The protocol's name.
pub const PROTOCOL: &str = "/p2p-node/members/1";

const MEET: u8 = KIND_FIRST_FREE;
const PING: u8 = KIND_FIRST_FREE + 1;
const ACK: u8 = KIND_FIRST_FREE + 2;
const ASK: u8 = KIND_FIRST_FREE + 3;
const TOLD: u8 = KIND_FIRST_FREE + 4;
const NEWS: u8 = KIND_FIRST_FREE + 5;
const KNOWN: u8 = KIND_FIRST_FREE + 6;
const ACCUSE: u8 = KIND_FIRST_FREE + 7;
const DOUBT: u8 = KIND_FIRST_FREE + 8;
const SUMS: u8 = KIND_FIRST_FREE + 9;
const BUCKETS_OF: u8 = KIND_FIRST_FREE + 10;
const SETTLED: u8 = KIND_FIRST_FREE + 11;

/// How long frames of each type may be.
pub fn caps(kind: u8) -> Option<Cap> {
    let (head, payload) = match kind {
        MEET => (9, RECORD_LEN_MAX),
        PING => (13, 0),
        ACK => (12, 0),
        ASK => (32, 0),
        TOLD => (33, 0),
        NEWS | KNOWN => (0, FACTS_LEN_MAX),
        ACCUSE => (0, ACCUSATION_LEN),
        DOUBT => (0, DOUBTS_MAX * DOUBT_LEN),
        SUMS => (0, BUCKETS * 8),
        BUCKETS_OF => (BUCKETS / 8, BUCKETS_LEN_MAX),
        SETTLED => (0, 0),
        _ => return None,
    };
    Some(Cap { head, payload })
}

/// Why a frame is no message. Whoever sent it does not speak this protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The type is none of this protocol's.
    #[error("frame type {0} is no message of membership")]
    Kind(u8),
    /// The head is not what this type has.
    #[error(transparent)]
    Head(#[from] DecodeError),
    /// A record or a fact is none.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The payload is not what this type has.
    #[error("the payload of a frame of type {0} makes no sense")]
    Payload(u8),
}

#[derive(Serialize, Deserialize)]
struct MeetHead {
    digest: [u8; 8],
    standing: u8,
}

#[derive(Serialize, Deserialize)]
struct PingHead {
    number: [u8; 4],
    digest: [u8; 8],
    answered: bool,
}

#[derive(Serialize, Deserialize)]
struct AckHead {
    number: [u8; 4],
    digest: [u8; 8],
}

#[derive(Serialize, Deserialize)]
struct ToldHead {
    subject: [u8; 32],
    answered: bool,
}

impl Message {
    /// One of our own messages as a frame.
    pub fn to_frame(&self, directory: &Directory) -> Frame {
        let name = |member: &Member| directory.name(*member).0;
        let (kind, head, payload) = match self {
            Message::Meet(record, digest, standing) => {
                let head = MeetHead { digest: digest.to_le_bytes(), standing: standing.code() };
                (MEET, encode(&head), record.signed().clone())
            }
            Message::Ping(number, digest, answered) => {
                let (number, digest) = (number.to_le_bytes(), digest.to_le_bytes());
                (PING, encode(&PingHead { number, digest, answered: *answered }), Bytes::new())
            }
            Message::Ack(number, digest) => {
                let head = AckHead { number: number.to_le_bytes(), digest: digest.to_le_bytes() };
                (ACK, encode(&head), Bytes::new())
            }
            Message::Ask(subject) => (ASK, encode(&name(subject)), Bytes::new()),
            Message::Told(subject, answered) => {
                (TOLD, encode(&ToldHead { subject: name(subject), answered: *answered }), Bytes::new())
            }
            Message::News(facts) => (NEWS, Bytes::new(), encode_facts(facts)),
            Message::Known(facts) => (KNOWN, Bytes::new(), encode_facts(facts)),
            Message::Accuse(accusation) => {
                let mut bytes = BytesMut::with_capacity(ACCUSATION_LEN);
                accusation.encode(&mut bytes);
                (ACCUSE, Bytes::new(), bytes.freeze())
            }
            Message::Doubt(members) => {
                let mut bytes = BytesMut::with_capacity(members.len() * DOUBT_LEN);
                for (member, version) in members {
                    bytes.put_slice(&name(member));
                    bytes.put_u64_le(version.generation);
                    bytes.put_u32_le(version.incarnation);
                }
                (DOUBT, Bytes::new(), bytes.freeze())
            }
            Message::Sums(sums) => {
                let mut bytes = BytesMut::with_capacity(BUCKETS * 8);
                sums.iter().for_each(|sum| bytes.put_u64_le(*sum));
                (SUMS, Bytes::new(), bytes.freeze())
            }
            Message::Buckets(set, facts) => {
                let mut head = BytesMut::with_capacity(BUCKETS / 8);
                set.iter().for_each(|word| head.put_u64_le(*word));
                (BUCKETS_OF, head.freeze(), encode_facts(facts))
            }
            Message::Settled => (SETTLED, Bytes::new(), Bytes::new()),
        };
        Frame::new(kind, head, payload)
    }

    /// A peer's frame as a message; None where it is all about members that this node does not know.
    ///
    /// # Errors
    /// What is wrong with the frame.
    pub fn from_frame(frame: &Frame, directory: &Directory) -> Result<Option<Self>, MessageError> {
        let Frame { kind, head, payload, .. } = frame;
        let malformed = MessageError::Payload(*kind);
        let find = |name: [u8; 32]| directory.find(&Name(name));
        Ok(Some(match *kind {
            MEET => {
                let MeetHead { digest, standing } = decode(head)?;
                let standing = Standing::of_code(standing).ok_or(malformed)?;
                Message::Meet(Record::decode(payload.clone())?, u64::from_le_bytes(digest), standing)
            }
            PING => {
                let PingHead { number, digest, answered } = decode(head)?;
                Message::Ping(u32::from_le_bytes(number), u64::from_le_bytes(digest), answered)
            }
            ACK => {
                let AckHead { number, digest } = decode(head)?;
                Message::Ack(u32::from_le_bytes(number), u64::from_le_bytes(digest))
            }
            ASK => match find(decode(head)?) {
                Some(subject) => Message::Ask(subject),
                None => return Ok(None),
            },
            TOLD => {
                let ToldHead { subject, answered } = decode(head)?;
                match find(subject) {
                    Some(subject) => Message::Told(subject, answered),
                    None => return Ok(None),
                }
            }
            NEWS => Message::News(Fact::decode_all(payload)?),
            KNOWN => Message::Known(Fact::decode_all(payload)?),
            ACCUSE => Message::Accuse(Accusation::decode_one(payload).ok_or(malformed)?),
            DOUBT => {
                let mut reader = Reader::new(payload);
                let mut members = Vec::with_capacity(payload.len() / DOUBT_LEN);
                while !reader.is_empty() {
                    let (name, version) = decode_doubt(&mut reader).ok_or_else(|| malformed.clone())?;
                    members.extend(find(name).map(|member| (member, version)));
                }
                match members.is_empty() {
                    true => return Ok(None),
                    false => Message::Doubt(members),
                }
            }
            SUMS => {
                let mut reader = Reader::new(payload);
                let mut sums = Box::new([0; BUCKETS]);
                for sum in sums.iter_mut() {
                    *sum = reader.u64().ok_or_else(|| malformed.clone())?;
                }
                if !reader.is_empty() {
                    return Err(malformed);
                }
                Message::Sums(sums)
            }
            BUCKETS_OF => {
                let mut reader = Reader::new(head);
                let mut set = BucketSet::default();
                for word in &mut set {
                    *word = reader.u64().ok_or_else(|| malformed.clone())?;
                }
                Message::Buckets(Box::new(set), Fact::decode_all(payload)?)
            }
            SETTLED => Message::Settled,
            other => return Err(MessageError::Kind(other)),
        }))
    }
}

fn encode_facts(facts: &[Arc<Fact>]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(facts.iter().map(|fact| fact.encoded_len()).sum());
    facts.iter().for_each(|fact| fact.encode(&mut bytes));
    bytes.freeze()
}

fn decode_doubt(reader: &mut Reader) -> Option<([u8; 32], Version)> {
    let name = reader.array()?;
    let generation = reader.u64()?;
    Some((name, Version { generation, incarnation: reader.u32()? }))
}

impl Standing {
    fn code(self) -> u8 {
        match self {
            Standing::Alone => 0,
            Standing::Arriving => 1,
            Standing::Settled => 2,
        }
    }

    fn of_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Standing::Alone,
            1 => Standing::Arriving,
            2 => Standing::Settled,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fact::{Cause, Down};
    use super::super::testing::{StandIn, claims, record};
    use super::*;
    use crate::wire::frame;

    fn directory() -> Directory {
        let mut directory = Directory::default();
        for n in 0..8 {
            directory.insert(Name([n; 32]));
        }
        directory
    }

    fn member(n: u8) -> Member {
        directory().find(&Name([n; 32])).expect("one of them")
    }

    fn accusation() -> Arc<Accusation> {
        Accusation::sign(Name([2; 32]), &record(claims(1)), Cause::Gone, 300, &StandIn::of(2))
    }

    fn messages() -> Vec<Message> {
        let said = Arc::new(Fact::Said(record(claims(1))));
        let down = Arc::new(Fact::Down(Down::new(record(claims(1)), [accusation()])));
        let version = Version { generation: u64::MAX, incarnation: u32::MAX };
        vec![
            Message::Meet(record(claims(1)), u64::MAX, Standing::Arriving),
            Message::Ping(u32::MAX, u64::MAX, true),
            Message::Ack(u32::MAX, u64::MAX),
            Message::Ask(member(3)),
            Message::Told(member(3), true),
            Message::News(vec![said.clone(), down.clone()]),
            Message::Known(vec![down]),
            Message::Accuse(accusation()),
            Message::Doubt(vec![(member(4), version), (member(5), Version::default())]),
            Message::Sums(Box::new([u64::MAX; BUCKETS])),
            Message::Buckets(Box::new([1, 2, 3, u64::MAX]), vec![said]),
            Message::Settled,
        ]
    }

    #[test]
    fn every_message_survives_the_way_fits_its_cap_and_is_as_long_as_it_says() {
        let directory = directory();
        for message in messages() {
            let frame = message.to_frame(&directory);
            let cap = caps(frame.kind).expect("one of ours");
            assert!(frame.head.len() <= cap.head && frame.payload.len() <= cap.payload, "{message:?}");
            assert_eq!(frame::HEADER_LEN + frame.head.len() + frame.payload.len(), message.frame_len(), "{message:?}");
            let again = Message::from_frame(&frame, &directory).expect("our own").expect("all are known");
            assert_eq!(again.to_frame(&directory), frame);
            assert_eq!(format!("{again:?}"), format!("{message:?}"));
        }
    }

    /// The encoding is part of the protocol: a change here breaks every running cluster.
    #[test]
    fn golden_vectors_stay_as_they_are() {
        let directory = directory();
        let frame = |message: Message| message.to_frame(&directory);
        let ping = frame(Message::Ping(0x0102, 0x0304, true));
        assert_eq!((ping.kind, &ping.head[..]), (17, &[2, 1, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 1][..]));
        let ack = frame(Message::Ack(0x0102, 0x0304));
        assert_eq!((ack.kind, &ack.head[..]), (18, &[2, 1, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0][..]));
        let told = frame(Message::Told(member(3), true));
        assert_eq!((told.kind, told.head.to_vec()), (20, [vec![3; 32], vec![1]].concat()));
        let doubt = frame(Message::Doubt(vec![(member(4), Version { generation: 5, incarnation: 6 })]));
        let bytes = [vec![4; 32], vec![5, 0, 0, 0, 0, 0, 0, 0], vec![6, 0, 0, 0]].concat();
        assert_eq!((doubt.kind, doubt.payload.to_vec()), (24, bytes));
        // What is signed, by its hash: record, accusation, facts.
        let hashes: Vec<String> = messages()
            .into_iter()
            .map(frame)
            .filter(|frame| [16, 21, 23, 26].contains(&frame.kind))
            .map(|frame| blake3::hash(&[&frame.head[..], &frame.payload[..]].concat()).to_hex()[..16].to_owned())
            .collect();
        assert_eq!(hashes, ["da41b55f93485ee9", "9a2b1b2947b40dc5", "e62b476d757dc2d0", "7b24e311912210f0"]);
    }

    #[test]
    fn names_that_nobody_has_heard_of_are_passed_over() {
        let directory = directory();
        let mut more = super::tests::directory();
        let stranger = more.insert(Name([99; 32]));
        for message in [Message::Ask(stranger), Message::Told(stranger, false)] {
            assert!(Message::from_frame(&message.to_frame(&more), &directory).expect("well formed").is_none());
        }
        let doubt = Message::Doubt(vec![(stranger, Version::default()), (member(4), Version::default())]);
        let read = Message::from_frame(&doubt.to_frame(&more), &directory).expect("well formed");
        assert!(matches!(read, Some(Message::Doubt(members)) if members == [(member(4), Version::default())]));
    }

    #[test]
    fn what_is_cut_short_or_goes_on_is_refused() {
        let directory = directory();
        for message in messages() {
            let frame = message.to_frame(&directory);
            let longer = |bytes: &Bytes| Bytes::from([&bytes[..], &[0]].concat());
            let mut broken = vec![
                Frame { head: longer(&frame.head), ..frame.clone() },
                Frame { payload: longer(&frame.payload), ..frame.clone() },
            ];
            // What follows a record is fields of a later version; then its signature does not fit.
            if matches!(message, Message::Meet(..)) {
                broken.pop();
            }
            if !frame.head.is_empty() {
                broken.push(Frame { head: frame.head.slice(1..), ..frame.clone() });
            }
            if !frame.payload.is_empty() {
                broken.push(Frame { payload: frame.payload.slice(1..), ..frame.clone() });
            }
            let fits = |frame: &Frame| {
                caps(frame.kind).is_some_and(|cap| frame.head.len() <= cap.head && frame.payload.len() <= cap.payload)
            };
            for broken in broken.into_iter().filter(fits) {
                assert!(Message::from_frame(&broken, &directory).is_err(), "{message:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_stranger_panic(
            kind in MEET..=SETTLED + 1,
            head in proptest::collection::vec(any::<u8>(), 0..40),
            payload in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let _ = Message::from_frame(&Frame::new(kind, head.into(), payload.into()), &directory());
        }
    }
}
