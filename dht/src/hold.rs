//! Holds: why a node keeps an object.
//!
//! Whoever uploads names the upload, and every object that is pushed under that name is held. At the end the upload is
//! *bound* to the file it became: from then on its holds stay. An upload that is never bound expires after
//! [`UNBOUND_TIME_MAX`]; objects without a hold are cache and go, oldest first, when room is needed.
//!
//! Every function here is one rule, to be run inside a transaction.

use std::time::Duration;

use crate::object::Object;
use crate::store::{Found, ObjectTx, ObjectView, Row, RunTime, Sent, StoreError, StoreResult, UploadId};
use crate::tree::{ObjectRef, RootId};

/// How long an upload that is not bound is kept after its last sign, in running time of the store.
pub const UNBOUND_TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// The part of the configured size that may be filled, in percent: the rest is left for what is already promised.
pub const FILL_PERCENT_MAX: u64 = 95;

/// Uploads that one member may have here, which are as many files: about 400 MB of rows.
pub const UPLOADS_PER_SENDER_MAX: u64 = 4 << 20;

/// Holds of all uploads that one member has here: about 400 MB of rows, for 16 TiB of content.
pub const HOLDS_PER_SENDER_MAX: u64 = 16 << 20;

/// Files that are named for a damaged object, though it may be held for more.
const ROOTS_MAX: u32 = 8;

/// Damaged objects that are looked at to explain why a file cannot be had.
const DAMAGED_LOOKED_AT: u32 = 1000;

/// Objects that one transaction collects at most, so that it stays short. Cache that goes is not counted: nobody was
/// promised it.
const COLLECTED_PER_TX: u32 = 128;

/// Whether an object was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is here, and held where an upload was named.
    Stored,
    /// Likewise, in place of bytes that were damaged.
    Mended,
    /// There is no room.
    Full,
}

/// What a node has to say to an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// What is here is held; for each object, whether it is wanted because it is not.
    Wanted(Vec<bool>),
    /// There is no room, not even for holds.
    Full,
}

/// What a node has to say to a bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The holds stay.
    Bound,
    /// It holds only so many objects of this upload; nothing was bound.
    Missing(u64),
}

/// Keeps an object, under an upload or as cache.
///
/// # Errors
/// When the store fails.
pub fn store(tx: &mut dyn ObjectTx, object: &Object, upload: Option<UploadId>) -> StoreResult<Stored> {
    if tx.is_tight() {
        return Ok(Stored::Full);
    }
    let known = tx.row(object.reference())?;
    let row = match known {
        Some(Found { row, damaged: false, .. }) => row,
        Some(Found { row, damaged: true, .. }) => {
            tx.mend(row, object)?;
            row
        }
        None if !make_room(tx, object.payload().len() as u64)? => return Ok(Stored::Full),
        None => tx.insert(object)?,
    };
    if let Some(upload) = upload {
        touch(tx, upload)?;
        tx.hold(row, upload)?;
    }
    Ok(if known.is_some_and(|known| known.damaged) { Stored::Mended } else { Stored::Stored })
}

/// Whether a member may have so many more holds under an upload of its, when it may have `most` in all. One that is there
/// already counts again, so that nothing has to be looked up for it.
///
/// # Errors
/// When the store fails.
pub fn may_hold(tx: &mut dyn ObjectTx, upload: UploadId, holds: u64, most: &Sent) -> StoreResult<bool> {
    let sent = tx.sent_by(upload.sender())?;
    let uploads = sent.uploads + u64::from(tx.upload(upload)?.is_none());
    Ok(uploads <= most.uploads && sent.holds + holds <= most.holds)
}

/// Holds those of some objects that are here, and wants the others.
///
/// # Errors
/// When the store fails.
pub fn offer(tx: &mut dyn ObjectTx, upload: UploadId, objects: &[ObjectRef]) -> StoreResult<Offered> {
    if tx.is_tight() {
        return Ok(Offered::Full);
    }
    let mut wanted = Vec::with_capacity(objects.len());
    for reference in objects {
        let found = tx.find(reference)?;
        if let Some(Found { row, .. }) = found {
            touch(tx, upload)?;
            tx.hold(row, upload)?;
        }
        wanted.push(found.is_none());
    }
    Ok(Offered::Wanted(wanted))
}

/// Makes the holds of an upload stay, if they are at least `objects`.
///
/// # Errors
/// When the store fails.
pub fn bind(tx: &mut dyn ObjectTx, upload: UploadId, root: RootId, objects: u64) -> StoreResult<Bound> {
    let known = tx.upload(upload)?;
    // What is damaged is brought again by whoever is told that it is missing.
    let held = known.map_or(0, |upload| upload.objects) - tx.damaged_of(upload)?;
    // An upload is one file: bound to another root it holds nothing of this one.
    let other = known.and_then(|upload| upload.root).is_some_and(|bound| bound != root);
    if other || held < objects || held == 0 {
        return Ok(Bound::Missing(if other { 0 } else { held }));
    }
    tx.set_upload(upload, Some(root), tx.now())?;
    Ok(Bound::Bound)
}

/// Takes note that an upload is still going on.
///
/// # Errors
/// When the store fails.
pub fn keep(tx: &mut dyn ObjectTx, upload: UploadId) -> StoreResult<()> {
    if tx.upload(upload)?.is_some() { touch(tx, upload) } else { Ok(()) }
}

/// Lets go of up to a transaction's worth of an upload's holds; true when the upload is gone. To be repeated until then.
///
/// # Errors
/// When the store fails.
pub fn release(tx: &mut dyn ObjectTx, upload: UploadId) -> StoreResult<bool> {
    tx.release(upload, COLLECTED_PER_TX)
}

