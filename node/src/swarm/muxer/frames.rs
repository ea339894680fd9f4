//! Yamux's frames, followed by their headers alone; what they mean is the library's business.

use std::io;

/// Length of a frame's header: version, type, flags, stream, length; numbers in network order.
const HEADER_LEN: usize = 12;

pub(super) const KIND_DATA: u8 = 0;
pub(super) const KIND_WINDOW: u8 = 1;
pub(super) const KIND_GO_AWAY: u8 = 3;
pub(super) const FLAG_SYN: u16 = 1;

pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Where one frame ends and the next begins, in one direction.
#[derive(Default)]
pub(super) struct Frames {
    header: [u8; HEADER_LEN],
    have: usize,
    body_left: usize,
}

/// What a frame says about itself.
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) flags: u16,
    pub(super) stream: u32,
    /// Of its body where it has one; else another number.
    pub(super) len: usize,
}

impl Frames {
    pub(super) fn between(&self) -> bool {
        self.have == 0 && self.body_left == 0
    }

    /// Follows some bytes; tells of every header among them.
    pub(super) fn follow(
        &mut self,
        mut bytes: &[u8],
        mut on_header: impl FnMut(Header) -> io::Result<()>,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let skipped = self.body_left.min(bytes.len());
                self.body_left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEADER_LEN - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER_LEN {
                self.have = 0;
                let [_version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = self.header;
                let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
                // Only data has a body; in the others the length is another number.
                self.body_left = if kind == KIND_DATA { len } else { 0 };
                let (flags, stream) = (u16::from_be_bytes([f0, f1]), u32::from_be_bytes([s0, s1, s2, s3]));
                on_header(Header { kind, flags, stream, len })?;
            }
        }
        Ok(())
    }
}
