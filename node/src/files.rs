//! Small files in the home, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Replaces a file, which this user alone may read, so that after a crash either the old or the new content is there, and durable once this returns.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("a file needs a folder"))?;
    let mut name = path.file_name().ok_or_else(|| io::Error::other("a file needs a name"))?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = dir.join(name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Makes a folder for this user alone, and those it lies in, where they are missing; durable once this returns.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    // A folder's name stands in the one above it.
    missing.into_iter().filter_map(Path::parent).try_for_each(|above| File::open(above)?.sync_all())
}

/// Longest file that is read, in bytes: none of the home's small files comes near it.
const READ_LEN_MAX: u64 = 4 << 20;

/// The content of a file, or None where there is none.
pub(crate) fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(READ_LEN_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > READ_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is far longer than such a file can be"));
    }
    Ok(Some(bytes))
}
