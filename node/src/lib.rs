//! The node as a library.

pub mod store;
