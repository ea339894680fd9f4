//! Nodes whose disk is full or fails: as processes where it is their end that matters.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_api::types::{Health, PutResult};
use p2p_api::{Code, Problem};
use p2p_node::store::{DISK_FREE_MIN, RESERVE_LEN};

use super::*;

/// Longest time until a node whose disk fails has ended.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// So many bytes that nothing makes smaller.
pub(super) fn noise(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

pub(super) async fn try_put(client: &Client, bytes: Bytes) -> Result<PutResult, Problem> {
    client.put(futures::stream::iter([Ok(bytes)]), None, PutOptions::default()).await
}

/// A node's process. Killed when it goes.
pub(super) struct Process(std::process::Child);

impl Process {
    /// Starts a node that may write files of so many KiB at most; a longer one fails as on a broken disk.
    pub(super) fn start(home: &Path, file_kib_max: Option<u32>) -> Self {
        // The units of ulimit -f are 512 bytes in a POSIX shell.
        let limit = file_kib_max.map(|kib| format!("trap '' XFSZ; ulimit -f {}; ", 2 * kib)).unwrap_or_default();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{limit}exec \"$@\"")).arg("sh").arg(env!("CARGO_BIN_EXE_p2p-node"));
        command.args(["run", "--listen", "/ip4/127.0.0.1/tcp/0", "--home"]).arg(home);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Self(command.spawn().expect("a shell"))
    }

    pub(super) async fn client(&self, home: &Path) -> Client {
        let socket = p2p_api::home::socket_path(home).expect("a socket's place");
        let client = Client::new(&socket);
        let ready = async {
            while client.wait(None, Duration::from_secs(10)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ready).await.expect("the node starts");
        client
    }

    pub(super) fn runs(&mut self) -> bool {
        self.0.try_wait().expect("it is ours").is_none()
    }

    /// Waits for its end.
    pub(super) async fn ended(mut self) -> Output {
        let (started, mut child) = (Instant::now(), self.0.try_wait());
        while child.expect("it is ours").is_none() {
            assert!(started.elapsed() < END_TIME_MAX, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
            child = self.0.try_wait();
        }
        let mut stderr = Vec::new();
        std::io::Read::read_to_end(&mut self.0.stderr.take().expect("piped"), &mut stderr).expect("readable");
        Output { status: self.0.wait().expect("it ended"), stdout: Vec::new(), stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_fails_ends_at_once_says_why_and_loses_nothing() {
    let home = home();
    let node = Process::start(home.path(), Some(6 << 10));
    let client = node.client(home.path()).await;
    let mut acknowledged = Vec::new();
    let failed = loop {
        let bytes = noise(acknowledged.len() as u64, 700_000);
        match try_put(&client, bytes.clone()).await {
            Ok(put) => acknowledged.push((put.address, bytes)),
            Err(problem) => break problem,
        }
    };
    assert!(!acknowledged.is_empty());
    assert!([Code::Other, Code::NotReady, Code::Unreachable].contains(&failed.code), "{failed:?}");
    let ended = node.ended().await;
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    for part in ["error: ", "cannot write", "objects.db", "hint: ", "dmesg"] {
        assert!(stderr.contains(part), "{part} is missing in {stderr}");
    }
    let node = Process::start(home.path(), None);
    let client = node.client(home.path()).await;
    for (address, bytes) in acknowledged {
        assert!(super::get(&client, &address).await == bytes);
    }
}

/// Changes one byte of a file where these bytes stand in it, and nowhere else.
fn flip(path: &Path, needle: &[u8]) {
    let mut bytes = std::fs::read(path).expect("a file");
    let found: Vec<usize> = (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
    assert_eq!(found.len(), 1, "the bytes stand there once");
    bytes[found[0]] ^= 1;
    std::fs::write(path, bytes).expect("written");
}

async fn metric(node: &Node, name: &str) -> u64 {
    let metrics = raw(node, "GET /metrics", None).await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} is missing in {metrics}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_changed_on_the_disk_is_mended_from_the_other_copy() {
    let (first_home, second_home) = (home(), home());
    let first = Node::start(config(first_home.path())).await.expect("it starts");
    let ticket = first.handle().ticket().ticket;
    let second = Node::start(Config { join: vec![ticket], ..config(second_home.path()) }).await.expect("it starts");
    client(&second).wait(Some(2), Duration::from_secs(20)).await.expect("they meet");
    let bytes = noise(1, 3 << 20);
    let put = try_put(&client(&first), bytes.clone()).await.expect("stored");
    assert_eq!(put.copies, 2);
    first.stop().await;
    flip(&first_home.path().join("objects.db"), &bytes[1_500_000..1_500_032]);
    let first = Node::start(config(first_home.path())).await.expect("it starts again");
    client(&first).wait(Some(2), Duration::from_secs(20)).await.expect("they meet again");
    assert!(super::get(&client(&first), &put.address).await == bytes, "wrong bytes are never served");
    let mended = async {
        while metric(&first, "p2p_objects_mended_total").await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), mended).await.expect("it is mended");
    assert_eq!(metric(&first, "p2p_objects_damaged_total").await, 1);
    second.stop().await;
    assert!(super::get(&client(&first), &put.address).await == bytes, "its own copy is whole again");
    first.stop().await;
}

/// A file system of memory, which root may mount.
struct Mounted(TempDir);

impl Mounted {
    fn new(len: u64) -> Option<Self> {
        let folder = home();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={len}"), "tmpfs"]).arg(folder.path());
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then_some(Self(folder))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_a_full_disk_serves_what_it_has_and_says_that_it_is_full() {
    // The log takes 40 MiB of it.
    const ROOM: u64 = 80 << 20;
    let Some(disk) = Mounted::new(DISK_FREE_MIN + RESERVE_LEN + ROOM) else {
        return println!("skipped: a small file system can only be mounted by root");
    };
    let home = disk.0.path().join("home");
    let node = Node::start(config(&home)).await.expect("it starts");
    let mut kept = Vec::new();
    let refused = loop {
        let bytes = noise(kept.len() as u64, 1 << 20);
        match try_put(&client(&node), bytes.clone()).await {
            Ok(put) => kept.push((put.address, bytes)),
            Err(problem) => break problem,
        }
    };
    assert_eq!(refused.code, Code::Full, "{refused:?}");
    assert!(kept.len() >= 16, "{}", kept.len());
    let status = client(&node).status().await.expect("it runs");
    assert_eq!(status.health, Health::Degraded);
    assert!(status.reasons[0].contains("the disk is full"), "{:?}", status.reasons);
    // Others take the rest, and the node is started on a disk without a free byte.
    node.stop().await;
    let others = disk.0.path().join("others");
    fill(&others);
    let node = Node::start(config(&home)).await.expect("it starts on a full disk");
    let status = client(&node).status().await.expect("it runs");
    assert_eq!(status.health, Health::Degraded);
    assert!(status.reasons[0].contains("the disk has run out"), "{:?}", status.reasons);
    assert_eq!(try_put(&client(&node), noise(99, 1000)).await.expect_err("full").code, Code::Full);
    for (address, bytes) in &kept {
        assert!(super::get(&client(&node), address).await == *bytes);
    }
    let metrics = raw(&node, "GET /metrics", None).await;
    assert!(metrics.contains("p2p_disk_tight 1"), "{metrics}");
    node.stop().await;
    std::fs::remove_file(others).expect("it was written");
    let node = Node::start(config(&home)).await.expect("it starts");
    assert!(raw(&node, "GET /metrics", None).await.contains("p2p_disk_tight 0"));
    node.stop().await;
}

/// Writes a file until there is no room.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).expect("a file");
    for piece in [1 << 20, 4096, 1] {
        while std::io::Write::write_all(&mut file, &vec![1; piece]).is_ok() {}
    }
}
