//! What a user can do with a node: one method per action. The API calls these and nothing else.

pub(crate) mod kv;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use libp2p::{Multiaddr, PeerId};
use p2p_api::types::{JoinResult, MemberCounts, Members, PutResult, Stat, Status, Tags, TagsRequest, TicketResult};
use p2p_api::{ByteRange, Code, Problem};
use p2p_dht::content::{Content, Download, GetOptions, Locator, PutOptions};
use p2p_dht::get::Range;
use p2p_dht::kademlia::{self, FoundPeer};
use p2p_dht::store::{ObjectStore, Row};
use p2p_dht::tree::{PlacementKey, RootId};
use p2p_dht::{hold, placement};
use p2p_gossip::swim::FILL_MAX;
use p2p_gossip::wire::ClusterId;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{mpsc, oneshot, watch};

use crate::admission::Admission;
use crate::cluster::{Cluster, Origin};
use crate::config::Config;
use crate::error::{GetFailure, StartError, content_problem, store_problem};
use crate::faults::Faults;
use crate::health;
use crate::kv::Kv;
use crate::membership::contacts::{self, DialOutcome};
use crate::membership::events::MemberEvents;
use crate::membership::tags::Labels;
use crate::state::State;
use crate::store::Objects;
use crate::swarm::{Command, NetCounters, NetView};
use crate::ticket::{self, Ticket};

/// Copies that must be durable before a put is a success, unless it says otherwise and once another member was met.
pub const ACKS_DEFAULT: u32 = 2;

/// Longest wait without progress, unless a request says otherwise.
pub const STALL_DEFAULT: Duration = Duration::from_secs(30);

/// Longest wait that a request may ask for.
pub const STALL_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long a lookup may take before the members that are connected decide where things belong.
const LOOKUP_WAIT: Duration = Duration::from_secs(2);

/// For how long no lookup is tried after one took too long: somebody in it is silent, and the next would wait for him too.
const LOOKUP_PAUSE: Duration = Duration::from_secs(20);

/// How long a node that knows others waits for the first of them before it calls itself ready.
const READY_WAIT: Duration = Duration::from_secs(10);

/// A running node, for those who use it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) me: PeerId,
    pub(crate) started: Instant,
    pub(crate) cluster: Mutex<Cluster>,
    pub(crate) cluster_id: watch::Sender<ClusterId>,
    pub(crate) admission: Admission,
    pub(crate) net: Network,
    pub(crate) content: Content<Objects, Network>,
    pub(crate) state: State,
    pub(crate) kv: Kv,
    /// Held while a copy of the map is made.
    pub(crate) backing_up: tokio::sync::Mutex<()>,
    /// What the home held was gone when the node started.
    pub(crate) store_lost: bool,
    pub(crate) member_events: Arc<MemberEvents>,
    /// What others are told of this node.
    pub(crate) labels: Mutex<Labels>,
    pub(crate) get_times: Histogram,
    pub(crate) socket: PathBuf,
    pub(crate) stopping: tokio_util::sync::CancellationToken,
}

/// The members as this node sees them, and the way to ask the swarm.
#[derive(Clone)]
pub struct Network {
    pub(crate) me: PeerId,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) view: watch::Receiver<NetView>,
    /// When a lookup last took too long.
    pub(crate) slow_lookup: Arc<Mutex<Option<Instant>>>,
    /// In a node of a test network only.
    pub(crate) faults: Option<Arc<Faults>>,
    pub(crate) counters: Arc<NetCounters>,
}

impl Network {
    fn hides_view(&self) -> bool {
        self.faults.as_ref().is_some_and(|faults| faults.hides_view())
    }

