use std::collections::VecDeque;

use bytes::Bytes;
use rand::Rng;

use super::*;
use crate::object::TreeBuilder;
use crate::placement;
use crate::testing::{Timeline, bytes, dice, peer, seeds};
use crate::tree::Id;

/// Leaves of one chunk, indexes of four children, extents of two leaves.
const SMALL: Geometry = Geometry { leaf_len: 1024, fanout: 4, extent_leaves: 2 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Cannot be reached.
    Dead,
    /// Never answers.
    Silent,
    /// Sends wrong bytes for everything.
    Liar,
    /// Breaks off after the first object of each run.
    Breaks,
    /// Honest, at one object a second.
    Slow,
    /// Honest, at so many leaves a second.
    Rated(u64),
    /// Sends so many leaves a second, each wrong.
    Corrupts(u64),
    /// Sends that many leaves a second for half a second, then nothing any more, but answers what it has.
    Stalls(u64),
    /// Holds nothing.
    Empty,
}

use Manner::{Breaks, Corrupts, Dead, Empty, Honest, Liar, Rated, Silent, Slow, Stalls};

/// What happens in the world.
enum Event {
    Tick,
    Input(Input),
    /// A member has sent what is first on its line.
    Sent(PeerId),
}

struct World {
    get: Get,
    timeline: Timeline<Event>,
    manners: BTreeMap<PeerId, Manner>,
    /// Which members hold which objects.
    stores: BTreeMap<PeerId, BTreeMap<ObjectRef, Object>>,
    /// What each member has to send, one after the other, with the time that each takes.
    lines: BTreeMap<PeerId, VecDeque<(Want, Duration, Input)>>,
    root: RootId,
    delivered: Vec<u8>,
    result: Option<Result<(), GetError>>,
    asked_of_liars: usize,
    /// Bytes of objects that came over lines, those for nothing included.
    received: u64,
    started: Instant,
    /// Whether what is delivered is read.
    reader: bool,
    /// Whether the members are known from the beginning.
    view: bool,
}

/// Four of the larger parts.
const WINDOW: u64 = 8 << 10;

/// How often time passes.
const TICK: Duration = Duration::from_millis(100);

/// This node is peer 0 and holds nothing.
const ME: u32 = 0;

/// As the network's, with smaller leaves.
const REAL: Geometry = Geometry { leaf_len: 1024, fanout: 1024, extent_leaves: 16 };

fn objects_of(content: &Bytes, geometry: Geometry) -> (RootId, Vec<(PlacementKey, Object)>) {
    if content.len() as u64 <= geometry.leaf_len {
        let object = Object::whole_file(content.clone());
        let root = crate::tree::root_id(content);
        return (root, vec![(PlacementKey(root.0), object)]);
    }
    let mut builder = TreeBuilder::new_in(geometry);
    let (mut leaves, mut indexes, mut extents) = (BTreeMap::new(), Vec::new(), Vec::new());
    for start in (0..content.len()).step_by(geometry.leaf_len as usize) {
        let leaf = Object::leaf(content.slice(start..content.len().min(start + 1024)), start as u64);
        let built = builder.push(&leaf);
        leaves.insert(*leaf.reference(), leaf);
        indexes.extend(built.indexes);
        extents.extend(built.extents);
    }
    let finished = builder.finish();
    let root = PlacementKey(finished.root.0);
    indexes.extend(finished.built.indexes);
    extents.extend(finished.built.extents);
    let mut placed: Vec<(PlacementKey, Object)> = indexes.into_iter().map(|index| (root, index)).collect();
    placed.extend(finished.under_root.iter().map(|leaf| (root, leaves[leaf].clone())));
    for extent in extents {
        placed.extend(extent.objects.iter().map(|leaf| (extent.key, leaves[leaf].clone())));
    }
    (finished.root, placed)
}

