//! Three nodes as processes: the victim, and two honest members.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use p2p_api::client::{Client, PutOptions};
use p2p_api::types::{Health, Ready};
use p2p_dht::placement;
use p2p_dht::tree::{PlacementKey, RootId};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::map::{Ledger, MAP_TIME_MAX};
use super::process::Process;
use super::rounds::{self, Rates};
use super::views::Views;

/// Longest wait for a node to be ready, or members to meet.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// Between two looks at something that will change.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// Rounds of transfers before the first that is measured.
const WARM_UP_ROUNDS: usize = 2;

/// Bytes of the files that are there from the beginning.
const FILE_LEN: usize = 4 << 20;

/// A node.
pub(crate) struct Node {
    pub(crate) client: Client,
    pub(crate) process: Process,
    pub(crate) ticket_file: PathBuf,
    peer: PeerId,
    home: PathBuf,
    _child: Child,
}

/// What a node takes when nothing happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    pub(crate) memory: u64,
    descriptors: usize,
    tasks: u64,
}

/// A file and its address.
pub(crate) struct Known {
    pub(crate) address: String,
    pub(crate) content: Bytes,
}

pub(crate) struct Cluster {
    pub(crate) victim: Node,
    pub(crate) reader: Node,
    pub(crate) holder: Node,
    /// On the victim alone.
    pub(crate) of_victim: Known,
    /// On the holder alone.
    pub(crate) of_holder: Known,
    pub(crate) idle: Idle,
    /// The last transfers that nobody disturbed.
    pub(crate) calm: Rates,
    /// What honest users have written to the map.
    pub(crate) map: Ledger,
    views: Views,
    _dir: TempDir,
}

impl Cluster {
    /// Starts the nodes, gives them files, and lets them come to rest; then measures so many rounds of transfers.
    pub(crate) async fn start(rounds: usize) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let victim = Node::start(&dir.path().join("victim"), None).await;
        let of_victim = put_alone(&victim, rounds::content(u64::MAX, FILE_LEN)).await;
        let reader = Node::start(&dir.path().join("reader"), Some(&victim.ticket_file)).await;
        let holder = Node::start(&dir.path().join("holder"), Some(&victim.ticket_file)).await;
        for node in [&victim, &reader, &holder] {
            node.client.wait(Some(3), START_TIME_MAX).await.expect("they meet");
        }
        let peers = [victim.peer, reader.peer, holder.peer];
        let closest_to_holder = |content: &Bytes| {
            let key = PlacementKey(RootId(*blake3::hash(content).as_bytes()).0);
            placement::closest(&key, peers, 1) == [holder.peer]
        };
        let mut candidates = (0..).map(|seed| rounds::content(u64::MAX - 1 - seed, FILE_LEN));
        let content = candidates.find(closest_to_holder).expect("there is no end of them");
        let of_holder = put_alone(&holder, content).await;
        let map = Ledger::begin(&victim).await;
        let idle = victim.takes().await;
        let calm = Rates::default();
        let views = Views::open([&victim, &reader, &holder].map(|node| (&node.client, node.peer))).await;
        let mut cluster = Self { victim, reader, holder, of_victim, of_holder, idle, calm, map, views, _dir: dir };
        // All links that there will be open: tasks and descriptors that come after are compared with this, but memory with what it was before.
        Rates::measure_busy(&cluster, WARM_UP_ROUNDS).await;
        cluster.calm = Rates::measure(&cluster, rounds).await;
        cluster.idle = Idle { memory: idle.memory, ..cluster.victim.takes().await };
        cluster
    }

    /// Waits until the victim takes no more than before, and everything is there; members that were made up may be.
    ///
    /// # Errors
    /// What is not as it was.
    pub(crate) async fn calm_down(&self, limit: Duration, made_up: bool) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        self.come_to_rest(deadline, made_up).await?;
        loop {
            match self.map.stands_on([&self.victim, &self.reader, &self.holder]).await {
                Ok(()) => return Ok(()),
                Err(left) if Instant::now() >= deadline => return Err(left),
                Err(_) => tokio::time::sleep(10 * LOOK_PERIOD).await,
            }
        }
    }

    /// Writes to the map on each of the nodes, and reads it there.
    pub(crate) async fn write_everywhere(&self) -> Result<(), String> {
        for (name, node) in [("victim", &self.victim), ("reader", &self.reader), ("holder", &self.holder)] {
            let written = tokio::time::timeout(MAP_TIME_MAX, self.map.write(node)).await;
            written
                .unwrap_or_else(|_elapsed| Err(format!("not within {MAP_TIME_MAX:?}")))
                .map_err(|problem| format!("{name}: {problem}"))?;
        }
        Ok(())
    }

    async fn come_to_rest(&self, deadline: Instant, made_up: bool) -> Result<(), String> {
        loop {
            let left = self.is_calm(made_up).await;
            match left {
                Ok(()) => return Ok(()),
                Err(left) if Instant::now() >= deadline => return Err(format!("not as before: {left}")),
                Err(_) => tokio::time::sleep(LOOK_PERIOD).await,
            }
        }
    }

    async fn is_calm(&self, made_up: bool) -> Result<(), String> {
        self.views.are_whole().await?;
        for (name, node) in [("victim", &self.victim), ("reader", &self.reader), ("holder", &self.holder)] {
            let status = node.client.status().await.map_err(|problem| format!("{name}: {problem}"))?;
            if !made_up && (status.health != Health::Ok || status.members.alive != 3) {
                return Err(format!("{name}: {status:?}"));
            }
        }
        let takes = self.victim.takes().await;
        if takes.descriptors > self.idle.descriptors || takes.tasks > self.idle.tasks {
            return Err(format!("{takes:?}, idle it was {:?}", self.idle));
        }
        Ok(())
    }

    /// What the nodes have told of each other since the last call, and must not.
    pub(crate) fn take_slanders(&self) -> Vec<String> {
        self.views.take_slanders()
    }
}

