//! Too much of what is allowed: requests, uploads, bytes, streams; and nothing read of what comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use p2p_dht::message::{Reply, Request};
use p2p_dht::object::Object;
use p2p_dht::store::UploadId;
use p2p_dht::tree::{ChainingValue, Id, ObjectRef, RootId};
use p2p_gossip::wire::encode;
use p2p_gossip::wire::frame::FLAG_IGNORABLE;

use super::answers::Manners;
use super::door::{Member, Protocol};
use super::frames::{LANES, PAUSE};
use super::references::expect;
use super::wire::{CREDIT, Wire, header};
use super::{Attack, Scenario, again};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("flood-have", |a| Box::pin(flood(a, have))),
    Scenario::new("flood-count", |a| Box::pin(flood(a, count))),
    Scenario::new("flood-root", |a| Box::pin(flood(a, root))),
    Scenario::new("flood-offer", |a| Box::pin(flood(a, offer))),
    Scenario::new("flood-keep", |a| Box::pin(flood(a, keep))),
    Scenario::new("flood-bind", |a| Box::pin(flood(a, bind))),
    Scenario::new("flood-held", |a| Box::pin(held(a))),
    Scenario::new("flood-cancel", |a| Box::pin(small_frames(a, cancels))),
    Scenario::new("flood-credit", |a| Box::pin(small_frames(a, credits))),
    Scenario::new("flood-noise", |a| Box::pin(small_frames(a, noises))),
    Scenario::new("flood-push", |a| Box::pin(pushes_for_nobody(a))).moving(&["p2p_object_received_bytes"]),
    Scenario::new("flood-get", |a| Box::pin(gets(a, Reading::All))).moving(&["p2p_object_sent_bytes"]),
    Scenario::new("unread-get", |a| Box::pin(gets(a, Reading::Nothing))),
    Scenario::new("slow-get", |a| Box::pin(gets(a, Reading::Drops))),
    Scenario::new("unread-answers", |a| Box::pin(unread_answers(a))),
    Scenario::new("flood-streams", |a| Box::pin(streams(a))).moving(&["p2p_streams_refused"]),
];

/// Requests in one write.
const BATCH: u64 = 200;

/// Writes that are made ready before the flood, so that what floods is the wire.
const BATCHES: u64 = 8;

fn leaf(n: u64) -> ObjectRef {
    let id = Id::Subtree(ChainingValue(*blake3::hash(&n.to_le_bytes()).as_bytes()));
    ObjectRef { id, offset: 0, len: 1 << 20 }
}

fn leaves(n: u64) -> Vec<ObjectRef> {
    (n * 32..(n + 1) * 32).map(leaf).collect()
}

pub(crate) fn upload(n: u64) -> UploadId {
    UploadId(u128::from(n).to_le_bytes())
}

fn have(n: u64) -> Request {
    Request::Have(leaves(n))
}

pub(crate) fn count(n: u64) -> Request {
    Request::Count(RootId([8; 32]), leaves(n))
}

fn root(n: u64) -> Request {
    Request::Root(RootId(*blake3::hash(&n.to_le_bytes()).as_bytes()))
}

fn offer(n: u64) -> Request {
    Request::Offer(upload(n), leaves(n))
}

fn keep(n: u64) -> Request {
    Request::Keep(upload(n))
}

fn bind(n: u64) -> Request {
    Request::Bind(upload(n), RootId([8; 32]), 1)
}

fn push_frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, head: &[u8]) {
    bytes.extend_from_slice(&header(kind, flags, head.len() as u16, 0));
    bytes.extend_from_slice(head);
}

pub(crate) fn batch(first: u64, request: impl Fn(u64) -> Request) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in first..first + BATCH {
        let frame = request(n).into_frame(n);
        push_frame(&mut bytes, frame.kind, 0, &frame.head);
    }
    bytes
}

/// The same kind of request on every lane, as fast as the victim takes them; all answers are read.
async fn flood(attack: Arc<Attack>, request: fn(u64) -> Request) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let batches: Vec<Vec<u8>> = (0..BATCHES).map(|n| batch(n * BATCH, request)).collect();
    again(&attack, LANES, PAUSE, async |_| write_on_and_on(&member, |n| batches[n % batches.len()].clone()).await)
        .await;
}

/// Credit that lasts for long, so that no flood ends for want of it.
const MUCH_CREDIT: u32 = 200 << 20;

/// Writes one batch after the other, and reads whatever comes.
pub(crate) async fn write_on_and_on(member: &Member, batch: impl Fn(usize) -> Vec<u8>) -> std::io::Result<()> {
    let Wire { reader, mut writer } = Wire::greeted_with(member, MUCH_CREDIT).await?;
    let reading = AbortOnDrop(tokio::spawn(super::wire::drain(reader)));
    for n in 0.. {
        writer.write_all(&batch(n)).await?;
        writer.flush().await?;
        member.attack.did("batches");
        member.attack.began();
        if reading.0.is_finished() {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
    }
    Ok(())
}

pub(crate) struct AbortOnDrop<T>(pub(crate) tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One object, held under ever new names of uploads.
async fn held(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let object = Object::leaf(attack.bytes(7, 1000).into(), 0);
    let next = AtomicU64::new(0);
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = Wire::greeted(&member).await?;
        let push = Request::Push(upload(0), *object.reference(), object.payload().clone());
        expect(&mut wire, &member, &[(push, Reply::Stored)]).await?;
        drop(wire);
        write_on_and_on(&member, |_| {
            let first = next.fetch_add(BATCH, Ordering::Relaxed);
            batch(first, |n| Request::Offer(upload(n), vec![*object.reference()]))
        })
        .await
    })
    .await;
}

