//! Crash images: what is left of a store when the power goes off at any moment.
//!
//! A seeded history of real rules runs on the real store over a recording file system. Then images are cut from the record,
//! each a set of files that a loss of power could have left, and opened with the real store. Every image must hold exactly
//! the state after some commit, no older than the last one that anybody was told of. The reference for these states is
//! the store in memory, which runs the same history.
//!
//! `P2P_CRASH_IMAGES` says how many images, `P2P_SEED` with which seed to begin.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use p2p_dht::object::Object;
use p2p_dht::store::MemoryStore;
use p2p_dht::store::contract::{Action, Dice, Scene, visible};
use p2p_vfs::{Disk, Event, FileName, Losses, Vfs};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::tests::by_hand;
use super::*;

/// Images in an ordinary run.
const IMAGES: u64 = 200;

/// Images that are cut from one history, those of its second halves included.
const IMAGES_PER_HISTORY: u64 = FIRST_IMAGES + FIRST_IMAGES / AGAIN * AGAIN_IMAGES;

/// Images that are cut from its first half.
const FIRST_IMAGES: u64 = 40;

/// One of these in so many is the start of a second half, in which the power goes off again.
const AGAIN: u64 = 10;

/// Images that are cut from each of those.
const AGAIN_IMAGES: u64 = 5;

/// Batches of rules in one history; each batch is one commit.
const BATCHES: usize = 40;

/// Most rules in one.
const BATCH_RULES_MAX: u64 = 6;

/// Room for payloads: less than all objects of the scene take, so that cache is pushed out.
const BYTES_MAX: u64 = 2 << 20;

/// Pages of the log after which it is written into the file: few, so that this often happens.
const PAGES: u32 = 24;

/// Time passes in steps that never add up to exactly the time after which uploads expire.
const STEP: Duration = Duration::from_secs(7 * 3600);

#[test]
fn crash_images() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let images = number("P2P_CRASH_IMAGES").unwrap_or(IMAGES);
    let first = number("P2P_SEED").unwrap_or(0);
    let histories = images.div_ceil(IMAGES_PER_HISTORY);
    let mut cut = 0;
    for seed in first..first + histories {
        let mut history = History::new(seed);
        let record = history.record(&Files::new());
        cut += history.check_images(&record, FIRST_IMAGES, true);
    }
    println!("{cut} crash images of {histories} histories from seed {first}");
}

type Files = BTreeMap<FileName, Vec<u8>>;

/// What runs in one commit, after some time has passed.
#[derive(Clone)]
struct Batch {
    steps: u32,
    actions: Vec<Action>,
}

/// A random history, as far as it has been written down.
struct History {
    seed: u64,
    dice: StdRng,
    scene: Scene,
    runtime: tokio::runtime::Runtime,
    batches: Vec<Batch>,
    /// What can be seen after so many batches.
    states: Vec<String>,
}

/// What happened on the disk. Marks 2n and 2n + 1 say that batch n was begun, and that somebody was told of it.
struct Record {
    events: Vec<Event>,
    /// Events that only tell what was there before.
    earlier: usize,
    /// Batches that were durable before.
    before: usize,
}

impl History {
    fn new(seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let empty = scene();
        let states = vec![runtime.block_on(visible(&empty, &MemoryStore::new(BYTES_MAX)))];
        Self { seed, dice: StdRng::seed_from_u64(seed), scene: empty, runtime, batches: Vec::new(), states }
    }

    /// Runs on a store over these files, which hold the state after all batches so far.
    fn record(&mut self, start: &Files) -> Record {
        let (home, vfs) = (folder(), Vfs::register());
        vfs.record();
        let mut events = settled(start);
        let earlier = events.len();
        write(home.path(), start);
        let passed = Arc::new(Mutex::new(Duration::ZERO));
        let setup = Setup { vfs: Some(vfs.name()), clock: by_hand(&passed), ..setup() };
        let open = || Objects::open_with(home.path(), setup.clone()).expect("a store");
        let (mut store, memory, before) = (open(), self.memory(), self.batches.len());
        for n in before..before + BATCHES {
            let batch = self.roll();
            *passed.lock().expect("no panic") += STEP * batch.steps;
            memory.advance(STEP * batch.steps);
            vfs.mark(2 * n as u64);
            let outcomes = self.commit(&store, &batch.actions, move || vfs.mark(2 * n as u64 + 1));
            assert_eq!(outcomes, self.run(&memory, &batch.actions), "{:?}\n{}", batch.actions, self.replay());
            self.states.push(self.runtime.block_on(visible(&self.scene, &memory)));
            self.batches.push(batch);
            match self.dice.random_range(0..8) {
                0 => self.runtime.block_on(store.give_back_space()),
                1 => {
                    self.runtime.block_on(store.close());
                    store = open();
                }
                _ => {}
            }
        }
        events.extend(vfs.take_events());
        self.runtime.block_on(store.close());
        Record { events, earlier, before }
    }

