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
