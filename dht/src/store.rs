//! The port to the disk: what an object store can do inside a transaction, and the version in memory.
//!
//! The rules of what may be done ([`crate::hold`]) are functions over [`ObjectTx`], so they are written once and run
//! unchanged on SQLite's writer thread and in memory. A store owns its transactions: a rule is handed to it as a closure,
//! and its result comes back only after the transaction is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::object::Object;
use crate::tree::{Id, ObjectRef, RootId};

/// Names one upload: 128 random bits, chosen by whoever uploads. What a member sends is kept under a name of its own, see
/// [`UploadId::of`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UploadId(pub [u8; 16]);

impl std::fmt::Debug for UploadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}..", data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

/// Time that the store has been open, summed over all runs: a clock that nobody can set and that stands still while the
/// node does, so that holds do not expire because a machine was switched off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunTime(pub Duration);

/// Names an object inside one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row(pub i64);

/// The row of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub row: Row,
    /// How many uploads hold it; with none it is cache.
    pub holds: u64,
    /// Its bytes are known to have changed: it does not count as there, and its holds wait for it to be mended.
    pub damaged: bool,
}

/// Stands for a member in the names of its uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SenderId(pub [u8; 8]);

impl UploadId {
    /// The upload of a sender that `name` stands for among all of that sender. They begin alike, and so can be counted.
    pub fn of(sender: SenderId, name: [u8; 8]) -> Self {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&sender.0);
        id[8..].copy_from_slice(&name);
        Self(id)
    }

    /// Whose it is, where a member sent it.
    pub fn sender(&self) -> SenderId {
        let mut sender = [0; 8];
        sender.copy_from_slice(&self.0[..8]);
        SenderId(sender)
    }
}

/// How much is kept for one sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Its uploads.
    pub uploads: u64,
    /// The holds of all of them.
    pub holds: u64,
}

/// What is known of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The file it became, once bound. A bound upload's holds stay.
    pub root: Option<RootId>,
    /// When it was last heard of.
    pub last_sign: RunTime,
    /// How many objects it holds.
    pub objects: u64,
}

/// A finished upload of this node that has not yet reached its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Holds the objects here until enough copies are bound.
    pub staging: UploadId,
    /// Names the copies at their holders.
    pub copies: UploadId,
    /// The file.
    pub root: RootId,
    /// Its length in bytes.
    pub len: u64,
    /// Copies wanted.
    pub replicas: u32,
}

/// How much a store has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Objects.
    pub objects: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

/// Why a store could not do what it was asked. Nothing of the transaction has happened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The bytes of an object are not what was stored, or gone.
    #[error("the object {:?} is damaged on disk", .0.id)]
    Damaged(ObjectRef),
    /// The disk or the file system has no room.
    #[error("the disk is full")]
    DiskFull,
    /// The disk failed, or the database for another reason than the following; the node stops acknowledging.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The database itself is damaged, not only the bytes of an object; the node stops acknowledging.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether nothing can be expected of the store any more.
    pub fn is_final(&self) -> bool {
        match self {
            StoreError::Failed(_) | StoreError::Corrupt(_) | StoreError::Closed => true,
            StoreError::Damaged(_) | StoreError::DiskFull => false,
        }
    }
}

/// Result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// Reading inside one transaction.
pub trait ObjectView {
    /// The object, verified. None if it is not there or known to be damaged; never None because it could not be read.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when its bytes do not verify, until somebody has taken note of it.
    fn object(&mut self, reference: &ObjectRef) -> StoreResult<Option<Object>>;

    /// The length of a file whose root object is there and not known to be damaged.
    ///
    /// # Errors
    /// When the store fails.
    fn root_len(&mut self, root: &RootId) -> StoreResult<Option<u64>>;

    /// The root object of a file, whose length only the store knows.
    ///
    /// # Errors
    /// As [`Self::object`].
    fn root(&mut self, root: &RootId) -> StoreResult<Option<Object>> {
        match self.root_len(root)? {
            Some(len) => self.object(&ObjectRef::root(*root, len)),
            None => Ok(None),
        }
    }

