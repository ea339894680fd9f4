//! The one place that names bincode: encoding of what peers say to each other.
//!
//! Only for bytes on the wire. What is hashed, signed or kept on disk has hand-written encodings with a version, so that
//! it never depends on a library's choices.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Longest encoded value in bytes: the head of a frame.
pub const ENCODED_LEN_MAX: usize = 32 << 10;

/// A peer's bytes do not make the value they should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`ENCODED_LEN_MAX`].
    #[error("{0} bytes are more than a value may take")]
    TooLong(usize),
    /// Bytes are left over.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
    /// Not an encoding of this type, or one whose lengths exceed the limit.
    #[error("not an encoding of the expected value: {0}")]
    Malformed(String),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<ENCODED_LEN_MAX>()
}

/// Encodes one of our own values.
///
/// # Panics
/// When the value takes more than [`ENCODED_LEN_MAX`]: senders bound their messages.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    let bytes = bincode::serde::encode_to_vec(value, config()).expect("messages are plain data");
    assert!(bytes.len() <= ENCODED_LEN_MAX, "a message of {} bytes exceeds the cap", bytes.len());
    bytes.into()
}

/// Decodes a peer's value: all of `bytes`, no more and no less.
///
/// # Errors
/// Whatever is wrong with the bytes. What a lie about a length makes us allocate is bounded by [`List`], which every list in
/// a message is.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > ENCODED_LEN_MAX {
        return Err(DecodeError::TooLong(bytes.len()));
    }
    let (value, used) = bincode::serde::decode_from_slice(bytes, config())
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(DecodeError::Trailing(left)),
    }
}

/// A list of at most `MAX` values in a peer's message.
///
/// A plain vector makes room for as many values as the bytes say there are, up to a megabyte, before it reads the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct List<T, const MAX: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX} values")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self::Value, A::Error> {
        let len = values.size_hint().unwrap_or(0);
        let mut list = Vec::with_capacity(len.min(MAX));
        while let Some(value) = values.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::invalid_length(len.max(MAX + 1), &self));
            }
            list.push(value);
        }
        Ok(List(list))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Empty,
        Pair(u64, [u8; 4]),
        Many(Vec<u32>),
        Text { name: String, more: Option<u8> },
    }

    /// The encoding is part of the protocol: a change here breaks every running cluster.
    #[test]
    fn golden_vectors_stay_as_they_are() {
        let vectors: [(Shape, &[u8]); 4] = [
            (Shape::Empty, &[0]),
            (Shape::Pair(251, [1, 2, 3, 4]), &[1, 251, 251, 0, 1, 2, 3, 4]),
            (Shape::Many(vec![1, 250, 70_000]), &[2, 3, 1, 250, 252, 0x70, 0x11, 1, 0]),
            (Shape::Text { name: "hé".into(), more: Some(9) }, &[3, 3, b'h', 0xc3, 0xa9, 1, 9]),
        ];
        for (value, bytes) in vectors {
            assert_eq!(&encode(&value)[..], bytes, "{value:?}");
            assert_eq!(decode::<Shape>(bytes), Ok(value));
        }
    }

    #[test]
    fn a_list_is_written_as_a_vector_and_read_up_to_its_bound() {
        let list = |len: u8| List::<u8, 3>((0..len).collect());
        assert_eq!(encode(&list(3)), encode(&vec![0_u8, 1, 2]));
        assert_eq!(decode(&encode(&list(3))), Ok(list(3)));
        assert!(matches!(decode::<List<u8, 3>>(&encode(&list(4))), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn bytes_after_the_value_are_refused() {
        assert_eq!(decode::<u8>(&[7, 0]), Err(DecodeError::Trailing(1)));
    }

    #[test]
    fn a_lying_length_allocates_nothing() {
        // A list that claims 2^63 elements in ten bytes.
        let bytes = [253, 0, 0, 0, 0, 0, 0, 0, 0x80, 1];
        assert!(matches!(decode::<Vec<u64>>(&bytes), Err(DecodeError::Malformed(_))));
        assert!(matches!(decode::<String>(&bytes), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn more_than_the_cap_is_refused_unread() {
        let bytes = vec![0; ENCODED_LEN_MAX + 1];
        assert_eq!(decode::<Vec<u8>>(&bytes), Err(DecodeError::TooLong(ENCODED_LEN_MAX + 1)));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = decode::<Shape>(&bytes) {
                prop_assert_eq!(decode::<Shape>(&encode(&value)), Ok(value));
            }
        }
    }
}
