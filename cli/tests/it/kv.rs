//! kv.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;

use axum::response::Response;
use p2p_api::types::{KvEntry, KvSibling};
use serde_json::{Value, json};

use crate::fake::{Seen, World, answer, document, error, problem, stderr, stdout, watched};

const TOKEN: &str = "aeaqcaibaeaq";
const VALUE_LEN_MAX: usize = 64 << 10;

fn written() -> Value {
    json!({"key": "color", "token": TOKEN, "siblings": 1, "acks": 1})
}

fn writes(_: &Seen) -> Response {
    answer(200, &written())
}

/// A node with these values at the key.
fn holding(values: &'static [&'static [u8]]) -> World {
    World::answering(move |_| {
        let siblings = values.iter().map(|value| KvSibling::new(value, "dot".into())).collect();
        let entry = KvEntry { key: "color".into(), token: TOKEN.into(), siblings };
        answer(200, &serde_json::to_value(entry).expect("plain data"))
    })
}

/// A node with so many keys, which answers with as many at once as were asked for.
fn listing(count: usize) -> World {
    World::answering(move |seen| {
        let query = seen.line.split_once('?').map(|(_, query)| query).unwrap_or_default();
        let query: BTreeMap<&str, &str> = query.split('&').filter_map(|part| part.split_once('=')).collect();
        let limit = query["limit"].parse().expect("a number");
        assert!(limit <= 1000, "{limit} are more than the node gives at once");
        let all = (0..count).map(|n| format!("k{n:04}"));
        let mut left = all.filter(|key| query.get("after").is_none_or(|after| key.as_str() > *after));
        let keys: Vec<String> = left.by_ref().take(limit).collect();
        let next = left.next().and_then(|_| keys.last().cloned());
        let keys: Vec<Value> = keys.iter().map(|key| json!({"key": key, "siblings": 1})).collect();
        answer(200, &json!({"keys": keys, "next": next}))
    })
}

#[test]
fn put_is_quiet_and_writes_every_byte() {
    let world = World::answering(writes);
    for value in [&b""[..], b"blue", "\u{e4}\n".as_bytes(), b"a\xff", b"--force", &[b'v'; VALUE_LEN_MAX]] {
        let output = world.command().args(["kv", "put", "color", "--"]).arg(OsStr::from_bytes(value)).output();
        let output = output.expect("it runs");
        assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(0), Vec::new(), Vec::new()));
        assert_eq!(world.seen().last().expect("a request").body, value);
        world.run_with_stdin(["kv", "put", "color", "-"], value).code(0).stdout("").stderr("");
        assert_eq!(world.seen().last().expect("a request").body, value);
    }
    assert!(world.lines().iter().all(|line| line == "PUT /v1/kv/color"), "{:?}", world.lines());
    assert_eq!(document(&world.run(["kv", "put", "color", "blue", "--json"]).code(0)), written());
}

#[test]
fn put_refuses_what_is_longer_than_a_value() {
    let world = World::answering(writes);
    let long = "v".repeat(VALUE_LEN_MAX + 1);
    for done in [
        world.run(["kv", "put", "color", &long]).code(2),
        world.run_with_stdin(["kv", "put", "color", "-"], long.as_bytes()).code(2),
    ] {
        assert!(stderr(&done).starts_with("error: the value is longer than 65536 bytes\nhint: "), "{}", stderr(&done));
        assert!(stderr(&done).contains("p2p-cli put "), "{}", stderr(&done));
    }
    assert!(world.seen().is_empty());
}

#[test]
fn put_says_what_it_replaces() {
    let world = World::answering(writes);
    world.write("token file", format!("{TOKEN}\n"));
    let ask = |args: &[&'static str]| {
        world.run(["kv", "put", "my/color", "blue"].iter().chain(args).copied()).code(0);
        let seen = world.seen().pop().expect("a request");
        let header = |name| seen.header(name).map(str::to_owned);
        (seen.line.clone(), header("p2p-context"), header("if-none-match"))
    };
    let put = |query: &str| format!("PUT /v1/kv/my%2Fcolor{query}");
    assert_eq!(ask(&[]), (put(""), None, None));
    assert_eq!(ask(&["--token", TOKEN]), (put(""), Some(TOKEN.into()), None));
    assert_eq!(ask(&["--token", "@token file"]), (put(""), Some(TOKEN.into()), None));
    assert_eq!(ask(&["--sibling"]), (put("?sibling=true"), None, None));
    assert_eq!(ask(&["--create"]), (put(""), None, Some("*".into())));
    assert_eq!(ask(&["--force"]), (put("?force=true"), None, None));
    assert_eq!(ask(&["--acks", "local"]), (put("?acks=1"), None, None));
    assert_eq!(ask(&["--acks", "3", "--timeout", "5s"]), (put("?acks=3&timeout_ms=5000"), None, None));
}

