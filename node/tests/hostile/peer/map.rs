//! Lies about the replicated map: along edges, in questions and in answers.

pub(crate) mod answers;
pub(crate) mod floods;
pub(crate) mod frames;
pub(crate) mod questions;
pub(crate) mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use p2p_gossip::kv::anti_entropy::{Body, Reply, Request, Said};
use p2p_gossip::kv::{Actor, Dot, Dots, Key, Op, Opened};
use p2p_gossip::swim::Name;
use p2p_gossip::wire::link::{Receiver, Sender};
use p2p_gossip::wire::{Cap, Frame, Hello, Link, LinkConfig, Versions};

use super::Attack;
use super::answers::Manners;
use super::door::{Member, Protocol};
use super::seat::{Sitting, Ways};
use super::wire::CREDIT_LEN;

/// The protocol by which questions are asked.
pub(crate) const PROTOCOL: &str = "/p2p-node/map/1";

/// Types of frames with a part of a question, and of an answer.
const QUESTION: u8 = 16;
const ANSWER: u8 = 17;

/// Bytes of a part.
const PART_LEN: usize = 256 << 10;

/// Longest time in which nothing that is sent moves.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Numbers of questions.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Keys that the judge has written before anything else.
pub(crate) const HONEST_KEYS: usize = 1500;

/// The key number `n` of the judge.
pub(crate) fn honest_key(n: u64) -> String {
    format!("honest/{n}")
}

/// Somebody with a map among the members, who answers questions so.
async fn enter(attack: &Arc<Attack>, n: u32, answers: answers::Answers) -> Member {
    let seat = Sitting::Down(Ways::Honest);
    let member =
        Member::enter(attack, n, Manners { seat, listens: true, map: Some(answers), ..Manners::default() }).await;
    // Whoever has told has taken note of the edge.
    member.seat.copy().await;
    member
}

/// An actor that nobody is.
fn nobody(n: u64) -> Actor {
    Actor { peer: Name(*blake3::hash(&n.to_le_bytes()).as_bytes()), epoch: n }
}

fn key(text: impl Into<Bytes>) -> Key {
    Key::new(text).expect("a key")
}

/// A write, as it travels.
fn write(dot: Dot, of: Key, value: Option<Bytes>, replaces: Dots) -> Bytes {
    let mut bytes = BytesMut::new();
    Op { dot, key: of, value, replaces }.encode(&mut bytes);
    bytes.freeze()
}

/// How questions and answers travel.
fn config(attack: &Attack) -> LinkConfig {
    LinkConfig { hello: hello(attack), caps, stall: STALL_MAX }
}

fn hello(attack: &Attack) -> Hello {
    Hello { cluster: attack.cluster, versions: Versions { min: 1, max: 1 }, capabilities: 0, credit: CREDIT_LEN }
}

fn caps(kind: u8) -> Option<Cap> {
    (QUESTION..=ANSWER).contains(&kind).then_some(Cap { head: 1, payload: PART_LEN })
}

/// A stream with questions one way and answers the other.
struct Line {
    sender: Sender,
    receiver: Receiver,
}

impl Line {
    /// One by which the victim is asked.
    async fn open(member: &Member) -> std::io::Result<Self> {
        Self::over(&member.attack, member.open(Protocol::Map).await?).await
    }

    async fn over(attack: &Attack, stream: libp2p::Stream) -> std::io::Result<Self> {
        let link = Link::open(stream, config(attack)).await.map_err(std::io::Error::other)?;
        Ok(Self { sender: link.sender, receiver: link.receiver })
    }

    /// Sends something in parts.
    async fn send(&self, kind: u8, bytes: Bytes) -> std::io::Result<()> {
        let mut left = bytes;
        loop {
            let part = left.split_to(left.len().min(PART_LEN));
            let is_last = left.is_empty();
            let head = Bytes::from_static(if is_last { &[1] } else { &[0] });
            self.sender.send(Frame::new(kind, head, part)).await.map_err(std::io::Error::other)?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Something that comes in parts.
    async fn receive(&mut self) -> std::io::Result<Bytes> {
        let mut bytes = BytesMut::new();
        loop {
            let frame = self.receiver.recv().await.ok_or(std::io::ErrorKind::UnexpectedEof)?.into_frame();
            bytes.extend_from_slice(&frame.payload);
            if frame.head[..] == [1] {
                return Ok(bytes.freeze());
            }
        }
    }

    /// Asks, and does not wait for the answer.
    async fn begin(&self, body: Body) -> std::io::Result<()> {
        // On another stream it would take the place of another with the same number.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.send(QUESTION, Request { to: nobody(0), number, body }.encode()).await
    }

    async fn ask(&mut self, body: Body) -> std::io::Result<Said> {
        self.begin(body).await?;
        let reply = Reply::decode(self.receive().await?).map_err(std::io::Error::other)?;
        Ok(reply.said)
    }

    /// Which life of the victim answers, and what it has seen.
    async fn opened(&mut self) -> std::io::Result<Opened> {
        match self.ask(Body::Open).await? {
            Said::Opened(opened) => Ok(opened),
            other => Err(std::io::Error::other(format!("{other:?} is no beginning"))),
        }
    }
}

/// Somebody who asks, and is no member.
async fn asker(attack: &Arc<Attack>, n: u32) -> Member {
    Member::enter(attack, n, Manners::default()).await
}
