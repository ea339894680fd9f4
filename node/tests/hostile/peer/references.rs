//! References that cannot exist, ids of other objects, objects that are not what they are pushed as.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use p2p_dht::message::{Refusal, Reply, Request};
use p2p_dht::object::{Object, TreeBuilder};
use p2p_dht::store::UploadId;
use p2p_dht::tree::{ChainingValue, Id, ObjectRef, RootId};

use super::answers::Manners;
use super::door::Member;
use super::frames::{LANES, PAUSE};
use super::wire::Wire;
use super::{Attack, Scenario, again};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("reference-impossible", |a| Box::pin(impossible(a))),
    Scenario::new("reference-of-another", |a| Box::pin(of_another(a))).moving(&["p2p_objects_bad"]),
    Scenario::new("root-wrong-length", |a| Box::pin(wrong_roots(a))).moving(&["p2p_objects_bad"]),
    Scenario::new("push-bad", |a| Box::pin(bad_pushes(a))).moving(&["p2p_objects_bad"]),
];

/// Places and lengths at the edges of what numbers can say.
fn edges() -> Vec<(u64, u64)> {
    let edges = [0, 1, 1023, 1024, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 1 << 30, 1 << 40, 1 << 50, (1 << 50) + 1];
    let more = [1 << 63, u64::MAX - (1 << 20), u64::MAX - 1, u64::MAX];
    let all: Vec<u64> = edges.into_iter().chain(more).collect();
    all.iter().flat_map(|offset| all.iter().map(|len| (*offset, *len))).collect()
}

/// Asks about objects that cannot be: none of them is there, and that is all there is to say.
async fn impossible(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let ids = [Id::Root(RootId([3; 32])), Id::Subtree(ChainingValue([3; 32]))];
    let all: Vec<ObjectRef> =
        ids.iter().flat_map(|id| edges().into_iter().map(|(offset, len)| ObjectRef { id: *id, offset, len })).collect();
    let upload = UploadId([1; 16]);
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = Wire::greeted(&member).await?;
        for some in all.chunks(32) {
            let (none, wanted) = (vec![false; some.len()], vec![true; some.len()]);
            let cases = [
                (Request::Have(some.to_vec()), Reply::Flags(none.clone())),
                (Request::Count(RootId([3; 32]), some.to_vec()), Reply::Flags(none)),
                (Request::Offer(upload, some.to_vec()), Reply::Flags(wanted)),
                (Request::Get(some[0]), Reply::Absent),
                (Request::Push(upload, some[some.len() - 1], vec![0; 999].into()), Reply::Refused(Refusal::Invalid)),
            ];
            expect(&mut wire, &member, &cases).await?;
        }
        Ok(())
    })
    .await;
}

/// Ids of objects that the victim has, under wrong places, lengths and kinds.
async fn of_another(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let leaf = Object::leaf(attack.bytes(1, 70_000).into(), 5 << 20);
    let upload = UploadId([2; 16]);
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = Wire::greeted(&member).await?;
        let ObjectRef { id, offset, len } = *leaf.reference();
        let there = Request::Push(upload, *leaf.reference(), leaf.payload().clone());
        expect(&mut wire, &member, &[(there, Reply::Stored)]).await?;
        let wrong = [
            ObjectRef { id, offset: offset + (1 << 20), len },
            ObjectRef { id, offset, len: len - 1 },
            ObjectRef { id, offset, len: len + 1 },
            ObjectRef { id, offset: 0, len },
            ObjectRef { id: Id::Root(RootId(*id.bytes())), offset: 0, len },
            ObjectRef { id: Id::Root(RootId(*id.bytes())), offset, len },
        ];
        let mut cases = vec![(Request::Have(wrong.to_vec()), Reply::Flags(vec![false; wrong.len()]))];
        cases.push((Request::Root(RootId(*id.bytes())), Reply::Absent));
        for reference in wrong {
            cases.push((Request::Get(reference), Reply::Absent));
            let push = Request::Push(upload, reference, leaf.payload().clone());
            cases.push((push, Reply::Refused(Refusal::Invalid)));
        }
        expect(&mut wire, &member, &cases).await
    })
    .await;
}

/// Root objects of true files under false lengths: wrong ones, huge ones, another split of the same tree, a wrong edge.
async fn wrong_roots(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let mut builder = TreeBuilder::new();
    for n in 0..3 {
        let len = if n == 2 { 5000 } else { 1 << 20 };
        builder.push(&Object::leaf(attack.bytes(n, len).into(), n << 20));
    }
    let file = builder.finish();
    let root = file.built.indexes.last().expect("a file of three leaves has an index").clone();
    let upload = UploadId([3; 16]);
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = Wire::greeted(&member).await?;
        let mut cases = Vec::new();
        for len in [0, 5000, file.len - 1, file.len + 1, 3 << 20, (3 << 20) - 1, 3 << 30, 1 << 50, u64::MAX] {
            let push = Request::Push(upload, ObjectRef::root(file.root, len), root.payload().clone());
            cases.push((push, Reply::Refused(Refusal::Invalid)));
        }
        for at in [0, 31, 95, 96, root.payload().len() - 1] {
            let mut spoilt = root.payload().to_vec();
            spoilt[at] ^= 1;
            let push = Request::Push(upload, *root.reference(), spoilt.into());
            cases.push((push, Reply::Refused(Refusal::Invalid)));
        }
        cases.push((Request::Root(file.root), Reply::Absent));
        expect(&mut wire, &member, &cases).await
    })
    .await;
}

/// Objects with one wrong bit, as fast as they are refused.
async fn bad_pushes(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let good = Object::leaf(attack.bytes(1, 1 << 20).into(), 0);
    let mut bytes = good.payload().to_vec();
    bytes[77] ^= 1;
    let (bytes, next) = (bytes::Bytes::from(bytes), AtomicU64::new(0));
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = Wire::greeted(&member).await?;
        for _ in 0..50 {
            let upload = UploadId(u128::from(next.fetch_add(1, Ordering::Relaxed)).to_le_bytes());
            let push = Request::Push(upload, *good.reference(), bytes.clone());
            expect(&mut wire, &member, &[(push, Reply::Refused(Refusal::Invalid))]).await?;
        }
        Ok(())
    })
    .await;
}

/// Asks one after the other, and complains about any other answer than this.
pub(crate) async fn expect(wire: &mut Wire, member: &Member, cases: &[(Request, Reply)]) -> std::io::Result<()> {
    for (n, (request, reply)) in cases.iter().enumerate() {
        wire.say(&request.clone().into_frame(n as u64)).await?;
        let answer = Reply::from_frame(wire.answer().await?);
        if answer.as_ref() != Ok(&(n as u64, reply.clone())) {
            let short = |text: String| text.chars().take(300).collect::<String>();
            let (asked, said) = (short(format!("{request:?}")), short(format!("{answer:?}")));
            member.attack.complain(&format!("{asked} was answered {said}"));
        }
        member.attack.did("asked");
        member.attack.began();
    }
    Ok(())
}
