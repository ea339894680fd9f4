//! A network that is measured: nodes as a user would start them, in a folder that goes with it.

use std::path::{Path, PathBuf};

use p2p_api::{Code, Problem};

use crate::cluster;
use crate::metrics::Metrics;
use crate::process::ProcessId;
use crate::programs::Programs;
use crate::{Cluster, ClusterConfig, Result};

/// The network.
pub(super) struct Net {
    cluster: Cluster,
    pub(super) programs: Programs,
}

impl Net {
    pub(super) async fn up(dir: &Path, programs: Programs, nodes: u32, storage_max: u64, plain: bool) -> Result<Self> {
        let mut config = toml::Table::new();
        config.insert("storage_max".to_owned(), format!("{storage_max}B").into());
        let config = ClusterConfig {
            dir: dir.join("net"),
            nodes,
            node_bin: Some(programs.node.clone()),
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
