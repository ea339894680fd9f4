//! Every command and flag with its help, and what becomes of a command line that cannot be read.

mod kv;

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand, value_parser};
use p2p_api::{ByteRange, Code, Problem};

pub(crate) use self::kv::{Del, Key, Kv, KvCommand, Ls, Put as KvPut, TokenSource, Watch};

/// A well-formed address to show: BLAKE3 of nothing.
const ADDRESS_EXAMPLE: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

/// Hex digits of an address.
const ADDRESS_LEN: usize = 64;

/// Longest name in bytes, without what it begins with.
const NAME_LEN_MAX: usize = 512;

/// What names begin with, as keys and where an address could stand.
const NAME_PREFIX: &str = "name/";

const TOP_HELP: &str = "\
Example:
  p2p-cli put photo.jpg
  p2p-cli get ADDRESS -o photo.jpg

Results go to standard output, everything else to standard error.
Exit codes: 0 ok, 1 other, 2 usage or out of range, 3 not found, 4 conflict or exists, 5 partial,
  6 node unreachable, 7 not authorised, 8 timed out, 9 integrity or corrupt,
  10 busy, locked, full or not ready, 11 bad configuration, 12 unsupported version,
  130 interrupted.";

/// Commands for a running p2p node.
#[derive(Debug, Parser)]
#[command(name = "p2p-cli", version, after_help = TOP_HELP, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that stand before or after the command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Home of the node [default: the one of $P2P_SOCKET, else $P2P_HOME, else p2p-node in the XDG data directory]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Socket of the node; goes before --home [default: the one of the home]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Print one JSON document; failures are one JSON document on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Longest wait without progress, for example 30s or 2m; transfers that go on are not cut
    #[arg(long, global = true, value_name = "DUR", value_parser = timeout)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store a file; prints its address and nothing else
    #[command(after_help = "Example:\n  p2p-cli put photo.jpg\n  tar -cf - photos | p2p-cli put -\n  \
        p2p-cli put notes.txt --name notes\n\n\
        With fewer copies than asked for, the address is printed all the same and the exit code is 5.\n\n\
        A name leads to the content on every node: p2p-cli get name/notes")]
    Put(Put),
    /// Fetch content by its address or name
    #[command(after_help = "Example:\n  p2p-cli get ADDRESS -o photo.jpg\n  p2p-cli get ADDRESS | tar -xf -\n  \
        p2p-cli get name/notes\n  p2p-cli get ADDRESS --range 0-1023 -o head\n\n\
        A range is as in HTTP: bytes are counted from 0, A-B takes both ends, A- the rest, and -N the\n\
        last N. What lies behind the end of the file is left out; if nothing is left, the exit code is 2\n\
        (out_of_range). Only the blocks that hold the range are fetched.\n\n\
        --json prints {\"address\",\"size\",\"path\"} with -o PATH. Content on standard output stays\n\
        the bare bytes, without a document.")]
    Get(Get),
    /// Show the size of content and who holds it
    #[command(after_help = "Example:\n  p2p-cli stat ADDRESS\n  p2p-cli stat name/notes")]
    Stat(Stat),
    /// Read and write the replicated map, which every node holds whole
    #[command(after_help = "Example:\n  p2p-cli kv put color blue\n  p2p-cli kv get color\n\n\
        Keys are text of 1 to 1024 bytes, values any bytes up to 64 KiB. Writes made without knowing of each\n\
        other stand beside each other until a later one takes their place.")]
    Kv(Kv),
    /// Show the state of the node
    #[command(after_help = "Example:\n  p2p-cli status --json\n  p2p-cli status --check || mail -s 'p2p' admin\n\n\
        Health is ok, degraded or isolated; the reasons follow it. It is not ok when too few members for the\n\
        wanted copies can be reached, or when store or disk are full or nearly so.")]
    Status(Status),
    /// Print a ticket that lets other nodes join; it is a secret
    #[command(after_help = "Example:\n  p2p-cli ticket > ticket.txt")]
    Ticket,
    /// Join the cluster of a ticket, or of a member's address
    #[command(after_help = "Example:\n  p2p-cli join --join-file ticket.txt\n  \
        ssh other p2p-cli ticket | p2p-cli join -\n  p2p-cli join /ip4/192.0.2.7/tcp/7460\n\n\
        A ticket is a secret, and arguments show in ps: prefer a file or standard input.")]
    Join(Join),
    /// Show the members of the cluster, or watch what happens to them
    #[command(
        after_help = "Example:\n  p2p-cli members\n  p2p-cli members --watch | jq -r '[.at, .kind, .name] | @tsv'\n\n\
        A watch prints one JSON document a line: join, return, update, refute, suspect, trust, down (with who\n\
        said so and why), leave; isolated, connected, refuted and put_out are about this node. --since goes on\n\
        after the event of that id; what is not kept any more is a gap."
    )]
    Members(Members),
    /// Change the tags that members see of this node, until it starts again; prints all of them
    #[command(after_help = "Example:\n  p2p-cli tags --set rack=4 --set role=build\n  p2p-cli tags --delete role\n\n\
        Tags that are to last stand in config.toml: tag = [\"rack=4\"]")]
    Tags(Tags),
    /// Leave the cluster and end the node; its next start comes back
    #[command(after_help = "Example:\n  p2p-cli leave --now")]
    Leave(Leave),
    /// Change what the node logs, for a while or until it is started again
    #[command(after_help = "Example:\n  p2p-cli log-level info,p2p_dht=debug --for 10m\n\n\
        A filter is a level (off, error, warn, info, debug, trace), and modules with levels of their own:\n\
        p2p_node, p2p_dht, p2p_gossip, libp2p_swarm and so on.")]
    LogLevel(LogLevel),
    /// Copy the replicated map, as it is at this moment, into a file
    #[command(after_help = "Example:\n  p2p-cli backup map-$(date +%F).backup\n  \
        p2p-cli backup - | ssh other 'cat > map.backup'\n\n\
        The file appears whole or not at all, and nobody else may read it. p2p-node restore reads it.\n\n\
        --json prints {\"path\",\"size\"}; a backup on standard output comes without a document.")]
    Backup(Backup),
    /// Wait until the node is ready; also for a node that is only starting
    #[command(after_help = "Example:\n  p2p-cli wait --members 3 --timeout 2m\n\n\
        Waits 60s in all unless --timeout says otherwise, then ends with 8, or with 6 if no node answers.")]
    Wait(Wait),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Put {
    /// File to store; - is standard input
    pub(crate) file: PathBuf,
    /// Copies wanted [default: the node's]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) replicas: Option<u32>,
    /// Durable copies to wait for [default: the node's]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) acks: Option<u32>,
    /// Lets name/NAME lead to it
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// Address of the content, 64 hexadecimal digits, or name/NAME
    #[arg(value_name = "ADDRESS")]
    pub(crate) content: ContentRef,
    /// File to write; - is standard output, the default
    #[arg(short, long, value_name = "PATH", default_value = "-", hide_default_value = true)]
    pub(crate) output: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Only these bytes: A-B with both ends, A- for the rest, -N for the last N
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    pub(crate) range: Option<ByteRange>,
    /// Leave nothing of what is fetched in the node's cache
    #[arg(long)]
    pub(crate) no_cache: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stat {
    /// Address of the content, 64 hexadecimal digits, or name/NAME
    #[arg(value_name = "ADDRESS")]
    pub(crate) content: ContentRef,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Print the health alone, and end with 5 and the reasons if it is not ok
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Join {
    /// Ticket or multiaddress; - reads it from standard input
    #[arg(value_name = "TICKET|MULTIADDR")]
    pub(crate) target: Option<String>,
    /// File that holds it; - is standard input [default: $P2P_JOIN_FILE]
    #[arg(long, value_name = "F", conflicts_with = "target")]
    pub(crate) join_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Members {
    /// Print what happens from now on, one JSON document a line
    #[arg(long)]
    pub(crate) watch: bool,
    /// Go on after the event of this id
    #[arg(long, value_name = "ID", requires = "watch")]
    pub(crate) since: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Tags {
    /// Set a tag, may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub(crate) set: Vec<(String, String)>,
    /// Take a tag away, may be repeated
    #[arg(long, value_name = "KEY")]
    pub(crate) delete: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Leave {
    /// Do not bring copies elsewhere first
    #[arg(long)]
    pub(crate) now: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LogLevel {
    /// What to log
    pub(crate) filter: String,
    /// How long, for example 10m; afterwards what is configured is logged again
    #[arg(long = "for", value_name = "DUR", value_parser = timeout)]
    pub(crate) for_time: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// File to write; - is standard output
    pub(crate) file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    /// Wait until the node is ready; this is the default
    #[arg(long)]
    pub(crate) ready: bool,
    /// Wait also for N reachable members, this node included
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) members: Option<u32>,
}

/// What leads to content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContentRef {
    Address(Address),
    /// The key under which its address stands.
    Name(String),
}

impl FromStr for ContentRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix(NAME_PREFIX) {
            Some(short) => name(short).map(|_| Self::Name(text.to_owned())),
            None => text.parse().map(Self::Address),
        }
    }
}

/// The address of content, as 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address(String);

impl Address {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() == ADDRESS_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(format!(
            "an address is {ADDRESS_LEN} hexadecimal digits, for example {ADDRESS_EXAMPLE}, and a name is {NAME_PREFIX}NAME"
        ))
    }
}

fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > NAME_LEN_MAX || text.contains('\0') {
        return Err(format!("a name has 1 to {NAME_LEN_MAX} bytes, without NUL"));
    }
    Ok(text.to_owned())
}

