//! Puts and gets between members over real sockets, some of whom are hostile.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use futures::io::AsyncWriteExt;
use libp2p::core::upgrade::Version;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, StreamProtocol, Swarm, Transport, identity, noise, tcp, yamux};
use p2p_gossip::wire::link::HELLO_TIME_MAX;
use p2p_gossip::wire::streams::{Arrived, Inbound};
use p2p_gossip::wire::{ClusterId, Frame, Hello, Link, LinkConfig, Streams};
use tokio::sync::watch;

use super::*;
use crate::exchange::LINK_CREDIT;
use crate::exchange::client::Lane;
use crate::exchange::server::Server;
use crate::get::{GetError, Range};
use crate::kademlia::{self, Kademlia};
use crate::message::{PROTOCOL, Reply, Request, VERSIONS, cap};
use crate::placement;
use crate::store::{MemoryStore, Row};
use crate::testing::bytes;
use crate::tree::{ObjectRef, RootId};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const STALL: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Everybody {
    me: PeerId,
    members: Vec<PeerId>,
}

impl Locator for Everybody {
    fn me(&self) -> PeerId {
        self.me
    }

    fn members(&self) -> Vec<PeerId> {
        self.members.clone()
    }

    fn known(&self) -> usize {
        self.members.len()
    }

    async fn closest(&self, key: PlacementKey, count: usize) -> Vec<PeerId> {
        placement::closest(&key, self.members.clone(), count)
    }
}

/// How a member answers those who open a stream to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Accepts the stream and says nothing at all.
    NoHello,
    /// Says hello and answers nothing.
    NoAnswer,
    /// Sends a frame that claims 4 GiB.
    Oversize,
    /// Sends bytes that are no frame.
    Garbage,
    /// Answers every request with wrong bytes of the right length.
    WrongBytes,
    /// Claims another length of every file.
    WrongLength,
    /// Answers with numbers that nobody asked with.
    WrongNumber,
    /// Begins a frame and goes on by a byte a second.
    Drip,
    /// Closes as soon as it is asked.
    HangsUp,
}

const HOSTILE: [Manner; 9] = [
    Manner::NoHello,
    Manner::NoAnswer,
    Manner::Oversize,
    Manner::Garbage,
    Manner::WrongBytes,
    Manner::WrongLength,
    Manner::WrongNumber,
    Manner::Drip,
    Manner::HangsUp,
];

struct Member {
    content: Content<MemoryStore, Everybody>,
    store: MemoryStore,
    counters: Arc<Counters>,
}

/// Starts a member for each manner; all know each other.
async fn network(manners: &[Manner]) -> Vec<Member> {
    let mut started = Vec::new();
    for _ in manners {
        started.push(swarm().await);
    }
    let addresses: BTreeMap<PeerId, Multiaddr> =
        started.iter().map(|(swarm, _, _, address)| (*swarm.local_peer_id(), address.clone())).collect();
    let mut members = Vec::new();
    for ((mut swarm, control, inbound, _), manner) in started.into_iter().zip(manners) {
        let me = *swarm.local_peer_id();
        for (peer, address) in &addresses {
            swarm.behaviour_mut().kademlia.add_address(peer, address.clone());
        }
        let store = MemoryStore::new(u64::MAX);
        let counters = Arc::new(Counters::default());
        let (_cluster, current) = watch::channel(CLUSTER);
        let client = Client::new(control, current.clone(), counters.clone());
        let locator = Everybody { me, members: addresses.keys().copied().collect() };
        let content = Content::new(store.clone(), locator, client, counters.clone());
        let server = Server::new(content.watched_store(), current, counters.clone());
        tokio::spawn(async move { while swarm.next().await.is_some() {} });
        tokio::spawn(accept(inbound, server, *manner));
        tokio::spawn(content.clone().keep_whole());
        members.push(Member { content, store, counters });
    }
    members
}

