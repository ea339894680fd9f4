//! Keys of the map.

use std::fmt;

use bytes::Bytes;

/// Longest key in bytes.
pub const KEY_LEN_MAX: usize = 1 << 10;

/// A key: UTF-8, not empty, at most [`KEY_LEN_MAX`] bytes, without NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

/// Why bytes are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There are none.
    #[error("a key is not empty")]
    Empty,
    /// Too many.
    #[error("a key of {0} bytes is longer than {KEY_LEN_MAX}")]
    TooLong(usize),
    /// No text.
    #[error("a key is UTF-8")]
    NotText,
    /// NUL is in them.
    #[error("a key has no NUL in it")]
    Nul,
}

impl Key {
    /// Checks bytes that are to be a key.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, KeyError> {
        let bytes = bytes.into();
        match std::str::from_utf8(&bytes) {
            _ if bytes.is_empty() => Err(KeyError::Empty),
            _ if bytes.len() > KEY_LEN_MAX => Err(KeyError::TooLong(bytes.len())),
            Err(_) => Err(KeyError::NotText),
            Ok(text) if text.contains('\0') => Err(KeyError::Nul),
            Ok(_) => Ok(Self(bytes)),
        }
    }

    /// The same with bytes of its own: it does not keep what it was cut out of.
    pub(super) fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when it was made")
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        for (bytes, error) in [
            (&b""[..], KeyError::Empty),
            (&[b'a'; KEY_LEN_MAX + 1], KeyError::TooLong(KEY_LEN_MAX + 1)),
            (b"a\xff", KeyError::NotText),
            (b"a\0b", KeyError::Nul),
        ] {
            assert_eq!(Key::new(Bytes::copy_from_slice(bytes)), Err(error));
        }
        assert_eq!(Key::new("größe/π").expect("a key").as_str(), "größe/π");
        assert!(Key::new(vec![b'a'; KEY_LEN_MAX]).is_ok());
    }
}