#[test]
fn a_write_without_a_usable_token_is_not_made() {
    let world = World::answering(writes);
    world.write("empty", "\n");
    world.write("two", format!("{TOKEN} {TOKEN}"));
    for (token, exit) in [("@empty", 2), ("@two", 2), ("@nothing", 1), ("\u{e4}", 2)] {
        let done = world.run(["kv", "put", "color", "blue", "--token", token]).code(exit);
        assert!(stderr(&done).starts_with("error: "), "{}", stderr(&done));
        world.run(["kv", "del", "color", "--token", token]).code(exit);
    }
    assert!(world.seen().is_empty());
}

#[test]
fn a_write_that_too_few_nodes_have_is_told_and_ends_with_5() {
    let world = World::answering(|_| {
        let mut written = written();
        written["problem"] = json!({"code": "partial", "message": "1 of 3 nodes", "hint": "wait"});
        answer(202, &written)
    });
    let done = world.run(["kv", "put", "color", "blue", "--acks", "3"]).code(5);
    assert_eq!((stdout(&done).as_str(), stderr(&done).as_str()), ("", "error: 1 of 3 nodes\nhint: wait\n"));
    let done = world.run(["kv", "put", "color", "blue", "--acks", "3", "--json"]).code(5);
    assert_eq!((&document(&done)["token"], &document(&done)["acks"]), (&json!(TOKEN), &json!(1)));
    assert_eq!((&error(&done)["code"], &error(&done)["exit"]), (&json!("partial"), &json!(5)));
}

#[test]
fn del_is_like_put() {
    let world = World::answering(writes);
    for (args, line, token) in [
        (&[][..], "DELETE /v1/kv/color", None),
        (&["--force"], "DELETE /v1/kv/color?force=true", None),
        (&["--token", TOKEN], "DELETE /v1/kv/color", Some(TOKEN)),
    ] {
        let all: Vec<&str> = ["kv", "del", "color"].iter().chain(args).copied().collect();
        world.run(all.iter().copied()).code(0).stdout("").stderr("");
        let seen = world.seen().pop().expect("a request");
        assert_eq!((seen.line.as_str(), seen.header("p2p-context"), seen.body.len()), (line, token, 0));
        assert_eq!(document(&world.run(all.iter().copied().chain(["--json"])).code(0)), written());
    }
}

#[test]
fn a_refused_write_has_the_exit_code_of_its_reason() {
    for (status, code, exit) in [(409, "conflict", 4), (507, "full", 10), (400, "usage", 2), (503, "not_ready", 10)] {
        let world = World::answering(move |_| problem(status, code));
        for args in [&["kv", "put", "color", "blue"][..], &["kv", "del", "color"]] {
            let done = world.run(args.iter().copied()).code(exit);
            let said = format!("error: it is {code}\nhint: try again\n");
            assert_eq!((stdout(&done).as_str(), stderr(&done)), ("", said));
        }
    }
}

#[test]
fn get_writes_the_bytes_of_the_value_and_no_others() {
    const VALUES: [&[&[u8]]; 4] = [&[b""], &[b"blue"], &[b"two\nlines\n"], &[b"a\xff\0"]];
    for values in VALUES {
        let world = holding(values);
        let done = world.run(["kv", "get", "color"]).code(0);
        assert_eq!((&done.get_output().stdout[..], stderr(&done).as_str()), (values[0], ""));
        let done = world.run(["kv", "get", "color", "--json"]).code(0);
        let entry: KvEntry = serde_json::from_value(document(&done)).expect("an entry");
        assert_eq!((entry.token.as_str(), entry.siblings[0].bytes().as_deref()), (TOKEN, Some(values[0])));
        assert_eq!(world.lines(), ["GET /v1/kv/color", "GET /v1/kv/color"]);
    }
}

#[test]
fn get_of_several_values_prints_none_and_ends_with_4() {
    let world = holding(&[b"blue", b"red"]);
    let done = world.run(["kv", "get", "color"]).code(4);
    assert_eq!(stdout(&done), "");
    assert!(stderr(&done).starts_with("error: 2 values "), "{}", stderr(&done));
    for command in ["p2p-cli --json kv get color", "p2p-cli kv put color VALUE --token T"] {
        assert!(stderr(&done).contains(command), "{}", stderr(&done));
    }
    let done = world.run(["--json", "kv", "get", "color"]).code(4);
    let entry: KvEntry = serde_json::from_value(document(&done)).expect("an entry");
    let values: Vec<&str> = entry.siblings.iter().map(|sibling| sibling.value.as_str()).collect();
    assert_eq!(values, ["blue", "red"]);
    assert_eq!((&error(&done)["code"], &error(&done)["exit"]), (&json!("conflict"), &json!(4)));
}

#[test]
fn get_of_nothing_ends_with_3() {
    let world = World::answering(|_| problem(404, "not_found"));
    world.run(["kv", "get", "color"]).code(3).stdout("");
    let done = world.run(["kv", "get", "color", "--json"]).code(3).stdout("");
    assert_eq!(error(&done)["code"], "not_found");
}

