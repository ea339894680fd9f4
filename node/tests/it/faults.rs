//! Nodes that let themselves be hurt: what each fault does, that it does no more, and that it ends.

use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use p2p_api::client::{Client, GetOptions, PutOptions};
use p2p_api::home::TESTNET_MARKER;
use p2p_api::types::Faults;
use p2p_api::{Code, Problem};
use p2p_dht::placement;
use p2p_dht::tree::{PlacementKey, RootId};
use p2p_node::config::Config;
use p2p_node::{Node, StartError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{client, config, home, raw};

const MIB: usize = 1 << 20;

/// Longest wait for what must come: a silent member is put down after some seconds, and whoever is cut off takes itself for
/// that after twelve.
const PATIENCE: Duration = Duration::from_secs(90);

struct Hurt {
    node: Node,
    _home: TempDir,
}

impl Hurt {
    fn client(&self) -> Client {
        client(&self.node)
    }

    fn peer(&self) -> String {
        self.node.handle().peer().to_string()
    }

    async fn set(&self, faults: Faults) {
        assert_eq!(self.client().set_faults(&faults).await.expect("the door is open"), faults);
    }

    /// A counter, summed over its labels.
    async fn metric(&self, name: &str) -> u64 {
        let metrics = raw(&self.node, "GET /metrics", None).await;
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok());
        metrics.lines().filter(of_name).map(|line| value(line).expect("a count")).sum()
    }
}

/// Starts a node of a test network that joins by a ticket.
async fn start(ticket: Option<String>) -> Hurt {
    let home = home();
    std::fs::write(home.path().join(TESTNET_MARKER), "").expect("written");
    let config = Config { join: ticket.into_iter().collect(), faults: true, ..config(home.path()) };
    Hurt { node: Node::start(config).await.expect("it starts"), _home: home }
}

/// Adds nodes until there are so many that have met.
async fn grow(all: &mut Vec<Hurt>, nodes: u32) {
    let ticket = all[0].node.handle().ticket().ticket;
    while all.len() < nodes as usize {
        all.push(start(Some(ticket.clone())).await);
    }
    for hurt in all {
        hurt.client().wait(Some(nodes), PATIENCE).await.expect("they meet");
    }
}

async fn stop(all: Vec<Hurt>) {
    for hurt in all {
        hurt.node.stop().await;
    }
}

fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Two nodes, of which the first alone has the content.
async fn pair(content: &Bytes) -> (Vec<Hurt>, String) {
    let mut both = vec![start(None).await];
    let address = put_alone(&both[0], content).await;
    grow(&mut both, 2).await;
    (both, address)
}

/// Puts bytes on a node that is alone.
async fn put_alone(hurt: &Hurt, content: &Bytes) -> String {
    let parts: Vec<std::io::Result<Bytes>> = content.chunks(MIB).map(|part| Ok(content.slice_ref(part))).collect();
    let options = PutOptions { replicas: Some(1), ..PutOptions::default() };
    hurt.client().put(futures::stream::iter(parts), None, options).await.expect("stored").address
}

/// A get that leaves nothing behind, and gives up after some seconds without progress.
async fn get(hurt: &Hurt, address: &str, patience: Duration) -> Result<Vec<u8>, Problem> {
    let options = GetOptions { no_cache: true, timeout: Some(patience), ..GetOptions::default() };
    let mut found = hurt.client().get(address, options).await?;
    let mut bytes = Vec::new();
    while let Some(part) = found.next().await {
        bytes.extend_from_slice(&part.map_err(|error| Problem::new(Code::Other, error.to_string()))?);
    }
    Ok(bytes)
}

