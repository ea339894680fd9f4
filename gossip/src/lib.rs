//! What both protocols of a node stand on.
//!
//! [`wire`] carries messages between peers: frames with caps, a codec that trusts nothing, streams that live long,
//! bounded by credit and watched for stalls. It is mechanism only: which messages exist is the business of the protocol
//! that uses it.

pub mod wire;
