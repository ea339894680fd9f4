//! Where a home is, and where its socket: derived the same way by the node and by whoever wants to talk to it.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Longest path of a Unix socket in bytes: `sun_path` is 108 with its terminator.
pub const SOCKET_PATH_LEN_MAX: usize = 107;

/// File in the homes that p2p-testnet makes, and in no others: only there a node lets itself be hurt. It holds the faults
/// that the node begins with, as JSON; empty means none.
pub const TESTNET_MARKER: &str = "testnet";

/// The home used when none is named: `$P2P_HOME`, else `p2p-node` in the XDG data directory.
///
/// None when the environment names no home directory at all.
pub fn default_home() -> Option<PathBuf> {
    let dir = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    dir("P2P_HOME")
        .or_else(|| dir("XDG_DATA_HOME").filter(|path| path.is_absolute()).map(|path| path.join("p2p-node")))
        .or_else(|| dir("HOME").map(|path| path.join(".local/share/p2p-node")))
}

/// The API socket of a home: `HOME/api.sock`, or a short path where that one would be too long for the system.
///
/// The short one is `$XDG_RUNTIME_DIR/p2p/<16 hex of BLAKE3(home)>.sock`, else the same name in a folder of this user
/// under the system's temporary one. `home` is made absolute first, so every spelling of it leads to the same socket.
///
/// # Errors
/// When the current directory cannot be read.
pub fn socket_path(home: &Path) -> io::Result<PathBuf> {
    // A home that does not exist yet has no canonical form; the node creates it before it asks.
    let home = fs::canonicalize(home).or_else(|_| std::path::absolute(home))?;
    let plain = home.join("api.sock");
    if plain.as_os_str().as_bytes().len() <= SOCKET_PATH_LEN_MAX {
        return Ok(plain);
    }
    let digest = blake3::hash(home.as_os_str().as_bytes()).to_hex();
    Ok(runtime_dir().join(format!("{}.sock", &digest[..16])))
}

/// Makes the folder of a socket, for this user only, and checks that nobody else owns it.
///
/// # Errors
/// When it cannot be made, or is not a folder of this user closed to all others.
pub fn prepare_socket_dir(socket: &Path) -> io::Result<()> {
    let Some(dir) = socket.parent() else { return Ok(()) };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let found = fs::symlink_metadata(dir)?;
    let ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    if dir == runtime_dir() && (!ours || found.permissions().mode() & 0o077 != 0) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is not a folder of this user alone", dir.display()),
        ));
    }
    Ok(())
}

fn runtime_dir() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(dir) => dir.join("p2p"),
        None => env::temp_dir().join(format!("p2p-{}", rustix::process::geteuid().as_raw())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_home_keeps_its_socket_inside() {
        let socket = socket_path(Path::new("/srv/p2p")).expect("an absolute path");
        assert_eq!(socket, Path::new("/srv/p2p/api.sock"));
    }

    #[test]
    fn a_long_home_gets_a_socket_that_the_system_takes() {
        let home = format!("/{}", "long/".repeat(40));
        let socket = socket_path(Path::new(&home)).expect("an absolute path");
        assert!(socket.as_os_str().len() <= SOCKET_PATH_LEN_MAX, "{}", socket.display());
        assert_eq!(socket, socket_path(Path::new(&home)).expect("an absolute path"));
        let other = socket_path(Path::new(&format!("{home}x"))).expect("an absolute path");
        assert_ne!(socket, other);
    }
}
