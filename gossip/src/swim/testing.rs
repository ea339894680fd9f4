//! Members for tests.

use std::sync::Arc;

use bytes::Bytes;

use super::name::{Keys, Name, Signature};
use super::record::{Claims, Record, Status, Version};

/// Signatures that anybody can check, and anybody could forge.
pub(crate) struct StandIn(Name);

impl StandIn {
    pub(crate) fn of(n: u8) -> Self {
        Self(Name([n; 32]))
    }
}

fn sign(by: &Name, bytes: &[u8]) -> Signature {
    let mut signature = [0; 64];
    blake3::Hasher::new_keyed(&by.0).update(bytes).finalize_xof().fill(&mut signature);
    Signature(signature)
}

impl Keys for StandIn {
    fn sign(&self, bytes: &[u8]) -> Signature {
        sign(&self.0, bytes)
    }

    fn is_signed(&self, by: &Name, bytes: &[u8], signature: &Signature) -> bool {
        sign(by, bytes) == *signature
    }
}

pub(crate) fn claims(n: u8) -> Claims {
    Claims {
        name: Name([n; 32]),
        version: Version { generation: 1, incarnation: 0 },
        instance: 7,
        status: Status::Alive,
        introducer: None,
        addresses: vec![Bytes::from_static(b"here")],
        tags: Bytes::new(),
        fill: 0,
        rest: Bytes::new(),
    }
}

pub(crate) fn record(claims: Claims) -> Arc<Record> {
    let keys = StandIn(claims.name);
    Record::sign(claims, &keys)
}
