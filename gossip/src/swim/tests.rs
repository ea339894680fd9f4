//! What a single member can do to others by what it says: not much.

use std::sync::Arc;
use std::time::Duration;

use super::testing::{StandIn, claims, record};
use super::*;

/// A node that has met others, whose frames are made up here.
struct Node {
    machine: Machine<StandIn>,
    directory: Directory,
    now: Time,
}

const ME: u8 = 1;

impl Node {
    /// One that has met members 2 to `last`.
    fn among(last: u8) -> Self {
        let mut directory = Directory::default();
        let start = Start {
            me: directory.insert(Name([ME; 32])),
            generation: 1,
            instance: 7,
            description: Description::default(),
            remembered: Members::default(),
            contacts: Vec::new(),
            seed: 1,
        };
        let now = Time(1_000_000_000);
        let machine = Machine::new(Config::lan(), StandIn::of(ME), start, &directory, now);
        let mut node = Self { machine, directory, now };
        for n in ME + 1..=last {
            let member = node.directory.insert(Name([n; 32]));
            node.handle(Input::Opened { member, dialed: false });
            node.hear(n, Message::Meet(record(claims(n)), 0, Standing::Settled));
        }
        node
    }

    fn handle(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.machine.handle(&mut self.directory, input, self.now, &mut effects);
        effects
    }

    fn hear(&mut self, from: u8, message: Message) -> Vec<Effect> {
        let member = self.directory.find(&Name([from; 32])).expect("it was met");
        self.handle(Input::Frame(member, message))
    }

    fn state(&self, n: u8) -> Option<State> {
        self.machine.state(self.directory.find(&Name([n; 32]))?)
    }

    /// Hears from some that it is silent, again and again: each time of what it has said since.
    fn is_called_silent_by(&mut self, accusers: &[u8]) {
        for accuser in accusers.iter().cycle().take(6) {
            self.now += Duration::from_millis(250);
            self.handle(Input::Wake);
            let word = word(*accuser, self.machine.record(), Cause::LongSilent);
            self.hear(*accuser, Message::Accuse(word));
        }
    }
}

fn word(by: u8, of: &Record, cause: Cause) -> Arc<Accusation> {
    Accusation::sign(Name([by; 32]), of, cause, 4000, &StandIn::of(by))
}

#[test]
fn one_word_alone_puts_down_nobody_who_is_heard() {
    for cause in [Cause::LongSilent, Cause::LongUnmet] {
        let mut node = Node::among(4);
        let of = record(claims(2));
        let down = Fact::Down(Down::new(of.clone(), [word(4, &of, cause)]));
        node.hear(4, Message::News(vec![Arc::new(down)]));
        assert_eq!(node.state(2), Some(State::Alive), "{cause:?}");
    }
}

#[test]
fn one_member_alone_keeps_no_other_away() {
    let mut node = Node::among(4);
    node.is_called_silent_by(&[4]);
    assert!(node.machine.record().version().incarnation > 2, "it has denied that");
    assert!(!node.machine.is_put_out());
    node.is_called_silent_by(&[3, 4]);
    assert!(node.machine.is_put_out(), "as many as could put it down have said so");
}
