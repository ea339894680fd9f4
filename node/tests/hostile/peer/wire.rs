//! One stream of the objects' protocol, spoken by hand: every byte is the scenario's.

use std::time::Duration;

use bytes::Bytes;
use futures::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use p2p_dht::message::VERSIONS;
use p2p_gossip::wire::{Frame, Hello, encode};

use super::door::{Member, Protocol};

pub(crate) const HELLO: u8 = 0;
pub(crate) const CREDIT: u8 = 1;

/// What the hostile peer grants where it does not lie about that.
pub(crate) const CREDIT_LEN: u32 = 4 << 20;

/// Longest wait for the victim to close what it should close at once.
pub(crate) const CLOSED_TIME_MAX: Duration = Duration::from_secs(15);

/// A stream.
pub(crate) struct Wire {
    pub(crate) reader: ReadHalf<libp2p::Stream>,
    pub(crate) writer: WriteHalf<libp2p::Stream>,
}

impl Wire {
    /// A stream on which nothing was said.
    pub(crate) async fn open(member: &Member) -> std::io::Result<Self> {
        Ok(Self::of(member.open(Protocol::Objects).await?))
    }

    pub(crate) fn of(stream: libp2p::Stream) -> Self {
        let (reader, writer) = stream.split();
        Self { reader, writer }
    }

    /// A stream after both hellos, of which this side's is honest.
    pub(crate) async fn greeted(member: &Member) -> std::io::Result<Self> {
        Self::greeted_with(member, CREDIT_LEN).await
    }

    pub(crate) async fn greeted_with(member: &Member, credit: u32) -> std::io::Result<Self> {
        let mut wire = Self::open(member).await?;
        wire.hello(&Hello { credit, ..hello(member) }).await?;
        Ok(wire)
    }

    /// Says hello, and waits for the other's.
    pub(crate) async fn hello(&mut self, hello: &Hello) -> std::io::Result<()> {
        self.send(HELLO, 0, &encode(hello), &[]).await?;
        self.next().await.map(drop)
    }

    /// Writes a frame whatever it says.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, head: &[u8], payload: &[u8]) -> std::io::Result<()> {
        let mut bytes = header(kind, flags, head.len() as u16, payload.len() as u32).to_vec();
        bytes.extend_from_slice(head);
        self.writer.write_all(&bytes).await?;
        self.writer.write_all(payload).await?;
        self.writer.flush().await
    }

    /// Writes a frame of the protocol.
    pub(crate) async fn say(&mut self, frame: &Frame) -> std::io::Result<()> {
        self.send(frame.kind, frame.flags, &frame.head, &frame.payload).await
    }

    /// Writes bytes that may be no frame.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
    }

    /// The next frame, credit and hello included.
    pub(crate) async fn next(&mut self) -> std::io::Result<Frame> {
        next(&mut self.reader).await
    }

    /// The next frame that is of the protocol.
    pub(crate) async fn answer(&mut self) -> std::io::Result<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind > CREDIT {
                return Ok(frame);
            }
        }
    }

    /// Waits until the victim has ended the stream; complains if it does not.
    pub(crate) async fn ended(mut self, member: &Member, after: &str) {
        let read_on = async {
            let mut buffer = vec![0; 64 << 10];
            while self.reader.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
        };
        if tokio::time::timeout(CLOSED_TIME_MAX, read_on).await.is_err() {
            member.attack.complain(&format!("the stream goes on after {after}"));
        }
    }
}

/// An honest hello.
pub(crate) fn hello(member: &Member) -> Hello {
    Hello { cluster: member.attack.cluster, versions: VERSIONS, capabilities: 0, credit: CREDIT_LEN }
}

/// The header of a frame.
pub(crate) fn header(kind: u8, flags: u8, head_len: u16, payload_len: u32) -> [u8; 8] {
    let [h0, h1] = head_len.to_le_bytes();
    let [p0, p1, p2, p3] = payload_len.to_le_bytes();
    [kind, flags, h0, h1, p0, p1, p2, p3]
}

/// Reads a frame.
pub(crate) async fn next<R: AsyncReadExt + Unpin>(reader: &mut R) -> std::io::Result<Frame> {
    let mut header = [0; 8];
    reader.read_exact(&mut header).await?;
    let [kind, flags, h0, h1, p0, p1, p2, p3] = header;
    let mut head = vec![0; usize::from(u16::from_le_bytes([h0, h1]))];
    reader.read_exact(&mut head).await?;
    let mut payload = vec![0; u32::from_le_bytes([p0, p1, p2, p3]) as usize];
    reader.read_exact(&mut payload).await?;
    Ok(Frame { kind, flags, head: Bytes::from(head), payload: Bytes::from(payload) })
}

/// Reads and throws away, and gives credit for it, until the stream ends.
pub(crate) async fn drain<R: AsyncReadExt + Unpin>(mut reader: R) -> u64 {
    let mut frames = 0;
    while next(&mut reader).await.is_ok() {
        frames += 1;
    }
    frames
}
