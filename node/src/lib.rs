//! A node: one process that is a member of a cluster.
//!
//! [`Node::start`] brings the parts up in order, [`Node::stop`] takes them down in reverse. Everything a user can do is a
//! method of [`Handle`]; the HTTP API calls those. This crate is the only one that knows the swarm, SQLite and HTTP, and
//! decides nothing that the protocol crates could.

mod admission;
#[doc(hidden)]
pub mod bench;
pub mod cluster;
pub mod config;
mod error;
mod faults;
mod files;
pub mod handle;
mod health;
mod home;
mod http;
mod identity;
mod kv;
mod lock;
mod membership;
mod metrics;
pub mod notify;
mod restore;
mod sqlite;
mod state;
pub mod store;
mod swarm;
pub mod telemetry;
pub mod ticket;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use p2p_dht::content::{Content, Watched};
use p2p_dht::exchange::Counters;
use p2p_dht::exchange::client::Client;
use p2p_dht::exchange::server::Server;
use p2p_dht::hold::{self, Expired};
use p2p_dht::store::{ObjectStore, Pending, StoreError};
use p2p_gossip::kv::Work;
use p2p_gossip::swim::Stop;
use p2p_gossip::wire::ClusterId;
use p2p_gossip::wire::streams::{Arrived, Inbound};
use prometheus_client::registry::Registry;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use admission::Admission;
use cluster::{Cluster, Origin};
use config::{Config, is_certain};
use faults::Faults;
use handle::{Inner, Network, STALL_DEFAULT};
use http::ApiCounters;
use kv::{Feed, KvCounters};
use lock::HomeLock;
use membership::Begin;
use membership::contacts::Contacts;
use metrics::{Counted, Metrics};
use sqlite::OpenError;
use state::{MapBegun, MapSetup, State, StateFile};
use store::Objects;
use swarm::{Command, Net, NetConfig};
use ticket::Ticket;

pub use error::{GetFailure, StartError, ending};
pub use handle::Handle;
pub use restore::{Restored, restore};

/// Longest orderly stop; what is not done by then is left, and nothing acknowledged is lost by it. The log says so, as no
/// counter outlives it.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(8);

/// How long requests that are under way get to end when the node stops.
const API_TIME_MAX: Duration = Duration::from_secs(3);

/// How often the store is tidied: expired uploads let go, free space given back.
const TIDY_PERIOD: Duration = Duration::from_secs(60);

/// How often it is looked whether the whole map is what was written.
const AUDIT_PERIOD: Duration = Duration::from_secs(3600);

/// How often memory is given back that was not used since the last time.
const MEMORY_PERIOD: Duration = Duration::from_secs(5);

/// How often it is looked how full the store is, for others to know.
const FILL_PERIOD: Duration = Duration::from_secs(10);

/// A node that runs.
pub struct Node {
    handle: Handle,
    store: Objects,
    state: State,
    stopped: watch::Receiver<Option<Stop>>,
    tasks: JoinSet<()>,
    api: tokio::task::JoinHandle<()>,
    net: tokio::task::JoinHandle<()>,
    _lock: HomeLock,
}

/// Why a node has ended by itself.
#[derive(Debug)]
pub enum Ended {
    /// A database has failed. What was acknowledged is on the disk.
    Failed(StoreError),
    /// It has left the cluster, and others know.
    Left,
    /// Another process has the same key, and goes on.
    DuplicateIdentity,
}

/// A home and who it is, before anything runs.
pub struct Prepared {
    /// This node.
    pub peer: libp2p::PeerId,
    /// Its cluster.
    pub cluster: Cluster,
    keypair: libp2p::identity::Keypair,
    state: StateFile,
    lock: HomeLock,
}

