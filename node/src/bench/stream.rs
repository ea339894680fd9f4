//! One stream between two processes, over the transport of the node: TCP on loopback, Noise, Yamux.
//!
//! Bare, it is the ceiling of whatever moves bytes between members; with `--link` our frames and credit are on it, and each
//! frame is an object as it would be sent. The receiver starts the sender and throws away what comes.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use futures::{AsyncRead, AsyncWrite, StreamExt};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Stream, StreamProtocol, Swarm};
use p2p_api::bench::{Measured, Stage};
use p2p_api::{Code, Problem};
use p2p_dht::exchange::{LINK_CREDIT, LINK_STALL_MAX};
use p2p_dht::message::{PROTOCOL, Reply, VERSIONS, cap};
use p2p_dht::tree::GEOMETRY;
use p2p_gossip::swim::codec;
use p2p_gossip::wire::streams::Inbound;
use p2p_gossip::wire::{ClusterId, Control, Edges, Hello, Link, LinkConfig, Streams};
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{Clock, failed, leaves};
use crate::admission::Admission;
use crate::cluster::Cluster;
use crate::swarm::setup::{self, Behaviour};
use crate::ticket::Ticket;

/// Bytes of one write to the stream, as frames are written.
const WRITE_LEN: usize = 64 << 10;

/// Bytes that are sent over and over: more than any cache of the processor holds.
const SENT_LEN: u64 = 64 << 20;

/// Longest wait for what takes no time on one machine: a dial, a stream, a child's last word.
const SETUP_TIME_MAX: Duration = Duration::from_secs(20);

/// Slowest rate that is waited for, in bytes per second.
const RATE_MIN: u64 = 8 << 20;

/// Measures both sides.
pub(super) async fn measure(size: u64, link: bool) -> Result<Vec<Stage>, Problem> {
    let (end, target) = Receiving::open().await?;
    let program = std::env::current_exe().map_err(failed("this program cannot be found"))?;
    let mut command = Command::new(program);
    command.args(["bench", "stream", "--send", "--size", &format!("{size}B")]);
    if link {
        command.arg("--link");
    }
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
    let mut sender = piped.map_err(failed("the sender cannot be started"))?;
    let mut stdin = sender.stdin.take().ok_or_else(|| failed("the sender cannot be told")("it has no input"))?;
    stdin.write_all(target.to_string().as_bytes()).await.map_err(failed("the sender cannot be told"))?;
    drop(stdin);
    let received = in_time(size, end.receive(size, link)).await?;
    let output = in_time(0, async { sender.wait_with_output().await.map_err(failed("the sender is lost")) }).await?;
    let sent: Measured = serde_json::from_slice(&output.stdout).map_err(failed("the sender said nothing"))?;
    Ok(sent.stages.into_iter().chain([received]).collect())
}

/// The sending process: where to is on standard input.
pub(super) async fn send(size: u64, link: bool) -> Result<Stage, Problem> {
    let mut text = String::new();
    tokio::io::stdin().read_to_string(&mut text).await.map_err(failed("standard input cannot be read"))?;
    let target = text.trim().parse().map_err(failed("standard input has no ticket"))?;
    send_to(&target, size, link).await
}

/// A swarm that waits for the stream.
pub(super) struct Receiving {
    cluster: ClusterId,
    inbound: Inbound,
}

impl Receiving {
    /// Starts one; the ticket leads to it.
    pub(super) async fn open() -> Result<(Self, Ticket), Problem> {
        let Cluster { id, keys, .. } = Cluster::make();
        let ticket = Ticket { cluster: id, key: keys[0].clone(), addresses: Vec::new() };
        let (mut swarm, _control, inbound) = swarm(&ticket)?;
        let any: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().map_err(failed("no address"))?;
        setup::listen_on_all(&mut swarm, &[any]).await.map_err(failed("no port"))?;
        let peer = *swarm.local_peer_id();
        let addresses = swarm.listeners().map(|address| address.clone().with(Protocol::P2p(peer))).collect();
        tokio::spawn(drive(swarm));
        Ok((Self { cluster: id, inbound }, Ticket { addresses, ..ticket }))
    }

    /// Takes the stream and all that comes by it.
    pub(super) async fn receive(mut self, size: u64, link: bool) -> Result<Stage, Problem> {
        let arrived = in_time(0, async { self.inbound.recv().await.ok_or_else(|| lost("nobody came")) }).await?;
        let stream = arrived.stream;
        if link { receive_frames(stream, size, self.cluster).await } else { receive_bytes(stream, size).await }
    }
}

/// Opens a stream to the target and sends so many bytes.
pub(super) async fn send_to(target: &Ticket, size: u64, link: bool) -> Result<Stage, Problem> {
    let (mut swarm, control, _inbound) = swarm(target)?;
    let address = target.addresses.first().ok_or_else(|| lost("the ticket names no address"))?;
    swarm.dial(address.clone()).map_err(failed("the receiver cannot be dialed"))?;
    let dialed = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => return Ok(peer_id),
                SwarmEvent::OutgoingConnectionError { error, .. } => return Err(lost(&error.to_string())),
                _ => {}
            }
        }
    };
    let peer = in_time(0, dialed).await?;
    tokio::spawn(drive(swarm));
    let stream = control.open(peer).await.map_err(failed("no stream"))?;
    let parts = leaves(size.min(SENT_LEN));
    let sent = async {
        if link {
            send_frames(stream, &parts, size, target.cluster).await
        } else {
            send_bytes(stream, &parts, size).await
        }
    };
    in_time(size, sent).await
}