impl Node {
    async fn start(home: &Path, join: Option<&Path>) -> Self {
        let ready_file = home.with_extension("ready");
        let log = File::create(home.with_extension("log")).expect("a writable folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-node"));
        command.args(["run", "--listen", "/ip4/127.0.0.1/tcp/0", "--exit-with-stdin"]);
        command.arg("--home").arg(home).arg("--ready-file").arg(&ready_file);
        if let Some(ticket) = join {
            command.arg("--join-file").arg(ticket);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let child = command.spawn().expect("p2p-node runs");
        let deadline = Instant::now() + START_TIME_MAX;
        let ready: Ready = loop {
            let found = fs::read(&ready_file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            match found {
                Some(ready) => break ready,
                None => assert!(Instant::now() < deadline, "a node does not start"),
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        };
        let client = Client::new(&ready.socket);
        let ticket_file = home.with_extension("ticket");
        fs::write(&ticket_file, client.ticket().await.expect("it runs").ticket).expect("a writable folder");
        Self {
            client,
            process: Process(ready.pid),
            ticket_file,
            peer: ready.peer.parse().expect("a peer"),
            home: home.to_owned(),
            _child: child,
        }
    }

    async fn takes(&self) -> Idle {
        let memory = self.process.memory().map_or(0, |memory| memory.now);
        let tasks = self.metrics().await.get("p2p_tasks");
        Idle { memory, descriptors: self.process.descriptors(), tasks }
    }

    /// What `/metrics` says.
    pub(crate) async fn metrics(&self) -> Metrics {
        let text = self.ask_metrics().await.unwrap_or_default();
        let mut values = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("p2p_")) {
            if let Some((name, value)) = line.split_once(' ')
                && let Ok(value) = value.trim().parse()
            {
                values.insert(name.trim_end_matches("_total").to_owned(), value);
            }
        }
        Metrics(values)
    }

    async fn ask_metrics(&self) -> std::io::Result<String> {
        let mut socket = tokio::net::UnixStream::connect(self.client.socket()).await?;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.with_extension("log")).unwrap_or_default()
    }

    pub(crate) fn log_len(&self) -> u64 {
        fs::metadata(self.home.with_extension("log")).map_or(0, |found| found.len())
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    pub(crate) fn panicked(&self) -> bool {
        self.log().contains("panicked at")
    }
}

/// Counters and gauges by name.
pub(crate) struct Metrics(BTreeMap<String, u64>);

impl Metrics {
    pub(crate) fn get(&self, name: &str) -> u64 {
        *self.0.get(name).unwrap_or_else(|| panic!("there is no metric {name}"))
    }
}

/// Puts a file so that it is on this node and nowhere else.
async fn put_alone(node: &Node, content: Bytes) -> Known {
    let options = PutOptions { replicas: Some(1), acks: Some(1), ..PutOptions::default() };
    let stream = futures::stream::iter([Ok(content.clone())]);
    let address = node.client.put(stream, None, options).await.expect("stored").address;
    Known { address, content }
}
