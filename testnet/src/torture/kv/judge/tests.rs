//! Every breach planted by hand, beside what looks like one and is none.

use p2p_api::Code;

use super::super::history::{Equal, Fault};
use super::super::plan::Kind as Struck;
use super::*;

const KEY: &str = "k";

/// A history that is written down call by call, each a while after the one before.
struct Script {
    history: History,
    now: Micros,
    last: Vec<Sibling>,
}

fn script() -> Script {
    Script { history: History { nodes: 3, ..History::default() }, now: 0, last: Vec::new() }
}

fn siblings(values: &[&str]) -> Vec<Sibling> {
    values.iter().map(|value| Sibling { value: (*value).to_owned(), dot: format!("dot-of-{value}") }).collect()
}

fn read(values: &[&str]) -> Over {
    Over::Read(values.iter().map(|value| (*value).to_owned()).collect())
}

fn refused() -> Outcome {
    Outcome::Refused { code: Code::Conflict, why: "several values".to_owned() }
}

fn unknown() -> Outcome {
    Outcome::Unknown { code: Code::Unreachable, why: "broke off".to_owned() }
}

const OK: Outcome = Outcome::Ok { on: 1 };

impl Script {
    fn call(mut self, node: u32, what: What, outcome: Outcome) -> Self {
        let (began, ended) = (self.now + 10, self.now + 20);
        self.now = ended;
        self.history.calls.push(Call { client: 0, node, key: KEY.to_owned(), what, began, ended, outcome });
        self
    }

    fn put(self, node: u32, value: &str, over: Over, outcome: Outcome) -> Self {
        self.call(node, What::Put { value: value.to_owned(), over }, outcome)
    }

    fn delete(self, node: u32, over: Over, outcome: Outcome) -> Self {
        self.call(node, What::Delete { over }, outcome)
    }

    fn seen(self, node: u32, values: &[&str]) -> Self {
        self.call(node, What::Get, Outcome::Seen(siblings(values)))
    }

    fn struck(mut self, kind: Struck, node: u32) -> Self {
        let (began, ended) = (self.now + 10, self.now + 20);
        self.now = ended;
        self.history.faults.push(Fault { kind, node, others: Vec::new(), began, ended });
        self
    }

    fn equal(mut self) -> Self {
        let (began, ended) = (self.now + 10, self.now + 20);
        self.now = ended;
        self.history.equals.push(Equal { began, ended });
        self
    }

    fn last(mut self, values: &[&str]) -> Self {
        self.last = siblings(values);
        self
    }

    fn verdict(&self) -> Verdict {
        let last = if self.last.is_empty() { Last::new() } else { [(KEY.to_owned(), self.last.clone())].into() };
        judge(&self.history, &last)
    }

    fn holds(&self) {
        let verdict = self.verdict();
        assert!(verdict.breaches.is_empty() && verdict.excused.is_empty(), "{verdict:#?}");
    }

    fn breaks(&self, kind: Kind, value: &str) {
        let verdict = self.verdict();
        let found: Vec<(Kind, &str)> =
            verdict.breaches.iter().map(|breach| (breach.kind, breach.value.as_deref().unwrap_or_default())).collect();
        assert!(found.contains(&(kind, value)), "{verdict:#?}");
        assert!(verdict.breaches.iter().all(|breach| breach.key.as_deref() == Some(KEY)), "{verdict:#?}");
    }

    fn is_excused(&self, value: &str) {
        let verdict = self.verdict();
        assert!(verdict.breaches.is_empty(), "{verdict:#?}");
        assert_eq!(verdict.excused.iter().map(|excused| &excused.value[..]).collect::<Vec<_>>(), [value]);
    }
}

#[test]
fn a_history_as_it_should_be_is_fine() {
    script()
        .put(0, "a", Over::Held, OK)
        .seen(1, &[])
        .seen(0, &["a"])
        .put(1, "b", Over::Beside, OK)
        .seen(2, &["a", "b"])
        .put(2, "c", read(&["a", "b"]), OK)
        .put(1, "no", Over::Create, refused())
        .put(0, "maybe", Over::Held, unknown())
        .seen(1, &["c"])
        .struck(Struck::Kill, 1)
        .delete(1, read(&["c"]), OK)
        .seen(1, &["maybe"])
        .put(0, "d", Over::Beside, OK)
        .equal()
        .last(&["d", "maybe"])
        .holds();
}