    /// The row of exactly this object, be it damaged or not, without reading its payload.
    ///
    /// # Errors
    /// When the store fails.
    fn row(&mut self, reference: &ObjectRef) -> StoreResult<Option<Found>>;

    /// Whether exactly this object is there, without reading its payload.
    ///
    /// # Errors
    /// When the store fails.
    fn find(&mut self, reference: &ObjectRef) -> StoreResult<Option<Found>> {
        Ok(self.row(reference)?.filter(|found| !found.damaged))
    }

    /// Objects that are held and known to be damaged, by rows after this one.
    ///
    /// # Errors
    /// When the store fails.
    fn damaged(&mut self, after: Row, limit: u32) -> StoreResult<Vec<(Row, ObjectRef)>>;

    /// Files for which an object is held: those that uploads are bound to, and those that lack copies.
    ///
    /// # Errors
    /// When the store fails.
    fn roots(&mut self, row: Row, limit: u32) -> StoreResult<Vec<RootId>>;

    /// Whether a hold bound to `root` is on the object.
    ///
    /// # Errors
    /// When the store fails.
    fn is_bound(&mut self, row: Row, root: &RootId) -> StoreResult<bool>;

    /// An upload that is known.
    ///
    /// # Errors
    /// When the store fails.
    fn upload(&mut self, id: UploadId) -> StoreResult<Option<Upload>>;

    /// Finished uploads of this node that lack copies.
    ///
    /// # Errors
    /// When the store fails.
    fn pending(&mut self) -> StoreResult<Vec<Pending>>;

    /// How much there is.
    ///
    /// # Errors
    /// When the store fails.
    fn totals(&mut self) -> StoreResult<Totals>;

    /// Most bytes of payload that the store may hold.
    ///
    /// # Errors
    /// When the store fails.
    fn bytes_max(&mut self) -> StoreResult<u64>;

    /// Objects without a hold, oldest first, and how long their payloads are.
    ///
    /// # Errors
    /// When the store fails.
    fn oldest_cache(&mut self, limit: u32) -> StoreResult<Vec<(Row, u64)>>;
}

/// Writing inside one transaction.
///
/// All methods fail as [`ObjectView`]'s do. After an error the whole transaction is undone.
pub trait ObjectTx: ObjectView {
    /// The store's own clock.
    fn now(&self) -> RunTime;

    /// Whether the disk has no room left, so that only what frees may be written.
    fn is_tight(&self) -> bool;

    /// Adds an object that is not there, as cache.
    fn insert(&mut self, object: &Object) -> StoreResult<Row>;

    /// Takes note that the bytes of an object have changed.
    fn set_damaged(&mut self, row: Row) -> StoreResult<()>;

    /// Puts the right bytes in place of damaged ones; its holds stay.
    fn mend(&mut self, row: Row, object: &Object) -> StoreResult<()>;

    /// How many of the objects that an upload holds are known to be damaged.
    fn damaged_of(&mut self, upload: UploadId) -> StoreResult<u64>;

    /// Removes an object that nobody holds; returns its payload's length.
    fn remove(&mut self, row: Row) -> StoreResult<u64>;

    /// Makes an upload known, or changes what is known: `root` and `last_sign`.
    fn set_upload(&mut self, id: UploadId, root: Option<RootId>, last_sign: RunTime) -> StoreResult<()>;

    /// Lets a known upload hold an object; false if it did already.
    fn hold(&mut self, row: Row, upload: UploadId) -> StoreResult<bool>;

    /// How much is kept for a sender.
    fn sent_by(&mut self, sender: SenderId) -> StoreResult<Sent>;

    /// Takes up to `limit` holds off an upload and, once it has none, forgets it; true when it is forgotten. Objects
    /// without any hold left become the newest cache.
    fn release(&mut self, upload: UploadId, limit: u32) -> StoreResult<bool>;

    /// Unbound uploads last heard of before `before`, oldest first.
    fn stale_uploads(&mut self, before: RunTime, limit: u32) -> StoreResult<Vec<UploadId>>;

    /// Remembers an upload that lacks copies.
    fn add_pending(&mut self, pending: &Pending) -> StoreResult<()>;

    /// Forgets it again.
    fn remove_pending(&mut self, staging: UploadId) -> StoreResult<()>;
}