impl World {
    /// Everybody of the five closest to a key holds what is placed there, but the empty.
    fn new(manners: &[Manner], content: &Bytes, range: Range) -> Self {
        Self::wanting(manners, content, Wanted::Bytes(range))
    }

    fn wanting(manners: &[Manner], content: &Bytes, wanted: Wanted) -> Self {
        Self::cut(manners, content, wanted, SMALL, WINDOW)
    }

    fn cut(manners: &[Manner], content: &Bytes, wanted: Wanted, geometry: Geometry, window: u64) -> Self {
        let timeline = Timeline::new();
        let started = timeline.now();
        let (root, placed) = objects_of(content, geometry);
        let manners: BTreeMap<PeerId, Manner> =
            manners.iter().enumerate().map(|(n, manner)| (peer(n as u32 + 1), *manner)).collect();
        let mut stores: BTreeMap<PeerId, BTreeMap<ObjectRef, Object>> = BTreeMap::new();
        for (key, object) in placed {
            for holder in placement::closest(&key, manners.keys().copied(), placement::READ_CANDIDATES) {
                if manners[&holder] != Empty {
                    stores.entry(holder).or_default().insert(*object.reference(), object.clone());
                }
            }
        }
        let config = GetConfig { me: peer(ME), stall: Duration::from_secs(30), window, geometry };
        Self {
            get: Get::new(config, root, wanted, started),
            timeline,
            manners,
            stores,
            lines: BTreeMap::new(),
            root,
            delivered: Vec::new(),
            result: None,
            asked_of_liars: 0,
            received: 0,
            started,
            reader: true,
            view: true,
        }
    }

    fn run(mut self) -> Self {
        self.start();
        self.go_on()
    }

    fn start(&mut self) {
        let known = if self.view { self.everybody() } else { Vec::new() };
        self.input(Input::Start(known, Standing::default()));
    }

    fn go_on(mut self) -> Self {
        self.timeline.after(Duration::ZERO, Event::Tick);
        while self.result.is_none() {
            assert!(self.timeline.now() - self.started < Duration::from_secs(7200), "a get hangs");
            self.happen();
        }
        self
    }

    fn happen(&mut self) {
        match self.timeline.pop().expect("ticks go on") {
            Event::Input(input) => self.input(input),
            Event::Sent(peer) => {
                let line = self.lines.get_mut(&peer).expect("a line that sends");
                let (_, _, input) = line.pop_front().expect("something that was sent");
                self.send_next(peer);
                self.input(input);
            }
            Event::Tick => {
                // Something comes all the time from those who send, though an object takes long.
                let sending = self.lines.iter().filter(|(_, line)| !line.is_empty());
                for peer in sending.map(|(peer, _)| *peer).collect::<Vec<_>>() {
                    self.input(Input::Heard(peer));
                }
                self.input(Input::Tick);
                self.timeline.after(TICK, Event::Tick);
            }
        }
    }

    fn send_next(&mut self, peer: PeerId) {
        if let Some((_, takes, _)) = self.lines.get(&peer).and_then(VecDeque::front) {
            self.timeline.after(*takes, Event::Sent(peer));
        }
    }

    fn later(&mut self, delay: Duration, input: Input) {
        self.timeline.after(delay, Event::Input(input));
    }

    fn took(&self) -> Duration {
        self.timeline.now() - self.started
    }