/// The smallest frames there are, thousands in one write.
async fn small_frames(attack: Arc<Attack>, frames: fn() -> Vec<u8>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let bytes = frames();
    again(&attack, LANES, PAUSE, async |_| write_on_and_on(&member, |_| bytes.clone()).await).await;
}

fn cancels() -> Vec<u8> {
    let mut bytes = Vec::new();
    (0..4096).for_each(|n| push_frame(&mut bytes, 25, 0, &[(n % 250) as u8]));
    bytes
}

fn credits() -> Vec<u8> {
    let mut bytes = Vec::new();
    (0..4096).for_each(|n| push_frame(&mut bytes, CREDIT, 0, &[(n % 2) as u8]));
    bytes
}

fn noises() -> Vec<u8> {
    let mut bytes = Vec::new();
    (0..4096).for_each(|_| push_frame(&mut bytes, 200, FLAG_IGNORABLE, &[]));
    bytes
}

/// Valid objects that belong to no file, each under an upload of its own.
async fn pushes_for_nobody(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let next = AtomicU64::new(0);
    again(&attack, LANES, PAUSE, async |_| push_on_and_on(&member, &next).await).await;
}

pub(crate) async fn push_on_and_on(member: &Member, next: &AtomicU64) -> std::io::Result<()> {
    let mut wire = Wire::greeted(member).await?;
    let mut bytes = vec![0; 1 << 20];
    let mut under_way = 0;
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        bytes[..32].copy_from_slice(blake3::keyed_hash(&[member.attack.seed as u8; 32], &n.to_le_bytes()).as_bytes());
        let object = Object::leaf(bytes.clone().into(), 0);
        wire.say(&Request::Push(upload(n), *object.reference(), object.payload().clone()).into_frame(n)).await?;
        member.attack.did("pushed");
        member.attack.began();
        under_way += 1;
        // Three fit into the credit.
        if under_way == 3 {
            wire.answer().await?;
            under_way -= 1;
        }
    }
}

/// What becomes of the answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    All,
    Nothing,
    Drops,
}

/// Asks for the same objects on and on.
async fn gets(attack: Arc<Attack>, reading: Reading) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    again(&attack, LANES, PAUSE, async |_| get_on_and_on(&member, reading, || attack.began()).await).await;
}

pub(crate) async fn get_on_and_on(member: &Member, reading: Reading, began: impl Fn()) -> std::io::Result<()> {
    let attack = &member.attack;
    let object = Object::leaf(attack.bytes(1, 1 << 20).into(), 0);
    let mut wire = Wire::greeted_with(member, MUCH_CREDIT).await?;
    let push = Request::Push(upload(u64::MAX), *object.reference(), object.payload().clone());
    wire.say(&push.into_frame(1)).await?;
    wire.answer().await?;
    for n in 0..30 {
        wire.say(&Request::Get(*object.reference()).into_frame(n)).await?;
    }
    attack.did("thirties asked for");
    began();
    match reading {
        Reading::All => {
            for n in 30.. {
                wire.answer().await?;
                if n % 8 == 0 {
                    let credit = 8 * (object.payload().len() + 100) as u32;
                    wire.send(CREDIT, 0, &encode(&credit), &[]).await?;
                }
                wire.say(&Request::Get(*object.reference()).into_frame(n)).await?;
            }
        }
        // Until the victim gives the link up; a write notices that.
        Reading::Nothing => {
            for n in 30.. {
                tokio::time::sleep(Duration::from_secs(1)).await;
                wire.say(&Request::Get(*object.reference()).into_frame(n)).await?;
            }
        }
        Reading::Drops => {
            let mut buffer = vec![0; 100];
            while wire.reader.read(&mut buffer).await? > 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    Ok(())
}

/// Asks small things and reads no answer, while it goes on to push.
async fn unread_answers(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let object = Object::leaf(attack.bytes(1, 1 << 20).into(), 0);
    let batch = batch(0, root);
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = Wire::greeted_with(&member, p2p_gossip::wire::link::CREDIT_MIN).await?;
        // So many answers that they fill whatever lies between.
        for _ in 0..1000 {
            let written = tokio::time::timeout(Duration::from_millis(500), wire.write(&batch)).await;
            if written.is_err() {
                break;
            }
            attack.did("hundreds asked");
        }
        attack.began();
        for n in 0..4 {
            let push = Request::Push(upload(n), *object.reference(), object.payload().clone()).into_frame(n);
            let _ = tokio::time::timeout(Duration::from_secs(2), wire.say(&push)).await;
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        Ok(())
    })
    .await;
}

/// Streams opened and dropped, as fast as it goes.
async fn streams(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    again(&attack, 40, Duration::ZERO, async |_| {
        let stream = member.open(Protocol::Objects).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(stream);
        Ok(())
    })
    .await;
}
