//! Peers that answer what was not asked.

use super::super::anti_entropy::{Body, LOOKED_AT_ONCE, Reply, Request, Said};
use super::*;
use crate::reconcile::{Divided, Range};

const PEER: Name = Name([9; 32]);

/// A node that compares all with a peer whose every answer is made up.
struct Asker {
    node: Node,
    asking: AntiEntropy,
    now: Time,
    /// What it wants to know.
    asked: Option<Request>,
}

impl Asker {
    /// It asks key by key, because something differs.
    fn asking(node: Node) -> Self {
        let (asking, now) = (AntiEntropy::new(1), Time(9_000_000_000));
        let mut asker = Self { node, asking, now, asked: None };
        asker.asking.up(PEER);
        asker.asking.told(&asker.node.replica, PEER, Digest { vector: [1; 16], rows: [1; 16] }, now);
        let asking = &mut asker.asking;
        asker.asked = asker.node.tx(|replica, disk| asking.wake(replica, disk, now)).map(|(_, request)| request);
        asker
    }

    fn body(&self) -> Option<&Body> {
        self.asked.as_ref().map(|request| &request.body)
    }

    /// Answers what was asked last; whether it goes on with that.
    fn answer(&mut self, said: Said) -> bool {
        let Request { to, number, .. } = *self.asked.as_ref().expect("something is asked");
        let (asking, now) = (&mut self.asking, self.now);
        let reply = Reply { to, number, said };
        self.asked =
            self.node.tx(|replica, disk| asking.reply(replica, disk, PEER, reply, now)).map(|(_, asked)| asked);
        self.asked.is_some()
    }

    /// Begins with something that differs everywhere, and says what is asked then.
    fn looking(&mut self, vector: Vector) -> (Vec<Divided>, Vec<Wanted>) {
        let parts = Range::ALL.parts().expect("parts");
        let divided = parts.map(|range| Divided { range, parts: [[7; 16]; 4] }).to_vec();
        assert!(self.answer(Said::Opened(Opened { by: actor(9), vector, divided })));
        match self.body() {
            Some(Body::Look { divided, wanted, .. }) => (divided.clone(), wanted.clone()),
            other => panic!("{other:?}"),
        }
    }
}