    fn input(&mut self, input: Input) {
        if let Input::Got(peer, object) = &input
            && *peer != peer_me()
        {
            self.received += object.payload().len() as u64;
        }
        for effect in self.get.handle(input, self.timeline.now()) {
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Locate(part, key) => {
                let closest = placement::closest(&key, self.everybody(), placement::READ_CANDIDATES);
                self.later(LATENCY, Input::Located(part, closest, self.everybody()));
            }
            Effect::AskRoot(peers) => {
                for peer in peers {
                    let root = Id::Root(self.root);
                    let has = self.stores.get(&peer).is_some_and(|store| store.keys().any(|held| held.id == root));
                    let (delay, answer) = self.answer(peer, true, has);
                    self.later(delay, Input::RootAnswered(peer, answer));
                }
            }
            Effect::Ask(part, peers, objects) => {
                for peer in peers {
                    let store = self.stores.get(&peer);
                    let has = |held: &&ObjectRef| store.is_some_and(|store| store.contains_key(held));
                    let held = objects.iter().filter(has).copied().collect();
                    let (delay, answer) = self.answer(peer, objects.clone(), held);
                    self.later(delay, Input::Answered(part, peer, answer));
                }
            }
            Effect::Fetch(peer, wants) => self.fetch(peer, wants),
            Effect::Cancel(peer, want) => {
                // What is being sent arrives all the same.
                let line = self.lines.entry(peer).or_default();
                let mut n = 0;
                line.retain(|(other, ..)| {
                    n += 1;
                    n == 1 || *other != want
                });
            }
            Effect::Found(_) | Effect::Silent(_) => {}
            Effect::Deliver(object) => {
                self.delivered.extend_from_slice(object.payload());
                if self.reader {
                    self.later(LATENCY, Input::Consumed(object.payload().len() as u64));
                }
            }
            Effect::Finished => self.result = Some(Ok(())),
            Effect::Failed(error) => self.result = Some(Err(error)),
        }
    }

    /// What a peer says it has, and when: liars all, the others what they hold.
    fn answer<T>(&self, peer: PeerId, all: T, held: T) -> (Duration, Option<T>) {
        match self.manners.get(&peer) {
            Some(Dead) => (LATENCY, None),
            Some(Silent) => (SOURCE_SILENT_MAX, None),
            Some(Liar) => (LATENCY, Some(all)),
            _ => (LATENCY, Some(held)),
        }
    }

    fn everybody(&self) -> Vec<PeerId> {
        self.manners.keys().copied().chain([peer_me()]).collect()
    }

    fn fetch(&mut self, peer: PeerId, wants: Vec<Want>) {
        let manner = self.manners.get(&peer).copied().unwrap_or(Empty);
        for (n, want) in wants.into_iter().enumerate() {
            let root = Id::Root(self.root);
            let is_it = |held: &ObjectRef| match want {
                Want::Root => held.id == root,
                Want::Object(reference) => *held == reference,
            };
            let held = self.stores.get(&peer).into_iter().flatten().find(|(held, _)| is_it(held));
            let held = held.map(|(_, object)| object.clone());
            let got = |object: Option<Object>| match object {
                Some(object) => Input::Got(peer, object),
                None => Input::Missed(peer, want, Outcome::Absent),
            };
            let missed = |outcome| Input::Missed(peer, want, outcome);
            let leaf_time = |rate: u64| Duration::from_secs(1) / rate as u32;
            let (takes, input) = match manner {
                Silent => continue,
                Stalls(_) if self.timeline.now() - self.started > Duration::from_millis(500) => continue,
                Dead => (LATENCY, missed(Outcome::Failed)),
                Liar => {
                    self.asked_of_liars += 1;
                    (LATENCY, missed(Outcome::Bad))
                }
                Corrupts(rate) => (leaf_time(rate), missed(Outcome::Bad)),
                Breaks if n > 0 => (LATENCY, missed(Outcome::Failed)),
                Empty | Breaks | Honest => (Duration::from_millis(1), got(held)),
                Slow => (leaf_time(1), got(held)),
                Rated(rate) | Stalls(rate) if want != Want::Root => (leaf_time(rate), got(held)),
                Rated(_) | Stalls(_) => (LATENCY, got(held)),
            };
            let line = self.lines.entry(peer).or_default();
            line.push_back((want, takes, input));
            if line.len() == 1 {
                self.timeline.after(LATENCY + takes, Event::Sent(peer));
            }
        }
    }
}

