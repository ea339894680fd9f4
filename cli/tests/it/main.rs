//! The real binary against a node that answers from a script.

mod backup;
mod content;
mod fake;
mod kv;
mod members;
mod node;
mod usage;
mod wait;