impl Prepared {
    /// Makes a home where there is none, takes its lock, and lets it join what the configuration names.
    ///
    /// # Errors
    /// When the home cannot be used, is held by another process, or belongs to another cluster than a ticket.
    pub fn new(config: &Config) -> Result<Self, StartError> {
        home::make(&config.home)?;
        let lock = HomeLock::take(&config.home)?;
        home::check_whole(&config.home)?;
        let keypair = identity::load_or_create(&config.home)?;
        let peer = keypair.public().to_peer_id();
        let mut cluster = Cluster::load_or_make(&config.home)?;
        let mut state = StateFile::open(&config.home)?;
        // Tickets first: with the key of one, addresses make sense.
        let (tickets, addresses): (Vec<_>, Vec<_>) =
            config.join.iter().partition(|target| ticket::looks_like_ticket(target));
        for target in tickets {
            join_by_ticket(config, target, &mut cluster, &mut state)?;
        }
        for target in addresses {
            join_by_address(target, &cluster, &mut state)?;
        }
        Ok(Self { peer, cluster, keypair, state, lock })
    }

    /// A ticket of the home's cluster, with those of its addresses that are known without running.
    pub fn ticket(&self, config: &Config) -> Ticket {
        let named = if config.advertise.is_empty() { &config.listen } else { &config.advertise };
        let certain = named.iter().filter(|address| is_certain(address)).take(ticket::ADDRESSES_MAX);
        let addresses = certain.map(|address| address.clone().with(Protocol::P2p(self.peer))).collect();
        Ticket { cluster: self.cluster.id, key: self.cluster.keys[0].clone(), addresses }
    }
}

