//! A network that is measured: nodes as a user would start them, in a folder that goes with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use p2p_api::types::PutResult;
use p2p_api::{Code, Problem};
use tokio::time::{Instant, sleep};

use crate::cluster;
use crate::http::Connection;
use crate::metrics::Metrics;
use crate::process::ProcessId;
use crate::programs::Programs;
use crate::{Cluster, ClusterConfig, Result};

/// Longest wait until all nodes know that they know of everybody.
const COMPLETE_LIMIT: Duration = Duration::from_secs(60);

/// How often a node that is waited for is looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// The network.
pub(super) struct Net {
    pub(super) cluster: Cluster,
    pub(super) programs: Programs,
}

impl Net {
    pub(super) async fn up(dir: &Path, programs: Programs, nodes: u32, storage_max: u64, plain: bool) -> Result<Self> {
        Self::up_with(dir, programs, nodes, storage_max, plain, toml::Table::new()).await
    }

    /// With more in the configuration of every node.
    pub(super) async fn up_with(
        dir: &Path,
        programs: Programs,
        nodes: u32,
        storage_max: u64,
        plain: bool,
        mut config: toml::Table,
    ) -> Result<Self> {
        config.insert("storage_max".to_owned(), format!("{storage_max}B").into());
        let config = ClusterConfig {
            dir: dir.join("net"),
            nodes,
            node_bins: vec![programs.node.clone()],
            config,
            plain,
            ..ClusterConfig::default()
        };
        Ok(Self { cluster: Cluster::up(config).await?, programs })
    }

    /// Lets one more node join; its index.
    pub(super) async fn add(&mut self) -> Result<u32> {
        let added = self.cluster.add(1).await?;
        added.first().copied().ok_or_else(|| Problem::new(Code::Other, "no node was added"))
    }

    /// Kills a node; others notice at once.
    pub(super) async fn kill(&mut self, node: u32) -> Result<()> {
        self.cluster.kill(node).await
    }

    /// Starts a node that was killed, and waits until it has met the others.
    pub(super) async fn restart(&mut self, node: u32) -> Result<()> {
        self.cluster.restart(node).await.map(drop)
    }

    /// All nodes, whether they run or not.
    pub(super) fn indices(&self) -> Result<Vec<u32>> {
        Ok(self.cluster.nodes()?.nodes.iter().map(|node| node.index).collect())
    }

    pub(super) fn home(&self, node: u32) -> PathBuf {
        self.cluster.dir().home(node)
    }

    pub(super) fn socket(&self, node: u32) -> PathBuf {
        self.cluster.client(node).socket().to_owned()
    }

    pub(super) fn client(&self, node: u32) -> p2p_api::client::Client {
        self.cluster.client(node)
    }

    pub(super) async fn metrics(&self, node: u32) -> Result<Metrics> {
        Metrics::of(&self.socket(node)).await
    }

    /// Waits until every node knows that it knows of everybody, which is later than knowing of everybody: neighbours have
    /// said that they know the same.
    pub(super) async fn until_complete(&self) -> Result<()> {
        let deadline = Instant::now() + COMPLETE_LIMIT;
        for node in self.cluster.nodes()?.nodes {
            while self.metrics(node.index).await?.gauge("p2p_view_complete")? != 1.0 {
                if Instant::now() >= deadline {
                    let what = format!("node {} does not know whether it knows of everybody", node.index);
                    return Err(Problem::new(Code::TimedOut, what)
                        .hint("Was the machine busy with something else? See `p2p-testnet ps --matrix`."));
                }
                sleep(LOOK_PERIOD).await;
            }
        }
        Ok(())
    }

    /// Bytes of objects that a node has taken from others so far.
    pub(super) async fn received(&self, node: u32) -> Result<u64> {
        self.metrics(node).await?.counter("p2p_object_received_bytes")
    }

    /// What all nodes have spent on all cores so far, in seconds.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let nodes = self.cluster.nodes()?.nodes;
        let spent = nodes.iter().filter_map(|node| ProcessId::of(node.pid?)?.cpu_time());
        Ok(spent.map(|time| time.as_secs_f64()).sum())
    }

    /// Makes sure that a node has nothing that it would not have to fetch.
    pub(super) async fn must_be_empty(&self, node: u32) -> Result<()> {
        match self.client(node).status().await?.objects {
            0 => Ok(()),
            some => {
                Err(Problem::new(Code::Other, format!("node {node} is to fetch everything, and holds {some} objects")))
            }
        }
    }

    /// Ends the nodes and removes all they kept.
    pub(super) async fn down(self) -> Result<()> {
        cluster::down(self.cluster.dir(), true).await.map(drop)
    }
}

/// Puts bytes over a connection that is kept.
pub(super) async fn put(connection: &mut Connection, bytes: &[u8], address: &str) -> Result<()> {
    must_be(&connection.request("POST", "/v1/content", &[], bytes).await?.success()?, address)
}

/// Gets a whole file over a connection that is kept, and leaves nothing of it on the node.
pub(super) async fn get(connection: &mut Connection, address: &str) -> Result<()> {
    let path = format!("/v1/content/{address}?cache=false");
    let body = connection.request("GET", &path, &[], b"").await?.success()?;
    if blake3::hash(&body).to_hex().as_str() == address {
        return Ok(());
    }
    Err(Problem::new(Code::Integrity, format!("other bytes came back for {address}")))
}

/// Makes sure that an answer to a put says this address, and that enough copies were acknowledged.
pub(super) fn must_be(answer: &[u8], address: &str) -> Result<()> {
    let result: PutResult = serde_json::from_slice(answer)
        .map_err(|error| Problem::new(Code::Other, format!("the answer to a put cannot be read: {error}")))?;
    match result.problem {
        Some(problem) => Err(problem),
        None if result.address == address => Ok(()),
        None => Err(Problem::new(Code::Integrity, format!("{address} was put, and the node says {}", result.address))),
    }
}
