//! A frame becomes a message or is refused; a message that was read is written as one that reads the same.

use bytes::Bytes;
use p2p_dht::message::{Reply, Request, cap};
use p2p_gossip::wire::{Frame, Hello, decode};

use crate::Bits;

/// Of the bytes: one for the type, one for the length of the payload, then the head.
pub(crate) fn check(data: &[u8]) {
    let mut bits = Bits(data);
    let kind = bits.byte();
    let payload = Bytes::copy_from_slice(bits.0.get(..usize::from(bits.byte())).unwrap_or_default());
    let head = Bytes::copy_from_slice(bits.0);
    let _ = decode::<Hello>(&head);
    read(Frame::new(kind, head, payload));
}

/// Reads a frame as both sides would.
pub(crate) fn read(frame: Frame) {
    if let Ok((number, request)) = Request::from_frame(frame.clone()) {
        let again = request.clone().into_frame(number);
        assert!(fits(&again), "{request:?} is read, but cannot be sent");
        assert_eq!(Request::from_frame(again), Ok((number, request)));
    }
    if let Ok((number, reply)) = Reply::from_frame(frame) {
        let again = reply.clone().into_frame(number);
        assert!(fits(&again), "{reply:?} is read, but cannot be sent");
        assert_eq!(Reply::from_frame(again), Ok((number, reply)));
    }
}

fn fits(frame: &Frame) -> bool {
    cap(frame.kind).is_some_and(|cap| frame.head.len() <= cap.head && frame.payload.len() <= cap.payload)
}
