//! Content: files under the BLAKE3 hash of their bytes, kept on several members, fetched from any of them.

pub mod hold;
pub mod object;
pub mod placement;
pub mod store;
#[cfg(test)]
mod testing;
pub mod tree;
