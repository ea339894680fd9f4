//! Simpler rules fail as these tests tell; the numbers are those of the counter-examples that a model check has found.

use super::*;

/// Two writes of one key, of which the second replaces the first.
fn two_writes(by: &mut Node) -> [Written; 2] {
    [by.put(&key(), "first"), by.put(&key(), "second")]
}

#[test]
fn one_adopting_only_what_was_asked_for() {
    let [mut a, mut b, mut c] = nodes();
    let [first, second] = two_writes(&mut a);
    c.apply(&second);
    let asked = b.replica.ask((0..=u8::MAX).collect());
    // Newer than the question, and of the same key.
    c.apply(&first);
    let answer = c.tx(|replica, disk| replica.answer(disk, &asked, Budget { keys: 1, bytes: 1 }));
    b.merge(&answer);
    assert_eq!([b.apply(&first), b.apply(&second)], [Applied::Known; 2], "told together");
    assert_eq!(b.values(&key()), ["second"]);
}

#[test]
fn two_what_is_held_and_unseen_is_replaced_as_unseen() {
    let [mut a, mut b] = nodes();
    let [first, second] = two_writes(&mut a);
    b.apply(&second);
    let third = b.put(&key(), "third");
    assert!(third.op.replaces.contains(&second.op.dot));
    a.apply(&third);
    b.apply(&first);
    assert_eq!((a.values(&key()), b.values(&key())), (vec!["third".into()], vec!["third".into()]));
}

#[test]
fn three_a_node_takes_its_own_token() {
    let [mut a, mut b] = nodes();
    let [_, second] = two_writes(&mut a);
    b.apply(&second);
    let token = b.read(&key());
    b.write(&key(), Some("third"), &Write::Read(token)).expect("its own").expect("something to do");
}

#[test]
fn four_what_has_left_the_log_cannot_be_told_write_by_write() {
    let [mut a, mut b] = nodes();
    let [first, _] = two_writes(&mut a);
    assert_eq!(a.tx(|replica, disk| replica.trim_log(disk, 1, 9)), 1);
    assert_eq!(b.asked(&mut a, 9), Answer::TooOld);
    b.apply(&first);
    assert!(b.ask(&mut a, 9), "of what is missing all is in the log");
    assert_eq!(b.values(&key()), ["second"]);
}

/// What is gone from a node's log, so that another has to compare all.
fn both_deleted(a: &mut Node, b: &mut Node) -> [Written; 2] {
    let first = b.put(&key(), "first");
    let gone = b.write(&key(), None, &Write::Held { force: false }).expect("no conflict").expect("it is there");
    b.drop_log();
    assert!(!a.ask(b, 9));
    [first, gone]
}

#[test]
fn five_what_comes_to_the_asker_during_a_comparison() {
    let [mut a, mut b] = nodes();
    let [first, _] = both_deleted(&mut a, &mut b);
    let done = a.compare(&mut b, |a, _| {
        if a.replica.session.is_some() {
            assert_eq!(a.apply(&first), Applied::Later);
        }
    });
    assert_eq!(done, Some(Adopted::Done));
    assert_eq!((a.values(&key()).len(), a.apply(&first)), (0, Applied::Known));
}

#[test]
fn five_what_another_answers_during_a_comparison() {
    let [mut a, mut b, mut c] = nodes();
    let [first, _] = both_deleted(&mut a, &mut b);
    c.apply(&first);
    let done = a.compare(&mut b, |a, _| assert!(a.replica.session.is_none() || !a.ask_once(&mut c)));
    assert_eq!(done, Some(Adopted::Done));
    assert_eq!(a.values(&key()).len(), 0);
    a.ask(&mut c, 9);
    assert_eq!((a.values(&key()).len(), a.apply(&first)), (0, Applied::Known));
}

