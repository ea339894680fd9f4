//! What members tell each other about members: records, and that somebody is down. Merging facts is taking the newest, so
//! any order of them, and any of them twice, ends the same.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::bytes::Reader;
use super::name::{Keys, Name, SIGNATURE_LEN, Signature};
use super::record::{Record, RecordError, Status, Version};

/// Accusations that one fact carries at most: one from every neighbour.
pub const ACCUSATIONS_MAX: usize = 8;

/// Length of an accusation in bytes, signature included.
pub(super) const ACCUSATION_LEN: usize = 1 + 32 + 32 + 8 + 4 + 1 + 2 + SIGNATURE_LEN;

/// The first byte of an accusation.
const FORMAT: u8 = 1;

/// Why a member is thought to be down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Its connection was closed and a new one refused, where it had been reached before: its process has ended.
    Gone,
    /// It does not answer, and nobody who was asked gets an answer.
    Silent,
    /// Likewise for so long that one accuser is enough.
    LongSilent,
    /// It answers, but not often enough to be relied on.
    Unreliable,
    /// Those who should watch it have never met it.
    Unmet,
    /// Likewise, for several times as long.
    LongUnmet,
}

impl Cause {
    fn code(self) -> u8 {
        match self {
            Cause::Gone => 0,
            Cause::Silent => 1,
            Cause::LongSilent => 2,
            Cause::Unreliable => 3,
            Cause::Unmet => 4,
            Cause::LongUnmet => 5,
        }
    }

    fn of_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Cause::Gone,
            1 => Cause::Silent,
            2 => Cause::LongSilent,
            3 => Cause::Unreliable,
            4 => Cause::Unmet,
            5 => Cause::LongUnmet,
            _ => return None,
        })
    }
}

/// One member's word that another is down.
#[derive(Clone, PartialEq, Eq)]
pub struct Accusation {
    /// Who says so.
    pub accuser: Name,
    /// Of whom.
    pub subject: Name,
    /// Which of its records this would end.
    pub version: Version,
    /// Why.
    pub cause: Cause,
    /// How long ago its first missed answer was due, when this was signed; in milliseconds.
    pub due_ago_ms: u16,
    signature: Signature,
}

impl fmt::Debug for Accusation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accuser, subject, version, cause, due_ago_ms, .. } = self;
        write!(f, "{accuser:?}: {subject:?} {}.{} {cause:?} ({due_ago_ms} ms)", version.generation, version.incarnation)
    }
}

impl Accusation {
    /// Signs one of our own.
    pub fn sign(accuser: Name, of: &Record, cause: Cause, due_ago_ms: u16, keys: &impl Keys) -> Arc<Self> {
        let mut accusation = Self {
            accuser,
            subject: *of.name(),
            version: of.version(),
            cause,
            due_ago_ms,
            signature: Signature([0; SIGNATURE_LEN]),
        };
        let mut bytes = BytesMut::with_capacity(ACCUSATION_LEN);
        accusation.encode_claim(&mut bytes);
        accusation.signature = keys.sign(&bytes);
        Arc::new(accusation)
    }

    /// Whether its accuser has signed it.
    pub fn is_genuine(&self, keys: &impl Keys) -> bool {
        let mut bytes = BytesMut::with_capacity(ACCUSATION_LEN);
        self.encode_claim(&mut bytes);
        keys.is_signed(&self.accuser, &bytes, &self.signature)
    }

    fn encode_claim(&self, bytes: &mut BytesMut) {
        bytes.put_u8(FORMAT);
        bytes.put_slice(&self.accuser.0);
        bytes.put_slice(&self.subject.0);
        bytes.put_u64_le(self.version.generation);
        bytes.put_u32_le(self.version.incarnation);
        bytes.put_u8(self.cause.code());
        bytes.put_u16_le(self.due_ago_ms);
    }

    /// Appends its encoding.
    pub fn encode(&self, bytes: &mut BytesMut) {
        self.encode_claim(bytes);
        bytes.put_slice(&self.signature.0);
    }

    /// Reads one, which takes all of the bytes.
    pub(super) fn decode_one(bytes: &Bytes) -> Option<Arc<Self>> {
        let mut reader = Reader::new(bytes);
        Self::decode(&mut reader).filter(|_| reader.is_empty())
    }

    fn decode(reader: &mut Reader) -> Option<Arc<Self>> {
        if reader.u8()? != FORMAT {
            return None;
        }
        let (accuser, subject) = (Name(reader.array()?), Name(reader.array()?));
        let generation = reader.u64()?;
        let version = Version { generation, incarnation: reader.u32()? };
        let cause = Cause::of_code(reader.u8()?)?;
        let due_ago_ms = reader.u16()?;
        let signature = Signature(reader.array()?);
        Some(Arc::new(Self { accuser, subject, version, cause, due_ago_ms, signature }))
    }
}

