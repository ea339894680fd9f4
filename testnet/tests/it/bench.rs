//! Measuring by the real binary, on files so small that the figures mean nothing.

use std::process::Command;

use super::{Net, cli_bin, said};

#[test]
fn what_is_measured_is_in_the_document_with_its_targets_and_its_machine() {
    // It is looked for beside p2p-testnet.
    cli_bin();
    let temp = tempfile::tempdir().expect("a folder");
    let results = temp.path().join("results.jsonl");
    std::fs::write(&results, "").expect("written");
    let net = Net::new();
    std::fs::create_dir(net.dir()).expect("a writable folder");
    let line = "bench content --size 3MiB --runs 2 --small-files 20 --only put,get,small --note small --record";
    let output = net.command(line).arg(&results).output().expect("p2p-testnet runs");
    assert!(output.status.success(), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert!(report["machine"]["cores"].as_u64().is_some_and(|cores| cores > 0), "{report}");
    for row in report["rows"].as_array().expect("rows") {
        let samples = row["samples"].as_array().expect("figures");
        assert!(samples.len() == 2 && samples.iter().all(|figure| figure.as_f64() > Some(0.0)), "{row}");
    }
    let names = |part: &str| -> Vec<String> {
        let rows = report[part].as_array().expect("a list");
        rows.iter().map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
    };
    let promised = names("verdicts");
    for name in ["put / rows in SQLite", "get / budget of its stages", "puts of 4 KiB, HTTP, 16 in flight"] {
        assert!(promised.iter().any(|promise| promise == name), "{name} is missing in {promised:?}");
    }
    assert!(names("rows").iter().any(|name| name == "get from another node to a file"));
    let recorded = std::fs::read_to_string(&results).expect("there");
    let recorded: serde_json::Value = serde_json::from_str(recorded.trim_end()).expect("one line");
    assert_eq!((&recorded["figures"], &recorded["note"]), (&report, &"small".into()));
    assert_eq!(std::fs::read_dir(net.dir()).expect("a folder").count(), 0, "nothing is left");
}

#[test]
fn what_cannot_be_recorded_is_said_before_anything_is_measured() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-testnet"));
    let output = command.args(["bench", "content", "--record", "/nonexistent/results.jsonl"]).output();
    let output = output.expect("p2p-testnet runs");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("/nonexistent/results.jsonl"), "{}", said(&output));
}

/// Runs `bench`, in which nothing may fail, with so little that the figures mean nothing; what was measured and promised, and
/// what was skipped.
fn measured(line: &str) -> serde_json::Value {
    cli_bin();
    let net = Net::new();
    std::fs::create_dir(net.dir()).expect("a writable folder");
    let output = net.command(&format!("bench {line}")).output().expect("p2p-testnet runs");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(std::fs::read_dir(net.dir()).expect("a folder").count(), 0, "nothing is left");
    let leftover = std::fs::read_dir("/proc").expect("it is mounted").flatten().find(|process| {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(net.dir().to_str().expect("text"))
    });
    assert!(leftover.is_none(), "{leftover:?} is left");
    serde_json::from_slice(&output.stdout).expect("one document")
}

