//! What must hold for any bytes that a peer may send: promises as functions of bytes, each of which panics when it is broken.
//!
//! The tests here try them with random bytes; `testnet/fuzz/targets` lets a fuzzer look for the bytes that break them
//! (CONTRIBUTING.md says how). All run under [`memory::Watched`], so that a lie about a length that makes us allocate is
//! found too.

mod claims;
mod members;
pub mod memory;
mod messages;
mod objects;
mod wire;

/// A promise: its name, what checks it, and the most bytes that one allocation may take on the way.
pub struct Target {
    /// As the fuzzer calls it.
    pub name: &'static str,
    check: fn(&[u8]),
    /// Most bytes that one allocation may take.
    pub allocation_max: usize,
}

/// All promises.
pub const TARGETS: [Target; 5] = [
    // The queue of a link has a place for each frame that fits its credit.
    Target { name: "wire", check: wire::check, allocation_max: 8 << 20 },
    Target { name: "messages", check: messages::check, allocation_max: 64 << 10 },
    Target { name: "members", check: members::check, allocation_max: 64 << 10 },
    Target { name: "objects", check: objects::check, allocation_max: 256 << 10 },
    Target { name: "claims", check: claims::check, allocation_max: 256 << 10 },
];

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Checks the promise for these bytes.
    ///
    /// # Panics
    /// When it is broken, or more memory was asked for at once than may be.
    pub fn check(&self, data: &[u8]) {
        let before = memory::start();
        (self.check)(data);
        let largest = memory::largest_since(before);
        assert!(largest <= self.allocation_max, "{}: {largest} bytes were asked for at once", self.name);
    }
}

/// Bytes that are taken from the front; zeros when there are no more.
struct Bits<'a>(&'a [u8]);

impl Bits<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    fn below(&mut self, count: usize) -> usize {
        usize::from(self.u16()) % count.max(1)
    }

    /// True for one byte in so many.
    fn one_in(&mut self, many: u8) -> bool {
        self.byte().is_multiple_of(many)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
