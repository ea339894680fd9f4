//! The replicated map on networks of real processes: what was acknowledged stands until it is replaced by whoever has read it,
//! and what was deleted stays away, whatever happens to the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use p2p_api::client::{Client, KvReplaces, KvWriteOptions};
use p2p_api::types::{KvEntry, KvEventKind, KvState, KvWritten};
use p2p_api::{Code, Problem};
use p2p_testnet::{Cluster, ClusterConfig};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{cli_bin, node_bin};

/// Longest wait for something that comes about by itself.
const LIMIT: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(50);

struct Net {
    cluster: Cluster,
    temp: TempDir,
}

async fn net(nodes: u32) -> Net {
    configured(nodes, toml::Table::new()).await
}

async fn configured(nodes: u32, config: toml::Table) -> Net {
    let temp = TempDir::new().expect("a temporary folder");
    let node_bins = vec![node_bin().to_owned()];
    let config = ClusterConfig { dir: temp.path().join("net"), nodes, node_bins, config, ..ClusterConfig::default() };
    let net = Net { cluster: Cluster::up(config).await.expect("a network"), temp };
    for node in 0..nodes {
        net.until_here(node).await;
    }
    net
}

/// A network whose nodes keep few writes for those who are away.
async fn forgetful(nodes: u32) -> Net {
    let mut config = toml::Table::new();
    config.insert("state_log".to_owned(), 4.into());
    configured(nodes, config).await
}

impl Net {
    fn client(&self, node: u32) -> Client {
        self.cluster.client(node)
    }

    fn home(&self, node: u32) -> std::path::PathBuf {
        self.temp.path().join(format!("net/node-{node}"))
    }

    fn cli(&self, node: u32, args: &[&str]) -> Output {
        Command::new(cli_bin()).arg("--home").arg(self.home(node)).args(args).output().expect("p2p-cli runs")
    }

    /// Waits until a node has all that was there when it came, and answers.
    async fn until_here(&self, node: u32) {
        let deadline = Instant::now() + LIMIT;
        while self.client(node).status().await.is_ok_and(|status| status.kv == KvState::Joining) {
            assert!(Instant::now() < deadline, "node {node} has no map");
            sleep(PAUSE).await;
        }
    }

