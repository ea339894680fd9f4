//! What is written to, and brought to the disk while more comes.

use std::io;

use indicatif::ProgressBar;
use p2p_api::client::Content;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

/// Bytes after which those written so far are brought to the disk: waiting for all of them at the end would take as long
/// again as the disk needs, with nothing else to do.
const SYNC_LEN: u64 = 32 << 20;

/// An open file, device or pipe.
pub(in crate::commands) struct Sink {
    file: File,
    /// The same, where what is written to it must be durable in the end.
    durable: Option<std::fs::File>,
    unsynced: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl Sink {
    /// A device or a pipe.
    pub(in crate::commands) fn passing(file: File) -> Self {
        Self { file, durable: None, unsynced: 0, syncing: None }
    }

    /// A file that is to stay.
    pub(in crate::commands) fn durable(file: std::fs::File) -> io::Result<Self> {
        let durable = Some(file.try_clone()?);
        Ok(Self { file: File::from_std(file), durable, unsynced: 0, syncing: None })
    }

    /// Copies until the content ends or breaks off, and says how many bytes were written.
    pub(in crate::commands) async fn copy(&mut self, mut content: Content, bar: &ProgressBar) -> io::Result<u64> {
        let mut arrived = 0;
        while let Some(Ok(bytes)) = content.next().await {
            self.write(&bytes).await?;
            arrived += bytes.len() as u64;
            bar.inc(bytes.len() as u64);
        }
        // The file writes behind: only now is it known whether all was taken.
        self.flush().await?;
        Ok(arrived)
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await?;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_LEN && self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            // A failure is told once only: by this call, and never again by a later one.
            self.synced().await?;
            if let Some(file) = &self.durable {
                let file = file.try_clone()?;
                self.unsynced = 0;
                self.syncing = Some(tokio::task::spawn_blocking(move || file.sync_data()));
            }
        }
        Ok(())
    }

    /// Waits until all that was written has been taken.
    async fn flush(&mut self) -> io::Result<()> {
        self.file.flush().await
    }

    /// Waits until all is durable, where it is to be.
    pub(in crate::commands) async fn finish(mut self) -> io::Result<()> {
        self.flush().await?;
        self.synced().await?;
        if self.durable.is_some() { self.file.sync_all().await } else { Ok(()) }
    }

    async fn synced(&mut self) -> io::Result<()> {
        match self.syncing.take() {
            Some(task) => task.await.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }
}
