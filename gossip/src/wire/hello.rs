//! The first frame of every stream: who speaks, which versions, what else it can.

use serde::{Deserialize, Serialize};

/// Names a cluster for its whole life, whatever becomes of its keys. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Versions of a protocol that a node speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Lowest.
    pub min: u16,
    /// Highest.
    pub max: u16,
}

impl Versions {
    /// The highest version both speak.
    pub fn common(self, other: Versions) -> Option<u16> {
        let highest = self.max.min(other.max);
        (highest >= self.min && highest >= other.min).then_some(highest)
    }
}

/// Sent by both sides at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster of the sender.
    pub cluster: ClusterId,
    /// What it speaks.
    pub versions: Versions,
    /// Bits for what it can do beyond the version; unknown ones are ignored.
    pub capabilities: u64,
    /// Bytes that the other side may send before it gets more credit, counted as in [`super::frame::cost`].
    pub credit: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_spoken() {
        let versions = |min, max| Versions { min, max };
        assert_eq!(versions(1, 3).common(versions(2, 5)), Some(3));
        assert_eq!(versions(1, 1).common(versions(1, 9)), Some(1));
        assert_eq!(versions(1, 2).common(versions(3, 4)), None);
        assert_eq!(versions(3, 4).common(versions(1, 2)), None);
        // Ends in the wrong order name no version at all.
        assert_eq!(versions(5, 2).common(versions(1, 9)), None);
    }

    #[test]
    fn the_encoding_of_hello_stays_as_it_is() {
        let hello = Hello {
            cluster: ClusterId([7; 16]),
            versions: Versions { min: 1, max: 2 },
            capabilities: 0,
            credit: 1 << 20,
        };
        let mut expected = vec![7; 16];
        expected.extend_from_slice(&[1, 2, 0, 252, 0, 0, 16, 0]);
        assert_eq!(crate::wire::encode(&hello), expected);
    }
}
