//! status, ticket, join, and what happens when no node answers.

use std::io::Write;
use std::process::Stdio;

use axum::response::Response;
use serde_json::{Value, json};

use crate::fake::{ADDRESS, Seen, World, answer, document, error, problem, stderr, stdout};

const TICKET: &str = "p2pticketaaaabbbbcccc";

pub(crate) fn state() -> Value {
    json!({"peer": "12D3KooWA", "name": "attic", "cluster": "00ff", "version": "0.1.0", "health": "degraded",
        "reasons": ["the disk is nearly full", "one member is gone"], "members": {"alive": 3, "suspect": 0, "down": 1, "left": 0},
        "addresses": ["/ip4/192.0.2.7/tcp/7460/p2p/12D3KooWA", "/ip6/::1/tcp/7460/p2p/12D3KooWA"],
        "objects": 12, "bytes": 3_670_016, "storage_max": 10_737_418_240_u64,
        "kv_keys": 3, "kv": "catching_up"})
}

fn joins(_: &Seen) -> Response {
    answer(200, &json!({"peer": "12D3KooWB", "cluster": "00ff"}))
}

#[test]
fn status_is_a_short_listing() {
    let world = World::answering(|_| answer(200, &state()));
    let done = world.run(["status"]).code(0);
    let text = "\
peer       12D3KooWA
name       attic
cluster    00ff
version    0.1.0
health     degraded
           the disk is nearly full
           one member is gone
members    3 alive, 1 down
addresses  /ip4/192.0.2.7/tcp/7460/p2p/12D3KooWA
           /ip6/::1/tcp/7460/p2p/12D3KooWA
store      12 objects, 3.50 MiB of 10.00 GiB
kv         3 keys, catching_up
";
    assert_eq!(stdout(&done), text);
    assert_eq!(document(&world.run(["status", "--json"]).code(0)), state());
}

#[test]
fn status_can_be_a_check() {
    let world = World::answering(|_| answer(200, &state()));
    let done = world.run(["status", "--check"]).code(5);
    assert_eq!(stdout(&done), "degraded\n");
    let said = "error: the node is degraded: the disk is nearly full; one member is gone\nhint: ";
    assert!(stderr(&done).starts_with(said), "{}", stderr(&done));
    let done = world.run(["status", "--check", "--json"]).code(5);
    assert_eq!(document(&done), state(), "the document stands on standard output all the same");
    assert_eq!((&error(&done)["code"], &error(&done)["exit"]), (&json!("partial"), &json!(5)));

    let world = World::answering(|_| {
        let mut state = state();
        state["health"] = json!("ok");
        answer(200, &state)
    });
    let done = world.run(["status", "--check"]).code(0);
    assert_eq!((stdout(&done).as_str(), stderr(&done).as_str()), ("ok\n", ""), "reasons without trouble are none");
}

#[test]
fn log_level_passes_on_what_was_asked_and_says_what_follows() {
    let world = World::answering(|seen| {
        let mut set: Value = serde_json::from_slice(&seen.body).expect("JSON");
        set["configured"] = json!("info");
        answer(200, &set)
    });
    let done = world.run(["log-level", "p2p_dht=debug", "--for", "90s"]).code(0);
    assert_eq!(stdout(&done), "logging p2p_dht=debug for 1m 30s, then info again\n");
    let seen = world.seen().remove(0);
    assert_eq!(seen.line, "PUT /v1/log-level");
    let body: Value = serde_json::from_slice(&seen.body).expect("JSON");
    assert_eq!(body, json!({"filter": "p2p_dht=debug", "for_ms": 90_000}));
    let done = world.run(["log-level", "debug"]).code(0);
    assert!(stdout(&done).starts_with("logging debug until"), "{}", stdout(&done));
    let done = world.run(["log-level", "debug", "--json"]).code(0);
    assert_eq!(document(&done), json!({"filter": "debug", "for_ms": null, "configured": "info"}));
}

