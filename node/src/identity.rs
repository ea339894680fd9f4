//! Who this node is: an Ed25519 key in the home.

use std::path::Path;

use libp2p::identity::Keypair;
use p2p_gossip::swim::Ed25519;

use crate::error::{StartError, file_error};
use crate::files;
use crate::home::{IDENTITY_NAME, damaged};

/// Loads the key of a home, making one where there is none. The file holds libp2p's protobuf encoding.
///
/// # Errors
/// When the file cannot be read or written, or holds no key.
pub(crate) fn load_or_create(home: &Path) -> Result<Keypair, StartError> {
    let path = home.join(IDENTITY_NAME);
    if let Some(bytes) = files::read_if_there(&path).map_err(file_error(&path))? {
        return Keypair::from_protobuf_encoding(&bytes)
            .map_err(|error| damaged(&path, format_args!("holds no key: {error}")));
    }
    let keypair = Keypair::generate_ed25519();
    let bytes = keypair.to_protobuf_encoding().map_err(|error| StartError::Home(error.to_string()))?;
    files::replace(&path, &bytes).map_err(file_error(&path))?;
    Ok(keypair)
}

/// The same key, to sign what members say of each other.
///
/// # Errors
/// When it is of another kind: somebody else has made it.
pub(crate) fn signing(keypair: &Keypair) -> Result<Ed25519, StartError> {
    let key = keypair.clone().try_into_ed25519();
    let key = key.map_err(|_| StartError::Home(format!("{IDENTITY_NAME} holds no Ed25519 key")))?;
    let secret = key.secret().as_ref().try_into();
    Ok(Ed25519::of_secret(secret.map_err(|_| StartError::Home(format!("{IDENTITY_NAME} holds no Ed25519 key")))?))
}
