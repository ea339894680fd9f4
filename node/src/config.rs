//! What a node can be told: by flag, environment, file, in this order.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use p2p_dht::placement::{REPLICAS_DEFAULT, REPLICAS_MAX};
use p2p_gossip::swim;
use serde::Deserialize;

use crate::error::StartError;
use crate::files;
use crate::membership::tags::Labels;

/// Port that a node listens on unless told otherwise.
pub const PORT_DEFAULT: u16 = 7460;

/// Bytes that the store may take unless told otherwise.
pub const STORAGE_MAX_DEFAULT: u64 = 10 << 30;

/// Least bytes that the store may be given: less could not hold a single upload on its way.
pub const STORAGE_MAX_MIN: u64 = 64 << 20;

/// Bytes that the replicated map may take unless told otherwise.
pub const STATE_MAX_DEFAULT: u64 = 2 << 30;

/// Least bytes that it may be given.
pub const STATE_MAX_MIN: u64 = 16 << 20;

/// Writes that stay in the map's log unless told otherwise.
pub const STATE_LOG_DEFAULT: u64 = 1 << 16;

/// Longest name in characters.
pub const NAME_LEN_MAX: usize = 64;

/// What is logged unless told otherwise: libp2p-kad warns of what is no trouble for a node that is alone, yamux of every
/// connection whose other end is gone.
const LOG_DEFAULT: &str = "info,libp2p_kad=error,yamux=error";

/// A node's configuration, complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder with everything the node keeps. Made if missing.
    pub home: PathBuf,
    /// For people; need not be unique.
    pub name: String,
    /// Addresses to listen on. With port 0 the system chooses.
    pub listen: Vec<Multiaddr>,
    /// Addresses told to others instead of those listened on, for nodes behind a translation of addresses.
    pub advertise: Vec<Multiaddr>,
    /// Tickets or members' addresses to join by at the start.
    pub join: Vec<String>,
    /// Copies of what is put here, unless a put says otherwise. More survive more losses and cost more room.
    pub replicas: u32,
    /// What others are told of this node, beside its name.
    pub tags: BTreeMap<String, String>,
    /// How far members are from each other.
    pub profile: Profile,
    /// Most bytes of content to keep. Puts are refused at 95% of it.
    pub storage_max: u64,
    /// Most bytes of the replicated map's file. Values are refused at 90% of it.
    pub state_max: u64,
    /// Writes that stay in the map's log, so that who was away is told what it lacks key by key.
    pub state_log: u64,
    /// Lets itself be hurt by whoever may use the API. Only in a home that a test network has made.
    pub faults: bool,
}

/// How far members are from each other, and so how soon one that does not answer is missed. The same in a whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Milliseconds: machines in one place.
    #[default]
    Lan,
    /// Up to seconds: machines all over the world.
    Wan,
    /// All on one machine, to try things out.
    Local,
}

impl Profile {
    pub(crate) fn times(self) -> swim::Config {
        match self {
            Profile::Lan | Profile::Local => swim::Config::lan(),
            Profile::Wan => swim::Config::wan(),
        }
    }
}