#[test]
fn names_from_elsewhere_cannot_steer_the_terminal() {
    let world = World::answering(|_| {
        let mut state = state();
        state["name"] = json!("\u{1b}[2Jattic");
        answer(200, &state)
    });
    assert!(!stdout(&world.run(["status"]).code(0)).contains('\u{1b}'));
}

#[test]
fn the_ticket_stands_alone_on_standard_output() {
    let world = World::answering(|_| answer(200, &json!({"ticket": TICKET})));
    let done = world.run(["ticket"]).code(0);
    assert_eq!(stdout(&done), format!("{TICKET}\n"));
    assert!(stderr(&done).contains("secret"));
    assert_eq!(document(&world.run(["--json", "ticket"]).code(0)), json!({"ticket": TICKET}));
}

#[test]
fn join_takes_its_target_from_anywhere() {
    let world = World::answering(joins);
    world.write("ticket file", format!("{TICKET}\n"));
    let line = format!("{TICKET}\n");
    let done = world.run(["join", TICKET]).code(0);
    assert_eq!(stdout(&done), "peer     12D3KooWB\ncluster  00ff\n");
    world.run(["join", "--join-file", "ticket file"]).code(0);
    world.run_with_stdin(["join", "--join-file", "-"], line.as_bytes()).code(0);
    world.run_with_stdin(["join", "-"], line.as_bytes()).code(0);
    let env = world.command().args(["join"]).env("P2P_JOIN_FILE", "ticket file").output().expect("it runs");
    assert_eq!(env.status.code(), Some(0));
    let targets: Vec<Value> =
        world.seen().iter().map(|seen| serde_json::from_slice(&seen.body).expect("JSON")).collect();
    assert_eq!(targets, vec![json!({"target": TICKET}); 5]);
}

#[test]
fn join_without_a_usable_target_is_a_usage_error_that_keeps_the_secret() {
    let world = World::answering(joins);
    world.write("empty", " \n");
    world.write("two", format!("{TICKET} {TICKET}"));
    for args in [&["join"][..], &["join", "--join-file", "empty"], &["join", "--join-file", "two"]] {
        let done = world.run(args.iter().copied()).code(2);
        assert!(!stderr(&done).contains(TICKET), "{}", stderr(&done));
    }
    world.run(["join", TICKET, "--join-file", "two"]).code(2);
    world.run(["join", "--join-file", "nothing"]).code(1);
    assert!(world.seen().is_empty());
}

#[test]
fn every_code_of_the_node_has_its_exit_code() {
    for (status, code, exit) in [
        (500, "other", 1),
        (400, "usage", 2),
        (416, "out_of_range", 2),
        (404, "not_found", 3),
        (409, "conflict", 4),
        (502, "unreachable", 6),
        (403, "unauthorised", 7),
        (504, "timed_out", 8),
        (502, "integrity", 9),
        (500, "corrupt", 9),
        (507, "full", 10),
        (503, "not_ready", 10),
        (400, "config", 11),
        (502, "unsupported_version", 12),
    ] {
        let world = World::answering(move |_| problem(status, code));
        let done = world.run(["stat", ADDRESS]).code(exit);
        assert_eq!(stderr(&done), format!("error: it is {code}\nhint: try again\n"));
        let done = world.run(["stat", ADDRESS, "--json"]).code(exit);
        let expected = json!({"code": code, "message": format!("it is {code}"), "hint": "try again", "exit": exit});
        assert_eq!(error(&done), expected);
        assert_eq!(stdout(&done), "");
    }
}