/// That a member is down: the record that this ends, and who says so.
#[derive(Debug)]
pub struct Down {
    record: Arc<Record>,
    accusations: Vec<Arc<Accusation>>,
}

impl Down {
    /// Those accusations of the subject of a record that are about this record, of different members.
    pub fn new(record: Arc<Record>, accusations: impl IntoIterator<Item = Arc<Accusation>>) -> Self {
        let mut kept: Vec<Arc<Accusation>> = Vec::new();
        for accusation in accusations {
            let fits = accusation.subject == *record.name() && accusation.version == record.version();
            let is_new = kept.iter().all(|other| other.accuser != accusation.accuser);
            if fits && is_new && accusation.accuser != accusation.subject && kept.len() < ACCUSATIONS_MAX {
                kept.push(accusation);
            }
        }
        Self { record, accusations: kept }
    }

    /// The record that it ends.
    pub fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Who says so, each once.
    pub fn accusations(&self) -> &[Arc<Accusation>] {
        &self.accusations
    }
}

/// What there is to know about a member.
#[derive(Debug)]
pub enum Fact {
    /// What it says itself: that it is alive, or that it has left.
    Said(Arc<Record>),
    /// What others say.
    Down(Down),
}

/// Which of two facts about one member is newer. Of different records with the same version that with the larger hash is:
/// only their subject can have signed both, and everybody must choose the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    version: Version,
    rank: Rank,
    hash: u64,
}

/// What facts of one version mean for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Alive,
    Down,
    Left,
}

impl Fact {
    /// Whom it is about.
    pub fn subject(&self) -> &Name {
        self.record().name()
    }

    /// The record that it consists of, or that it ends.
    pub fn record(&self) -> &Arc<Record> {
        match self {
            Fact::Said(record) => record,
            Fact::Down(down) => &down.record,
        }
    }

    /// Which of its subject's records it is, or ends.
    pub fn version(&self) -> Version {
        self.record().version()
    }

    /// Whether its subject is here: alive, as far as this goes.
    pub fn is_live(&self) -> bool {
        self.rank() == Rank::Alive
    }

    fn rank(&self) -> Rank {
        match self {
            Fact::Said(record) => match record.claims().status {
                Status::Alive => Rank::Alive,
                Status::Left => Rank::Left,
            },
            Fact::Down(_) => Rank::Down,
        }
    }

    /// Its place among all facts about its subject.
    pub fn precedence(&self) -> Precedence {
        let rank = self.rank();
        // That somebody is down is one fact, whoever says so.
        let hash = if rank == Rank::Down { 0 } else { self.record().hash() };
        Precedence { version: self.version(), rank, hash }
    }

    /// Whether all of it was signed by those whose word it is. What a Down needs beside that depends on who is where.
    pub fn is_genuine(&self, keys: &impl Keys) -> bool {
        self.record().is_genuine(keys)
            && match self {
                Fact::Said(_) => true,
                Fact::Down(down) => {
                    down.record.claims().status == Status::Alive
                        && !down.accusations.is_empty()
                        && down.accusations.iter().all(|accusation| accusation.is_genuine(keys))
                }
            }
    }

    /// Length of its encoding in bytes.
    pub fn encoded_len(&self) -> usize {
        let record = 1 + 2 + self.record().signed().len();
        match self {
            Fact::Said(_) => record,
            Fact::Down(down) => record + 1 + down.accusations.len() * ACCUSATION_LEN,
        }
    }

    /// Appends its encoding: kind, length of the record, record; of a Down the number of accusations and those.
    pub fn encode(&self, bytes: &mut BytesMut) {
        let signed = self.record().signed();
        bytes.put_u8(match self {
            Fact::Said(_) => 0,
            Fact::Down(_) => 1,
        });
        bytes.put_u16_le(u16::try_from(signed.len()).expect("records are bounded"));
        bytes.put_slice(signed);
        if let Fact::Down(down) = self {
            bytes.put_u8(u8::try_from(down.accusations.len()).expect("they are bounded"));
            down.accusations.iter().for_each(|accusation| accusation.encode(bytes));
        }
    }

    /// Reads facts one after the other, to the end of the bytes.
    ///
    /// # Errors
    /// When anything in them is no fact.
    pub fn decode_all(bytes: &Bytes) -> Result<Vec<Arc<Self>>, RecordError> {
        let mut reader = Reader::new(bytes);
        let mut facts = Vec::new();
        while !reader.is_empty() {
            facts.push(Arc::new(Self::decode(&mut reader)?));
        }
        Ok(facts)
    }

