//! Where many bytes go, and that a file appears whole or not at all.

mod sink;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use p2p_api::{Code, Problem};
use tempfile::NamedTempFile;
use tokio::fs::File;

pub(super) use self::sink::Sink;
use crate::output::{Output, cannot_write, stdout_for_content, stdout_is_terminal};

/// Who may read a new file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Readers {
    /// Whom the umask lets, as everybody else creates files.
    Umask,
    /// Its owner.
    Owner,
}

impl Readers {
    fn mode(self) -> u32 {
        match self {
            Readers::Umask => 0o666,
            Readers::Owner => 0o600,
        }
    }
}

/// Why bytes did not arrive: no fault of the node's in the second case.
pub(super) enum Failure {
    Node(Problem),
    Write(io::Error),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Node(problem)
    }
}

/// Where bytes go.
pub(super) enum Target {
    Stdout,
    /// A device or a pipe: nothing in it can be overwritten, and nothing must take its place.
    Device(PathBuf),
    /// A file, written under another name beside it; dropped early, that one is removed.
    File {
        path: PathBuf,
        partial: NamedTempFile,
        force: bool,
    },
}

impl Target {
    /// Opens what is written to, after checking that the path may be used.
    pub(super) async fn open(path: &Path, force: bool, readers: Readers) -> Result<(Self, Sink), Problem> {
        let cannot = |error: io::Error| cannot_write(&path.display().to_string(), &error);
        if path == Path::new("-") {
            let stdout = stdout_for_content().map_err(|error| cannot_write("standard output", &error))?;
            return Ok((Self::Stdout, Sink::passing(File::from_std(stdout))));
        }
        let found = fs::metadata(path);
        if path.as_os_str().is_empty()
            || path.as_os_str().as_bytes().ends_with(b"/")
            || is(&found, fs::Metadata::is_dir)
        {
            return Err(Problem::new(
                Code::Usage,
                format!("{:?} is not a name for a file", path.display().to_string()),
            )
            .hint(format!("Name the file too: {}", path.join("NAME").display())));
        }
        if is(&found, |found| !found.is_file()) {
            // Not std's: opening a named pipe blocks until it has a reader.
            let device = tokio::fs::OpenOptions::new().write(true).open(path).await.map_err(cannot)?;
            return Ok((Self::Device(path.to_owned()), Sink::passing(device)));
        }
        // A link that leads nowhere is in the way as well.
        if !force && fs::symlink_metadata(path).is_ok() {
            return Err(exists(path));
        }
        // Behind a link it is the file that is replaced, not the link.
        let path = if force { fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let partial = tempfile::Builder::new()
            .prefix(".p2p-")
            .suffix(".part")
            .permissions(Permissions::from_mode(readers.mode()))
            .tempfile_in(folder)
            .map_err(cannot)?;
        let sink = partial.as_file().try_clone().and_then(Sink::durable).map_err(cannot)?;
        Ok((Self::File { path, partial, force }, sink))
    }

    pub(super) fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout)
    }

    /// The target in a sentence.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Stdout => "standard output".to_owned(),
            Self::Device(path) | Self::File { path, .. } => path.display().to_string(),
        }
    }

    /// A bar for so many bytes, where it does not mix with them.
    pub(super) fn bar(&self, output: Output, len: u64) -> ProgressBar {
        match self.is_stdout() && stdout_is_terminal() {
            true => ProgressBar::hidden(),
            false => output.bar(Some(len)),
        }
    }

    /// What to say of bytes that did not arrive; None where nobody reads standard output any more.
    pub(super) fn failed(&self, failure: Failure) -> Option<Problem> {
        match failure {
            Failure::Write(error) if self.is_stdout() && error.kind() == io::ErrorKind::BrokenPipe => None,
            Failure::Write(error) => Some(cannot_write(&self.name(), &error)),
            Failure::Node(problem) => Some(problem),
        }
    }

    /// Gives a complete file its name, durably; without force never in the place of another that came meanwhile.
    pub(super) async fn finish(self, sink: Sink) -> Result<(), Problem> {
        let name = self.name();
        let Self::File { path, partial, force } = self else { return Ok(()) };
        sink.finish().await.map_err(|error| cannot_write(&name, &error))?;
        let named = if force { partial.persist(&path) } else { partial.persist_noclobber(&path) };
        match named {
            Ok(_) => Ok(()),
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => Err(exists(&path)),
            Err(failed) => Err(cannot_write(&name, &failed.error)),
        }
    }
}

fn is(found: &io::Result<fs::Metadata>, kind: impl Fn(&fs::Metadata) -> bool) -> bool {
    found.as_ref().is_ok_and(kind)
}

fn exists(path: &Path) -> Problem {
    Problem::new(Code::Exists, format!("{} exists and was left as it is", path.display()))
        .hint("Add --force to replace it, or name another file.")
}
