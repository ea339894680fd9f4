//! Writing: what a new write takes the place of, and when it is refused.

use bytes::{Bytes, BytesMut};

use super::dot::{Dot, Dots};
use super::entry::Entry;
use super::key::Key;
use super::op::{Op, REPLACES_MAX, VALUE_LEN_MAX};
use super::replica::{Replica, Trouble};
use super::store::KvTx;
use super::token::{Token, TokenError};

/// Writes of a key beside each other from which on only what leaves fewer is taken from this node's users. What others have
/// written is always taken in: to refuse it would be to lose it.
pub const SIBLINGS_MAX: usize = 64;

/// Bytes of a key's values together, likewise.
pub const ENTRY_LEN_MAX: usize = 1 << 20;

/// What a write is to take the place of.
#[derive(Clone, Debug)]
pub enum Write {
    /// What was read with this token, and nothing else.
    Read(Token),
    /// What this node holds at that moment: one write, or several where `force` says so.
    Held {
        /// Whether several may be replaced that nobody has read together.
        force: bool,
    },
    /// Nothing: it stands beside whatever there is.
    Beside,
    /// Nothing, and nothing may be there.
    Create,
}

/// A write that was made. It counts, and may be told, once the transaction is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The write.
    pub op: Op,
    /// Its encoding.
    pub bytes: Bytes,
    /// With what it was meant to be read together: the next write may take the place of it.
    pub token: Token,
    /// Writes that stand beside each other now.
    pub siblings: usize,
}

/// Why nothing was written. The transaction has done nothing for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Longer than a value may be.
    #[error("a value of {0} bytes is longer than {VALUE_LEN_MAX}")]
    TooLong(usize),
    /// Several writes stand beside each other, and none of them is to be replaced unread.
    #[error("{0} values stand beside each other")]
    Conflict(usize),
    /// The key is there already.
    #[error("the key is there")]
    Exists,
    /// So much stands beside each other already that nothing may be added.
    #[error("{siblings} values of {len} bytes stand beside each other")]
    Full {
        /// How many there would be.
        siblings: usize,
        /// Their bytes together.
        len: usize,
    },
    /// The token is not taken.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Replica {
    /// Writes: a value, or with None that the key is gone. None if there is nothing to do.
    ///
    /// # Errors
    /// When the store fails; within that, why the write is refused.
    pub fn write<T: KvTx>(
        &mut self,
        tx: &mut T,
        key: &Key,
        value: Option<Bytes>,
        write: &Write,
    ) -> Result<Result<Option<Written>, WriteError>, Trouble<T::Error>> {
        // Whether a row was lost is not looked for here: that nothing stands there is not told to anybody.
        let entry = self.load(tx, key)?.map(|(entry, _)| entry).unwrap_or_default();
        let replaces = match self.replaced(&entry, key, value.as_deref(), write) {
            Ok(Some(replaces)) => replaces,
            Ok(None) => return Ok(Ok(None)),
            Err(error) => return Ok(Err(error)),
        };
        let counter = self.vector().seen(&self.me()).map_or(0, |seen| seen.last()) + 1;
        let op = Op { dot: Dot { actor: self.me(), counter }, key: key.clone(), value, replaces };
        let mut bytes = BytesMut::new();
        op.encode(&mut bytes);
        let bytes = bytes.freeze();
        let siblings = self.take_in(tx, &op, &bytes)?;
        let read = op.value.is_some().then_some(op.dot);
        let token = Token::new(key, read.into_iter().collect());
        Ok(Ok(Some(Written { op, bytes, token, siblings })))
    }

    /// What a write is to take the place of; None if there is nothing to do.
    fn replaced(
        &self,
        entry: &Entry,
        key: &Key,
        value: Option<&[u8]>,
        write: &Write,
    ) -> Result<Option<Dots>, WriteError> {
        let value_len = value.map_or(0, <[u8]>::len);
        if value_len > VALUE_LEN_MAX {
            return Err(WriteError::TooLong(value_len));
        }
        let held = entry.siblings();
        let replaces: Dots = match write {
            Write::Read(token) => token.dots(key, self.vector())?.clone(),
            Write::Held { force } if held.len() > 1 && !force => return Err(WriteError::Conflict(held.len())),
            Write::Held { .. } => held.iter().map(|sibling| sibling.dot).take(REPLACES_MAX).collect(),
            Write::Create if !held.is_empty() => return Err(WriteError::Exists),
            Write::Beside | Write::Create => Dots::default(),
        };
        if value.is_none() && replaces.is_empty() {
            return Ok(None);
        }
        let left = held.iter().filter(|sibling| !replaces.contains(&sibling.dot));
        let (siblings, len) = left.fold((1, value_len), |(count, len), sibling| (count + 1, len + sibling.value.len()));
        let is_fuller = siblings > held.len();
        if value.is_some() && is_fuller && (siblings > SIBLINGS_MAX || len > ENTRY_LEN_MAX) {
            return Err(WriteError::Full { siblings, len });
        }
        Ok(Some(replaces))
    }
}
