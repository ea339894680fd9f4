use rand::Rng;

use super::*;
use crate::placement;
use crate::testing::{Timeline, dice, peer, seeds};

/// How a member behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Cannot be reached.
    Dead,
    Full,
    /// Takes everything, but its holds are gone by the time of the first bind.
    Forgetful,
    /// Dies after the pushes, before the bind.
    DiesBeforeBind,
    /// Known, but not there for the first minute.
    Away,
    /// Takes everything and keeps nothing.
    Sieve,
}

struct World {
    put: Put,
    timeline: Timeline<Option<Input>>,
    members: Vec<(PeerId, Manner)>,
    /// What each member really holds, and what of it is bound.
    held: BTreeMap<PeerId, BTreeMap<PlacementKey, u64>>,
    bound: BTreeSet<PeerId>,
    forgot: BTreeSet<PeerId>,
    reports: Vec<(Duration, Report)>,
    pushes: usize,
    settled: bool,
    started: Instant,
    latency: Duration,
}

const ROOT: RootId = RootId([7; 32]);
const OBJECTS: u64 = 16;

fn key(n: u8) -> PlacementKey {
    PlacementKey([n; 32])
}

impl World {
    fn new(manners: &[Manner], replicas: u32, acks: u32) -> Self {
        let timeline = Timeline::new();
        let started = timeline.now();
        let config = PutConfig { replicas, acks, stall: Duration::from_secs(30) };
        let members = manners.iter().enumerate().map(|(n, manner)| (peer(n as u32), *manner)).collect();
        Self {
            put: Put::new(config, started),
            timeline,
            members,
            held: BTreeMap::new(),
            bound: BTreeSet::new(),
            forgot: BTreeSet::new(),
            reports: Vec::new(),
            pushes: 0,
            settled: false,
            started,
            latency: Duration::from_millis(5),
        }
    }

    fn manner(&mut self, peer: PeerId) -> &mut Manner {
        &mut self.members.iter_mut().find(|(member, _)| *member == peer).expect("a member").1
    }

    /// Runs a put of so many groups until nothing is left to do, or for an hour.
    fn run(mut self, groups: u8) -> Self {
        for n in 0..groups {
            self.input(Input::Group(key(n), OBJECTS));
        }
        self.input(Input::Complete(ROOT));
        self.timeline.after(Duration::ZERO, None);
        while let Some(event) = self.timeline.pop() {
            match event {
                Some(input) => self.input(input),
                None if self.settled || self.timeline.now() - self.started > Duration::from_secs(3600) => break,
                None => {
                    self.input(Input::Tick);
                    self.timeline.after(Duration::from_millis(100), None);
                }
            }
        }
        self
    }

    fn input(&mut self, input: Input) {
        for effect in self.put.handle(input, self.timeline.now()) {
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Locate(key) => {
                let away = self.timeline.now() - self.started < Duration::from_secs(60);
                let there = self.members.iter().filter(|(_, manner)| !(away && *manner == Manner::Away));
                let there = there.map(|(peer, _)| *peer);
                let closest = placement::closest(&key, there, placement::candidate_count(self.put.config.replicas));
                self.timeline.after(self.latency, Some(Input::Located(key, closest, self.members.len())));
            }
            Effect::Push(key, peer) => {
                self.pushes += 1;
                let pushed = match *self.manner(peer) {
                    Manner::Sieve => Pushed::Held,
                    Manner::Dead => Pushed::Failed,
                    Manner::Full => Pushed::Full,
                    Manner::Honest | Manner::Forgetful | Manner::DiesBeforeBind | Manner::Away => {
                        self.held.entry(peer).or_default().insert(key, OBJECTS);
                        Pushed::Held
                    }
                };
                self.timeline.after(self.latency, Some(Input::Pushed(key, peer, pushed)));
            }
            Effect::Bind(peer, root, objects) => {
                assert_eq!(root, ROOT);
                let answer = self.bind(peer, objects);
                self.timeline.after(self.latency, Some(Input::Bound(peer, answer)));
            }
            Effect::Report(report) => self.reports.push((self.timeline.now() - self.started, report)),
            Effect::Settled => self.settled = true,
        }
    }

    fn bind(&mut self, peer: PeerId, objects: u64) -> Option<Bound> {
        let manner = *self.manner(peer);
        match manner {
            Manner::Forgetful if self.forgot.insert(peer) => self.held.entry(peer).or_default().clear(),
            Manner::DiesBeforeBind => *self.manner(peer) = Manner::Dead,
            Manner::Honest | Manner::Dead | Manner::Full | Manner::Forgetful | Manner::Away | Manner::Sieve => {}
        }
        if *self.manner(peer) == Manner::Dead {
            return None;
        }
        let held = self.held.get(&peer).map_or(0, |groups| groups.values().sum());
        Some(if held < objects {
            Bound::Missing(held)
        } else {
            self.bound.insert(peer);
            Bound::Bound
        })
    }

    /// The fewest living members that hold a group for good.
    fn copies(&self, groups: u8) -> u32 {
        let living =
            |peer: &PeerId| self.members.iter().any(|(member, manner)| member == peer && *manner != Manner::Dead);
        let copies = |key: PlacementKey| {
            let holds = |peer: &&PeerId| living(peer) && self.held.get(peer).is_some_and(|h| h.contains_key(&key));
            self.bound.iter().filter(holds).count() as u32
        };
        (0..groups).map(|n| copies(key(n))).min().unwrap_or(0)
    }

    fn report(&self) -> (Duration, Report) {
        assert_eq!(self.reports.len(), 1, "a put reports once");
        self.reports[0]
    }
}

