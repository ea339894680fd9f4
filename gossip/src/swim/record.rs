//! What a member says of itself, signed: the only source of what others know of it.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::bytes::Reader;
use super::name::{Keys, Name, SIGNATURE_LEN, Signature};

/// Addresses in a record.
pub const ADDRESSES_MAX: usize = 4;

/// Longest address in bytes.
pub const ADDRESS_LEN_MAX: usize = 128;

/// Longest tags in bytes, in the encoding of whoever uses them.
pub const TAGS_LEN_MAX: usize = 1 << 10;

/// Longest fields in bytes that a later version may add.
pub const REST_LEN_MAX: usize = 256;

/// Longest record in bytes, signature included.
pub const RECORD_LEN_MAX: usize =
    FIXED_LEN + ADDRESSES_MAX * (1 + ADDRESS_LEN_MAX) + TAGS_LEN_MAX + REST_LEN_MAX + SIGNATURE_LEN;

/// Format, name, generation, instance, incarnation, status, introducer, fill class, lengths.
const FIXED_LEN: usize = 1 + 32 + 8 + 8 + 4 + 1 + 33 + 1 + 1 + 2;

/// The first byte of a record.
const FORMAT: u8 = 1;

/// The fullest that a member can be, in sixteenths of what it may store.
pub const FILL_MAX: u8 = 16;

/// Which of several records of one member is newer; the first part is counted by its starts, the second by what it had to
/// say of itself since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Starts so far: kept on disk before the first frame of each, never a clock.
    pub generation: u64,
    /// Records since.
    pub incarnation: u32,
}

/// What a member says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Here.
    Alive,
    /// Gone, by its own will; until its next start.
    Left,
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who it is.
    pub name: Name,
    /// Which of its records this is.
    pub version: Version,
    /// Made up anew at every start, so that two processes with one key can be told apart.
    pub instance: u64,
    /// What it is.
    pub status: Status,
    /// By whom it came in, who is its observer until others have met it. None once it has had to say more of itself.
    pub introducer: Option<Name>,
    /// Where it can be reached; at most [`ADDRESSES_MAX`] of at most [`ADDRESS_LEN_MAX`] bytes.
    pub addresses: Vec<Bytes>,
    /// What its owner says of it; at most [`TAGS_LEN_MAX`] bytes.
    pub tags: Bytes,
    /// How full it is, at most [`FILL_MAX`].
    pub fill: u8,
    /// Fields that a later version added; kept as they are, at most [`REST_LEN_MAX`] bytes.
    pub rest: Bytes,
}

/// Claims with their canonical encoding and the signature of it.
pub struct Record {
    claims: Claims,
    signed: Bytes,
    hash: u64,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// They are no encoding of one, or something in them is longer than it may be.
    #[error("no record")]
    Malformed,
    /// Of a version that has another beginning.
    #[error("a record of format {0}")]
    Format(u8),
}

impl Record {
    /// Signs claims of this member's own.
    ///
    /// # Panics
    /// When they exceed the caps: our own claims are bounded where they come from.
    pub fn sign(claims: Claims, keys: &impl Keys) -> Arc<Self> {
        let mut bytes = BytesMut::with_capacity(RECORD_LEN_MAX);
        claims.encode(&mut bytes);
        let signature = keys.sign(&bytes);
        bytes.put_slice(&signature.0);
        assert!(bytes.len() <= RECORD_LEN_MAX, "our own record is bounded");
        let signed = bytes.freeze();
        let hash = hash_of(&signed);
        Arc::new(Self { claims, signed, hash })
    }

