//! Networks of real processes on the loopback interface, driven by the binary and by the library.
//!
//! The node is taken from `P2P_NODE_BIN`, else built once: cargo builds only the binaries of the package under test.

mod bench;
mod cli;
mod content;
mod faults;
mod kv;
mod library;
mod matrix;
mod torture;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use p2p_testnet::process::{Condition, ProcessId};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for a process to end.
const END_LIMIT: Duration = Duration::from_secs(30);

fn node_bin() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| match std::env::var_os("P2P_NODE_BIN").filter(|value| !value.is_empty()) {
        Some(path) => path.into(),
        None => build("p2p-node"),
    })
}

fn cli_bin() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("p2p-cli"))
}

/// Builds a binary of another package, into the folder and profile of the one under test, whatever the environment says
/// about them.
fn build(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_p2p-testnet")).with_file_name(name);
    let profile = path.parent().expect("a folder");
    let target = profile.parent().expect("a folder");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--package", name, "--bin", name]);
    build.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let built = build.status().is_ok_and(|status| status.success());
    assert!(built && path.is_file(), "no {name} at {}: cargo build -p {name}", path.display());
    path
}

/// A network's folder, ended and deleted with the test.
struct Net {
    temp: TempDir,
}

impl Net {
    fn new() -> Self {
        Self { temp: TempDir::new().expect("a temporary folder") }
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("net")
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-testnet"));
        command.arg("--json").arg("--dir").arg(self.dir()).args(line.split_whitespace());
        command.env("P2P_NODE_BIN", node_bin()).stdin(Stdio::null());
        command
    }

    /// Runs a command that has to succeed; its document.
    fn run(&self, line: &str) -> Value {
        let output = self.command(line).output().expect("p2p-testnet runs");
        assert!(output.status.success(), "{line}: {}", said(&output));
        assert!(output.stderr.is_empty(), "{line}: {}", said(&output));
        serde_json::from_slice(&output.stdout).expect("one document")
    }

    /// Runs a command that has to fail with this exit code.
    fn refused(&self, line: &str, exit: i32) {
        let output = self.command(line).output().expect("p2p-testnet runs");
        assert_eq!(output.status.code(), Some(exit), "{line}: {}", said(&output));
        let document: Value = serde_json::from_slice(&output.stderr).expect("one document");
        assert_eq!(document["error"]["exit"], exit, "{line}");
        assert!(output.stdout.is_empty(), "{line}");
    }