/// The way to every peer and back.
const LATENCY: Duration = Duration::from_millis(2);

fn peer_me() -> PeerId {
    peer(ME)
}

fn check(manners: &[Manner], len: usize) -> World {
    let content = bytes(len as u64, len);
    let world = World::new(manners, &content, Range::ALL).run();
    assert_eq!(world.result, Some(Ok(())), "{manners:?}");
    assert!(world.delivered == content, "{manners:?}: other bytes");
    world
}

#[test]
fn a_file_of_any_size_comes_whole_and_in_order() {
    for len in [0, 1, 1023, 1024, 1025, 2048, 2049, 4096, 4097, 8192, 20_000, 65_536] {
        let world = check(&[Honest; 5], len);
        assert!(world.took() < Duration::from_secs(1), "{len}: {:?}", world.took());
    }
}

#[test]
fn dead_and_broken_sources_cost_little() {
    let world = check(&[Dead, Honest, Breaks, Dead, Breaks], 50_000);
    assert!(world.took() < Duration::from_secs(2), "{:?}", world.took());
}

#[test]
fn a_silent_source_is_given_up_and_asked_last_afterwards() {
    let world = check(&[Silent, Silent, Silent, Silent, Honest], 50_000);
    // Each costs its silence once, in the search for the root and for the parts that are under way then, not for every part.
    assert!(world.took() < 6 * SOURCE_SILENT_MAX, "{:?}", world.took());
}

#[test]
fn a_liar_is_not_asked_twice_for_one_file() {
    let world = check(&[Liar, Honest, Honest, Honest, Honest], 60_000);
    // Parts that were under way at the first lie can be lied about too.
    assert!(world.asked_of_liars <= 1 + (WINDOW / SMALL.extent_len()) as usize, "{}", world.asked_of_liars);
    assert!(world.took() < Duration::from_secs(1));
}

#[test]
fn slow_is_not_silent() {
    check(&[Slow; 5], 20_000);
}

#[test]
fn without_a_view_a_lookup_finds_the_holders() {
    let content = bytes(11, 60_000);
    let mut world = World::new(&[Honest; 5], &content, Range::ALL);
    world.view = false;
    let world = world.run();
    assert_eq!(world.result, Some(Ok(())));
    assert!(world.delivered == content);
}

#[test]
fn growth_does_not_hide_content() {
    // The file was placed when there were five members; forty more are closer now and hold nothing.
    let content = bytes(3, 30_000);
    let mut world = World::new(&[Honest; 5], &content, Range::ALL);
    for n in 10..50 {
        world.manners.insert(peer(n), Empty);
    }
    let world = world.run();
    assert_eq!(world.result, Some(Ok(())));
    assert!(world.delivered == content);
}

#[test]
fn unknown_content_is_not_found_as_soon_as_everybody_has_said_so() {
    let content = bytes(4, 5000);
    let mut world = World::new(&[Empty; 30], &content, Range::ALL);
    world.stores.clear();
    let world = world.run();
    assert_eq!(world.result, Some(Err(GetError::NotFound { asked: 31 })));
    assert!(world.took() < Duration::from_secs(1), "{:?}", world.took());
}

#[test]
fn unknown_content_is_not_found_within_the_limit_when_somebody_cannot_be_asked() {
    for manner in [Dead, Silent] {
        let mut world = World::new(&[Empty, manner, Empty], &bytes(4, 5000), Range::ALL);
        world.stores.clear();
        let world = world.run();
        assert!(matches!(world.result, Some(Err(GetError::NotFound { .. }))));
        assert!(world.took() <= Duration::from_secs(31), "{:?}", world.took());
    }
}

#[test]
fn a_file_whose_rest_is_gone_ends_within_the_limit() {
    let content = bytes(5, 30_000);
    let mut world = World::new(&[Honest; 5], &content, Range::ALL);
    for store in world.stores.values_mut() {
        store.retain(|reference, _| reference.offset < 10_000);
    }
    let world = world.run();
    assert_eq!(world.result, Some(Err(GetError::Stalled(10_240))));
    assert!(world.delivered == content[..10_240]);
    assert!(world.took() <= Duration::from_secs(32), "{:?}", world.took());
}

