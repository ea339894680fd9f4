//! What every object store owes, whatever it is made of: one suite, run on each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{ObjectStore, ObjectTx, Pending, Row, RunTime, SenderId, Sent, StoreError, StoreResult, UploadId};
use crate::hold::{self, Bound, Damage, Expired, Offered, Stored, UNBOUND_TIME_MAX};
use crate::object::Object;
use crate::tree::{Id, ObjectRef, RootId};

/// A kind of store under test.
pub trait Subject {
    /// The store.
    type Store: ObjectStore;

    /// A new, empty one for at most so many bytes.
    fn open(&self, bytes_max: u64) -> Self::Store;

    /// Lets its running time pass.
    fn advance(&self, store: &Self::Store, time: Duration);

    /// Changes the bytes of an object behind its back.
    fn damage(&self, store: &Self::Store, reference: &ObjectRef);
}

/// Runs the whole suite.
///
/// # Panics
/// When a promise is not kept.
pub async fn check(subject: &impl Subject) {
    objects_come_back_as_they_were(&subject.open(u64::MAX)).await;
    a_reference_with_another_position_finds_nothing(&subject.open(u64::MAX)).await;
    the_same_object_twice_takes_no_more_room(&subject.open(u64::MAX)).await;
    a_failed_rule_leaves_nothing(&subject.open(u64::MAX)).await;
    an_offer_holds_what_is_there_and_wants_the_rest(&subject.open(u64::MAX)).await;
    a_bind_needs_every_object_and_one_root(&subject.open(u64::MAX)).await;
    cache_makes_room_oldest_first_and_held_objects_never(&subject.open(1000)).await;
    pending_uploads_are_remembered_until_settled(&subject.open(u64::MAX)).await;
    unbound_uploads_expire_and_bound_ones_do_not(subject).await;
    what_expired_makes_room(subject).await;
    what_is_damaged_does_not_count_until_it_is_mended(subject).await;
    a_bind_wants_damaged_objects_again(subject).await;
    what_is_kept_for_a_sender_is_counted_and_bounded(subject).await;
    damaged_cache_goes(subject).await;
    what_is_whole_is_not_damaged_by_being_called_so(subject).await;
}

/// Runs the same random operations on two stores, and compares all that can be seen of them after each.
///
/// # Panics
/// When they differ.
pub async fn check_same_history(a: &impl ObjectStore, b: &impl ObjectStore, seed: u64, steps: u32) {
    let mut dice = Dice(seed);
    let scene = Scene::of((0..14).map(object));
    for step in 0..steps {
        let action = Action::roll(&scene, &mut dice);
        let (x, y) = (action.clone().run(&scene, a).await, action.clone().run(&scene, b).await);
        assert_eq!(x, y, "seed {seed}, step {step}: {action:?}");
        assert_eq!(visible(&scene, a).await, visible(&scene, b).await, "seed {seed}, after step {step}: {action:?}");
    }
}

const UPLOAD: UploadId = UploadId([1; 16]);
const OTHER: UploadId = UploadId([2; 16]);

/// The object number `n`, of 100 bytes.
fn object(n: u8) -> Object {
    Object::whole_file(vec![n; 100].into())
}

fn root(object: &Object) -> RootId {
    match object.reference().id {
        Id::Root(root) => root,
        Id::Subtree(_) => panic!("a whole file has a root"),
    }
}

async fn put<S: ObjectStore>(store: &S, object: &Object, upload: Option<UploadId>) -> Stored {
    let object = object.clone();
    store.write(100, move |tx| hold::store(tx, &object, upload)).await.expect("the store works")
}

async fn has<S: ObjectStore>(store: &S, object: &Object) -> bool {
    let reference = *object.reference();
    store.read(move |view| view.find(&reference)).await.expect("the store works").is_some()
}

async fn bind<S: ObjectStore>(store: &S, upload: UploadId, root: RootId, objects: u64) -> Bound {
    store.write(0, move |tx| hold::bind(tx, upload, root, objects)).await.expect("the store works")
}

async fn expire_all<S: ObjectStore>(store: &S) {
    while store.write(0, hold::expire).await.expect("the store works") != Expired::Nothing {}
}