/// A store that runs rules in transactions.
///
/// `weight` is about how many bytes a rule writes, for the size of commits.
pub trait ObjectStore: Clone + Send + Sync + 'static {
    /// Runs a rule in a transaction; the result comes once that is durable.
    fn write<R: Send + 'static>(
        &self,
        weight: usize,
        rule: impl FnOnce(&mut dyn ObjectTx) -> StoreResult<R> + Send + 'static,
    ) -> impl Future<Output = StoreResult<R>> + Send;

    /// Runs a query on a consistent state.
    fn read<R: Send + 'static>(
        &self,
        query: impl FnOnce(&mut dyn ObjectView) -> StoreResult<R> + Send + 'static,
    ) -> impl Future<Output = StoreResult<R>> + Send;
}

/// The store in memory: the reference that others are compared with, and what simulations use.
#[derive(Clone)]
pub struct MemoryStore {
    tx: Arc<Mutex<MemoryTx>>,
}

impl MemoryStore {
    /// An empty store for at most `bytes_max` bytes of payload.
    pub fn new(bytes_max: u64) -> Self {
        Self { tx: Arc::new(Mutex::new(MemoryTx { bytes_max, ..MemoryTx::default() })) }
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.lock().now.0 += time;
    }

    /// Lets the disk have no room left, or some again.
    pub fn set_tight(&self, tight: bool) {
        self.lock().tight = tight;
    }

