//! What both tasks and both handles of a link know.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::{LinkError, NOISE_MAX};
use crate::wire::room::{Direction, SMALL_COST_MAX, Taken, Tenant};

/// What a small frame takes beyond what it costs: its places in memory are larger than what the wire counts.
const SMALL_OVERHEAD: usize = 96;

/// See the module.
pub(in crate::wire) struct Shared {
    /// Bytes the peer may still send.
    window: AtomicUsize,
    /// Bytes consumed and not yet given back.
    owed: AtomicUsize,
    /// So much is worth a credit frame.
    owed_min: usize,
    pub(super) owed_enough: Notify,
    /// Bytes we may still send.
    pub(super) credit: Semaphore,
    pub(super) moved: AtomicU64,
    pub(super) skipped: AtomicU64,
    /// Frames that meant something.
    understood: AtomicU64,
    began: Instant,
    /// When something last moved to us and from us, in milliseconds since the beginning.
    last_moves: [AtomicU64; 2],
    /// Who has room for what the peer sends.
    tenant: Option<Tenant>,
    /// Bytes that small frames take there.
    pub(in crate::wire) small: AtomicUsize,
    pub(super) ended: Ended,
    pub(super) reason: OnceLock<LinkError>,
}

impl Shared {
    pub(super) fn new(granted: u32, credit: u32, tenant: Option<&Tenant>) -> Arc<Self> {
        let shared = Arc::new(Self {
            window: AtomicUsize::new(granted as usize),
            owed: AtomicUsize::new(0),
            owed_min: granted as usize / 4,
            owed_enough: Notify::new(),
            credit: Semaphore::new(credit as usize),
            moved: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            understood: AtomicU64::new(0),
            began: Instant::now(),
            last_moves: [AtomicU64::new(0), AtomicU64::new(0)],
            tenant: tenant.cloned(),
            small: AtomicUsize::new(0),
            ended: Ended::default(),
            reason: OnceLock::new(),
        });
        if let Some(tenant) = tenant {
            tenant.note(&shared);
        }
        shared
    }

    /// So many bytes, or a frame as such, have moved.
    pub(super) fn count(&self, direction: Direction, moved: usize) {
        self.moved.fetch_add(moved as u64, Ordering::Relaxed);
        let now = self.began.elapsed().as_millis() as u64;
        self.last_moves[direction as usize].store(now, Ordering::Relaxed);
    }

    /// How long nothing has moved that way.
    pub(in crate::wire) fn idle(&self, direction: Direction) -> Duration {
        let last = Duration::from_millis(self.last_moves[direction as usize].load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }

    /// Takes a frame's cost from what the peer may send.
    pub(super) fn charge(self: &Arc<Self>, cost: usize) -> Result<Held, LinkError> {
        self.window
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |window| window.checked_sub(cost))
            .map_err(|_window| LinkError::Overrun)?;
        let small = if cost > SMALL_COST_MAX { 0 } else { cost + SMALL_OVERHEAD };
        if let Some(tenant) = self.tenant.as_ref().filter(|_| small > 0) {
            tenant.room().add_small(self, tenant, small);
        }
        Ok(Held { cost, small, shared: self.clone(), taken: None })
    }

    /// What is to be given back to the peer, once it is worth a frame. The window grows before the peer can know of it.
    pub(super) fn take_owed(&self) -> Option<usize> {
        let worth = |owed| (owed >= self.owed_min).then_some(0);
        let owed = self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, worth).ok()?;
        self.window.fetch_add(owed, Ordering::AcqRel);
        Some(owed)
    }

    /// A frame of a known type has come.
    pub(super) fn understand(&self) {
        self.understood.fetch_add(1, Ordering::Relaxed);
    }

    /// A frame of an unknown, ignorable type was thrown away.
    pub(super) fn skip(&self, kind: u8) -> Result<(), LinkError> {
        tracing::debug!(kind, "skipped a frame of an unknown type");
        let skipped = self.skipped.fetch_add(1, Ordering::Relaxed) + 1;
        let allowed = NOISE_MAX + self.understood.load(Ordering::Relaxed);
        if skipped > allowed { Err(LinkError::Noise) } else { Ok(()) }
    }

    /// Ends the link for a reason, of which the first counts.
    pub(in crate::wire) fn end(&self, reason: LinkError) {
        tracing::debug!(%reason, "link ended");
        let _ = self.reason.set(reason);
        self.ended.set();
    }

    pub(in crate::wire) fn tenant(&self) -> Option<&Tenant> {
        self.tenant.as_ref()
    }

    pub(in crate::wire) fn has_ended(&self) -> bool {
        self.ended.set.load(Ordering::Acquire)
    }
}

/// Credit and room held by a received frame.
pub(super) struct Held {
    cost: usize,
    small: usize,
    shared: Arc<Shared>,
    taken: Option<Taken>,
}

impl Held {
    /// The frame has a place, and the peer is to send the rest of it.
    pub(super) fn put_in(&mut self, mut taken: Taken) {
        taken.awaits_on(&self.shared);
        self.taken = Some(taken);
    }

    /// It has come, and is being consumed.
    pub(super) fn settled(&mut self) {
        self.taken.iter_mut().for_each(Taken::settled);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(tenant) = self.shared.tenant.as_ref().filter(|_| self.small > 0) {
            tenant.room().remove_small(&self.shared, tenant, self.small);
        }
        let owed = self.shared.owed.fetch_add(self.cost, Ordering::AcqRel) + self.cost;
        if owed >= self.shared.owed_min {
            self.shared.owed_enough.notify_one();
        }
    }
}

/// A flag that can be awaited by many.
#[derive(Default)]
pub(super) struct Ended {
    set: AtomicBool,
    notify: Notify,
}

impl Ended {
    pub(super) fn set(&self) {
        self.set.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    pub(super) async fn notified_once(&self) {
        let notified = self.notify.notified();
        tokio::pin!(notified);
        // Registered before the flag is read, so that a set in between is not missed.
        notified.as_mut().enable();
        if !self.set.load(Ordering::Acquire) {
            notified.await;
        }
    }
}