fn rows(range: Range, keys: &[&'static str]) -> Rows {
    Rows { range, rows: keys.iter().map(|key| (named(key), Entry::default())).collect(), rest: None }
}

#[test]
fn rows_of_ranges_that_were_not_asked_for_or_of_others_are_not_taken() {
    let [node] = nodes();
    let mut asker = Asker::asking(node);
    let (_, wanted) = asker.looking(Vector::default());
    let asked = wanted[0].range;
    let (key, place) = (named("color"), Place::of(&key()).0);
    let within = wanted.iter().map(|wanted| wanted.range).find(|range| range.places().contains(&place)).expect("some");
    let without = wanted.iter().map(|wanted| wanted.range).find(|range| *range != within).expect("more than one");
    let rest = |rows: Rows, after: Option<Key>| Rows { rest: Some(Wanted { range: rows.range, after }), ..rows };
    let others = |range: Range| wanted.iter().map(|wanted| wanted.range).filter(move |other| *other != range);
    for (told, is_answer) in [
        (rows(within, &["color"]), true),
        (rows(within, &[]), true),
        (rest(rows(within, &["color"]), Some(key.clone())), true),
        (rows(without, &["color"]), false),
        (rows(Range::ALL, &[]), false),
        (rows(asked.parts().expect("parts")[0], &[]), false),
        (rows(within, &["color", "color"]), false),
        // This would never come to an end.
        (rest(rows(within, &["color"]), None), false),
        (rest(rows(within, &[]), None), false),
    ] {
        let with_others = || others(told.range).map(|range| rows(range, &[])).chain([told.clone()]).collect();
        let looked = Looked { divided: Vec::new(), rows: with_others() };
        assert_eq!(looked.answers(&[], &wanted), is_answer, "{told:?}");
        if !is_answer {
            let [node] = nodes();
            let mut asker = Asker::asking(node);
            asker.looking(Vector::default());
            assert!(!asker.answer(Said::Looked(looked, None)), "{told:?}");
            assert!(asker.node.replica.session.is_none(), "given up");
        }
    }
    let nothing = Looked { divided: Vec::new(), rows: others(within).map(|range| rows(range, &[])).collect() };
    assert!(!nothing.answers(&[], &wanted), "of one that was wanted nothing is said");
    // The same again, as if it was the rest.
    let again = [Wanted { range: within, after: Some(key.clone()) }];
    let looked = Looked { divided: Vec::new(), rows: vec![rows(within, &["color"])] };
    assert!(!looked.answers(&[], &again));
    let looked = Looked { divided: vec![Divided { range: Range::ALL, parts: [[7; 16]; 4] }], rows: Vec::new() };
    assert!(!looked.answers(&[], &wanted), "what is divided again and again");
}

#[test]
fn an_end_that_has_forgotten_its_beginning_is_none() {
    let [mut node] = nodes();
    let first = node.put(&key(), "first");
    let mut asker = Asker::asking(node);
    let opened: Vector = [first.op.dot, Dot { actor: actor(9), counter: 1 }].into_iter().collect();
    let (_, wanted) = asker.looking(opened);
    let rows = wanted.iter().map(|wanted| rows(wanted.range, &[])).collect();
    assert!(asker.answer(Said::Looked(Looked { divided: Vec::new(), rows }, None)));
    assert!(matches!(asker.body(), Some(Body::Close(_))));
    let vector = [first.op.dot].into_iter().collect();
    assert!(!asker.answer(Said::Closed(Closed { vector, changed: Vec::new() })));
    assert_eq!(asker.node.values(&key()), ["first"], "nothing was taken in");
}

#[test]
fn nobody_is_believed_to_have_seen_what_was_not_asked_for() {
    let [mut node] = nodes();
    let mine = node.put(&key(), "mine");
    // Of so many that not all is told at once.
    for n in 10..100 {
        let (dot, mut bytes) = (Dot { actor: actor(n), counter: 1 }, BytesMut::new());
        let op = Op { dot, key: key(), value: None, replaces: Dots::default() };
        op.encode(&mut bytes);
        node.apply(&Written { op, bytes: bytes.freeze(), token: mine.token.clone(), siblings: 1 });
    }
    let mut asker = Asker::asking(node);
    let Some(Body::Keys(asked)) = asker.body() else { panic!("{:?}", asker.body()) };
    assert!(asked.buckets.is_empty(), "of no bucket it is known yet that it differs");
    let other = Dot { actor: actor(9), counter: 1 };
    let told = Told { key: named("other"), entry: Entry::default(), dots: [other].into_iter().collect() };
    asker.answer(Said::Keys { keys: vec![told], part: [mine.op.dot, other].into_iter().collect() });
    assert!(!asker.node.replica.vector().contains(&other));
}

#[test]
fn whoever_says_over_and_over_that_more_differs_is_not_asked_any_more() {
    let [node] = nodes();
    let mut asker = Asker::asking(node);
    let asked = (0..100).take_while(|bucket| asker.answer(Said::Differs([*bucket].into()))).count();
    assert!(asked < 10, "{asked} times");
}

#[test]
fn what_a_peer_holds_without_having_seen_it_is_not_taken_in() {
    let [mut node, mut author] = nodes();
    let first = author.put(&key(), "first");
    let second = author.write(&key(), Some("second"), &Write::Beside).expect("no limit").expect("something to do");
    let sibling = |written: &Written| Sibling {
        dot: written.op.dot,
        value: written.op.value.clone().expect("a put"),
        replaces: written.op.replaces.clone(),
    };
    let entry = Entry::from_parts(vec![sibling(&first), sibling(&second)], Dots::default());
    let dots = [first.op.dot].into_iter().collect();
    let told = Told { key: key(), entry, dots };
    let part: Vector = [first.op.dot].into_iter().collect();
    node.tx(|replica, disk| replica.merge(disk, &[told], &part));
    assert_eq!(node.values(&key()), ["first"]);
    node.apply(&second);
    node.is_whole(&[first.op, second.op]);
}

#[test]
fn whoever_begins_with_more_ranges_than_anybody_is_not_listened_to() {
    for (count, is_listened_to) in [(LOOKED_AT_ONCE, true), (LOOKED_AT_ONCE + 1, false)] {
        let [node] = nodes();
        let mut asker = Asker::asking(node);
        let divided = vec![Divided { range: Range::ALL, parts: [[7; 16]; 4] }; count];
        let opened = Opened { by: actor(9), vector: Vector::default(), divided };
        assert_eq!(asker.answer(Said::Opened(opened)), is_listened_to, "{count}");
    }
}

#[test]
fn a_range_is_answered_once() {
    let divided = [Divided { range: Range::ALL, parts: [[7; 16]; 4] }];
    let part = Range::ALL.parts().expect("parts")[0];
    let divide = || Divided { range: part, parts: [[7; 16]; 4] };
    assert!(Looked { divided: vec![divide()], rows: Vec::new() }.answers(&divided, &[]));
    assert!(!Looked { divided: vec![divide(), divide()], rows: Vec::new() }.answers(&divided, &[]));
    assert!(!Looked { divided: Vec::new(), rows: vec![rows(part, &[]), rows(part, &[])] }.answers(&divided, &[]));
}

#[test]
fn what_would_drop_much_key_by_key_is_compared_and_confirmed_like_all_else() {
    const KEYS: u64 = 2_000;
    let [mut node] = nodes();
    let keys: Vec<Key> = (0..KEYS).map(|n| Key::new(format!("key {n}")).expect("a key")).collect();
    keys.iter().for_each(|key| drop(node.put(key, "value")));
    let mut asker = Asker::asking(node);
    let gone = |n: u64, key: &Key| {
        let dot = Dot { actor: actor(9), counter: n + 1 };
        Told { key: key.clone(), entry: Entry::default(), dots: [dot].into_iter().collect() }
    };
    let mut told = (0..).zip(&keys).map(|(n, key)| gone(n, key));
    // More than is told at once, so that the rest is asked for.
    let part = |asker: &Asker| {
        let mut part = asker.node.replica.vector().clone();
        part.join(&Vector::of(Seen::new(KEYS, &[]).map(|seen| (actor(9), seen))));
        part
    };
    let mut seen = 0;
    loop {
        let keys: Vec<Told> = told.by_ref().take(400).collect();
        seen += keys.len() as u64;
        let part = part(&asker);
        assert!(asker.answer(Said::Keys { keys, part }));
        match asker.body() {
            Some(Body::Keys(_)) => assert!(seen <= DROPPED_MAX, "{seen} keys are gone"),
            body => break assert_eq!(body, Some(&Body::Open)),
        }
    }
    assert_eq!(asker.node.replica.len(), KEYS - seen + 400);
}
