//! A write: what travels between nodes, byte for byte as its author has made it, and what the log keeps.
//!
//! ```text
//! format 1 | peer 32 | epoch 8 | counter 8 | key length 2 | key | put 1, delete 0 | value length 4 | value
//!          | actors 4 | (peer 32, epoch 8) each | dots 4 | (actor 4, counter 8) each
//! ```
//!
//! Numbers are little-endian. Actors and dots ascend, each once, and every actor has a dot: of a write there is one encoding.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::dot::{Actor, Dot, Dots};
use super::key::{KEY_LEN_MAX, Key};
use crate::swim::Name;

/// Longest value in bytes; what is longer is put as content, and its address is the value.
pub const VALUE_LEN_MAX: usize = 64 << 10;

/// Writes that one write may replace.
pub const REPLACES_MAX: usize = 1 << 10;

/// Most writes of one actor: far more than anybody makes, and so far from the end of numbers that the next is one, too.
pub const COUNTER_MAX: u64 = 1 << 62;

/// Longest write in bytes.
pub const OP_LEN_MAX: usize =
    1 + ACTOR_LEN + 8 + 2 + KEY_LEN_MAX + 1 + 4 + VALUE_LEN_MAX + 8 + REPLACES_MAX * (ACTOR_LEN + DOT_LEN);

const ACTOR_LEN: usize = 40;

/// A dot among others of the same actors.
const DOT_LEN: usize = 12;

const FORMAT: u8 = 1;

/// One write.
#[derive(Clone, PartialEq, Eq)]
pub struct Op {
    /// Its name.
    pub dot: Dot,
    /// What it is about.
    pub key: Key,
    /// What it says; None deletes.
    pub value: Option<Bytes>,
    /// Exactly the writes that it takes the place of.
    pub replaces: Dots,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dot, key, value, replaces } = self;
        write!(f, "{dot:?} {key:?}={:?} over {replaces:?}", value.as_ref().map(Short))
    }
}

/// A value, for people: the beginning of it.
pub(super) struct Short<'a>(pub(super) &'a Bytes);

impl fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 16;
        match self.0.len() {
            ..=SHOWN => write!(f, "{:?}", self.0),
            len => write!(f, "{:?} and so on, {len} bytes", self.0.slice(..SHOWN)),
        }
    }
}

/// Why bytes are no write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// They are no encoding of one, or something in them is longer than it may be.
    #[error("no write")]
    Malformed,
    /// Of a version that has another beginning.
    #[error("a write of format {0}")]
    Format(u8),
}

impl Op {
    /// Its only encoding.
    pub fn encode(&self, bytes: &mut BytesMut) {
        bytes.put_u8(FORMAT);
        put_dot(bytes, &self.dot);
        bytes.put_u16_le(self.key.as_bytes().len() as u16);
        bytes.put_slice(self.key.as_bytes());
        bytes.put_u8(u8::from(self.value.is_some()));
        let value = self.value.as_deref().unwrap_or_default();
        bytes.put_u32_le(value.len() as u32);
        bytes.put_slice(value);
        put_dots(bytes, &self.replaces);
    }

    /// Reads a write.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &Bytes) -> Result<Self, OpError> {
        match bytes.first() {
            Some(&FORMAT) if bytes.len() <= OP_LEN_MAX => Self::read(bytes).ok_or(OpError::Malformed),
            Some(&FORMAT) | None => Err(OpError::Malformed),
            Some(format) => Err(OpError::Format(*format)),
        }
    }

    fn read(bytes: &Bytes) -> Option<Self> {
        let mut left = bytes.slice(1..);
        let dot = dot(&mut left)?;
        let key_len = usize::from(left.try_get_u16_le().ok()?);
        let key = Key::new(split(&mut left, key_len)?).ok()?;
        let is_put = match left.try_get_u8().ok()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let value_len = usize::try_from(left.try_get_u32_le().ok()?).ok()?;
        if value_len > VALUE_LEN_MAX || !is_put && value_len > 0 {
            return None;
        }
        let value = split(&mut left, value_len)?;
        let replaces = dots(&mut left).filter(|dots| dots.len() <= REPLACES_MAX)?;
        let op = Self { dot, key, value: is_put.then_some(value), replaces };
        (left.is_empty() && !op.replaces.contains(&dot)).then_some(op)
    }
}

pub(super) fn put_dot(bytes: &mut BytesMut, dot: &Dot) {
    put_actor(bytes, &dot.actor);
    bytes.put_u64_le(dot.counter);
}

pub(super) fn dot(left: &mut Bytes) -> Option<Dot> {
    Some(Dot { actor: actor(left)?, counter: counter(left)? })
}

pub(super) fn put_actor(bytes: &mut BytesMut, actor: &Actor) {
    bytes.put_slice(&actor.peer.0);
    bytes.put_u64_le(actor.epoch);
}

pub(super) fn actor(left: &mut Bytes) -> Option<Actor> {
    let mut peer = [0; 32];
    left.try_copy_to_slice(&mut peer).ok()?;
    Some(Actor { peer: Name(peer), epoch: left.try_get_u64_le().ok()? })
}

fn counter(left: &mut Bytes) -> Option<u64> {
    left.try_get_u64_le().ok().filter(|counter| (1..=COUNTER_MAX).contains(counter))
}

pub(super) fn split(left: &mut Bytes, len: usize) -> Option<Bytes> {
    (left.len() >= len).then(|| left.split_to(len))
}

/// Dots with each of their actors once.
pub(super) fn put_dots(bytes: &mut BytesMut, dots: &Dots) {
    let mut actors: Vec<Actor> = dots.iter().map(|dot| dot.actor).collect();
    actors.dedup();
    bytes.put_u32_le(actors.len() as u32);
    actors.iter().for_each(|actor| put_actor(bytes, actor));
    bytes.put_u32_le(dots.len() as u32);
    for dot in dots.iter() {
        let index = actors.binary_search(&dot.actor).expect("each is there");
        bytes.put_u32_le(index as u32);
        bytes.put_u64_le(dot.counter);
    }
}

/// Reads what [`put_dots`] has written, and nothing else.
pub(super) fn dots(left: &mut Bytes) -> Option<Dots> {
    let count = count(left, ACTOR_LEN)?;
    let actors = (0..count).map(|_| actor(left)).collect::<Option<Vec<Actor>>>()?;
    if !actors.is_sorted_by(|one, next| one < next) {
        return None;
    }
    let count = self::count(left, DOT_LEN)?;
    let mut found: Vec<Dot> = Vec::with_capacity(count);
    let mut used = 0;
    for _ in 0..count {
        let index = usize::try_from(left.try_get_u32_le().ok()?).ok()?;
        let dot = Dot { actor: *actors.get(index)?, counter: counter(left)? };
        // Ascending, so each actor comes up where the last one ends.
        if index > used || found.last().is_some_and(|last| *last >= dot) {
            return None;
        }
        used = used.max(index + 1);
        found.push(dot);
    }
    (used == actors.len()).then(|| found.into_iter().collect())
}

/// How many parts follow, of so many bytes each; None if there are not so many bytes, so that nothing is made for them.
fn count(left: &mut Bytes, len: usize) -> Option<usize> {
    let count = usize::try_from(left.try_get_u32_le().ok()?).ok()?;
    (count <= left.len() / len).then_some(count)
}