async fn objects_come_back_as_they_were<S: ObjectStore>(store: &S) {
    let empty = Object::whole_file(Bytes::new());
    let leaf = Object::leaf(vec![3; 1 << 20].into(), 5 << 20);
    for object in [empty, object(1), leaf] {
        assert_eq!(put(store, &object, None).await, Stored::Stored);
        let reference = *object.reference();
        let found = store.read(move |view| view.object(&reference)).await.expect("the store works");
        assert_eq!(found.as_ref(), Some(&object));
        if let Id::Root(root) = reference.id {
            let found = store.read(move |view| view.root(&root)).await.expect("the store works");
            assert_eq!(found, Some(object));
        }
    }
    let totals = store.read(|view| view.totals()).await.expect("the store works");
    assert_eq!((totals.objects, totals.bytes), (3, 100 + (1 << 20)));
}

async fn a_reference_with_another_position_finds_nothing<S: ObjectStore>(store: &S) {
    let leaf = Object::leaf(vec![3; 2048].into(), 1 << 20);
    put(store, &leaf, None).await;
    let right = *leaf.reference();
    for wrong in [ObjectRef { offset: 0, ..right }, ObjectRef { len: 2047, ..right }] {
        assert!(store.read(move |view| view.find(&wrong)).await.expect("the store works").is_none());
        assert!(store.read(move |view| view.object(&wrong)).await.expect("the store works").is_none());
    }
}

async fn the_same_object_twice_takes_no_more_room<S: ObjectStore>(store: &S) {
    put(store, &object(1), None).await;
    put(store, &object(1), Some(UPLOAD)).await;
    put(store, &object(1), Some(UPLOAD)).await;
    put(store, &object(1), Some(OTHER)).await;
    let totals = store.read(|view| view.totals()).await.expect("the store works");
    assert_eq!((totals.objects, totals.bytes), (1, 100));
    let upload = store.read(|view| view.upload(UPLOAD)).await.expect("the store works").expect("known");
    assert_eq!(upload.objects, 1);
    let reference = *object(1).reference();
    let found = store.read(move |view| view.find(&reference)).await.expect("the store works").expect("there");
    assert_eq!(found.holds, 2);
}

async fn a_failed_rule_leaves_nothing<S: ObjectStore>(store: &S) {
    let failed: Result<(), StoreError> = store
        .write(100, |tx| {
            hold::store(tx, &object(1), Some(UPLOAD))?;
            Err(StoreError::DiskFull)
        })
        .await;
    assert!(failed.is_err());
    assert!(!has(store, &object(1)).await);
    assert!(store.read(|view| view.upload(UPLOAD)).await.expect("the store works").is_none());
}

async fn an_offer_holds_what_is_there_and_wants_the_rest<S: ObjectStore>(store: &S) {
    put(store, &object(1), None).await;
    let offered = vec![*object(1).reference(), *object(2).reference()];
    let wanted = store.write(0, move |tx| hold::offer(tx, UPLOAD, &offered)).await.expect("the store works");
    assert_eq!(wanted, Offered::Wanted(vec![false, true]));
    let upload = store.read(|view| view.upload(UPLOAD)).await.expect("the store works").expect("known");
    assert_eq!((upload.objects, upload.root), (1, None));
}

async fn a_bind_needs_every_object_and_one_root<S: ObjectStore>(store: &S) {
    let this = root(&object(1));
    assert_eq!(bind(store, UPLOAD, this, 1).await, Bound::Missing(0));
    put(store, &object(1), Some(UPLOAD)).await;
    assert_eq!(bind(store, UPLOAD, this, 2).await, Bound::Missing(1));
    let bound = |store: &S| {
        let store = store.clone();
        async move { store.read(move |view| hold::bound(view, &this, &[*object(1).reference()])).await }
    };
    assert_eq!(bound(store).await.expect("the store works"), [false]);
    assert_eq!(bind(store, UPLOAD, this, 1).await, Bound::Bound);
    assert_eq!(bound(store).await.expect("the store works"), [true]);
    assert_eq!(bind(store, UPLOAD, this, 1).await, Bound::Bound, "a repeated bind is no mistake");
    assert_eq!(bind(store, UPLOAD, root(&object(2)), 1).await, Bound::Missing(0));
    assert_eq!(bound(store).await.expect("the store works"), [true]);
}