type Started = (Swarm<Dialable>, p2p_gossip::wire::Control, Inbound, Multiaddr);

/// Streams, and somebody who remembers addresses.
#[derive(libp2p::swarm::NetworkBehaviour)]
struct Dialable {
    streams: Streams,
    kademlia: Kademlia,
}

async fn swarm() -> Started {
    let keypair = identity::Keypair::generate_ed25519();
    let (streams, control, inbound) = Streams::new(StreamProtocol::new(PROTOCOL), Default::default());
    let behaviour = Dialable { streams, kademlia: kademlia::new(keypair.public().to_peer_id()) };
    let transport = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&keypair).expect("a key"))
        .multiplex(yamux::Config::default())
        .boxed();
    let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(60));
    let mut swarm = Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config);
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).expect("a free port");
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return (swarm, control, inbound, address);
        }
    }
}

async fn accept(mut inbound: Inbound, server: Server<Watched<MemoryStore>>, manner: Manner) {
    while let Some(Arrived { peer, host, stream }) = inbound.recv().await {
        if manner == Manner::Honest {
            tokio::spawn(server.clone().serve(peer, host, stream));
        } else {
            tokio::spawn(misbehave(stream, manner));
        }
    }
}

async fn misbehave(mut stream: libp2p::Stream, manner: Manner) {
    match manner {
        Manner::NoHello => std::future::pending::<()>().await,
        Manner::Garbage => {
            let _ = stream.write_all(&[0xff; 4096]).await;
            let _ = stream.flush().await;
            return std::future::pending().await;
        }
        _ => {}
    }
    let hello = Hello { cluster: CLUSTER, versions: VERSIONS, capabilities: 0, credit: LINK_CREDIT };
    if matches!(manner, Manner::Oversize | Manner::Drip) {
        // Spoken by hand, because no link would send this.
        let head = p2p_gossip::wire::encode(&hello);
        let mut start = vec![0, 0, head.len() as u8, 0, 0, 0, 0, 0];
        start.extend_from_slice(&head);
        start.extend_from_slice(match manner {
            Manner::Oversize => &[33, 0, 1, 0, 0xff, 0xff, 0xff, 0xff],
            _ => &[33, 0, 1, 0, 0, 0, 1, 0],
        });
        let _ = stream.write_all(&start).await;
        loop {
            let _ = stream.flush().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            if stream.write_all(&[0]).await.is_err() {
                return;
            }
        }
    }
    let Ok(link) = Link::open(stream, LinkConfig { hello, caps: cap, stall: STALL }).await else { return };
    let Link { sender, mut receiver, .. } = link;
    while let Some(received) = receiver.recv().await {
        let (number, request) = Request::from_frame(received.into_frame()).expect("the others are honest");
        let answer = match (manner, request) {
            (Manner::HangsUp, _) => return,
            (Manner::NoAnswer, _) | (_, Request::Cancel) => continue,
            (Manner::WrongNumber, _) => Reply::Absent.into_frame(number + 1000),
            (Manner::WrongLength, Request::Root(_)) => Reply::Root(u64::MAX, vec![0; 100].into()).into_frame(number),
            (_, Request::Root(_)) => Reply::Root(5, Bytes::from_static(b"wrong")).into_frame(number),
            (_, Request::Get(reference)) => {
                Reply::Object(vec![0; reference.len.min(1 << 20) as usize].into()).into_frame(number)
            }
            (_, Request::HaveRoot(_)) => Reply::Flags(vec![true]).into_frame(number),
            (_, Request::Offer(_, objects)) => Reply::Flags(vec![true; objects.len()]).into_frame(number),
            // It takes everything, and keeps nothing.
            (_, Request::Push(..)) => Reply::Stored.into_frame(number),
            (_, Request::Bind(..)) => Reply::Missing(0).into_frame(number),
            (_, Request::Keep(_)) => Frame::new(200, Bytes::new(), Bytes::new()),
            (_, Request::Have(objects) | Request::Count(_, objects)) => {
                Reply::Flags(vec![true; objects.len() + 1]).into_frame(number)
            }
        };
        if sender.send(answer).await.is_err() {
            return;
        }
    }
}

