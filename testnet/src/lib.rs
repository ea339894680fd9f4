//! Networks of real nodes on this machine: started, hurt and ended, each node a `p2p-node` process with its own home.
//!
//! Tests use [`Cluster`]; the binary's commands are thin over it. A network lives in one folder (`DIR`), whose state
//! file ([`state`]) is what one command tells the next; nothing else is shared between them. [`process`] knows one
//! process, [`ports`] which port a node gets, [`launch`] how a node is started, [`cluster`] the network, [`faults`] what is
//! wrong with it on purpose, `capacity` how many nodes this machine carries, [`demo`] the tour of it, [`report`] what is
//! printed, [`matrix`] what nodes say about each other.
//!
//! [`bench`] measures networks beside what the machine gives, [`torture`] kills their nodes and judges what is left,
//! [`sim`] runs clusters in a virtual world, [`bugs`] plants bugs in the sources and sees that tests catch them.
//! [`workload`] is what goes into them, `programs` runs the command line and others, [`http`] and [`metrics`] ask nodes what
//! the typed client does not.
//!
//! It reaches real nodes only as a user would: the executable, signals, and the API on the node's socket.

pub mod bench;
pub mod bugs;
mod capacity;
pub mod cluster;
pub mod demo;
pub mod faults;
pub mod http;
pub mod launch;
mod machine;
pub mod matrix;
pub mod metrics;
pub mod ports;
pub mod process;
mod programs;
pub mod report;
pub mod sim;
pub mod state;
pub mod torture;
pub mod workload;

pub use cluster::{Cluster, ClusterConfig, Mode};

/// What every fallible call here returns: the problem says what failed, and what state is left.
pub type Result<T> = std::result::Result<T, p2p_api::Problem>;