/// How logs look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Settings of a node as given on the command line; the same names stand in the environment, with `P2P_` before them, and
/// in `config.toml`.
#[derive(Clone, Debug, Default, Args)]
pub struct Settings {
    /// Folder with everything the node keeps [default: $XDG_DATA_HOME/p2p-node]
    #[arg(long, value_name = "DIR", env = "P2P_HOME")]
    pub home: Option<PathBuf>,
    /// Configuration file [default: config.toml in the home]
    #[arg(long, value_name = "PATH", env = "P2P_CONFIG")]
    pub config: Option<PathBuf>,
    /// Name for people [default: the machine's]
    #[arg(long, env = "P2P_NAME")]
    pub name: Option<String>,
    /// Address to listen on, may be repeated [default: /ip4/0.0.0.0/tcp/7460]
    #[arg(long, value_name = "MULTIADDR", env = "P2P_LISTEN", value_delimiter = ',')]
    pub listen: Option<Vec<Multiaddr>>,
    /// Address to tell others instead, may be repeated: the one by which they reach this node
    #[arg(long, value_name = "MULTIADDR", env = "P2P_ADVERTISE", value_delimiter = ',')]
    pub advertise: Option<Vec<Multiaddr>>,
    /// Ticket or member's address to join by, may be repeated; a ticket is better given by --join-file
    #[arg(long, value_name = "TICKET|MULTIADDR", env = "P2P_JOIN", value_delimiter = ',', hide_env_values = true)]
    pub join: Option<Vec<String>>,
    /// File with a ticket to join by
    #[arg(long, value_name = "FILE", env = "P2P_JOIN_FILE")]
    pub join_file: Option<PathBuf>,
    /// Copies of what is put here [default: 3]
    #[arg(long, value_name = "N", env = "P2P_REPLICAS")]
    pub replicas: Option<u32>,
    /// Most bytes of content to keep, such as 500MB or 20GiB [default: 10GiB]
    #[arg(long, value_name = "SIZE", env = "P2P_STORAGE_MAX")]
    pub storage_max: Option<ByteSize>,
    /// Most bytes of the replicated map, such as 500MB or 4GiB [default: 2GiB]
    #[arg(long, value_name = "SIZE", env = "P2P_STATE_MAX")]
    pub state_max: Option<ByteSize>,
    /// Writes to the map that are kept for members that were away [default: 65536]
    #[arg(long, value_name = "N", env = "P2P_STATE_LOG")]
    pub state_log: Option<u64>,
    /// Tag that other members see, may be repeated
    #[arg(long, value_name = "KEY=VALUE", env = "P2P_TAG", value_delimiter = ',')]
    pub tag: Option<Vec<String>>,
    /// How far members are from each other, the same in a whole cluster [default: lan]
    #[arg(long, value_name = "lan|wan|local", env = "P2P_PROFILE", hide_possible_values = true)]
    pub profile: Option<Profile>,
    /// What to log, such as info or p2p_dht=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "P2P_LOG")]
    pub log: Option<String>,
    /// How logs look [default: pretty]
    #[arg(long, value_name = "FORMAT", env = "P2P_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// File that is written once the node is ready, with its addresses
    #[arg(long, value_name = "PATH", env = "P2P_READY_FILE")]
    pub ready_file: Option<PathBuf>,
}

/// `config.toml`: every key is optional, an unknown one is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSettings {
    name: Option<String>,
    listen: Option<Vec<Multiaddr>>,
    advertise: Option<Vec<Multiaddr>>,
    join: Option<Vec<String>>,
    join_file: Option<PathBuf>,
    replicas: Option<u32>,
    storage_max: Option<ByteSize>,
    state_max: Option<ByteSize>,
    state_log: Option<u64>,
    tag: Option<Vec<String>>,
    profile: Option<Profile>,
    log: Option<String>,
    log_format: Option<LogFormat>,
    ready_file: Option<PathBuf>,
}

/// How the process around a node behaves.
#[derive(Clone, Debug)]
pub struct Process {
    /// What to log.
    pub log: String,
    /// How logs look.
    pub log_format: LogFormat,
    /// Written once the node is ready.
    pub ready_file: Option<PathBuf>,
}

