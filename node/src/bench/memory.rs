//! Stages that need no protocol: hashing, a socket, an output file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use p2p_api::Problem;
use p2p_api::bench::Stage;

use super::{Clock, Scratch, failed, leaves};

/// Bytes that go through the socket at a time.
const SOCKET_LEN: usize = 64 << 10;

/// BLAKE3 of all bytes on one thread.
pub(super) fn hash(size: u64) -> Stage {
    let leaves = leaves(size);
    let clock = Clock::start();
    let mut hasher = blake3::Hasher::new();
    for leaf in &leaves {
        hasher.update(leaf);
    }
    std::hint::black_box(hasher.finalize());
    clock.stop("hash", size)
}

/// What it costs to hand bytes to another process by a Unix socket, both sides together.
pub(super) fn socket(size: u64) -> Result<Stage, Problem> {
    let leaves = leaves(size);
    let broken = failed("a socket does not carry the bytes");
    let (mut near, mut far) = UnixStream::pair().map_err(&broken)?;
    let clock = Clock::start();
    let reader = thread::spawn(move || -> io::Result<u64> {
        let mut buffer = vec![0; SOCKET_LEN];
        let mut total = 0;
        loop {
            match far.read(&mut buffer)? {
                0 => return Ok(total),
                len => total += len as u64,
            }
        }
    });
    let write = || leaves.iter().flat_map(|leaf| leaf.chunks(SOCKET_LEN)).try_for_each(|part| near.write_all(part));
    let written = { write }();
    drop(near);
    let read = reader.join().map_err(|_panic| failed("a socket does not carry the bytes")("its reader ended"))?;
    written.map_err(&broken)?;
    Ok(clock.stop("socket", read.map_err(&broken)?))
}

/// A file of all bytes, once as the system takes them and once durable.
pub(super) fn copy(scratch: &Scratch, size: u64) -> Result<Vec<Stage>, Problem> {
    let leaves = leaves(size);
    let mut stages = Vec::new();
    for (name, durable) in [("copy", false), ("copy_fsync", true)] {
        let path = scratch.path().join(name);
        let clock = Clock::start();
        let write = || -> io::Result<()> {
            let mut file = File::create(&path)?;
            leaves.iter().try_for_each(|leaf| file.write_all(leaf))?;
            if durable { file.sync_all() } else { Ok(()) }
        };
        write().map_err(failed("the file cannot be written"))?;
        stages.push(clock.stop(name, size));
        // What is still on its way to the disk must not be waited for by the next one.
        std::fs::remove_file(&path).map_err(failed("the file cannot be removed"))?;
    }
    Ok(stages)
}