    /// Who is closest by Kademlia; None if that takes too long, or did so just now and there is another way.
    async fn lookup(&self, key: &PlacementKey, dispensable: bool) -> Option<Vec<FoundPeer>> {
        let slow = || self.slow_lookup.lock().unwrap_or_else(PoisonError::into_inner);
        if dispensable && slow().is_some_and(|at| at.elapsed() < LOOKUP_PAUSE) {
            return None;
        }
        let lookup = self.ask(|reply| Command::Lookup(kademlia::lookup_key(key), reply));
        let found = tokio::time::timeout(LOOKUP_WAIT, lookup).await;
        if found.is_err() {
            self.counters.lookups_abandoned.fetch_add(1, Ordering::Relaxed);
            *slow() = Some(Instant::now());
        }
        found.ok().flatten()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

impl Locator for Network {
    fn me(&self) -> PeerId {
        self.me
    }

    fn members(&self) -> Vec<PeerId> {
        if self.hides_view() {
            return vec![self.me];
        }
        self.view.borrow().alive.iter().copied().chain([self.me]).collect()
    }

    fn known(&self) -> usize {
        let MemberCounts { alive, suspect, down, left: _ } = self.view.borrow().counts;
        (alive + suspect + down).max(1) as usize
    }

    async fn closest(&self, key: PlacementKey, count: usize) -> Vec<PeerId> {
        let members = self.members();
        if self.view.borrow().complete && !self.hides_view() {
            // One hop: everybody who has this view names the same.
            return placement::closest(&key, members, count);
        }
        let found = self.lookup(&key, members.len() > 1).await;
        // Kademlia never names this node, and a lookup cut short names too few: those who are connected are closest to
        // being the truth.
        let found = found.unwrap_or_default().into_iter().map(|FoundPeer { peer, .. }| peer);
        placement::closest(&key, found.chain(members), count)
    }
}

/// What a put may ask for.
#[derive(Clone, Debug, Default)]
pub struct PutRequest {
    /// Copies wanted.
    pub replicas: Option<u32>,
    /// Copies that make it a success.
    pub acks: Option<u32>,
    /// Longest wait without progress.
    pub stall: Option<Duration>,
    /// What is to stand for it from now on.
    pub name: Option<String>,
}

/// What a get may ask for.
#[derive(Clone, Copy, Debug)]
pub struct GetRequest {
    /// Which bytes; None for all.
    pub range: Option<ByteRange>,
    /// Whether what is fetched stays as cache.
    pub cache: bool,
    /// Longest wait without progress.
    pub stall: Option<Duration>,
}

impl Handle {
    /// Stores the bytes of a stream.
    ///
    /// # Errors
    /// When they cannot be stored here. Too few copies are no error: see [`PutResult::problem`].
    pub async fn put<B>(&self, bytes: B, request: PutRequest) -> Result<PutResult, Problem>
    where
        B: Stream<Item = std::io::Result<Bytes>> + Send + Unpin,
    {
        let options = self.put_options(&request)?;
        // Before all the bytes have come for nothing.
        let name = request.name.as_deref().map(|name| self.name_of(name)).transpose()?;
        let uploaded = self.inner.content.put(bytes, options).await.map_err(|error| content_problem(&error))?;
        let copies = uploaded.report.copies;
        let problem = (!uploaded.report.enough).then(|| {
            let acks = options.acks;
            let message = format!("stored, but only {copies} of {acks} copies were acknowledged in time");
            Problem::new(Code::Partial, message)
                .hint("The node goes on bringing copies; `p2p-cli stat ADDRESS` counts them.")
        });
        let address = uploaded.root.to_string();
        let named = match name {
            Some(name) => Some(self.set_name(name, address.clone()).await.map_err(|problem| {
                let message = format!("stored, but it has no name: {}", problem.message);
                Problem { message, ..problem }
            })),
            None => None,
        };
        let (named, unnamed) = named.map_or((false, None), |named| (named.is_ok(), named.err()));
        Ok(PutResult {
            address,
            size: uploaded.len,
            copies,
            replicas: options.replicas,
            name: request.name.filter(|_| named),
            problem: unnamed.or(problem),
        })
    }

    fn put_options(&self, request: &PutRequest) -> Result<PutOptions, Problem> {
        let replicas = request.replicas.unwrap_or(self.inner.config.replicas);
        if !(1..=placement::REPLICAS_MAX).contains(&replicas) {
            let message = format!("replicas must be 1 to {}, not {replicas}", placement::REPLICAS_MAX);
            return Err(Problem::new(Code::Usage, message));
        }
        let alone = !self.inner.net.view.borrow().ever_met;
        let acks_default = if alone { 1 } else { ACKS_DEFAULT.min(replicas) };
        let acks = request.acks.unwrap_or(acks_default);
        if !(1..=replicas).contains(&acks) {
            return Err(Problem::new(Code::Usage, format!("acks must be 1 to the {replicas} replicas, not {acks}")));
        }
        Ok(PutOptions { replicas, acks, stall: stall(request.stall) })
    }

    /// Finds content and begins to bring its bytes.
    ///
    /// # Errors
    /// When it cannot be found, has nothing in the range, or nothing of it can be had.
    pub async fn get(&self, root: RootId, request: GetRequest) -> Result<Download, GetFailure> {
        let asked = Instant::now();
        let content = &self.inner.content;
        let stall = stall(request.stall);
        let range = match request.range {
            None => Range::ALL,
            Some(ByteRange::From(start)) => Range { start, end: None },
            Some(ByteRange::Between(first, last)) => Range { start: first, end: last.checked_add(1) },
            // Only who knows the length knows where this begins.
            Some(last @ ByteRange::Last(count)) => {
                let len = content.len(root, stall).await?;
                match last.within(len) {
                    Some(part) => Range { start: part.start, end: Some(part.end) },
                    None if count == 0 => return Err(GetFailure::OutOfRange(len)),
                    None => Range::ALL,
                }
            }
        };
        let download = content.get(root, GetOptions { range, cache: request.cache, stall }).await?;
        self.inner.get_times.observe(asked.elapsed().as_secs_f64());
        Ok(download)
    }

    /// Counts the copies of content.
    ///
    /// # Errors
    /// When it cannot be found.
    pub async fn stat(&self, root: RootId, wait: Option<Duration>) -> Result<Stat, Problem> {
        let stat = self.inner.content.stat(root, stall(wait)).await.map_err(|error| content_problem(&error))?;
        Ok(Stat {
            address: root.to_string(),
            cid: cid(&root),
            size: stat.len,
            objects: stat.objects,
            replicas: self.inner.config.replicas,
            copies_min: stat.copies_min,
            holders: stat.holders.iter().map(ToString::to_string).collect(),
            silent: stat.silent.iter().map(ToString::to_string).collect(),
        })
    }

    /// What this node is and how it does.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn status(&self) -> Result<Status, Problem> {
        let store = self.inner.content.store();
        let read = store.read(|view| {
            let damaged = view.damaged(Row(i64::MIN), health::DAMAGED_COUNTED_MAX)?.len() as u32;
            Ok((view.totals()?, hold::room_left(view)?, damaged))
        });
        let (totals, room_left, damaged) = read.await.map_err(|error| store_problem(&error))?;
        let view = self.inner.net.view.borrow().clone();
        let (storage_max, replicas) = (self.inner.config.storage_max, self.inner.config.replicas);
        let (store_lost, disk) = (self.inner.store_lost, store.disk_room());
        let map = health::Map {
            state: self.kv_state(),
            len: self.inner.state.map().len.load(Ordering::Relaxed),
            len_max: self.inner.config.state_max,
        };
        let known = health::Known { view: &view, room_left, storage_max, store_lost, damaged, disk, replicas, map };
        let (health, reasons) = health::health(&known);
        Ok(Status {
            peer: self.inner.me.to_string(),
            name: self.inner.config.name.clone(),
            cluster: self.inner.cluster_id.borrow().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            health,
            reasons,
            members: view.counts,
            addresses: view.addresses.iter().map(ToString::to_string).collect(),
            objects: totals.objects,
            bytes: totals.bytes,
            storage_max,
            kv_keys: self.inner.state.map().keys.load(Ordering::Relaxed),
            kv: self.kv_state(),
        })
    }

    /// A ticket by which others join.
    pub fn ticket(&self) -> TicketResult {
        let cluster = self.cluster();
        let addresses = self.inner.net.view.borrow().addresses.clone();
        let addresses = addresses.into_iter().take(ticket::ADDRESSES_MAX).collect();
        let ticket = Ticket { cluster: cluster.id, key: cluster.keys[0].clone(), addresses };
        TicketResult { ticket: ticket.to_string() }
    }

    /// Joins by a ticket or by a member's address.
    ///
    /// # Errors
    /// When the target makes no sense, belongs elsewhere, refuses, or does not answer.
    pub async fn join(&self, target: &str, wait: Option<Duration>) -> Result<JoinResult, Problem> {
        let wait = wait.unwrap_or(STALL_DEFAULT).min(STALL_MAX);
        let addresses = if ticket::looks_like_ticket(target) {
            let ticket: Ticket =
                target.parse().map_err(|error: ticket::NotATicket| Problem::new(Code::Usage, error.to_string()))?;
            self.enter(&ticket).await?;
            ticket.addresses
        } else {
            vec![self.member_address(target)?]
        };
        self.inner.net.ask(|done| Command::Want(addresses.clone(), done)).await.ok_or_else(stopping)?;
        let mut view = self.inner.net.view.clone();
        let met = async {
            let peer = self.dial_any(addresses).await?;
            // Reached is not yet met: both have to know of each other.
            view.wait_for(|view| view.alive.contains(&peer)).await.map_err(|_gone| stopping())?;
            Ok(JoinResult { peer: peer.to_string(), cluster: self.inner.cluster_id.borrow().to_string() })
        };
        tokio::time::timeout(wait, met).await.unwrap_or_else(|_elapsed| Err(no_answer()))
    }

    /// All members, as this node sees them.
    ///
    /// # Errors
    /// When the node is stopping.
    pub async fn members(&self) -> Result<Members, Problem> {
        self.inner.net.ask(Command::Members).await.ok_or_else(stopping)
    }

    /// What happens to members, from now on or where a watch was.
    pub(crate) fn member_events(&self) -> Arc<MemberEvents> {
        self.inner.member_events.clone()
    }

    /// Cancelled when the node stops.
    pub(crate) fn stopping(&self) -> tokio_util::sync::CancellationToken {
        self.inner.stopping.clone()
    }

    /// Leaves the cluster; this node ends once others know.
    ///
    /// # Errors
    /// When the node is stopping already.
    pub async fn leave(&self) -> Result<(), Problem> {
        self.inner.net.ask(Command::Leave).await.ok_or_else(stopping)
    }

    /// Changes what others are told of this node, until it starts again; all of it as it is then.
    ///
    /// # Errors
    /// When that is too much, or makes no sense.
    pub async fn set_tags(&self, change: &TagsRequest) -> Result<Tags, Problem> {
        let mut labels = self.inner.labels.lock().unwrap_or_else(PoisonError::into_inner).clone();
        labels.tags.extend(change.set.clone());
        labels.tags.retain(|key, _| !change.delete.contains(key));
        let encoded = labels.encode().map_err(|reason| Problem::new(Code::Usage, reason))?;
        self.inner.net.ask(|done| Command::Tags(encoded, done)).await.ok_or_else(stopping)?;
        let tags = labels.tags.clone();
        *self.inner.labels.lock().unwrap_or_else(PoisonError::into_inner) = labels;
        Ok(Tags { tags })
    }

    /// Tells others how full this node is.
    pub(crate) async fn say_how_full(&self) {
        let Ok(totals) = self.inner.content.store().read(|view| view.totals()).await else { return };
        let max = self.inner.config.storage_max.max(1);
        let sixteenths = (u128::from(totals.bytes) * u128::from(FILL_MAX) / u128::from(max)).min(FILL_MAX.into());
        let _ = self.inner.net.commands.send(Command::Fill(sixteenths as u8)).await;
    }

    /// Waits until the node is ready and, where asked, so many members are reachable, itself included.
    ///
    /// # Errors
    /// When that takes longer than `wait`.
    pub async fn wait(&self, members: Option<u32>, wait: Duration) -> Result<Status, Problem> {
        let mut view = self.inner.net.view.clone();
        let wanted = members.unwrap_or(1) as usize;
        let reached = async {
            self.until_ready().await;
            view.wait_for(|view| view.alive.len() + 1 >= wanted).await.is_ok()
        };
        match tokio::time::timeout(wait.min(STALL_MAX), reached).await {
            Ok(true) => self.status().await,
            Ok(false) => Err(stopping()),
            Err(_elapsed) => {
                let view = self.inner.net.view.borrow().clone();
                let message = format!("{} members are reachable after {wait:?}, not {wanted}", view.alive.len() + 1);
                Err(Problem::new(Code::TimedOut, message).hint("`p2p-cli status` says who is missing and why."))
            }
        }
    }

    /// Whether the node is ready; if not, why.
    pub fn readiness(&self) -> Result<(), Problem> {
        if self.inner.stopping.is_cancelled() {
            return Err(stopping());
        }
        if is_ready(&self.inner.net.view.borrow(), self.inner.started) {
            return Ok(());
        }
        Err(Problem::new(Code::NotReady, "no other member was met yet").hint("Wait: p2p-cli wait --ready"))
    }

    /// Waits until the node is ready: another member is met where any is known, or some time has passed.
    pub async fn until_ready(&self) {
        let mut view = self.inner.net.view.clone();
        let started = self.inner.started;
        let met = view.wait_for(|view| is_ready(view, started));
        let _ = tokio::time::timeout_at((started + READY_WAIT).into(), met).await;
    }

    /// What this node does wrong on request; None if it was not started for that.
    pub(crate) fn faults(&self) -> Option<&Arc<Faults>> {
        self.inner.net.faults.as_ref()
    }

    /// The API's socket.
    pub fn socket(&self) -> &std::path::Path {
        &self.inner.socket
    }

    /// Where others reach this node.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.inner.net.view.borrow().addresses.clone()
    }