impl Settings {
    /// Adds what file and defaults say, and checks it all.
    ///
    /// # Errors
    /// What is wrong, and where it was said.
    pub fn resolve(self) -> Result<(Config, Process), StartError> {
        let home = self.home.or_else(p2p_api::home::default_home).ok_or_else(|| {
            StartError::Config("no home: give --home DIR, as neither HOME nor XDG_DATA_HOME is set".into())
        })?;
        let file = read_file(&home, self.config.as_deref())?;
        let mut join = self.join.or(file.join).unwrap_or_default();
        if let Some(path) = self.join_file.or(file.join_file) {
            join.push(read_join_file(&path)?);
        }
        let config = Config {
            name: self.name.or(file.name).unwrap_or_else(machine_name),
            tags: tags(&self.tag.or(file.tag).unwrap_or_default())?,
            profile: self.profile.or(file.profile).unwrap_or_default(),
            listen: self.listen.or(file.listen).unwrap_or_else(|| vec![default_listen()]),
            advertise: self.advertise.or(file.advertise).unwrap_or_default(),
            join,
            replicas: self.replicas.or(file.replicas).unwrap_or(REPLICAS_DEFAULT),
            storage_max: self.storage_max.or(file.storage_max).map_or(STORAGE_MAX_DEFAULT, |size| size.as_u64()),
            state_max: self.state_max.or(file.state_max).map_or(STATE_MAX_DEFAULT, |size| size.as_u64()),
            state_log: self.state_log.or(file.state_log).unwrap_or(STATE_LOG_DEFAULT),
            faults: false,
            home,
        };
        config.check()?;
        let process = Process {
            log: self.log.or(file.log).unwrap_or_else(|| LOG_DEFAULT.into()),
            log_format: self.log_format.or(file.log_format).unwrap_or_default(),
            ready_file: self.ready_file.or(file.ready_file),
        };
        Ok((config, process))
    }
}

/// Tags of the form `KEY=VALUE`.
fn tags(texts: &[String]) -> Result<BTreeMap<String, String>, StartError> {
    let tag = |text: &String| {
        let parts = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        parts.ok_or_else(|| StartError::Config(format!("tag: {text:?} is no tag: one looks like rack=4")))
    };
    texts.iter().map(tag).collect()
}

impl Config {
    /// What others are told of this node.
    pub(crate) fn labels(&self) -> Labels {
        Labels { name: self.name.clone(), tags: self.tags.clone() }
    }

    fn check(&self) -> Result<(), StartError> {
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            return Err(StartError::Config(format!("replicas must be 1 to {REPLICAS_MAX}, not {}", self.replicas)));
        }
        let name_fits = (1..=NAME_LEN_MAX).contains(&self.name.chars().count());
        if !name_fits || self.name.chars().any(char::is_control) {
            return Err(StartError::Config(format!("name must be 1 to {NAME_LEN_MAX} plain characters")));
        }
        self.labels().encode().map_err(|reason| StartError::Config(format!("tag: {reason}")))?;
        if self.storage_max < STORAGE_MAX_MIN {
            let least = ByteSize(STORAGE_MAX_MIN);
            return Err(StartError::Config(format!("storage_max must be at least {least}")));
        }
        if self.state_max < STATE_MAX_MIN {
            let least = ByteSize(STATE_MAX_MIN);
            return Err(StartError::Config(format!("state_max must be at least {least}")));
        }
        if self.listen.is_empty() {
            return Err(StartError::Config("listen must name at least one address".into()));
        }
        for address in &self.listen {
            if !is_tcp(address) {
                return Err(StartError::Config(format!(
                    "cannot listen on {address}: an address looks like /ip4/0.0.0.0/tcp/{PORT_DEFAULT}"
                )));
            }
        }
        for address in &self.advertise {
            if !is_tcp(address) || !is_certain(address) {
                return Err(StartError::Config(format!(
                    "cannot advertise {address}: others need the very address and port by which they reach this node, \
                     such as /ip4/203.0.113.7/tcp/{PORT_DEFAULT}; 0.0.0.0 and port 0 are for --listen alone"
                )));
            }
        }
        Ok(())
    }
}

/// Whether an address is an IP address with a TCP port, and nothing more.
fn is_tcp(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    matches!(parts.next(), Some(Protocol::Ip4(_) | Protocol::Ip6(_)))
        && matches!(parts.next(), Some(Protocol::Tcp(_)))
        && parts.next().is_none()
}

/// Whether an address can be dialed as it stands: no port to be chosen, no address of all interfaces.
pub(crate) fn is_certain(address: &Multiaddr) -> bool {
    address.iter().all(|part| match part {
        Protocol::Ip4(ip) => !ip.is_unspecified(),
        Protocol::Ip6(ip) => !ip.is_unspecified(),
        Protocol::Tcp(port) => port != 0,
        _ => true,
    })
}

