//! Whole machines that tell each other all they have to say, as if at once.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::anti_entropy::Noted;
use super::*;

/// A network in which nothing is lost and nothing takes time.
struct Net {
    machines: Vec<Machine>,
    disks: Vec<Memory>,
    now: Time,
    noted: Vec<(usize, Noted)>,
    recovered: Vec<(usize, Damage)>,
    dice: SmallRng,
}

impl Net {
    /// Nodes over these disks; those of different seeds are different lives.
    fn start(seed: u64, log_keep: u64, disks: Vec<Memory>) -> Self {
        let mut dice = SmallRng::seed_from_u64(seed);
        let (mut machines, mut opened) = (Vec::new(), Vec::new());
        for (n, mut disk) in disks.into_iter().enumerate() {
            let replica = Replica::open(&mut disk, Self::name(n), Epochs::new(dice.random())).expect("it is whole");
            machines.push(Machine::new(Config { log_keep, ..Config::default() }, replica, n as u64));
            opened.push(disk);
        }
        let count = machines.len();
        let now = Time(1_000_000_000);
        let mut net = Self { machines, disks: opened, now, noted: Vec::new(), recovered: Vec::new(), dice };
        for n in 0..count {
            let peers = (0..count).filter(|other| *other != n);
            net.work(n, peers.map(|other| Work::Up(Self::name(other))).collect());
        }
        net
    }

    fn name(n: usize) -> Name {
        Name([n as u8; 32])
    }

    /// One transaction, and all that follows from it. Whoever finds something lost is built again.
    fn work(&mut self, n: usize, work: Vec<Work>) {
        let mut due = VecDeque::from([(n, work)]);
        while let Some((n, work)) = due.pop_front() {
            let mut effects = Vec::new();
            let before = self.disks[n].clone();
            match self.machines[n].transact(&mut self.disks[n], work, self.now, &mut effects) {
                Ok(()) => {}
                Err(Trouble::Store(never)) => match never {},
                Err(Trouble::Damage(damage)) => {
                    self.disks[n] = before;
                    effects.clear();
                    let epochs = Epochs::new(self.dice.random());
                    let Ok(()) = self.machines[n].recover(&mut self.disks[n], epochs, 7) else {
                        panic!("memory does not fail")
                    };
                    self.recovered.push((n, damage));
                }
            }
            for effect in effects {
                let (to, work) = match effect {
                    Effect::Ask(to, request) => (to, Work::Request(Self::name(n), request)),
                    Effect::Answer(to, reply) => (to, Work::Reply(Self::name(n), reply)),
                    Effect::Noted(noted) => {
                        self.noted.push((n, noted));
                        continue;
                    }
                    Effect::Called(_, outcome) => {
                        outcome.expect("it is not refused");
                        continue;
                    }
                };
                due.push_back((usize::from(to.0[0]), vec![work]));
            }
        }
    }

    /// Lets time pass, in which all tell all others what their copies come to, and do what is due.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            for n in 0..self.machines.len() {
                let digest = self.machines[n].digest();
                let peers = (0..self.machines.len()).filter(|other| *other != n);
                peers.for_each(|other| self.work(other, vec![Work::Digest(Self::name(n), digest)]));
            }
        }
    }

    fn call(&mut self, n: usize, key: &'static str, value: Option<&'static str>) {
        let (value, write) = (value.map(Bytes::from), Write::Held { force: true });
        self.work(n, vec![Work::Call(Call { number: 0, key: named(key), value, write })]);
    }

    fn is_equal(&self) -> bool {
        self.machines.iter().all(|machine| machine.digest() == self.machines[0].digest())
    }

    fn values(&mut self, n: usize, key: &'static str) -> Vec<Bytes> {
        let entry = self.machines[n].replica().get(&mut self.disks[n], &named(key)).expect("it is whole");
        entry.siblings().iter().map(|sibling| sibling.value.clone()).collect()
    }

    /// A row is as if it had never been, and the sums with it: nobody can tell.
    fn lose_without_a_trace(&mut self, n: usize, key: &'static str) {
        let (replica, disk, key) = (self.machines[n].replica_mut(), &mut self.disks[n], named(key));
        let (_, hash) = replica.load(disk, &key).expect("it is whole").expect("it is there");
        replica.store(disk, &key, Some(hash), &Entry::default()).expect("memory does not fail");
        replica.finish(disk).expect("memory does not fail");
    }
}