    /// Changes the bytes of an object, as a disk does that goes bad: whoever reads it finds out.
    pub fn damage(&self, reference: &ObjectRef) {
        let mut tx = self.lock();
        let row = tx.rows.get(&reference.id).copied();
        if let Some(stored) = row.and_then(|row| tx.objects.get_mut(&row)) {
            stored.rotten = true;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, MemoryTx> {
        self.tx.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectStore for MemoryStore {
    async fn write<R: Send + 'static>(
        &self,
        _weight: usize,
        rule: impl FnOnce(&mut dyn ObjectTx) -> StoreResult<R> + Send + 'static,
    ) -> StoreResult<R> {
        let mut tx = self.lock();
        let before = tx.clone();
        let result = rule(&mut *tx);
        if result.is_err() {
            *tx = before;
        }
        result
    }

    async fn read<R: Send + 'static>(
        &self,
        query: impl FnOnce(&mut dyn ObjectView) -> StoreResult<R> + Send + 'static,
    ) -> StoreResult<R> {
        query(&mut *self.lock())
    }
}

#[derive(Clone, Default)]
struct MemoryTx {
    now: RunTime,
    bytes_max: u64,
    tight: bool,
    next_row: i64,
    /// Grows whenever an object becomes cache, so that the oldest can be told.
    next_age: u64,
    rows: BTreeMap<Id, Row>,
    objects: BTreeMap<Row, Stored>,
    uploads: BTreeMap<UploadId, (Option<RootId>, RunTime, BTreeSet<Row>)>,
    pending: BTreeMap<UploadId, Pending>,
}

#[derive(Clone)]
struct Stored {
    object: Object,
    /// The bytes have changed.
    rotten: bool,
    /// Somebody has taken note of that.
    damaged: bool,
    holders: BTreeSet<UploadId>,
    age: u64,
}

impl MemoryTx {
    fn stored(&self, reference: &ObjectRef) -> Option<(Row, &Stored)> {
        let row = *self.rows.get(&reference.id)?;
        let stored = self.objects.get(&row)?;
        (stored.object.reference() == reference).then_some((row, stored))
    }

    fn age(&mut self) -> u64 {
        self.next_age += 1;
        self.next_age
    }
}

impl ObjectView for MemoryTx {
    fn object(&mut self, reference: &ObjectRef) -> StoreResult<Option<Object>> {
        match self.stored(reference) {
            None => Ok(None),
            Some((_, stored)) if stored.damaged => Ok(None),
            Some((_, stored)) if stored.rotten => Err(StoreError::Damaged(*reference)),
            Some((_, stored)) => Ok(Some(stored.object.clone())),
        }
    }

    fn root_len(&mut self, root: &RootId) -> StoreResult<Option<u64>> {
        let row = self.rows.get(&Id::Root(*root));
        let stored = row.and_then(|row| self.objects.get(row)).filter(|stored| !stored.damaged);
        Ok(stored.map(|stored| stored.object.reference().len))
    }

    fn row(&mut self, reference: &ObjectRef) -> StoreResult<Option<Found>> {
        let found = self.stored(reference);
        let found = found.map(|(row, stored)| (row, stored.holders.len() as u64, stored.damaged));
        Ok(found.map(|(row, holds, damaged)| Found { row, holds, damaged }))
    }

    fn damaged(&mut self, after: Row, limit: u32) -> StoreResult<Vec<(Row, ObjectRef)>> {
        let later = self.objects.range((Bound::Excluded(after), Bound::Unbounded));
        let damaged = later.filter(|(_, stored)| stored.damaged && !stored.holders.is_empty());
        Ok(damaged.take(limit as usize).map(|(row, stored)| (*row, *stored.object.reference())).collect())
    }

    fn roots(&mut self, row: Row, limit: u32) -> StoreResult<Vec<RootId>> {
        let holders = self.objects.get(&row).map(|stored| stored.holders.iter()).into_iter().flatten();
        let root = |upload: &UploadId| {
            let bound = self.uploads.get(upload).and_then(|(root, _, _)| *root);
            bound.or_else(|| self.pending.get(upload).map(|pending| pending.root))
        };
        let roots: BTreeSet<RootId> = holders.flat_map(root).collect();
        Ok(roots.into_iter().take(limit as usize).collect())
    }

    fn is_bound(&mut self, row: Row, root: &RootId) -> StoreResult<bool> {
        let holders = self.objects.get(&row).map(|stored| stored.holders.iter()).into_iter().flatten();
        Ok(holders.filter_map(|upload| self.uploads.get(upload)).any(|(bound, _, _)| bound.as_ref() == Some(root)))
    }

    fn upload(&mut self, id: UploadId) -> StoreResult<Option<Upload>> {
        let upload = self.uploads.get(&id);
        Ok(upload.map(|(root, last_sign, rows)| Upload {
            root: *root,
            last_sign: *last_sign,
            objects: rows.len() as u64,
        }))
    }

    fn pending(&mut self) -> StoreResult<Vec<Pending>> {
        Ok(self.pending.values().copied().collect())
    }

    fn totals(&mut self) -> StoreResult<Totals> {
        let bytes = self.objects.values().map(|stored| stored.object.payload().len() as u64).sum();
        Ok(Totals { objects: self.objects.len() as u64, bytes })
    }

    fn bytes_max(&mut self) -> StoreResult<u64> {
        Ok(self.bytes_max)
    }

    fn oldest_cache(&mut self, limit: u32) -> StoreResult<Vec<(Row, u64)>> {
        let cache = self.objects.iter().filter(|(_, stored)| stored.holders.is_empty());
        let mut oldest: Vec<_> =
            cache.map(|(row, stored)| (stored.age, *row, stored.object.payload().len() as u64)).collect();
        oldest.sort_unstable();
        Ok(oldest.into_iter().take(limit as usize).map(|(_, row, len)| (row, len)).collect())
    }
}

impl ObjectTx for MemoryTx {
    fn now(&self) -> RunTime {
        self.now
    }

    fn is_tight(&self) -> bool {
        self.tight
    }

    fn insert(&mut self, object: &Object) -> StoreResult<Row> {
        self.next_row += 1;
        let row = Row(self.next_row);
        let age = self.age();
        self.rows.insert(object.reference().id, row);
        let stored = Stored { object: object.clone(), rotten: false, damaged: false, holders: BTreeSet::new(), age };
        self.objects.insert(row, stored);
        Ok(row)
    }

    fn set_damaged(&mut self, row: Row) -> StoreResult<()> {
        if let Some(stored) = self.objects.get_mut(&row) {
            stored.damaged = true;
        }
        Ok(())
    }

    fn mend(&mut self, row: Row, object: &Object) -> StoreResult<()> {
        if let Some(stored) = self.objects.get_mut(&row) {
            *stored = Stored { object: object.clone(), rotten: false, damaged: false, ..stored.clone() };
        }
        Ok(())
    }

    fn damaged_of(&mut self, upload: UploadId) -> StoreResult<u64> {
        let held = self.uploads.get(&upload).map(|(_, _, rows)| rows.iter()).into_iter().flatten();
        Ok(held.filter_map(|row| self.objects.get(row)).filter(|stored| stored.damaged).count() as u64)
    }

    fn remove(&mut self, row: Row) -> StoreResult<u64> {
        let Some(stored) = self.objects.remove(&row) else { return Ok(0) };
        self.rows.remove(&stored.object.reference().id);
        Ok(stored.object.payload().len() as u64)
    }

    fn set_upload(&mut self, id: UploadId, root: Option<RootId>, last_sign: RunTime) -> StoreResult<()> {
        let upload = self.uploads.entry(id).or_default();
        upload.0 = root;
        upload.1 = last_sign;
        Ok(())
    }

    fn hold(&mut self, row: Row, upload: UploadId) -> StoreResult<bool> {
        let known = self.uploads.get_mut(&upload).ok_or_else(|| StoreError::Failed("unknown upload".into()))?;
        let stored = self.objects.get_mut(&row).ok_or_else(|| StoreError::Failed("unknown object".into()))?;
        known.2.insert(row);
        Ok(stored.holders.insert(upload))
    }

    fn sent_by(&mut self, sender: SenderId) -> StoreResult<Sent> {
        let (first, last) = (UploadId::of(sender, [0; 8]), UploadId::of(sender, [255; 8]));
        let of_sender = self.uploads.range(first..=last);
        Ok(of_sender.fold(Sent::default(), |sent, (_, (_, _, rows))| Sent {
            uploads: sent.uploads + 1,
            holds: sent.holds + rows.len() as u64,
        }))
    }

    fn release(&mut self, upload: UploadId, limit: u32) -> StoreResult<bool> {
        let Some((_, _, rows)) = self.uploads.get_mut(&upload) else { return Ok(true) };
        let released: Vec<Row> = rows.iter().copied().take(limit as usize).collect();
        for row in &released {
            rows.remove(row);
        }
        let forgotten = rows.is_empty();
        if forgotten {
            self.uploads.remove(&upload);
        }
        for row in released {
            let age = self.age();
            if let Some(stored) = self.objects.get_mut(&row) {
                stored.holders.remove(&upload);
                if stored.holders.is_empty() {
                    stored.age = age;
                }
            }
        }
        Ok(forgotten)
    }

    fn stale_uploads(&mut self, before: RunTime, limit: u32) -> StoreResult<Vec<UploadId>> {
        let unbound = self.uploads.iter().filter(|(_, (root, last_sign, _))| root.is_none() && *last_sign < before);
        let mut stale: Vec<_> = unbound.map(|(id, (_, last_sign, _))| (*last_sign, *id)).collect();
        stale.sort_unstable();
        Ok(stale.into_iter().take(limit as usize).map(|(_, id)| id).collect())
    }

    fn add_pending(&mut self, pending: &Pending) -> StoreResult<()> {
        self.pending.insert(pending.staging, *pending);
        Ok(())
    }

    fn remove_pending(&mut self, staging: UploadId) -> StoreResult<()> {
        self.pending.remove(&staging);
        Ok(())
    }
}

#[cfg(any(test, feature = "contract"))]
pub mod contract;

#[cfg(test)]
mod tests {
    use super::*;

    struct InMemory;

    impl contract::Subject for InMemory {
        type Store = MemoryStore;

        fn open(&self, bytes_max: u64) -> MemoryStore {
            MemoryStore::new(bytes_max)
        }

        fn advance(&self, store: &MemoryStore, time: Duration) {
            store.advance(time);
        }

        fn damage(&self, store: &MemoryStore, reference: &ObjectRef) {
            store.damage(reference);
        }
    }

    #[tokio::test]
    async fn the_memory_store_keeps_the_contract() {
        contract::check(&InMemory).await;
    }

    #[tokio::test]
    async fn the_same_history_leads_to_the_same_state() {
        contract::check_same_history(&MemoryStore::new(1000), &MemoryStore::new(1000), 1, 200).await;
    }
}
