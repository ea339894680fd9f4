//! `members`, `tags` and `leave`.

use serde_json::{Value, json};

use crate::fake::{Seen, World, answer, document, error, problem, stderr, stdout, watched};

fn event(n: u64) -> Value {
    json!({"id": format!("7-{n}"), "at": "2026-01-01T00:00:00.000Z", "kind": "down", "peer": "12D3KooWB", "name": "attic",
        "state": "down", "generation": 1, "incarnation": 0, "accusers": [{"peer": "12D3KooWA", "cause": "gone"}]})
}

#[test]
fn members_are_a_table_or_a_document() {
    let members = json!({"members": [{"peer": "12D3KooWA", "name": "attic", "state": "alive", "since": "2026-01-01T00:00:00Z",
        "rtt_ms": 0.5, "addresses": [], "tags": {"rack": "4"}, "fill": 0, "generation": 1, "incarnation": 0}]});
    let said = members.clone();
    let world = World::answering(move |_| answer(200, &said));
    let text = stdout(&world.run(["members"]).code(0));
    assert!(text.contains("alive  attic  12D3KooWA  0.5 ms  2026-01-01T00:00:00Z  rack=4"), "{text}");
    assert_eq!(document(&world.run(["members", "--json"]).code(0)), members);
}

#[test]
fn a_watch_is_one_document_a_line_and_ends_with_the_node() {
    let world = World::answering(|_| watched(&[event(1), event(2)]));
    let done = world.run(["members", "--watch"]).code(0);
    let lines: Vec<Value> = stdout(&done).lines().map(|line| serde_json::from_str(line).expect("a document")).collect();
    assert_eq!(lines, [event(1), event(2)]);
    let world = World::answering(|_| problem(400, "usage"));
    assert_eq!(error(&world.run(["members", "--watch", "--since", "x", "--json"]).code(2))["code"], "usage");
    world.run(["members", "--since", "7-1"]).code(2);
}

#[test]
fn tags_are_set_and_taken_away() {
    let tags = json!({"tags": {"rack": "4", "role": "build"}});
    let said = tags.clone();
    let world = World::answering(move |_: &Seen| answer(200, &said));
    let done = world.run(["tags", "--set", "rack=4", "--set", "role=a=b", "--delete", "old"]).code(0);
    assert_eq!(stdout(&done), "rack=4\nrole=build\n");
    let asked: Value = serde_json::from_slice(&world.seen()[0].body).expect("a document");
    assert_eq!(asked, json!({"set": {"rack": "4", "role": "a=b"}, "delete": ["old"]}));
    for wrong in ["rack", "=4"] {
        world.run(["tags", "--set", wrong]).code(2);
    }
}

#[test]
fn to_leave_at_once_has_to_be_said() {
    let world = World::answering(|_| answer(200, &json!(null)));
    assert!(stderr(&world.run(["leave"]).code(2)).contains("leave --now"));
    assert!(world.seen().is_empty(), "nothing was asked of the node");
    world.run(["leave", "--now"]).code(0);
    assert_eq!(document(&world.run(["leave", "--now", "--json"]).code(0)), json!({"left": true}));
}