#[test]
fn without_a_node_every_command_says_how_to_start_it() {
    let world = World::without_node();
    world.write("file", "text");
    let home = world.path("a home");
    let home = home.to_str().expect("UTF-8");
    for args in [
        &["put", "file"][..],
        &["get", ADDRESS],
        &["stat", ADDRESS],
        &["status"],
        &["ticket"],
        &["join", TICKET],
        &["log-level", "debug"],
        &["kv", "put", "color", "blue"],
        &["kv", "get", "color"],
        &["kv", "del", "color"],
        &["kv", "ls"],
        &["kv", "watch"],
        &["get", "name/notes"],
        &["backup", "backup"],
        &["wait", "--timeout", "1ms"],
    ] {
        let done = world.run(args.iter().copied().chain(["--json", "--home", home])).code(6);
        assert_eq!(error(&done)["code"], "unreachable");
        assert_eq!(error(&done)["hint"], format!("p2p-node run --home '{home}'"));
    }
}

#[test]
fn the_hint_to_start_the_node_is_not_given_about_others() {
    let unreachable = json!({"code": "unreachable", "message": "the member is unreachable"});
    let world = World::answering(move |_| answer(502, &unreachable));
    let done = world.run(["join", TICKET]).code(6);
    assert_eq!(stderr(&done), "error: the member is unreachable\n");
}

#[test]
fn what_is_typed_names_the_node_before_what_the_environment_says() {
    let (by_flag, by_env, by_home) = (World::without_node(), World::without_node(), World::without_node());
    for (world, name) in [(&by_flag, "flag"), (&by_env, "env"), (&by_home, "home")] {
        world.start(move |_| answer(200, &json!({"ticket": name})));
    }
    let socket = by_flag.path("api.sock");
    let home = by_home.path("");
    let ask = |args: &[&std::ffi::OsStr], env: bool| {
        let mut command = World::without_node().command();
        command.arg("ticket").args(args);
        if env {
            command.env("P2P_SOCKET", by_env.path("api.sock"));
        }
        // The folder of the command is gone by now, so it runs in another.
        let output = command.current_dir("/").output().expect("it runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let (home_args, socket_args) = (["--home".as_ref(), home.as_os_str()], ["--socket".as_ref(), socket.as_os_str()]);
    assert_eq!(ask(&[home_args, socket_args].concat(), true), "flag\n");
    assert_eq!(ask(&home_args, true), "home\n");
    assert_eq!(ask(&[], true), "env\n");
    assert_eq!(ask(&home_args, false), "home\n");
}

#[test]
fn a_node_that_hangs_is_given_up() {
    let world = World::without_node();
    let _socket = world.hang();
    for args in [&["status"][..], &["ticket"], &["wait"], &["kv", "get", "color"], &["kv", "ls"], &["kv", "watch"]] {
        let done = world.run(args.iter().copied().chain(["--timeout", "50ms", "--json"])).code(8);
        assert_eq!(error(&done)["code"], "timed_out");
    }
}

#[test]
fn a_node_that_hangs_at_work_is_given_up_too() {
    let world = World::without_node();
    let _socket = world.hang();
    // All at once: each waits some seconds for a sign of life.
    let work = [&["get", ADDRESS, "-o", "file"][..], &["backup", "file"], &["kv", "put", "color", "blue"]];
    let spawn = |args: &[&'static str]| world.spawn(args.iter().copied().chain(["--timeout", "50ms", "--json"]));
    for child in work.map(spawn) {
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(8));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(r#""code":"timed_out""#), "{said}");
    }
    assert_eq!(world.names(), [""; 0]);
}

#[test]
fn work_that_takes_longer_than_the_timeout_goes_on_while_the_node_lives() {
    let stored = json!({"address": ADDRESS, "size": 4, "copies": 3, "replicas": 3});
    let world = World::answering(move |seen| match seen.line.starts_with("GET /v1/status") {
        true => answer(200, &state()),
        false => answer(200, &stored),
    });
    let mut command = world.command();
    command.args(["put", "-", "--timeout", "1ms"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the binary starts");
    world.wait_for("GET /v1/status");
    world.wait_for("GET /v1/status");
    child.stdin.take().expect("a pipe").write_all(b"text").expect("it reads");
    assert!(child.wait().expect("it ends").success());
}
