//! Many identities of one hostile member: a key is made in no time, and the cluster's key admits them all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use p2p_dht::message::Request;
use p2p_dht::object::Object;

use super::answers::Manners;
use super::door::Member;
use super::floods::{self, Reading, upload};
use super::frames::LANES;
use super::wire::{Wire, header};
use super::{Attack, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("crowd-of-half-pushes", |a| Box::pin(half_pushes(a))).moving(&["p2p_streams_refused"]),
    Scenario::new("crowd-of-pushes", |a| Box::pin(pushes(a))),
    Scenario::new("crowd-of-gets", |a| Box::pin(gets(a))),
    Scenario::new("crowd-of-counts", |a| Box::pin(counts(a))),
];

/// Identities in a crowd.
const CROWD: u32 = 100;

/// Longest wait until all of a crowd do what they do: not all may get that far.
const GATHER_TIME: Duration = Duration::from_secs(5);

/// What one of a crowd does, over and over; it says when it is about to.
type Act = dyn for<'a> Fn(&'a Member, &'a (dyn Fn() + Sync)) -> BoxFuture<'a, ()> + Sync;

/// Lets many identities do the same.
async fn crowd(attack: Arc<Attack>, act: &Act) {
    let ready = AtomicU32::new(0);
    let one = async |n| {
        let member = Member::enter(&attack, n, Manners::default()).await;
        attack.did("entered");
        let said = std::sync::Once::new();
        let begins = || {
            said.call_once(|| {
                if ready.fetch_add(1, Ordering::Relaxed) + 1 == CROWD {
                    attack.began();
                }
            });
        };
        loop {
            act(&member, &begins).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let late = async {
        tokio::time::sleep(GATHER_TIME).await;
        attack.began();
    };
    futures::future::join(late, futures::future::join_all((0..CROWD).map(one))).await;
}

/// As many links as there may be, each with a push that lacks its last byte.
async fn half_pushes(attack: Arc<Attack>) {
    crowd(attack, &|member, begins| {
        Box::pin(async move {
            let lane = async || {
                let mut wire = Wire::greeted(member).await?;
                let object = Object::leaf(member.attack.bytes(1, 1 << 20).into(), 0);
                let frame = Request::Push(upload(1), *object.reference(), object.payload().clone()).into_frame(1);
                let mut bytes = header(frame.kind, 0, frame.head.len() as u16, 1 << 20).to_vec();
                bytes.extend_from_slice(&frame.head);
                bytes.extend_from_slice(&frame.payload[1..]);
                wire.write(&bytes).await?;
                member.attack.did("almost pushed");
                begins();
                super::wire::drain(wire.reader).await;
                Ok::<_, std::io::Error>(())
            };
            let _ = futures::future::join_all((0..LANES + 1).map(|_| lane())).await;
        })
    })
    .await;
}

async fn pushes(attack: Arc<Attack>) {
    let next = Arc::new(AtomicU64::new(0));
    crowd(attack, &move |member, begins| {
        let next = next.clone();
        Box::pin(async move {
            begins();
            let _ = floods::push_on_and_on(member, &next).await;
        })
    })
    .await;
}

async fn gets(attack: Arc<Attack>) {
    crowd(attack, &|member, begins| {
        Box::pin(async move {
            let lane = || floods::get_on_and_on(member, Reading::Nothing, begins);
            let _ = futures::future::join_all((0..LANES).map(|_| lane())).await;
        })
    })
    .await;
}

/// Requests that fit into a frame of no consequence, from so many links that none of them has much under way.
async fn counts(attack: Arc<Attack>) {
    crowd(attack, &|member, begins| {
        Box::pin(async move {
            let batch = floods::batch(0, floods::count);
            let lane = || {
                floods::write_on_and_on(member, |_| {
                    begins();
                    batch.clone()
                })
            };
            let _ = futures::future::join_all((0..LANES).map(|_| lane())).await;
        })
    })
    .await;
}
