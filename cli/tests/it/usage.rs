//! The command line itself: what cannot be read, and what help says.

use crate::fake::{ADDRESS, World, error, stderr, stdout};

#[test]
fn a_command_line_that_cannot_be_read_ends_with_2_and_a_document_with_json() {
    let world = World::without_node();
    for args in [
        &[][..],
        &["nonsense"],
        &["put"],
        &["put", "file", "--replicas", "0"],
        &["put", "file", "--acks", "many"],
        &["get", ADDRESS, "--nonsense"],
        &["status", "--timeout", "30"],
        &["status", "--timeout", "0s"],
        &["wait", "--members", "0"],
        &["log-level"],
        &["log-level", "info", "--for", "0s"],
        &["put", "file", "--name", ""],
        &["get", "name/"],
        &["kv", "put", "color"],
        &["kv", "put", "", "blue"],
        &["kv", "put", "color", "blue", "--acks", "0"],
        &["kv", "put", "color", "blue", "--create", "--force"],
        &["kv", "put", "color", "blue", "--token", ""],
        &["kv", "put", "color", "blue", "--token", "two words"],
        &["kv", "del", "color", "--token", "aa", "--force"],
        &["kv", "ls", "--limit", "0"],
        &["backup"],
        &["backup", "folder/"],
    ] {
        world.run(args.iter().copied()).code(2).stdout("");
        let done = world.run(args.iter().copied().chain(["--json"])).code(2).stdout("");
        assert_eq!(error(&done)["code"], "usage");
        assert_eq!(error(&done)["exit"], 2);
        assert_ne!(error(&done)["message"], "");
        assert!(error(&done)["hint"].is_string());
    }
}

#[test]
fn complaints_about_the_command_line_are_short() {
    let world = World::without_node();
    let done = world.run(["put"]).code(2);
    let text = "error: the following required arguments were not provided: <FILE>\nhint: p2p-cli put <FILE>\n";
    assert_eq!(stderr(&done), text);
    let done = world.run(["sta", ADDRESS]).code(2);
    assert!(stderr(&done).contains("hint: some similar subcommands exist: "), "{}", stderr(&done));
}

#[test]
fn a_file_named_json_does_not_change_the_output() {
    let world = World::without_node();
    let done = world.run(["put", "--replicas", "0", "--", "--json"]).code(2);
    assert!(stderr(&done).starts_with("error: "), "{}", stderr(&done));
}

#[test]
fn a_malformed_address_is_refused_with_an_example() {
    let world = World::without_node();
    let (short, long) = (&ADDRESS[1..], format!("{ADDRESS}0"));
    let wrong = ADDRESS.replace('f', "g");
    let wide = format!("{}é", &ADDRESS[2..]);
    for address in ["", "hello", short, &long, &wrong, &wide, &format!("0x{short}")] {
        for command in ["get", "stat"] {
            let done = world.run([command, "--json", address]).code(2);
            assert!(error(&done)["message"].as_str().expect("text").contains(ADDRESS), "{}", stderr(&done));
        }
    }
}

#[test]
fn only_the_commands_that_work_exist() {
    let world = World::without_node();
    for command in ["ls", "rm", "pin"] {
        let done = world.run([command]).code(2);
        assert!(stderr(&done).contains("unrecognized subcommand"), "{}", stderr(&done));
    }
}

#[test]
fn every_help_has_an_example() {
    let world = World::without_node();
    for args in [
        &["--help"][..],
        &["put", "--help"],
        &["get", "--help"],
        &["stat", "--help"],
        &["status", "--help"],
        &["ticket", "--help"],
        &["join", "--help"],
        &["members", "--help"],
        &["tags", "--help"],
        &["leave", "--help"],
        &["log-level", "--help"],
        &["kv", "--help"],
        &["kv", "put", "--help"],
        &["kv", "get", "--help"],
        &["kv", "del", "--help"],
        &["kv", "ls", "--help"],
        &["kv", "watch", "--help"],
        &["backup", "--help"],
        &["wait", "--help"],
    ] {
        let done = world.run(args.iter().copied()).code(0);
        assert!(stdout(&done).contains("Example:\n  p2p-cli "), "{}", stdout(&done));
        assert_eq!(stderr(&done), "");
    }
    world.run(["--version"]).code(0);
}