impl Node {
    /// Starts a node.
    ///
    /// # Errors
    /// Why it does not start; the home is left as it was.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        // Before anything is made: a home that is no test network's stays as it is.
        let faults = config.faults.then(|| Faults::of_home(&config.home)).transpose()?;
        let Prepared { peer, cluster, keypair, state, lock } = Prepared::new(&config)?;
        let ever_met = state.ever_met()?;
        let store_lost = store::is_lost(&config.home, ever_met)?;
        if store_lost {
            tracing::warn!(home = %config.home.display(), "{}", health::STORE_LOST);
        }
        let store = Objects::open(&config.home, config.storage_max)?;
        // Before anybody can put: what is unfinished now is what the last run left.
        let pending = store.read(|view| view.pending()).await.map_err(OpenError::from)?;
        let (socket, listener) = bind_api(&config.home)?;
        let admission = Admission::new(keypair.clone(), &cluster.keys)
            .map_err(|error| StartError::Home(format!("the identity cannot be used: {error}")))?;
        let mut registry = Registry::default();
        let get_times = metrics::get_times(&mut registry);
        let kv_counters = Arc::new(KvCounters::default());
        let (feed, fed) = kv::feed(kv_counters.clone());
        let (membership, map) = begin_membership(&config, &keypair, cluster.id, state, feed)?;
        let state = membership.state.clone();
        let net = swarm::start(
            NetConfig {
                keypair,
                admission: admission.clone(),
                listen: config.listen.clone(),
                advertise: config.advertise.clone(),
                cables: faults.as_ref().map(|faults| faults.cables()),
                membership,
            },
            &mut registry,
        )
        .await?;
        let Net { commands, view, control, inbound, map_control, map_inbound, stopped, task, .. } = net;
        let (cluster_id, current) = watch::channel(cluster.id);
        let streams = kv::StreamsBegin {
            state: state.clone(),
            control: map_control,
            inbound: map_inbound,
            cluster: current.clone(),
            counters: kv_counters.clone(),
        };
        let (streams, ask, answer) = kv::Streams::start(streams);
        let has_founder = cluster.origin == Origin::Joined;
        let begin = kv::Begin {
            state: state.clone(),
            map,
            fed,
            streams,
            view: view.clone(),
            has_founder,
            counters: kv_counters.clone(),
        };
        let (kv, spread) = kv::start(begin);
        let counters = Arc::new(Counters::default());
        let client = Client::new(control, current.clone(), counters.clone());
        let network = Network {
            me: peer,
            commands,
            view,
            slow_lookup: Arc::default(),
            faults: faults.clone(),
            counters: net.counters.clone(),
        };
        let content = Content::new(store.clone(), network.clone(), client.clone(), counters.clone());
        let server = Server::new(content.watched_store(), current, counters.clone());
        let server = match &faults {
            Some(faults) => server.with_faults(faults.serving()),
            None => server,
        };
        let stopping = CancellationToken::new();
        let labels = Mutex::new(config.labels());
        let handle = Handle {
            inner: Arc::new(Inner {
                config,
                me: peer,
                started: Instant::now(),
                cluster: Mutex::new(cluster),
                cluster_id,
                admission,
                net: network,
                content,
                state: state.clone(),
                kv,
                backing_up: tokio::sync::Mutex::default(),
                store_lost,
                member_events: net.member_events,
                labels,
                get_times,
                socket,
                stopping: stopping.clone(),
            }),
        };
        let api_counters = Arc::new(ApiCounters::default());
        let counted = Counted {
            exchange: counters.clone(),
            streams: net.stream_counters,
            net: net.counters,
            members: net.member_counters,
            api: api_counters.clone(),
            kv: kv_counters,
            state: state.clone(),
        };
        let metrics = Arc::new(Metrics::new(registry, counted));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_peers(server, inbound));
        tasks.spawn(spread);
        tasks.spawn(ask);
        tasks.spawn(answer);
        tasks.spawn(audit(state.clone()));
        tasks.spawn(tidy(store.clone(), client, counters));
        tasks.spawn(give_back_memory());
        tasks.spawn(say_how_full(handle.clone()));
        tasks.spawn(resume(handle.clone(), pending));
        tasks.spawn(keep_whole(handle.clone()));
        let api = http::Api { handle: handle.clone(), metrics, counters: api_counters };
        let api = tokio::spawn(http::serve(listener, api, stopping));
        tracing::info!(%peer, home = %handle.inner.config.home.display(), "node started");
        Ok(Self { handle, store, state, stopped, tasks, api, net: task, _lock: lock })
    }

    /// What can be done with it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until the node cannot go on, or has no reason to: a database has failed, or it is no part of the cluster any more.
    pub async fn ended(&self) -> Ended {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            error = self.store.failed() => Ended::Failed(error),
            error = self.state.failed() => Ended::Failed(error),
            Ok(stop) = stopped.wait_for(Option::is_some) => match *stop {
                Some(Stop::DuplicateIdentity) => Ended::DuplicateIdentity,
                _ => Ended::Left,
            },
        }
    }

    /// Stops in an orderly way, within [`STOP_TIME_MAX`].
    pub async fn stop(mut self) {
        let stop = async {
            self.handle.inner.stopping.cancel();
            // Requests that are under way still need the others.
            let _ = tokio::time::timeout(API_TIME_MAX, &mut self.api).await;
            let _ = self.handle.inner.net.commands.send(Command::Stop).await;
            let _ = (&mut self.net).await;
            self.tasks.abort_all();
            while self.tasks.join_next().await.is_some() {}
            self.state.close().await;
            self.store.close().await;
        };
        if tokio::time::timeout(STOP_TIME_MAX, stop).await.is_err() {
            tracing::warn!("not everything could be ended in time");
        }
        let _ = std::fs::remove_file(self.handle.socket());
        tracing::info!("node stopped");
    }
}

/// Counts this start, and takes up what the last one knew. Nobody hears of this start before it is on the disk.
fn begin_membership(
    config: &Config,
    keypair: &libp2p::identity::Keypair,
    cluster: ClusterId,
    mut state: StateFile,
    map: Feed,
) -> Result<(Begin, MapBegun), StartError> {
    let keys = identity::signing(keypair)?;
    let (generation, ever_met) = (state.next_generation()?, state.ever_met()?);
    let (facts, contacts) = (state.facts(&keys)?, Contacts::new(state.contacts()?));
    let setup =
        MapSetup { peer: keys.name(), log_keep: config.state_log, len_max: config.state_max, is_alone: !ever_met };
    let (state, map_begun) = state.run(setup)?;
    let begin = Begin {
        config: config.profile.times(),
        me: keypair.public().to_peer_id(),
        generation,
        cluster,
        tags: config.labels().encode().map_err(StartError::Config)?,
        facts,
        ever_met,
        contacts,
        state,
        map,
        keys,
    };
    Ok((begin, map_begun))
}

