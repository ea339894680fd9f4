//! Nodes as a library, in this process, over real sockets, files and the API's socket.

mod disk;
mod faults;
mod home;
mod members;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use p2p_api::Code;
use p2p_api::client::{Client, GetOptions, PutOptions};
use p2p_node::config::{Config, STORAGE_MAX_DEFAULT};
use p2p_node::{Node, StartError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn config(home: &Path) -> Config {
    Config {
        home: home.to_owned(),
        name: "test".into(),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
        advertise: vec![],
        join: vec![],
        tags: Default::default(),
        profile: Default::default(),
        replicas: 3,
        storage_max: STORAGE_MAX_DEFAULT,
        state_max: p2p_node::config::STATE_MAX_DEFAULT,
        state_log: p2p_node::config::STATE_LOG_DEFAULT,
        faults: false,
    }
}

fn home() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn client(node: &Node) -> Client {
    Client::new(node.handle().socket())
}

async fn put(client: &Client, bytes: &'static [u8]) -> String {
    let stream = futures::stream::iter([Ok(Bytes::from_static(bytes))]);
    client.put(stream, None, PutOptions::default()).await.expect("stored").address
}

async fn get(client: &Client, address: &str) -> Vec<u8> {
    let mut content = client.get(address, GetOptions::default()).await.expect("found");
    let mut bytes = Vec::new();
    while let Some(part) = content.next().await {
        bytes.extend_from_slice(&part.expect("whole"));
    }
    bytes
}

/// Waits until every part of a file has so many copies. A put waits a second for those it does not need, and a member that
/// is busy for longer is not counted when it is asked.
async fn until_copies(client: &Client, address: &str, copies: u32) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let stat = client.stat(address, None).await;
        if stat.as_ref().is_ok_and(|stat| stat.copies_min == copies) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{stat:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One request as any HTTP client would send it.
async fn raw(node: &Node, request: &str, range: Option<&str>) -> String {
    let mut socket = tokio::net::UnixStream::connect(node.handle().socket()).await.expect("it listens");
    let range = range.map(|range| format!("Range: {range}\r\n")).unwrap_or_default();
    let request = format!("{request} HTTP/1.1\r\nHost: node\r\n{range}Connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.expect("it answers");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_meet_by_a_ticket_and_keep_files_for_each_other() {
    let (first_home, second_home) = (home(), home());
    let first = Node::start(config(first_home.path())).await.expect("it starts");
    let ticket = first.handle().ticket().ticket;
    let second = Node::start(Config { join: vec![ticket], ..config(second_home.path()) }).await.expect("it starts");
    for node in [&first, &second] {
        client(node).wait(Some(2), Duration::from_secs(20)).await.expect("they meet");
    }
    let address = put(&client(&first), b"hello").await;
    first.stop().await;
    assert_eq!(get(&client(&second), &address).await, b"hello");
    // It comes back at another port, and both are remembered.
    let first = Node::start(config(first_home.path())).await.expect("it starts again");
    client(&first).wait(Some(2), Duration::from_secs(20)).await.expect("they meet again");
    assert_eq!(get(&client(&first), &address).await, b"hello");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_plain_to_read() {
    let home = home();
    let node = Node::start(config(home.path())).await.expect("it starts");
    assert!(raw(&node, "GET /livez", None).await.starts_with("HTTP/1.1 200"));
    assert!(raw(&node, "GET /readyz", None).await.starts_with("HTTP/1.1 200"));
    let address = put(&client(&node), b"one object").await;
    get(&client(&node), &address).await;
    let metrics = raw(&node, "GET /metrics", None).await;
    for line in [
        "p2p_members_alive 1",
        "p2p_objects 1",
        "p2p_object_bytes 10",
        "p2p_get_first_byte_seconds_count 1",
        "p2p_get_first_byte_seconds_bucket{le=\"30.0\"} 1",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
    node.stop().await;
}

/// The names of the node's own metrics, as a monitor sees them.
fn own_metrics(metrics: &str) -> BTreeSet<&str> {
    metrics.lines().filter(|line| line.starts_with("p2p_")).filter_map(|line| line.split([' ', '{']).next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_exported_and_explained_and_nothing_else_is() {
    let home = home();
    let node = Node::start(config(home.path())).await.expect("it starts");
    let metrics = raw(&node, "GET /metrics", None).await;
    let rows = include_str!("../../../docs/operating.md").lines().filter_map(|line| line.strip_prefix("| `p2p_"));
    let explained: BTreeSet<String> =
        rows.map(|row| format!("p2p_{}", row.split('`').next().unwrap_or_default())).collect();
    let of_histogram = |name: &str| {
        let stem = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
        stem.filter(|stem| metrics.contains(&format!("# TYPE {stem} histogram"))).unwrap_or(name).to_owned()
    };
    let exported: BTreeSet<String> = own_metrics(&metrics).into_iter().map(of_histogram).collect();
    assert_eq!(exported, explained);
    assert!(metrics.contains("# TYPE p2p_puts_full counter") && metrics.contains("# TYPE p2p_objects gauge"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_say_nothing_are_few_at_a_time_and_soon_gone() {
    let (mine, theirs) = (home(), home());
    let node = Node::start(config(mine.path())).await.expect("it starts");
    let port = node.handle().addresses()[0].iter().find_map(|part| match part {
        libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(tokio::net::TcpStream::connect(("127.0.0.1", port.expect("a port"))).await.expect("it listens"));
    }
    let mut ended = 0;
    for mut stranger in strangers {
        // The listener's half of a negotiation, and then the end.
        let _ =
            tokio::time::timeout(Duration::from_secs(20), stranger.read_to_end(&mut Vec::new())).await.expect("soon");
        ended += 1;
    }
    assert_eq!(ended, 40);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let metrics = raw(&node, "GET /metrics", None).await;
        if metrics.contains("p2p_handshakes_refused_total 8\n") && metrics.contains("p2p_handshakes_failed_total 32\n")
        {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{metrics}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ticket = node.handle().ticket().ticket;
    let member = Node::start(Config { join: vec![ticket], ..config(theirs.path()) }).await.expect("it starts");
    client(&member).wait(Some(2), Duration::from_secs(20)).await.expect("a member gets in");
    member.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_answered_with_a_problem() {
    let home = home();
    let node = Node::start(config(home.path())).await.expect("it starts");
    let address = put(&client(&node), b"some bytes").await;
    let empty = put(&client(&node), b"").await;
    let cases = [
        ("GET /v1/content/xyz".to_owned(), "400", "usage"),
        (format!("GET /v1/content/{address}?colour=red"), "400", "usage"),
        (format!("GET /v1/content/{}", "0".repeat(64)), "404", "not_found"),
        ("GET /v1/wait?members=9&timeout_ms=50".to_owned(), "504", "timed_out"),
        ("POST /v1/content?replicas=99".to_owned(), "400", "usage"),
        ("POST /v1/content?replicas=2&acks=3".to_owned(), "400", "usage"),
        ("POST /v1/join".to_owned(), "400", "usage"),
        ("GET /v1/faults".to_owned(), "404", "unsupported_version"),
    ];
    for (request, status, code) in cases {
        let answer = raw(&node, &request, None).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        assert!(answer.contains("application/problem+json"), "{request}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{request}: {answer}");
    }
    for range in ["bytes=5-3", "bytes=0-1,3-4", "lines=1-2"] {
        let answer = raw(&node, &format!("GET /v1/content/{address}"), Some(range)).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("usage"), "{range}: {answer}");
    }
    for range in ["bytes=0-", "bytes=-5"] {
        let answer = raw(&node, &format!("GET /v1/content/{empty}"), Some(range)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "an empty file has no range: {answer}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_answered_as_http_says() {
    let home = home();
    let node = Node::start(config(home.path())).await.expect("it starts");
    let address = put(&client(&node), b"0123456789").await;
    let answer = raw(&node, &format!("GET /v1/content/{address}"), Some("bytes=3-5")).await;
    assert!(answer.starts_with("HTTP/1.1 206"), "{answer}");
    assert!(answer.to_lowercase().contains("content-range: bytes 3-5/10"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n345"), "{answer}");
    assert!(answer.contains(&format!("\"{address}\"")), "the ETag is the address");
    for (range, said, bytes) in [
        ("bytes=8-", "bytes 8-9/10", "89"),
        ("bytes=-3", "bytes 7-9/10", "789"),
        ("bytes=-99", "bytes 0-9/10", "0123456789"),
        ("bytes=8-18446744073709551615", "bytes 8-9/10", "89"),
    ] {
        let answer = raw(&node, &format!("GET /v1/content/{address}"), Some(range)).await;
        assert!(answer.starts_with("HTTP/1.1 206") && answer.contains(said), "{range}: {answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{bytes}")), "{range}: {answer}");
    }
    for range in ["bytes=10-", "bytes=99-100", "bytes=-0", "bytes=18446744073709551615-"] {
        let answer = raw(&node, &format!("GET /v1/content/{address}"), Some(range)).await;
        assert!(answer.starts_with("HTTP/1.1 416") && answer.contains("out_of_range"), "{range}: {answer}");
        assert!(answer.to_lowercase().contains("content-range: bytes */10"), "{range}: {answer}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_run_once_and_its_port_is_taken_once() {
    let (first, other) = (home(), home());
    let node = Node::start(config(first.path())).await.expect("it starts");
    let again = Node::start(config(first.path())).await.err().expect("it is held");
    let pid = std::process::id().to_string();
    assert!(matches!(again, StartError::Locked { .. }) && again.to_string().contains(&pid), "{again}");
    let taken = node.handle().addresses()[0].iter().take(2).collect();
    let same_port = Node::start(Config { listen: vec![taken], ..config(other.path()) }).await;
    let error = same_port.err().expect("the port is taken");
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    node.stop().await;
    Node::start(config(first.path())).await.expect("it is free again").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_with_a_history_does_not_change_its_cluster() {
    let (mine, theirs) = (home(), home());
    let other = Node::start(config(theirs.path())).await.expect("it starts");
    let ticket = other.handle().ticket().ticket;
    let node = Node::start(config(mine.path())).await.expect("it starts");
    put(&client(&node), b"content of my cluster").await;
    let refused = client(&node).join(&ticket, None).await.expect_err("it holds content");
    assert_eq!(refused.code, Code::Conflict);
    node.stop().await;
    let refused = Node::start(Config { join: vec![ticket], ..config(mine.path()) }).await.err().expect("refused");
    assert!(matches!(refused, StartError::OtherCluster), "{refused}");
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_alone_admits_nobody() {
    let (mine, theirs) = (home(), home());
    let other = Node::start(config(theirs.path())).await.expect("it starts");
    let address = other.handle().addresses()[0].to_string();
    let node = Node::start(config(mine.path())).await.expect("it starts");
    assert_eq!(client(&node).join(&address, None).await.expect_err("no key").code, Code::Usage);
    assert_eq!(client(&node).join("nonsense", None).await.expect_err("nonsense").code, Code::Usage);
    node.stop().await;
    let refused = Node::start(Config { join: vec![address], ..config(mine.path()) }).await.err().expect("refused");
    assert!(matches!(refused, StartError::NoKey), "{refused}");
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_does_not_answer_is_said_so() {
    let (mine, theirs) = (home(), home());
    let other = Node::start(config(theirs.path())).await.expect("it starts");
    let ticket = other.handle().ticket().ticket;
    other.stop().await;
    let node = Node::start(config(mine.path())).await.expect("it starts");
    let unanswered = client(&node).join(&ticket, Some(Duration::from_secs(5))).await.expect_err("nobody is there");
    assert_eq!(unanswered.code, Code::TimedOut);
    let reasons = client(&node).status().await.expect("it runs").reasons;
    assert!(reasons.iter().any(|reason| reason.contains("does not answer")), "{reasons:?}");
    node.stop().await;
}