fn default_listen() -> Multiaddr {
    Multiaddr::from(Ipv4Addr::UNSPECIFIED).with(Protocol::Tcp(PORT_DEFAULT))
}

fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn read_file(home: &Path, named: Option<&Path>) -> Result<FileSettings, StartError> {
    let path = named.map_or_else(|| home.join("config.toml"), Path::to_owned);
    let config_error = |reason: String| StartError::Config(format!("{}: {reason}", path.display()));
    let bytes = files::read_if_there(&path).map_err(|error| config_error(error.to_string()))?;
    let Some(bytes) = bytes else {
        // A file that was named must be there.
        return if named.is_some() { Err(config_error("no such file".into())) } else { Ok(FileSettings::default()) };
    };
    let text = String::from_utf8(bytes).map_err(|error| config_error(error.to_string()))?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        // Not the error's own text, which shows the line: that may hold a ticket.
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        config_error(format!("{place}{}", error.message()))
    })
}

fn read_join_file(path: &Path) -> Result<String, StartError> {
    let wrong = |reason: &str| StartError::Config(format!("the join file {}: {reason}", path.display()));
    let bytes = files::read_if_there(path).map_err(|error| wrong(&error.to_string()))?;
    let text = String::from_utf8(bytes.ok_or_else(|| wrong("no such file"))?).map_err(|_| wrong("it is no text"))?;
    match text.trim() {
        "" => Err(wrong("it is empty; does the node run where `p2p-cli ticket` was asked?")),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(file: &str, settings: Settings) -> Result<Config, StartError> {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::write(home.path().join("config.toml"), file).expect("written");
        Settings { home: Some(home.path().to_owned()), ..settings }.resolve().map(|(config, _)| config)
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let config = resolve("name = \"file\"\nreplicas = 5", Settings::default()).expect("fine");
        assert_eq!((config.name.as_str(), config.replicas, config.storage_max), ("file", 5, STORAGE_MAX_DEFAULT));
        let flag = Settings { name: Some("flag".into()), ..Settings::default() };
        assert_eq!(resolve("name = \"file\"", flag).expect("fine").name, "flag");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let config = resolve("storage_max = \"2GiB\"", Settings::default()).expect("fine");
        assert_eq!(config.storage_max, 2 << 30);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let cases = [
            ("colour = 1", "unknown field"),
            ("replicas = 0", "replicas"),
            ("replicas = 99", "replicas"),
            ("storage_max = \"1KiB\"", "storage_max"),
            ("state_max = \"1KiB\"", "state_max"),
            ("listen = []", "listen"),
            ("listen = [\"/ip4/127.0.0.1/udp/1\"]", "udp"),
            ("listen = [\"localhost\"]", "line 1"),
            ("advertise = [\"/ip4/0.0.0.0/tcp/7460\"]", "0.0.0.0"),
            ("advertise = [\"/ip6/::/tcp/7460\"]", "--listen"),
            ("advertise = [\"/ip4/192.0.2.7/tcp/0\"]", "port 0"),
            ("advertise = [\"/ip4/192.0.2.7\"]", "cannot advertise"),
            ("advertise = [\"/dns4/example.org/tcp/7460\"]", "cannot advertise"),
            ("name = ", "config.toml"),
            ("name = \"\"", "name"),
            ("name = \"two\\nlines\"", "name"),
            ("\njoin_file = \"/nonexistent\"", "/nonexistent"),
        ];
        for (file, named) in cases {
            let error = resolve(file, Settings::default()).expect_err(file);
            assert!(matches!(error, StartError::Config(_)), "{file}");
            assert!(error.to_string().contains(named), "{file}: {error}");
        }
    }

    #[test]
    fn a_mistake_beside_a_ticket_does_not_show_it() {
        let error = resolve("\njoin = [\"p2psecret\", 7]", Settings::default()).expect_err("a number").to_string();
        assert!(error.contains("line 2") && !error.contains("p2psecret"), "{error}");
    }

    #[test]
    fn a_named_file_must_be_there() {
        let missing = Settings { config: Some("/nonexistent/config.toml".into()), ..Settings::default() };
        assert!(missing.resolve().is_err());
    }
}