#[test]
fn what_was_acknowledged_stands_until_something_can_have_taken_its_place() {
    let put = || script().put(0, "a", Over::Beside, OK);
    put().breaks(Kind::Lost, "a");
    put().put(1, "b", Over::Beside, OK).last(&["b"]).breaks(Kind::Lost, "a");
    put().put(1, "b", Over::Create, OK).last(&["b"]).breaks(Kind::Lost, "a");
    put().put(1, "b", read(&["c"]), OK).last(&["b"]).breaks(Kind::Lost, "a");
    put().put(1, "b", Over::Held, refused()).breaks(Kind::Lost, "a");
    script().put(1, "b", Over::Held, OK).put(0, "a", Over::Beside, OK).last(&["b"]).breaks(Kind::Lost, "a");
    // A kill excuses nothing.
    put().struck(Struck::Kill, 0).breaks(Kind::Lost, "a");

    put().put(1, "b", Over::Held, OK).last(&["b"]).holds();
    put().delete(1, Over::AllHeld, unknown()).holds();
    put().delete(1, read(&["a"]), OK).holds();
    // Whoever is answered never may be served at any time.
    script().put(1, "b", Over::Held, unknown()).put(0, "a", Over::Beside, OK).last(&["b"]).holds();
}

#[test]
fn what_was_seen_is_owed_though_its_own_call_broke_off() {
    let put = || script().put(0, "a", Over::Beside, unknown());
    put().holds();
    put().seen(1, &["a"]).breaks(Kind::Lost, "a");
}

#[test]
fn a_node_shows_what_it_knows() {
    let put = || script().put(0, "a", Over::Beside, OK);
    put().seen(0, &[]).last(&["a"]).breaks(Kind::Forgotten, "a");
    put().struck(Struck::Kill, 0).seen(0, &[]).last(&["a"]).breaks(Kind::Forgotten, "a");
    put().put(0, "b", Over::Create, OK).last(&["a", "b"]).breaks(Kind::Forgotten, "a");
    put().seen(1, &["a"]).seen(1, &[]).last(&["a"]).breaks(Kind::Forgotten, "a");
    put().equal().seen(2, &[]).last(&["a"]).breaks(Kind::Forgotten, "a");
    // What comes later takes the place of nothing before.
    put().seen(0, &[]).put(1, "b", Over::Held, OK).last(&["b"]).breaks(Kind::Forgotten, "a");

    put().seen(1, &[]).last(&["a"]).holds();
    put().equal().struck(Struck::Wipe, 2).seen(2, &[]).last(&["a"]).holds();
    put().put(1, "b", Over::Held, OK).seen(0, &[]).last(&["b"]).holds();
}

#[test]
fn what_was_taken_the_place_of_does_not_come_back() {
    let deleted = || script().put(0, "a", Over::Beside, OK).seen(1, &["a"]).delete(1, read(&["a"]), OK);
    deleted().last(&["a"]).breaks(Kind::Resurrected, "a");
    deleted().seen(1, &["a"]).breaks(Kind::Resurrected, "a");
    deleted().equal().seen(2, &["a"]).breaks(Kind::Resurrected, "a");
    deleted().struck(Struck::Kill, 1).seen(1, &["a"]).breaks(Kind::Resurrected, "a");
    let written = || script().put(0, "a", Over::Beside, OK).seen(0, &["a"]).put(0, "b", read(&["a"]), OK);
    written().last(&["a", "b"]).breaks(Kind::Resurrected, "a");
    let held = || script().put(0, "a", Over::Beside, OK).put(0, "b", Over::Held, OK);
    held().last(&["a", "b"]).breaks(Kind::Resurrected, "a");
    held().seen(0, &["a", "b"]).last(&["b"]).breaks(Kind::Resurrected, "a");
    // Gone from a node and back, whoever took its place.
    let gone = || script().put(0, "a", Over::Beside, OK).delete(1, Over::Held, unknown()).seen(0, &[]);
    gone().seen(0, &["a"]).breaks(Kind::Resurrected, "a");
    gone().last(&["a"]).breaks(Kind::Resurrected, "a");

    // It has not come round.
    deleted().seen(2, &["a"]).holds();
    // A node that was set back is behind until it has compared.
    deleted().equal().struck(Struck::Restore, 2).seen(2, &["a"]).seen(2, &[]).holds();
    // What another node held is not what this one holds.
    script().put(0, "a", Over::Beside, OK).put(1, "b", Over::Held, OK).last(&["a", "b"]).holds();
}

