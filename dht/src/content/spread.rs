//! Bringing copies to members: the task around the machine of one put.

#![expect(clippy::disallowed_methods, reason = "the shell: reads the clock for the machine")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Content, Locator, TICK};
use crate::exchange::add;
use crate::exchange::client::Lane;
use crate::hold::{self, Bound, Offered};
use crate::message::{REFS_MAX, Reply, Request};
use crate::object::Group;
use crate::placement;
use crate::put::{Effect, Input, Pushed, Put, PutConfig, Report};
use crate::store::{ObjectStore, StoreError, UploadId};
use crate::tree::{GEOMETRY, ObjectRef, PlacementKey, RootId};

/// Groups that are being pushed at once, of one put.
const GROUPS_AT_ONCE: usize = 6;

/// Objects of one group that are on their way to one member at once.
const PUSHES_AT_ONCE: usize = 4;

/// Bytes of objects that are on their way to members, of all puts.
pub(super) const PUSHING_LEN_MAX: usize = 24 << 20;

/// How often the machine of a put is told that time passes, once nobody waits for it any more.
const PATIENT_TICK: Duration = Duration::from_secs(1);

/// How often holders are told that an upload which is not bound is still going on.
const KEEP_PERIOD: Duration = Duration::from_secs(3600);

/// What the task that spreads a put is told.
pub(super) enum Event {
    Group(Group),
    Complete(RootId),
}

/// Names of one put.
#[derive(Clone, Copy)]
pub(super) struct Names {
    pub(super) staging: UploadId,
    pub(super) copies: UploadId,
}

impl<S: ObjectStore, L: Locator> Content<S, L> {
    /// Runs the machine of one put until it has settled.
    pub(super) async fn spread(
        self,
        names: Names,
        config: PutConfig,
        mut events: mpsc::Receiver<Event>,
        mut report: Option<oneshot::Sender<Report>>,
    ) {
        let mut put = Put::new(config, Instant::now());
        let mut groups: BTreeMap<PlacementKey, Arc<[ObjectRef]>> = BTreeMap::new();
        let mut under_way = FuturesUnordered::new();
        let slots = Arc::new(Semaphore::new(GROUPS_AT_ONCE));
        let mut tick = ticks(TICK);
        let mut keep_at = Instant::now() + KEEP_PERIOD;
        let mut holders: BTreeSet<PeerId> = BTreeSet::new();
        let mut complete = false;
        loop {
            let input = tokio::select! {
                event = events.recv(), if !complete => match event {
                    Some(Event::Group(group)) => {
                        let count = group.objects.len() as u64;
                        groups.insert(group.key, group.objects.into());
                        Input::Group(group.key, count)
                    }
                    Some(Event::Complete(root)) => {
                        complete = true;
                        Input::Complete(root)
                    }
                    // The put failed before its end: what was pushed expires by itself.
                    None => return,
                },
                Some(input) = under_way.next() => input,
                _ = tick.tick() => Input::Tick,
            };
            let now = Instant::now();
            if now >= keep_at {
                keep_at = now + KEEP_PERIOD;
                tokio::spawn(self.clone().keep(names.copies, holders.clone()));
            }
            for effect in put.handle(input, now) {
                match effect {
                    Effect::Report(reached) => {
                        if let Some(report) = report.take() {
                            let _ = report.send(reached);
                        }
                        // Nobody waits any more.
                        tick = ticks(PATIENT_TICK);
                    }
                    Effect::Settled => return self.settle(names.staging).await,
                    Effect::Push(key, peer) => {
                        holders.insert(peer);
                        let objects = groups.get(&key).cloned().unwrap_or_default();
                        let work = Work::Push(key, peer, objects, slots.clone());
                        under_way.push(self.work(work, names, config.replicas));
                    }
                    Effect::Locate(key) => under_way.push(self.work(Work::Locate(key), names, config.replicas)),
                    Effect::Bind(peer, root, objects) => {
                        under_way.push(self.work(Work::Bind(peer, root, objects), names, config.replicas));
                    }
                }
            }
        }
    }

    /// Does one thing that the machine asked for.
    async fn work(&self, work: Work, names: Names, replicas: u32) -> Input {
        match work {
            Work::Locate(key) => {
                let count = placement::candidate_count(replicas);
                Input::Located(key, self.locator.closest(key, count).await, self.locator.known())
            }
            Work::Push(key, peer, objects, slots) => {
                let _slot = slots.acquire().await;
                let pushed = self.push_group(peer, names.copies, &objects).await;
                Input::Pushed(key, peer, pushed)
            }
            Work::Bind(peer, root, objects) => Input::Bound(peer, self.bind(peer, names.copies, root, objects).await),
        }
    }