    /// Starts `up` in the foreground; returns once it has printed its document.
    fn foreground(&self, line: &str) -> (Child, Value) {
        let mut child = self.command(line).stdout(Stdio::piped()).spawn().expect("p2p-testnet runs");
        let mut document = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut document).expect("a line");
        (child, serde_json::from_str(&document).expect("one document"))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = self.command("down --delete").output();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn states(document: &Value) -> Vec<&str> {
    let nodes = document["nodes"].as_array().expect("a list");
    nodes.iter().map(|node| node["state"].as_str().expect("a word")).collect()
}

fn peers(document: &Value) -> Vec<Value> {
    document["nodes"].as_array().expect("a list").iter().map(|node| node["peer"].clone()).collect()
}

fn processes(document: &Value) -> Vec<ProcessId> {
    let nodes = document["nodes"].as_array().expect("a list");
    nodes.iter().filter_map(|node| ProcessId::of(node["pid"].as_u64()? as u32)).collect()
}

fn wait_gone(processes: &[ProcessId]) {
    let deadline = Instant::now() + END_LIMIT;
    while processes.iter().any(|process| process.condition() != Condition::Exited) {
        assert!(Instant::now() < deadline, "{processes:?} are still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id() as i32).expect("a pid");
    kill_process(pid, signal).expect("our own child");
}

fn config(net: &Net, index: u32) -> String {
    fs::read_to_string(net.dir().join(format!("node-{index}/config.toml"))).expect("a configured home")
}

#[test]
fn a_network_is_hurt_grows_ends_and_comes_back_as_it_was() {
    let net = Net::new();
    let up = net.run("up -n 3 --detach");
    assert_eq!(states(&up), ["running"; 3]);
    assert_eq!(net.run("ps"), up);
    assert_eq!(net.run("up --detach"), up, "there is nothing to start");

    assert_eq!(states(&net.run("stop 1")), ["running", "stopped", "running"]);
    net.refused("stop 1", 4);
    net.refused("cont 0", 4);
    assert_eq!(states(&net.run("cont 1")), ["running"; 3]);

    let killed = net.run("kill 2");
    assert_eq!(states(&killed), ["running", "running", "exited"]);
    assert_eq!(killed["nodes"][2].get("pid"), None);
    net.refused("kill 2", 4);
    net.refused("kill 9", 3);
    let back = net.run("restart 2");
    assert_eq!(states(&back), ["running"; 3]);
    assert_eq!(peers(&back), peers(&up));
    assert_ne!(back["nodes"][2]["pid"], up["nodes"][2]["pid"]);

    net.run("stop 0");
    let again = net.run("restart 0");
    assert_eq!(states(&again), ["running"; 3], "a stopped one is woken to end");

    let added = net.run("add 1");
    assert_eq!(states(&added), ["running"; 4]);
    let configs: Vec<String> = (0..4).map(|index| config(&net, index)).collect();
    let old = processes(&added);

    assert_eq!(states(&net.run("down")), ["exited"; 4]);
    wait_gone(&old);
    net.refused("add", 4);
    let later = net.run("up --detach");
    assert_eq!(states(&later), ["running"; 4]);
    assert_eq!(peers(&later), peers(&added));
    assert_eq!((0..4).map(|index| config(&net, index)).collect::<Vec<_>>(), configs, "the ports stay");

    let last = processes(&later);
    net.run("down --delete");
    wait_gone(&last);
    assert!(!net.dir().exists());
    net.refused("down", 3);
    net.refused("ps", 3);
}

#[test]
fn up_starts_only_what_is_missing_and_adds_up_to_n() {
    let net = Net::new();
    let up = net.run("up -n 2 --detach");
    net.run("kill 0");
    let grown = net.run("up -n 3 --detach");
    assert_eq!(states(&grown), ["running"; 3]);
    assert_eq!(grown["nodes"][1], up["nodes"][1], "it was left alone");
    assert_eq!(peers(&grown)[..2], peers(&up)[..]);
}

#[test]
fn down_ends_only_what_it_started() {
    let net = Net::new();
    net.run("up -n 2 --detach");
    net.run("kill 1");
    // Somebody else has node 1's old pid now.
    let mut stranger = Command::new("sleep").arg("600").spawn().expect("sleep is everywhere");
    let marker = net.dir().join("testnet.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&marker).expect("a network")).expect("JSON");
    state["nodes"][1]["process"]["pid"] = stranger.id().into();
    fs::write(&marker, state.to_string()).expect("a writable folder");
    assert_eq!(states(&net.run("ps")), ["running", "exited"]);
    net.refused("kill 1", 4);
    assert_eq!(states(&net.run("down")), ["exited"; 2]);
    assert!(stranger.try_wait().expect("our own child").is_none(), "it was not ours to end");
    stranger.kill().expect("our own child");
    stranger.wait().expect("our own child");
}

#[test]
fn a_foreground_network_ends_with_its_command_however_that_ends() {
    for (sent, exit) in [(Signal::INT, Some(130)), (Signal::TERM, Some(0)), (Signal::KILL, None)] {
        let net = Net::new();
        let (mut up, document) = net.foreground("up -n 2");
        let nodes = processes(&document);
        assert_eq!(nodes.len(), 2);
        signal(&up, sent);
        assert_eq!(up.wait().expect("our own child").code(), exit, "{sent:?}");
        wait_gone(&nodes);
        assert_eq!(states(&net.run("ps")), ["exited"; 2]);
    }
}

#[test]
fn a_foreground_network_notices_that_it_was_ended_elsewhere() {
    let net = Net::new();
    let (mut up, document) = net.foreground("up -n 2");
    net.run("kill 1");
    net.run("restart 1");
    net.run("down");
    wait_gone(&processes(&document));
    assert_eq!(up.wait().expect("our own child").code(), Some(0));
}

#[test]
fn a_folder_with_something_else_in_it_is_refused() {
    let net = Net::new();
    fs::create_dir(net.dir()).expect("a writable folder");
    fs::write(net.dir().join("thesis.txt"), b"years").expect("a writable folder");
    net.refused("up -n 2 --detach", 4);
    net.refused("down --delete", 3);
    assert!(net.dir().join("thesis.txt").exists());
}

#[test]
fn a_file_survives_the_node_that_took_it() {
    let net = Net::new();
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let bytes: Vec<u8> = (0..(5_u32 << 20) / 4).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    file.write_all(&bytes).expect("room for 5 MiB");
    let output = net.command("demo -n 3").arg(file.path()).output().expect("p2p-testnet runs");
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(report["ok"], true);
    assert_eq!(report["address"], blake3::hash(&bytes).to_hex().as_str());
    assert_eq!(report["stored"].as_array().map(Vec::len), Some(3));
    assert!(!net.dir().exists(), "it cleans up");
}
