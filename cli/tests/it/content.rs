//! put, get and stat.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::response::Response;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::fake::{
    ADDRESS, Seen, World, answer, content, content_that_stalls, content_until, document, error, problem, stderr, stdout,
};

const TEXT: &[u8] = b"twenty bytes of text";

fn stores(seen: &Seen) -> Response {
    answer(200, &json!({"address": ADDRESS, "size": seen.body.len(), "copies": 3, "replicas": 3}))
}

fn stores_in_part(seen: &Seen) -> Response {
    let problem = json!({"code": "partial", "message": "1 of 2 copies", "hint": "p2p-cli stat ADDRESS"});
    answer(202, &json!({"address": ADDRESS, "size": seen.body.len(), "copies": 1, "replicas": 3, "problem": problem}))
}

fn serves(seen: &Seen) -> Response {
    content(seen, TEXT)
}

#[test]
fn put_prints_the_address_alone() {
    let world = World::answering(stores);
    world.write("file", TEXT);
    let done = world.run(["put", "file", "--replicas", "3", "--acks", "2", "--timeout", "5s"]).code(0);
    assert_eq!(stdout(&done), format!("{ADDRESS}\n"));
    assert_eq!(stderr(&done), "stored on 3/3\n");
    assert_eq!(world.lines(), ["POST /v1/content?replicas=3&acks=2&timeout_ms=5000"]);
    assert_eq!(world.seen()[0].body, TEXT);
}

#[test]
fn put_prints_one_document_with_json() {
    let world = World::answering(stores);
    world.write("file", TEXT);
    let done = world.run(["put", "file", "--json"]).code(0);
    assert_eq!(document(&done), json!({"address": ADDRESS, "size": 20, "copies": 3, "replicas": 3}));
    assert_eq!(stderr(&done), "");
}

#[test]
fn put_sends_more_than_it_ever_holds() {
    let world = World::answering(stores);
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
    world.write("large", &bytes);
    world.run(["put", "large"]).code(0);
    world.run_with_stdin(["put", "-"], &bytes).code(0);
    assert!(world.seen().iter().all(|seen| seen.body == bytes));
}

#[test]
fn put_takes_every_name_a_file_can_have() {
    let world = World::answering(stores);
    for name in ["--force", "-odd name", "mit Leerzeichen und ß 🦀", "empty"] {
        let bytes = if name == "empty" { "" } else { name };
        world.write(name, bytes);
        world.run(["put", "--", name]).code(0);
        assert_eq!(world.seen().last().expect("a request").body, bytes.as_bytes());
    }
}

#[test]
fn put_reads_files_that_hide_their_length() {
    let world = World::answering(stores);
    world.run(["put", "/proc/version"]).code(0);
    assert_eq!(world.seen()[0].body, std::fs::read("/proc/version").expect("Linux"));
}

#[test]
fn put_with_too_few_copies_prints_the_address_and_ends_with_5() {
    let world = World::answering(stores_in_part);
    world.write("file", TEXT);
    let done = world.run(["put", "file"]).code(5);
    assert_eq!(stdout(&done), format!("{ADDRESS}\n"));
    assert_eq!(stderr(&done), "error: 1 of 2 copies\nhint: p2p-cli stat ADDRESS\n");

    let done = world.run(["--json", "put", "file"]).code(5);
    assert_eq!(document(&done)["copies"], 1);
    assert_eq!(error(&done)["code"], "partial");
    assert_eq!(error(&done)["exit"], 5);
}

#[test]
fn put_with_a_name_says_which_to_the_node() {
    let world = World::answering(|seen| {
        let size = seen.body.len();
        answer(200, &json!({"address": ADDRESS, "size": size, "copies": 3, "replicas": 3, "name": "a&b/ä ?"}))
    });
    world.write("file", TEXT);
    let done = world.run(["put", "file", "--name", "a&b/ä ?", "--acks", "2"]).code(0);
    assert_eq!(stdout(&done), format!("{ADDRESS}\n"));
    assert_eq!(stderr(&done), "stored on 3/3 as name/a&b/ä ?\n");
    assert_eq!(world.lines(), ["POST /v1/content?acks=2&name=a%26b%2F%C3%A4%20%3F"]);
    assert_eq!(document(&world.run(["put", "file", "--name", "a&b/ä ?", "--json"]).code(0))["name"], "a&b/ä ?");
}

