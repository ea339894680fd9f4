//! Frames: an eight-byte header, a small encoded head, a raw payload.
//!
//! ```text
//! type u8 | flags u8 | head length u16 LE | payload length u32 LE | head | payload
//! ```
//!
//! The payload never passes through a codec, so that bulk costs one copy. A protocol says by [`Cap`] how long head and
//! payload of each of its types may be; everything is checked before anything is allocated.

use std::time::Duration;

use bytes::Bytes;
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::buffer::Buffer;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// A receiver that does not know the type skips the frame instead of closing the stream.
pub const FLAG_IGNORABLE: u8 = 0x01;

/// Types below this one belong to the wire itself, see [`super::link`].
pub const KIND_FIRST_FREE: u8 = 16;

/// Most bytes given to the stream in one write: larger ones keep the connection's task busy for too long. With the muxer's
/// header it still fits one message of libp2p's Noise, which takes 64,511 bytes.
pub const WRITE_LEN_MAX: usize = 62 << 10;

/// Payloads up to this length, in bytes, are written with their header: each write is a message of its own below.
const JOINED_LEN_MAX: usize = 4 << 10;

/// Longest frame of an unknown, ignorable type, head and payload, in bytes. It is read and thrown away.
pub const SKIPPED_LEN_MAX: usize = 64 << 10;

/// Slowest rate at which a frame that has begun may arrive, in bytes per second.
pub const RATE_MIN: u64 = 8 << 10;

/// Time added to what [`RATE_MIN`] allows, so that one lost packet does not end a stream.
pub const FRAME_GRACE: Duration = Duration::from_secs(10);

/// One message of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The type, given by the protocol.
    pub kind: u8,
    /// See [`FLAG_IGNORABLE`].
    pub flags: u8,
    /// Encoded by [`super::codec`].
    pub head: Bytes,
    /// Raw bytes.
    pub payload: Bytes,
}

impl Frame {
    /// A frame without flags.
    pub fn new(kind: u8, head: Bytes, payload: Bytes) -> Self {
        Self { kind, flags: 0, head, payload }
    }

    /// Bytes that the frame counts against its receiver's credit: what holding it costs, headers and bookkeeping included.
    pub fn cost(&self) -> usize {
        cost(self.head.len(), self.payload.len())
    }
}

/// See [`Frame::cost`].
pub fn cost(head_len: usize, payload_len: usize) -> usize {
    /// What a frame costs beside its bytes: more than the memory for keeping it, because taking a frame of no bytes off the
    /// wire is as much work as moving a kibibyte of payload, and this is all that bounds how many may come unread.
    const OVERHEAD: usize = 1024;
    OVERHEAD + head_len + payload_len
}

/// How long the parts of a frame of one type may be, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// Longest head.
    pub head: usize,
    /// Longest payload.
    pub payload: usize,
}

/// Why a peer's bytes are not a frame. The stream cannot be used any further.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The type is unknown and not ignorable.
    #[error("frame type {0} is unknown")]
    UnknownKind(u8),
    /// Head or payload exceed the cap of the type.
    #[error("a frame of type {kind} claims {head} + {payload} bytes, more than it may have")]
    TooLong {
        /// The type.
        kind: u8,
        /// Claimed length of the head.
        head: usize,
        /// Claimed length of the payload.
        payload: usize,
    },
    /// The frame began and did not end in time.
    #[error("a frame of type {0} did not arrive in time")]
    Slow(u8),
    /// The stream failed or ended inside a frame.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A checked header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) head_len: usize,
    pub(super) payload_len: usize,
    /// Of an unknown type: to be read and thrown away.
    pub(super) skipped: bool,
}

