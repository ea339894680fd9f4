//! Networks of real processes that fall apart, serve badly, and are healed.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_api::client::{Client, GetOptions, PutOptions};
use p2p_api::{Code, Problem};
use p2p_testnet::faults::Fault;
use p2p_testnet::{Cluster, ClusterConfig};
use tempfile::TempDir;

use super::{Net, node_bin, said, states};

/// Longest wait until a cut is noticed, or forgotten.
const PATIENCE: Duration = Duration::from_secs(90);

async fn up(temp: &TempDir, nodes: u32) -> Cluster {
    let node_bins = vec![node_bin().to_owned()];
    let config = ClusterConfig { dir: temp.path().join("net"), nodes, node_bins, ..ClusterConfig::default() };
    Cluster::up(config).await.expect("a network")
}

async fn put(client: &Client, content: &'static [u8]) -> String {
    let stream = futures::stream::iter([Ok(Bytes::from_static(content))]);
    client.put(stream, None, PutOptions::default()).await.expect("stored").address
}

async fn get(client: &Client, address: &str) -> Result<Vec<u8>, Problem> {
    let options = GetOptions { no_cache: true, timeout: Some(Duration::from_secs(3)), ..GetOptions::default() };
    let mut found = client.get(address, options).await?;
    let mut bytes = Vec::new();
    while let Some(part) = found.next().await {
        bytes.extend_from_slice(&part.map_err(|error| Problem::new(Code::Other, error.to_string()))?);
    }
    Ok(bytes)
}

/// Until a node has decided who is here: whoever is only suspected may be here again after the next start.
async fn until_alive(cluster: &Cluster, node: u32, members: u32) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let counts = cluster.client(node).status().await.expect("it runs").members;
        if (counts.alive, counts.suspect) == (members, 0) {
            return;
        }
        assert!(Instant::now() < deadline, "node {node} does not see {members}, but {counts:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn groups_live_on_apart_through_restarts_and_are_one_network_again_when_healed() {
    let temp = TempDir::new().expect("a temporary folder");
    let mut cluster = up(&temp, 5).await;
    cluster.partition([vec![0, 1]]).await.expect("they run");
    for node in 0..5 {
        until_alive(&cluster, node, if node < 2 { 2 } else { 3 }).await;
    }
    let address = put(&cluster.client(0), b"written in the small group").await;
    assert_eq!(
        get(&cluster.client(1), &address).await.expect("the other one of the group"),
        b"written in the small group"
    );
    let missing = get(&cluster.client(2), &address).await.map(drop).expect_err("another group");
    assert_eq!(missing.code, Code::NotFound);
    // One of each group, so that neither remembers what it was told.
    for node in [1, 3] {
        cluster.restart(node).await.expect("it comes back, and waits for its group alone");
    }
    assert_eq!(cluster.client(1).status().await.expect("it runs").members.alive, 2);
    assert_eq!(cluster.client(3).status().await.expect("it runs").members.alive, 3);
    cluster.heal().await.expect("they run");
    cluster.until_met().await.expect("they meet again");
    assert_eq!(get(&cluster.client(2), &address).await.expect("one network"), b"written in the small group");
}

#[tokio::test]
async fn a_node_that_is_stopped_when_the_network_falls_apart_learns_of_it() {
    let temp = TempDir::new().expect("a temporary folder");
    let cluster = up(&temp, 2).await;
    cluster.stop(0).await.expect("it runs");
    cluster.partition([[0], [1]]).await.expect("nobody waits for a stopped one");
    cluster.cont(0).await.expect("it was stopped");
    assert_eq!(cluster.client(0).faults().await.expect("it runs").blocked.len(), 1);
    cluster.stop(0).await.expect("it runs");
    cluster.heal().await.expect("nobody waits for a stopped one");
    cluster.cont(0).await.expect("it was stopped");
    assert!(cluster.client(0).faults().await.expect("it runs").blocked.is_empty());
}

#[tokio::test]
async fn a_node_serves_badly_as_it_is_told_and_only_so() {
    let temp = TempDir::new().expect("a temporary folder");
    let mut cluster = up(&temp, 1).await;
    let address = put(&cluster.client(0), b"on one node alone").await;
    cluster.add(1).await.expect("one more");
    cluster.hurt(0, &[Fault::Corrupt]).await.expect("it runs");
    get(&cluster.client(1), &address).await.map(drop).expect_err("wrong bytes");
    cluster.hurt(0, &[Fault::Stall]).await.expect("it runs");
    let faults = cluster.client(0).faults().await.expect("it runs");
    assert!(faults.stall && !faults.corrupt, "{faults:?}");
    get(&cluster.client(1), &address).await.map(drop).expect_err("no answer");
    cluster.hurt(0, &[Fault::None]).await.expect("it runs");
    assert_eq!(get(&cluster.client(1), &address).await.expect("it serves"), b"on one node alone");
}

#[test]
fn the_verbs_show_what_is_wrong_and_refuse_what_makes_no_sense() {
    let net = Net::new();
    net.refused("partition 0/1", 3);
    net.refused("heal", 3);
    let up = net.run("up -n 3 --detach");
    assert!(up["nodes"].as_array().expect("a list").iter().all(|node| node.get("faults").is_none()), "{up}");
    for (line, exit) in [
        ("partition 0/7", 3),
        ("partition 0,1,2", 2),
        ("partition 0,1/1,2", 2),
        ("partition 0//1", 2),
        ("fault 7 corrupt", 3),
        ("fault 0 rate=0", 2),
        ("fault 0", 2),
    ] {
        net.refused(line, exit);
    }
    assert_eq!(net.run("ps"), up, "nothing has changed");

    let cut = net.run("partition 0/1,2");
    let blocked = |document: &serde_json::Value, node: usize| {
        document["nodes"][node]["faults"]["blocked"].as_array().expect("a list").len()
    };
    assert_eq!((blocked(&cut, 0), blocked(&cut, 1), blocked(&cut, 2)), (2, 1, 1));
    net.run("kill 0");
    let hurt = net.run("fault 0 rate=20MiB stall");
    assert_eq!((blocked(&hurt, 0), &hurt["nodes"][0]["faults"]["rate"]), (2, &(20 << 20).into()));
    assert_eq!(states(&net.run("restart 0")), ["running"; 3]);
    assert_eq!(net.run("ps")["nodes"][0]["faults"], hurt["nodes"][0]["faults"]);
    net.run("fault 0 none");
    assert_eq!(blocked(&net.run("ps"), 0), 2, "a partition is healed apart");
    let healed = net.run("heal");
    assert!(healed["nodes"].as_array().expect("a list").iter().all(|node| node.get("faults").is_none()), "{healed}");
}

#[test]
fn more_nodes_than_the_machine_carries_are_refused_before_anything_is_made() {
    let net = Net::new();
    // So many open files that two nodes are fine and a hundred are not, on every machine.
    let limited = |line: &str| {
        let command = net.command(line);
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n 150 && exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
        let output = shell.env("P2P_NODE_BIN", node_bin()).stdin(Stdio::null()).output().expect("a shell");
        (output.status.code(), said(&output))
    };
    let (exit, said) = limited("up -n 100 --detach");
    assert_eq!(exit, Some(10), "{said}");
    assert!(said.contains("open files") && said.contains("--force"), "{said}");
    assert!(!net.dir().exists());
    assert_eq!(limited("up -n 1 --detach").0, Some(0));
    assert_eq!(limited("add 99").0, Some(10));
    assert_eq!(limited("add 1").0, Some(0));
    net.refused("add 1000 --force", 2);
}