    fn decode(reader: &mut Reader) -> Result<Self, RecordError> {
        const MALFORMED: RecordError = RecordError::Malformed;
        let kind = reader.u8().ok_or(MALFORMED)?;
        let len = reader.u16().ok_or(MALFORMED)?;
        let record = Record::decode(reader.bytes(usize::from(len)).ok_or(MALFORMED)?)?;
        match kind {
            0 => Ok(Fact::Said(record)),
            1 => {
                let count = usize::from(reader.u8().ok_or(MALFORMED)?);
                let accusations: Option<Vec<_>> =
                    (0..count.min(ACCUSATIONS_MAX)).map(|_| Accusation::decode(reader)).collect();
                let down = Down::new(record, accusations.ok_or(MALFORMED)?);
                // None was left out: what was sent is what is kept and sent on.
                if down.accusations.len() == count { Ok(Fact::Down(down)) } else { Err(MALFORMED) }
            }
            _ => Err(MALFORMED),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{StandIn, claims, record};
    use super::*;
    use crate::swim::record::Claims;

    fn fact(generation: u64, incarnation: u32, status: Status, down: bool, fill: u8) -> Fact {
        let version = Version { generation, incarnation };
        let record = record(Claims { version, status, fill, ..claims(1) });
        if down { Fact::Down(Down::new(record, [])) } else { Fact::Said(record) }
    }

    prop_compose! {
        fn any_fact()(g in 0..3_u64, i in 0..3_u32, left: bool, down: bool, fill in 0..3_u8) -> Fact {
            fact(g, i, if left { Status::Left } else { Status::Alive }, down && !left, fill)
        }
    }

    proptest! {
        #[test]
        fn any_order_of_facts_and_any_of_them_twice_end_the_same(facts in prop::collection::vec(any_fact(), 1..8), seed: u64) {
            let newest = |facts: &[&Fact]| facts.iter().map(|fact| fact.precedence()).max();
            let mut others: Vec<&Fact> = facts.iter().chain(&facts).collect();
            let rotation = seed as usize % others.len();
            others.rotate_left(rotation);
            others.reverse();
            prop_assert_eq!(newest(&facts.iter().collect::<Vec<_>>()), newest(&others));
        }

        #[test]
        fn bytes_of_a_stranger_are_no_fact_or_encode_as_they_came(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            if let Ok(facts) = Fact::decode_all(&bytes) {
                let mut again = BytesMut::new();
                facts.iter().for_each(|fact| fact.encode(&mut again));
                prop_assert_eq!(bytes, again);
            }
        }
    }

    #[test]
    fn precedence_is_generation_then_incarnation_then_rank() {
        let ascending = [
            fact(1, 0, Status::Alive, false, 0),
            fact(1, 0, Status::Alive, true, 0),
            fact(1, 0, Status::Left, false, 0),
            fact(1, 1, Status::Alive, false, 0),
            fact(1, 1, Status::Alive, true, 0),
            fact(2, 0, Status::Alive, false, 0),
        ];
        for pair in ascending.windows(2) {
            assert!(pair[0].precedence() < pair[1].precedence(), "{pair:?}");
        }
    }

    #[test]
    fn a_fact_that_was_changed_on_its_way_is_not_genuine() {
        let keys = StandIn::of(1);
        let of = record(claims(1));
        let accusations = [2, 3].map(|n| Accusation::sign(Name([n; 32]), &of, Cause::Silent, 300, &StandIn::of(n)));
        let down = Fact::Down(Down::new(of, accusations));
        let mut bytes = BytesMut::new();
        down.encode(&mut bytes);
        assert_eq!(bytes.len(), down.encoded_len());
        assert!(Fact::decode_all(&bytes.clone().freeze()).expect("a fact")[0].is_genuine(&keys));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let genuine = |facts: Vec<Arc<Fact>>| facts.iter().all(|fact| fact.is_genuine(&keys));
            assert!(!Fact::decode_all(&changed.freeze()).is_ok_and(genuine), "byte {at}");
        }
    }

    #[test]
    fn that_somebody_is_down_is_nothing_without_an_accuser() {
        assert!(!Fact::Down(Down::new(record(claims(1)), [])).is_genuine(&StandIn::of(1)));
    }

    #[test]
    fn a_down_keeps_one_word_of_each_and_none_of_others_or_its_subject() {
        let of = record(claims(1));
        let other = record(claims(9));
        let accuse = |n: u8, of: &Record| Accusation::sign(Name([n; 32]), of, Cause::Gone, 0, &StandIn::of(n));
        let down = Down::new(of.clone(), [accuse(2, &of), accuse(2, &of), accuse(3, &other), accuse(1, &of)]);
        assert_eq!(down.accusations().len(), 1);
    }
}