#[test]
fn nothing_is_there_that_nobody_has_put() {
    script().seen(0, &["a"]).breaks(Kind::NeverWritten, "a");
    script().last(&["a"]).breaks(Kind::NeverWritten, "a");
    script().seen(0, &["a"]).put(0, "a", Over::Beside, OK).last(&["a"]).breaks(Kind::NeverWritten, "a");
    script().put(0, "a", Over::Held, refused()).last(&["a"]).breaks(Kind::OfRefused, "a");
    script().put(0, "a", Over::Held, refused()).seen(1, &["a"]).breaks(Kind::OfRefused, "a");
}

#[test]
fn a_dot_names_one_value_and_a_value_has_one_dot() {
    let two = || script().put(0, "a", Over::Beside, OK).put(1, "b", Over::Beside, OK).seen(0, &["a", "b"]);
    two().last(&["a", "b"]).holds();
    let mut reused = two().last(&["a", "b"]);
    reused.last[1].dot = reused.last[0].dot.clone();
    reused.breaks(Kind::DotReused, "b");
    let mut moved = two().last(&["a", "b"]);
    moved.last[1].dot = "another".to_owned();
    moved.breaks(Kind::TwoDots, "b");
}

#[test]
fn only_what_nobody_else_surely_held_may_be_lost_by_a_node_that_is_set_back() {
    let put = |on| script().put(0, "a", Over::Beside, Outcome::Ok { on });
    for kind in Struck::ALL.into_iter().filter(|kind| kind.is_reset()) {
        put(1).struck(kind, 0).is_excused("a");
        put(1).struck(kind, 1).breaks(Kind::Lost, "a");
        put(1).seen(1, &["a"]).struck(kind, 0).breaks(Kind::Lost, "a");
        put(1).equal().struck(kind, 0).breaks(Kind::Lost, "a");
        put(2).struck(kind, 0).breaks(Kind::Lost, "a");
        put(2).struck(kind, 0).struck(kind, 1).is_excused("a");
        put(1).seen(1, &["a"]).struck(kind, 0).struck(kind, 1).is_excused("a");
        put(1).seen(1, &["a"]).struck(kind, 0).equal().struck(kind, 1).breaks(Kind::Lost, "a");
        // It was lost before all were equal.
        put(1).struck(kind, 0).equal().seen(0, &[]).is_excused("a");
        script()
            .put(0, "a", Over::Beside, OK)
            .seen(1, &["a"])
            .delete(1, read(&["a"]), OK)
            .struck(kind, 1)
            .last(&["a"])
            .is_excused("a");
        // The node itself owes what it acknowledges after.
        script().struck(kind, 0).put(0, "a", Over::Beside, OK).seen(0, &[]).last(&["a"]).breaks(Kind::Forgotten, "a");
    }
}

#[test]
fn a_refusal_that_nothing_explains_is_a_breach() {
    let outcome = |code| Outcome::Refused { code, why: String::new() };
    script().put(0, "a", Over::Held, outcome(Code::Usage)).breaks(Kind::Strange, "a");
    script().put(0, "a", Over::Held, outcome(Code::Corrupt)).breaks(Kind::Strange, "a");
    script().put(0, "a", Over::Held, outcome(Code::NotReady)).holds();
}

#[test]
fn a_large_history_is_judged_quickly() {
    let mut script = script();
    for n in 0..1_000_u32 {
        let value = format!("v{n}");
        let over = if n % 2 == 0 { Over::Held } else { Over::Beside };
        script = script.put(n % 3, &value, over, OK).seen(n % 3, &[]);
        if n % 100 == 0 {
            script = script.equal();
        }
    }
    let began = std::time::Instant::now();
    script.verdict();
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
}
