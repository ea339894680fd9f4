//! What both protocols of a node stand on.
//!
//! [`sim`] is a virtual world for machines that are pure, with time and faults of its own.
//!
//! [`kv`] is the replicated map, pure; [`reconcile`] finds what differs between two copies of it, by [`sum`]s.
//!
//! [`swim`] is membership, pure: who is here, on every node.
//!
//! [`wire`] carries messages between peers: frames with caps, a codec that trusts nothing, streams that live long,
//! bounded by credit and watched for stalls. It is mechanism only: which messages exist is the business of the protocol
//! that uses it.

pub mod kv;
pub mod reconcile;
pub mod sim;
pub mod sum;
pub mod swim;
pub mod wire;
