//! The object store alone: its threads, rules and commits, fed as a put feeds it.
//!
//! What is written has verified before the clock starts. What is read verifies again, because the store knows no other way
//! to read; the stage says so by its name.

use futures::stream::{self, StreamExt, TryStreamExt};
use p2p_api::bench::Stage;
use p2p_api::{Code, Problem};
use p2p_dht::hold::{self, Stored};
use p2p_dht::object::Object;
use p2p_dht::store::{ObjectStore, StoreError, UploadId};
use p2p_dht::tree::{GEOMETRY, ObjectRef};

use super::{Clock, Scratch, failed, leaves};
use crate::store::Objects;

/// Objects that wait for the writer at once, as in a put.
const WRITES_AT_ONCE: usize = 16;

/// Objects that are asked of the readers at once, as one source is asked in a get.
const READS_AT_ONCE: usize = 8;

const UPLOAD: UploadId = UploadId([1; 16]);

pub(super) async fn measure(scratch: &Scratch, size: u64) -> Result<Vec<Stage>, Problem> {
    let store = Objects::open(scratch.path(), u64::MAX).map_err(failed("the store does not open"))?;
    let leaf = |(n, bytes)| Object::leaf(bytes, n as u64 * GEOMETRY.leaf_len);
    let objects: Vec<Object> = leaves(size).into_iter().enumerate().map(leaf).collect();
    let references: Vec<ObjectRef> = objects.iter().map(|object| *object.reference()).collect();

    let clock = Clock::start();
    stream::iter(objects.into_iter().map(|object| write(&store, object)))
        .buffered(WRITES_AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    let written = clock.stop("write", size);

    let clock = Clock::start();
    let read: Vec<u64> = stream::iter(references.into_iter().map(|reference| read(&store, reference)))
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let read = clock.stop("read_verified", read.iter().sum());

    let clock = Clock::start();
    store.close().await;
    Ok(vec![written, read, clock.stop("close", 0)])
}

async fn write(store: &Objects, object: Object) -> Result<(), Problem> {
    let len = object.payload().len();
    match store.write(len, move |tx| hold::store(tx, &object, Some(UPLOAD))).await {
        Ok(Stored::Stored | Stored::Mended) => Ok(()),
        Ok(Stored::Full) | Err(StoreError::DiskFull) => {
            Err(Problem::new(Code::Full, "the disk has no room for the measurement"))
        }
        Err(error) => Err(failed("the store fails")(error)),
    }
}

async fn read(store: &Objects, reference: ObjectRef) -> Result<u64, Problem> {
    let found = store.read(move |view| view.object(&reference)).await.map_err(failed("the store fails"))?;
    let object = found.ok_or_else(|| Problem::new(Code::Other, "the store has lost what was just written"))?;
    Ok(object.payload().len() as u64)
}