/// Lets the map look, now and then, whether all that it holds is what was written.
async fn audit(state: State) {
    let mut period = tokio::time::interval_at(tokio::time::Instant::now() + AUDIT_PERIOD, AUDIT_PERIOD);
    loop {
        period.tick().await;
        state.work(Work::Audit);
    }
}

/// Opens the API's socket of a home.
fn bind_api(home: &Path) -> Result<(PathBuf, UnixListener), StartError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::Socket { path, source }
    };
    let socket = p2p_api::home::socket_path(home).map_err(failed(home))?;
    let listener = http::bind(&socket).map_err(failed(&socket))?;
    Ok((socket, listener))
}

/// Hands every stream that a member opens to a task of its own.
async fn serve_peers(server: Server<Watched<Objects>>, mut inbound: Inbound) {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = inbound.recv() => match stream {
                Some(arrived) => {
                    let Arrived { peer, host, stream } = arrived;
                    streams.spawn(server.clone().serve(peer, host, stream));
                }
                None => return,
            },
            Some(_ended) = streams.join_next() => {}
        }
    }
}

/// Gives memory back to the system that nothing moves through any more.
async fn give_back_memory() {
    let mut period = tokio::time::interval(MEMORY_PERIOD);
    loop {
        period.tick().await;
        p2p_gossip::wire::buffer::trim();
    }
}

/// Lets go of what has expired, closes links that nobody uses.
async fn tidy(store: Objects, client: Client, counters: Arc<Counters>) {
    let mut period = tokio::time::interval(TIDY_PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        client.close_idle();
        loop {
            match store.write(0, hold::expire).await {
                Ok(Expired::Nothing) => break,
                Ok(Expired::Part) => {}
                Ok(Expired::Upload) => drop(counters.uploads_expired.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    tracing::warn!(%error, "cannot let go of expired uploads");
                    break;
                }
            }
        }
        store.give_back_space().await;
    }
}

/// Tells others how full this node is, in sixteenths.
async fn say_how_full(handle: Handle) {
    let mut period = tokio::time::interval(FILL_PERIOD);
    loop {
        period.tick().await;
        handle.say_how_full().await;
    }
}

/// Takes up puts that lacked copies when the node last stopped.
async fn resume(handle: Handle, pending: Vec<Pending>) {
    handle.until_ready().await;
    if !pending.is_empty() {
        tracing::info!(puts = pending.len(), "bringing copies of earlier puts");
        handle.inner.content.resume_puts(&pending, STALL_DEFAULT).await;
    }
}

/// Mends what is damaged on the disk, once there is anybody who could help.
async fn keep_whole(handle: Handle) {
    handle.until_ready().await;
    handle.inner.content.clone().keep_whole().await;
}

/// Lets a home join by an address before it runs.
fn join_by_address(target: &str, cluster: &Cluster, state: &mut StateFile) -> Result<(), StartError> {
    if target.is_empty() {
        return Err(StartError::Config("join: an empty ticket".into()));
    }
    let address: Multiaddr =
        target.parse().map_err(|_| StartError::Config("join: neither a ticket nor a multiaddress".into()))?;
    if cluster.origin == Origin::Made && !state.ever_met()? {
        return Err(StartError::NoKey);
    }
    Ok(state.add_contacts(&[address])?)
}

/// Lets a home join by a ticket before it runs.
fn join_by_ticket(
    config: &Config,
    target: &str,
    cluster: &mut Cluster,
    state: &mut StateFile,
) -> Result<(), StartError> {
    let ticket: Ticket =
        target.parse().map_err(|error: ticket::NotATicket| StartError::Config(format!("join: {error}")))?;
    if ticket.cluster != cluster.id {
        if state.ever_met()? || state.has_map()? || home::has_content(&config.home)? {
            return Err(StartError::OtherCluster);
        }
        *cluster = Cluster::joined(ticket.cluster, ticket.key);
        cluster.save(&config.home)?;
        state.forget_all()?;
    }
    Ok(state.add_contacts(&ticket.addresses)?)
}
