//! One process per home.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{StartError, file_error};

/// Held as long as the node runs; the system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct HomeLock {
    _file: File,
}

/// What the lock file says about its holder.
#[derive(Serialize, Deserialize)]
struct Holder {
    pid: u32,
}

impl HomeLock {
    /// Takes the lock of a home, and writes down who holds it.
    ///
    /// # Errors
    /// When another process has it, with that process' id.
    pub(crate) fn take(home: &Path) -> Result<Self, StartError> {
        let path = home.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(file_error(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text).ok();
                let holder: Option<Holder> = read.and_then(|_| serde_json::from_str(&text).ok());
                return Err(StartError::Locked { home: home.to_owned(), pid: holder.map(|holder| holder.pid) });
            }
            Err(TryLockError::Error(error)) => return Err(file_error(&path)(error)),
        }
        let text = serde_json::to_string(&Holder { pid: std::process::id() })
            .map_err(|error| StartError::Home(error.to_string()))?;
        let written = (|| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text.as_bytes())
        })();
        match written {
            // The lock is held all the same; a full disk must not keep a node from being started to delete something.
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                tracing::warn!(%error, "cannot write down who holds the home");
            }
            written => written.map_err(file_error(&path))?,
        }
        Ok(Self { _file: file })
    }
}
