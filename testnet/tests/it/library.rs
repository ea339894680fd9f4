//! The network as other crates' tests use it.

use std::net::TcpListener;

use p2p_api::Code;
use p2p_testnet::process::{Condition, ProcessId};
use p2p_testnet::{Cluster, ClusterConfig, ports};
use tempfile::TempDir;

use super::{node_bin, wait_gone};

fn config(temp: &TempDir, nodes: u32) -> ClusterConfig {
    let node_bins = vec![node_bin().to_owned()];
    ClusterConfig { dir: temp.path().join("net"), nodes, node_bins, ..ClusterConfig::default() }
}

fn processes(cluster: &Cluster) -> Vec<ProcessId> {
    let nodes = cluster.nodes().expect("a network").nodes;
    nodes.iter().filter_map(|node| ProcessId::of(node.pid?)).collect()
}

#[tokio::test]
async fn a_cluster_is_driven_from_a_test_and_ends_with_it() {
    let temp = TempDir::new().expect("a temporary folder");
    let mut cluster = Cluster::up(config(&temp, 2)).await.expect("two nodes");
    assert_eq!(cluster.client(1).status().await.expect("it runs").members.alive, 2);

    cluster.kill(1).await.expect("it runs");
    assert_eq!(cluster.client(1).status().await.expect_err("it is down").code, Code::Unreachable);
    cluster.restart(1).await.expect("it comes back");
    assert_eq!(cluster.add(1).await.expect("one more"), [2]);
    assert_eq!(cluster.client(2).status().await.expect("it runs").members.alive, 3);

    cluster.stop(0).await.expect("it runs");
    assert_eq!(cluster.nodes().expect("a network").nodes[0].state, Condition::Stopped);
    let held = processes(&cluster);
    assert_eq!(held.len(), 3);
    drop(cluster);
    wait_gone(&held);
}

#[tokio::test]
async fn what_a_test_configures_reaches_every_node() {
    let temp = TempDir::new().expect("a temporary folder");
    let mut more = toml::Table::new();
    more.insert("storage_max".to_owned(), "3GiB".into());
    let mut cluster = Cluster::up(ClusterConfig { config: more, ..config(&temp, 1) }).await.expect("one node");
    assert_eq!(cluster.client(0).status().await.expect("it runs").storage_max, 3 << 30);
    cluster.down().await.expect("it runs");
}

#[tokio::test]
async fn a_restart_on_a_port_that_somebody_took_is_reported_with_the_log() {
    let temp = TempDir::new().expect("a temporary folder");
    let mut cluster = Cluster::up(config(&temp, 1)).await.expect("one node");
    let port = cluster.dir().load().expect("a network").nodes[0].port;
    cluster.kill(0).await.expect("it runs");
    assert!(ports::is_free(port));
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("it is free");
    let problem = cluster.restart(0).await.expect_err("the port is taken");
    assert!(problem.message.contains("node 0") && problem.message.contains("log ends with"), "{problem}");
    assert_eq!(cluster.dir().load().expect("a network").nodes[0].port, port, "others know it by this one");
    drop(listener);
    cluster.restart(0).await.expect("the port is free again");
}