    /// Reads a record. Whether its subject has signed it is [`Self::is_genuine`]: most records that come are known already.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(signed: Bytes) -> Result<Arc<Self>, RecordError> {
        let claimed = signed.len().checked_sub(SIGNATURE_LEN).ok_or(RecordError::Malformed)?;
        if signed.len() > RECORD_LEN_MAX {
            return Err(RecordError::Malformed);
        }
        let claims = Claims::decode(&signed.slice(..claimed))?;
        let hash = hash_of(&signed);
        Ok(Arc::new(Self { claims, signed, hash }))
    }

    /// Whether its subject has signed it.
    pub fn is_genuine(&self, keys: &impl Keys) -> bool {
        let (claims, signature) = self.signed.split_at(self.signed.len() - SIGNATURE_LEN);
        let signature = Signature(signature.try_into().expect("split there"));
        keys.is_signed(&self.claims.name, claims, &signature)
    }

    /// Whom it is about.
    pub fn name(&self) -> &Name {
        &self.claims.name
    }

    /// What it says.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Which of its subject's records it is.
    pub fn version(&self) -> Version {
        self.claims.version
    }

    /// The canonical encoding and its signature.
    pub fn signed(&self) -> &Bytes {
        &self.signed
    }

    /// Tells it from others of the same version: of all fields, without the signature.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Claims { name, version, status, .. } = &self.claims;
        write!(f, "{name:?} {status:?} {}.{}", version.generation, version.incarnation)
    }
}

fn hash_of(signed: &[u8]) -> u64 {
    let claims = &signed[..signed.len() - SIGNATURE_LEN];
    u64::from_le_bytes(*blake3::hash(claims).as_bytes().first_chunk().expect("32 bytes"))
}

impl Claims {
    fn encode(&self, bytes: &mut BytesMut) {
        bytes.put_u8(FORMAT);
        bytes.put_slice(&self.name.0);
        bytes.put_u64_le(self.version.generation);
        bytes.put_u64_le(self.instance);
        bytes.put_u32_le(self.version.incarnation);
        bytes.put_u8(match self.status {
            Status::Alive => 0,
            Status::Left => 1,
        });
        match &self.introducer {
            None => bytes.put_u8(0),
            Some(name) => {
                bytes.put_u8(1);
                bytes.put_slice(&name.0);
            }
        }
        bytes.put_u8(self.fill);
        bytes.put_u8(u8::try_from(self.addresses.len()).expect("a few"));
        for address in &self.addresses {
            bytes.put_u8(u8::try_from(address.len()).expect("short"));
            bytes.put_slice(address);
        }
        bytes.put_u16_le(u16::try_from(self.tags.len()).expect("short"));
        bytes.put_slice(&self.tags);
        bytes.put_slice(&self.rest);
    }

    fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        let format = reader.u8().ok_or(RecordError::Malformed)?;
        if format != FORMAT {
            return Err(RecordError::Format(format));
        }
        Self::decode_fields(&mut reader).ok_or(RecordError::Malformed)
    }

    fn decode_fields(reader: &mut Reader) -> Option<Self> {
        let name = Name(reader.array()?);
        let generation = reader.u64()?;
        let instance = reader.u64()?;
        let version = Version { generation, incarnation: reader.u32()? };
        let status = match reader.u8()? {
            0 => Status::Alive,
            1 => Status::Left,
            _ => return None,
        };
        let introducer = match reader.u8()? {
            0 => None,
            1 => Some(Name(reader.array()?)),
            _ => return None,
        };
        let fill = reader.u8().filter(|fill| *fill <= FILL_MAX)?;
        let count = usize::from(reader.u8()?);
        if count > ADDRESSES_MAX {
            return None;
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let len = usize::from(reader.u8()?);
            addresses.push(reader.bytes(len).filter(|address| address.len() <= ADDRESS_LEN_MAX)?);
        }
        let len = usize::from(reader.u16()?);
        let tags = reader.bytes(len).filter(|tags| tags.len() <= TAGS_LEN_MAX)?;
        let rest = reader.rest();
        (rest.len() <= REST_LEN_MAX).then_some(Self {
            name,
            version,
            instance,
            status,
            introducer,
            addresses,
            tags,
            fill,
            rest,
        })
    }
}
