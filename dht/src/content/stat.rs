//! What is known of a file: how long it is, and how many copies there are, by asking those who should have them.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;

use super::{Content, ContentError, GetOptions, Locator};
use crate::exchange::client::Lane;
use crate::exchange::count;
use crate::get::{GetError, Range};
use crate::hold;
use crate::message::{REFS_MAX, Reply, Request};
use crate::object::{Group, group_leaves};
use crate::placement;
use crate::store::ObjectStore;
use crate::tree::{GEOMETRY, ObjectRef, PlacementKey, RootId};

/// Members that are asked about one group: the closest, and with them all members of a small cluster.
const ASKED_PER_GROUP: usize = 16;

/// Groups that are asked about at once.
const GROUPS_AT_ONCE: usize = 4;

/// Longest wait for one answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// What is known of a file right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Bytes.
    pub len: u64,
    /// Leaves and indexes.
    pub objects: u64,
    /// Copies of the group that has the fewest, each durable and bound to this file.
    pub copies_min: u32,
    /// Members with a copy of at least one group.
    pub holders: BTreeSet<PeerId>,
    /// Members that did not answer: the copies they may have are not counted.
    pub silent: BTreeSet<PeerId>,
}

impl<S: ObjectStore, L: Locator> Content<S, L> {
    /// Counts the copies of a file.
    ///
    /// # Errors
    /// When it cannot be found.
    pub async fn stat(&self, root: RootId, stall: Duration) -> Result<Stat, ContentError> {
        let indexes = self.indexes(root, stall).await?;
        let len = indexes.iter().map(|index| index.reference().end()).max().unwrap_or(0);
        let mut under_root: Vec<ObjectRef> = indexes.iter().map(|index| *index.reference()).collect();
        let mut groups = Vec::new();
        for index in &indexes {
            let leaves: Vec<ObjectRef> =
                index.children().into_iter().filter(|child| GEOMETRY.child_count(child.len) == 0).collect();
            for group in group_leaves(&GEOMETRY, root, len, &leaves) {
                if group.key == PlacementKey(root.0) {
                    under_root.extend(group.objects);
                } else {
                    groups.push(group);
                }
            }
        }
        groups.push(Group { key: PlacementKey(root.0), objects: under_root });
        let objects = groups.iter().map(|group| group.objects.len() as u64).sum();
        let mut counted: Vec<BTreeSet<PeerId>> = Vec::with_capacity(groups.len());
        let silent = Mutex::new(BTreeSet::new());
        let mut under_way = FuturesUnordered::new();
        let mut waiting = groups.iter();
        loop {
            while under_way.len() < GROUPS_AT_ONCE
                && let Some(group) = waiting.next()
            {
                under_way.push(self.holders_of(root, group, &silent));
            }
            let Some(holders) = under_way.next().await else { break };
            counted.push(holders);
        }
        drop(under_way);
        let copies_min = counted.iter().map(|holders| holders.len() as u32).min().unwrap_or(0);
        let holders = counted.into_iter().flatten().collect();
        let silent = silent.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Stat { len, objects, copies_min, holders, silent })
    }

    /// How long a file is.
    ///
    /// # Errors
    /// When it cannot be found.
    pub async fn len(&self, root: RootId, stall: Duration) -> Result<u64, ContentError> {
        // No file has this byte: the root is looked for, tells how long the file is, and nothing else is fetched.
        let nowhere = Range { start: u64::MAX, end: None };
        match self.get(root, GetOptions { range: nowhere, cache: true, stall }).await {
            Ok(download) => Ok(download.file_len),
            Err(ContentError::Get(GetError::OutOfRange(len))) => Ok(len),
            Err(error) => Err(error),
        }
    }

    /// Members that hold a whole group, bound to the file. Who does not answer is not asked again.
    async fn holders_of(&self, root: RootId, group: &Group, silent: &Mutex<BTreeSet<PeerId>>) -> BTreeSet<PeerId> {
        let mut asked = placement::closest(&group.key, self.locator.members(), ASKED_PER_GROUP);
        asked.extend(self.closest(group.key, placement::READ_CANDIDATES).await);
        asked.sort_unstable();
        asked.dedup();
        asked.retain(|peer| !lock(silent).contains(peer));
        let mut answers = FuturesUnordered::new();
        for peer in asked {
            answers.push(async move { (peer, self.holds(peer, root, &group.objects).await) });
        }
        let mut holders = BTreeSet::new();
        while let Some((peer, holds)) = answers.next().await {
            match holds {
                Some(true) => drop(holders.insert(peer)),
                Some(false) => {}
                None => drop(lock(silent).insert(peer)),
            }
        }
        holders
    }

    /// Whether a member holds all of some objects, bound to the file; None if it does not answer.
    async fn holds(&self, peer: PeerId, root: RootId, objects: &[ObjectRef]) -> Option<bool> {
        for some in objects.chunks(REFS_MAX) {
            let (some, asked_about) = (some.to_vec(), some.len());
            let flags = if peer == self.locator.me() {
                self.store.read(move |view| hold::bound(view, &root, &some)).await.unwrap_or_default()
            } else {
                let asked = self.client.ask(peer, Lane::Ask, Request::Count(root, some));
                match tokio::time::timeout(ANSWER_TIME_MAX, asked).await {
                    Ok(Ok(Reply::Flags(flags))) => flags,
                    Ok(_) => return None,
                    Err(_elapsed) => {
                        count(&self.counters.requests_silent);
                        return None;
                    }
                }
            };
            if flags.len() != asked_about || flags.contains(&false) {
                return Some(false);
            }
        }
        Some(true)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