async fn cache_makes_room_oldest_first_and_held_objects_never<S: ObjectStore>(store: &S) {
    // 950 bytes may be used: nine objects.
    put(store, &object(0), Some(UPLOAD)).await;
    for n in 1..9 {
        assert_eq!(put(store, &object(n), None).await, Stored::Stored);
    }
    // The oldest becomes the newest by being held and let go.
    put(store, &object(1), Some(OTHER)).await;
    assert!(store.write(0, |tx| hold::release(tx, OTHER)).await.expect("the store works"));
    assert_eq!(put(store, &object(9), Some(UPLOAD)).await, Stored::Stored);
    assert!(!has(store, &object(2)).await);
    for n in [0, 1, 3, 4, 5, 6, 7, 8, 9] {
        assert!(has(store, &object(n)).await, "{n}");
    }
    for n in 10..17 {
        assert_eq!(put(store, &object(n), Some(UPLOAD)).await, Stored::Stored);
    }
    assert_eq!(put(store, &object(17), None).await, Stored::Full);
    assert_eq!(put(store, &object(17), Some(UPLOAD)).await, Stored::Full);
    assert!(!has(store, &object(17)).await);
    assert_eq!(put(store, &object(16), Some(OTHER)).await, Stored::Stored, "what is there needs no room");
}

async fn pending_uploads_are_remembered_until_settled<S: ObjectStore>(store: &S) {
    let pending = Pending { staging: UPLOAD, copies: OTHER, root: root(&object(1)), len: u64::MAX >> 1, replicas: 3 };
    put(store, &object(1), Some(UPLOAD)).await;
    store.write(0, move |tx| tx.add_pending(&pending)).await.expect("the store works");
    assert_eq!(store.read(|view| view.pending()).await.expect("the store works"), [pending]);
    assert!(store.write(0, |tx| hold::settle(tx, UPLOAD)).await.expect("the store works"));
    assert!(store.read(|view| view.pending()).await.expect("the store works").is_empty());
    assert!(store.read(|view| view.upload(UPLOAD)).await.expect("the store works").is_none());
    assert!(has(store, &object(1)).await, "it is cache now");
}

async fn unbound_uploads_expire_and_bound_ones_do_not(subject: &impl Subject) {
    let store = subject.open(u64::MAX);
    let staging = UploadId([3; 16]);
    let pending = Pending { staging, copies: UPLOAD, root: root(&object(4)), len: 100, replicas: 3 };
    put(&store, &object(1), Some(UPLOAD)).await;
    put(&store, &object(2), Some(OTHER)).await;
    put(&store, &object(4), Some(staging)).await;
    store.write(0, move |tx| tx.add_pending(&pending)).await.expect("the store works");
    assert_eq!(bind(&store, OTHER, root(&object(2)), 1).await, Bound::Bound);
    subject.advance(&store, UNBOUND_TIME_MAX - Duration::from_secs(60));
    expire_all(&store).await;
    assert!(store.read(|view| view.upload(UPLOAD)).await.expect("the store works").is_some());
    store.write(0, |tx| hold::keep(tx, UPLOAD)).await.expect("the store works");
    subject.advance(&store, Duration::from_secs(120));
    expire_all(&store).await;
    assert!(store.read(|view| view.upload(UPLOAD)).await.expect("the store works").is_some(), "it was kept");
    subject.advance(&store, UNBOUND_TIME_MAX);
    expire_all(&store).await;
    let view = store.read(move |view| Ok((view.upload(UPLOAD)?, view.upload(OTHER)?, view.upload(staging)?)));
    let (unbound, bound, pending) = view.await.expect("the store works");
    assert!(unbound.is_none());
    assert!(bound.is_some());
    assert!(pending.is_some(), "what has yet to be spread stays");
    assert!(has(&store, &object(1)).await, "it is cache now");
}

async fn what_expired_makes_room(subject: &impl Subject) {
    let store = subject.open(1000);
    for n in 0..9 {
        put(&store, &object(n), Some(UPLOAD)).await;
    }
    assert_eq!(put(&store, &object(9), Some(OTHER)).await, Stored::Full);
    subject.advance(&store, UNBOUND_TIME_MAX + Duration::from_secs(1));
    assert_eq!(put(&store, &object(9), Some(OTHER)).await, Stored::Stored);
}

async fn note_damage<S: ObjectStore>(store: &S, object: &Object) -> Damage {
    let reference = *object.reference();
    store.write(0, move |tx| hold::note_damage(tx, &reference)).await.expect("the store works")
}

