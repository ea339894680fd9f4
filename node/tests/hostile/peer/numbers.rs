//! Request numbers that repeat, and cancelling of everything.

use std::sync::Arc;

use futures::AsyncWriteExt;
use p2p_dht::message::Request;
use p2p_dht::object::Object;
use p2p_dht::store::UploadId;
use p2p_dht::tree::RootId;

use super::answers::Manners;
use super::door::Member;
use super::frames::{LANES, PAUSE};
use super::references::expect;
use super::wire::Wire;
use super::{Attack, Scenario, again};
use p2p_dht::message::Reply;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("number-repeated", |a| Box::pin(repeated(a))),
    Scenario::new("cancel-everything", |a| Box::pin(cancel_everything(a))),
];

/// Frames written one after the other, as bytes.
fn bytes_of(requests: impl IntoIterator<Item = (u64, Request)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, request) in requests {
        let frame = request.into_frame(number);
        bytes.extend_from_slice(&super::wire::header(frame.kind, 0, frame.head.len() as u16, 0));
        bytes.extend_from_slice(&frame.head);
    }
    bytes
}

/// Every request under the same number, and each must be answered all the same.
async fn repeated(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = Wire::greeted(&member).await?;
        for number in [0, 7, u64::MAX] {
            let many = (0..200).map(|n| (number, Request::HaveRoot(RootId([n; 32]))));
            wire.write(&bytes_of(many)).await?;
            for _ in 0..200 {
                let answer = Reply::from_frame(wire.answer().await?);
                if answer != Ok((number, Reply::Flags(vec![false]))) {
                    attack.complain(&format!("number {number} was answered {answer:?}"));
                }
            }
            attack.did("hundreds of the same number");
            attack.began();
        }
        Ok(())
    })
    .await;
}

/// Cancels what was asked, what was never asked, and what is already answered.
async fn cancel_everything(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let object = Object::leaf(attack.bytes(1, 1 << 20).into(), 0);
    let upload = UploadId([4; 16]);
    again(&attack, LANES, PAUSE, async |_| {
        let mut wire = Wire::greeted(&member).await?;
        let push = Request::Push(upload, *object.reference(), object.payload().clone());
        expect(&mut wire, &member, &[(push, Reply::Stored)]).await?;
        let Wire { reader, mut writer } = wire;
        let reading = tokio::spawn(super::wire::drain(reader));
        for round in 0..100_u64 {
            let gets = (0..40).map(|n| (round * 40 + n, Request::Get(*object.reference())));
            let cancels = (0..80).map(|n| (round * 40 + n, Request::Cancel));
            writer.write_all(&bytes_of(gets.chain(cancels))).await?;
            writer.flush().await?;
            attack.did("forties cancelled");
            attack.began();
        }
        reading.abort();
        Ok(())
    })
    .await;
}
