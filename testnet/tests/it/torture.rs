//! Torture by the real binary: a run is taken up, and a broken promise is found.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::{Net, cli_bin, node_bin, said};

/// A folder to work in; not a network's, though it takes its place.
fn place() -> Net {
    // It is looked for beside p2p-testnet.
    cli_bin();
    let net = Net::new();
    fs::create_dir(net.dir()).expect("a writable folder");
    net
}

#[test]
fn a_run_is_taken_up_where_it_ended_and_leaves_nothing() {
    let place = place();
    let progress = place.temp.path().join("progress.jsonl");
    let progress = progress.to_str().expect("text");
    let first = place.run(&format!("torture content --cycles 1 --seed 3 --nodes 4 --progress {progress}"));
    assert_eq!((&first["cycles"], &first["seed"], &first["kills"]), (&1.into(), &3.into(), &1.into()), "{first}");
    let all = place.run(&format!("torture content --cycles 2 --resume {progress}"));
    assert_eq!((&all["cycles"], &all["nodes"], &all["kills"]), (&2.into(), &4.into(), &2.into()), "{all}");
    assert!(all["puts_acknowledged"].as_u64() >= first["puts_acknowledged"].as_u64());
    assert!(all["files_checked"].as_u64() > first["files_checked"].as_u64());
    let lines = fs::read_to_string(progress).expect("there");
    assert_eq!(lines.lines().count(), 3, "what the run is, and a line for each cycle: {lines}");
    assert_eq!(fs::read_dir(place.dir()).expect("a folder").count(), 0);
    place.refused(&format!("torture content --progress {progress}"), 4);
}

#[test]
fn nodes_that_forget_what_they_acknowledged_are_found_out() {
    let place = place();
    // A node that keeps one copy, and starts without what it had.
    let forgetful = place.temp.path().join("forgetful");
    let node = node_bin().display();
    let script = format!(
        "#!/bin/sh\ncase $1 in run) rm -f \"$3\"/objects.db*; exec {node} \"$@\" --replicas 1;; *) exec {node} \"$@\";; esac\n"
    );
    fs::write(&forgetful, script).expect("written");
    fs::set_permissions(&forgetful, fs::Permissions::from_mode(0o700)).expect("ours");
    let progress = place.temp.path().join("progress.jsonl");
    let mut command = place.command("torture content --cycles 20 --seed 5 --nodes 4 --progress");
    let output = command.arg(&progress).env("P2P_NODE_BIN", &forgetful).output().expect("p2p-testnet runs");
    assert_eq!(output.status.code(), Some(9), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one document");
    let breach = &report["breach"];
    assert_eq!(report["seed"], 5);
    assert!(breach["file"]["address"].as_str().is_some_and(|address| address.len() == 64), "{breach}");
    assert_eq!(breach["nodes"].as_array().map(Vec::len), Some(4), "{breach}");
    // Which get finds out first, and whether somebody's cache still knows the root, depends on the run.
    let lost = |what: &str| what.contains("a get ends with") || what.contains("a get after a restart fails");
    assert!(breach["what"].as_str().is_some_and(lost), "{breach}");
    assert!(fs::metadata(breach["dir"].as_str().expect("a folder")).is_ok(), "what shows it is left");
    // A run that ended so is not taken up as if nothing had been.
    place.refused(&format!("torture content --resume {}", progress.display()), 2);
}

#[test]
fn a_map_whose_nodes_are_killed_loses_nothing_and_is_taken_up() {
    let place = place();
    let progress = place.temp.path().join("progress.jsonl");
    let (history, results) = (place.temp.path().join("history.jsonl"), place.temp.path().join("results.jsonl"));
    let command = format!(
        "torture kv --cycles 5 --seed 3 --nodes 3 --clients 4 --progress {} --history {} --record {}",
        progress.display(),
        history.display(),
        results.display()
    );
    let first = place.run(&command);
    assert_eq!((&first["cycles"], &first["faults"]["kill"]), (&5.into(), &5.into()), "{first}");
    for wrong in ["lost", "dots_reused", "resurrected", "other_breaches", "excused_count"] {
        assert_eq!(first[wrong], 0, "{first}");
    }
    assert!(first["writes_judged"].as_u64() > Some(0) && first["reads_judged"].as_u64() > Some(0), "{first}");
    let lines = fs::read_to_string(&history).expect("there");
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{lines}");
    let row = fs::read_to_string(&results).expect("there");
    assert_eq!(serde_json::from_str::<Value>(&row).expect("a row")["figures"], first);
    let all = place.run(&format!("torture kv --cycles 6 --resume {}", progress.display()));
    assert_eq!((&all["cycles"], &all["faults"]["kill"]), (&6.into(), &6.into()), "{all}");
    assert_eq!(fs::read_dir(place.dir()).expect("a folder").count(), 0);
    place.refused(&format!("torture content --resume {}", progress.display()), 2);
}

#[test]
fn a_map_is_judged_also_where_nodes_are_set_back() {
    let place = place();
    let progress = place.temp.path().join("progress.jsonl");
    let report = place.run(&format!("torture kv --cycles 6 --seed 2 --mix all --progress {}", progress.display()));
    for wrong in ["lost", "dots_reused", "resurrected", "other_breaches"] {
        assert_eq!(report[wrong], 0, "{report}");
    }
}

#[test]
fn nodes_that_forget_the_map_when_they_are_killed_are_found_out() {
    let place = place();
    let forgetful = place.temp.path().join("forgetful");
    let node = node_bin().display();
    // At its first start it needs what it was given to join by.
    let script = format!(
        "#!/bin/sh\ncase $1 in run) [ -e \"$3/began\" ] && rm -f \"$3\"/state.db*; touch \"$3/began\";; esac\nexec {node} \"$@\"\n"
    );
    fs::write(&forgetful, script).expect("written");
    fs::set_permissions(&forgetful, fs::Permissions::from_mode(0o700)).expect("ours");
    let progress = place.temp.path().join("progress.jsonl");
    let mut command = place.command("torture kv --cycles 20 --seed 5 --nodes 3 --progress");
    let output = command.arg(&progress).env("P2P_NODE_BIN", &forgetful).output().expect("p2p-testnet runs");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert!(report["lost"].as_u64() > Some(0), "{report}");
    let broken = &report["broken"];
    assert!(broken["history"].as_array().is_some_and(|lines| lines.len() > 1), "{broken}");
    assert!(fs::metadata(broken["dir"].as_str().expect("a folder")).is_ok(), "what shows it is left");
    place.refused(&format!("torture kv --resume {}", progress.display()), 2);
}