fn swarm(ticket: &Ticket) -> Result<(Swarm<Behaviour>, Control, Inbound), Problem> {
    let keypair = Keypair::generate_ed25519();
    let admission = Admission::new(keypair.clone(), std::slice::from_ref(&ticket.key));
    let admission = admission.map_err(failed("an identity cannot be used"))?;
    let edges = Edges::new(StreamProtocol::new(codec::PROTOCOL), Duration::from_secs(1));
    let (streams, control, inbound) = Streams::new(StreamProtocol::new(PROTOCOL), edges.reserved());
    // Nothing is asked about a map.
    let (map, ..) = Streams::new(StreamProtocol::new(crate::kv::PROTOCOL), edges.reserved());
    Ok((setup::build(keypair, admission, None, edges, (streams, map), &std::sync::Arc::default()), control, inbound))
}

async fn drive(mut swarm: Swarm<Behaviour>) {
    loop {
        swarm.select_next_some().await;
    }
}

/// The parts over and over, until there were so many bytes.
fn repeated(parts: &[Bytes], size: u64) -> impl Iterator<Item = Bytes> + '_ {
    let mut left = size;
    parts.iter().cycle().map_while(move |part| {
        let len = left.min(part.len() as u64);
        left -= len;
        (len > 0).then(|| part.slice(..len as usize))
    })
}

async fn send_bytes(mut stream: Stream, parts: &[Bytes], size: u64) -> Result<Stage, Problem> {
    let broken = failed("the stream breaks off");
    let clock = Clock::start();
    for part in repeated(parts, size) {
        for piece in part.chunks(WRITE_LEN) {
            stream.write_all(piece).await.map_err(&broken)?;
        }
    }
    stream.flush().await.map_err(&broken)?;
    // It is over when the receiver has all.
    stream.read_exact(&mut [0]).await.map_err(&broken)?;
    Ok(clock.stop("send", size))
}

async fn receive_bytes<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, size: u64) -> Result<Stage, Problem> {
    let broken = failed("the stream breaks off");
    let mut buffer = vec![0; WRITE_LEN];
    let clock = Clock::start();
    let mut total = 0;
    while total < size {
        match stream.read(&mut buffer).await.map_err(&broken)? {
            0 => return Err(lost(&format!("the stream ended after {total} bytes"))),
            len => total += len as u64,
        }
    }
    let stage = clock.stop("receive", total);
    stream.write_all(&[1]).await.map_err(&broken)?;
    stream.close().await.map_err(&broken)?;
    Ok(stage)
}

async fn open(stream: Stream, cluster: ClusterId) -> Result<Link, Problem> {
    let hello = Hello { cluster, versions: VERSIONS, capabilities: 0, credit: LINK_CREDIT };
    let config = LinkConfig { hello, caps: cap, stall: LINK_STALL_MAX };
    Link::open(stream, config).await.map_err(failed("no link"))
}

async fn send_frames(stream: Stream, parts: &[Bytes], size: u64, cluster: ClusterId) -> Result<Stage, Problem> {
    let Link { sender, mut receiver, .. } = open(stream, cluster).await?;
    let clock = Clock::start();
    for (number, part) in repeated(parts, size).enumerate() {
        let frame = Reply::Object(part).into_frame(number as u64);
        sender.send(frame).await.map_err(failed("the link breaks off"))?;
    }
    receiver.recv().await.ok_or_else(|| lost("the link ended before the last word"))?;
    Ok(clock.stop("send", size))
}

async fn receive_frames(stream: Stream, size: u64, cluster: ClusterId) -> Result<Stage, Problem> {
    let Link { sender, mut receiver, .. } = open(stream, cluster).await?;
    let clock = Clock::start();
    let mut total = 0;
    while total < size {
        let received = receiver.recv().await.ok_or_else(|| lost(&format!("the link ended after {total} bytes")))?;
        total += received.into_frame().payload.len() as u64;
    }
    let stage = clock.stop("receive", total);
    sender.send(Reply::Noted.into_frame(0)).await.map_err(failed("the link breaks off"))?;
    // The sender ends the link once it has heard.
    while receiver.recv().await.is_some() {}
    Ok(stage)
}

async fn in_time<T>(size: u64, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let limit = SETUP_TIME_MAX + Duration::from_secs(size / RATE_MIN);
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(lost(&format!("no end after {limit:?}"))))
}

fn lost(what: &str) -> Problem {
    Problem::new(Code::Other, format!("the stream cannot be measured: {what}"))
}

// A frame is one object.
const _: () = assert!(SENT_LEN.is_multiple_of(GEOMETRY.leaf_len));
