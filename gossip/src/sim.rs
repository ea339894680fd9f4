//! A virtual world for pure machines: many nodes in one thread, with virtual time, connections, faults and a seed.
//!
//! [`World`] knows no protocol: nodes ([`Node`]) tell it what to do, and it tells them what happened. The same seed gives the
//! same run, event by event. [`members`] runs membership in it, and judges it.

pub mod kv;
mod link;
pub mod members;
mod queue;
mod world;

pub use link::{Links, Loss};
pub use world::{Action, BEGINNING, Happened, Node, Slot, Traffic, World};
