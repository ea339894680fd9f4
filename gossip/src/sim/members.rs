//! Membership in the virtual world.

mod cluster;
mod peer;

pub use cluster::{Cluster, Fate, Heard};
pub use peer::{Disk, Peer, Shared, StandIn};

#[cfg(test)]
mod tests;