fn tag(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = parts.ok_or_else(|| "a tag looks like rack=4".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

fn timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("zero leaves no time for anything, try 30s".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like 30s, 500ms or 2m")),
    }
}

/// Whether `--json` stands on a command line, even on one that cannot be parsed.
pub(crate) fn wants_json(raw: &[OsString]) -> bool {
    raw.iter().skip(1).take_while(|arg| *arg != "--").any(|arg| arg == "--json")
}

/// The parser's complaint in the form of every other error.
pub(crate) fn usage(error: &clap::Error) -> Problem {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Problem::new(Code::Usage, "no command was given").hint("p2p-cli --help");
    }
    // Paragraphs of the rendered text: the complaint, tips, the usage line, where help is.
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(one_line);
    let complaint = paragraphs.next().unwrap_or_default();
    let message = complaint.strip_prefix("error: ").unwrap_or(&complaint).to_owned();
    let mut hint = "p2p-cli --help".to_owned();
    for paragraph in paragraphs {
        if let Some(tip) = paragraph.strip_prefix("tip: ") {
            hint = tip.to_owned();
            break;
        }
        if let Some(usage) = paragraph.strip_prefix("Usage: ") {
            hint = usage.to_owned();
        }
    }
    Problem::new(Code::Usage, message).hint(hint)
}

fn one_line(paragraph: &str) -> String {
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_goes_by_its_address_or_by_a_name() {
        let upper = ADDRESS_EXAMPLE.to_uppercase();
        let Ok(ContentRef::Address(address)) = upper.parse() else { panic!("an address in capitals is one") };
        assert_eq!(address.as_str(), ADDRESS_EXAMPLE);
        let longest = "n".repeat(NAME_LEN_MAX);
        for name in ["notes", "a/b", "\u{e4} ?", longest.as_str()] {
            let key = format!("name/{name}");
            assert_eq!(key.parse(), Ok(ContentRef::Name(key.clone())));
        }
        for wrong in ["", "name/", "name", "notes", "Name/notes", "name/a\0b", &format!("name/n{longest}")] {
            assert!(wrong.parse::<ContentRef>().is_err(), "{wrong:?}");
        }
    }
}