    fn roll(&mut self) -> Batch {
        let mut dice = Dice(self.dice.random());
        let actions = (0..=dice.roll(BATCH_RULES_MAX)).map(|_| Action::roll(&self.scene, &mut dice)).collect();
        Batch { steps: u32::from(dice.roll(3) == 0), actions }
    }

    /// The state after all batches so far.
    fn memory(&self) -> MemoryStore {
        let memory = MemoryStore::new(BYTES_MAX);
        for batch in &self.batches {
            memory.advance(STEP * batch.steps);
            self.run(&memory, &batch.actions);
        }
        memory
    }

    fn run(&self, store: &MemoryStore, actions: &[Action]) -> Vec<String> {
        let run = actions.iter().map(|action| self.runtime.block_on(action.clone().run(&self.scene, store)));
        run.collect()
    }

    /// Runs rules in one commit; `heard` is called where their callers hear of it, on the thread that tells them.
    fn commit(
        &self,
        store: &Objects,
        actions: &[Action],
        heard: impl Fn() + Send + Sync + Clone + 'static,
    ) -> Vec<String> {
        let (go, gate) = std::sync::mpsc::channel::<()>();
        // It holds the writer until the others wait behind it.
        let hold_up = store.write(0, move |_| {
            let _ = gate.recv();
            Ok(String::new())
        });
        let rules = actions.iter().map(|action| action.clone().attempt(&self.scene, store));
        let mut calls: Vec<Call<'_>> = vec![Call::new(hold_up, || ())];
        calls.extend(rules.map(|rule| Call::new(rule, heard.clone())));
        calls.iter_mut().for_each(Call::poll);
        drop(go);
        let outcomes = calls.into_iter().skip(1).map(|call| call.wait().expect("the store works"));
        outcomes.collect()
    }

    /// Cuts images from a record and checks them; says how many.
    fn check_images(&mut self, record: &Record, count: u64, again: bool) -> u64 {
        let told: Vec<usize> = (0..record.events.len())
            .filter(|at| matches!(record.events[*at], Event::Mark(mark) if mark % 2 == 1))
            .collect();
        let any = record.earlier..=record.events.len();
        let mut cuts: Vec<usize> = (0..count)
            // Half of them right after somebody was told something.
            .map(|n| {
                if n % 2 == 0 {
                    told[self.dice.random_range(0..told.len())] + 1
                } else {
                    self.dice.random_range(any.clone())
                }
            })
            .collect();
        cuts.sort_unstable();
        let (mut disk, mut at) = (Disk::default(), 0);
        let (mut told, mut begun, mut images) = (record.before, record.before, 0);
        for (n, cut) in cuts.into_iter().enumerate() {
            for event in &record.events[at..cut] {
                disk.apply(event);
                match event {
                    Event::Mark(mark) if mark % 2 == 1 => told = (*mark as usize / 2) + 1,
                    Event::Mark(mark) => begun = (*mark as usize / 2) + 1,
                    _ => {}
                }
            }
            at = cut;
            let losses = [Losses::All, Losses::Nothing, Losses::Some, Losses::Some, Losses::Some][n % 5];
            let files = disk.image(losses, &mut self.dice);
            let place = format!("cut at event {cut} of {}, losing {losses:?}", record.events.len());
            let state = self.check_image(&files, told, begun, &place);
            images += 1;
            if again && n as u64 % AGAIN == AGAIN - 1 {
                images += self.crash_again(&files, state);
            }
        }
        images
    }

    /// Goes on from an image, and lets the power go off again, soonest while the store recovers.
    fn crash_again(&mut self, files: &Files, state: usize) -> u64 {
        let mut after = Self::new(self.seed);
        after.dice = StdRng::seed_from_u64(self.dice.random());
        after.batches = self.batches[..state].to_vec();
        after.states = self.states[..=state].to_vec();
        let record = after.record(files);
        after.check_images(&record, AGAIN_IMAGES, false)
    }

    /// Opens an image; says how many batches it holds.
    fn check_image(&mut self, files: &Files, told: usize, begun: usize, place: &str) -> usize {
        let home = folder();
        write(home.path(), files);
        if self.dice.random() {
            // What stands in shared memory means nothing after a loss of power.
            std::fs::write(home.path().join("objects.db-shm"), vec![self.dice.random(); 32 << 10]).expect("room");
        }
        let replay = self.replay();
        let store = Objects::open_with(home.path(), setup())
            .unwrap_or_else(|error| panic!("{place}: it does not open: {error}\n{replay}"));
        let found = self.runtime.block_on(visible(&self.scene, &store));
        let state = (told..=begun).find(|state| self.states[*state] == found);
        let state = state.unwrap_or_else(|| {
            let wanted = self.states[told..=begun].join("\n  or\n");
            panic!(
                "{place}: after {told} to {begun} batches there should be\n{wanted}\n  and there is\n{found}\n{replay}"
            )
        });
        let problems = problems(&home.path().join(FILE_NAME));
        assert!(problems.is_empty(), "{place}: {problems:?}\n{replay}");
        self.runtime.block_on(store.close());
        state
    }