/// The figures of a row, which has to be there.
fn samples(report: &serde_json::Value, name: &str) -> Vec<f64> {
    let rows = report["rows"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"));
    row["samples"].as_array().expect("figures").iter().map(|figure| figure.as_f64().expect("a number")).collect()
}

fn promised(report: &serde_json::Value, name: &str) -> bool {
    report["verdicts"].as_array().expect("a list").iter().any(|verdict| verdict["name"] == name)
}

#[test]
fn nodes_are_killed_stopped_and_heard_and_each_time_is_a_figure() {
    let report =
        measured("members --nodes 5 --kills 2 --stalls 1 --silents 1 --repeats 1 --only kills,stalls,silent,said");
    assert_eq!(report["groups"], serde_json::json!(["kills", "stalls", "silent", "said"]));
    assert_eq!((&report["nodes"], &report["kills"]), (&5.into(), &2.into()));
    assert_eq!(samples(&report, "kill -9 seen by the last node").len(), 2);
    assert_eq!(samples(&report, "kill -9 not seen within 10 s").len(), 1);
    assert!(samples(&report, "stall").iter().all(|seconds| *seconds >= 2.0));
    for name in ["SIGSTOP seen by the last node", "SIGCONT seen by the last node"] {
        assert_eq!(samples(&report, name).len(), 1, "{name}");
    }
    for name in ["tag", "leave", "restart", "join"] {
        let name = format!("{name} seen by the last node");
        assert!(samples(&report, &name).iter().all(|seconds| *seconds > 0.0), "{name}");
        assert!(promised(&report, &format!("{name}, slowest")), "{report}");
    }
    for name in ["kill -9 seen by every other node, p99", "stalls of 2 s, members taken for down"] {
        assert!(promised(&report, name), "{name}: {report}");
    }
}

#[test]
fn networks_fall_apart_rest_starve_and_find_content_and_each_is_measured() {
    let report = measured(
        "members --nodes 5 --apart-time 20s --rest-time 1s --starve-time 2s --repeats 2 --only idle,restart,apart,hops,starved,serf",
    );
    assert_eq!(samples(&report, "idle, resident memory by node").len(), 5);
    assert_eq!(samples(&report, "idle, connections by node"), [4.0; 5], "so few are all connected");
    assert!(samples(&report, "cut in halves, of the other half lost")[0] > 0.0, "the cut was noticed");
    assert_eq!(samples(&report, "gets and puts without a lookup"), [100.0; 2]);
    for name in [
        "idle, share of a core, mean",
        "start of all, until all are alive for all",
        "heal, until all are alive for all",
        "first get of 4 KiB without a link, in the node, p99",
        "get of 4 KiB over an open link, in the node, p99",
        "starved, members taken for down",
    ] {
        assert!(promised(&report, name), "{name}: {report}");
    }
    let skipped = report["skipped"].as_array().expect("a list");
    let has_serf = report["rows"].to_string().contains("Serf");
    assert!(has_serf != skipped.iter().any(|line| line.to_string().contains("serf")), "measured or said: {report}");
}

#[test]
fn a_map_and_its_file_are_measured_without_a_node() {
    let report = measured("kv --store-only --runs 2 --writes 300 --keys 500");
    assert_eq!(samples(&report, "merge, 256 bytes, 512 in a transaction").len(), 2);
    assert_eq!(samples(&report, "key deleted, rows"), [0.0]);
    for name in [
        "put / bare loop, 1 in a transaction",
        "put / bare loop, 512 in a transaction",
        "100 of 500 keys differ, round trips",
        "100 of 500 keys differ, bytes of questions and answers",
        "10000 lives of a node, on the disk",
    ] {
        assert!(promised(&report, name), "{name}: {report}");
    }
    assert!(samples(&report, "100 of 500 keys differ, round trips")[0] > 1.0);
}

#[test]
fn nodes_write_read_part_meet_and_start_again_and_each_is_measured() {
    let report = measured(
        "kv --runs 1 --writes 300 --keys 500 --read-keys 50 --read-times 2 --spread-nodes 3 --spread-time 500ms \
         --split-keys 60 --split-changes 10",
    );
    assert_eq!(report["groups"], serde_json::json!(["writes", "reads", "spread", "split", "large"]));
    assert_eq!(samples(&report, "reads, of these from memory"), [100.0]);
    assert_eq!(samples(&report, "large, start until a key is answered").len(), 1);
    assert!(samples(&report, "writes, in a transaction, mean")[0] >= 1.0);
    for name in [
        "writes",
        "writes, p99",
        "writes / bare loop",
        "reads from memory",
        "spread, sent until on all of 3 nodes, p99",
        "split, first contact until all have all",
        "split, bytes of answers / useful bytes",
        "large, resident memory after loading",
        "large, start until a key is answered",
    ] {
        assert!(promised(&report, name), "{name}: {report}");
    }
    assert!(samples(&report, "split, bytes of answers")[0] > 0.0, "they have asked each other");
    assert_eq!(samples(&report, "spread, writes not everywhere after 60 s"), [0.0]);
}

#[test]
fn more_or_less_than_can_be_measured_is_refused() {
    let net = Net::new();
    net.refused("bench kv --store-only --runs 0", 2);
    net.refused("bench kv --only put", 2);
    net.refused("bench kv --split-keys 9 --split-changes 5", 2);
    for line in ["--nodes 3", "--kills 0", "--only everything"] {
        net.refused(&format!("bench members {line}"), 2);
    }
}