/// Whether the answer or the failed write is noticed first is a race in the client, so this runs often.
#[test]
fn put_understands_a_node_that_refuses_before_it_has_read_everything() {
    let world = World::without_node();
    world.write("file", vec![0; 4 << 20]);
    let socket = world.hang();
    std::thread::spawn(move || {
        for connection in socket.incoming() {
            let document = r#"{"code":"full","message":"it is full"}"#;
            let head = format!("HTTP/1.1 507 Full\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", document.len());
            let mut connection = connection?;
            let _start_of_the_request = connection.read(&mut [0; 64])?;
            connection.write_all(format!("{head}{document}").as_bytes())?;
        }
        Ok::<_, std::io::Error>(())
    });
    for _ in 0..30 {
        assert_eq!(stderr(&world.run(["put", "file"]).code(10)), "error: it is full\n");
    }
}

#[test]
fn put_refuses_a_directory_and_says_what_to_do() {
    let world = World::answering(stores);
    let done = world.run(["put", "."]).code(2);
    assert!(stderr(&done).contains("hint: tar -cf - . | p2p-cli put -\n"), "{}", stderr(&done));
    assert!(world.seen().is_empty());
}

#[test]
fn put_gives_the_reason_why_a_file_cannot_be_opened() {
    let world = World::answering(stores);
    let done = world.run(["put", "nothing"]).code(1);
    assert!(stderr(&done).starts_with("error: cannot open nothing: No such file"), "{}", stderr(&done));
    assert!(world.seen().is_empty());
}

#[test]
fn put_blames_the_file_when_reading_fails() {
    let world = World::answering(stores);
    // Can be opened by its owner, and gives an input/output error when read from its start.
    let done = world.run(["put", "/proc/self/mem"]).code(1);
    assert!(stderr(&done).starts_with("error: cannot read /proc/self/mem: "), "{}", stderr(&done));
}

#[test]
fn get_writes_the_bytes_and_nothing_else() {
    let world = World::answering(serves);
    for args in [vec!["get", ADDRESS], vec!["get", ADDRESS, "-o", "-"], vec!["--json", "get", ADDRESS]] {
        let done = world.run(args).code(0);
        assert_eq!(done.get_output().stdout, TEXT);
        assert_eq!(stderr(&done), "");
    }
}

#[test]
fn get_passes_on_what_was_asked() {
    let world = World::answering(serves);
    let upper = ADDRESS.to_uppercase();
    world.run(["get", &upper, "--no-cache", "--timeout", "1m"]).code(0);
    assert_eq!(world.lines(), [format!("GET /v1/content/{ADDRESS}?cache=false&timeout_ms=60000")]);
}

#[test]
fn get_writes_files_of_every_name() {
    let world = World::answering(serves);
    for name in ["out", "./--force", "mit Leerzeichen und ß 🦀"] {
        let done = world.run(["get", ADDRESS, "-o", name]).code(0);
        assert_eq!(stdout(&done), "");
        assert_eq!(world.read(name), TEXT);
    }
    let done = world.run(["get", ADDRESS, "--json", "--output=-odd"]).code(0);
    assert_eq!(document(&done), json!({"address": ADDRESS, "size": 20, "path": "-odd"}));
    assert_eq!(world.names(), ["--force", "-odd", "mit Leerzeichen und ß 🦀", "out"]);
}

#[test]
fn get_of_nothing_makes_an_empty_file() {
    let world = World::answering(|seen| content(seen, b""));
    world.run(["get", ADDRESS, "-o", "empty"]).code(0);
    assert_eq!(world.read("empty"), b"");
}

