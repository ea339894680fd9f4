//! Parts of a file, as HTTP names them (RFC 9110, section 14.1.2).

use std::fmt;
use std::str::FromStr;

/// Which bytes of a file are meant; counting begins with 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `A-`: this byte and all after it.
    From(u64),
    /// `A-B`: from the one to the other, both included; what lies behind the end of the file is left out.
    Between(u64, u64),
    /// `-N`: the last so many, or all if there are fewer.
    Last(u64),
}

impl ByteRange {
    /// The part of a file of `len` bytes: its first byte, and the one after its last. None if there is no such part.
    pub fn within(self, len: u64) -> Option<std::ops::Range<u64>> {
        let part = match self {
            Self::From(first) => first..len,
            Self::Between(first, last) => first..last.saturating_add(1).min(len),
            Self::Last(count) => len.saturating_sub(count)..len,
        };
        (!part.is_empty()).then_some(part)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(first) => write!(f, "{first}-"),
            Self::Between(first, last) => write!(f, "{first}-{last}"),
            Self::Last(count) => write!(f, "-{count}"),
        }
    }
}

/// A text is no range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a range is written FIRST-LAST, both included, FIRST- for the rest, or -COUNT for the end of the file")]
pub struct NotARange;

impl FromStr for ByteRange {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse::<u64>().map_err(|_| NotARange),
            false => Err(NotARange),
        };
        match text.split_once('-').ok_or(NotARange)? {
            ("", count) => number(count).map(Self::Last),
            (first, "") => number(first).map(Self::From),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if first <= last { Ok(Self::Between(first, last)) } else { Err(NotARange) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_means_them() {
        for (text, range) in [
            ("0-", ByteRange::From(0)),
            ("5-9", ByteRange::Between(5, 9)),
            ("5-5", ByteRange::Between(5, 5)),
            ("-5", ByteRange::Last(5)),
            ("1-18446744073709551615", ByteRange::Between(1, u64::MAX)),
        ] {
            assert_eq!(text.parse(), Ok(range));
            assert_eq!(range.to_string(), text);
        }
        for wrong in
            ["", "-", "5", "9-5", "a-b", "0x1-2", "+1-2", " 1-2", "1-2,4-5", "--5", "1--5", "1-18446744073709551616"]
        {
            assert_eq!(wrong.parse::<ByteRange>(), Err(NotARange), "{wrong}");
        }
    }

    #[test]
    fn a_range_is_cut_off_at_the_end_of_the_file() {
        let within = |text: &str, len| text.parse::<ByteRange>().expect("a range").within(len);
        assert_eq!(within("3-5", 10), Some(3..6));
        assert_eq!(within("3-99", 10), Some(3..10));
        assert_eq!(within("0-18446744073709551615", 10), Some(0..10));
        assert_eq!(within("9-", 10), Some(9..10));
        assert_eq!(within("-3", 10), Some(7..10));
        assert_eq!(within("-99", 10), Some(0..10));
        for (nothing, len) in [("10-", 10), ("10-12", 10), ("-0", 10), ("0-", 0), ("-1", 0), ("0-0", 0)] {
            assert_eq!(within(nothing, len), None, "{nothing} of {len}");
        }
    }
}
