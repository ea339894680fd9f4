//! Members' real keys: Ed25519 (RFC 8032), the key that a peer id is made of.

use libp2p::PeerId;
use libp2p::identity;
use libp2p::identity::ed25519::{Keypair, PublicKey, SecretKey};
use libp2p::multihash::Multihash;

use super::name::{Keys, Name, SIGNATURE_LEN, Signature};

/// A member's own key pair.
#[derive(Clone)]
pub struct Ed25519(Keypair);

impl Ed25519 {
    /// The pair of a secret key.
    pub fn of_secret(mut secret: [u8; 32]) -> Self {
        let secret = SecretKey::try_from_bytes(&mut secret).expect("any 32 bytes are a secret key");
        Self(Keypair::from(secret))
    }

    /// The name of whoever has it.
    pub fn name(&self) -> Name {
        Name(self.0.public().to_bytes())
    }

    /// Whether the owner of a name has signed these bytes. A name that is no key has signed nothing.
    pub fn is_signed_by(by: &Name, bytes: &[u8], signature: &Signature) -> bool {
        PublicKey::try_from_bytes(&by.0).is_ok_and(|key| key.verify(bytes, &signature.0))
    }
}

/// The code of a multihash that is no hash: a peer id made of a short key holds the key itself.
const IDENTITY: u64 = 0;

impl Name {
    /// The name in a peer id; None where that is of another kind of key.
    pub fn of_peer(peer: &PeerId) -> Option<Self> {
        let hash: &Multihash<64> = peer.as_ref();
        if hash.code() != IDENTITY {
            return None;
        }
        let key = identity::PublicKey::try_decode_protobuf(hash.digest()).ok()?;
        Some(Name(key.try_into_ed25519().ok()?.to_bytes()))
    }

    /// The peer id of whoever has this name; None of a name that is no key, which nobody can have.
    pub fn peer(&self) -> Option<PeerId> {
        let key = PublicKey::try_from_bytes(&self.0).ok()?;
        Some(identity::PublicKey::from(key).to_peer_id())
    }
}

impl Keys for Ed25519 {
    fn sign(&self, bytes: &[u8]) -> Signature {
        let mut signature = [0; SIGNATURE_LEN];
        signature.copy_from_slice(&self.0.sign(bytes));
        Signature(signature)
    }

    fn is_signed(&self, by: &Name, bytes: &[u8], signature: &Signature) -> bool {
        Self::is_signed_by(by, bytes, signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_peer_id_and_back() {
        let keys = identity::Keypair::ed25519_from_bytes([7; 32]).expect("a key");
        let (peer, name) = (keys.public().to_peer_id(), Ed25519::of_secret([7; 32]).name());
        assert_eq!((Name::of_peer(&peer), name.peer()), (Some(name), Some(peer)));
        assert_eq!(Name::of_peer(&PeerId::random()), None);
        let nobody = (0..=u8::MAX).map(|n| Name([n; 32])).find(|name| name.peer().is_none());
        assert!(nobody.is_some(), "not every name is a key");
    }

    #[test]
    fn only_the_owner_of_a_name_signs_for_it() {
        let [one, other] = [1, 2].map(|n| Ed25519::of_secret([n; 32]));
        let signature = one.sign(b"bytes");
        assert!(Ed25519::is_signed_by(&one.name(), b"bytes", &signature));
        assert!(!Ed25519::is_signed_by(&one.name(), b"other", &signature));
        assert!(!Ed25519::is_signed_by(&other.name(), b"bytes", &signature));
        assert!(!Ed25519::is_signed_by(&Name([0xff; 32]), b"bytes", &signature));
    }
}