#[test]
fn get_leaves_an_existing_file_untouched() {
    let world = World::answering(serves);
    world.write("file", "mine");
    let done = world.run(["get", ADDRESS, "-o", "file", "--json"]).code(4);
    assert_eq!(error(&done)["code"], "exists");
    assert_eq!(world.read("file"), b"mine");
    assert!(world.seen().is_empty(), "checked before any request");
}

#[test]
fn get_leaves_a_file_untouched_that_came_meanwhile() {
    let world = World::without_node();
    let file = world.path("file");
    world.start(move |seen| {
        std::fs::write(&file, "mine").expect("a file can be written");
        serves(seen)
    });
    let done = world.run(["get", ADDRESS, "-o", "file", "--json"]).code(4);
    assert_eq!(error(&done)["code"], "exists");
    assert_eq!(world.read("file"), b"mine");
    assert_eq!(world.names(), ["file"]);
}

#[test]
fn get_replaces_a_file_with_force() {
    let world = World::answering(serves);
    world.write("file", "a longer text that must go entirely");
    std::os::unix::fs::symlink("file", world.path("link")).expect("a link");
    world.run(["get", ADDRESS, "-o", "link", "--force"]).code(0);
    assert_eq!(world.read("file"), TEXT);
    assert!(world.path("link").is_symlink());
    assert_eq!(world.names(), ["file", "link"]);
}

#[test]
fn get_writes_into_a_device_and_never_in_its_place() {
    let world = World::answering(serves);
    world.run(["get", ADDRESS, "-o", "/dev/null", "--force"]).code(0);
    world.run(["get", ADDRESS, "-o", "/dev/null"]).code(0);
    assert!(!std::fs::metadata("/dev/null").expect("it is still there").is_file());
}

#[test]
fn get_refuses_a_directory_as_file() {
    let world = World::answering(serves);
    for path in [".", "new/", ""] {
        let done = world.run(["get", ADDRESS, "-o", path, "--force"]).code(2);
        assert!(stderr(&done).contains("hint: "), "{}", stderr(&done));
    }
    assert!(world.seen().is_empty());
    assert!(world.names().is_empty());
}

#[test]
fn get_goes_on_where_it_broke_off() {
    let world = World::answering(|seen| content_until(seen, TEXT, (seen.offset() + 7).min(TEXT.len())));
    world.run(["get", ADDRESS, "-o", "file"]).code(0);
    assert_eq!(world.read("file"), TEXT);
    let offsets: Vec<usize> = world.seen().iter().map(Seen::offset).collect();
    assert_eq!(offsets, [0, 7, 14]);
}

#[test]
fn get_of_a_range_brings_these_bytes_alone() {
    let world = World::answering(serves);
    for (range, bytes) in [("0-5", &TEXT[..6]), ("13-", &TEXT[13..]), ("-4", &TEXT[16..]), ("7-999", &TEXT[7..])] {
        assert_eq!(world.run(["get", ADDRESS, "--range", range]).code(0).get_output().stdout, bytes, "{range}");
        let done = world.run(["get", ADDRESS, "--range", range, "-o", "part", "--force", "--json"]).code(0);
        assert_eq!(document(&done)["size"], bytes.len());
        assert_eq!(world.read("part"), bytes);
    }
}

#[test]
fn get_of_a_range_goes_on_where_it_broke_off_and_ends_where_it_should() {
    let world = World::answering(|seen| content_until(seen, TEXT, seen.offset() + 4));
    world.run(["get", ADDRESS, "--range", "3-13", "-o", "file"]).code(0);
    assert_eq!(world.read("file"), &TEXT[3..14]);
    let ranges: Vec<String> = world.seen().iter().map(|seen| seen.range.expect("a range").to_string()).collect();
    assert_eq!(ranges, ["3-13", "7-13", "11-13"]);
}

