//! The real binary against a node that answers from a script.

mod content;
mod fake;
mod node;
mod usage;
mod wait;