#[test]
fn a_range_touches_only_the_leaves_it_needs() {
    let content = bytes(6, 60_000);
    for (start, end) in [(0, 1), (5000, 5001), (1024, 2048), (1023, 2049), (59_999, 60_000), (7000, 33_333)] {
        let world = World::new(&[Honest; 5], &content, Range { start, end: Some(end) }).run();
        assert_eq!(world.result, Some(Ok(())));
        let first = start / 1024 * 1024;
        let last = end.div_ceil(1024).saturating_mul(1024).min(60_000);
        assert!(world.delivered == content[first as usize..last as usize], "{start}..{end}");
    }
    let beyond = World::new(&[Honest; 5], &content, Range { start: 60_000, end: None }).run();
    assert_eq!(beyond.result, Some(Err(GetError::OutOfRange(60_000))));
}

#[test]
fn a_reader_that_stops_fills_no_memory_and_can_go_on_later() {
    let content = bytes(8, 60_000);
    let mut world = World::new(&[Honest; 5], &content, Range::ALL);
    world.reader = false;
    world.start();
    world.timeline.after(TICK, Event::Tick);
    let stopped = world.timeline.now() + Duration::from_secs(3600);
    while world.timeline.now() < stopped {
        world.happen();
    }
    assert_eq!(world.result, None, "it neither ends nor fails");
    assert!(world.delivered.len() as u64 <= WINDOW, "{} bytes wait", world.delivered.len());
    world.reader = true;
    world.started = world.timeline.now();
    world.input(Input::Consumed(world.delivered.len() as u64));
    let world = world.go_on();
    assert_eq!(world.result, Some(Ok(())));
    assert!(world.delivered == content);
}

#[test]
fn indexes_alone_name_every_object_and_cost_no_leaf() {
    for len in [0, 1000, 1025, 5000, 30_000, 65_536] {
        let content = bytes(len as u64, len);
        let (_, placed) = objects_of(&content, SMALL);
        let world = World::wanting(&[Honest; 5], &content, Wanted::Indexes).run();
        assert_eq!(world.result, Some(Ok(())));
        let mut expected: Vec<usize> = placed
            .iter()
            .map(|(_, object)| object)
            .filter(|object| len <= 1024 || !object.children_in(&SMALL).is_empty())
            .map(|object| object.payload().len())
            .collect();
        expected.sort_unstable();
        assert_eq!(world.delivered.len(), expected.iter().sum::<usize>(), "{len}");
    }
}

/// A file of 256 leaves from these members, all of whom hold all of it: how it went.
fn fetched_from(manners: &[Manner]) -> World {
    let content = bytes(9, 256 << 10);
    let world = World::cut(manners, &content, Wanted::Bytes(Range::ALL), REAL, 32 << 10).run();
    assert_eq!(world.result, Some(Ok(())), "{manners:?}");
    assert!(world.delivered == content, "{manners:?}: other bytes");
    eprintln!("{manners:?} {:?} {:?} {:.2}%", world.took(), world.get.stats(), wasted(&world));
    world
}

/// Bytes that came beside those of the file and its index, in percent.
fn wasted(world: &World) -> f64 {
    let index = 256.0 * 32.0 + 64.0;
    (world.received as f64 - index) / (256.0 * 1024.0) * 100.0 - 100.0
}

#[test]
fn three_sources_are_almost_three_times_as_fast_as_one() {
    let one = fetched_from(&[Rated(20)]);
    let three = fetched_from(&[Rated(20); 3]);
    let gain = one.took().as_secs_f64() / three.took().as_secs_f64();
    assert!(gain >= 2.8, "{gain}: {:?} against {:?}", one.took(), three.took());
    assert!(wasted(&three) <= 2.0, "{}%", wasted(&three));
}

