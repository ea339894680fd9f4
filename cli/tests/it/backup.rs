//! backup.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::fake::{World, content, content_that_stalls, content_until, document, error, problem, stderr, stdout};

const MAP: &[u8] = b"all keys and \xff values";

#[test]
fn a_backup_is_a_file_of_its_owner() {
    let world = World::answering(|seen| content(seen, MAP));
    let done = world.run(["backup", "map"]).code(0);
    assert_eq!((stdout(&done).as_str(), stderr(&done).as_str()), ("", "21 bytes in map\n"));
    assert_eq!(world.read("map"), MAP);
    let mode = std::fs::metadata(world.path("map")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let done = world.run(["backup", "other", "--json"]).code(0);
    assert_eq!(document(&done), json!({"path": "other", "size": 21}));
    assert_eq!(world.lines(), ["GET /v1/backup", "GET /v1/backup"]);
    assert_eq!(world.names(), ["map", "other"]);
}

#[test]
fn a_backup_goes_to_standard_output_as_it_is() {
    let world = World::answering(|seen| content(seen, MAP));
    for args in [&["backup", "-"][..], &["backup", "-", "--json"]] {
        assert_eq!(world.run(args.iter().copied()).code(0).get_output().stdout, MAP);
    }
}

#[test]
fn a_backup_takes_the_place_of_a_file_only_with_force() {
    let world = World::answering(|seen| content(seen, MAP));
    world.write("map", "of yesterday");
    let done = world.run(["backup", "map", "--json"]).code(4);
    assert_eq!(error(&done)["code"], "exists");
    assert!(world.seen().is_empty(), "checked before any request");
    assert_eq!(world.read("map"), b"of yesterday");
    world.run(["backup", "map", "--force"]).code(0);
    assert_eq!(world.read("map"), MAP);
    let mode = std::fs::metadata(world.path("map")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "who could read the one of before cannot read this");
}

#[test]
fn a_backup_that_fails_leaves_nothing() {
    let world = World::answering(|seen| content_until(seen, MAP, 7));
    world.write("map", "of yesterday");
    let done = world.run(["backup", "map", "--force", "--json"]).code(1);
    assert!(error(&done)["message"].to_string().contains("7 of 21 bytes"), "{}", stderr(&done));
    assert_eq!(world.seen().len(), 1, "the rest would be of another moment");
    let refusing = World::answering(|_| problem(503, "not_ready"));
    refusing.run(["backup", "map"]).code(10);
    assert_eq!(refusing.names(), [""; 0]);
    world.run(["backup", "other"]).code(1);
    assert_eq!((world.names(), world.read("map")), (vec!["map".to_owned()], b"of yesterday".to_vec()));
}

#[test]
fn an_interrupted_backup_leaves_nothing() {
    let world = World::answering(|_| content_that_stalls(b"first", 20));
    let child = world.spawn(["backup", "map"]);
    world.wait_for("GET /v1/backup");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert_eq!(child.wait_with_output().expect("it ends").status.code(), Some(130));
    assert_eq!(world.names(), [""; 0]);
}
