use bytes::Bytes;
use futures::FutureExt;
use tokio::io::DuplexStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use std::sync::atomic::Ordering;

use super::*;
use crate::wire::{ClusterId, Room};

const KIND: u8 = 20;
const PAYLOAD_MAX: usize = 1 << 20;

fn caps(kind: u8) -> Option<Cap> {
    (kind == KIND).then_some(Cap { head: 64, payload: PAYLOAD_MAX })
}

fn config() -> LinkConfig {
    let hello = Hello {
        cluster: ClusterId([1; 16]),
        versions: Versions { min: 1, max: 1 },
        capabilities: 0,
        credit: CREDIT_MIN,
    };
    LinkConfig { hello, caps, stall: Duration::from_secs(20) }
}

fn stream_pair() -> (Compat<DuplexStream>, Compat<DuplexStream>) {
    let (near, far) = tokio::io::duplex(256 << 10);
    (near.compat(), far.compat())
}

async fn link_pair() -> (Link, Link) {
    let (near, far) = stream_pair();
    let (near, far) = futures::future::join(Link::open(near, config()), Link::open(far, config())).await;
    (near.expect("a link"), far.expect("a link"))
}

fn data(len: usize) -> Frame {
    Frame::new(KIND, Bytes::new(), vec![7; len].into())
}

/// The other end of a link, spoken by hand.
struct Raw(Compat<DuplexStream>);

impl Raw {
    async fn greet(mut stream: Compat<DuplexStream>) -> Self {
        let hello = Frame::new(KIND_HELLO, encode(&config().hello), Bytes::new());
        frame::write(&mut stream, &hello, drop).await.expect("room");
        Raw(stream)
    }

    async fn send(&mut self, frame: &Frame) -> std::io::Result<()> {
        frame::write(&mut self.0, frame, drop).await
    }
}

#[tokio::test]
async fn frames_arrive_in_order_and_both_ways() {
    let (near, mut far) = link_pair().await;
    for len in [0, 1, 70_000, PAYLOAD_MAX] {
        near.sender.send(data(len)).await.expect("open");
        far.sender.send(data(len)).await.expect("open");
    }
    let mut near_receiver = near.receiver;
    for len in [0, 1, 70_000, PAYLOAD_MAX] {
        assert_eq!(far.receiver.recv().await.expect("a frame").frame.payload.len(), len);
        assert_eq!(near_receiver.recv().await.expect("a frame").frame.payload.len(), len);
    }
}

#[tokio::test]
async fn both_sides_can_push_far_more_than_the_credit_at_once() {
    let (near, far) = link_pair().await;
    let pump = |link: Link| async move {
        let Link { sender, mut receiver, .. } = link;
        let send = async {
            for _ in 0..64 {
                sender.send(data(PAYLOAD_MAX)).await.expect("open");
            }
        };
        let receive = async {
            for _ in 0..64 {
                assert_eq!(receiver.recv().await.expect("a frame").frame.payload.len(), PAYLOAD_MAX);
            }
        };
        futures::future::join(send, receive).await;
    };
    futures::future::join(pump(near), pump(far)).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_ends_the_link_by_the_watchdog() {
    let (near, far) = stream_pair();
    let _silent = Raw::greet(far).await;
    let link = Link::open(near, config()).await.expect("a hello came");
    // More than queue, credit and socket take together.
    let sent = async { while link.sender.send(data(PAYLOAD_MAX)).await.is_ok() {} };
    sent.await;
    assert!(matches!(link.sender.reason(), Some(LinkError::Stalled(_))), "{:?}", link.sender.reason());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_but_gives_no_credit_ends_the_link_by_the_watchdog() {
    let (near, far) = stream_pair();
    let silent = Raw::greet(far).await;
    let link = Link::open(near, config()).await.expect("a hello came");
    let (mut reader, _writer) = silent.0.split();
    let drain = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while reader.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
    });
    while link.sender.send(data(PAYLOAD_MAX)).await.is_ok() {}
    assert!(matches!(link.sender.reason(), Some(LinkError::Stalled(_))), "{:?}", link.sender.reason());
    drain.abort();
}