async fn known_damage<S: ObjectStore>(store: &S) -> Vec<ObjectRef> {
    let damaged = store.read(|view| view.damaged(Row(i64::MIN), 100)).await.expect("the store works");
    damaged.into_iter().map(|(_, reference)| reference).collect()
}

async fn read<S: ObjectStore>(store: &S, object: &Object) -> StoreResult<Option<Object>> {
    let reference = *object.reference();
    store.read(move |view| view.object(&reference)).await
}

async fn what_is_damaged_does_not_count_until_it_is_mended(subject: &impl Subject) {
    let store = subject.open(u64::MAX);
    let (object, file) = (object(1), root(&object(1)));
    let reference = *object.reference();
    put(&store, &object, Some(UPLOAD)).await;
    put(&store, &object, Some(OTHER)).await;
    assert_eq!(bind(&store, UPLOAD, file, 1).await, Bound::Bound);
    let pending = Pending { staging: OTHER, copies: UploadId([9; 16]), root: RootId([9; 32]), len: 1, replicas: 3 };
    store.write(0, move |tx| tx.add_pending(&pending)).await.expect("the store works");
    subject.damage(&store, &reference);
    assert!(matches!(read(&store, &object).await, Err(StoreError::Damaged(found)) if found == reference));
    let mut roots = vec![file, RootId([9; 32])];
    roots.sort_unstable();
    assert_eq!(note_damage(&store, &object).await, Damage::Held(roots));
    assert_eq!(note_damage(&store, &object).await, Damage::Known);
    // From here on it is as if it were not there, but for its holds.
    assert!(!has(&store, &object).await);
    assert_eq!(read(&store, &object).await.expect("the store works"), None);
    assert_eq!(store.read(move |view| view.root_len(&file)).await.expect("the store works"), None);
    let bound = store.read(move |view| hold::bound(view, &file, &[reference])).await;
    assert_eq!(bound.expect("the store works"), [false]);
    assert_eq!(known_damage(&store).await, [reference]);
    let offered = store.write(0, move |tx| hold::offer(tx, UPLOAD, &[reference])).await.expect("the store works");
    assert_eq!(offered, Offered::Wanted(vec![true]));
    for root in [file, RootId([9; 32])] {
        assert!(store.read(move |view| hold::is_damaged(view, &root)).await.expect("the store works"));
    }
    // Whoever brings it mends it: a get that keeps what it fetches, a push, a put.
    for upload in [None, Some(OTHER)] {
        assert_eq!(put(&store, &object, upload).await, Stored::Mended);
        check_mended(&store, &object).await;
        assert_eq!(put(&store, &object, upload).await, Stored::Stored);
        subject.damage(&store, &reference);
        note_damage(&store, &object).await;
        assert!(!has(&store, &object).await);
    }
}

async fn check_mended<S: ObjectStore>(store: &S, object: &Object) {
    let (reference, file) = (*object.reference(), root(object));
    assert_eq!(read(store, object).await.expect("the store works").as_ref(), Some(object));
    let found = store.read(move |view| view.find(&reference)).await.expect("the store works").expect("there");
    assert_eq!((found.holds, found.damaged), (2, false), "no hold is lost");
    let bound = store.read(move |view| hold::bound(view, &file, &[reference])).await;
    assert_eq!(bound.expect("the store works"), [true]);
    assert_eq!(known_damage(store).await, []);
    let totals = store.read(|view| view.totals()).await.expect("the store works");
    assert_eq!((totals.objects, totals.bytes), (1, 100));
}

async fn a_bind_wants_damaged_objects_again(subject: &impl Subject) {
    let store = subject.open(u64::MAX);
    let file = RootId([7; 32]);
    for n in 1..4 {
        put(&store, &object(n), Some(UPLOAD)).await;
        put(&store, &object(n), Some(OTHER)).await;
    }
    subject.damage(&store, object(2).reference());
    assert_eq!(note_damage(&store, &object(2)).await, Damage::Held(vec![]), "nothing is bound yet");
    assert_eq!(bind(&store, UPLOAD, file, 3).await, Bound::Missing(2));
    assert_eq!(put(&store, &object(2), Some(UPLOAD)).await, Stored::Mended);
    assert_eq!(bind(&store, UPLOAD, file, 3).await, Bound::Bound);
    assert_eq!(bind(&store, OTHER, file, 3).await, Bound::Bound, "it is mended for all who hold it");
}

