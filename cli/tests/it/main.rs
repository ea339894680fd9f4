//! The real binary against a node that answers from a script.

mod content;
mod fake;
mod members;
mod node;
mod usage;
mod wait;