    /// Waits until these nodes hold equal maps, and they are this.
    async fn until(&self, nodes: impl IntoIterator<Item = u32> + Clone, expected: &BTreeMap<String, BTreeSet<String>>) {
        let deadline = Instant::now() + LIMIT;
        for node in nodes {
            loop {
                let found = all(&self.client(node)).await;
                if found.as_ref().is_ok_and(|found| found == expected) {
                    break;
                }
                assert!(Instant::now() < deadline, "node {node} has {found:?}, not {expected:?}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// All keys with all of their values.
async fn all(client: &Client) -> Result<BTreeMap<String, BTreeSet<String>>, Problem> {
    let mut found = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = client.kv_keys("", after.as_deref(), None).await?;
        for key in page.keys {
            match client.kv_get(&key.key).await {
                Ok(entry) => drop(found.insert(key.key, values(&entry))),
                // Gone meanwhile.
                Err(problem) if problem.code == Code::NotFound => {}
                Err(problem) => return Err(problem),
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}

fn values(entry: &KvEntry) -> BTreeSet<String> {
    entry.siblings.iter().map(|sibling| sibling.value.clone()).collect()
}

fn map<const N: usize>(keys: [(&str, &[&str]); N]) -> BTreeMap<String, BTreeSet<String>> {
    let set = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    keys.into_iter().map(|(key, values)| (key.to_owned(), set(values))).collect()
}

async fn put(client: &Client, key: &str, value: &str) -> KvWritten {
    write(client, key, value, KvReplaces::Held).await.expect("written")
}

async fn write(client: &Client, key: &str, value: &str, replaces: KvReplaces) -> Result<KvWritten, Problem> {
    let options = KvWriteOptions { replaces, ..KvWriteOptions::default() };
    client.kv_put(key, Bytes::copy_from_slice(value.as_bytes()), &options).await
}

async fn del(client: &Client, key: &str) {
    client.kv_del(key, &KvWriteOptions::default()).await.expect("deleted");
}

#[tokio::test]
async fn what_two_halves_have_written_stands_beside_each_other_until_somebody_who_has_read_both_writes() {
    let net = net(5).await;
    net.cluster.partition([vec![0, 1, 2], vec![3, 4]]).await.expect("cut");
    for (node, value) in [(0, "red"), (4, "green")] {
        let written = net.cli(node, &["kv", "put", "color", value]);
        assert!(written.status.success(), "{written:?}");
    }
    net.until([0, 1, 2], &map([("color", &["red"])])).await;
    net.until([3, 4], &map([("color", &["green"])])).await;
    net.cluster.heal().await.expect("whole again");
    net.until(0..5, &map([("color", &["green", "red"])])).await;
    let mut seen = BTreeSet::new();
    for node in 0..5 {
        let plain = net.cli(node, &["kv", "get", "color"]);
        assert_eq!((plain.status.code(), plain.stdout.len()), (Some(4), 0), "{plain:?}");
        let document = net.cli(node, &["--json", "kv", "get", "color"]);
        assert_eq!(document.status.code(), Some(4));
        seen.insert(String::from_utf8(document.stdout).expect("text"));
    }
    assert_eq!(seen.len(), 1, "every node shows the same: {seen:?}");
    let document: Value = serde_json::from_str(seen.first().expect("one")).expect("a document");
    let token = document["token"].as_str().expect("a token");
    let unread = net.cli(2, &["kv", "put", "color", "blue"]);
    assert_eq!(unread.status.code(), Some(4), "nobody has read what it would replace: {unread:?}");
    let written = net.cli(2, &["kv", "put", "color", "white", "--token", token]);
    assert!(written.status.success(), "{written:?}");
    net.until(0..5, &map([("color", &["white"])])).await;
}

#[tokio::test]
async fn writes_in_a_row_on_one_terminal_do_not_stand_beside_each_other() {
    let net = net(3).await;
    for n in 0..20 {
        assert_eq!(put(&net.client(n % 3), "key", &n.to_string()).await.siblings, 1);
        if n < 19 {
            net.until([(n + 1) % 3], &map([("key", &[&n.to_string()])])).await;
        }
    }
    net.until(0..3, &map([("key", &["19"])])).await;
    put(&net.client(0), "key", "20").await;
    put(&net.client(0), "key", "21").await;
    net.until(0..3, &map([("key", &["21"])])).await;
}

#[tokio::test]
async fn what_was_deleted_while_a_node_was_away_is_not_back_when_it_returns_after_longer_than_the_log_reaches() {
    let mut net = forgetful(3).await;
    for key in ["kept", "deleted", "changed"] {
        put(&net.client(0), key, "old").await;
    }
    net.until(0..3, &map([("kept", &["old"]), ("deleted", &["old"]), ("changed", &["old"])])).await;
    net.cluster.kill(2).await.expect("it runs");
    del(&net.client(1), "deleted").await;
    put(&net.client(0), "changed", "new").await;
    let mut expected = map([("kept", &["old"]), ("changed", &["new"])]);
    for n in 0..40 {
        put(&net.client(n % 2), &format!("more/{n:02}"), "x").await;
        expected.extend(map([(&format!("more/{n:02}"), &["x"])]));
    }
    net.until(0..2, &expected).await;
    until_trimmed(&net).await;
    net.cluster.restart(2).await.expect("it comes back");
    net.until(0..3, &expected).await;
    // Nor does it come back from others that have heard of it again.
    put(&net.client(2), "after", "x").await;
    expected.extend(map([("after", &["x"])]));
    net.until(0..3, &expected).await;
}

/// Waits until those who are here have dropped writes from their logs.
async fn until_trimmed(net: &Net) {
    let deadline = Instant::now() + LIMIT;
    for node in 0..2 {
        loop {
            let db = rusqlite::Connection::open(net.home(node).join("state.db")).expect("it is there");
            let logged: u32 = db.query_row("SELECT count(*) FROM kv_log", [], |row| row.get(0)).expect("counted");
            if logged <= 8 {
                break;
            }
            assert!(Instant::now() < deadline, "{logged} writes are in the log of node {node}");
            sleep(PAUSE).await;
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_all_nodes_were_killed_at_once() {
    let mut net = net(3).await;
    let mut expected = BTreeMap::new();
    for round in 0..3 {
        let counts: [Arc<AtomicU32>; 3] = Default::default();
        let writers: Vec<_> = (0..3)
            .map(|node| {
                let (client, count) = (net.client(node), counts[node as usize].clone());
                tokio::spawn(async move {
                    let mut acknowledged = Vec::new();
                    for n in 0.. {
                        let key = format!("{round}/{node}/{n}");
                        match write(&client, &key, "value", KvReplaces::Held).await {
                            Ok(_) => acknowledged.push(key),
                            Err(problem) if problem.code == Code::Unreachable => break,
                            Err(problem) => panic!("{problem}"),
                        }
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    acknowledged
                })
            })
            .collect();
        let deadline = Instant::now() + LIMIT;
        while counts.iter().any(|count| count.load(Ordering::Relaxed) < 20) {
            assert!(Instant::now() < deadline, "{counts:?} are written");
            sleep(PAUSE).await;
        }
        for node in 0..3 {
            net.cluster.kill(node).await.expect("it runs");
        }
        for writer in writers {
            let acknowledged = writer.await.expect("it ends");
            expected.extend(acknowledged.iter().flat_map(|key| map([(key.as_str(), &["value"])])));
        }
        net.cluster.raise(None).await.expect("they come back");
    }
    // What was not acknowledged may be there, too.
    let deadline = Instant::now() + LIMIT;
    let mut held = Vec::new();
    loop {
        held.clear();
        for node in 0..3 {
            held.push(all(&net.client(node)).await.expect("listed"));
        }
        if held.iter().all(|one| *one == held[0]) {
            break;
        }
        assert!(Instant::now() < deadline, "they do not become equal");
        sleep(PAUSE).await;
    }
    let lost: Vec<&String> = expected.keys().filter(|key| !held[0].contains_key(*key)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test]
async fn a_new_node_answers_nothing_before_it_has_all() {
    let mut net = forgetful(2).await;
    let writes = (0..2000).map(|n| {
        let client = net.client(n % 2);
        async move { drop(put(&client, &format!("key/{n:04}"), "value").await) }
    });
    futures::stream::StreamExt::collect::<Vec<()>>(futures::stream::StreamExt::buffer_unordered(
        futures::stream::iter(writes),
        16,
    ))
    .await;
    let expected = all(&net.client(0)).await.expect("listed");
    assert_eq!(expected.len(), 2000);
    let [new] = net.cluster.add(1).await.expect("one more")[..] else { panic!("one") };
    let client = net.client(new);
    let deadline = Instant::now() + LIMIT;
    loop {
        match client.kv_get("key/1999").await {
            Ok(_) => break,
            Err(problem) => assert_eq!(problem.code, Code::NotReady, "{problem}"),
        }
        assert!(Instant::now() < deadline, "it does not come to have all");
        sleep(PAUSE).await;
    }
    assert_eq!(all(&client).await.expect("listed"), expected);
}

#[tokio::test]
async fn a_copy_from_long_ago_ends_equal_to_the_others_and_brings_nothing_back() {
    let mut net = forgetful(3).await;
    for key in ["kept", "deleted", "changed"] {
        put(&net.client(0), key, "old").await;
    }
    net.until(0..3, &map([("kept", &["old"]), ("deleted", &["old"]), ("changed", &["old"])])).await;
    let backup = net.temp.path().join("backup.db");
    let file = backup.to_str().expect("text");
    let made = net.cli(2, &["backup", file]);
    assert!(made.status.success(), "{made:?}");
    del(&net.client(1), "deleted").await;
    put(&net.client(2), "changed", "new").await;
    let mut expected = map([("kept", &["old"]), ("changed", &["new"])]);
    for n in 0..40 {
        put(&net.client(n % 3), &format!("more/{n:02}"), "x").await;
        expected.extend(map([(&format!("more/{n:02}"), &["x"])]));
    }
    net.until(0..3, &expected).await;
    net.cluster.kill(2).await.expect("it runs");
    until_trimmed(&net).await;
    let restore = |args: &[&str]| {
        let mut command = Command::new(node_bin());
        command.arg("restore").arg("--home").arg(net.home(2)).args(args).output().expect("p2p-node runs")
    };
    assert_eq!(restore(&[file]).status.code(), Some(4), "there is a map");
    let restored = restore(&[file, "--force"]);
    assert!(restored.status.success(), "{restored:?}");
    net.cluster.restart(2).await.expect("it comes back");
    net.until(0..3, &expected).await;
    put(&net.client(2), "after", "x").await;
    expected.extend(map([("after", &["x"])]));
    net.until(0..3, &expected).await;
}

#[tokio::test]
async fn a_damaged_row_is_noticed_and_comes_back_from_others() {
    let mut net = net(3).await;
    let mut expected = BTreeMap::new();
    for n in 0..50 {
        put(&net.client(0), &format!("key/{n}"), "value").await;
        expected.extend(map([(&format!("key/{n}"), &["value"])]));
    }
    net.until(0..3, &expected).await;
    net.cluster.kill(1).await.expect("it runs");
    let db = rusqlite::Connection::open(net.home(1).join("state.db")).expect("it is there");
    db.execute("DELETE FROM kv_rows WHERE key = ?1", [&b"key/7"[..]]).expect("lost");
    db.execute("UPDATE kv_rows SET row = zeroblob(40) WHERE key = ?1", [&b"key/9"[..]]).expect("damaged");
    drop(db);
    net.cluster.restart(1).await.expect("it comes back");
    // Reading finds the damage; until it is mended nothing is said that is not so.
    let deadline = Instant::now() + LIMIT;
    for key in ["key/7", "key/9"] {
        loop {
            match net.client(1).kv_get(key).await {
                Ok(entry) => break assert_eq!(values(&entry), BTreeSet::from(["value".to_owned()])),
                Err(problem) if problem.code == Code::NotFound => panic!("{key} was never deleted: {problem}"),
                Err(_) => {}
            }
            assert!(Instant::now() < deadline, "{key} is not back");
            sleep(PAUSE).await;
        }
    }
    net.until(0..3, &expected).await;
    loop {
        let status = net.client(1).status().await.expect("it runs");
        if status.kv == KvState::Ok {
            break;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn names_stand_for_content_and_two_at_once_show_both() {
    let net = net(3).await;
    let file = |name: &str, text: &str| {
        let path = net.temp.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (one, other) = (file("one", "one"), file("other", "other"));
    assert!(net.cli(0, &["put", &one, "--name", "release"]).status.success());
    let address = blake3::hash(b"one").to_hex().to_string();
    net.until(0..3, &map([("name/release", &[&address])])).await;
    assert_eq!(net.cli(2, &["get", "name/release"]).stdout, b"one");
    // Names are given by putting what they stand for, and taken away like any key.
    assert_eq!(net.cli(0, &["kv", "put", "name/release", "x"]).status.code(), Some(2));
    net.cluster.partition([vec![0], vec![1, 2]]).await.expect("cut");
    for (node, path) in [(0, &one), (1, &other)] {
        let stored = net.cli(node, &["put", path, "--name", "latest", "--acks", "1"]);
        assert!(stored.status.success(), "{stored:?}");
    }
    net.cluster.heal().await.expect("whole again");
    let addresses = ["one", "other"].map(|text| blake3::hash(text.as_bytes()).to_hex().to_string());
    let both = [addresses[0].as_str(), addresses[1].as_str()];
    net.until(0..3, &map([("name/release", &[&address]), ("name/latest", &both)])).await;
    let found = net.cli(2, &["get", "name/latest"]);
    let said = String::from_utf8_lossy(&found.stderr).into_owned();
    assert_eq!(found.status.code(), Some(4), "{said}");
    assert!(addresses.iter().all(|address| said.contains(address.as_str())), "{said}");
    assert!(net.cli(2, &["put", &other, "--name", "latest"]).status.success());
    net.until(0..3, &map([("name/release", &[&address]), ("name/latest", &[&addresses[1]])])).await;
    assert!(net.cli(1, &["kv", "del", "name/latest"]).status.success());
    net.until(0..3, &map([("name/release", &[&address])])).await;
    assert_eq!(net.cli(1, &["get", "name/latest"]).status.code(), Some(3));
}

#[tokio::test]
async fn a_watch_hears_of_what_others_write_and_goes_on_where_it_was() {
    let mut net = net(2).await;
    let client = net.client(1);
    let mut watch = client.watch_kv("a/", None).await.expect("watched");
    put(&net.client(0), "b/1", "not watched").await;
    put(&net.client(0), "a/1", "value").await;
    let event = watch.next().await.expect("one").expect("an event");
    let entry = event.entry.clone().expect("an entry");
    assert_eq!((event.kind, entry.key.as_str(), values(&entry).len()), (KvEventKind::Put, "a/1", 1));
    drop(watch);
    put(&net.client(0), "a/2", "value").await;
    del(&net.client(0), "a/1").await;
    let mut watch = client.watch_kv("a/", Some(&event.id)).await.expect("watched");
    let mut heard = BTreeMap::new();
    while heard.len() < 2 || heard.get("a/1") != Some(&KvEventKind::Delete) {
        let event = watch.next().await.expect("more").expect("an event");
        heard.insert(event.entry.expect("an entry").key, event.kind);
    }
    assert_eq!(heard["a/2"], KvEventKind::Put);
    net.cluster.kill(1).await.expect("it runs");
    net.cluster.restart(1).await.expect("it comes back");
    let mut watch = client.watch_kv("a/", Some(&event.id)).await.expect("watched");
    let first = watch.next().await.expect("one").expect("an event");
    assert_eq!((first.kind, first.entry), (KvEventKind::Gap, None), "of another start nothing is known");
    assert_eq!(client.watch_kv("", Some("nonsense")).await.err().expect("refused").code, Code::Usage);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_what_to_do_instead() {
    let net = net(1).await;
    let client = net.client(0);
    let held = KvReplaces::Held;
    let long = "x".repeat((64 << 10) + 1);
    for (key, value, code) in [
        ("key", long.as_str(), Code::Usage),
        ("a\0b", "x", Code::Usage),
        (&"k".repeat(1025), "x", Code::Usage),
        ("sys/x", "x", Code::Usage),
        ("pin/x", "x", Code::Usage),
        ("name/x", "x", Code::Usage),
    ] {
        let problem = write(&client, key, value, held.clone()).await.expect_err(key);
        assert_eq!(problem.code, code, "{key}: {problem}");
    }
    assert!(write(&client, "key", &long[1..], held.clone()).await.is_ok(), "the longest value");
    let first = put(&client, "key", "one").await;
    let other = put(&client, "other", "one").await;
    let read = |token: &str| KvReplaces::Read(token.to_owned());
    for token in ["nonsense", &other.token, &first.token[1..]] {
        let problem = write(&client, "key", "two", read(token)).await.expect_err(token);
        assert_eq!(problem.code, Code::Usage, "{token}: {problem}");
    }
    assert_eq!(write(&client, "key", "two", KvReplaces::Absent).await.expect_err("it is there").code, Code::Exists);
    write(&client, "key", "two", read(&first.token)).await.expect("it was read");
    assert_eq!(client.kv_get("key").await.expect("there").siblings.len(), 1);
    for n in 0..63 {
        write(&client, "key", &n.to_string(), KvReplaces::Nothing).await.expect("beside");
    }
    for replaces in [KvReplaces::Nothing, KvReplaces::Held] {
        assert_eq!(write(&client, "key", "more", replaces).await.expect_err("too many").code, Code::Conflict);
    }
    let written = write(&client, "key", "one", KvReplaces::AllHeld).await.expect("in place of all");
    assert_eq!(written.siblings, 1);
    let options = KvWriteOptions { acks: Some(2), timeout: Some(Duration::from_millis(100)), ..Default::default() };
    let alone = client.kv_put("key", Bytes::new(), &options).await.expect("written");
    assert_eq!((alone.acks, alone.problem.map(|problem| problem.code)), (1, Some(Code::Partial)));
    let options = KvWriteOptions { acks: Some(10), ..Default::default() };
    assert_eq!(client.kv_put("key", Bytes::new(), &options).await.expect_err("too many").code, Code::Usage);
}

#[tokio::test]
async fn a_token_of_writes_that_have_not_come_here_is_refused() {
    let net = net(2).await;
    put(&net.client(0), "key", "one").await;
    net.until(0..2, &map([("key", &["one"])])).await;
    net.cluster.partition([vec![0], vec![1]]).await.expect("cut");
    let written = put(&net.client(0), "key", "two").await;
    let refused = write(&net.client(1), "key", "three", KvReplaces::Read(written.token.clone())).await;
    assert_eq!(refused.expect_err("it has not come").code, Code::Conflict);
    net.cluster.heal().await.expect("whole again");
    net.until(0..2, &map([("key", &["two"])])).await;
    write(&net.client(1), "key", "three", KvReplaces::Read(written.token)).await.expect("it has come");
    net.until(0..2, &map([("key", &["three"])])).await;
}

#[tokio::test]
async fn a_write_is_awaited_on_other_nodes() {
    let net = net(5).await;
    for acks in 1..=5 {
        let options = KvWriteOptions { acks: Some(acks), ..Default::default() };
        let written = net.client(0).kv_put("key", "value".into(), &options).await.expect("written");
        assert_eq!((written.acks >= acks, written.problem), (true, None));
    }
    net.cluster.partition([vec![0, 1], vec![2, 3, 4]]).await.expect("cut");
    let options = KvWriteOptions { acks: Some(3), timeout: Some(Duration::from_secs(1)), ..Default::default() };
    let written = net.client(0).kv_put("key", "more".into(), &options).await.expect("it stands");
    assert_eq!(written.problem.map(|problem| problem.code), Some(Code::Partial));
    net.cluster.heal().await.expect("whole again");
    net.until(0..5, &map([("key", &["more"])])).await;
}
