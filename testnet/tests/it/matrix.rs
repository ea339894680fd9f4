//! What nodes take each other for, asked of real ones.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Net, said};

/// Longest wait until all say what they should.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until it is so.
fn until(net: &Net, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let matrix = net.run("ps --matrix");
        if is_so(&matrix) {
            return matrix;
        }
        assert!(Instant::now() < deadline, "{matrix}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn everybody_is_asked_about_everybody() {
    let net = Net::new();
    net.refused("ps --matrix", 3);
    net.run("up -n 4 --detach");
    let view = json!({"0": "alive", "1": "alive", "2": "alive", "3": "alive"});
    let all = json!({"0": view, "1": view, "2": view, "3": view});
    let matrix = until(&net, |matrix| matrix["agreed"] == true);
    assert_eq!(matrix, json!({"nodes": [0, 1, 2, 3], "views": all, "agreed": true}));

    net.run("kill 3");
    let view = json!({"0": "alive", "1": "alive", "2": "alive", "3": "down"});
    // Who is down says nothing. On the way there it is suspect, in which all may agree too.
    let views = json!({"0": view, "1": view, "2": view});
    assert_eq!(until(&net, |matrix| matrix["views"] == views)["agreed"], true);

    net.run("partition 0");
    let cut = until(&net, |matrix| matrix["views"]["0"]["1"] != "alive" && matrix["views"]["1"]["0"] == "down");
    assert_eq!(cut["agreed"], false);
    let people = net.command("ps --matrix");
    let people = std::process::Command::new(people.get_program())
        .args(people.get_args().filter(|word| *word != "--json"))
        .output()
        .expect("p2p-testnet runs");
    let text = String::from_utf8_lossy(&people.stdout);
    assert!(people.status.success(), "{}", said(&people));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[4]), ("   0 1 2 3", "3  - - - -"), "{text}");
    assert!(lines[1].starts_with("0  A ") && lines[6].starts_with("not agreed: node 0 takes 1"), "{text}");
}