    async fn push_group(&self, peer: PeerId, upload: UploadId, objects: &[ObjectRef]) -> Pushed {
        for some in objects.chunks(REFS_MAX) {
            let pushed = self.push_some(peer, upload, some).await;
            if pushed != Pushed::Held {
                return pushed;
            }
        }
        Pushed::Held
    }

    /// Offers some objects to a member, and sends those it lacks.
    async fn push_some(&self, peer: PeerId, upload: UploadId, objects: &[ObjectRef]) -> Pushed {
        let offered = objects.to_vec();
        let wanted = if peer == self.locator.me() {
            match self.store.write(0, move |tx| hold::offer(tx, upload, &offered)).await {
                Ok(Offered::Wanted(wanted)) => wanted,
                Ok(Offered::Full) | Err(StoreError::DiskFull) => return Pushed::Full,
                Err(_) => return Pushed::Failed,
            }
        } else {
            match self.client.ask(peer, Lane::Push, Request::Offer(upload, offered)).await {
                Ok(Reply::Flags(wanted)) if wanted.len() == objects.len() => wanted,
                Ok(Reply::Full) => return Pushed::Full,
                Ok(other) => {
                    tracing::debug!(%peer, ?other, "answered an offer with something else");
                    return Pushed::Failed;
                }
                Err(error) => {
                    tracing::debug!(%peer, %error, "an offer was not answered");
                    return Pushed::Failed;
                }
            }
        };
        let wanted: Vec<ObjectRef> =
            objects.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(reference, _)| *reference).collect();
        let mut wanted = wanted.into_iter();
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < PUSHES_AT_ONCE
                && let Some(reference) = wanted.next()
            {
                under_way.push(self.push_one(peer, upload, reference));
            }
            match under_way.next().await {
                Some(Pushed::Held) => {}
                Some(other) => return other,
                None => return Pushed::Held,
            }
        }
    }

    async fn push_one(&self, peer: PeerId, upload: UploadId, reference: ObjectRef) -> Pushed {
        if peer == self.locator.me() {
            // Its own offer said that the object is not here: it was held, so the disk has lost it.
            tracing::error!(?reference, "an object that is held is not in the store");
            return Pushed::Failed;
        }
        let room = u32::try_from(reference.len.min(GEOMETRY.payload_len_max())).expect("a payload is far shorter");
        let _room = self.pushing.acquire_many(room).await;
        let object = match self.store.read(move |view| view.object(&reference)).await {
            Ok(Some(object)) => object,
            Ok(None) => return Pushed::Failed,
            Err(error) => {
                tracing::warn!(%error, "cannot read an object to push it");
                return Pushed::Failed;
            }
        };
        let bytes = object.payload().clone();
        let len = bytes.len() as u64;
        drop(object);
        match self.client.ask(peer, Lane::Push, Request::Push(upload, reference, bytes)).await {
            Ok(Reply::Stored) => {
                add(&self.counters.bytes_sent, len);
                Pushed::Held
            }
            Ok(Reply::Full) => Pushed::Full,
            Ok(other) => {
                tracing::debug!(%peer, ?other, "refused a push");
                Pushed::Failed
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "a push was not answered");
                Pushed::Failed
            }
        }
    }

    async fn bind(&self, peer: PeerId, upload: UploadId, root: RootId, objects: u64) -> Option<Bound> {
        if peer == self.locator.me() {
            return self.store.write(0, move |tx| hold::bind(tx, upload, root, objects)).await.ok();
        }
        match self.client.ask(peer, Lane::Push, Request::Bind(upload, root, objects)).await {
            Ok(Reply::Bound) => Some(Bound::Bound),
            Ok(Reply::Missing(held)) => Some(Bound::Missing(held)),
            Ok(_) | Err(_) => None,
        }
    }

    async fn keep(self, upload: UploadId, holders: BTreeSet<PeerId>) {
        for peer in holders.iter().filter(|peer| **peer != self.locator.me()) {
            if let Err(error) = self.client.ask(*peer, Lane::Push, Request::Keep(upload)).await {
                tracing::debug!(%peer, %error, "cannot say that an upload goes on");
            }
        }
        if let Err(error) = self.store.write(0, move |tx| hold::keep(tx, upload)).await {
            tracing::warn!(%error, "cannot note that an upload goes on");
        }
    }

    /// Lets go of what was held here for a put: all its copies are where they belong.
    pub(super) async fn settle(&self, staging: UploadId) {
        loop {
            match self.store.write(0, move |tx| hold::settle(tx, staging)).await {
                Ok(true) | Err(StoreError::Closed) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot let go of an upload; it is taken up again after a restart");
                    return;
                }
            }
        }
    }
}

/// One thing that the machine asked for.
enum Work {
    Locate(PlacementKey),
    Push(PlacementKey, PeerId, Arc<[ObjectRef]>, Arc<Semaphore>),
    Bind(PeerId, RootId, u64),
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}
