//! Homes that are damaged, or have lost something.

use std::path::Path;

use p2p_api::Problem;
use p2p_api::types::Health;

use super::disk::{Process, noise, try_put};
use super::*;

/// Bytes of a page of `objects.db`.
const PAGE_LEN: usize = 64 << 10;

/// Nodes that have met, the first of which holds this, with copies on two others; and its address.
async fn three_copies(homes: &[TempDir; 3], bytes: &Bytes) -> ([Node; 3], String) {
    let first = Node::start(config(homes[0].path())).await.expect("it starts");
    let join = vec![first.handle().ticket().ticket];
    let second = Node::start(Config { join: join.clone(), ..config(homes[1].path()) }).await.expect("it starts");
    let third = Node::start(Config { join, ..config(homes[2].path()) }).await.expect("it starts");
    let nodes = [first, second, third];
    for node in &nodes {
        client(node).wait(Some(3), Duration::from_secs(20)).await.expect("they meet");
    }
    let put = try_put(&client(&nodes[0]), bytes.clone()).await.expect("stored");
    super::until_copies(&client(&nodes[0]), &put.address, 3).await;
    (nodes, put.address)
}

/// Overwrites the pages in the middle half of a file.
fn overwrite_middle(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a file");
    let pages = bytes.len() / PAGE_LEN;
    assert!(pages > 100, "{pages}");
    bytes[pages / 4 * PAGE_LEN..pages * 3 / 4 * PAGE_LEN].fill(0xa5);
    std::fs::write(path, bytes).expect("written");
}

/// Does what docs/operating.md says to do: sets the database aside.
fn set_aside(home: &Path) {
    let aside = home.join("aside");
    std::fs::create_dir(&aside).expect("a folder");
    for name in ["objects.db", "objects.db-wal", "objects.db-shm"] {
        if home.join(name).exists() {
            std::fs::rename(home.join(name), aside.join(name)).expect("moved");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_database_is_corrupt_ends_says_so_and_comes_back_by_the_documented_way() {
    let homes = [home(), home(), home()];
    let bytes = noise(1, 24 << 20);
    let ([first, second, third], address) = three_copies(&homes, &bytes).await;
    first.stop().await;
    let home = homes[0].path();
    overwrite_middle(&home.join("objects.db"));
    let mut node = Process::start(home, None);
    let socket = Client::new(p2p_api::home::socket_path(home).expect("a socket's place"));
    // It may find out only when it reads what was hit.
    let ends = async {
        while node.runs() {
            if let Ok(mut content) = socket.get(&address, GetOptions::default()).await {
                while let Some(Ok(_)) = content.next().await {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ends).await.expect("it ends");
    let ended = node.ended().await;
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(9), "{stderr}");
    for part in ["error: ", "objects.db: ", "malformed", "hint: ", "objects.db-wal", "When the disk fails"] {
        assert!(stderr.contains(part), "{part} is missing in {stderr}");
    }
    set_aside(home);
    let node = Process::start(home, None);
    let client = node.client(home).await;
    client.wait(Some(3), Duration::from_secs(20)).await.expect("they meet again");
    let status = client.status().await.expect("it runs");
    assert_eq!((status.health, status.objects), (Health::Degraded, 0));
    assert!(status.reasons[0].contains("objects.db was missing or empty"), "{:?}", status.reasons);
    assert!(super::get(&client, &address).await == bytes);
    // What was held here is only cache now, until the file is put again.
    super::until_copies(&client, &address, 2).await;
    try_put(&client, bytes).await.expect("stored");
    super::until_copies(&client, &address, 3).await;
    drop(node);
    second.stop().await;
    third.stop().await;
}

/// Why a home does not start.
async fn refused(home: &Path) -> Problem {
    Node::start(config(home)).await.err().expect("it does not start").into()
}

fn check_corrupt(problem: &Problem, named: &str, way_out: &str) {
    assert_eq!(problem.code, Code::Corrupt, "{problem:?}");
    assert!(problem.message.contains(named), "{problem:?}");
    assert!(problem.hint.as_deref().is_some_and(|hint| hint.contains(way_out)), "{problem:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_used_home_that_is_garbage_is_named_with_the_way_out_and_left_alone() {
    let home = home();
    let node = Node::start(config(home.path())).await.expect("it starts");
    put(&client(&node), b"content").await;
    node.stop().await;
    for (name, way_out) in [
        ("objects.db", "objects.db-wal"),
        ("identity.key", "backup"),
        ("cluster.toml", "that of any other member"),
        ("state.db", "state.db-wal"),
    ] {
        let path = home.path().join(name);
        let before = std::fs::read(&path).ok();
        let garbage = vec![0xa5; before.as_ref().map_or(100, Vec::len)];
        std::fs::write(&path, &garbage).expect("written");
        check_corrupt(&refused(home.path()).await, name, way_out);
        assert_eq!(std::fs::read(&path).expect("there"), garbage, "{name}");
        before.map_or_else(|| std::fs::remove_file(&path), |before| std::fs::write(&path, before)).expect("as before");
    }
    Node::start(config(home.path())).await.expect("it starts").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_with_content_is_not_given_another_identity_or_cluster() {
    let home = home();
    let node = Node::start(config(home.path())).await.expect("it starts");
    let address = put(&client(&node), b"content").await;
    node.stop().await;
    for name in ["identity.key", "cluster.toml"] {
        let path = home.path().join(name);
        let before = std::fs::read(&path).expect("there");
        std::fs::remove_file(&path).expect("there");
        check_corrupt(&refused(home.path()).await, name, "init --home DIR");
        assert!(!path.exists(), "{name}");
        std::fs::write(&path, before).expect("written");
    }
    // The way out that keeps the content: another home, into which it is moved.
    let other = super::home();
    Node::start(config(other.path())).await.expect("it starts").stop().await;
    std::fs::rename(home.path().join("objects.db"), other.path().join("objects.db")).expect("moved");
    let node = Node::start(config(other.path())).await.expect("it starts");
    assert_eq!(get(&client(&node), &address).await, b"content");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_from_a_used_home_is_noticed() {
    let home = home();
    let path = home.path().join("objects.db");
    let node = Node::start(config(home.path())).await.expect("it starts");
    assert_eq!(client(&node).status().await.expect("it runs").health, Health::Ok, "a new home has lost nothing");
    put(&client(&node), b"content").await;
    node.stop().await;
    let lose: [fn(&Path); 2] =
        [|path| std::fs::write(path, "").expect("written"), |path| std::fs::remove_file(path).expect("there")];
    for lose in lose {
        lose(&path);
        // With its log there the file may come back: to start would throw the log away.
        let log = home.path().join("objects.db-wal");
        std::fs::write(&log, [1; 4096]).expect("written");
        check_corrupt(&refused(home.path()).await, "objects.db-wal", "objects.db-wal");
        assert_eq!(std::fs::read(&log).expect("there"), [1; 4096]);
        std::fs::remove_file(&log).expect("there");
        let node = Node::start(config(home.path())).await.expect("it starts");
        let status = client(&node).status().await.expect("it runs");
        assert_eq!(status.health, Health::Degraded);
        assert!(status.reasons[0].contains("objects.db was missing or empty"), "{:?}", status.reasons);
        node.stop().await;
        let node = Node::start(config(home.path())).await.expect("it starts");
        assert_eq!(client(&node).status().await.expect("it runs").health, Health::Ok);
        node.stop().await;
    }
}
