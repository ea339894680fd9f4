//! Content on networks of real processes: what was acknowledged is there, whatever is killed.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use p2p_api::client::{Client, GetOptions, PutOptions};
use p2p_api::types::PutResult;
use p2p_api::{ByteRange, Code, Problem};
use p2p_testnet::{Cluster, ClusterConfig};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::node_bin;

const MIB: usize = 1 << 20;

struct Net {
    cluster: Cluster,
    temp: TempDir,
}

async fn net(nodes: u32) -> Net {
    let temp = TempDir::new().expect("a temporary folder");
    let node_bins = vec![node_bin().to_owned()];
    let config = ClusterConfig { dir: temp.path().join("net"), nodes, node_bins, ..ClusterConfig::default() };
    Net { cluster: Cluster::up(config).await.expect("a network"), temp }
}

/// Incompressible bytes.
fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn address(content: &Bytes) -> String {
    blake3::hash(content).to_hex().to_string()
}

async fn put(client: &Client, content: &Bytes) -> PutResult {
    let parts: Vec<io::Result<Bytes>> = content.chunks(MIB / 3).map(|part| Ok(content.slice_ref(part))).collect();
    let stream = futures::stream::iter(parts);
    let result = client.put(stream, Some(content.len() as u64), PutOptions::default()).await.expect("stored");
    assert_eq!(result.address, address(content));
    assert_eq!(result.problem, None);
    result
}