fn blocks(hurt: &Hurt) -> Faults {
    Faults { blocked: vec![hurt.peer()], ..Faults::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_home_of_a_test_network_lets_itself_be_hurt() {
    let home = home();
    let refused = Node::start(Config { faults: true, ..config(home.path()) }).await.err().expect("no marker");
    assert!(matches!(refused, StartError::NoTestnet { .. }), "{refused}");
    assert_eq!(std::fs::read_dir(home.path()).expect("a folder").count(), 0, "nothing was made");
    // With the marker alone the door stays shut.
    std::fs::write(home.path().join(TESTNET_MARKER), "").expect("written");
    let node = Node::start(config(home.path())).await.expect("it starts");
    assert_eq!(client(&node).faults().await.expect_err("no such route").code, Code::UnsupportedVersion);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_set_as_a_whole_and_only_when_they_make_sense() {
    let hurt = start(None).await;
    assert_eq!(hurt.client().faults().await.expect("the door is open"), Faults::default());
    let all = Faults {
        blocked: vec![PeerId::random().to_string()],
        rate: Some(20 << 20),
        corrupt: true,
        stall: true,
        hide_view: true,
    };
    hurt.set(all.clone()).await;
    for wrong in ["{\"rate\":0}", "{\"blocked\":[\"me\"]}", "{\"colour\":7}", "{\"rate\":-1}", "", "{"] {
        let mut socket = tokio::net::UnixStream::connect(hurt.node.handle().socket()).await.expect("it listens");
        let head = "PUT /v1/faults HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Type: application/json";
        let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{wrong}", wrong.len());
        socket.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("usage"), "{wrong}: {answer}");
    }
    assert_eq!(hurt.client().faults().await.expect("the door is open"), all, "nothing has changed");
    hurt.set(Faults { corrupt: true, ..Faults::default() }).await;
    hurt.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_is_soon_mended_costs_nothing_but_time() {
    let file = content(1, 8 * MIB);
    let (both, address) = pair(&file).await;
    assert!(get(&both[1], &address, PATIENCE).await.expect("it is there") == file);
    let opened = "libp2p_swarm_connections_incoming_total";
    let before = both[0].metric(opened).await + both[1].metric(opened).await;
    both[1].set(blocks(&both[0])).await;
    let missing = get(&both[1], &address, Duration::from_secs(2)).await.map(drop).expect_err("nothing comes through");
    assert_eq!(missing.code, Code::NotFound);
    both[1].set(Faults::default()).await;
    assert!(get(&both[1], &address, PATIENCE).await.expect("it flows again") == file);
    let after = both[0].metric(opened).await + both[1].metric(opened).await;
    assert!(before > 0, "they have met");
    assert_eq!(after, before, "by the connection that there was");
    stop(both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_lasts_is_noticed_on_both_sides_and_no_new_connection_comes_up() {
    // Bytes that nobody takes are in the way of closing, too.
    let file = content(2, 64 * MIB);
    let (both, address) = pair(&file).await;
    let mut broken = both[1].client().get(&address, GetOptions::default()).await.expect("it begins");
    both[0].set(blocks(&both[1])).await;
    both[1].set(blocks(&both[0])).await;
    let deadline = Instant::now() + PATIENCE;
    for hurt in &both {
        while hurt.client().status().await.expect("it runs").members.alive == 2 {
            assert!(Instant::now() < deadline, "it is still counted as reachable");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    while let Some(Ok(_)) = broken.next().await {}
    let target = both[0].node.handle().addresses()[0].to_string();
    let started = Instant::now();
    let refused = both[1].client().join(&target, Some(Duration::from_secs(5))).await.expect_err("it is cut off");
    assert_eq!(refused.code, Code::TimedOut, "it hangs, and is not refused");
    assert!(started.elapsed() >= Duration::from_secs(5), "{:?}", started.elapsed());
    for hurt in &both {
        hurt.set(Faults::default()).await;
    }
    for hurt in &both {
        hurt.client().wait(Some(2), PATIENCE).await.expect("they meet again");
    }
    assert!(get(&both[1], &address, PATIENCE).await.expect("it is there again") == file);
    stop(both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_bounds_all_that_a_node_sends_and_can_be_lifted_at_any_time() {
    let file = content(3, 20 * MIB);
    let (both, address) = pair(&file).await;
    both[0].set(Faults { rate: Some(10 << 20), ..Faults::default() }).await;
    let started = Instant::now();
    assert!(get(&both[1], &address, PATIENCE).await.expect("slowly") == file);
    let took = started.elapsed();
    // How much longer it may take says only how busy this machine is.
    assert!(took >= Duration::from_millis(1900), "20 MiB at 10 MiB/s took {took:?}");
    both[0].set(Faults { rate: Some(1), ..Faults::default() }).await;
    let slow = get(&both[1], &address, Duration::from_secs(2)).await.map(drop).expect_err("a byte a second");
    assert!(matches!(slow.code, Code::NotFound | Code::TimedOut), "{slow}");
    both[0].set(Faults::default()).await;
    assert!(get(&both[1], &address, PATIENCE).await.expect("who waited is let go") == file);
    stop(both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_node_is_found_out_and_believed_again_afterwards() {
    let file = content(4, 3 * MIB);
    let (both, address) = pair(&file).await;
    both[0].set(Faults { corrupt: true, ..Faults::default() }).await;
    get(&both[1], &address, Duration::from_secs(3)).await.map(drop).expect_err("no byte of it can be believed");
    assert!(both[1].metric("p2p_objects_bad_total").await > 0);
    assert!(get(&both[0], &address, PATIENCE).await.expect("what it has is sound") == file);
    both[0].set(Faults::default()).await;
    assert!(get(&both[1], &address, PATIENCE).await.expect("it is honest again") == file);
    stop(both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_node_is_there_and_answers_nothing_about_objects() {
    let file = content(5, 3 * MIB);
    let (both, address) = pair(&file).await;
    both[0].set(Faults { stall: true, ..Faults::default() }).await;
    get(&both[1], &address, Duration::from_secs(12)).await.map(drop).expect_err("no answer");
    assert_eq!(both[1].client().status().await.expect("it runs").members.alive, 2, "its connections are fine");
    both[0].set(Faults::default()).await;
    assert!(get(&both[1], &address, PATIENCE).await.expect("it answers again") == file);
    stop(both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_hidden_view_finds_by_kademlia_alone() {
    let mut all = vec![start(None).await];
    // Put before there are others, so that the first node is the only holder of all of it.
    let mut files = Vec::new();
    for seed in 0..40 {
        files.push(put_alone(&all[0], &content(seed, 1000)).await);
    }
    grow(&mut all, 8).await;
    let peers: Vec<PeerId> = all.iter().map(|hurt| hurt.node.handle().peer()).collect();
    let is_close = |address: &&String| {
        let root: RootId = address.parse().expect("an address");
        placement::closest(&PlacementKey(root.0), peers.clone(), placement::READ_CANDIDATES).contains(&peers[0])
    };
    let (near, far): (Vec<&String>, Vec<&String>) = files.iter().partition(is_close);
    let (near, far) = (near.first().expect("five of eight are close"), far.first().expect("three of eight are not"));
    let reader = &all[7];
    reader.set(Faults { hide_view: true, ..Faults::default() }).await;
    get(reader, near, PATIENCE).await.expect("its holder is one of the closest");
    let missing = get(reader, far, Duration::from_secs(5)).await.map(drop).expect_err("it knows nobody else to ask");
    assert_eq!(missing.code, Code::NotFound);
    reader.set(Faults::default()).await;
    get(reader, far, PATIENCE).await.expect("everybody is asked");
    stop(all).await;
}