#[tokio::test]
async fn a_peer_that_sends_more_than_its_credit_is_cut_off() {
    let (near, far) = stream_pair();
    let mut liar = Raw::greet(far).await;
    let mut link = Link::open(near, config()).await.expect("a hello came");
    let mut held = Vec::new();
    let flood = tokio::spawn(async move { while liar.send(&data(PAYLOAD_MAX)).await.is_ok() {} });
    while let Some(received) = link.receiver.recv().await {
        held.push(received);
    }
    assert!(matches!(link.receiver.reason(), Some(LinkError::Overrun)), "{:?}", link.receiver.reason());
    assert!(held.len() * PAYLOAD_MAX <= CREDIT_MIN as usize);
    flood.await.expect("the flood ended with the link");
}

#[tokio::test]
async fn strangers_and_other_versions_are_named() {
    let open = |theirs: Hello| async move {
        let (near, mut far) = stream_pair();
        let frame = Frame::new(KIND_HELLO, encode(&theirs), Bytes::new());
        frame::write(&mut far, &frame, drop).await.expect("room");
        Link::open(near, config()).await.err().expect("refused")
    };
    let ours = config().hello;
    let other = Hello { cluster: ClusterId([2; 16]), ..ours };
    assert!(matches!(open(other).await, LinkError::OtherCluster));
    let newer = Hello { versions: Versions { min: 2, max: 3 }, ..ours };
    assert!(matches!(open(newer).await, LinkError::Incompatible(_)));
    let stingy = Hello { credit: CREDIT_MIN - 1, ..ours };
    assert!(matches!(open(stingy).await, LinkError::BadHello));
}

#[tokio::test(start_paused = true)]
async fn silence_instead_of_a_hello_ends_in_time() {
    let (near, _far) = stream_pair();
    assert!(matches!(Link::open(near, config()).await, Err(LinkError::Silent)));
}

#[tokio::test]
async fn credit_beyond_reason_ends_the_link() {
    let (near, far) = stream_pair();
    let mut liar = Raw::greet(far).await;
    let mut link = Link::open(near, config()).await.expect("a hello came");
    liar.send(&Frame::new(KIND_CREDIT, encode(&u32::MAX), Bytes::new())).await.expect("room");
    assert!(link.receiver.recv().await.is_none());
    assert!(matches!(link.receiver.reason(), Some(LinkError::BadCredit(_))));
}