    /// This node.
    pub fn peer(&self) -> PeerId {
        self.inner.me
    }

    fn cluster(&self) -> Cluster {
        self.inner.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes over to a ticket's cluster, if this home may.
    async fn enter(&self, ticket: &Ticket) -> Result<(), Problem> {
        if self.cluster().id == ticket.cluster {
            return Ok(());
        }
        let totals = self.inner.content.store().read(|view| view.totals()).await;
        let empty = totals.map_err(|error| store_problem(&error))?.objects == 0;
        let is_written = self.inner.kv.has_seen_writes();
        if !empty || is_written || self.inner.net.view.borrow().ever_met {
            return Err(Problem::new(
                Code::Conflict,
                "this home is in another cluster, and has met its members or holds content or keys of it",
            )
            .hint("Use a new home for the other cluster: p2p-node run --home DIR --join-file FILE"));
        }
        let cluster = Cluster::joined(ticket.cluster, ticket.key.clone());
        let failed = |error: String| Problem::new(Code::Other, error);
        cluster.save(&self.inner.config.home).map_err(|error: StartError| failed(error.to_string()))?;
        self.inner.admission.set_keys(&cluster.keys).map_err(|error| failed(error.to_string()))?;
        self.inner.cluster_id.send_replace(cluster.id);
        *self.inner.cluster.lock().unwrap_or_else(PoisonError::into_inner) = cluster;
        self.inner.net.ask(|done| Command::Enter(ticket.cluster, done)).await.ok_or_else(stopping)
    }

    fn member_address(&self, target: &str) -> Result<Multiaddr, Problem> {
        let example = "An address looks like /ip4/192.0.2.7/tcp/7460, a ticket comes from `p2p-cli ticket`.";
        let address: Multiaddr = target
            .parse()
            .map_err(|_| Problem::new(Code::Usage, "neither a ticket nor a multiaddress").hint(example))?;
        let fresh = self.cluster().origin == Origin::Made && !self.inner.net.view.borrow().ever_met;
        if fresh {
            let message = "this home has no key of another cluster, so an address alone does not admit it";
            return Err(Problem::new(Code::Usage, message).hint("Join by a ticket: run `p2p-cli ticket` on a member."));
        }
        Ok(address)
    }

    /// Dials all addresses; the first member that is there counts.
    async fn dial_any(&self, addresses: Vec<Multiaddr>) -> Result<PeerId, Problem> {
        let named: BTreeMap<Multiaddr, Option<PeerId>> =
            addresses.iter().map(|address| (address.clone(), contacts::split_peer(address).1)).collect();
        let alive = self.inner.net.view.borrow().alive.clone();
        if let Some(peer) = named.values().flatten().find(|peer| alive.contains(*peer)) {
            return Ok(*peer);
        }
        let mut refused = false;
        for address in addresses {
            match self.inner.net.ask(|reply| Command::Dial(address, reply)).await {
                Some(Ok(peer)) => return Ok(peer),
                Some(Err(DialOutcome::Refused)) => refused = true,
                Some(Err(DialOutcome::NoAnswer | DialOutcome::OtherPeer)) => {}
                None => return Err(stopping()),
            }
        }
        if refused {
            return Err(Problem::new(
                Code::Unauthorised,
                "the member refused the handshake: it has another cluster key",
            )
            .hint("Get a ticket of that cluster: run `p2p-cli ticket` there."));
        }
        Err(no_answer())
    }
}

fn stall(asked: Option<Duration>) -> Duration {
    asked.unwrap_or(STALL_DEFAULT).min(STALL_MAX)
}

fn stopping() -> Problem {
    Problem::new(Code::NotReady, "the node is stopping")
}

fn no_answer() -> Problem {
    Problem::new(Code::TimedOut, "no member answered at the addresses given")
        .hint("Is a node running there, and its port reachable from here? The node goes on trying.")
}

fn is_ready(view: &NetView, started: Instant) -> bool {
    !view.alive.is_empty() || !view.expects_others || started.elapsed() >= READY_WAIT
}

/// The address as a CIDv1: version 1, codec raw (0x55), multihash blake3 (0x1e) of 32 bytes, in base32.
fn cid(root: &RootId) -> String {
    let mut bytes = vec![0x01, 0x55, 0x1e, 0x20];
    bytes.extend_from_slice(&root.0);
    format!("b{}", data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase())
}
