//! Hellos and credit that lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use p2p_dht::exchange::LINK_CREDIT;
use p2p_dht::exchange::server::RECEIVED_LEN_MAX;
use p2p_dht::message::Request;
use p2p_dht::object::Object;
use p2p_dht::store::UploadId;
use p2p_gossip::wire::frame::FLAG_IGNORABLE;
use p2p_gossip::wire::link::{CREDIT_MAX, CREDIT_MIN};
use p2p_gossip::wire::{ClusterId, Hello, Versions, encode};

use super::answers::Manners;
use super::door::Member;
use super::frames::{LANES, PAUSE};
use super::wire::{CREDIT, HELLO, Wire, hello};
use super::{Attack, Scenario, again};

/// Streams on which credit is overrun at once: what may be sent on them fits into what a host may have a node hold. With
/// more of them that is reached first, and the node leaves all of them alone until they stall.
const OVERRUN_LANES: usize = 2;

const _: () = assert!(OVERRUN_LANES * (LINK_CREDIT as usize) < RECEIVED_LEN_MAX / 2);

/// More requests than a victim works on at once.
const REQUESTS_AT_ONCE: u64 = 40;

/// Objects of a mebibyte that are pushed behind them: far more than there is credit for.
const BEYOND: u64 = 100;

const BROKEN: &[&str] = &["p2p_links_broken"];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("hello-wrong", |a| Box::pin(wrong_hellos(a))).moving(BROKEN),
    Scenario::new("credit-wrong", |a| Box::pin(wrong_credit(a))).moving(BROKEN),
    Scenario::new("credit-overrun", |a| Box::pin(overrun(a))).moving(BROKEN),
];

/// What may come instead of a hello: type, flags and head of a frame.
fn instead_of_hello(honest: Hello) -> Vec<(u8, u8, Vec<u8>)> {
    let versions = |min, max| Hello { versions: Versions { min, max }, ..honest };
    let credit = |credit| Hello { credit, ..honest };
    let wrong = [
        Hello { cluster: ClusterId([0xee; 16]), ..honest },
        versions(2, 1),
        versions(0, 0),
        versions(u16::MAX, u16::MAX),
        versions(u16::MAX, 0),
        credit(0),
        credit(1),
        credit(CREDIT_MIN - 1),
        credit(CREDIT_MAX + 1),
        credit(u32::MAX),
    ];
    let mut all: Vec<(u8, u8, Vec<u8>)> = wrong.iter().map(|wrong| (HELLO, 0, encode(wrong).to_vec())).collect();
    let good = encode(&honest).to_vec();
    let trailing = [&good[..], &[0]].concat();
    all.push((HELLO, 0, trailing));
    all.push((HELLO, 0, good[..good.len() - 1].to_vec()));
    all.push((HELLO, 0, Vec::new()));
    all.push((HELLO, 0, vec![0xff; 64]));
    all.push((HELLO, 0, vec![0xff; 65]));
    all.push((CREDIT, 0, vec![1]));
    all.push((16, 0, good.clone()));
    all.push((200, FLAG_IGNORABLE, good));
    all
}

async fn wrong_hellos(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let all = instead_of_hello(hello(&member));
    let next = AtomicUsize::new(0);
    again(&attack, LANES, PAUSE, async |_| {
        let (kind, flags, head) = &all[next.fetch_add(1, Ordering::Relaxed) % all.len()];
        let mut wire = Wire::open(&member).await?;
        wire.send(*kind, *flags, head, &[]).await?;
        wire.ended(&member, &format!("{kind} {head:?} instead of a hello")).await;
        Ok(())
    })
    .await;
}

async fn wrong_credit(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let heads: [Vec<u8>; 6] = [
        encode(&u32::MAX).to_vec(),
        encode(&CREDIT_MAX).to_vec(),
        encode(&u64::MAX).to_vec(),
        vec![],
        vec![252, 1],
        vec![0, 0, 0, 0, 0, 0, 0, 0],
    ];
    let next = AtomicUsize::new(0);
    again(&attack, LANES, PAUSE, async |_| {
        let head = &heads[next.fetch_add(1, Ordering::Relaxed) % heads.len()];
        let mut wire = Wire::greeted(&member).await?;
        wire.send(CREDIT, 0, head, &[]).await?;
        wire.ended(&member, &format!("credit {head:?}")).await;
        Ok(())
    })
    .await;
}

/// Sends on and on, whatever credit there is: first as many requests as are worked on at once, of whose answers nothing is
/// read, and behind them more than fits.
async fn overrun(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let object = Object::leaf(attack.bytes(1, 1 << 20).into(), 0);
    again(&attack, OVERRUN_LANES, PAUSE, async |lane| {
        let mut wire = Wire::greeted(&member).await?;
        let push = Request::Push(UploadId([lane as u8; 16]), *object.reference(), object.payload().clone());
        wire.say(&push.clone().into_frame(0)).await?;
        wire.answer().await?;
        for n in 0..REQUESTS_AT_ONCE {
            wire.say(&Request::Get(*object.reference()).into_frame(n)).await?;
        }
        for n in 0..BEYOND {
            if wire.say(&push.clone().into_frame(REQUESTS_AT_ONCE + n)).await.is_err() {
                attack.did("were cut off");
                attack.began();
                return Ok(());
            }
        }
        attack.complain(&format!("{BEYOND} MiB beyond the credit were taken"));
        Ok(())
    })
    .await;
}