async fn put(member: &Member, content: &Bytes, acks: u32) -> Uploaded {
    // In pieces of an odd length, as a socket would give them.
    let parts: Vec<std::io::Result<Bytes>> = content.chunks(77_777).map(|part| Ok(content.slice_ref(part))).collect();
    let options = PutOptions { replicas: 3, acks, stall: STALL };
    member.content.put(futures::stream::iter(parts), options).await.expect("stored")
}

/// Waits until every part of a file has so many copies: a put waits a second only for those that it does not need.
async fn until_copies(member: &Member, root: RootId, copies: u32) -> Stat {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let stat = member.content.stat(root, STALL).await.expect("found");
        if stat.copies_min == copies {
            return stat;
        }
        assert!(tokio::time::Instant::now() < deadline, "{stat:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn get(member: &Member, root: RootId, cache: bool) -> Result<Vec<u8>, ContentError> {
    get_within(STALL, member, root, cache).await
}

async fn get_within(stall: Duration, member: &Member, root: RootId, cache: bool) -> Result<Vec<u8>, ContentError> {
    let options = GetOptions { range: Range::ALL, cache, stall };
    let mut download = member.content.get(root, options).await?;
    let mut found = Vec::new();
    while let Some(part) = download.next().await {
        found.extend_from_slice(&part?);
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_on_one_member_comes_back_from_every_other() {
    let members = network(&[Manner::Honest; 4]).await;
    for len in [0, 1, 1 << 20, (1 << 20) + 1, (20 << 20) + 5] {
        let content = bytes(len as u64, len);
        let uploaded = put(&members[0], &content, 2).await;
        assert_eq!(uploaded.root, crate::tree::root_id(&content));
        assert_eq!((uploaded.len, uploaded.report.enough), (len as u64, true));
        for member in &members {
            assert!(get(member, uploaded.root, false).await.expect("found") == content, "{len}");
        }
        assert_eq!(until_copies(&members[3], uploaded.root, 3).await.len, len as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_cache_a_get_leaves_nothing_and_with_it_all() {
    let members = network(&[Manner::Honest; 2]).await;
    let content = bytes(1, 3 << 20);
    let parts = [Ok(content.clone())];
    let options = PutOptions { replicas: 1, acks: 1, stall: STALL };
    let root = members[0].content.put(futures::stream::iter(parts), options).await.expect("stored").root;
    let mut totals = Vec::new();
    for member in &members {
        totals.push(member.content.store().read(|view| view.totals()).await.expect("read").objects);
    }
    for cache in [false, true] {
        for (member, before) in members.iter().zip(&totals) {
            assert!(get(member, root, cache).await.expect("found") == content);
            let after = member.content.store().read(|view| view.totals()).await.expect("read").objects;
            assert!(cache || after == *before, "{after} objects after {before}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing_that_can_be_seen() {
    let members = network(&[Manner::Honest; 3]).await;
    let content = bytes(2, 5 << 20);
    let broken: Vec<std::io::Result<Bytes>> = vec![Ok(content.clone()), Err(std::io::Error::other("gone"))];
    let options = PutOptions { replicas: 3, acks: 2, stall: STALL };
    let error = members[0].content.put(futures::stream::iter(broken), options).await.expect_err("broken");
    assert!(matches!(error, ContentError::Source(_)), "{error}");
    let root = crate::tree::root_id(&content);
    for member in &members {
        let found = get(member, root, true).await;
        assert!(matches!(found, Err(ContentError::Get(GetError::NotFound { .. }))), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_given_up_is_gone_on_both_sides() {
    let members = network(&[Manner::Honest; 2]).await;
    let peer = members[1].content.locator.me;
    for round in 0..3 * crate::exchange::server::STREAMS_PER_PEER_MAX {
        let deadline = tokio::time::Instant::now() + STALL;
        // The other side needs a moment to see the end of the last one.
        while let Err(error) = members[0].content.client.ask(peer, Lane::Ask, Request::HaveRoot(RootId([1; 32]))).await
        {
            assert!(tokio::time::Instant::now() < deadline, "round {round}: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        members[0].content.client.forget(&peer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_binds_what_somebody_else_uploads() {
    let members = network(&[Manner::Honest; 3]).await;
    let object = crate::object::Object::whole_file(bytes(1, 1000));
    let holder = members[0].content.locator.me;
    let upload = crate::store::UploadId([5; 16]);
    let push = Request::Push(upload, *object.reference(), object.payload().clone());
    let ask = |member: &Member, request| {
        let client = member.content.client.clone();
        async move { client.ask(holder, Lane::Push, request).await.expect("an answer") }
    };
    assert_eq!(ask(&members[1], push).await, Reply::Stored);
    let wrong = Request::Bind(upload, RootId([9; 32]), 1);
    assert_eq!(ask(&members[2], wrong).await, Reply::Missing(0), "it has pushed nothing");
    let root = crate::tree::root_id(object.payload());
    assert_eq!(ask(&members[1], Request::Bind(upload, root, 1)).await, Reply::Bound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_says_nothing_costs_its_time_once_and_not_for_every_part() {
    let manners = [Manner::Honest, Manner::Honest, Manner::Honest, Manner::Honest, Manner::NoHello];
    let members = network(&manners).await;
    let content = bytes(4, 200 << 20);
    let started = tokio::time::Instant::now();
    assert!(put(&members[0], &content, 2).await.report.enough);
    assert!(started.elapsed() < 3 * HELLO_TIME_MAX, "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_is_named_where_copies_are_counted() {
    let members = network(&[Manner::Honest, Manner::Honest, Manner::NoAnswer]).await;
    let root = put(&members[0], &bytes(9, 3 << 20), 2).await.root;
    let stat = until_copies(&members[0], root, 2).await;
    assert_eq!(stat.silent, [members[2].content.locator.me].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hostile_member_hinders_nobody() {
    // All at once: what takes its time is waiting for the silent.
    let checks = HOSTILE.into_iter().map(|manner| {
        tokio::spawn(async move {
            let members = network(&[Manner::Honest, Manner::Honest, Manner::Honest, Manner::Honest, manner]).await;
            let content = bytes(3, (18 << 20) + 7);
            let uploaded = put(&members[0], &content, 2).await;
            assert!(uploaded.report.enough, "{manner:?}: {uploaded:?}");
            for member in &members {
                assert!(get(member, uploaded.root, false).await.expect("found") == content, "{manner:?}");
            }
        })
    });
    for check in checks.collect::<Vec<_>>() {
        check.await.expect("one manner");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_is_counted_and_never_kept() {
    for manner in [Manner::WrongBytes, Manner::WrongLength] {
        let members = network(&[Manner::Honest, manner]).await;
        let root = RootId([9; 32]);
        let found = get(&members[0], root, true).await;
        assert!(matches!(found, Err(ContentError::Get(GetError::NotFound { .. }))), "{manner:?}: {found:?}");
        let bad = members[0].counters.objects_bad.load(std::sync::atomic::Ordering::Relaxed);
        assert!(bad >= 1, "{manner:?}");
        let totals = members[0].content.store().read(|view| view.totals()).await.expect("read");
        assert_eq!(totals.objects, 0);
    }
}

/// Waits until a member has nothing damaged that it knows of, and this object whole.
async fn until_mended(member: &Member, reference: ObjectRef) {
    let deadline = tokio::time::Instant::now() + STALL;
    loop {
        let look = member.store.read(move |view| {
            let known = view.damaged(Row(i64::MIN), 100)?.len();
            Ok((known, view.object(&reference)?.is_some()))
        });
        if matches!(look.await, Ok((0, true))) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{reference:?} is not mended");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn is_bound(member: &Member, root: RootId, reference: ObjectRef) -> bool {
    let bound = member.store.read(move |view| crate::hold::bound(view, &root, &[reference])).await;
    bound.expect("read") == [true]
}

/// Somebody who holds an object for good.
async fn holder(members: &[Member], root: RootId, reference: ObjectRef) -> &Member {
    for member in members {
        if is_bound(member, root, reference).await {
            return member;
        }
    }
    panic!("nobody holds {reference:?}");
}

fn counted(member: &Member) -> (u64, u64) {
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    (get(&member.counters.objects_damaged), get(&member.counters.objects_mended))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_on_a_holder_is_never_served_and_mended_from_another() {
    let members = network(&[Manner::Honest; 4]).await;
    // One leaf; leaves placed under the root; leaves in two extents.
    for (seed, len) in [(1, 70_000), (2, 3 << 20), (3, (20 << 20) + 5)] {
        let content = bytes(seed, len);
        let root = put(&members[0], &content, 3).await.root;
        let mut objects = Vec::new();
        for member in &members {
            if let Some(object) = member.store.read(move |view| view.root(&root)).await.expect("read") {
                objects = [*object.reference()].into_iter().chain(object.children()).collect();
            }
        }
        // The root, a leaf in the middle and the last one, each on one who holds it. Found by a get through that node, or
        // because another asks for it.
        for (n, reference) in [0, objects.len() / 2, objects.len() - 1].map(|i| objects[i]).into_iter().enumerate() {
            let holder = holder(&members, root, reference).await;
            let (damaged, mended) = counted(holder);
            holder.store.damage(&reference);
            if n % 2 == 0 {
                // Kept or not: what is not kept is brought once more.
                assert!(get(holder, root, n == 0).await.expect("found") == content, "{len} by {n}");
            } else {
                let other = members.iter().find(|member| !std::ptr::eq(*member, holder)).expect("another");
                let asked = other.content.client.ask(holder.content.locator.me, Lane::Ask, Request::Get(reference));
                assert_eq!(asked.await.expect("an answer"), Reply::Absent);
            }
            until_mended(holder, reference).await;
            assert_eq!(counted(holder), (damaged + 1, mended + 1));
            assert!(is_bound(holder, root, reference).await, "no hold is lost");
        }
        until_copies(&members[3], root, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_everywhere_is_said_to_be_so_and_kept_until_it_is_put_again() {
    let members = network(&[Manner::Honest; 1]).await;
    for (seed, len) in [(1, 70_000), (2, 3 << 20)] {
        let content = bytes(seed, len);
        let options = PutOptions { replicas: 1, acks: 1, stall: STALL };
        let parts = || futures::stream::iter([Ok(content.clone())]);
        let root = members[0].content.put(parts(), options).await.expect("stored").root;
        let object = members[0].store.read(move |view| view.root(&root)).await.expect("read").expect("there");
        let reference = object.children().last().copied().unwrap_or(*object.reference());
        let (damaged, mended) = counted(&members[0]);
        members[0].store.damage(&reference);
        for _ in 0..2 {
            let stall = Duration::from_millis(300);
            let failed = get_within(stall, &members[0], root, false).await.expect_err("nobody has it");
            assert!(matches!(failed, ContentError::Damaged { root: named, .. } if named == root), "{failed}");
        }
        assert_eq!(counted(&members[0]), (damaged + 1, mended), "it is said once");
        let row = members[0].store.read(move |view| view.row(&reference)).await.expect("read");
        assert!(row.is_some_and(|row| row.damaged && row.holds > 0), "it is kept: {row:?}");
        assert_eq!(members[0].content.put(parts(), options).await.expect("stored").root, root);
        assert!(get(&members[0], root, false).await.expect("found") == content);
        assert_eq!(counted(&members[0]), (damaged + 1, mended + 1));
    }
}