async fn damaged_cache_goes(subject: &impl Subject) {
    let store = subject.open(u64::MAX);
    put(&store, &object(1), None).await;
    put(&store, &object(2), Some(UPLOAD)).await;
    for n in [1, 2] {
        subject.damage(&store, object(n).reference());
    }
    assert_eq!(note_damage(&store, &object(1)).await, Damage::Gone);
    note_damage(&store, &object(2)).await;
    assert_eq!(known_damage(&store).await, [*object(2).reference()]);
    assert!(store.write(0, |tx| hold::release(tx, UPLOAD)).await.expect("the store works"));
    assert_eq!(known_damage(&store).await, [], "nobody holds it any more");
    assert!(!has(&store, &object(2)).await);
    let totals = store.read(|view| view.totals()).await.expect("the store works");
    assert_eq!((totals.objects, totals.bytes), (1, 100), "it goes like any cache");
}

async fn what_is_kept_for_a_sender_is_counted_and_bounded(subject: &impl Subject) {
    let store = subject.open(u64::MAX);
    let sender = SenderId([5; 8]);
    let [first, second] = [1, 2].map(|n| UploadId::of(sender, [n; 8]));
    let sent = async || store.write(0, move |tx| tx.sent_by(sender)).await.expect("the store works");
    let most = Sent { uploads: 2, holds: 4 };
    let may = async |upload, holds| {
        store.write(0, move |tx| hold::may_hold(tx, upload, holds, &most)).await.expect("the store works")
    };
    // Somebody else's do not count.
    put(&store, &object(1), Some(UPLOAD)).await;
    assert_eq!(sent().await, Sent { uploads: 0, holds: 0 });
    for n in 1..4 {
        for _ in 0..2 {
            put(&store, &object(n), Some(first)).await;
        }
    }
    assert_eq!(sent().await, Sent { uploads: 1, holds: 3 });
    assert_eq!((may(second, 1).await, may(second, 2).await), (true, false), "holds are bounded");
    put(&store, &object(1), Some(second)).await;
    let third = UploadId::of(sender, [3; 8]);
    assert_eq!((may(third, 0).await, may(second, 0).await), (false, true), "uploads are bounded");
    // What is undone was never there.
    let failed: StoreResult<()> = store
        .write(0, move |tx| {
            tx.set_upload(third, None, tx.now())?;
            Err(StoreError::Damaged(*object(1).reference()))
        })
        .await;
    assert!(failed.is_err());
    assert_eq!(sent().await, Sent { uploads: 2, holds: 4 });
    assert!(store.write(0, move |tx| hold::release(tx, first)).await.expect("the store works"));
    assert_eq!(sent().await, Sent { uploads: 1, holds: 1 });
}

async fn what_is_whole_is_not_damaged_by_being_called_so(subject: &impl Subject) {
    let store = subject.open(u64::MAX);
    put(&store, &object(1), Some(UPLOAD)).await;
    assert_eq!(note_damage(&store, &object(1)).await, Damage::None);
    assert_eq!(note_damage(&store, &object(2)).await, Damage::None, "it is not here at all");
    assert!(has(&store, &object(1)).await);
}

/// A small generator of repeatable numbers (SplitMix64, Steele et al. 2014).
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// Uploads that take part in a random history.
const UPLOADS: u8 = 4;

/// The objects of a random history; uploads and files are numbers.
#[derive(Clone)]
pub struct Scene {
    objects: Arc<[Object]>,
}

impl Scene {
    /// A history of these.
    pub fn of(objects: impl IntoIterator<Item = Object>) -> Self {
        Self { objects: objects.into_iter().collect() }
    }

    /// The objects.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    fn object(&self, n: u8) -> &Object {
        &self.objects[usize::from(n)]
    }

    fn len(&self) -> u64 {
        self.objects.len() as u64
    }
}

/// One rule of a random history.
#[derive(Clone, Debug)]
pub enum Action {
    /// [`hold::store`], under an upload or as cache.
    Store(u8, Option<u8>),
    /// [`hold::offer`].
    Offer(u8, Vec<u8>),
    /// [`hold::bind`] of an upload to a file.
    Bind(u8, u8, u64),
    /// [`hold::keep`].
    Keep(u8),
    /// [`hold::release`].
    Release(u8),
    /// [`super::ObjectTx::add_pending`].
    Pend(u8, u8),
    /// [`hold::settle`].
    Settle(u8),
    /// [`hold::expire`].
    Expire,
}

