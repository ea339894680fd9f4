//! Content: files under the BLAKE3 hash of their bytes, kept on several members, fetched from any of them.

pub mod object;
pub mod placement;
#[cfg(test)]
mod testing;
pub mod tree;
