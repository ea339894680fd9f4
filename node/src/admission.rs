//! Who gets a connection: whoever knows a key of the cluster.
//!
//! The key, through a derivation of its own, is the prologue of the Noise handshake, so that with another key the
//! handshake fails and nothing is said (Noise specification, section 6). The name of the security protocol carries the
//! beginning of a hash of the key: a listener accepts any key of its list, a dialer offers the newest first, and nodes
//! with different keys find nothing in common.

use std::sync::{Arc, PoisonError, RwLock};

use futures::future::{BoxFuture, FutureExt};
use futures::io::{AsyncRead, AsyncWrite};
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise};

use crate::cluster::ClusterKey;

const NAME_CONTEXT: &str = "p2p-node 2026-11 name of a cluster key";
const PROLOGUE_CONTEXT: &str = "p2p-node 2026-11 noise prologue of a cluster key";

/// The security upgrade of a node's connections. Cheap to clone; all clones see a change of keys.
#[derive(Clone)]
pub(crate) struct Admission {
    keypair: Keypair,
    accepted: Arc<RwLock<Vec<Accepted>>>,
}

/// One key of the list, ready for use.
#[derive(Clone)]
struct Accepted {
    name: ProtocolName,
    noise: noise::Config,
}

/// Name of the security protocol under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProtocolName(String);

impl AsRef<str> for ProtocolName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmissionError {
    /// The other side has another key, or spoke no Noise.
    #[error("the handshake failed: {0}")]
    Noise(#[source] noise::Error),
    /// The connection ended, or no protocol was agreed on. On its own, because `noise::Error` hides it from whoever asks for the
    /// cause.
    #[error("the handshake failed: {0}")]
    Ended(#[source] std::io::Error),
    /// The key was taken off the list while the handshake began.
    #[error("the key is no longer accepted")]
    Gone,
}

impl From<noise::Error> for AdmissionError {
    fn from(error: noise::Error) -> Self {
        match error {
            noise::Error::Io(error) => Self::Ended(error),
            other => Self::Noise(other),
        }
    }
}

impl Admission {
    /// Admission by these keys, newest first.
    ///
    /// # Errors
    /// When the identity cannot sign.
    pub(crate) fn new(keypair: Keypair, keys: &[ClusterKey]) -> Result<Self, noise::Error> {
        let accepted = Arc::new(RwLock::new(accept(&keypair, keys)?));
        Ok(Self { keypair, accepted })
    }

    /// Replaces the keys, for connections from now on.
    ///
    /// # Errors
    /// When the identity cannot sign; the keys are then as before.
    pub(crate) fn set_keys(&self, keys: &[ClusterKey]) -> Result<(), noise::Error> {
        let accepted = accept(&self.keypair, keys)?;
        *self.accepted.write().unwrap_or_else(PoisonError::into_inner) = accepted;
        Ok(())
    }

    fn noise(&self, name: &ProtocolName) -> Result<noise::Config, AdmissionError> {
        let accepted = self.accepted.read().unwrap_or_else(PoisonError::into_inner);
        let found = accepted.iter().find(|accepted| accepted.name == *name);
        found.map(|accepted| accepted.noise.clone()).ok_or(AdmissionError::Gone)
    }
}

fn accept(keypair: &Keypair, keys: &[ClusterKey]) -> Result<Vec<Accepted>, noise::Error> {
    let one = |key: &ClusterKey| {
        let name = blake3::derive_key(NAME_CONTEXT, &key.0);
        let name = ProtocolName(format!("/p2p-node/noise/1/{}", data_encoding::HEXLOWER.encode(&name[..4])));
        let prologue = blake3::derive_key(PROLOGUE_CONTEXT, &key.0).to_vec();
        Ok(Accepted { name, noise: noise::Config::new(keypair)?.with_prologue(prologue) })
    };
    keys.iter().map(one).collect()
}

impl UpgradeInfo for Admission {
    type Info = ProtocolName;
    type InfoIter = std::vec::IntoIter<ProtocolName>;

    fn protocol_info(&self) -> Self::InfoIter {
        let accepted = self.accepted.read().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<ProtocolName> = accepted.iter().map(|accepted| accepted.name.clone()).collect();
        names.into_iter()
    }
}

type Secured<T> = (PeerId, noise::Output<T>);

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<T> for Admission {
    type Output = Secured<T>;
    type Error = AdmissionError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: T, name: ProtocolName) -> Self::Future {
        async move { Ok(self.noise(&name)?.upgrade_inbound(socket, "/noise").await?) }.boxed()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<T> for Admission {
    type Output = Secured<T>;
    type Error = AdmissionError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: T, name: ProtocolName) -> Self::Future {
        async move { Ok(self.noise(&name)?.upgrade_outbound(socket, "/noise").await?) }.boxed()
    }
}