#[test]
fn get_of_what_is_no_range_or_behind_the_end_ends_with_2() {
    let world = World::answering(|_| problem(416, "out_of_range"));
    for range in ["5", "9-5", "a-b", ""] {
        let done = world.run(["get", ADDRESS, "--json", "--range", range]).code(2);
        assert!(error(&done)["message"].as_str().expect("text").contains("FIRST-LAST"), "{}", stderr(&done));
    }
    assert!(world.seen().is_empty());
    let done = world.run(["get", ADDRESS, "--json", "--range", "99-", "-o", "file"]).code(2);
    assert_eq!(error(&done)["code"], "out_of_range");
    assert!(world.names().is_empty());
}

#[test]
fn get_reports_why_the_rest_is_missing_and_leaves_no_file() {
    for (status, code, exit) in [(504, "timed_out", 8), (404, "not_found", 3), (502, "integrity", 9)] {
        let world = World::answering(move |seen| match seen.offset() {
            0 => content_until(seen, TEXT, 7),
            _ => problem(status, code),
        });
        let done = world.run(["get", ADDRESS, "-o", "file", "--json"]).code(exit);
        assert_eq!(error(&done)["code"], code);
        assert!(world.names().is_empty());
    }
}

#[test]
fn get_ends_when_asking_again_brings_nothing() {
    let world = World::answering(|seen| content_until(seen, TEXT, 7));
    let done = world.run(["get", ADDRESS, "-o", "file", "--json"]).code(1);
    assert_eq!(error(&done)["code"], "other");
    assert_eq!(world.seen().len(), 2);
    assert!(world.names().is_empty());
}

#[test]
fn get_never_glues_bytes_of_the_wrong_place() {
    let asked = AtomicUsize::new(0);
    let world = World::answering(move |seen| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => content_until(seen, TEXT, 7),
        _ => content(&Seen { range: None, ..seen.clone() }, TEXT),
    });
    world.run(["get", ADDRESS, "-o", "file"]).code(1);
    assert!(world.names().is_empty());
}

#[test]
fn an_interrupted_get_ends_with_130_and_leaves_no_file() {
    for (json, stderr) in [(None, ""), (Some("--json"), "interrupted")] {
        let world = World::answering(|_| content_that_stalls(b"first", 20));
        let child = world.spawn(["get", ADDRESS, "-o", "file"].into_iter().chain(json));
        world.wait_for(&format!("GET /v1/content/{ADDRESS}"));
        assert!(world.names()[0].ends_with(".part"), "{:?}", world.names());
        kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(130));
        assert!(String::from_utf8_lossy(&output.stderr).contains(stderr));
        assert_eq!(output.stderr.is_empty(), stderr.is_empty());
        assert!(world.names().is_empty(), "{:?}", world.names());
    }
}