    /// The command that does the same again.
    fn replay(&self) -> String {
        let seed = self.seed;
        format!(
            "again: P2P_SEED={seed} P2P_CRASH_IMAGES={IMAGES_PER_HISTORY} cargo test --workspace --lib crash_images"
        )
    }
}

fn setup() -> Setup {
    Setup { checkpoint_pages: PAGES, clock: by_hand(&Arc::default()), ..Setup::new(BYTES_MAX) }
}

/// Objects of all sizes: of no byte, of part of a page, of pages, and of a whole leaf.
fn scene() -> Scene {
    let lens = [0, 1, 100, 100, 5_000, 20_000, 60_000, 70_000, 140_000, 200_000, 300_000, 400_000, 700_000, 1 << 20];
    Scene::of(lens.iter().enumerate().map(|(n, len)| {
        let mut bytes = vec![0; *len];
        blake3::Hasher::new().update(&[n as u8]).finalize_xof().fill(&mut bytes);
        if n % 2 == 0 { Object::whole_file(bytes.into()) } else { Object::leaf(bytes.into(), (n as u64) << 20) }
    }))
}

/// A folder for many images: in memory where there is such a place, because nobody needs these to be durable.
fn folder() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    tempfile::tempdir_in(&memory).or_else(|_| tempfile::tempdir()).expect("a folder")
}

fn write(home: &Path, files: &Files) {
    for (name, bytes) in files {
        std::fs::write(home.join(&**name), bytes).expect("room for an image");
    }
}

/// What leads to these files with nothing left to be synced.
fn settled(files: &Files) -> Vec<Event> {
    let of = |(name, bytes): (&FileName, &Vec<u8>)| {
        let written = Event::Write(name.clone(), 0, bytes.as_slice().into());
        [Event::Create(name.clone()), written, Event::Sync(name.clone())]
    };
    files.iter().flat_map(of).chain([Event::SyncFolder]).collect()
}

/// What SQLite finds wrong with a file, and what the tables say of each other that is not so.
fn problems(path: &Path) -> Vec<String> {
    let db = rusqlite::Connection::open(path).expect("a database");
    let all = |sql: &str| -> Vec<String> {
        let mut statement = db.prepare(sql).expect("it is SQL");
        let rows = statement.query_map([], |row| row.get(0)).expect("it runs");
        rows.map(|row| row.expect("text")).collect()
    };
    let mut problems = all("PRAGMA integrity_check");
    problems.retain(|line| line != "ok");
    problems.extend(all(
        "SELECT 'payload of object ' || row FROM objects LEFT JOIN payloads USING (row) WHERE size IS NOT length(bytes)
         UNION ALL SELECT 'object of payload ' || row FROM payloads LEFT JOIN objects USING (row) WHERE size IS NULL
         UNION ALL SELECT 'holds of object ' || row FROM objects
             WHERE holds <> (SELECT count(*) FROM holds WHERE object = objects.row)
         UNION ALL SELECT 'objects of upload ' || row FROM uploads
             WHERE objects <> (SELECT count(*) FROM holds WHERE upload = uploads.row)
         UNION ALL SELECT 'totals' FROM state
             WHERE objects <> (SELECT count(*) FROM objects) OR bytes <> (SELECT total(size) FROM objects)",
    ));
    problems
}

/// A call of the store that has been made, and is told of its end on the thread that ends it.
struct Call<'a> {
    call: Pin<Box<dyn Future<Output = StoreResult<String>> + 'a>>,
    told: Arc<Told>,
    result: Option<StoreResult<String>>,
}

struct Told {
    heard: Box<dyn Fn() + Send + Sync>,
    woken: AtomicBool,
    caller: Thread,
}

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        (self.heard)();
        self.woken.store(true, Ordering::Release);
        self.caller.unpark();
    }
}

impl<'a> Call<'a> {
    fn new(call: impl Future<Output = StoreResult<String>> + 'a, heard: impl Fn() + Send + Sync + 'static) -> Self {
        let told = Told { heard: Box::new(heard), woken: AtomicBool::new(false), caller: std::thread::current() };
        Self { call: Box::pin(call), told: Arc::new(told), result: None }
    }

    fn poll(&mut self) {
        let waker = Waker::from(self.told.clone());
        if let Poll::Ready(result) = self.call.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.result = Some(result);
        }
    }

    fn wait(mut self) -> StoreResult<String> {
        loop {
            if let Some(result) = self.result {
                return result;
            }
            while !self.told.woken.swap(false, Ordering::Acquire) {
                std::thread::park();
            }
            self.poll();
        }
    }
}
