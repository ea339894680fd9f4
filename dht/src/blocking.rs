//! Hashing off the threads that serve everybody.

use bytes::Bytes;

use crate::object::{Mismatch, Object};
use crate::tree::ObjectRef;

/// Shorter objects are hashed where they are: handing them over costs more.
const INLINE_LEN_MAX: usize = 16 << 10;

/// [`Object::verify`], elsewhere where it takes long.
pub(crate) async fn verify(reference: ObjectRef, bytes: Bytes) -> Result<Object, Mismatch> {
    if bytes.len() <= INLINE_LEN_MAX {
        return Object::verify(reference, bytes);
    }
    run(move || Object::verify(reference, bytes)).await
}

/// Runs work that takes long.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It ends with the runtime only; a panic inside is passed on.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => std::future::pending().await,
        },
    }
}