#[test]
fn six_what_changes_at_the_other_during_a_comparison() {
    let [mut a, mut b, mut c] = nodes();
    let first = c.put(&key(), "first");
    let gone = c.write(&key(), None, &Write::Held { force: false }).expect("no conflict").expect("it is there");
    // The delete is known here, and what it deletes is not; something that has left the log makes all be compared.
    let other = b.put(&named("other"), "value");
    b.apply(&gone);
    let dropped = b.tx(|replica, disk| replica.trim_log(disk, 1, 1));
    assert_eq!(dropped, 1);
    a.apply(&first);
    assert!(!a.ask(&mut b, 9));
    assert_eq!(a.compare(&mut b, |_, b| assert_ne!(b.apply(&first), Applied::Later)), Some(Adopted::Done));
    assert_eq!(a.values(&key()).len(), 0);
    a.is_whole(&[first.op, gone.op, other.op]);
}

#[test]
fn six_what_the_other_writes_when_it_was_looked_at_is_told_at_the_end() {
    let [mut a, mut b] = nodes();
    let mut ops = vec![b.put(&key(), "first").op];
    b.drop_log();
    let done = a.compare(&mut b, |_, b| {
        for name in ["color", "another"] {
            ops.push(b.put(&named(name), "later").op);
        }
    });
    assert_eq!(done, Some(Adopted::Done));
    a.is_whole(&ops);
    // All but what was written after the end was told.
    let missing: u64 =
        b.replica.vector().missing_in(a.replica.vector()).map(|(_, run)| run.end() - run.start() + 1).sum();
    assert_eq!(missing, 2);
    assert_eq!(a.values(&named("another")), ["later"]);
}

#[test]
fn seven_what_was_compared_is_taken_in_at_the_end_or_not_at_all() {
    let [mut a, mut b] = nodes();
    let first = b.put(&key(), "first");
    b.drop_log();
    let before = a.disk.clone();
    let done = a.compare(&mut b, |a, b| {
        let Ok(rows) = a.disk.rows(Place::ALL, None, 9);
        assert_eq!(rows, []);
        // Another life of the other answers nothing that was asked before.
        let disk = b.disk.clone();
        b.restart_with(disk);
    });
    assert_eq!(done, None);
    a.restart_with(before);
    assert_eq!(a.values(&key()).len(), 0);
    assert_eq!(a.apply(&first), Applied::New);
    a.is_whole(&[first.op]);
}

#[test]
fn eight_a_delete_whose_write_is_still_to_come_is_compared() {
    let [mut a, mut b, mut c] = nodes();
    let first = c.put(&key(), "first");
    let gone = c.write(&key(), None, &Write::Held { force: false }).expect("no conflict").expect("it is there");
    b.apply(&gone);
    b.drop_log();
    assert_eq!(a.compare(&mut b, |_, _| {}), Some(Adopted::Done));
    a.apply(&first);
    assert_eq!(a.values(&key()).len(), 0);
    a.is_whole(&[first.op, gone.op]);
}

#[test]
fn nine_an_answer_to_another_life() {
    let [mut a, mut b] = nodes();
    let first = b.put(&key(), "first");
    let before = a.disk.clone();
    a.apply(&first);
    b.write(&key(), None, &Write::Held { force: false }).expect("no conflict").expect("it is there");
    let mut asking = AntiEntropy::new(1);
    let now = Time(1_000_000_000);
    let wake = |asking: &mut AntiEntropy, a: &mut Node, b: &Node| {
        asking.up(b.peer);
        asking.told(&a.replica, b.peer, b.replica.digest(), now);
        a.tx(|replica, disk| asking.wake(replica, disk, now)).expect("they differ").1
    };
    let request = wake(&mut asking, &mut a, &b);
    a.restart_with(before);
    let mut asking = AntiEntropy::new(1);
    let again = wake(&mut asking, &mut a, &b);
    assert_eq!(request.number, again.number, "it counts anew");
    let answer = b.tx(|replica, disk| anti_entropy::answer(replica, disk, &request));
    a.tx(|replica, disk| asking.reply(replica, disk, b.peer, answer, now));
    assert!(!a.replica.vector().covers(b.replica.vector()));
    let answer = b.tx(|replica, disk| anti_entropy::answer(replica, disk, &again));
    a.tx(|replica, disk| asking.reply(replica, disk, b.peer, answer, now));
    assert!(a.replica.vector().covers(b.replica.vector()));
}