impl Header {
    /// Checks a peer's header against the caps of the protocol; `caps` gives None for types it does not know.
    pub(super) fn parse(bytes: [u8; HEADER_LEN], caps: impl Fn(u8) -> Option<Cap>) -> Result<Self, FrameError> {
        let [kind, flags, head0, head1, payload0, payload1, payload2, payload3] = bytes;
        let head_len = usize::from(u16::from_le_bytes([head0, head1]));
        let payload_len = u32::from_le_bytes([payload0, payload1, payload2, payload3]) as usize;
        let too_long = FrameError::TooLong { kind, head: head_len, payload: payload_len };
        let (cap, skipped) = match caps(kind) {
            Some(cap) => (cap, false),
            None if flags & FLAG_IGNORABLE != 0 => {
                let left = SKIPPED_LEN_MAX.checked_sub(head_len).ok_or(too_long)?;
                (Cap { head: head_len, payload: left }, true)
            }
            None => return Err(FrameError::UnknownKind(kind)),
        };
        if head_len > cap.head || payload_len > cap.payload {
            return Err(FrameError::TooLong { kind, head: head_len, payload: payload_len });
        }
        Ok(Self { kind, flags, head_len, payload_len, skipped })
    }

    /// How long the rest of this frame may take.
    fn time_limit(&self) -> Duration {
        FRAME_GRACE + Duration::from_secs((self.head_len + self.payload_len) as u64 / RATE_MIN)
    }
}

/// Reads the next header; None at a clean end of the stream.
pub(super) async fn read_header<R: AsyncRead + Unpin>(
    reader: &mut R,
    caps: impl Fn(u8) -> Option<Cap>,
) -> Result<Option<Header>, FrameError> {
    let mut bytes = [0; HEADER_LEN];
    // Between frames a stream may be silent for ever; a header that has begun may not.
    if reader.read(&mut bytes[..1]).await? == 0 {
        return Ok(None);
    }
    match tokio::time::timeout(FRAME_GRACE, reader.read_exact(&mut bytes[1..])).await {
        Ok(read) => read?,
        Err(_elapsed) => return Err(FrameError::Slow(bytes[0])),
    }
    Header::parse(bytes, caps).map(Some)
}

/// Reads what follows a header; tells `moved` of bytes as they come, so that a slow frame is not taken for silence.
pub(super) async fn read_body<R: AsyncRead + Unpin>(
    reader: &mut R,
    header: Header,
    moved: impl Fn(usize),
) -> Result<Frame, FrameError> {
    let read = async {
        let mut head = vec![0; header.head_len];
        reader.read_exact(&mut head).await?;
        let mut payload = Buffer::new(header.payload_len);
        for part in payload.chunks_mut(WRITE_LEN_MAX) {
            reader.read_exact(part).await?;
            moved(part.len());
        }
        Ok::<_, std::io::Error>((head, payload))
    };
    match tokio::time::timeout(header.time_limit(), read).await {
        Ok(parts) => {
            let (head, payload) = parts?;
            Ok(Frame { kind: header.kind, flags: header.flags, head: head.into(), payload: payload.freeze() })
        }
        Err(_elapsed) => Err(FrameError::Slow(header.kind)),
    }
}

