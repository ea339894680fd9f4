//! What a reader got to see: exactly the writes that its next write is to take the place of.
//!
//! ```text
//! format 1 | hash of the key 16 | dots | check 4 of all before it
//! ```
//!
//! It means the same on every node. It is no secret and proves nothing: whoever makes one up replaces what it could have read.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::dot::Dots;
use super::key::Key;
use super::op::{self, REPLACES_MAX};
use super::vector::Vector;

const FORMAT: u8 = 1;

const KEY_HASH_LEN: usize = 16;

const CHECK_LEN: usize = 4;

/// Names of writes of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    key: [u8; KEY_HASH_LEN],
    dots: Dots,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is none, or not as it was given out.
    #[error("no token")]
    Malformed,
    /// It is of another key.
    #[error("a token of another key")]
    OtherKey,
    /// It names writes that have not come here yet.
    #[error("a token of writes that this node has not seen yet")]
    Ahead,
}

impl Token {
    /// Of what was read of a key.
    pub fn new(key: &Key, dots: Dots) -> Self {
        Self { key: hash(key), dots }
    }

    /// Its only encoding.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(FORMAT);
        bytes.put_slice(&self.key);
        op::put_dots(&mut bytes, &self.dots);
        let check = check(&bytes);
        bytes.put_slice(&check);
        bytes.freeze()
    }

    /// Reads a token that somebody brings back.
    ///
    /// # Errors
    /// [`TokenError::Malformed`].
    pub fn decode(bytes: &Bytes) -> Result<Self, TokenError> {
        Self::read(bytes).ok_or(TokenError::Malformed)
    }

    fn read(bytes: &Bytes) -> Option<Self> {
        let said = bytes.len().checked_sub(CHECK_LEN)?;
        if bytes[said..] != check(&bytes[..said]) {
            return None;
        }
        let mut left = bytes.slice(..said);
        if left.try_get_u8().ok()? != FORMAT {
            return None;
        }
        let mut key = [0; KEY_HASH_LEN];
        left.try_copy_to_slice(&mut key).ok()?;
        let dots = op::dots(&mut left).filter(|dots| dots.len() <= REPLACES_MAX)?;
        left.is_empty().then_some(Self { key, dots })
    }

    /// The writes that it names, if it is of this key and a node with this vector can have given it out.
    ///
    /// # Errors
    /// Why it is refused. Names that this node does not know are never taken over: made up, they would hide what is yet to come.
    pub fn dots(&self, key: &Key, vector: &Vector) -> Result<&Dots, TokenError> {
        match self.dots.iter().all(|dot| vector.contains(dot)) {
            _ if self.key != hash(key) => Err(TokenError::OtherKey),
            false => Err(TokenError::Ahead),
            true => Ok(&self.dots),
        }
    }
}

fn hash(key: &Key) -> [u8; KEY_HASH_LEN] {
    first(&blake3::keyed_hash(b"p2p-node 2026-11 keys of tokens.", key.as_bytes()))
}

fn check(bytes: &[u8]) -> [u8; CHECK_LEN] {
    first(&blake3::hash(bytes))
}

fn first<const LEN: usize>(hash: &blake3::Hash) -> [u8; LEN] {
    *hash.as_bytes().first_chunk().expect("a hash is longer")
}
