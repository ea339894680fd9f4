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

#[test]
fn after_the_first_lie_of_a_message_no_other_is_looked_at() {
    let forged = |n: u8| Arc::new(Fact::Said(Record::sign(claims(n), &StandIn::of(4))));
    let lies: Vec<Arc<Fact>> = (10..20).map(forged).collect();
    let all = Box::new([u64::MAX; BUCKETS / 64]);
    for message in [Message::News(lies.clone()), Message::Known(lies.clone()), Message::Buckets(all, lies)] {
        let mut node = Node::among(4);
        node.hear(4, message);
        assert_eq!((node.machine.counters().forged, node.machine.members().live()), (1, 4));
    }
}

#[test]
fn who_says_ever_more_of_itself_is_told_of_once() {
    let mut node = Node::among(4);
    // What it has to tell of those whom it has met is told.
    node.now += Duration::from_millis(100);
    node.handle(Input::Wake);
    node.now += Duration::from_millis(100);
    let said = |incarnation| {
        let version = Version { generation: 2, incarnation };
        Arc::new(Fact::Said(record(Claims { version, ..claims(2) })))
    };
    let effects = node.hear(2, Message::News((0..100).map(said).collect()));
    let told: Vec<usize> = effects
        .iter()
        .filter_map(|effect| if let Effect::Send(_, Message::News(facts)) = effect { Some(facts.len()) } else { None })
        .collect();
    assert_eq!(told, [1, 1], "3 and 4, the last record each");
}
