//! The commands of the replicated map.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Subcommand, value_parser};

/// Longest key in bytes.
const KEY_LEN_MAX: usize = 1 << 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Kv {
    #[command(subcommand)]
    pub(crate) command: KvCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KvCommand {
    /// Write a value; prints nothing
    #[command(after_help = "Example:\n  p2p-cli kv put color blue\n  p2p-cli kv put motd - < motd.txt\n  \
        p2p-cli kv put color blue --acks 2 --timeout 5s\n  p2p-cli kv put offset -- -5\n\n\
        It takes the place of the value that this node holds, and ends with 4 (conflict) if it holds several\n\
        or, with --create, any. With fewer nodes than --acks asks for, it stands all the same, and the exit\n\
        code is 5. What p2p-cli --json kv get prints has the token of what was read: a write with it\n\
        replaces that, and nothing that was written meanwhile.")]
    Put(Put),
    /// Print the value of a key, byte for byte
    #[command(
        after_help = "Example:\n  p2p-cli kv get color\n  p2p-cli --json kv get color | jq -r .token > token\n  \
        p2p-cli kv put color green --token @token\n\n\
        Of several values that stand beside each other none is printed, and the exit code is 4 (conflict);\n\
        with --json all of them are, and it is 4 as well."
    )]
    Get(Get),
    /// Delete a key; that there is none is no failure
    #[command(after_help = "Example:\n  p2p-cli kv del color\n\n\
        It ends with 4 (conflict) if this node holds several values, unless --token or --force says\n\
        which go.")]
    Del(Del),
    /// List the keys, in the order of their bytes
    #[command(after_help = "Example:\n  p2p-cli kv ls\n  p2p-cli kv ls team/ --limit 100\n\n\
        A key with several values has their number behind it, after a tab.")]
    Ls(Ls),
    /// Print what happens to keys from now on, one JSON document a line
    #[command(after_help = "Example:\n  p2p-cli kv watch team/ | jq -r '[.kind, .key] | @tsv'\n\n\
        An event is a put or a delete with what stands at the key then; who is slow sees the latest of each\n\
        key. --since goes on after the event of that id; where that is not known any more, a gap comes\n\
        first: all keys have to be looked at.")]
    Watch(Watch),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    /// Where it is to stand
    pub(crate) key: Key,
    /// What is to stand there, byte for byte; - reads it from standard input
    #[arg(value_name = "VALUE|-")]
    pub(crate) value: OsString,
    /// Replace exactly what was read with this token; @F reads it from a file
    #[arg(long, value_name = "T|@F", group = "replaces")]
    pub(crate) token: Option<TokenSource>,
    /// Replace nothing: let it stand beside what is there
    #[arg(long, group = "replaces")]
    pub(crate) sibling: bool,
    /// Write only if nothing stands there
    #[arg(long, group = "replaces")]
    pub(crate) create: bool,
    /// Replace all values that this node holds, however many they are
    #[arg(long, group = "replaces")]
    pub(crate) force: bool,
    /// Nodes on whose disks it is to be before the command ends, this one included; local is this one [default: local]
    #[arg(long, value_name = "local|K", value_parser = acks)]
    pub(crate) acks: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// Where it stands
    pub(crate) key: Key,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Del {
    /// Where it stands
    pub(crate) key: Key,
    /// Delete exactly what was read with this token; @F reads it from a file
    #[arg(long, value_name = "T|@F", group = "replaces")]
    pub(crate) token: Option<TokenSource>,
    /// Delete all values that this node holds, however many they are
    #[arg(long, group = "replaces")]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// Only keys that begin so
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Only keys behind this one
    #[arg(long, value_name = "KEY")]
    pub(crate) after: Option<String>,
    /// At most so many [default: all]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// Only keys that begin so
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// Go on after the event of this id
    #[arg(long, value_name = "ID")]
    pub(crate) since: Option<String>,
}

/// A key of the map, short enough to be one.
#[derive(Clone, Debug)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > KEY_LEN_MAX || text.contains('\0') {
            return Err(format!("a key has 1 to {KEY_LEN_MAX} bytes, without NUL"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenSource {
    Given(String),
    File(PathBuf),
}

impl FromStr for TokenSource {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_prefix('@') {
            Some(file) => Self::File(file.into()),
            None => Self::Given(text.to_owned()),
        })
    }
}

fn acks(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(acks) if acks > 0 => Ok(acks),
        Err(_) if text == "local" => Ok(1),
        _ => Err("how many nodes: local for this one alone, or a number from 1 on".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn kv(args: &[&str]) -> Option<KvCommand> {
        parse(args.iter().map(OsString::from).collect())
    }

    fn parse(args: Vec<OsString>) -> Option<KvCommand> {
        let all = ["p2p-cli", "kv"].into_iter().map(OsString::from).chain(args);
        match Args::try_parse_from(all).ok()?.command {
            Command::Kv(kv) => Some(kv.command),
            _ => None,
        }
    }

    fn put(args: &[&str]) -> Option<Put> {
        match kv(&[&["put"], args].concat()) {
            Some(KvCommand::Put(put)) => Some(put),
            _ => None,
        }
    }

    #[test]
    fn a_value_is_any_bytes() {
        for value in [&b""[..], b"-", b"two words", b"a\xff"] {
            let args = vec!["put".into(), "key".into(), OsString::from_vec(value.to_vec())];
            let Some(KvCommand::Put(put)) = parse(args) else { panic!("{value:?} is a value") };
            assert_eq!(put.value.into_vec(), value);
        }
        assert_eq!(put(&["--force", "--", "-key", "--json"]).expect("a key and a value").value, "--json");
        assert!(put(&["key", "--valu"]).is_none(), "what looks like an option is none only behind two dashes");
    }

    #[test]
    fn a_write_replaces_one_thing() {
        let ways = [&["--token", "aa"][..], &["--sibling"], &["--create"], &["--force"]];
        for (i, one) in ways.iter().enumerate() {
            assert!(put(&[&["key", "value"], *one].concat()).is_some(), "{one:?}");
            for other in &ways[i + 1..] {
                assert!(put(&[&["key", "value"], *one, *other].concat()).is_none(), "{one:?} {other:?}");
            }
        }
        assert!(kv(&["del", "key", "--token", "aa"]).is_some());
        assert!(kv(&["del", "key", "--token", "aa", "--force"]).is_none());
        assert!(kv(&["del", "key", "--create"]).is_none());
    }

    #[test]
    fn a_token_is_given_or_in_a_file() {
        let token = |text| put(&["key", "value", "--token", text]).and_then(|put| put.token);
        assert_eq!(token("aa"), Some(TokenSource::Given("aa".to_owned())));
        assert_eq!(token("@aa"), Some(TokenSource::File("aa".into())));
    }

    #[test]
    fn this_node_is_one() {
        let acks = |text| put(&["key", "value", "--acks", text]).and_then(|put| put.acks);
        assert_eq!((acks("local"), acks("1"), acks("3")), (Some(1), Some(1), Some(3)));
        assert_eq!((acks("0"), acks("-1"), acks("all"), acks("")), (None, None, None, None));
    }

    #[test]
    fn keys_have_a_length() {
        let longest = "k".repeat(KEY_LEN_MAX);
        for key in ["k", "a/b \u{e4}", longest.as_str()] {
            assert!(kv(&["get", key]).is_some(), "{key:?}");
        }
        assert!(kv(&["get", ""]).is_none());
        assert!(kv(&["get", &format!("k{longest}")]).is_none());
    }
}
