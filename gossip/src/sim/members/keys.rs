//! What simulated members sign with: hashes that cost little and that anybody could make, or real keys where it matters.

use std::cell::Cell;

use crate::swim::{Ed25519, Keys, Member, Name, Signature};

thread_local! {
    static CHECKED: Cell<u64> = const { Cell::new(0) };
}

/// Signatures that were checked on this thread so far: what real ones would cost is that many times 50 to 100 us.
pub(super) fn checked() -> u64 {
    CHECKED.get()
}

/// The keys of all members.
#[derive(Default)]
pub enum KeyRing {
    /// A hash under the signer's name, which whoever wanted to could forge.
    #[default]
    StandIns,
    /// Real ones, in the order of the members.
    Real(Vec<Ed25519>),
}

/// One member's own key.
#[derive(Clone)]
pub enum Key {
    /// A stand-in of this name.
    StandIn(Name),
    /// A real one.
    Real(Ed25519),
}

impl KeyRing {
    /// The name of one more member, whose key comes from these bytes.
    pub(super) fn add(&mut self, secret: [u8; 32]) -> Name {
        match self {
            KeyRing::StandIns => Name(secret),
            KeyRing::Real(keys) => {
                let key = Ed25519::of_secret(secret);
                let name = key.name();
                keys.push(key);
                name
            }
        }
    }

    /// A member's own key.
    pub fn of(&self, member: Member, name: Name) -> Key {
        match self {
            KeyRing::StandIns => Key::StandIn(name),
            KeyRing::Real(keys) => Key::Real(keys[member.number() as usize].clone()),
        }
    }
}

/// Checks what anybody has signed.
impl Keys for KeyRing {
    fn sign(&self, bytes: &[u8]) -> Signature {
        // Nobody's.
        stamp(&Name([0; 32]), bytes)
    }

    fn is_signed(&self, by: &Name, bytes: &[u8], signature: &Signature) -> bool {
        match self {
            KeyRing::StandIns => stamp(by, bytes) == *signature,
            KeyRing::Real(_) => Ed25519::is_signed_by(by, bytes, signature),
        }
    }
}

impl Keys for Key {
    fn sign(&self, bytes: &[u8]) -> Signature {
        match self {
            Key::StandIn(name) => stamp(name, bytes),
            Key::Real(key) => key.sign(bytes),
        }
    }

    fn is_signed(&self, by: &Name, bytes: &[u8], signature: &Signature) -> bool {
        match self {
            Key::StandIn(_) => {
                CHECKED.set(CHECKED.get() + 1);
                stamp(by, bytes) == *signature
            }
            Key::Real(_) => Ed25519::is_signed_by(by, bytes, signature),
        }
    }
}

fn stamp(by: &Name, bytes: &[u8]) -> Signature {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(blake3::keyed_hash(&by.0, bytes).as_bytes());
    Signature(signature)
}
