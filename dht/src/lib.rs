//! Content: files under the BLAKE3 hash of their bytes, kept on several members, fetched from any of them.

mod blocking;
pub mod content;
pub mod exchange;
pub mod get;
pub mod hold;
pub mod kademlia;
pub mod message;
pub mod object;
pub mod placement;
pub mod put;
pub mod search;
pub mod store;
#[cfg(test)]
mod testing;
pub mod tree;
