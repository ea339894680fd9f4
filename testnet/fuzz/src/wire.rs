//! Whatever comes on a stream: a link ends with a reason or with the stream, and gives out only frames that are allowed,
//! no more of them than came.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncWrite};
use p2p_dht::exchange::{LINK_CREDIT, LINK_STALL_MAX};
use p2p_dht::message::{VERSIONS, cap};
use p2p_gossip::wire::frame::HEADER_LEN;
use p2p_gossip::wire::{ClusterId, Hello, Link, LinkConfig, encode};
use tokio::runtime::{Builder, Runtime};

use crate::messages;

thread_local! {
    // One for all: making it takes longer than most checks.
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().enable_time().build().expect("nothing of the system is needed"));
}

/// Of the bytes: one says whether a right hello comes first, the rest comes on the stream, in pieces.
pub(crate) fn check(data: &[u8]) {
    let (choice, rest) = data.split_first().unwrap_or((&0, &[]));
    let mut stream = if choice & 1 == 0 { hello() } else { Vec::new() };
    stream.extend_from_slice(rest);
    let piece = 1 + usize::from(choice >> 1);
    RUNTIME.with_borrow_mut(|runtime| runtime.block_on(listen(Incoming { bytes: stream, at: 0, piece })));
}

fn config() -> LinkConfig {
    let hello = Hello { cluster: ClusterId([1; 16]), versions: VERSIONS, capabilities: 0, credit: LINK_CREDIT };
    LinkConfig { hello, caps: cap, stall: LINK_STALL_MAX }
}

/// A right one, as a frame.
fn hello() -> Vec<u8> {
    let head = encode(&config().hello);
    let mut frame = vec![0, 0, head.len() as u8, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&head);
    frame
}

async fn listen(stream: Incoming) {
    let sent = stream.bytes.len();
    let Ok(mut link) = Link::open(stream, config()).await else { return };
    let mut received = 0;
    while let Some(next) = link.receiver.recv().await {
        let frame = next.into_frame();
        received += HEADER_LEN + frame.head.len() + frame.payload.len();
        let allowed = cap(frame.kind).expect("types of the protocol only");
        assert!(frame.head.len() <= allowed.head && frame.payload.len() <= allowed.payload, "{frame:?}");
        messages::read(frame);
    }
    assert!(received <= sent, "{received} bytes of {sent}");
}

/// Gives these bytes, so many at a time, and takes whatever is written.
struct Incoming {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
}

impl AsyncRead for Incoming {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let piece = self.piece.min(buffer.len()).min(self.bytes.len() - self.at);
        buffer[..piece].copy_from_slice(&self.bytes[self.at..self.at + piece]);
        self.at += piece;
        Poll::Ready(Ok(piece))
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buffer.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