impl Action {
    /// Any.
    pub fn roll(scene: &Scene, dice: &mut Dice) -> Self {
        let (object, upload) = (dice.roll(scene.len()) as u8, dice.roll(UPLOADS.into()) as u8);
        match dice.roll(11) {
            0..4 => Action::Store(object, (dice.roll(3) > 0).then_some(upload)),
            4 => Action::Offer(upload, (0..dice.roll(4)).map(|_| dice.roll(scene.len()) as u8).collect()),
            5 => Action::Bind(upload, object, dice.roll(3)),
            6 => Action::Keep(upload),
            7 => Action::Release(upload),
            8 => Action::Pend(upload, object),
            9 => Action::Settle(upload),
            _ => Action::Expire,
        }
    }

    /// About how many bytes it writes.
    fn weight(&self, scene: &Scene) -> usize {
        match self {
            Action::Store(n, _) => scene.object(*n).payload().len(),
            _ => 0,
        }
    }

    /// Does it, and tells the outcome as text.
    ///
    /// # Panics
    /// When the store does not work.
    pub async fn run<S: ObjectStore>(self, scene: &Scene, store: &S) -> String {
        self.attempt(scene, store).await.expect("the store works")
    }

    /// [`Self::run`] on a store that may fail.
    ///
    /// # Errors
    /// When it does.
    pub async fn attempt<S: ObjectStore>(self, scene: &Scene, store: &S) -> StoreResult<String> {
        let (id, file) = (|n: u8| UploadId([n; 16]), |n: u8| RootId([n; 32]));
        let weight = self.weight(scene);
        let scene = scene.clone();
        let rule = move |tx: &mut dyn ObjectTx| {
            Ok(match self {
                Action::Store(n, upload) => format!("{:?}", hold::store(tx, scene.object(n), upload.map(id))?),
                Action::Offer(upload, objects) => {
                    let references: Vec<ObjectRef> = objects.iter().map(|n| *scene.object(*n).reference()).collect();
                    format!("{:?}", hold::offer(tx, id(upload), &references)?)
                }
                Action::Bind(upload, n, objects) => format!("{:?}", hold::bind(tx, id(upload), file(n), objects)?),
                Action::Keep(upload) => format!("{:?}", hold::keep(tx, id(upload))?),
                Action::Release(upload) => format!("{:?}", hold::release(tx, id(upload))?),
                Action::Pend(upload, n) => {
                    let (staging, copies) = (id(upload), id(upload + 100));
                    let pending = Pending { staging, copies, root: file(n), len: 100, replicas: 3 };
                    format!("{:?}", tx.add_pending(&pending)?)
                }
                Action::Settle(upload) => format!("{:?}", hold::settle(tx, id(upload))?),
                Action::Expire => format!("{:?}", hold::expire(tx)?),
            })
        };
        store.write(weight, rule).await
    }
}

/// All that can be seen of a store that only holds the objects and uploads of a scene; every object is read and verified.
/// Times are in full hours, as stores do not run equally fast.
///
/// # Panics
/// When the store does not work.
pub async fn visible<S: ObjectStore>(scene: &Scene, store: &S) -> String {
    let scene = scene.clone();
    let look = store.write(0, move |tx| {
        let hours = |time: RunTime| time.0.as_secs() / 3600;
        let mut seen = vec![format!("{:?} at hour {}", tx.totals()?, hours(tx.now())), format!("{:?}", tx.pending()?)];
        let cache = tx.oldest_cache(u32::MAX)?;
        for (n, object) in scene.objects.iter().enumerate() {
            let reference = *object.reference();
            let Some(found) = tx.find(&reference)? else { continue };
            let mut bound = Vec::new();
            for file in 0..scene.objects.len() {
                if tx.is_bound(found.row, &RootId([file as u8; 32]))? {
                    bound.push(file);
                }
            }
            let age = cache.iter().position(|(row, _)| *row == found.row);
            let same = tx.object(&reference)?.as_ref() == Some(object);
            seen.push(format!("{n} holds {} bound {bound:?} cache {age:?} same {same}", found.holds));
        }
        for n in 0..UPLOADS {
            let upload = tx.upload(UploadId([n; 16]))?;
            let told = upload.map(|upload| (upload.root, upload.objects, hours(upload.last_sign)));
            seen.push(format!("upload {n} {told:?}"));
        }
        Ok(seen.join("\n"))
    });
    look.await.expect("the store works")
}