#[test]
fn ls_goes_through_all_keys() {
    let world = listing(2500);
    let all: Vec<String> = (0..2500).map(|n| format!("k{n:04}")).collect();
    let done = world.run(["kv", "ls"]).code(0);
    assert_eq!((stdout(&done), stderr(&done).as_str()), (format!("{}\n", all.join("\n")), ""));
    let pages = ["?limit=1000", "?after=k0999&limit=1000", "?after=k1999&limit=1000"];
    assert_eq!(world.lines(), pages.map(|query| format!("GET /v1/keys{query}")));
    let listed = document(&world.run(["kv", "ls", "--json"]).code(0));
    assert_eq!((listed["keys"].as_array().map(Vec::len), &listed["next"]), (Some(2500), &Value::Null));
    assert_eq!(listed["keys"][2499], json!({"key": "k2499", "siblings": 1}));
}

#[test]
fn ls_ends_at_its_limit_and_says_where_the_rest_begins() {
    let world = listing(2500);
    for (limit, pages) in [("10", 1), ("1000", 1), ("1500", 2), ("2500", 3)] {
        let before = world.lines().len();
        let listed = document(&world.run(["kv", "ls", "--limit", limit, "--json"]).code(0));
        let keys = listed["keys"].as_array().expect("a list");
        assert_eq!((keys.len().to_string().as_str(), world.lines().len() - before), (limit, pages));
        let next = if limit == "2500" { &Value::Null } else { &keys[keys.len() - 1]["key"] };
        assert_eq!(&listed["next"], next);
    }
    let done = world.run(["kv", "ls", "--limit", "2", "--after", "k2490"]).code(0);
    assert_eq!(
        (stdout(&done).as_str(), stderr(&done).as_str()),
        ("k2491\nk2492\n", "more keys follow: --after k2492\n")
    );
    let done = world.run(["kv", "ls", "--limit", "2", "--after", "k2497"]).code(0);
    assert_eq!((stdout(&done).as_str(), stderr(&done).as_str()), ("k2498\nk2499\n", ""));
}

#[test]
fn ls_marks_keys_with_several_values() {
    let keys = json!({"keys": [{"key": "a", "siblings": 1}, {"key": "b\nc", "siblings": 3}], "next": null});
    let world = World::answering(move |_| answer(200, &keys));
    assert_eq!(stdout(&world.run(["kv", "ls", "my keys/"]).code(0)), "a\nb\u{fffd}c\t3 values\n");
    assert_eq!(world.lines(), ["GET /v1/keys?prefix=my%20keys%2F&limit=1000"]);
}

#[test]
fn ls_of_nothing_is_nothing() {
    let world = listing(0);
    world.run(["kv", "ls"]).code(0).stdout("").stderr("");
    assert_eq!(document(&world.run(["kv", "ls", "--json"]).code(0)), json!({"keys": [], "next": null}));
}

#[test]
fn watch_is_one_document_a_line() {
    let long = "\0".repeat(1 << 20);
    let events = [
        json!({"id": "7-1", "kind": "put", "key": "color", "token": TOKEN,
            "siblings": [{"value": "blue", "encoding": "utf-8", "dot": "d"}]}),
        json!({"id": "7-2", "kind": "gap"}),
        json!({"id": "7-3", "kind": "put", "key": "long", "token": TOKEN,
            "siblings": [{"value": long, "encoding": "utf-8", "dot": "d"}]}),
        json!({"id": "7-4", "kind": "delete", "key": "color", "token": TOKEN, "siblings": []}),
    ];
    let said = events.clone();
    let world = World::answering(move |_| watched(&said));
    let done = world.run(["kv", "watch", "a b", "--since", "7-0"]).code(0);
    let lines: Vec<Value> = stdout(&done).lines().map(|line| serde_json::from_str(line).expect("a document")).collect();
    assert!(lines == events, "every event, the longest too");
    let seen = world.seen().remove(0);
    assert_eq!((seen.line.as_str(), seen.header("last-event-id")), ("GET /v1/keys/watch?prefix=a%20b", Some("7-0")));
}

#[test]
fn keys_and_values_may_look_like_options() {
    let held = Mutex::new(BTreeMap::<String, Vec<u8>>::new());
    let world = World::answering(move |seen| {
        let mut held = held.lock().expect("no test panics with it");
        let (method, path) = seen.line.split_once(' ').expect("a method and a path");
        let key = path.strip_prefix("/v1/kv/").expect("a key").to_owned();
        match method {
            "PUT" => held.insert(key, seen.body.to_vec()),
            "DELETE" => held.remove(&key),
            _ => {
                let Some(value) = held.get(&key) else { return problem(404, "not_found") };
                let siblings = vec![KvSibling::new(value, "dot".into())];
                let entry = KvEntry { key, token: TOKEN.into(), siblings };
                return answer(200, &serde_json::to_value(entry).expect("plain data"));
            }
        };
        writes(seen)
    });
    world.run(["kv", "put", "--", "-odd key", "-5"]).code(0);
    world.run(["kv", "get", "--", "-odd key"]).code(0).stdout("-5");
    world.run(["kv", "del", "--", "-odd key"]).code(0);
    world.run(["kv", "get", "--", "-odd key"]).code(3);
}
