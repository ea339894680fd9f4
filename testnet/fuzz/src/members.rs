//! A frame becomes a message about members or is refused; what was read is written as it came.

use bytes::Bytes;
use p2p_gossip::swim::{
    Accusation, BUCKETS, Cause, Claims, Directory, Down, Ed25519, FILL_MAX, Fact, Message, Name, Record, Standing,
    Status, Version, codec,
};
use p2p_gossip::wire::Frame;

use crate::Bits;

/// Messages there are.
const MESSAGES: u8 = 12;

/// Bytes for each of the members in a doubt, of which the name comes first.
const DOUBT_LEN: usize = 44;

/// Frames as the bytes say, or messages of which a few bytes are changed.
pub(crate) fn check(data: &[u8]) {
    let mut bits = Bits(data);
    if bits.one_in(2) {
        return read(&changed(&mut bits));
    }
    let kind = bits.byte();
    let head = Bytes::copy_from_slice(bits.0.get(..usize::from(bits.byte())).unwrap_or_default());
    let payload = Bytes::copy_from_slice(bits.0.get(head.len()..).unwrap_or_default());
    read(&Frame::new(kind, head, payload));
}

fn read(frame: &Frame) {
    // Of whom nothing is known nothing is kept: for whoever knows nobody that is all of some messages.
    let _ = Message::from_frame(frame, &Directory::default());
    let mut directory = Directory::default();
    let names = frame.payload.chunks(DOUBT_LEN).chain([&frame.head[..]]);
    for name in names.filter_map(|bytes| bytes.first_chunk()) {
        directory.insert(Name(*name));
    }
    let read = Message::from_frame(frame, &directory);
    // A link gives out no others.
    let is_allowed =
        codec::caps(frame.kind).is_some_and(|cap| frame.head.len() <= cap.head && frame.payload.len() <= cap.payload);
    if let Some(read) = read.ok().filter(|_| is_allowed) {
        let again = read.as_ref().map(|message| message.to_frame(&directory));
        // A doubt of nobody says nothing.
        assert!(again.as_ref() == Some(frame) || read.is_none() && frame.payload.is_empty(), "{read:?} of {frame:?}");
    }
}

/// A message with up to three of its bytes changed, or some of them missing.
fn changed(bits: &mut Bits<'_>) -> Frame {
    let mut directory = Directory::default();
    let message = message(bits, &mut directory);
    let mut frame = message.to_frame(&directory);
    for _ in 0..bits.byte() % 4 {
        let is_head = bits.one_in(4);
        let part = if is_head { &mut frame.head } else { &mut frame.payload };
        let mut bytes = part.to_vec();
        if bits.one_in(8) {
            bytes.truncate(bits.below(bytes.len() + 1));
        } else {
            let (at, flip) = (bits.below(bytes.len()), bits.byte());
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= flip);
        }
        *part = bytes.into();
    }
    frame
}

fn message(bits: &mut Bits<'_>, directory: &mut Directory) -> Message {
    let (keys, other) = (Ed25519::of_secret([bits.byte(); 32]), Ed25519::of_secret([bits.byte(); 32]));
    let record = Record::sign(claims(bits, keys.name()), &keys);
    let member = directory.insert(keys.name());
    let word = Accusation::sign(other.name(), &record, Cause::Silent, bits.u16(), &other);
    let down = Fact::Down(Down::new(record.clone(), [word.clone()]));
    let facts = vec![Fact::Said(record.clone()).into(), down.into()];
    match bits.byte() % MESSAGES {
        0 => Message::Meet(record, bits.u64(), Standing::Arriving),
        1 => Message::Ping(u32::from(bits.u16()), bits.u64(), bits.one_in(2)),
        2 => Message::Ack(u32::from(bits.u16()), bits.u64()),
        3 => Message::Ask(member),
        4 => Message::Told(member, bits.one_in(2)),
        5 => Message::News(facts),
        6 => Message::Known(facts),
        7 => Message::Accuse(word),
        8 => Message::Doubt(vec![(member, record.version()), (directory.insert(other.name()), Version::default())]),
        9 => Message::Sums(Box::new([bits.u64(); BUCKETS])),
        10 => Message::Buckets(Box::new([bits.u64(); BUCKETS / 64]), facts),
        _ => Message::Settled,
    }
}

fn claims(bits: &mut Bits<'_>, name: Name) -> Claims {
    let some = |bits: &mut Bits<'_>| Bytes::from(vec![bits.byte(); usize::from(bits.byte() / 2)]);
    Claims {
        name,
        version: Version { generation: bits.u64(), incarnation: u32::from(bits.u16()) },
        instance: bits.u64(),
        status: if bits.one_in(2) { Status::Alive } else { Status::Left },
        introducer: bits.one_in(2).then_some(Name(bits.bytes())),
        addresses: (0..bits.byte() % 5).map(|_| some(bits)).collect(),
        tags: some(bits),
        fill: bits.byte() % (FILL_MAX + 1),
        rest: some(bits),
    }
}
