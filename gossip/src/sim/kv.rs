//! The replicated map in the virtual world, together with the membership that keeps its edges.

mod history;
mod judge;
mod node;
pub mod random;

pub use node::{Call, Kv, KvDisk, KvEvent, Outcome};

#[cfg(test)]
mod tests;