fn three(log_keep: u64) -> Net {
    let mut net = Net::start(1, log_keep, vec![Memory::default(); 3]);
    for (n, key) in ["a", "b", "c"].into_iter().enumerate() {
        net.call(n, key, Some("first"));
        net.pass(3);
    }
    assert!(net.is_equal());
    net
}

#[test]
fn a_lost_row_with_its_vector_whole_never_spreads_as_a_delete() {
    for log_keep in [0, 99] {
        let mut net = three(log_keep);
        let Ok(()) = net.disks[1].set_row(Place::of(&named("a")), &named("a"), None);
        // A node that has nothing asks, and so do all that have seen less.
        net.disks.push(Memory::default());
        let mut net = Net::start(2, log_keep, net.disks);
        net.call(1, "b", Some("second"));
        net.pass(60);
        net.work(1, vec![Work::Audit]);
        net.pass(60);
        assert!(net.is_equal(), "{:?}", net.noted);
        for n in 0..4 {
            assert_eq!(net.values(n, "a"), ["first"]);
        }
        assert!(matches!(net.recovered[..], [(1, Damage::Leaf(_))]), "{:?}", net.recovered);
    }
}

#[test]
fn a_node_restored_from_a_backup_older_than_the_floor_of_the_log_ends_equal_and_resurrects_nothing() {
    let mut net = three(0);
    let backup = net.disks[0].clone();
    net.call(1, "a", None);
    net.call(2, "b", Some("second"));
    net.pass(5);
    net.call(0, "d", Some("first"));
    net.pass(5);
    let asked = Replica::open(&mut backup.clone(), Net::name(0), Epochs::new([9; 32])).expect("it is whole");
    let asked = asked.ask((0..=u8::MAX).collect());
    for n in [1, 2] {
        let answer = net.machines[n].replica().answer(&mut net.disks[n], &asked, Budget { keys: 9, bytes: 9 });
        assert_eq!(answer, Ok(Answer::TooOld), "what it would have to be told has left the log");
    }
    let mut net = Net::start(2, 0, vec![backup, net.disks[1].clone(), net.disks[2].clone()]);
    assert_eq!(net.values(0, "a"), ["first"], "as it was then");
    net.call(0, "c", Some("second"));
    net.pass(30);
    assert!(net.is_equal());
    for n in 0..3 {
        assert_eq!(net.values(n, "a"), [""; 0]);
        assert_eq!((net.values(n, "b"), net.values(n, "c")), (vec!["second".into()], vec!["second".into()]));
        assert_eq!(net.values(n, "d"), ["first"], "its own, which it had forgotten");
    }
    assert_eq!(net.recovered, []);
}

#[test]
fn what_one_has_lost_without_a_trace_comes_back_from_whoever_has_it() {
    let mut net = three(0);
    net.lose_without_a_trace(1, "a");
    assert!(!net.is_equal());
    net.pass(5);
    let integrity =
        |noted: &[(usize, Noted)]| noted.iter().filter(|(_, noted)| matches!(noted, Noted::Integrity(_))).count();
    assert_eq!(integrity(&net.noted), 4, "each once, of each that is not as itself: {:?}", net.noted);
    assert!(!net.is_equal(), "whoever finds that it is not whole is built again before");
    net.pass(20);
    assert!(net.is_equal(), "{:?}", net.noted);
    for n in 0..3 {
        assert_eq!(net.values(n, "a"), ["first"]);
    }
    let mended: u64 =
        net.noted.iter().map(|(_, noted)| if let Noted::Mended { keys, .. } = noted { *keys } else { 0 }).sum();
    assert_eq!((mended, net.recovered.len()), (1, 0));
}