/// Forgets that an upload lacks copies, and starts to let go of what was held for it.
///
/// # Errors
/// When the store fails.
pub fn settle(tx: &mut dyn ObjectTx, staging: UploadId) -> StoreResult<bool> {
    tx.remove_pending(staging)?;
    release(tx, staging)
}

/// What there was to expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// Nothing.
    Nothing,
    /// An upload has lost some of its holds.
    Part,
    /// An upload is gone.
    Upload,
}

/// Lets go of uploads that nobody has spoken of for [`UNBOUND_TIME_MAX`], a bounded part at a time: to be repeated until
/// there is nothing.
///
/// # Errors
/// When the store fails.
pub fn expire(tx: &mut dyn ObjectTx) -> StoreResult<Expired> {
    let Some(before) = tx.now().0.checked_sub(UNBOUND_TIME_MAX) else { return Ok(Expired::Nothing) };
    let pending: Vec<UploadId> = tx.pending()?.into_iter().map(|pending| pending.staging).collect();
    let stale = tx.stale_uploads(RunTime(before), pending.len() as u32 + 1)?;
    // What this node itself has yet to spread is not stale, however long that takes.
    match stale.into_iter().find(|upload| !pending.contains(upload)) {
        Some(upload) => Ok(if release(tx, upload)? { Expired::Upload } else { Expired::Part }),
        None => Ok(Expired::Nothing),
    }
}

/// What there is to an object that is said to be damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is as it should be, or not here at all.
    None,
    /// It has been known before.
    Known,
    /// It was cache, and is gone.
    Gone,
    /// It is held for these files, and does not count as there until it is mended. None as long as nothing is bound.
    Held(Vec<RootId>),
}

/// Looks at an object that is said to be damaged, and takes note of it if it is.
///
/// # Errors
/// When the store fails.
pub fn note_damage(tx: &mut dyn ObjectTx, reference: &ObjectRef) -> StoreResult<Damage> {
    let Some(found) = tx.row(reference)? else { return Ok(Damage::None) };
    if found.damaged {
        return Ok(Damage::Known);
    }
    match tx.object(reference) {
        Err(StoreError::Damaged(_)) => {}
        Err(error) => return Err(error),
        // It was mended meanwhile.
        Ok(_) => return Ok(Damage::None),
    }
    if found.holds == 0 {
        tx.remove(found.row)?;
        return Ok(Damage::Gone);
    }
    tx.set_damaged(found.row)?;
    Ok(Damage::Held(tx.roots(found.row, ROOTS_MAX)?))
}

/// Objects that are held and known to be damaged, by rows after this one, each with the files that it is held for.
///
/// # Errors
/// When the store fails.
pub fn damaged(view: &mut dyn ObjectView, after: Row, limit: u32) -> StoreResult<Vec<(Row, ObjectRef, Vec<RootId>)>> {
    let damaged = view.damaged(after, limit)?;
    damaged.into_iter().map(|(row, reference)| Ok((row, reference, view.roots(row, ROOTS_MAX)?))).collect()
}

/// Whether an object of this file is known to be damaged here, among the first that are.
///
/// # Errors
/// When the store fails.
pub fn is_damaged(view: &mut dyn ObjectView, root: &RootId) -> StoreResult<bool> {
    let damaged = damaged(view, Row(i64::MIN), DAMAGED_LOOKED_AT)?;
    Ok(damaged.iter().any(|(_, _, files)| files.contains(root)))
}

/// How many of some objects are here with a hold bound to `root`: one flag each.
///
/// # Errors
/// When the store fails.
pub fn bound(view: &mut dyn ObjectView, root: &RootId, objects: &[ObjectRef]) -> StoreResult<Vec<bool>> {
    let is_bound = |reference: &ObjectRef| match view.find(reference)? {
        Some(found) => view.is_bound(found.row, root),
        None => Ok(false),
    };
    objects.iter().map(is_bound).collect()
}

/// Bytes that there is room for, with what can be made of the oldest cache; less than a leaf is as good as nothing.
///
/// # Errors
/// When the store fails.
pub fn room_left(view: &mut dyn ObjectView) -> StoreResult<u64> {
    let cache: u64 = view.oldest_cache(COLLECTED_PER_TX)?.iter().map(|(_, len)| len).sum();
    Ok(fillable(view)?.saturating_sub(view.totals()?.bytes).saturating_add(cache))
}

/// Bytes of payload that may be stored.
fn fillable(view: &mut dyn ObjectView) -> StoreResult<u64> {
    Ok(view.bytes_max()? / 100 * FILL_PERCENT_MAX)
}

/// Frees cache and expired uploads until `bytes` more fit; false if they do not.
fn make_room(tx: &mut dyn ObjectTx, bytes: u64) -> StoreResult<bool> {
    let limit = fillable(tx)?;
    let mut used = tx.totals()?.bytes;
    if used + bytes > limit {
        // One batch: what else has expired goes with the next object, or by the regular collection.
        expire(tx)?;
    }
    while used + bytes > limit {
        let oldest = tx.oldest_cache(COLLECTED_PER_TX)?;
        if oldest.is_empty() {
            return Ok(false);
        }
        for (row, _) in oldest {
            if used + bytes <= limit {
                break;
            }
            used -= tx.remove(row)?;
        }
    }
    Ok(true)
}

fn touch(tx: &mut dyn ObjectTx, upload: UploadId) -> StoreResult<()> {
    let root = tx.upload(upload)?.and_then(|upload| upload.root);
    tx.set_upload(upload, root, tx.now())
}
