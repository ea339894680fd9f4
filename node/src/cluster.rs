//! Which cluster a home belongs to, and the keys that admit to it.
//!
//! A fresh home makes a cluster of its own. A list of keys is kept, newest first, so that a key can be replaced while the
//! cluster runs.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use p2p_gossip::wire::ClusterId;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::error::{StartError, file_error};
use crate::files;
use crate::home::{CLUSTER_NAME, damaged};

/// Most keys in a list: the one in use, and those that are being replaced.
pub const KEYS_MAX: usize = 4;

/// A secret that admits to a cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey(pub [u8; 32]);

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}

impl ClusterKey {
    fn random() -> Self {
        Self(rand::rng().random())
    }
}

/// How a home came to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It made it.
    Made,
    /// By a ticket.
    Joined,
}

/// A home's cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name for good.
    pub id: ClusterId,
    /// Newest first; never empty.
    pub keys: Vec<ClusterKey>,
    /// How the home came to it.
    pub origin: Origin,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    version: u32,
    id: String,
    origin: Origin,
    keys: Vec<String>,
}

/// Version of the file's format.
const FILE_VERSION: u32 = 1;

impl Cluster {
    /// A new cluster.
    pub fn make() -> Self {
        Self { id: ClusterId(rand::rng().random()), keys: vec![ClusterKey::random()], origin: Origin::Made }
    }

    /// The cluster of a ticket.
    pub fn joined(id: ClusterId, key: ClusterKey) -> Self {
        Self { id, keys: vec![key], origin: Origin::Joined }
    }

    /// Loads the cluster of a home, making one where there is none.
    ///
    /// # Errors
    /// When the file cannot be read or written, or makes no sense.
    pub(crate) fn load_or_make(home: &Path) -> Result<Self, StartError> {
        let path = path(home);
        match files::read_if_there(&path).map_err(file_error(&path))? {
            Some(bytes) => {
                Self::parse(&bytes).map_err(|reason| damaged(&path, format_args!("cannot be used: {reason}")))
            }
            None => {
                let cluster = Self::make();
                cluster.save(home)?;
                Ok(cluster)
            }
        }
    }

    /// Writes the cluster into a home.
    ///
    /// # Errors
    /// When the file cannot be written; the old one is then still there.
    pub(crate) fn save(&self, home: &Path) -> Result<(), StartError> {
        let file = ClusterFile {
            version: FILE_VERSION,
            id: self.id.to_string(),
            origin: self.origin,
            keys: self.keys.iter().map(|key| HEXLOWER.encode(&key.0)).collect(),
        };
        let text = toml::to_string(&file).map_err(|error| StartError::Home(error.to_string()))?;
        let path = path(home);
        files::replace(&path, text.as_bytes()).map_err(file_error(&path))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let file: ClusterFile = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        if file.version != FILE_VERSION {
            return Err(format!("its version is {}, and this program knows {FILE_VERSION}", file.version));
        }
        let id = decode::<16>(&file.id).ok_or("the id is not 32 hex digits")?;
        let keys: Option<Vec<ClusterKey>> = file.keys.iter().map(|key| decode(key).map(ClusterKey)).collect();
        let keys = keys.ok_or("a key is not 64 hex digits")?;
        if keys.is_empty() || keys.len() > KEYS_MAX {
            return Err(format!("it has {} keys, and there must be 1 to {KEYS_MAX}", keys.len()));
        }
        Ok(Self { id: ClusterId(id), keys, origin: file.origin })
    }
}

fn path(home: &Path) -> PathBuf {
    home.join(CLUSTER_NAME)
}

fn decode<const N: usize>(hex: &str) -> Option<[u8; N]> {
    HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_home_keeps_its_cluster_and_nobody_else_reads_it() {
        let home = tempfile::tempdir().expect("a folder");
        let made = Cluster::load_or_make(home.path()).expect("made");
        assert_eq!(Cluster::load_or_make(home.path()).expect("loaded"), made);
        let mode = std::fs::metadata(path(home.path())).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_makes_no_sense_is_named_and_kept() {
        let home = tempfile::tempdir().expect("a folder");
        for text in ["", "version = 9", "not toml at all", "version = 1\nid = \"00\"\norigin = \"made\"\nkeys = []"] {
            std::fs::write(path(home.path()), text).expect("written");
            let error = Cluster::load_or_make(home.path()).expect_err("refused").to_string();
            assert!(error.contains("cluster.toml"), "{error}");
            assert_eq!(std::fs::read_to_string(path(home.path())).expect("there"), text);
        }
    }
}