#[test]
fn what_stands_only_because_a_write_was_lost_goes_where_that_write_stands() {
    let [mut one] = nodes();
    let first = one.put(&key(), "first");
    let lost_the_second = one.tx(|replica, disk| replica.get(disk, &key()));
    let second = one.put(&key(), "second");
    assert!(second.op.replaces.contains(&first.op.dot));
    let whole = one.tx(|replica, disk| replica.get(disk, &key()));
    for (ours, theirs) in [(&lost_the_second, &whole), (&whole, &lost_the_second)] {
        let mut mended = ours.clone();
        mended.mend(one.replica.vector(), theirs);
        assert_eq!(mended, whole);
    }
}

#[test]
fn what_would_drop_much_is_done_once_another_says_the_same_or_after_a_while() {
    const KEYS: usize = DROPPED_MAX as usize + 500;
    let call = |n: usize, value: Option<Bytes>| {
        let key = Key::new(format!("key {n}")).expect("a key");
        Work::Call(Call { number: 0, key, value, write: Write::Held { force: true } })
    };
    let mut full = Net::start(1, 0, vec![Memory::default(); 2]);
    full.work(0, (0..KEYS).map(|n| call(n, Some("value".into()))).collect());
    full.pass(5);
    let old = full.disks[0].clone();
    full.work(0, (0..KEYS - 100).map(|n| call(n, None)).collect());
    full.pass(5);
    assert!(full.is_equal());
    let unconfirmed = |net: &Net| net.noted.iter().any(|(_, noted)| matches!(noted, Noted::Unconfirmed { .. }));
    let dropped = (KEYS - 100) as u64;
    for (deleted_by, at_once) in [(1, false), (2, true)] {
        let disks = full.disks.iter().take(deleted_by).cloned().chain([old.clone()]).collect();
        let mut net = Net::start(2, 0, disks);
        net.pass(20);
        let noted = Noted::Unconfirmed { with: Net::name(0), dropped, held: KEYS as u64 };
        assert!(unconfirmed(&net), "{:?}", net.noted);
        assert!(at_once || net.noted.contains(&(deleted_by, noted)), "{:?}", net.noted);
        assert_eq!(net.is_equal(), at_once, "with {deleted_by} that say it: {:?}", net.noted);
        net.pass(60);
        assert!(net.is_equal() && net.machines[deleted_by].replica().len() == 100);
    }
}

#[test]
fn whoever_has_seen_the_same_and_holds_something_else_may_have_lost_what_is_in_the_log() {
    let [mut node] = nodes();
    node.put(&key(), "first");
    let (ours, peer) = (node.replica.digest(), Name([9; 32]));
    let mut asking = AntiEntropy::new(1);
    asking.up(peer);
    for (theirs, has_all) in
        [(ours, true), (Digest { rows: [1; 16], ..ours }, false), (Digest { vector: [1; 16], ..ours }, false)]
    {
        assert_eq!(asking.told(&node.replica, peer, theirs, Time(1)), has_all, "{theirs:?}");
    }
}

#[test]
fn whoever_asks_takes_no_lost_row_for_a_deleted_one() {
    let [mut a, mut b] = nodes();
    let first = b.put(&key(), "first");
    a.apply(&first);
    b.put(&key(), "second");
    a.lose(&key());
    // Key by key.
    let answer = a.asked(&mut b, 9);
    let Answer::Keys { keys, part } = &answer else { panic!("{answer:?}") };
    let damage = Err(Trouble::Damage(Damage::Leaf(Place::of(&key()).leaf())));
    assert_eq!(a.replica.merge(&mut a.disk, keys, part).map(|_| ()), damage);
    // By comparing all, which looks at sums first, and those are what they were.
    b.drop_log();
    let opened = b.tx(|replica, disk| replica.opened(disk));
    let closed = b.tx(|replica, disk| replica.close(disk, opened.by, &Vector::default()));
    assert_eq!(closed, None, "it has left the log");
    let entry = b.tx(|replica, disk| replica.get(disk, &key()));
    let closed = Closed { vector: opened.vector.clone(), changed: vec![(key(), entry)] };
    a.replica.begin(&mut a.disk, &Opened { divided: Vec::new(), ..opened.clone() }).expect("nothing is looked at");
    assert_eq!(a.replica.adopt(&mut a.disk, opened.by, &closed, true).map(|_| ()), damage);
}
