use std::time::Duration;

use super::*;
use crate::sim::{Happened, Links, Slot};
use crate::swim::{Config, Event, Message, State, Status, Version};

fn formed(nodes: usize, seed: u64) -> Cluster {
    let mut cluster = Cluster::new(nodes, Config::lan(), Links::lan(), seed);
    cluster.start_formed(Duration::from_secs(5));
    cluster
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Times that somebody took somebody else for gone, while time passed.
fn downs(cluster: &mut Cluster, time: Duration) -> usize {
    let mut downs = 0;
    cluster.run(time, |_, event| downs += usize::from(matches!(event, Event::Changed(_, fact) if !fact.is_live())));
    downs
}

#[test]
fn nothing_happens_where_nothing_happens() {
    for nodes in [2, 3, 10, 300] {
        let mut cluster = formed(nodes, 1);
        let sent =
            |cluster: &Cluster| -> u64 { cluster.world.slots().map(|slot| cluster.world.traffic(slot).bytes).sum() };
        let before = sent(&cluster);
        let mut told = 0;
        cluster.run(seconds(60.0), |_, _| told += 1);
        assert_eq!((told, cluster.disagreement()), (0, None), "{nodes} nodes");
        let rate = (sent(&cluster) - before) / 60 / nodes as u64;
        assert!(rate <= 600, "{nodes} nodes, {rate} B/s each");
        let connections = cluster.world.slots().map(|slot| cluster.world.connections(slot)).max();
        assert!(connections <= Some(12), "{nodes} nodes, {connections:?} connections");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let mut cluster = formed(50, seed);
        cluster.world.links.loss = 0.2;
        cluster.end(Slot(3), Fate::Crashed);
        cluster.end(Slot(9), Fate::Killed);
        let mut trace = blake3::Hasher::new();
        cluster.run(seconds(20.0), |heard, event| {
            trace.update(format!("{:?} {:?} {event:?}", heard.now, heard.slot).as_bytes());
        });
        (trace.finalize(), cluster.world.events())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_process_that_ends_is_down_everywhere_in_half_a_second() {
    for nodes in [2, 3, 4, 10, 100] {
        for seed in 0..10 {
            let mut cluster = formed(nodes, seed);
            cluster.end(Slot(1), Fate::Killed);
            let took = cluster.run_until_agreed(seconds(0.5), |_, _| {});
            assert!(took.is_some(), "{nodes} nodes, seed {seed}: {:?}", cluster.disagreement());
        }
    }
}

#[test]
fn a_machine_that_goes_dark_is_down_everywhere_in_five_seconds() {
    for nodes in [2, 3, 4, 10, 100] {
        for seed in 0..10 {
            let mut cluster = formed(nodes, seed);
            cluster.end(Slot(1), Fate::Crashed);
            let took = cluster.run_until_agreed(seconds(5.0), |_, _| {});
            assert!(took.is_some_and(|took| took >= seconds(2.5)), "{nodes} nodes, seed {seed}: {took:?}");
        }
    }
}

#[test]
fn a_short_stall_is_lived_through_and_a_long_one_is_over_when_it_is() {
    for seed in 0..5 {
        let mut cluster = formed(50, seed);
        for n in 0..10 {
            cluster.world.stall(Slot(n), seconds(2.0));
            assert_eq!(downs(&mut cluster, seconds(3.0)), 0, "seed {seed}, node {n}");
        }
        for n in 10..15 {
            cluster.world.stall(Slot(n), seconds(8.0));
            assert_eq!(downs(&mut cluster, seconds(8.0)), 49, "seed {seed}, node {n}");
            assert!(cluster.run_until_agreed(seconds(1.0), |_, _| {}).is_some(), "seed {seed}, node {n}");
        }
    }
}

#[test]
fn whoever_is_left_of_many_knows_who_that_is() {
    for fate in [Fate::Killed, Fate::Crashed] {
        for (nodes, left, limit) in [(2, 1, 5.0), (3, 1, 20.0), (5, 2, 60.0), (10, 2, 90.0), (100, 20, 120.0)] {
            for seed in 0..3 {
                let mut cluster = formed(nodes, seed);
                (left..nodes as u32).for_each(|n| cluster.end(Slot(n), fate));
                let took = cluster.run_until_agreed(seconds(limit), |_, _| {});
                let problem = cluster.disagreement();
                assert!(took.is_some(), "{fate:?}, {left} of {nodes}, seed {seed}: {problem:?}");
            }
        }
    }
}

#[test]
fn halves_that_were_apart_come_together() {
    for nodes in [4, 10, 100] {
        for seed in 0..3 {
            let mut cluster = formed(nodes, seed);
            cluster.world.links.set_parts(Some((0..nodes as u32).map(|n| n % 2).collect()));
            cluster.run(seconds(120.0), |_, _| {});
            let live = cluster.world.node(Slot(0)).map(|peer| peer.machine.members().live());
            assert_eq!(live, Some(nodes / 2), "{nodes} nodes, seed {seed}");
            cluster.world.links.set_parts(None);
            cluster.world.links_changed();
            let took = cluster.run_until_agreed(seconds(30.0), |_, _| {});
            assert!(took.is_some(), "{nodes} nodes, seed {seed}: {:?}", cluster.disagreement());
        }
    }
}

#[test]
fn all_come_in_by_one() {
    for nodes in [2, 3, 10, 100] {
        let mut cluster: Cluster = Cluster::new(nodes, Config::lan(), Links::lan(), 1);
        cluster.world.links.uplink = Some(12_500_000);
        (0..nodes as u32).for_each(|n| cluster.start(Slot(n), &[Slot(0)]));
        let took = cluster.run_until_agreed(seconds(5.0), |_, _| {});
        assert!(took.is_some(), "{nodes} nodes: {:?}", cluster.disagreement());
    }
}

#[test]
fn all_come_back_also_without_their_disks() {
    for nodes in [10, 100] {
        for seed in 0..3 {
            let mut cluster = formed(nodes, seed);
            for n in 0..nodes {
                cluster.end(Slot(n as u32), Fate::Killed);
                if n % 10 == 0 {
                    cluster.disks[n] = Disk::default();
                }
            }
            for n in 0..nodes as u32 {
                cluster.run(seconds(5.0) / nodes as u32, |_, _| {});
                cluster.start(Slot(n), &[Slot(1), Slot(2), Slot(3)]);
            }
            let took = cluster.run_until_agreed(seconds(10.0), |_, _| {});
            assert!(took.is_some(), "{nodes} nodes, seed {seed}: {:?}", cluster.disagreement());
        }
    }
}

#[test]
fn whoever_leaves_has_left_for_everybody() {
    for seed in 0..5 {
        let mut cluster = formed(100, seed);
        let member = cluster.member(Slot(7));
        cluster.order(Slot(7), Order::Leave);
        cluster.run(seconds(1.0), |_, event| {
            if let Event::Changed(who, fact) = event {
                assert_eq!((who, fact.record().claims().status), (member, Status::Left));
            }
        });
        for slot in cluster.running() {
            assert_eq!(cluster.view(slot, member), Some(State::Left), "seed {seed}, {slot:?}");
        }
        cluster.run(seconds(3.0), |_, _| {});
        assert!(cluster.world.node(Slot(7)).is_none(), "it stops once it has left");
    }
}

#[test]
fn of_two_processes_with_one_key_one_stops() {
    for seed in 0..5 {
        let mut cluster = formed(10, seed);
        cluster.end(Slot(2), Fate::Killed);
        let copy = cluster.add_clone(Slot(2));
        cluster.start(Slot(2), &[Slot(0)]);
        cluster.start(copy, &[Slot(1)]);
        cluster.run(seconds(60.0), |_, _| {});
        let running = [Slot(2), copy].iter().filter(|slot| cluster.world.node(**slot).is_some()).count();
        assert_eq!(running, 1, "seed {seed}");
        assert_eq!(cluster.disagreement(), None, "seed {seed}");
    }
}

#[test]
fn nobody_makes_a_node_deny_itself_without_end() {
    let mut cluster = formed(10, 1);
    let member = cluster.member(Slot(0));
    let version = |cluster: &Cluster| cluster.world.node(Slot(0)).map(|peer| peer.machine.record().version());
    let before = version(&cluster).expect("it runs");
    let doubt = |cluster: &mut Cluster, version| {
        let doubt = Message::Doubt(vec![(member, version)]);
        cluster.world.tell(Slot(0), Happened::Message(Slot(1), doubt));
        cluster.run(seconds(0.001), |_, _| {});
    };
    for _ in 0..1000 {
        doubt(&mut cluster, Version { incarnation: u32::MAX, ..before });
    }
    assert_eq!(version(&cluster), Some(before), "of what it never said");
    for _ in 0..1000 {
        let newest = version(&cluster).expect("it runs");
        doubt(&mut cluster, newest);
    }
    let denials = version(&cluster).expect("it runs").incarnation - before.incarnation;
    assert!((1..=6).contains(&denials), "{denials} denials in a second");
    assert_eq!(cluster.disagreement(), None);
}

/// So many seeds in an ordinary test run; `P2P_MEMBERS_SEEDS` asks for more, `P2P_MEMBERS_FIRST_SEED` for others.
const SEEDS: u64 = 100;

#[test]
fn whatever_happens_all_agree_in_the_end() {
    let asked = |name: &str, otherwise: u64| {
        std::env::var(name)
            .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
    };
    let first = asked("P2P_MEMBERS_FIRST_SEED", 0);
    for seed in first..first + asked("P2P_MEMBERS_SEEDS", SEEDS) {
        let verdict = random::run(seed, &mut |_| {});
        assert!(
            verdict.violations.is_empty(),
            "P2P_MEMBERS_FIRST_SEED={seed} P2P_MEMBERS_SEEDS=1: {:#?}",
            verdict.violations
        );
    }
}
