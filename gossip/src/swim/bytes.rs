//! Reads hand-written encodings, which may end anywhere.

use bytes::{Buf, Bytes};

/// What is left of some bytes; None where too little is.
pub(super) struct Reader {
    left: Bytes,
}

impl Reader {
    pub(super) fn new(bytes: &Bytes) -> Self {
        Self { left: bytes.clone() }
    }

    pub(super) fn bytes(&mut self, len: usize) -> Option<Bytes> {
        (self.left.len() >= len).then(|| self.left.split_to(len))
    }

    pub(super) fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        self.bytes(LEN)?.as_ref().try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        Some(self.bytes(1)?.get_u8())
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(self.bytes(2)?.get_u16_le())
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(self.bytes(4)?.get_u32_le())
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(self.bytes(8)?.get_u64_le())
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> Bytes {
        self.left.split_off(0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }
}
