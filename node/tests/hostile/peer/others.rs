//! Lies on the protocol that comes with libp2p: lookups.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{AsyncReadExt, AsyncWriteExt};

use super::answers::Manners;
use super::door::{Member, Protocol};
use super::frames::{LANES, PAUSE};
use super::{Attack, Scenario, again};

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario::new("kad-lies", |a| Box::pin(lies(a)))];

/// Bytes of a message that is as long as its protocol takes, or nearly.
const MESSAGE_LEN: usize = 60 << 10;

/// What no honest peer says: lengths without end, garbage, and messages full of names that nobody has.
fn messages() -> Vec<Vec<u8>> {
    let with_length = |len: usize, body: &[u8]| {
        let mut message = Vec::new();
        varint(&mut message, len as u64);
        message.extend_from_slice(body);
        message
    };
    let mut names = Vec::new();
    while names.len() < MESSAGE_LEN {
        let mut name = Vec::new();
        field(&mut name, 1, &[0x12; 34]);
        field(&mut name, 2, &[4, 127, 0, 0, 1, 6, 0, 1]);
        field(&mut names, 8, &name);
    }
    vec![
        vec![0xff; 64],
        with_length(usize::MAX, &[0; 1000]),
        with_length(1 << 30, &[0; 1000]),
        with_length(MESSAGE_LEN, &[0xff; MESSAGE_LEN]),
        with_length(names.len(), &names),
        with_length(0, &[]),
        vec![0; 4096],
    ]
}

async fn lies(attack: Arc<Attack>) {
    let member = Member::enter(&attack, 0, Manners::default()).await;
    let (messages, next) = (messages(), AtomicUsize::new(0));
    again(&attack, LANES, PAUSE, async |_| {
        let mut stream = member.open(Protocol::Kad).await?;
        let message = &messages[next.fetch_add(1, Ordering::Relaxed) % messages.len()];
        // The victim may end the stream at any byte.
        if stream.write_all(message).await.is_ok() {
            let _ = stream.close().await;
        }
        let _ = tokio::time::timeout(PAUSE, stream.read(&mut [0; 4096])).await;
        Ok(())
    })
    .await;
}

/// One length-delimited field of a protobuf message.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    varint(out, u64::from(number << 3 | 2));
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