#[test]
fn ten_a_lost_row_is_no_deleted_row() {
    let [mut a, mut b] = nodes();
    let first = b.put(&key(), "first");
    a.apply(&first);
    b.lose(&key());
    let asked = Node::start(7).replica.ask((0..=u8::MAX).collect());
    let leaf = Place::of(&key()).leaf();
    let answer = b.replica.answer(&mut b.disk, &asked, Budget { keys: 9, bytes: 9 });
    assert_eq!(answer, Err(Trouble::Damage(Damage::Leaf(leaf))));
    assert_eq!(b.replica.get(&mut b.disk, &key()), Err(Trouble::Damage(Damage::Leaf(leaf))));
    b.recover();
    assert!(b.ask(&mut a, 9) && a.ask(&mut b, 9));
    assert_eq!((a.values(&key()).len(), b.values(&key()).len()), (1, 1));
}

#[test]
fn eleven_what_only_a_recovered_store_has_is_asked_for_and_what_it_has_forgotten_it_asks_for() {
    let [mut a, mut b] = nodes();
    let sole = a.put(&named("sole"), "copy");
    let kept = a.put(&named("kept"), "value");
    let gone = a.write(&named("kept"), None, &Write::Held { force: false }).expect("no conflict").expect("it is there");
    b.apply(&kept);
    a.put(&named("lost"), "value");
    a.lose(&named("lost"));
    a.recover();
    assert!(b.ask(&mut a, 9) && a.ask(&mut b, 9));
    for node in [&mut a, &mut b] {
        assert_eq!((node.values(&named("sole")).len(), node.values(&named("kept")).len()), (1, 0));
        // Its row is gone, and the log has it still.
        assert_eq!(node.values(&named("lost")).len(), 1);
        node.is_whole(&[sole.op.clone(), kept.op.clone(), gone.op.clone()]);
    }
    let trim = |replica: &mut Replica, disk: &mut Memory| {
        let end = disk.log_end()?;
        replica.trim_log(disk, 0, end)
    };
    assert_eq!(a.tx(trim), 0, "it drops nothing until it was compared");
    assert_eq!(a.compare(&mut b, |_, _| {}), Some(Adopted::Done));
    assert!(a.tx(trim) > 0, "it was compared");
}

#[test]
fn thirteen_a_copied_home_gives_no_name_away_twice() {
    let [mut a, mut b] = nodes();
    let copy = a.disk.clone();
    a.restart_with(copy.clone());
    let first = a.put(&key(), "first");
    a.restart_with(copy);
    let second = a.put(&key(), "second");
    assert_ne!(first.op.dot, second.op.dot);
    b.apply(&first);
    b.apply(&second);
    assert!(a.ask(&mut b, 9));
    assert_eq!((a.values(&key()).len(), b.values(&key()).len()), (2, 2));
}

#[test]
fn fourteen_whoever_hears_of_a_write_of_its_own_that_it_has_forgotten_writes_under_another_name() {
    let [mut a, mut b] = nodes();
    let before = (a.replica.me(), a.disk.clone());
    let first = a.put(&key(), "first");
    b.apply(&first);
    let second = b.put(&key(), "second");
    // As a virtual machine that is set back while it runs.
    for told in [&first, &second] {
        let mut set_back = Node::start(0);
        assert_eq!(set_back.replica.me(), before.0);
        set_back.disk = before.1.clone();
        set_back.apply(told);
        assert_ne!(set_back.replica.me(), before.0);
        assert!(set_back.ask(&mut b, 9));
        assert_eq!(set_back.values(&key()), ["second"]);
    }
}
