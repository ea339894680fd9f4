use std::time::Duration;

use super::broadcasts::Broadcasts;
use super::config::Config;
use super::message::{Accusation, Alive, Message};
use super::suspicion::Suspicion;
use super::{Memberlist, Shared};
use crate::sim::members::{Change, Cluster, Fate, Order, Profile};
use crate::sim::{Links, Slot};
use crate::swim::{Member, Name, State, Time};

fn formed(nodes: usize, seed: u64) -> Cluster<Memberlist> {
    let mut cluster = Cluster::new(nodes, Memberlist::config(), Links::lan(), seed);
    cluster.start_formed(seconds(5.0));
    cluster
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn sent(cluster: &Cluster<Memberlist>) -> u64 {
    cluster.world.slots().map(|slot| cluster.world.traffic(slot).bytes).sum()
}

/// How long each node but those in `but` took to take a member for this; those that did not are not in it.
fn learned(
    cluster: &mut Cluster<Memberlist>,
    member: Member,
    state: State,
    limit: Duration,
    but: &[Slot],
) -> Vec<Duration> {
    let began = cluster.world.now();
    let mut open: Vec<Slot> = cluster.running().into_iter().filter(|slot| !but.contains(slot)).collect();
    let mut took = Vec::new();
    while !open.is_empty() && cluster.world.now() < began + limit {
        cluster.run(seconds(0.05), |heard, change| {
            let is_it = change.member == member && change.state == state;
            if let Some(index) = open.iter().position(|slot| is_it && *slot == heard.slot) {
                open.swap_remove(index);
                took.push(heard.now.since(began));
            }
        });
    }
    took.sort_unstable();
    took
}

#[test]
fn nothing_happens_where_nothing_happens() {
    for nodes in [2, 3, 10, 100] {
        let mut cluster = formed(nodes, 1);
        let mut told = 0;
        let before = sent(&cluster);
        cluster.run(seconds(60.0), |_, _| told += 1);
        assert_eq!((told, cluster.disagreement()), (0, None), "{nodes} nodes");
        let rate = (sent(&cluster) - before) / 60 / nodes as u64;
        println!("idle, {nodes} nodes: {rate} B/s each");
        assert!((100..=1500).contains(&rate), "{nodes} nodes: {rate} B/s each");
        assert!(cluster.world.slots().all(|slot| cluster.world.connections(slot) <= 2), "{nodes} nodes");
    }
}

#[test]
fn a_crash_is_down_everywhere_as_late_as_published() {
    let mut all = Vec::new();
    for seed in 0..10 {
        let mut cluster = formed(100, seed);
        cluster.run(seconds(seed as f64 / 10.0), |_, _| {});
        let member = cluster.member(Slot(7));
        cluster.end(Slot(7), if seed % 2 == 0 { Fate::Crashed } else { Fate::Killed });
        let took = learned(&mut cluster, member, State::Down, seconds(60.0), &[]);
        assert_eq!(took.len(), 99, "seed {seed}");
        println!("crash, seed {seed}: first {:?}, median {:?}, last {:?}", took[0], took[49], took[98]);
        assert!((seconds(6.0)..seconds(25.0)).contains(&took[49]), "seed {seed}: {:?}", took[49]);
        assert!(took[98] - took[0] < seconds(3.0), "seed {seed}");
        all.push(took[49]);
        assert_eq!(cluster.disagreement(), None);
        // Long after memberlist has forgotten it, it still is what it was.
        cluster.run(seconds(250.0), |_, change| panic!("{change:?}"));
        assert!(cluster.running().into_iter().all(|slot| cluster.view(slot, member) == Some(State::Down)));
    }
    all.sort_unstable();
    println!("crash: median of medians {:?}", all[all.len() / 2]);
}

/// Lifeguard, table V: 12.45 s until the first, 12.91 s until all, at 128 nodes with five periods for every power of
/// ten.
#[test]
fn a_crash_is_noticed_when_the_paper_says() {
    let config = Config { suspicion_mult: 5, ..Memberlist::config() };
    let (mut first, mut all) = (Vec::new(), Vec::new());
    for seed in 0..25 {
        let mut cluster = Cluster::<Memberlist>::new(128, config, Links::lan(), seed);
        cluster.start_formed(seconds(5.0));
        let member = cluster.member(Slot(7));
        cluster.end(Slot(7), Fate::Crashed);
        let took = learned(&mut cluster, member, State::Down, seconds(60.0), &[]);
        assert_eq!(took.len(), 127, "seed {seed}");
        first.push(took[0]);
        all.push(took[126]);
    }
    first.sort_unstable();
    all.sort_unstable();
    println!("crash as in the paper: first {:?}, all {:?}", first[12], all[12]);
    assert!((seconds(11.8)..seconds(13.1)).contains(&first[12]), "{:?}", first[12]);
    assert!((seconds(12.2)..seconds(13.6)).contains(&all[12]), "{:?}", all[12]);
}

#[test]
fn who_stands_still_for_two_seconds_is_not_down() {
    let mut suspected = 0;
    for seed in 0..10 {
        let mut cluster = formed(100, seed);
        for number in 0..5 {
            cluster.world.stall(Slot(number), seconds(2.0));
            cluster.run(seconds(10.0), |_, Change { state, .. }| {
                assert_ne!(state, State::Down, "seed {seed}");
                suspected += usize::from(state == State::Suspect);
            });
        }
        cluster.run(seconds(60.0), |_, Change { state, .. }| assert_ne!(state, State::Down, "seed {seed}"));
        assert_eq!(cluster.disagreement(), None, "seed {seed}");
        assert!(
            cluster.running().iter().all(|slot| cluster.view(*slot, cluster.member(Slot(0))) == Some(State::Alive))
        );
    }
    println!("stalls of 2 s: {suspected} suspicions at nodes in 50 stalls");
    assert!(suspected > 0);
}

#[test]
fn who_leaves_has_left_everywhere_in_five_seconds() {
    for nodes in [2, 10, 100] {
        let mut cluster = formed(nodes, 3);
        let member = cluster.member(Slot(1));
        cluster.order(Slot(1), Order::Leave);
        let took = learned(&mut cluster, member, State::Left, seconds(5.0), &[Slot(1)]);
        assert_eq!(took.len(), nodes - 1, "{nodes} nodes");
        println!("leave, {nodes} nodes: last {:?}", took.last());
        cluster.run(seconds(60.0), |_, Change { state, .. }| assert_eq!(state, State::Left));
        assert!(cluster.world.node(Slot(1)).is_none(), "{nodes} nodes");
        assert_eq!(cluster.disagreement(), None, "{nodes} nodes");
    }
}

#[test]
fn who_comes_in_by_one_is_known_to_all_in_fifteen_seconds() {
    let mut cluster = formed(100, 4);
    let slot = cluster.add();
    let member = cluster.member(slot);
    cluster.start(slot, &[Slot(5)]);
    let took = learned(&mut cluster, member, State::Alive, seconds(15.0), &[slot]);
    assert_eq!(took.len(), 100);
    println!("join: last {:?}", took.last());
    assert_eq!(cluster.disagreement(), None);
}

#[test]
fn who_cannot_come_in_tries_until_it_can() {
    let mut cluster = Cluster::<Memberlist>::new(2, Memberlist::config(), Links::lan(), 5);
    cluster.start(Slot(0), &[Slot(1)]);
    cluster.run(seconds(20.0), |_, _| {});
    cluster.start(Slot(1), &[]);
    assert!(cluster.run_until_agreed(seconds(5.0), |_, _| {}).is_some());
}

#[test]
fn who_starts_again_comes_in_by_those_it_knew() {
    let mut cluster = formed(20, 6);
    cluster.run(seconds(1.0), |_, _| {});
    cluster.end(Slot(3), Fate::Killed);
    cluster.run(seconds(5.0), |_, _| {});
    cluster.start(Slot(3), &[]);
    assert!(cluster.run_until_agreed(seconds(30.0), |_, _| {}).is_some());
    cluster.end(Slot(4), Fate::Killed);
    cluster.run(seconds(120.0), |_, _| {});
    cluster.start(Slot(4), &[]);
    assert!(cluster.run_until_agreed(seconds(30.0), |_, _| {}).is_some());
}

#[test]
fn what_one_says_of_itself_comes_to_all() {
    let mut cluster = formed(100, 7);
    let member = cluster.member(Slot(9));
    for meta in 0..3 {
        cluster.order(Slot(9), Order::Describe(meta));
        let took = learned(&mut cluster, member, State::Alive, seconds(10.0), &[]);
        assert_eq!(took.len(), 100);
        println!("describe: last {:?}", took.last());
    }
    cluster.run(seconds(5.0), |_, change| panic!("{change:?}"));
    for node in cluster.running().into_iter().filter_map(|slot| cluster.world.node(slot)) {
        assert_eq!((node.view.meta(member), node.view.incarnation(member)), (Some(2), 4));
        assert!(node.broadcasts.is_empty());
    }
}

#[test]
fn ten_nodes_agree_again_after_a_fifth_of_packets_was_lost() {
    for seed in 0..10 {
        let mut cluster = formed(10, seed);
        cluster.world.links.loss = 0.2;
        let mut downs = 0;
        cluster.run(seconds(60.0), |_, Change { state, .. }| downs += usize::from(state == State::Down));
        cluster.world.links.loss = 0.0;
        let took = cluster.run_until_agreed(seconds(60.0), |_, _| {});
        println!("loss of 20%, seed {seed}: {downs} downs at nodes, equal after {took:?}");
        assert!(took.is_some(), "seed {seed}: {:?}", cluster.disagreement());
    }
}

#[test]
fn halves_find_each_other_again() {
    for seed in 0..3 {
        let mut cluster = formed(20, seed);
        cluster.world.links.set_parts(Some(cluster.world.slots().map(|slot| slot.0 % 2).collect()));
        cluster.run(seconds(300.0), |_, _| {});
        assert_eq!(cluster.world.node(Slot(0)).map(|node| node.living().count()), Some(10), "seed {seed}");
        cluster.world.links.set_parts(None);
        cluster.world.links_changed();
        let took = cluster.run_until_agreed(seconds(180.0), |_, _| {});
        println!("halves, seed {seed}: equal after {took:?}");
        assert!(took.is_some(), "seed {seed}: {:?}", cluster.disagreement());
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let mut cluster = formed(50, seed);
        cluster.world.links.loss = 0.2;
        cluster.end(Slot(3), Fate::Crashed);
        cluster.end(Slot(9), Fate::Killed);
        cluster.world.stall(Slot(11), seconds(4.0));
        let mut trace = blake3::Hasher::new();
        cluster.run(seconds(30.0), |heard, change| {
            trace.update(format!("{:?} {:?} {change:?}", heard.now, heard.slot).as_bytes());
        });
        (trace.finalize(), cluster.world.events())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

fn members(count: u8) -> Vec<Member> {
    let mut shared = Shared::default();
    (0..count).map(|n| shared.directory.insert(Name([n; 32]))).collect()
}

#[test]
fn what_was_sent_least_goes_first_and_each_as_often_as_it_may() {
    let members = members(40);
    let accusation = |member| Accusation { member, incarnation: 1, from: members[0] };
    let mut broadcasts = Broadcasts::default();
    members.iter().for_each(|member| broadcasts.push(*member, Message::Suspect(accusation(*member))));
    // What is newer about a member takes the place of what is older.
    members.iter().for_each(|member| broadcasts.push(*member, Message::Dead(accusation(*member))));
    let mut sent = vec![0; members.len()];
    while !broadcasts.is_empty() {
        let taken = broadcasts.take(1398, 8);
        assert!(Message::Compound(taken.clone()).encoded_len() <= 1400);
        for message in taken {
            let Message::Dead(accusation) = message else { panic!("{message:?}") };
            sent[accusation.member.number() as usize] += 1;
        }
        let (least, most) = (sent.iter().min(), sent.iter().max());
        assert!(most <= least.map(|least| least + 1).as_ref(), "{sent:?}");
    }
    assert_eq!(sent, vec![8; members.len()]);
}

#[test]
fn a_suspicion_lasts_the_shorter_the_more_confirm_it() {
    let members = members(5);
    let (min, max) = (seconds(8.0), seconds(48.0));
    let mut suspicion = Suspicion::new(members[0], 2, min, max, Time(0));
    assert_eq!(suspicion.ends(), Time(0) + max);
    assert!(!suspicion.confirm(members[0]));
    assert!(suspicion.confirm(members[1]) && !suspicion.confirm(members[1]));
    assert_eq!(suspicion.ends(), Time(22_762_000));
    assert!(suspicion.confirm(members[2]) && !suspicion.confirm(members[3]));
    assert_eq!(suspicion.ends(), Time(0) + min);
    assert_eq!(Suspicion::new(members[0], 0, min, max, Time(0)).ends(), Time(0) + min);
}

#[test]
fn times_and_counts_are_as_published() {
    let config = Memberlist::config();
    let of = |nodes| {
        (config.suspicion_timeout(nodes), config.retransmit_limit(nodes), config.push_pull_interval(nodes).as_secs())
    };
    assert_eq!(of(1), (seconds(4.0), 4, 30));
    assert_eq!(of(32), (seconds(6.02), 8, 30));
    assert_eq!(of(33), (seconds(6.072), 8, 60));
    assert_eq!(of(100), (seconds(8.0), 12, 90));
    assert_eq!(of(10_000), (seconds(16.0), 20, 300));
    assert_eq!((config.confirmations(3), config.confirmations(4)), (0, 2));
}

#[test]
fn lengths_are_those_of_msgpack() {
    let members = members(2);
    let (member, from) = (members[0], members[1]);
    let accusation = Accusation { member, incarnation: 1, from };
    let alive = Alive { member, incarnation: 1, slot: Slot(0), meta: None };
    assert_eq!(Message::Ping { number: 1000, target: member }.encoded_len(), 91);
    assert_eq!(Message::IndirectPing { number: 1000, target: member, slot: Slot(0) }.encoded_len(), 117);
    assert_eq!(Message::Ack(1000).encoded_len(), 20);
    assert_eq!(Message::Suspect(accusation).encoded_len(), 59);
    assert_eq!(Message::Alive(alive).encoded_len(), 72);
    let several = Message::Compound(vec![Message::Suspect(accusation); 5]);
    assert_eq!((several.encoded_len(), several.packet_len()), (307, 238));
}
