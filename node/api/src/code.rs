//! Error codes: one table for the word in JSON, the exit code of the command line and the HTTP status.

use serde::{Deserialize, Serialize};

/// What kind of failure this is. The word is stable; scripts branch on it or on the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Anything without a code of its own.
    Other,
    /// The command or request is malformed.
    Usage,
    /// The file has no byte of the range that was asked for.
    OutOfRange,
    /// Nobody who could be asked has it.
    NotFound,
    /// It contradicts what is there.
    Conflict,
    /// The target exists and was not overwritten.
    Exists,
    /// Done in part; the rest goes on or is lost, as the message says.
    Partial,
    /// No node answers at the socket or address.
    Unreachable,
    /// The other side has another cluster key.
    Unauthorised,
    /// A limit on waiting passed.
    TimedOut,
    /// Bytes do not match their address.
    Integrity,
    /// A file of the node is damaged beyond what it can mend itself.
    Corrupt,
    /// Another process holds the home.
    Locked,
    /// No room left under the configured limit or on the disk.
    Full,
    /// Too much at once; trying again later helps.
    Busy,
    /// Starting or stopping.
    NotReady,
    /// The configuration cannot be used.
    Config,
    /// Written by a newer version, or a peer without a common version.
    UnsupportedVersion,
}

impl Code {
    /// Every code, for tables and tests.
    pub const ALL: [Code; 18] = [
        Code::Other,
        Code::Usage,
        Code::OutOfRange,
        Code::NotFound,
        Code::Conflict,
        Code::Exists,
        Code::Partial,
        Code::Unreachable,
        Code::Unauthorised,
        Code::TimedOut,
        Code::Integrity,
        Code::Corrupt,
        Code::Locked,
        Code::Full,
        Code::Busy,
        Code::NotReady,
        Code::Config,
        Code::UnsupportedVersion,
    ];

    /// The process exit code. An unknown one means failure.
    pub fn exit(self) -> u8 {
        match self {
            Code::Other => 1,
            Code::Usage | Code::OutOfRange => 2,
            Code::NotFound => 3,
            Code::Conflict | Code::Exists => 4,
            Code::Partial => 5,
            Code::Unreachable => 6,
            Code::Unauthorised => 7,
            Code::TimedOut => 8,
            Code::Integrity | Code::Corrupt => 9,
            Code::Locked | Code::Full | Code::Busy | Code::NotReady => 10,
            Code::Config => 11,
            Code::UnsupportedVersion => 12,
        }
    }

    /// The HTTP status that carries this code.
    pub fn http_status(self) -> u16 {
        match self {
            Code::Other | Code::Corrupt => 500,
            Code::Usage | Code::Config => 400,
            Code::OutOfRange => 416,
            Code::NotFound => 404,
            Code::Conflict | Code::Exists => 409,
            Code::Partial => 202,
            Code::Unreachable | Code::UnsupportedVersion | Code::Integrity => 502,
            Code::Unauthorised => 403,
            Code::TimedOut => 504,
            Code::Full => 507,
            Code::Locked | Code::Busy | Code::NotReady => 503,
        }
    }

    /// The word used in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Code::Other => "other",
            Code::Usage => "usage",
            Code::OutOfRange => "out_of_range",
            Code::NotFound => "not_found",
            Code::Conflict => "conflict",
            Code::Exists => "exists",
            Code::Partial => "partial",
            Code::Unreachable => "unreachable",
            Code::Unauthorised => "unauthorised",
            Code::TimedOut => "timed_out",
            Code::Integrity => "integrity",
            Code::Corrupt => "corrupt",
            Code::Locked => "locked",
            Code::Full => "full",
            Code::Busy => "busy",
            Code::NotReady => "not_ready",
            Code::Config => "config",
            Code::UnsupportedVersion => "unsupported_version",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn the_word_is_what_json_carries() {
        for code in Code::ALL {
            let json = serde_json::to_string(&code).expect("a code is plain data");
            assert_eq!(json, format!("\"{}\"", code.word()));
        }
    }

    #[test]
    fn the_table_of_codes_is_a_promise() {
        let table: Vec<String> =
            Code::ALL.iter().map(|c| format!("{} exit {} http {}", c.word(), c.exit(), c.http_status())).collect();
        insta::assert_snapshot!(table.join("\n"), @r"
        other exit 1 http 500
        usage exit 2 http 400
        out_of_range exit 2 http 416
        not_found exit 3 http 404
        conflict exit 4 http 409
        exists exit 4 http 409
        partial exit 5 http 202
        unreachable exit 6 http 502
        unauthorised exit 7 http 403
        timed_out exit 8 http 504
        integrity exit 9 http 502
        corrupt exit 9 http 500
        locked exit 10 http 503
        full exit 10 http 507
        busy exit 10 http 503
        not_ready exit 10 http 503
        config exit 11 http 400
        unsupported_version exit 12 http 502
        ");
    }
}
