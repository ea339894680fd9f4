//! What members say to each other about members.

use std::sync::Arc;

use super::fact::{ACCUSATION_LEN, Accusation, Fact};
use super::members::{BUCKETS, Sums};
use super::name::Member;
use super::record::{Record, Version};

/// Header of a frame on the wire, in bytes.
pub const HEADER_LEN: usize = 8;

/// Facts of one message take at most so many bytes, or there is one alone.
pub const FACTS_LEN_MAX: usize = 60 << 10;

/// Facts of one [`Message::Buckets`] take at most so many bytes: far more than a bucket of as many members as there can be,
/// unless somebody makes up names for one bucket, of which then some are left out.
pub const BUCKETS_LEN_MAX: usize = 1 << 20;

/// Members in one [`Message::Doubt`].
pub const DOUBTS_MAX: usize = 512;

/// Length of each of them in bytes: name, generation, incarnation.
pub(super) const DOUBT_LEN: usize = 32 + 8 + 4;

/// Buckets of a table, by number.
pub type BucketSet = [u64; BUCKETS / 64];

/// How far a member is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It knows nobody, and wants to be told of some.
    Alone,
    /// Nobody watches it but who has let it in.
    Arriving,
    /// Others watch it.
    Settled,
}

/// One frame.
#[derive(Clone, Debug)]
pub enum Message {
    /// First on every connection, from both sides: who this is, the digest of its table, and how far it is in.
    Meet(Arc<Record>, u64, Standing),
    /// A question of this number, the digest of the sender's table, and whether its last question was answered.
    Ping(u32, u64, bool),
    /// The answer to it.
    Ack(u32, u64),
    /// Ask this member whether it is there, for the sender.
    Ask(Member),
    /// Whether it answered.
    Told(Member, bool),
    /// What has just happened.
    News(Vec<Arc<Fact>>),
    /// What is known; of the living it says who is here, and of others it asks whether that is so.
    Known(Vec<Arc<Fact>>),
    /// A member is said to be down. To the others who watch it, and to itself.
    Accuse(Arc<Accusation>),
    /// These are down in somebody's view: whoever of them hears it says otherwise.
    Doubt(Vec<(Member, Version)>),
    /// The sums of the sender's table: what is different at the receiver is to be said.
    Sums(Sums),
    /// All that the sender takes for living in these buckets.
    Buckets(Box<BucketSet>, Vec<Arc<Fact>>),
    /// Others watch the sender now.
    Settled,
}

impl Message {
    /// Length of its frame on the wire, in bytes.
    pub fn frame_len(&self) -> usize {
        const MEMBER: usize = 32;
        HEADER_LEN
            + match self {
                Message::Meet(record, ..) => record.signed().len() + 8 + 1,
                Message::Ping(..) => 4 + 8 + 1,
                Message::Ack(..) => 4 + 8,
                Message::Ask(_) => MEMBER,
                Message::Told(..) => MEMBER + 1,
                Message::News(facts) | Message::Known(facts) => facts_len(facts),
                Message::Accuse(_) => ACCUSATION_LEN,
                Message::Doubt(members) => members.len() * DOUBT_LEN,
                Message::Sums(_) => BUCKETS * 8,
                Message::Buckets(_, facts) => BUCKETS / 8 + facts_len(facts),
                Message::Settled => 0,
            }
    }
}

fn facts_len(facts: &[Arc<Fact>]) -> usize {
    facts.iter().map(|fact| fact.encoded_len()).sum()
}

/// Splits facts into messages that are not too long.
pub(super) fn in_parts(facts: Vec<Arc<Fact>>) -> Vec<Vec<Arc<Fact>>> {
    let mut parts: Vec<Vec<Arc<Fact>>> = Vec::new();
    let mut len = 0;
    for fact in facts {
        let more = fact.encoded_len();
        match parts.last_mut().filter(|_| len + more <= FACTS_LEN_MAX) {
            Some(part) => part.push(fact),
            None => {
                len = 0;
                parts.push(vec![fact]);
            }
        }
        len += more;
    }
    parts
}
