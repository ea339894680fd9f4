//! The home, a folder with all that a node keeps, and whether all of it is still there.
//!
//! What is made where it is missing in a new home must not be made again in one that was used: without its key a node
//! would come back as somebody else, or in a cluster of its own, and nobody would hear of it.

use std::path::Path;

use crate::error::{StartError, file_error};
use crate::files;
use crate::store;

/// Holds the key of the node.
pub(crate) const IDENTITY_NAME: &str = "identity.key";

/// Holds the keys of the cluster.
pub(crate) const CLUSTER_NAME: &str = "cluster.toml";

/// Makes the folder.
pub(crate) fn make(home: &Path) -> Result<(), StartError> {
    files::make_folder(home).map_err(file_error(home))
}

/// Whether a home that is not running holds any content.
pub(crate) fn has_content(home: &Path) -> Result<bool, StartError> {
    Ok(store::is_there(home) && store::totals(home)?.objects > 0)
}

/// Refuses a home that holds content, and has lost who it is or where it belongs.
pub(crate) fn check_whole(home: &Path) -> Result<(), StartError> {
    for name in [IDENTITY_NAME, CLUSTER_NAME] {
        let path = home.join(name);
        let lost = std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        if lost && has_content(home)? {
            return Err(damaged(&path, "is missing in a home that holds content"));
        }
    }
    Ok(())
}

/// One of the two files that nothing can replace is not what it was.
pub(crate) fn damaged(path: &Path, how: impl std::fmt::Display) -> StartError {
    let of_others = if path.ends_with(CLUSTER_NAME) { "; that of any other member will do" } else { "" };
    let name = path.file_name().unwrap_or_default().display();
    StartError::Damaged {
        what: format!("{} {how}", path.display()),
        way_out: format!(
            "Put {name} back from a backup{of_others}. Without one, prepare another home (`p2p-node init --home DIR --join-file \
             F`) and move objects.db, objects.db-wal and objects.db-shm into it: it keeps the content, as another member."
        ),
    }
}