#[test]
fn sources_are_used_as_fast_as_each_is() {
    for rates in [[5, 20, 80], [1, 50, 50], [80, 1, 1], [10, 30, 200]] {
        let world = fetched_from(&rates.map(Rated));
        let ideal = Duration::from_secs_f64(256.0 / rates.iter().sum::<u64>() as f64);
        assert!(world.took() <= ideal * 13 / 10, "{rates:?}: {:?}, not {ideal:?}", world.took());
        assert!(wasted(&world) <= 2.0, "{rates:?}: {}%", wasted(&world));
    }
}

#[test]
fn a_source_that_corrupts_or_stalls_costs_little() {
    let good = fetched_from(&[Rated(20); 3]);
    for fourth in [Corrupts(20), Stalls(20), Silent, Dead, Liar] {
        let world = fetched_from(&[Rated(20), Rated(20), Rated(20), fourth]);
        let cost = world.took().as_secs_f64() / good.took().as_secs_f64();
        assert!(cost <= 1.10, "{fourth:?}: {cost}");
        assert!(wasted(&world) <= 2.0, "{fourth:?}: {}%", wasted(&world));
    }
}

#[test]
fn silent_candidates_do_not_hold_up_the_start() {
    for seed in 0..8 {
        let content = bytes(100 + seed, 1000);
        let world = World::new(&[Silent, Silent, Honest], &content, Range::ALL).run();
        assert_eq!(world.result, Some(Ok(())));
        assert!(world.took() < Duration::from_secs(2), "{:?}", world.took());
    }
}

#[test]
fn a_crowd_of_silent_strangers_around_the_key_does_not_hold_up_who_is_known_to_be_reliable() {
    let content = bytes(7, 1000);
    let mut world = World::new(&[Honest; 3], &content, Range::ALL);
    for n in 10..200 {
        world.manners.insert(peer(n), Silent);
    }
    let standing = Standing { reliable: [peer(2), peer(3)].into_iter().collect(), ..Standing::default() };
    let members = world.everybody();
    let root = PlacementKey(world.root.0);
    let closest = placement::closest(&root, members.clone(), placement::READ_CANDIDATES);
    assert!(closest.iter().all(|peer| *peer == peer_me() || world.manners[peer] == Silent));
    world.input(Input::Start(members, standing));
    let world = world.go_on();
    assert_eq!(world.result, Some(Ok(())));
    assert!(world.took() < Duration::from_millis(200), "{:?}", world.took());
}

/// Whatever the others do: the bytes are right or there are none, and it ends.
#[test]
fn right_bytes_or_an_error_in_time() {
    for seed in seeds(300) {
        let mut dice = dice(seed);
        let manners: Vec<Manner> = (0..dice.random_range(1..12))
            .map(|_| match dice.random_range(0..12) {
                0 => Dead,
                1 => Silent,
                2 => Liar,
                3 => Breaks,
                4 => Slow,
                5 => Empty,
                _ => Honest,
            })
            .collect();
        let content = bytes(seed, dice.random_range(0..40_000));
        let mut world = World::new(&manners, &content, Range::ALL);
        world.view = dice.random();
        let world = world.run();
        assert!(content.starts_with(&world.delivered), "seed {seed}: {manners:?}");
        if world.result == Some(Ok(())) {
            assert!(world.delivered == content, "seed {seed}: {manners:?}");
        }
        let all_placed = |world: &World| {
            let honest = world.manners.iter().filter(|(_, manner)| matches!(manner, Honest | Slow));
            honest.count() >= world.manners.len().saturating_sub(4).max(1) && world.manners.len() <= 5
        };
        if all_placed(&world) {
            assert_eq!(world.result, Some(Ok(())), "seed {seed}: {manners:?}");
        }
    }
}
