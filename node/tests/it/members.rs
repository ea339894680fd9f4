//! Nodes that know each other: what each sees of the others, through restarts, losses and copies of homes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use p2p_api::Code;
use p2p_api::types::{Member, MemberEvent, MemberEventKind, MemberState, TagsRequest};
use p2p_node::config::Config;
use p2p_node::{Ended, Node};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use super::{client, config, home, raw};

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many nodes, of which all but the first have joined by it.
async fn cluster(count: usize) -> Vec<(Node, TempDir)> {
    let mut nodes: Vec<(Node, TempDir)> = Vec::new();
    for n in 0..count {
        let home = home();
        let join = nodes.first().map(|(first, _)| first.handle().ticket().ticket);
        let config = Config { join: join.into_iter().collect(), name: format!("node {n}"), ..config(home.path()) };
        nodes.push((Node::start(config).await.expect("it starts"), home));
    }
    for (node, _) in &nodes {
        client(node).wait(Some(count as u32), PATIENCE).await.expect("they meet");
    }
    nodes
}

async fn stop(nodes: Vec<(Node, TempDir)>) {
    for (node, _home) in nodes {
        node.stop().await;
    }
}

fn peer(node: &Node) -> String {
    node.handle().peer().to_string()
}

/// Waits until a node sees another as wanted.
async fn sees(node: &Node, of: &str, wanted: impl Fn(&Member) -> bool) -> Member {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = client(node).members().await.expect("it runs").members;
        let member = members.iter().find(|member| member.peer == of);
        if let Some(member) = member.filter(|member| wanted(member)) {
            return member.clone();
        }
        assert!(Instant::now() < deadline, "{of} is {member:?} at {}", peer(node));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a home") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_sees_what_a_member_says_of_itself_until_it_leaves_and_when_it_comes_back() {
    let mut nodes = cluster(4).await;
    let (last, others) = nodes.split_last().expect("four");
    let (of, name) = (peer(&last.0), "node 3");
    let mut watch = client(&others[0].0).watch_members(None).await.expect("it runs");
    let request = TagsRequest { set: [("rack".to_owned(), "4".to_owned())].into(), delete: Vec::new() };
    let tags = client(&last.0).set_tags(&request).await.expect("short").tags;
    assert_eq!(tags, BTreeMap::from([("rack".to_owned(), "4".to_owned())]));
    for (node, _) in others {
        let member = sees(node, &of, |member| member.tags == tags).await;
        assert_eq!((member.name.as_str(), member.state), (name, MemberState::Alive));
        assert!(member.addresses[0].starts_with("/ip4/127.0.0.1/tcp/"), "{member:?}");
    }
    let long = TagsRequest { set: [("k".to_owned(), "v".repeat(2000))].into(), delete: Vec::new() };
    assert_eq!(client(&last.0).set_tags(&long).await.expect_err("too long").code, Code::Usage);
    client(&last.0).leave().await.expect("it runs");
    assert!(matches!(timeout(PATIENCE, last.0.ended()).await, Ok(Ended::Left)));
    let (left, home) = nodes.pop().expect("four");
    left.stop().await;
    for (node, _) in &nodes {
        sees(node, &of, |member| member.state == MemberState::Left).await;
    }
    let back = Node::start(Config { name: name.into(), ..config(home.path()) }).await.expect("without a ticket");
    for (node, _) in &nodes {
        let member = sees(node, &of, |member| member.state == MemberState::Alive).await;
        assert_eq!((member.generation, member.tags), (2, BTreeMap::new()), "its second start");
    }
    let mut seen = Vec::new();
    while !seen.contains(&MemberEventKind::Return) {
        let event: MemberEvent = timeout(PATIENCE, watch.next()).await.expect("soon").expect("on").expect("an event");
        seen.extend((event.peer == of).then_some(event.kind));
    }
    seen.retain(|kind| *kind != MemberEventKind::Refute);
    assert_eq!(seen, [MemberEventKind::Update, MemberEventKind::Leave, MemberEventKind::Return]);
    back.stop().await;
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_an_event_and_says_where_something_is_missing() {
    let nodes = cluster(2).await;
    let node = &nodes[0].0;
    let first = async |since: &str| {
        let mut watch = client(node).watch_members(Some(since)).await.expect("an id");
        timeout(PATIENCE, watch.next()).await.expect("at once").expect("on").expect("an event")
    };
    let join = first("1-0").await;
    assert_eq!((join.kind, join.peer, join.id.as_str()), (MemberEventKind::Join, peer(&nodes[1].0), "1-1"));
    assert_eq!(first("7-3").await.kind, MemberEventKind::Gap, "an earlier start");
    let answer = raw(node, "GET /v1/members/watch?since=nonsense", None).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("no id of an event"), "{answer}");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_find_each_other_again_whoever_is_gone_for_good() {
    let mut nodes = cluster(3).await;
    // The one that let the others in does not come back.
    let (first, _) = nodes.remove(0);
    first.stop().await;
    let mut homes = Vec::new();
    for (node, home) in nodes {
        // Where others look for it.
        let listen = vec![node.handle().addresses()[0].iter().take(2).collect()];
        node.stop().await;
        homes.push((listen, home));
    }
    let mut again = Vec::new();
    for (listen, home) in homes {
        again.push((Node::start(Config { listen, ..config(home.path()) }).await.expect("it starts"), home));
    }
    let (one, other) = (peer(&again[0].0), peer(&again[1].0));
    sees(&again[0].0, &other, |member| member.state == MemberState::Alive && member.generation == 2).await;
    sees(&again[1].0, &one, |member| member.state == MemberState::Alive && member.generation == 2).await;
    stop(again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_forgot_its_starts_is_believed_again() {
    let mut nodes = cluster(3).await;
    for _ in 0..2 {
        let (node, home) = nodes.pop().expect("three");
        node.stop().await;
        nodes.push((Node::start(config(home.path())).await.expect("it starts"), home));
    }
    let (node, home) = nodes.pop().expect("three");
    let of = peer(&node);
    sees(&nodes[0].0, &of, |member| member.generation == 3 && member.state == MemberState::Alive).await;
    node.stop().await;
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(home.path().join(name));
    }
    let ticket = nodes[0].0.handle().ticket().ticket;
    let node = Node::start(Config { join: vec![ticket], ..config(home.path()) }).await.expect("it starts");
    for (other, _) in &nodes {
        sees(other, &of, |member| member.generation > 3 && member.state == MemberState::Alive).await;
    }
    node.stop().await;
    // What it has learned of its starts is on its disk.
    let node = Node::start(config(home.path())).await.expect("it starts");
    sees(&nodes[0].0, &of, |member| member.generation > 4 && member.state == MemberState::Alive).await;
    node.stop().await;
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_with_one_key_one_ends_and_says_why() {
    let mut nodes = cluster(3).await;
    let (node, first) = nodes.pop().expect("three");
    node.stop().await;
    let second = home();
    copy(first.path(), second.path());
    let one = Node::start(config(first.path())).await.expect("it starts");
    let other = Node::start(config(second.path())).await.expect("it starts");
    let ended = async {
        tokio::select! {
            ended = one.ended() => ended,
            ended = other.ended() => ended,
        }
    };
    let ended = timeout(PATIENCE, ended).await.expect("they find out");
    assert!(matches!(ended, Ended::DuplicateIdentity), "{ended:?}");
    let problem = p2p_node::ending(&ended).expect("that was not wanted");
    assert_eq!(problem.code, Code::Conflict);
    assert!(problem.message.contains("another process has this node's key"), "{problem:?}");
    one.stop().await;
    other.stop().await;
    stop(nodes).await;
}
