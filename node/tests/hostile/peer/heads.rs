//! Heads that are not what their frame says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use p2p_dht::message::{REFS_MAX, Request};
use p2p_dht::store::UploadId;
use p2p_dht::tree::{ChainingValue, Id, ObjectRef, RootId};
use p2p_gossip::wire::Frame;

use super::answers::Manners;
use super::door::Member;
use super::frames::{LANES, PAUSE, REQUESTS};
use super::wire::Wire;
use super::{Attack, Scenario, again};

const BROKEN: &[&str] = &["p2p_links_broken"];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("head-trailing", |a| Box::pin(spoilt(a, "bytes after a head", trailing))).moving(BROKEN),
    Scenario::new("head-cut", |a| Box::pin(spoilt(a, "a head cut short", cut))).moving(BROKEN),
    Scenario::new("head-long-list", |a| Box::pin(spoilt(a, "a list of 2^63", long_list))).moving(BROKEN),
    Scenario::new("head-many", |a| Box::pin(spoilt(a, "too many references", many))).moving(BROKEN),
    Scenario::new("head-random", |a| Box::pin(random(a))).moving(BROKEN),
];

/// One request of each kind.
pub(crate) fn requests(n: u64) -> Vec<Frame> {
    let root = RootId([9; 32]);
    let reference = ObjectRef { id: Id::Subtree(ChainingValue([7; 32])), offset: 1 << 20, len: 1 << 20 };
    let upload = UploadId([5; 16]);
    [
        Request::Root(root),
        Request::HaveRoot(root),
        Request::Get(reference),
        Request::Have(vec![reference; 3]),
        Request::Count(root, vec![reference; 3]),
        Request::Offer(upload, vec![reference; 3]),
        Request::Push(upload, reference, vec![1; 100].into()),
        Request::Bind(upload, root, 1),
        Request::Keep(upload),
        Request::Cancel,
    ]
    .into_iter()
    .map(|request| request.into_frame(n))
    .collect()
}

/// Requests with a spoilt head, after which the stream must end.
async fn spoilt(attack: Arc<Attack>, what: &'static str, spoil: fn(Frame, u64) -> Frame) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let next = AtomicU64::new(0);
    again(&attack, LANES, PAUSE, async |_| {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let mut wire = Wire::greeted(&member).await?;
        let all = requests(n);
        let frame = all[n as usize % all.len()].clone();
        wire.say(&spoil(frame, n)).await?;
        wire.ended(&member, what).await;
        Ok(())
    })
    .await;
}

fn trailing(frame: Frame, n: u64) -> Frame {
    let mut head = frame.head.to_vec();
    head.resize(head.len() + 1 + n as usize % 20, 0);
    Frame { head: head.into(), ..frame }
}

fn cut(frame: Frame, n: u64) -> Frame {
    let len = (n as usize / 10) % frame.head.len();
    Frame { head: frame.head.slice(..len), ..frame }
}

/// A list that claims to be longer than memory.
fn long_list(_: Frame, n: u64) -> Frame {
    let mut head = vec![7];
    let kind = [18, 19, 20][n as usize % 3];
    if kind == 19 {
        head.extend_from_slice(&[9; 32]);
    } else if kind == 20 {
        head.extend_from_slice(&[5; 16]);
    }
    head.extend_from_slice(&[253, 0, 0, 0, 0, 0, 0, 0, 0x80]);
    head.extend_from_slice(&[1; 40]);
    Frame::new(kind, head.into(), Default::default())
}

/// More references than a message may have, each as short as it can be.
fn many(_: Frame, n: u64) -> Frame {
    let reference = ObjectRef { id: Id::Root(RootId([1; 32])), offset: 0, len: 0 };
    Request::Have(vec![reference; REFS_MAX + 1 + n as usize % 20]).into_frame(n)
}

/// Heads of random bytes of every length, for every type. Some may be requests all the same.
async fn random(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let next = AtomicU64::new(0);
    again(&attack, LANES, PAUSE, async |_| {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let mut wire = Wire::greeted(&member).await?;
        // The victim ends the stream at the first that cannot be read.
        for i in 0..50 {
            let kind = REQUESTS.start() + ((n + i) % 10) as u8;
            let head = attack.bytes(n * 50 + i, (n + i * 13) as usize % 120);
            if wire.send(kind, 0, &head, &[]).await.is_err() {
                break;
            }
        }
        wire.ended(&member, "fifty random heads").await;
        Ok(())
    })
    .await;
}