use Manner::{Away, Dead, DiesBeforeBind, Forgetful, Full, Honest, Sieve};

#[test]
fn a_healthy_cluster_has_three_copies_at_once() {
    let world = World::new(&[Honest; 5], 3, 2).run(10);
    let (after, report) = world.report();
    assert_eq!(report, Report { copies: 3, enough: true });
    assert!(after < Duration::from_millis(200), "{after:?}");
    assert_eq!(world.copies(10), 3);
    assert!(world.settled);
}

#[test]
fn a_lone_node_is_content_with_one_copy() {
    let world = World::new(&[Honest], 3, 1).run(2);
    assert_eq!(world.report().1, Report { copies: 1, enough: true });
    assert!(world.settled);
}

#[test]
fn the_next_candidates_replace_those_that_are_full_or_dead() {
    let world = World::new(&[Honest, Dead, Honest, Full, Honest], 3, 2).run(10);
    assert_eq!(world.report().1, Report { copies: 3, enough: true });
    assert_eq!(world.copies(10), 3);
}

#[test]
fn enough_copies_are_reported_a_second_later_when_the_rest_does_not_come() {
    let world = World::new(&[Honest, Dead, Honest], 3, 2).run(4);
    let (after, report) = world.report();
    assert_eq!(report, Report { copies: 2, enough: true });
    assert!((Duration::from_secs(1)..Duration::from_secs(2)).contains(&after), "{after:?}");
    assert!(!world.settled, "the third copy is still owed");
}

#[test]
fn too_few_copies_are_said_honestly_and_the_work_goes_on() {
    let world = World::new(&[Honest, Dead, Dead], 3, 2).run(4);
    let (after, report) = world.report();
    assert_eq!(report, Report { copies: 1, enough: false });
    assert!((Duration::from_secs(30)..Duration::from_secs(32)).contains(&after), "{after:?}");
    assert!(!world.settled);
}

#[test]
fn members_that_were_away_get_their_copies_when_they_are_back() {
    let world = World::new(&[Honest, Away, Away], 3, 1).run(4);
    assert_eq!(world.report().1, Report { copies: 1, enough: true });
    assert!(world.settled);
    assert_eq!(world.copies(4), 3);
}

#[test]
fn holds_that_were_lost_before_the_bind_are_pushed_again() {
    let world = World::new(&[Forgetful; 3], 3, 2).run(6);
    assert_eq!(world.report().1, Report { copies: 3, enough: true });
    assert_eq!(world.copies(6), 3);
}

#[test]
fn a_member_that_keeps_nothing_is_replaced_and_not_fed_for_ever() {
    let world = World::new(&[Honest, Sieve, Honest, Honest], 3, 2).run(6);
    assert_eq!(world.report().1, Report { copies: 3, enough: true });
    assert!(world.settled && world.pushes < 6 * 10, "{} pushes", world.pushes);
    // Where nobody else can take its place, that is said in time.
    let world = World::new(&[Honest, Sieve], 2, 2).run(6);
    let (after, report) = world.report();
    assert_eq!(report, Report { copies: 1, enough: false });
    assert!(after < Duration::from_secs(32), "{after:?}");
    assert!(!world.settled && world.pushes < 6 * 10, "{} pushes", world.pushes);
}

#[test]
fn members_that_come_to_be_known_during_a_put_are_owed_for_every_group() {
    let timeline = Timeline::<()>::new();
    let now = timeline.now();
    let config = PutConfig { replicas: 3, acks: 1, stall: Duration::from_secs(30) };
    let mut put = Put::new(config, now);
    put.handle(Input::Group(key(1), OBJECTS), now);
    put.handle(Input::Group(key(2), OBJECTS), now);
    put.handle(Input::Located(key(1), vec![peer(0)], 1), now);
    put.handle(Input::Located(key(2), vec![peer(0), peer(1), peer(2)], 3), now);
    let later: Vec<Effect> =
        (1..5).flat_map(|seconds| put.handle(Input::Tick, now + Duration::from_secs(seconds))).collect();
    assert_eq!(later, [Effect::Locate(key(1))]);
}

#[test]
fn a_member_that_dies_before_its_bind_is_replaced() {
    let world = World::new(&[Honest, DiesBeforeBind, Honest, Honest, Honest], 3, 2).run(8);
    assert!(world.report().1.enough);
    assert!(world.settled);
    assert_eq!(world.copies(8), 3);
}

/// Whatever the members do: what is reported is no more than what is there, and a put that settles has all its copies.
#[test]
fn no_more_is_reported_than_there_is() {
    for seed in seeds(500) {
        let mut dice = dice(seed);
        let count = dice.random_range(1..9);
        let manners: Vec<Manner> = (0..count)
            .map(|_| match dice.random_range(0..10) {
                0 => Dead,
                1 => Full,
                2 => Forgetful,
                3 => DiesBeforeBind,
                4 => Away,
                5 => Sieve,
                _ => Honest,
            })
            .collect();
        let replicas = dice.random_range(1..5);
        let acks = dice.random_range(1..=replicas);
        let groups = dice.random_range(1..20);
        let world = World::new(&manners, replicas, acks).run(groups);
        let (_, report) = world.report();
        assert!(report.copies <= world.copies(groups), "seed {seed}: {manners:?} {report:?}");
        if world.settled {
            assert!(world.copies(groups) >= replicas.min(count), "seed {seed}: {manners:?}");
        }
        let willing = world.members.iter().filter(|(_, manner)| matches!(manner, Honest | Forgetful)).count();
        if willing as u32 >= replicas && count as usize <= placement::candidate_count(replicas) {
            assert!(report.enough && world.settled, "seed {seed}: {manners:?} {report:?}");
        }
    }
}