/// Waits until every part has so many copies. A put waits a second for those it does not need, and a member that is busy
/// for longer is not counted when it is asked.
async fn until_copies(client: &Client, content: &Bytes, copies: u32) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let stat = client.stat(&address(content), None).await;
        if stat.as_ref().is_ok_and(|stat| stat.copies_min == copies) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{stat:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn get(client: &Client, address: &str, options: GetOptions) -> Result<Vec<u8>, Problem> {
    let mut found = client.get(address, options).await?;
    let mut bytes = Vec::with_capacity(found.len as usize);
    while let Some(part) = found.next().await {
        bytes.extend_from_slice(&part.expect("not broken off"));
    }
    Ok(bytes)
}

/// Compares without printing megabytes.
fn check(found: &Result<Vec<u8>, Problem>, expected: &Bytes, what: &str) {
    match found {
        Ok(bytes) => assert!(bytes == expected, "{what}: other bytes"),
        Err(problem) => panic!("{what}: {problem:?}"),
    }
}

/// A put whose bytes the test sends when it likes.
fn begin_put(client: Client, len: Option<u64>) -> (mpsc::Sender<io::Result<Bytes>>, Upload) {
    let (parts, queue) = mpsc::channel(1);
    let stream = futures::stream::unfold(queue, |mut queue| async { Some((queue.recv().await?, queue)) });
    (parts, tokio::spawn(async move { client.put(stream, len, PutOptions::default()).await }))
}

type Upload = tokio::task::JoinHandle<Result<PutResult, Problem>>;

const FRESH: GetOptions = GetOptions { range: None, no_cache: true, timeout: None };

#[tokio::test]
async fn every_size_comes_back_from_every_node_also_after_the_first_was_killed() {
    let mut net = net(5).await;
    let sizes = [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + MIB / 2, 16 * MIB + 1, 300 * MIB];
    let mut files = Vec::new();
    for len in sizes {
        let file = content(len as u64, len);
        put(&net.cluster.client(0), &file).await;
        until_copies(&net.cluster.client(0), &file, 3).await;
        files.push(file);
    }
    for killed in [false, true] {
        if killed {
            net.cluster.kill(0).await.expect("it runs");
        }
        for node in 1..5 {
            for file in &files {
                let found = get(&net.cluster.client(node), &address(file), FRESH).await;
                check(&found, file, &format!("{} bytes on node {node}, killed: {killed}", file.len()));
            }
        }
    }
}

#[tokio::test]
async fn every_node_gets_what_every_node_put() {
    let net = net(5).await;
    for from in 0..5 {
        let file = content(from, 2 * MIB + 7);
        put(&net.cluster.client(from as u32), &file).await;
        for to in 0..5 {
            let found = get(&net.cluster.client(to), &address(&file), FRESH).await;
            check(&found, &file, &format!("{from} to {to}"));
        }
    }
}

#[tokio::test]
async fn a_range_is_the_bytes_it_names() {
    let net = net(3).await;
    let file = content(5, 20 * MIB + 5);
    put(&net.cluster.client(0), &file).await;
    let (len, mib) = (file.len() as u64, MIB as u64);
    for range in [
        ByteRange::From(1),
        ByteRange::From(mib),
        ByteRange::From(17 * mib - 1),
        ByteRange::From(len - 1),
        ByteRange::Between(0, 0),
        ByteRange::Between(mib - 1, mib),
        ByteRange::Between(9, u64::MAX),
        ByteRange::Last(4 * mib + 6),
        ByteRange::Last(u64::MAX),
    ] {
        let part = range.within(len).expect("it is there");
        let found = get(&net.cluster.client(2), &address(&file), GetOptions { range: Some(range), ..FRESH }).await;
        check(&found, &file.slice(part.start as usize..part.end as usize), &range.to_string());
    }
    for range in [ByteRange::From(len), ByteRange::Last(0)] {
        let nothing = get(&net.cluster.client(2), &address(&file), GetOptions { range: Some(range), ..FRESH }).await;
        assert_eq!(nothing.map(drop).expect_err("nothing is there").code, Code::OutOfRange, "{range}");
    }
}

#[tokio::test]
async fn a_range_moves_no_more_objects_than_it_needs() {
    let mut net = net(1).await;
    let file = content(9, 40 * MIB);
    put(&net.cluster.client(0), &file).await;
    net.cluster.add(1).await.expect("one more");
    let client = net.cluster.client(1);
    let mib = MIB as u64;
    // What comes stays as cache, so that it can be counted: the index once, and the leaves of each range.
    for (range, objects) in [
        (ByteRange::From(40 * mib), 1),
        (ByteRange::Between(5 * mib + 7, 5 * mib + 8), 2),
        (ByteRange::Between(20 * mib - 1, 20 * mib), 4),
        (ByteRange::Last(1), 5),
        (ByteRange::Last(3 * mib), 7),
    ] {
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let found = get(&client, &address(&file), options).await;
        if objects > 1 {
            let part = range.within(file.len() as u64).expect("it is there");
            check(&found, &file.slice(part.start as usize..part.end as usize), &format!("{range}"));
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let status = client.status().await.expect("it runs");
            assert!(status.objects <= objects, "{range} moved {} objects", status.objects);
            if status.objects == objects {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{range}: {} of {objects} are kept", status.objects);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn a_node_killed_in_mid_put_opens_clean_and_has_all_it_acknowledged() {
    let mut net = net(3).await;
    let kept = content(1, 5 * MIB);
    put(&net.cluster.client(0), &kept).await;
    let cut = content(2, 60 * MIB);
    let (parts, upload) = begin_put(net.cluster.client(0), Some(cut.len() as u64));
    // The node takes most of it, and then there is no more node.
    for part in cut.slice(..50 * MIB).chunks(MIB) {
        parts.send(Ok(cut.slice_ref(part))).await.expect("the upload goes on");
    }
    net.cluster.kill(0).await.expect("it runs");
    drop(parts);
    assert!(upload.await.expect("no panic").is_err());
    net.cluster.restart(0).await.expect("it opens");
    for node in 0..3 {
        let client = net.cluster.client(node);
        check(&get(&client, &address(&kept), FRESH).await, &kept, "what was acknowledged");
        let missing = get(&client, &address(&cut), FRESH).await.expect_err("it was never stored");
        assert_eq!(missing.code, Code::NotFound);
    }
    put(&net.cluster.client(0), &cut).await;
    check(&get(&net.cluster.client(2), &address(&cut), FRESH).await, &cut, "put again");
}

#[tokio::test]
async fn a_client_that_goes_in_mid_put_leaves_nothing_visible() {
    let net = net(3).await;
    let cut = content(2, 20 * MIB);
    let (parts, upload) = begin_put(net.cluster.client(0), Some(cut.len() as u64));
    for part in cut.slice(..19 * MIB).chunks(MIB) {
        parts.send(Ok(cut.slice_ref(part))).await.expect("the upload goes on");
    }
    upload.abort();
    let _ = upload.await;
    for node in 0..3 {
        let missing = get(&net.cluster.client(node), &address(&cut), FRESH).await.expect_err("never stored");
        assert_eq!(missing.code, Code::NotFound);
    }
}

#[tokio::test]
async fn a_holder_killed_in_mid_put_costs_nothing() {
    let mut net = net(5).await;
    let file = content(3, 80 * MIB);
    let (parts, upload) = begin_put(net.cluster.client(0), None);
    for (n, part) in file.chunks(MIB).enumerate() {
        if n == 40 {
            net.cluster.kill(4).await.expect("it runs");
        }
        parts.send(Ok(file.slice_ref(part))).await.expect("the upload goes on");
    }
    drop(parts);
    let result = upload.await.expect("no panic").expect("stored");
    assert_eq!((result.problem, result.address.as_str()), (None, address(&file).as_str()));
    assert!(result.copies >= 2, "{} copies", result.copies);
    net.cluster.kill(0).await.expect("it runs");
    check(&get(&net.cluster.client(1), &address(&file), FRESH).await, &file, "without the killed");
}

#[tokio::test]
async fn a_source_killed_in_mid_get_is_replaced_by_another() {
    let mut net = net(5).await;
    let file = content(4, 120 * MIB);
    put(&net.cluster.client(0), &file).await;
    for victim in [1, 2] {
        let mut found = net.cluster.client(3).get(&address(&file), FRESH).await.expect("found");
        let mut bytes = Vec::new();
        while let Some(part) = found.next().await {
            bytes.extend_from_slice(&part.expect("not broken off"));
            if bytes.len() > 20 * MIB && net.cluster.client(victim).status().await.is_ok() {
                net.cluster.kill(victim).await.expect("it runs");
            }
        }
        assert!(bytes == file, "other bytes after {victim} was killed");
        net.cluster.restart(victim).await.expect("it comes back");
    }
}

#[tokio::test]
async fn a_node_killed_in_mid_get_opens_clean_and_gets_it_the_next_time() {
    let mut net = net(5).await;
    let file = content(8, 100 * MIB);
    put(&net.cluster.client(0), &file).await;
    let cached = GetOptions::default();
    let mut found = net.cluster.client(4).get(&address(&file), cached).await.expect("found");
    let mut bytes = 0;
    let broken = loop {
        match found.next().await {
            Some(Ok(part)) => bytes += part.len(),
            Some(Err(_)) => break true,
            None => break bytes < file.len(),
        }
        if bytes > 30 * MIB && net.cluster.client(4).status().await.is_ok() {
            net.cluster.kill(4).await.expect("it runs");
        }
    };
    assert!(broken, "the node was killed before the end");
    net.cluster.restart(4).await.expect("it opens");
    check(&get(&net.cluster.client(4), &address(&file), cached).await, &file, "after the restart");
}

#[tokio::test]
async fn a_network_that_was_killed_whole_comes_back_with_everything() {
    let mut net = net(3).await;
    let files: Vec<Bytes> = (0..10).map(|n| content(n, 300_000 * n as usize)).collect();
    for file in &files {
        put(&net.cluster.client(1), file).await;
    }
    for node in 0..3 {
        net.cluster.kill(node).await.expect("it runs");
    }
    drop(net.cluster);
    let node_bins = vec![node_bin().to_owned()];
    let config = ClusterConfig { dir: net.temp.path().join("net"), nodes: 3, node_bins, ..ClusterConfig::default() };
    let cluster = Cluster::up(config).await.expect("the same network");
    for node in 0..3 {
        for file in &files {
            check(&get(&cluster.client(node), &address(file), FRESH).await, file, &format!("node {node}"));
        }
    }
}

#[tokio::test]
async fn a_put_that_lacks_copies_says_so_and_brings_them_after_a_restart() {
    let mut net = net(3).await;
    net.cluster.kill(1).await.expect("it runs");
    net.cluster.kill(2).await.expect("it runs");
    let file = content(6, 3 * MIB);
    let options = PutOptions { timeout: Some(Duration::from_secs(2)), ..PutOptions::default() };
    let stream = futures::stream::iter([Ok(file.clone())]);
    let result = net.cluster.client(0).put(stream, None, options).await.expect("stored here");
    assert_eq!(result.problem.expect("too few copies").code, Code::Partial);
    assert_eq!(result.address, address(&file));
    net.cluster.kill(0).await.expect("it runs");
    for node in 0..3 {
        net.cluster.restart(node).await.expect("it comes back");
    }
    until_copies(&net.cluster.client(1), &file, 3).await;
    net.cluster.kill(0).await.expect("it runs");
    check(&get(&net.cluster.client(2), &address(&file), FRESH).await, &file, "without the one who put it");
}

#[tokio::test]
async fn unknown_content_is_not_found_and_soon() {
    let net = net(5).await;
    let started = tokio::time::Instant::now();
    let missing = get(&net.cluster.client(0), &"00".repeat(32), FRESH).await.expect_err("nobody has it");
    assert_eq!(missing.code, Code::NotFound);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(net.cluster.client(0).stat(&"00".repeat(32), None).await.expect_err("neither").code, Code::NotFound);
}

#[tokio::test]
async fn two_clusters_do_not_mix() {
    let (one, other) = (net(2).await, net(2).await);
    let file = content(7, MIB);
    put(&one.cluster.client(0), &file).await;
    let target = one.cluster.client(0).status().await.expect("it runs").addresses[0].clone();
    let refused = other.cluster.client(0).join(&target, None).await.expect_err("another key");
    assert_eq!(refused.code, Code::Unauthorised);
    let ticket = one.cluster.client(0).ticket().await.expect("it runs").ticket;
    let refused = other.cluster.client(0).join(&ticket, None).await.expect_err("it has met others");
    assert_eq!(refused.code, Code::Conflict);
    let missing = get(&other.cluster.client(1), &address(&file), FRESH).await.expect_err("not theirs");
    assert_eq!(missing.code, Code::NotFound);
    for net in [&one, &other] {
        assert_eq!(net.cluster.client(0).status().await.expect("it runs").members.alive, 2);
    }
    let reasons = other.cluster.client(0).status().await.expect("it runs").reasons;
    assert!(reasons.iter().any(|reason| reason.contains("another cluster key")), "{reasons:?}");
}

#[tokio::test]
async fn growth_hides_nothing() {
    let mut net = net(5).await;
    let files: Vec<Bytes> = (0..100).map(|n| content(n, 1 + 700 * n as usize)).collect();
    for (n, file) in files.iter().enumerate() {
        put(&net.cluster.client(n as u32 % 5), file).await;
    }
    let newcomers = net.cluster.add(20).await.expect("twenty more");
    assert_eq!(newcomers.len(), 20);
    for node in newcomers {
        let client = net.cluster.client(node);
        for file in &files {
            check(&get(&client, &address(file), FRESH).await, file, &format!("newcomer {node}"));
        }
        assert_eq!(client.status().await.expect("it runs").objects, 0, "a newcomer keeps nothing without cache");
    }
}
