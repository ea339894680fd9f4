//! Membership in the virtual world.

mod cluster;
mod judge;
mod peer;
pub mod random;

pub use cluster::{Cluster, Fate, Heard};
pub use judge::Judge;
pub use peer::{Disk, Peer, Shared, StandIn};

#[cfg(test)]
mod tests;
