//! The command line by its real binary, against real nodes: every command with `--json`, and every exit code that a
//! running cluster can give.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use p2p_testnet::{Cluster, ClusterConfig};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{cli_bin, node_bin, signal};

struct World {
    cluster: Cluster,
    temp: TempDir,
}

async fn world(nodes: u32) -> World {
    let temp = TempDir::new().expect("a temporary folder");
    let node_bins = vec![node_bin().to_owned()];
    let config = ClusterConfig { dir: temp.path().join("net"), nodes, node_bins, ..ClusterConfig::default() };
    World { cluster: Cluster::up(config).await.expect("a network"), temp }
}

impl World {
    fn home(&self, node: u32) -> PathBuf {
        self.cluster.dir().home(node)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.temp.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    /// Runs `p2p-cli --json` on a node, in the world's folder.
    fn cli(&self, node: u32, args: &[&str]) -> Output {
        self.cli_at(&self.home(node), args)
    }

    fn cli_at(&self, home: &Path, args: &[&str]) -> Output {
        let mut command = Command::new(cli_bin());
        command.current_dir(self.temp.path()).env_remove("P2P_SOCKET").env_remove("P2P_HOME").stdin(Stdio::null());
        command.arg("--json").arg("--home").arg(home).args(args).output().expect("p2p-cli runs")
    }

    fn done(&self, node: u32, args: &[&str]) -> Value {
        let output = self.cli(node, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one document")
    }

    /// What `stat` says once every part has so many copies: a put waits a second only for those it does not need.
    async fn stat_with_copies(&self, address: &str, copies: u32) -> Value {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let stat = self.done(1, &["stat", address]);
            if stat["copies_min"] == copies {
                return stat;
            }
            assert!(tokio::time::Instant::now() < deadline, "{stat}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn refused(&self, node: u32, args: &[&str], exit: i32, code: &str) -> Value {
        check_error(&self.cli(node, args), exit, code)
    }
}

fn check_error(output: &Output, exit: i32, code: &str) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{said}");
    let document: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("no document: {said}"));
    assert_eq!(
        (document["error"]["code"].as_str(), document["error"]["exit"].as_i64()),
        (Some(code), Some(exit.into()))
    );
    document["error"].clone()
}

/// Runs the daemon's binary until it ends.
fn node(args: &[&str]) -> Output {
    Command::new(node_bin()).args(args).env_remove("P2P_HOME").stdin(Stdio::null()).output().expect("p2p-node runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_with_a_document() {
    let world = world(3).await;
    for (name, content) in [("--odd name ü.txt", &b"some bytes"[..]), ("empty", b""), ("-", b"minus")] {
        world.file(name, content);
        let stored = world.done(0, &["put", "--", &format!("./{name}")]);
        let address = stored["address"].as_str().expect("text");
        assert_eq!(address, blake3::hash(content).to_hex().as_str());
        assert_eq!(stored["size"], content.len());
        assert!((2..=3).contains(&stored["copies"].as_u64().expect("a number")), "{stored}");
        let target = format!("back of {name}");
        let got = world.done(2, &["get", address, "-o", &target, "--no-cache"]);
        assert_eq!(got["size"], content.len());
        assert_eq!(std::fs::read(world.temp.path().join(&target)).expect("written"), content);
        let stat = world.stat_with_copies(address, 3).await;
        assert_eq!((&stat["holders"].as_array().map(Vec::len), &stat["silent"]), (&Some(3), &Value::Array(vec![])));
        assert_eq!(world.cli(1, &["get", address]).stdout, content, "bare bytes without -o");
    }
    let status = world.done(0, &["status"]);
    assert_eq!((&status["health"], &status["members"]["alive"]), (&"ok".into(), &3.into()));
    assert_eq!(world.done(0, &["status", "--check"]), status);
    assert_eq!((&status["kv_keys"], &status["kv"]), (&0.into(), &"ok".into()));
    let written = world.done(0, &["kv", "put", "key", "value", "--acks", "3"]);
    assert_eq!((&written["key"], &written["siblings"], &written["acks"]), (&"key".into(), &1.into(), &3.into()));
    let read = world.done(2, &["kv", "get", "key"]);
    assert_eq!((&read["token"], &read["siblings"][0]["value"]), (&written["token"], &"value".into()));
    let keys = world.done(1, &["kv", "ls"]);
    assert_eq!((&keys["keys"][0]["key"], &keys["next"]), (&"key".into(), &Value::Null));
    assert_eq!(world.done(0, &["kv", "del", "key"])["siblings"], 0);
    let ticket = world.done(0, &["ticket"])["ticket"].as_str().expect("text").to_owned();
    assert!(world.done(1, &["join", &ticket])["peer"].is_string(), "joining one's own cluster again does no harm");
    assert_eq!(world.done(2, &["wait", "--ready", "--members", "3"])["members"]["alive"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_has_its_exit_code_and_a_next_step() {
    let mut world = world(2).await;
    let unknown = "0".repeat(64);
    world.refused(0, &["get", &unknown], 3, "not_found");
    world.refused(0, &["stat", &unknown], 3, "not_found");
    let usage = world.refused(0, &["get", "xyz"], 2, "usage");
    assert!(usage["message"].as_str().expect("text").contains("64"), "{usage}");
    world.refused(0, &["paint"], 2, "usage");

    world.file("file", b"content");
    let address = blake3::hash(b"content").to_hex().to_string();
    world.done(0, &["put", "file"]);
    world.file("there", b"precious");
    world.refused(1, &["get", &address, "-o", "there"], 4, "exists");
    assert_eq!(std::fs::read(world.temp.path().join("there")).expect("there"), b"precious");

    let nobody = world.temp.path().join("no home");
    let unreachable = check_error(&world.cli_at(&nobody, &["status"]), 6, "unreachable");
    assert!(unreachable["hint"].as_str().expect("a hint").contains("p2p-node run --home"), "{unreachable}");

    world.refused(0, &["wait", "--members", "9", "--timeout", "100ms"], 8, "timed_out");

    world.cluster.kill(1).await.expect("it runs");
    world.file("other", b"other content");
    let output = world.cli(0, &["put", "other", "--timeout", "1s"]);
    check_error(&output, 5, "partial");
    let stored: Value =
        serde_json::from_slice(&output.stdout).expect("the address stands on standard output all the same");
    assert_eq!(stored["address"], blake3::hash(b"other content").to_hex().as_str());
    assert_eq!(world.done(0, &["status"])["health"], "isolated");
    let check = world.refused(0, &["status", "--check"], 5, "partial");
    assert!(check["message"].as_str().expect("text").contains("no other member can be reached"), "{check}");
}

#[test]
fn a_service_manager_is_told_when_the_node_serves_and_when_it_ends() {
    let temp = TempDir::new().expect("a temporary folder");
    let socket = std::os::unix::net::UnixDatagram::bind(temp.path().join("notify")).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let mut command = Command::new(node_bin());
    command.args(["run", "--listen", "/ip4/127.0.0.1/tcp/0", "--home"]).arg(temp.path().join("home"));
    command.env("NOTIFY_SOCKET", temp.path().join("notify")).stdin(Stdio::null()).stderr(Stdio::null());
    let mut node = command.spawn().expect("p2p-node runs");
    let told = || {
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer).expect("it says so");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    assert_eq!(told(), "READY=1");
    signal(&node, Signal::TERM);
    assert_eq!(told(), "STOPPING=1");
    assert!(node.wait().expect("our own child").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_logs_more_for_a_while_and_then_as_before() {
    let world = world(2).await;
    let log = world.home(0).join("log");
    let logged = || std::fs::read_to_string(&log).expect("a log");
    let wrong = world.refused(0, &["log-level", "inof"], 2, "usage");
    assert!(wrong["message"].as_str().expect("text").contains("inof"), "{wrong}");
    // Nobody is there: worth a line of DEBUG at every attempt.
    let dial = || world.refused(0, &["join", "/ip4/127.0.0.1/tcp/1", "--timeout", "5s"], 8, "timed_out");
    let dialed = "nobody is found";
    dial();
    assert!(!logged().contains(dialed));
    let set = world.done(0, &["log-level", "info,p2p_node=debug", "--for", "2s"]);
    assert_eq!((&set["filter"], &set["for_ms"]), (&"info,p2p_node=debug".into(), &2000.into()));
    dial();
    let again = "logging by the configured filter again";
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !logged().contains(again) {
        assert!(std::time::Instant::now() < deadline, "{}", logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    dial();
    let text = logged();
    let (during, after) = text.split_once(again).expect("both parts");
    assert!(during.contains(dialed) && !after.contains(dialed), "{text}");
    // A later filter is not undone by an earlier one's end.
    world.done(0, &["log-level", "debug", "--for", "1s"]);
    world.done(0, &["log-level", "warn"]);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(logged().matches(again).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_told_why_they_stay_outside() {
    let (one, other) = (world(2).await, world(1).await);
    let address = one.done(0, &["status"])["addresses"][0].as_str().expect("text").to_owned();
    // A fresh home has no key but its own.
    other.refused(0, &["join", &address], 2, "usage");
    // One that has met others has, and it is another.
    let mut other = other;
    other.cluster.add(1).await.expect("one more");
    other.refused(0, &["join", &address], 7, "unauthorised");
    let ticket = one.done(0, &["ticket"])["ticket"].as_str().expect("text").to_owned();
    other.refused(0, &["join", &ticket], 4, "conflict");
    let reasons = other.done(0, &["status"])["reasons"].to_string();
    assert!(reasons.contains("another cluster key"), "{reasons}");
    assert_eq!(one.done(0, &["status"])["members"]["alive"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_says_why_it_does_not_start() {
    let world = world(1).await;
    let home = world.home(0);
    let held = node(&["run", "--home", home.to_str().expect("text")]);
    let said = String::from_utf8_lossy(&held.stderr).into_owned();
    let pid = world.cluster.nodes().expect("a network").nodes[0].pid.expect("it runs").to_string();
    assert_eq!(held.status.code(), Some(10), "{said}");
    assert!(said.contains(&pid) && said.contains("hint:"), "the holder is named: {said}");

    let fresh = world.temp.path().join("fresh");
    let fresh = fresh.to_str().expect("text");
    std::fs::create_dir(fresh).expect("made");
    std::fs::write(Path::new(fresh).join("config.toml"), "colour = 7").expect("written");
    assert_eq!(node(&["run", "--home", fresh]).status.code(), Some(11));
    std::fs::remove_file(Path::new(fresh).join("config.toml")).expect("removed");

    check_error(&node(&["init", "--json", "--home", fresh, "--join", "p2pdamaged"]), 11, "config");
    let made = node(&["init", "--json", "--home", fresh]);
    let made: Value = serde_json::from_slice(&made.stdout).expect("one document");
    assert!(made["ticket"].as_str().expect("text").starts_with("p2p"));
    let again = node(&["init", "--json", "--home", fresh]);
    assert_eq!(serde_json::from_slice::<Value>(&again.stdout).expect("one document"), made, "nothing is made twice");

    let database = Path::new(fresh).join("objects.db");
    std::fs::write(&database, [7; 4096]).expect("written");
    assert_eq!(node(&["run", "--home", fresh, "--listen", "/ip4/127.0.0.1/tcp/0"]).status.code(), Some(9));
    assert_eq!(std::fs::read(&database).expect("there"), [7; 4096], "what cannot be read is left alone");
}
