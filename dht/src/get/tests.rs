use bytes::Bytes;
use rand::Rng;

use super::*;
use crate::object::TreeBuilder;
use crate::placement;
use crate::testing::{Timeline, bytes, dice, peer, seeds};

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
    /// Breaks off after the first object of each part.
    Breaks,
    /// Honest, at one object a second.
    Slow,
    /// Holds nothing.
    Empty,
}

use Manner::{Breaks, Dead, Empty, Honest, Liar, Silent, Slow};

struct World {
    get: Get,
    timeline: Timeline<Option<Input>>,
    manners: BTreeMap<PeerId, Manner>,
    /// Which members hold which objects.
    stores: BTreeMap<PeerId, BTreeMap<ObjectRef, Object>>,
    root: RootId,
    delivered: Vec<u8>,
    result: Option<Result<(), GetError>>,
    asked_of_liars: usize,
    started: Instant,
    /// Whether what is delivered is read.
    reader: bool,
}

/// Four of the larger parts.
const WINDOW: u64 = 8 << 10;

/// This node is peer 0 and holds nothing.
const ME: u32 = 0;

fn objects_of(content: &Bytes) -> (RootId, Vec<(PlacementKey, Object)>) {
    if content.len() as u64 <= SMALL.leaf_len {
        let object = Object::whole_file(content.clone());
        let root = crate::tree::root_id(content);
        return (root, vec![(PlacementKey(root.0), object)]);
    }
    let mut builder = TreeBuilder::new_in(SMALL);
    let (mut leaves, mut indexes, mut extents) = (BTreeMap::new(), Vec::new(), Vec::new());
    for start in (0..content.len()).step_by(SMALL.leaf_len as usize) {
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
        let timeline = Timeline::new();
        let started = timeline.now();
        let (root, placed) = objects_of(content);
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
        let config = GetConfig { me: peer(ME), stall: Duration::from_secs(30), window: WINDOW, geometry: SMALL };
        Self {
            get: Get::new(config, root, wanted, started),
            timeline,
            manners,
            stores,
            root,
            delivered: Vec::new(),
            result: None,
            asked_of_liars: 0,
            started,
            reader: true,
        }
    }

    fn run(mut self) -> Self {
        self.input(Input::Start);
        self.go_on()
    }

    fn go_on(mut self) -> Self {
        self.timeline.after(Duration::ZERO, None);
        while self.result.is_none() {
            match self.timeline.pop().expect("ticks go on") {
                Some(input) => self.input(input),
                None => {
                    assert!(self.timeline.now() - self.started < Duration::from_secs(7200), "a get hangs");
                    self.input(Input::Tick);
                    self.timeline.after(Duration::from_millis(250), None);
                }
            }
        }
        self
    }

    fn took(&self) -> Duration {
        self.timeline.now() - self.started
    }

    fn input(&mut self, input: Input) {
        for effect in self.get.handle(input, self.timeline.now()) {
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: Effect) {
        const LATENCY: Duration = Duration::from_millis(2);
        match effect {
            Effect::Locate(part, key) => {
                let closest = placement::closest(&key, self.everybody(), placement::READ_CANDIDATES);
                self.timeline.after(LATENCY, Some(Input::Located(part, closest, self.everybody())));
            }
            Effect::FetchRoot(part, peer) => {
                let root = Id::Root(self.root);
                let held = self.stores.get(&peer).into_iter().flatten().find(|(reference, _)| reference.id == root);
                let wants = held.map(|(reference, _)| *reference).into_iter().collect();
                self.fetch(part, peer, wants);
            }
            Effect::Fetch(part, peer, wants) => self.fetch(part, peer, wants),
            Effect::Ask(part, peers, reference) => {
                for peer in peers {
                    let has = match self.manners.get(&peer) {
                        None => Some(false),
                        Some(Dead) => None,
                        Some(Silent) => {
                            self.timeline.after(Duration::from_secs(3), Some(Input::Answered(part, peer, None)));
                            continue;
                        }
                        Some(Liar) => Some(true),
                        Some(Honest | Breaks | Slow | Empty) => Some(self.has(peer, reference)),
                    };
                    self.timeline.after(LATENCY, Some(Input::Answered(part, peer, has)));
                }
            }
            // What is on its way arrives all the same.
            Effect::Abandon(..) | Effect::Found(_) => {}
            Effect::Deliver(object) => {
                self.delivered.extend_from_slice(object.payload());
                if self.reader {
                    let len = object.payload().len() as u64;
                    self.timeline.after(LATENCY, Some(Input::Consumed(len)));
                }
            }
            Effect::Finished => self.result = Some(Ok(())),
            Effect::Failed(error) => self.result = Some(Err(error)),
        }
    }

    fn everybody(&self) -> Vec<PeerId> {
        self.manners.keys().copied().chain([peer(ME)]).collect()
    }

    fn has(&self, peer: PeerId, reference: Option<ObjectRef>) -> bool {
        let root = Id::Root(self.root);
        self.stores.get(&peer).is_some_and(|store| match reference {
            Some(reference) => store.contains_key(&reference),
            None => store.keys().any(|reference| reference.id == root),
        })
    }

    fn fetch(&mut self, part: Part, peer: PeerId, wants: Vec<ObjectRef>) {
        let manner = self.manners.get(&peer).copied().unwrap_or(Empty);
        let mut delay = Duration::from_millis(2);
        let held: Vec<Object> = wants.iter().filter_map(|want| self.stores.get(&peer)?.get(want)).cloned().collect();
        let (objects, outcome) = match manner {
            Silent => return,
            Dead => (Vec::new(), Outcome::Failed),
            Liar => {
                self.asked_of_liars += 1;
                (Vec::new(), Outcome::Bad)
            }
            Empty => (Vec::new(), Outcome::Done),
            Breaks => (held.into_iter().take(1).collect(), Outcome::Failed),
            Honest | Slow => (held, Outcome::Done),
        };
        for object in objects {
            delay += Duration::from_millis(if manner == Slow { 1000 } else { 1 });
            self.timeline.after(delay, Some(Input::Got(part, peer, object)));
        }
        self.timeline.after(delay, Some(Input::Ended(part, peer, outcome)));
    }
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
    world.input(Input::Start);
    let stopped = world.timeline.now() + Duration::from_secs(3600);
    while world.timeline.now() < stopped {
        world.timeline.after(Duration::from_millis(250), None);
        let input = world.timeline.pop().expect("ticks go on").unwrap_or(Input::Tick);
        world.input(input);
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
        let (_, placed) = objects_of(&content);
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
        let world = World::new(&manners, &content, Range::ALL).run();
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
