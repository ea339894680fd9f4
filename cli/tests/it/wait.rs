//! wait: for a node that starts, and for members.

use serde_json::json;

use crate::fake::{World, answer, document, error, problem, stdout};
use crate::node::state;

#[test]
fn wait_ends_when_the_node_says_so() {
    let world = World::answering(|_| answer(200, &state()));
    let done = world.run(["wait", "--ready", "--members", "3"]).code(0);
    assert_eq!(stdout(&done), "ready, 3 members\n");
    assert!(world.lines()[0].starts_with("GET /v1/wait?members=3&timeout_ms="), "{:?}", world.lines());
    assert_eq!(
        document(&world.run(["wait", "--json"]).code(0))["members"],
        json!({"alive": 3, "suspect": 0, "down": 1, "left": 0})
    );
}

#[test]
fn wait_survives_that_the_node_is_only_starting() {
    let world = World::without_node();
    let child = world.spawn(["wait"]);
    world.start(|_| answer(200, &state()));
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"ready, 3 members\n");
}

#[test]
fn wait_ends_with_8_when_the_time_is_over() {
    for (status, code) in [(504, "timed_out"), (503, "not_ready")] {
        let world = World::answering(move |_| problem(status, code));
        let done = world.run(["wait", "--timeout", "200ms", "--json"]).code(8);
        assert_eq!(error(&done)["code"], "timed_out");
    }
}

#[test]
fn wait_ends_with_6_when_no_node_ever_answers() {
    let world = World::without_node();
    let done = world.run(["wait", "--timeout", "200ms", "--json"]).code(6);
    assert_eq!(error(&done)["code"], "unreachable");
}