#[tokio::test]
async fn the_end_is_seen_by_the_other_side_after_the_last_frame() {
    let (near, mut far) = link_pair().await;
    let Link { sender, receiver: _receiver, .. } = near;
    sender.send(data(5)).await.expect("open");
    drop(sender);
    assert_eq!(far.receiver.recv().await.expect("a frame").frame.payload.len(), 5);
    assert!(far.receiver.recv().await.is_none());
    assert!(far.receiver.reason().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_slow_frame_moves_and_an_ignorable_one_does_not() {
    let (near, far) = stream_pair();
    let mut peer = Raw::greet(far).await;
    let mut link = Link::open(near, config()).await.expect("a hello came");
    let before = link.sender.moved();
    let noise = Frame { kind: 200, flags: frame::FLAG_IGNORABLE, head: Bytes::new(), payload: vec![0; 100].into() };
    peer.send(&noise).await.expect("room");
    let start = [KIND, 0, 0, 0, 0, 0, 16, 0];
    peer.0.write_all(&start).await.expect("room");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(link.sender.moved(), before, "noise and the mere beginning of a frame are no progress");
    assert_eq!(link.receiver.skipped(), 1);
    const PART: usize = 2 * frame::WRITE_LEN_MAX;
    peer.0.write_all(&[0; PART]).await.expect("room");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(link.sender.moved() - before, PART as u64, "what has come of it is");
    peer.0.write_all(&[0; (1 << 20) - PART]).await.expect("room");
    assert_eq!(link.receiver.recv().await.expect("a frame").frame.payload.len(), 1 << 20);
}

/// A peer's other links may be why nothing more comes on one: what it would go on with lies in the same socket.
#[tokio::test(start_paused = true)]
async fn a_peer_whose_share_is_held_by_a_link_that_does_nothing_loses_that_link() {
    const LEN: usize = 1 << 20;
    let cost = frame::cost(0, LEN);
    let room = Room::new(Direction::Incoming, 4 * cost, 2 * cost);
    let (tenant, other) = (room.tenant(), room.tenant());
    tenant.prove();
    other.prove();
    let open = async |tenant: &Tenant| {
        let (near, far) = stream_pair();
        let peer = Raw::greet(far).await;
        (Link::open_as(near, config(), Some(tenant.clone())).await.expect("a hello came"), peer)
    };
    let start = [KIND, 0, 0, 0, 0, 0, 16, 0];
    let (mut others, mut silent) = open(&other).await;
    silent.0.write_all(&start).await.expect("room");
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let (link, mut peer) = open(&tenant).await;
        peer.0.write_all(&start).await.expect("room");
        stuck.push((link, peer));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (mut link, mut peer) = open(&tenant).await;
    let whole = data(LEN);
    let (sent, received) = tokio::join!(peer.send(&whole), link.receiver.recv());
    sent.expect("it is read");
    assert_eq!(received.expect("a frame").frame.payload.len(), LEN);
    let ended = stuck.iter().filter(|(link, _)| matches!(link.receiver.reason(), Some(LinkError::Hoarding)));
    assert_eq!(ended.count(), 1);
    assert!(
        others.receiver.recv().now_or_never().is_none() && others.receiver.reason().is_none(),
        "it is in nobody's way"
    );
}

#[tokio::test]
async fn small_frames_of_one_peer_never_end_the_link_of_another() {
    const LEN: usize = 1 << 20;
    let room = Room::new(Direction::Incoming, LEN, LEN);
    let (crowd, honest) = (room.tenant(), room.tenant());
    let link = |tenant: &Tenant| Shared::new(CREDIT_MAX, CREDIT_MAX, Some(tenant));
    // More than any one link of the crowd has.
    let of_honest = link(&honest);
    let _held: Vec<Held> = (0..20).map(|_| of_honest.charge(1000).expect("credit")).collect();
    let mut ended = 0;
    let mut of_crowd = Vec::new();
    for _ in 0..100 {
        let link = link(&crowd);
        let held: Vec<Held> = (0..10).map(|_| link.charge(1000).expect("credit")).collect();
        of_crowd.push((link, held));
        let now = of_crowd.iter().filter(|(link, _)| link.has_ended()).count();
        assert!(now <= 1, "who has ended and not given back yet is waited for");
        ended += now;
        of_crowd.retain(|(link, _)| !link.has_ended());
    }
    assert!(ended > 30, "{ended} have ended");
    assert!(!of_honest.has_ended());
}

#[test]
fn links_that_go_on_are_bounded_also_while_nothing_is_given_back() {
    const ROOM: usize = 1 << 20;
    let tenant = Room::new(Direction::Incoming, ROOM, ROOM).tenant();
    let links: Vec<Arc<Shared>> = (0..8).map(|_| Shared::new(64 << 20, 0, Some(&tenant))).collect();
    let mut held = Vec::new();
    for _ in 0..4000 {
        for link in links.iter().filter(|link| !link.has_ended()) {
            held.push(link.charge(1024).expect("credit for all of it"));
        }
    }
    let all: usize = links.iter().map(|link| link.small.load(Ordering::Relaxed)).sum();
    assert!(all <= 2 * ROOM, "{all} of {ROOM}");
    assert!(links.iter().any(|link| link.has_ended()));
    drop(held);
    assert!(links.iter().all(|link| link.small.load(Ordering::Relaxed) == 0));
}
