use p2p_gossip::wire::ClusterId;
use p2p_gossip::wire::link::CREDIT_MIN;
use tokio::sync::watch;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::*;
use crate::object::Object;
use crate::store::MemoryStore;
use crate::testing::{bytes, peer};

/// Somebody who asks with so little credit that two answers are under way at most.
async fn asker(store: MemoryStore) -> (Link, Arc<Counters>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (cluster, current) = watch::channel(ClusterId([7; 16]));
    let counters = Arc::new(Counters::default());
    let server = Server::new(store, current, counters.clone());
    tokio::spawn(server.serve(peer(1), None, far.compat()));
    let mut config = link_config(&cluster.subscribe());
    config.hello.credit = CREDIT_MIN;
    (Link::open(near.compat(), config).await.expect("a link"), counters)
}

async fn stored(store: &MemoryStore, count: u64) -> Vec<ObjectRef> {
    let mut stored = Vec::new();
    for n in 0..count {
        let leaf = Object::leaf(bytes(n, 1 << 20), n << 20);
        stored.push(*leaf.reference());
        store.write(1 << 20, move |tx| hold::store(tx, &leaf, None)).await.expect("room");
    }
    stored
}

#[tokio::test]
async fn a_member_gets_no_more_holds_than_one_may_have() {
    let store = MemoryStore::new(u64::MAX);
    let objects = stored(&store, 4).await;
    let (_cluster, current) = watch::channel(ClusterId([7; 16]));
    let counters = Arc::new(Counters::default());
    let most = Sent { uploads: 2, holds: 3 };
    let server = Server { most, ..Server::new(store, current, counters.clone()) };
    let place = |n| match server.places.admit(peer(n), None) {
        Admitted::Yes(place) => place,
        Admitted::Instead(_) | Admitted::No => panic!("there are places"),
    };
    let (one, other) = (place(1), place(2));
    let offer = |place, upload: u8, objects: &[ObjectRef]| {
        server.reply(place, Request::Offer(UploadId([upload; 16]), objects.to_vec()))
    };
    let push = |upload: u8| {
        let bytes = bytes(9, 100);
        let object = Object::whole_file(bytes.clone());
        server.reply(&one, Request::Push(UploadId([upload; 16]), *object.reference(), bytes))
    };
    assert_eq!(offer(&one, 1, &objects[..2]).await, Reply::Flags(vec![false; 2]));
    assert_eq!(offer(&one, 1, &objects[2..]).await, Reply::Full, "holds");
    assert_eq!(push(2).await, Reply::Stored);
    assert_eq!(push(2).await, Reply::Full, "holds, by pushes too");
    for (upload, objects) in [(1, &objects[..1]), (2, &objects[1..2])] {
        assert_eq!(offer(&other, upload, objects).await, Reply::Flags(vec![false]), "another has its own");
    }
    assert_eq!(offer(&other, 3, &objects[2..3]).await, Reply::Full, "uploads");
    assert_eq!(counters.pushes_over.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[tokio::test]
async fn what_is_cancelled_in_time_is_not_sent() {
    let store = MemoryStore::new(u64::MAX);
    let wanted = stored(&store, 8).await;
    let (mut link, counters) = asker(store).await;
    for (number, reference) in wanted.iter().enumerate() {
        let request = Request::Get(*reference).into_frame(number as u64);
        link.sender.send(request).await.expect("open");
    }
    for number in 5..8 {
        link.sender.send(Request::Cancel.into_frame(number)).await.expect("open");
    }
    // One that was never asked for.
    link.sender.send(Request::Cancel.into_frame(99)).await.expect("open");
    let mut sent = Vec::new();
    for _ in 0..8 {
        let received = link.receiver.recv().await.expect("an answer to each");
        match Reply::from_frame(received.into_frame()).expect("a reply") {
            (number, Reply::Object(bytes)) => {
                assert_eq!(bytes.len(), 1 << 20);
                sent.push(number);
            }
            (number, Reply::Refused(Refusal::Cancelled)) => assert!(number >= 5, "{number} was not cancelled"),
            other => panic!("{other:?}"),
        }
    }
    sent.sort_unstable();
    assert_eq!(sent, [0, 1, 2, 3, 4]);
    assert_eq!(counters.bytes_sent.load(std::sync::atomic::Ordering::Relaxed), 5 << 20);
    assert_eq!(counters.links_broken.load(std::sync::atomic::Ordering::Relaxed), 0);
}
