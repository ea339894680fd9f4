//! Memory for bulk: mappings of their own, used again while there is something to move, and given back to the system when
//! there is not.
//!
//! An allocator that has once served buffers of a megabyte keeps them in its arenas, and a node that has moved a large file
//! stays large (docs/adr/0006). A mapping made anew for each object costs a page fault for every 4 KiB of it (docs/adr/0008).

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memmap2::MmapMut;

/// From this length on, in bytes, a buffer is worth a mapping of its own.
pub const MAPPED_LEN_MIN: usize = 256 << 10;

/// Length of the mappings that are used again, in bytes: a leaf. Shorter buffers take the first part of one.
const POOLED_LEN: usize = 1 << 20;

/// Mappings that wait to be used again; more are given back at once.
const POOLED_MAX: usize = 32;

/// Mappings that nobody uses now.
static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), unused: 0 });

struct Pool {
    free: Vec<MmapMut>,
    /// The fewest that were free at any moment since the last [`trim`].
    unused: usize,
}

impl Pool {
    fn lock() -> MutexGuard<'static, Pool> {
        // Nothing panics while it holds the lock.
        POOL.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives mappings back to the system that were not needed since the last call.
pub fn trim() {
    let mut pool = Pool::lock();
    let keep = pool.free.len().saturating_sub(pool.unused);
    let dropped = pool.free.split_off(keep);
    pool.unused = keep;
    // Unmapping takes time, in which others may want a buffer.
    drop(pool);
    drop(dropped);
}

/// Bytes that are being filled, to be frozen then.
pub struct Buffer(Memory);

enum Memory {
    Heap(Vec<u8>),
    Mapped(Mapped),
}

/// The first bytes of a mapping, which goes back to the pool.
struct Mapped {
    /// There until this is dropped.
    mapping: Option<MmapMut>,
    len: usize,
}

impl Mapped {
    fn new(len: usize) -> Option<Self> {
        let mut pool = Pool::lock();
        let free = if len <= POOLED_LEN { pool.free.pop() } else { None };
        pool.unused = pool.unused.min(pool.free.len());
        drop(pool);
        let mapping = free.or_else(|| MmapMut::map_anon(len.max(POOLED_LEN)).ok())?;
        Some(Self { mapping: Some(mapping), len })
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.mapping.as_deref().map_or(&[], |mapping| &mapping[..self.len])
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let Some(mapping) = self.mapping.take().filter(|mapping| mapping.len() == POOLED_LEN) else { return };
        let mut pool = Pool::lock();
        if pool.free.len() < POOLED_MAX {
            pool.free.push(mapping);
        }
    }
}

impl Buffer {
    /// A buffer to be filled: what is in it now means nothing.
    pub fn new(len: usize) -> Self {
        let mapped = if len >= MAPPED_LEN_MIN { Mapped::new(len) } else { None };
        Self(mapped.map_or_else(|| Memory::Heap(vec![0; len]), Memory::Mapped))
    }

    /// A buffer with these bytes.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::new(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// The bytes, to be shared; the memory is free with the last who holds them.
    pub fn freeze(self) -> Bytes {
        match self.0 {
            Memory::Heap(bytes) => bytes.into(),
            Memory::Mapped(mapped) => Bytes::from_owner(mapped),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(mapped) => mapped.as_ref(),
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(Mapped { mapping, len }) => mapping.as_deref_mut().map_or(&mut [], |all| &mut all[..*len]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_frozen() {
        for len in [0, 1, MAPPED_LEN_MIN - 1, MAPPED_LEN_MIN, MAPPED_LEN_MIN + 1, 1 << 20] {
            let mut buffer = Buffer::new(len);
            buffer.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
            let copy = Buffer::copy_of(&buffer).freeze();
            let frozen = buffer.freeze();
            assert_eq!((frozen.len(), &frozen), (len, &copy));
            assert!(frozen.iter().enumerate().all(|(i, byte)| *byte == i as u8));
        }
    }

    #[test]
    fn what_is_still_held_is_not_used_again() {
        let held: Vec<Bytes> = (0..2 * POOLED_MAX).map(|n| Buffer::copy_of(&vec![n as u8; 1 << 20]).freeze()).collect();
        for (n, bytes) in held.iter().enumerate() {
            assert!(bytes.iter().all(|byte| *byte == n as u8), "{n}");
        }
        let part = held[3].slice(17..300_000);
        drop(held);
        let _others: Vec<Buffer> = (0..2 * POOLED_MAX).map(|_| Buffer::copy_of(&vec![99; 1 << 20])).collect();
        assert!(part.iter().all(|byte| *byte == 3));
    }

    #[test]
    fn what_nobody_needs_is_given_back() {
        drop((0..POOLED_MAX).map(|_| Buffer::new(1 << 20)).collect::<Vec<_>>());
        assert!(Pool::lock().free.len() <= POOLED_MAX);
        // Other tests may hold some, but nobody needs more than a few.
        trim();
        trim();
        assert!(Pool::lock().free.len() < POOLED_MAX, "{} are kept", Pool::lock().free.len());
    }
}