/// Writes a frame without flushing; tells `moved` of bytes as they go.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    writer: &mut W,
    frame: &Frame,
    moved: impl Fn(usize),
) -> std::io::Result<()> {
    let head_len = u16::try_from(frame.head.len()).map_err(std::io::Error::other)?;
    let payload_len = u32::try_from(frame.payload.len()).map_err(std::io::Error::other)?;
    let (short, long) = match frame.payload.len() <= JOINED_LEN_MAX {
        true => (&frame.payload[..], &[][..]),
        false => (&[][..], &frame.payload[..]),
    };
    let mut start = Vec::with_capacity(HEADER_LEN + frame.head.len() + short.len());
    start.extend_from_slice(&[frame.kind, frame.flags]);
    start.extend_from_slice(&head_len.to_le_bytes());
    start.extend_from_slice(&payload_len.to_le_bytes());
    start.extend_from_slice(&frame.head);
    start.extend_from_slice(short);
    writer.write_all(&start).await?;
    if !short.is_empty() {
        moved(short.len());
    }
    for part in long.chunks(WRITE_LEN_MAX) {
        writer.write_all(part).await?;
        moved(part.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use proptest::prelude::*;

    use super::*;

    const KNOWN: u8 = 20;

    fn caps(kind: u8) -> Option<Cap> {
        (kind == KNOWN).then_some(Cap { head: 16, payload: 300_000 })
    }

    async fn read_one(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        let mut reader = Cursor::new(bytes);
        match read_header(&mut reader, caps).await? {
            Some(header) => read_body(&mut reader, header, drop).await.map(Some),
            None => Ok(None),
        }
    }

    #[tokio::test]
    async fn the_layout_is_a_promise() {
        let frame =
            Frame { kind: KNOWN, flags: 1, head: Bytes::from_static(b"hd"), payload: Bytes::from_static(b"data") };
        let mut bytes = Vec::new();
        write(&mut bytes, &frame, drop).await.expect("a vector takes all");
        assert_eq!(bytes, [20, 1, 2, 0, 4, 0, 0, 0, b'h', b'd', b'd', b'a', b't', b'a']);
    }

    #[tokio::test]
    async fn a_frame_survives_the_way() {
        for payload_len in [0, 1, WRITE_LEN_MAX - 1, WRITE_LEN_MAX, WRITE_LEN_MAX + 1, 300_000] {
            let payload: Vec<u8> = (0..payload_len).map(|i| (i % 251) as u8).collect();
            let frame = Frame::new(KNOWN, Bytes::from_static(b"head"), payload.into());
            let mut bytes = Vec::new();
            write(&mut bytes, &frame, drop).await.expect("a vector takes all");
            assert_eq!(read_one(&bytes).await.expect("our own frame"), Some(frame));
        }
    }

    #[tokio::test]
    async fn lengths_over_the_cap_are_refused_before_anything_is_read() {
        let head = [KNOWN, 0, 17, 0, 0, 0, 0, 0];
        assert!(matches!(read_one(&head).await, Err(FrameError::TooLong { head: 17, .. })));
        let payload = [KNOWN, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(read_one(&payload).await, Err(FrameError::TooLong { payload: 0xffff_ffff, .. })));
    }

    #[tokio::test]
    async fn an_unknown_type_is_skipped_only_if_it_says_so_and_is_short() {
        let plain = [99, 0, 0, 0, 0, 0, 0, 0];
        assert!(matches!(read_one(&plain).await, Err(FrameError::UnknownKind(99))));
        let ignorable = [99, FLAG_IGNORABLE, 0, 0, 2, 0, 0, 0, 1, 2];
        let mut reader = Cursor::new(&ignorable[..]);
        let header = read_header(&mut reader, caps).await.expect("skippable").expect("a header");
        assert!(header.skipped);
        let long = [99, FLAG_IGNORABLE, 0, 0, 1, 0, 1, 0];
        assert!(matches!(read_one(&long).await, Err(FrameError::TooLong { .. })));
    }

    #[tokio::test]
    async fn the_end_between_frames_is_clean_and_inside_one_is_not() {
        assert!(read_one(&[]).await.expect("a clean end").is_none());
        assert!(matches!(read_one(&[KNOWN, 0]).await, Err(FrameError::Io(_))));
        assert!(matches!(read_one(&[KNOWN, 0, 0, 0, 2, 0, 0, 0, 1]).await, Err(FrameError::Io(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_drips_is_given_up() {
        let (near, far) = tokio::io::duplex(64);
        let mut reader = tokio_util::compat::TokioAsyncReadCompatExt::compat(near);
        let drip = tokio::spawn(async move {
            let mut far = far;
            use tokio::io::AsyncWriteExt as _;
            far.write_all(&[KNOWN, 0, 0, 0, 100, 0, 0, 0]).await.expect("room");
            std::future::pending::<()>().await;
        });
        let header = read_header(&mut reader, caps).await.expect("a header").expect("a header");
        assert!(matches!(read_body(&mut reader, header, drop).await, Err(FrameError::Slow(KNOWN))));
        drip.abort();
    }

    proptest! {
        #[test]
        fn any_header_is_checked_or_refused(bytes: [u8; HEADER_LEN]) {
            if let Ok(header) = Header::parse(bytes, caps) {
                prop_assert!(header.head_len + header.payload_len <= 300_016);
            }
        }
    }
}
