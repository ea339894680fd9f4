//! Frames that lie about themselves: lengths, types, flags.

use std::sync::Arc;
use std::time::Duration;

use p2p_dht::message::{Reply, Request};
use p2p_dht::tree::RootId;
use p2p_gossip::wire::frame::FLAG_IGNORABLE;

use super::answers::Manners;
use super::door::Member;
use super::wire::{Wire, header};
use super::{Attack, Scenario, again};

/// Types of requests, the first and the last.
pub(crate) const REQUESTS: std::ops::RangeInclusive<u8> = 16..=25;

/// Types of answers.
const REPLIES: std::ops::RangeInclusive<u8> = 32..=41;

/// Lanes of one peer: as many as the victim takes.
pub(crate) const LANES: usize = 6;

/// Between two attempts that cost the victim a link.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

const BROKEN: &[&str] = &["p2p_links_broken"];

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("frame-4gib", |a| Box::pin(lie(a, "a payload of 4 GiB", four_gib))).moving(BROKEN),
    Scenario::new("frame-no-length", |a| Box::pin(lie(a, "a second hello", |_| vec![0; 8]))).moving(BROKEN),
    Scenario::new("frame-empty", |a| Box::pin(lie(a, "an empty request", empty))).moving(BROKEN),
    Scenario::new("frame-long-head", |a| Box::pin(lie(a, "a head of 64 KiB", long_head))).moving(BROKEN),
    Scenario::new("frame-unknown", |a| Box::pin(lie(a, "an unknown type", unknown))).moving(BROKEN),
    Scenario::new("frame-skipped-too-long", |a| Box::pin(lie(a, "a long noise", long_noise))).moving(BROKEN),
    Scenario::new("frame-answer-to-nothing", |a| Box::pin(lie(a, "an answer", answer))).moving(BROKEN),
    Scenario::new("frame-garbage", |a| Box::pin(lie(a, "garbage", garbage))).moving(BROKEN),
    Scenario::new("frame-flags", |a| Box::pin(flags(a))),
    Scenario::new("frame-noise", |a| Box::pin(noise(a))).moving(&["p2p_frames_skipped"]),
];

/// After an honest hello, bytes after which the stream must end.
async fn lie(attack: Arc<Attack>, what: &'static str, bytes: fn(usize) -> Vec<u8>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let n = std::sync::atomic::AtomicUsize::new(0);
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = Wire::greeted(&member).await?;
        wire.write(&bytes(n.fetch_add(1, std::sync::atomic::Ordering::Relaxed))).await?;
        wire.ended(&member, what).await;
        Ok(())
    })
    .await;
}

fn four_gib(n: usize) -> Vec<u8> {
    let kind = REQUESTS.start() + (n % 10) as u8;
    let mut bytes = header(kind, 0, 1, u32::MAX).to_vec();
    bytes.extend_from_slice(&[0; 1000]);
    bytes
}

fn empty(n: usize) -> Vec<u8> {
    header(REQUESTS.start() + (n % 10) as u8, 0, 0, 0).to_vec()
}

fn long_head(n: usize) -> Vec<u8> {
    header(REQUESTS.start() + (n % 10) as u8, 0, u16::MAX, 0).to_vec()
}

fn unknown(n: usize) -> Vec<u8> {
    // Also types of the link itself that it does not have.
    header([2, 15, 26, 99, 255][n % 5], 0xfe, 0, 0).to_vec()
}

fn long_noise(_: usize) -> Vec<u8> {
    header(200, FLAG_IGNORABLE, 1, 64 << 10).to_vec()
}

fn answer(n: usize) -> Vec<u8> {
    let mut bytes = header(REPLIES.start() + (n % 10) as u8, 0, 1, 0).to_vec();
    bytes.push(7);
    bytes
}

pub(crate) fn garbage(n: usize) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    // Never the start of a frame that may be skipped, which would only be waited for.
    bytes[0] = 99;
    bytes[1] &= !FLAG_IGNORABLE;
    bytes
}

/// Flags that nobody knows change nothing.
async fn flags(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = Wire::greeted(&member).await?;
        for flags in [1, 2, 0x80, 0xff] {
            let mut frame = Request::HaveRoot(RootId([9; 32])).into_frame(u64::from(flags));
            frame.flags = flags;
            wire.say(&frame).await?;
            let answer = Reply::from_frame(wire.answer().await?);
            if answer != Ok((u64::from(flags), Reply::Flags(vec![false]))) {
                member.attack.complain(&format!("flags {flags} made it answer {answer:?}"));
            }
        }
        Ok(())
    })
    .await;
}

/// Frames that are to be skipped, without end.
async fn noise(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    again(&attack, LANES, PAUSE, async |_| {
        let Wire { reader, writer } = Wire::greeted(&member).await?;
        let reading = tokio::spawn(super::wire::drain(reader));
        let mut wire = writer;
        let mut bytes = header(200, FLAG_IGNORABLE, 0, 60 << 10).to_vec();
        bytes.resize(bytes.len() + (60 << 10), 7);
        for _ in 0..200 {
            futures::AsyncWriteExt::write_all(&mut wire, &bytes).await?;
            futures::AsyncWriteExt::flush(&mut wire).await?;
            attack.did("skipped");
        }
        drop(wire);
        reading.abort();
        Ok(())
    })
    .await;
}
