//! Membership in the virtual world.

mod awaited;
mod cluster;
mod figures;
mod forger;
mod judge;
mod keys;
mod memberlist;
mod peer;
mod profile;
pub mod random;
pub mod scenario;

pub use cluster::{Cluster, Fate, Heard};
pub use figures::{Figures, Samples, Unit};
pub use judge::Judge;
pub use keys::{Key, KeyRing};
pub use memberlist::Memberlist;
pub use peer::{Disk, Peer};
pub use profile::{Begin, Change, Order, Profile, Shared};

#[cfg(test)]
mod tests;
