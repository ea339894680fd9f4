//! The replicated map in the virtual world, together with the membership that keeps its edges.

mod history;
mod judge;
mod node;
pub mod random;
mod scenario;
pub mod scope;

pub use node::{Frame, Kv, KvDisk, KvEvent, Manner, Outcome};
pub use scenario::Scenario;

#[cfg(test)]
mod tests;
