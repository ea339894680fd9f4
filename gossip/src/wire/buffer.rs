//! Memory for bulk: taken from the system for each object, and given back with it.
//!
//! An allocator that has once served buffers of a megabyte keeps them in its arenas, and a node that has moved a large file
//! stays large (see docs/adr/0006).

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use memmap2::MmapMut;

/// From this length on, in bytes, a buffer is worth a mapping of its own.
pub const MAPPED_LEN_MIN: usize = 256 << 10;

/// Bytes that are being filled, to be frozen then.
pub struct Buffer(Memory);

enum Memory {
    Heap(Vec<u8>),
    Mapped(MmapMut),
}

impl Buffer {
    /// A buffer of zeros.
    pub fn zeroed(len: usize) -> Self {
        let mapped = if len >= MAPPED_LEN_MIN { MmapMut::map_anon(len).ok() } else { None };
        Self(mapped.map_or_else(|| Memory::Heap(vec![0; len]), Memory::Mapped))
    }

    /// A buffer with these bytes.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// The bytes, to be shared; the memory goes back with the last who holds them.
    pub fn freeze(self) -> Bytes {
        match self.0 {
            Memory::Heap(bytes) => bytes.into(),
            Memory::Mapped(mapping) => Bytes::from_owner(mapping),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(mapping) => mapping,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Heap(bytes) => bytes,
            Memory::Mapped(mapping) => mapping,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_frozen() {
        for len in [0, 1, MAPPED_LEN_MIN - 1, MAPPED_LEN_MIN, MAPPED_LEN_MIN + 1, 1 << 20] {
            let mut buffer = Buffer::zeroed(len);
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
            let copy = Buffer::copy_of(&buffer).freeze();
            let frozen = buffer.freeze();
            assert_eq!((frozen.len(), &frozen), (len, &copy));
            assert!(frozen.iter().enumerate().all(|(i, byte)| *byte == i as u8));
        }
    }
}
