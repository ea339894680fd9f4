//! The replicated map, pure: every node holds all of it, writes without asking anybody, and no write is lost.
//!
//! | | |
//! |---|---|
//! | [`Op`] | a write: its name ([`Dot`]), a key, a value or none, and exactly the writes that it takes the place of |
//! | [`Vector`] | the writes that a node has seen, of all keys |
//! | [`Entry`] | one key: the writes that stand, and what is known to be replaced before it was seen |
//! | [`Replica`] | a node's copy: takes in writes, makes some, answers and merges |
//! | [`KvTx`] | a transaction of the store that it is kept in |
//! | [`AntiEntropy`] | finds out what was missed, and fetches it |
//! | [`flood::Flood`] | hands writes on at once |
//! | [`message::Message`] | how that travels |
//! | [`Machine`] | all of it, one transaction after the other |
//! | [`Token`] | what a reader got to see |
//! | [`watch::Changes`] | which keys have changed, for those who watch |
//!
//! An entry is a function of the vector: siblings are the puts that it names, less all that any write it names has replaced.
//! So a deleted key leaves nothing, however long another node is away: the vector is its tombstone. Whatever leads from one
//! vector to another keeps this: a write in any order ([`Replica::apply`]), what another holds of a key, with all of its writes
//! that are missing here ([`Replica::merge`]), all that another holds ([`Replica::adopt`]), and what is left of a store that has
//! lost something ([`Replica::recover`]).

pub mod anti_entropy;
mod codec;
pub mod contract;
mod delta;
mod dot;
mod entry;
pub mod flood;
mod key;
mod machine;
pub mod message;
mod op;
mod place;
mod recover;
mod replica;
mod row;
mod session;
mod store;
mod sums;
mod token;
mod vector;
pub mod watch;
mod write;

#[cfg(test)]
mod dvv;
pub(crate) mod fold;
#[cfg(test)]
mod tests;

pub use anti_entropy::AntiEntropy;
pub use codec::Malformed;
pub use delta::{Answer, Asked, Budget, MISSING_MAX, Told};
pub use dot::{Actor, BUCKETS, Dot, Dots};
pub use entry::{Entry, Sibling};
pub use key::{KEY_LEN_MAX, Key, KeyError};
pub use machine::{Call, Config, Effect, Machine, Work};
pub use op::{COUNTER_MAX, OP_LEN_MAX, Op, OpError, REPLACES_MAX, VALUE_LEN_MAX};
pub use place::{LEAVES, Place};
pub use replica::{Applied, DIGEST_LEN, Damage, Digest, Epochs, Replica, Trouble, entry_of, read};
pub use session::{
    Adopted, CHANGED_LEN_MAX, CHANGED_MAX, Closed, DROPPED_MAX, DROPPED_PART, Looked, Opened, Rows, Session, Wanted,
};
pub use store::{KvTx, Memory};
pub use sums::Root;
pub use token::{Token, TokenError};
pub use vector::{Seen, Vector};
pub use write::{ENTRY_LEN_MAX, SIBLINGS_MAX, Write, WriteError, Written};
