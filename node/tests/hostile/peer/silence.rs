//! Silence, drips and ends at every stage of a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use p2p_dht::message::Request;
use p2p_dht::object::Object;
use p2p_dht::store::UploadId;
use p2p_dht::tree::RootId;
use p2p_gossip::wire::encode;

use super::answers::Manners;
use super::door::Member;
use super::frames::{LANES, PAUSE};
use super::wire::{HELLO, Wire, header, hello};
use super::{Attack, Scenario, again};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("silence", |a| Box::pin(silence(a))),
    Scenario::new("end-at-every-stage", |a| Box::pin(ends(a))).moving(&["p2p_links_broken"]),
    Scenario::new("drip", |a| Box::pin(drip(a))),
    Scenario::new("half-closed", |a| Box::pin(half_closed(a))),
];

/// Longest that a silent stream is watched before another is opened.
const WATCHED_TIME: Duration = Duration::from_secs(200);

/// What one lane says before it falls silent, or goes on by drops: more with every stage.
fn stages(member: &Member) -> Vec<Vec<u8>> {
    let head = encode(&hello(member));
    let mut greeted = header(HELLO, 0, head.len() as u16, 0).to_vec();
    greeted.extend_from_slice(&head);
    let object = Object::leaf(member.attack.bytes(1, 1 << 20).into(), 0);
    let push = Request::Push(UploadId([6; 16]), *object.reference(), object.payload().clone()).into_frame(1);
    let start = header(push.kind, 0, push.head.len() as u16, push.payload.len() as u32);
    let mut whole = greeted.clone();
    whole.extend_from_slice(&start);
    whole.extend_from_slice(&push.head);
    whole.extend_from_slice(&push.payload);
    let ends = [
        0,
        1,
        8,
        greeted.len() - 1,
        greeted.len(),
        greeted.len() + 4,
        greeted.len() + 8,
        greeted.len() + 8 + push.head.len() / 2,
        greeted.len() + 8 + push.head.len(),
        greeted.len() + 8 + push.head.len() + 100_000,
        whole.len() - 1,
    ];
    ends.iter().map(|end| whole[..*end].to_vec()).collect()
}

/// Says something and then nothing, on as many streams as there may be.
async fn silence(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let (stages, next) = (stages(&member), AtomicUsize::new(0));
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = Wire::open(&member).await?;
        wire.write(&stages[next.fetch_add(1, Ordering::Relaxed) % stages.len()]).await?;
        attack.did("fell silent");
        attack.began();
        let mut buffer = vec![0; 4096];
        let listen = async { while wire.reader.read(&mut buffer).await.is_ok_and(|len| len > 0) {} };
        let _ = tokio::time::timeout(WATCHED_TIME, listen).await;
        Ok(())
    })
    .await;
}

/// Says something and ends the stream, in order or not.
async fn ends(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let (stages, next) = (stages(&member), AtomicUsize::new(0));
    again(&attack, LANES, PAUSE, async |_| {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let mut wire = Wire::open(&member).await?;
        wire.write(&stages[n % stages.len()]).await?;
        if (n / stages.len()).is_multiple_of(2) {
            wire.writer.close().await?;
            wire.ended(&member, "its orderly end").await;
        }
        Ok(())
    })
    .await;
}

/// A byte a second, from the hello, a header, a head and a payload on.
async fn drip(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let stages = stages(&member);
    let whole = stages[stages.len() - 1].clone();
    let next = AtomicUsize::new(0);
    again(&attack, LANES, PAUSE, async |_| {
        let begin = stages[next.fetch_add(1, Ordering::Relaxed) % stages.len()].len();
        let Wire { reader, mut writer } = Wire::open(&member).await?;
        let reading = tokio::spawn(super::wire::drain(reader));
        writer.write_all(&whole[..begin]).await?;
        writer.flush().await?;
        for byte in &whole[begin..] {
            attack.did("drops");
            attack.began();
            tokio::time::sleep(Duration::from_secs(1)).await;
            writer.write_all(&[*byte]).await?;
            writer.flush().await?;
        }
        reading.abort();
        Ok(())
    })
    .await;
}

/// Asks, closes its own half, and reads what comes, or does not.
async fn half_closed(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let next = AtomicUsize::new(0);
    again(&attack, LANES, PAUSE, async |_| {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let mut wire = Wire::greeted(&member).await?;
        for number in 0..20 {
            wire.say(&Request::HaveRoot(RootId([9; 32])).into_frame(number)).await?;
        }
        wire.writer.close().await?;
        if n.is_multiple_of(2) {
            wire.ended(&member, "the half that was closed").await;
        } else {
            attack.did("left unread");
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        Ok(())
    })
    .await;
}