#[test]
fn an_interrupted_put_does_not_wait_for_its_input() {
    for (signal, exit) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let world = World::answering(stores);
        let mut command = world.command();
        let mut child = command.args(["put", "-"]).stdin(Stdio::piped()).spawn().expect("the binary starts");
        world.wait_for("POST /v1/content");
        kill_process(Pid::from_child(&child), signal).expect("it runs");
        let _stdin_stays_open = child.stdin.take();
        assert_eq!(child.wait().expect("it ends").code(), Some(exit));
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let bytes = vec![7; 8 << 20];
    let world = World::answering(move |seen| content(seen, &bytes));
    let mut child = world.spawn(["get", ADDRESS]);
    let mut first = [0; 10];
    child.stdout.take().expect("a pipe").read_exact(&mut first).expect("bytes");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_result_that_nobody_reads_is_no_failure() {
    let world = World::answering(stores);
    world.write("file", TEXT);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = world.command().args(["--json", "put", "file"]).stdout(writer).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_full_disk_is_told_apart() {
    let world = World::answering(serves);
    let full = || std::fs::File::options().write(true).open("/dev/full").expect("Linux");
    for args in [["get", ADDRESS], ["stat", ADDRESS]] {
        let answers = World::answering(|seen| if seen.line.ends_with("stat") { held() } else { serves(seen) });
        let output = answers.command().args(args).stdout(full()).output().expect("it runs");
        assert_eq!(output.status.code(), Some(10), "{}", String::from_utf8_lossy(&output.stderr));
    }
    world.run(["get", ADDRESS, "-o", "/dev/full"]).code(10);
}

fn held() -> Response {
    answer(
        200,
        &json!({"address": ADDRESS, "cid": "bafkr4i", "size": 1_572_864, "objects": 3, "replicas": 3, "copies_min": 2,
            "holders": ["12D3KooWA", "12D3KooWB"], "silent": ["12D3KooWC"]}),
    )
}

#[test]
fn stat_lists_what_is_known_about_content() {
    let world = World::answering(|_| held());
    let done = world.run(["stat", ADDRESS]).code(0);
    let text = [
        format!("address  {ADDRESS}"),
        "cid      bafkr4i".to_owned(),
        "size     1572864 bytes (1.50 MiB)".to_owned(),
        "objects  3".to_owned(),
        "copies   2/3".to_owned(),
        "holders  12D3KooWA".to_owned(),
        "         12D3KooWB".to_owned(),
        "silent   12D3KooWC\n".to_owned(),
    ];
    assert_eq!(stdout(&done), text.join("\n"));
    let done = world.run(["stat", "--json", ADDRESS]).code(0);
    assert_eq!(document(&done)["holders"], json!(["12D3KooWA", "12D3KooWB"]));
}

/// A node with such values at every key, and content.
fn named(values: &'static [&'static str]) -> World {
    World::answering(move |seen| {
        let siblings: Vec<_> =
            values.iter().map(|value| json!({"value": value, "encoding": "utf-8", "dot": "d"})).collect();
        match seen.line.as_str() {
            line if line.starts_with("GET /v1/kv/") && values.is_empty() => problem(404, "not_found"),
            line if line.starts_with("GET /v1/kv/") => {
                answer(200, &json!({"key": "name/notes", "token": "aa", "siblings": siblings}))
            }
            line if line.ends_with("/stat") => held(),
            _ => serves(seen),
        }
    })
}

#[test]
fn content_goes_by_its_name() {
    let world = named(&[ADDRESS]);
    assert_eq!(world.run(["get", "name/notes"]).code(0).get_output().stdout, TEXT);
    let done = world.run(["get", "name/my notes", "-o", "file", "--json"]).code(0);
    assert_eq!(document(&done), json!({"address": ADDRESS, "size": 20, "path": "file"}));
    assert_eq!(document(&world.run(["stat", "name/notes", "--json"]).code(0))["address"], ADDRESS);
    let content = format!("GET /v1/content/{ADDRESS}");
    let stat = format!("{content}/stat");
    let [notes, my_notes] = ["GET /v1/kv/name%2Fnotes", "GET /v1/kv/name%2Fmy%20notes"];
    assert_eq!(world.lines(), [notes, &content, my_notes, &content, notes, &stat]);
}

#[test]
fn a_name_that_leads_nowhere_or_to_several_contents_leads_to_none() {
    const OTHER: &str = "0f1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    for (values, code, exit, said) in [
        (&[][..], "not_found", 3, &["no such name", "name/notes"][..]),
        (&[ADDRESS, OTHER], "conflict", 4, &[ADDRESS, OTHER]),
        (&["text"], "integrity", 9, &["name/notes"]),
    ] {
        let world = named(values);
        for args in [&["get", "name/notes", "-o", "file"][..], &["stat", "name/notes"]] {
            let done = world.run(args.iter().copied().chain(["--json"])).code(exit);
            assert_eq!((stdout(&done).as_str(), &error(&done)["code"]), ("", &json!(code)));
            let message = error(&done)["message"].to_string();
            assert!(said.iter().all(|part| message.contains(part)), "{message}");
        }
        assert_eq!(world.names(), [""; 0]);
        assert!(world.lines().iter().all(|line| line == "GET /v1/kv/name%2Fnotes"), "{:?}", world.lines());
    }
}
