//! Random histories of the real rules, on a store over a file system that tests rule, and what they must lead to.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use p2p_dht::object::Object;
use p2p_dht::store::contract::{Action, Dice, Scene, visible};
use p2p_vfs::{Event, FileName, Vfs};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// Most rules in one batch; each batch is one commit.
const BATCH_RULES_MAX: u64 = 6;

/// Room for payloads: less than all objects of the scene take, so that cache is pushed out.
const BYTES_MAX: u64 = 2 << 20;

/// Pages of the log after which it is written into the file: few, so that this often happens.
const PAGES: u64 = 24;

/// Time passes in steps that never add up to exactly the time after which uploads expire.
const STEP: Duration = Duration::from_secs(7 * 3600);

/// A folder of memory, where there is one with room.
const MEMORY: &str = "/dev/shm";

/// Room that it must have.
const MEMORY_FREE_MIN: u64 = 512 << 20;

/// Files of a home.
pub(super) type Files = BTreeMap<FileName, Vec<u8>>;

/// What runs in one commit, after some time has passed.
#[derive(Clone)]
pub(super) struct Batch {
    steps: u32,
    actions: Vec<Action>,
}

/// A random history, as far as it has been written down.
pub(super) struct History {
    pub(super) dice: StdRng,
    pub(super) runtime: tokio::runtime::Runtime,
    scene: Scene,
    /// What did happen, in order.
    pub(super) batches: Vec<Batch>,
    /// What can be seen after so many batches.
    pub(super) states: Vec<String>,
    /// Batches of which somebody was told.
    pub(super) told: usize,
    /// The command that does the same again.
    pub(super) replay: String,
}

/// A store that a history runs on, over a recording file system. Marks 2n and 2n + 1 in its record say that batch n was
/// begun, and that somebody was told of it.
pub(super) struct Stage {
    pub(super) home: TempDir,
    pub(super) vfs: Vfs,
    pub(super) setup: Setup,
    /// The same, in memory.
    memory: MemoryStore,
    passed: Arc<Mutex<Duration>>,
    /// What led to the files that were there first.
    pub(super) earlier: Vec<Event>,
}

impl Stage {
    pub(super) fn open(&self) -> Result<Objects, OpenError> {
        Objects::open_with(self.home.path(), self.setup.clone())
    }

    /// All that has happened on the disk since the last call; with what was there before, the first time.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.earlier);
        events.extend(self.vfs.take_events());
        events
    }
}

impl History {
    pub(super) fn new(seed: u64, replay: String) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let scene = scene();
        let states = vec![runtime.block_on(visible(&scene, &MemoryStore::new(BYTES_MAX)))];
        Self { dice: StdRng::seed_from_u64(seed), runtime, scene, batches: Vec::new(), states, told: 0, replay }
    }

    /// The same history up to a state, to go on from there in another way.
    pub(super) fn branch(&mut self, state: usize) -> Self {
        let mut branch = Self::new(self.dice.random(), self.replay.clone());
        branch.batches = self.batches[..state].to_vec();
        branch.states = self.states[..=state].to_vec();
        branch.told = state;
        branch
    }

    /// Forgets all after a state: it did not happen.
    pub(super) fn cut(&mut self, state: usize) {
        self.batches.truncate(state);
        self.states.truncate(state + 1);
        self.told = state;
    }

    /// A stage with these files, which hold the state after all batches so far.
    pub(super) fn stage(&self, start: &Files) -> Stage {
        let (home, vfs) = (folder(), Vfs::register());
        vfs.record();
        write(home.path(), start);
        let passed = Arc::default();
        let setup = Setup { vfs: Some(vfs.name()), clock: by_hand(&passed), ..setup() };
        Stage { home, vfs, setup, memory: self.memory(), passed, earlier: settled(start) }
    }

    /// Forgets what the last batch did, but not that time passed.
    pub(super) fn void(&mut self, stage: &mut Stage) {
        self.batches.last_mut().expect("a batch").actions.clear();
        self.restage(stage);
        self.told = self.batches.len();
        self.states[self.told] = self.runtime.block_on(visible(&self.scene, &stage.memory));
    }

    /// Lets a stage's reference in memory be what this history says.
    pub(super) fn restage(&self, stage: &mut Stage) {
        stage.memory = self.memory();
    }

    /// Rolls a batch and runs it. It is part of the history when it fails too, because it may have reached the disk.
    pub(super) fn step(&mut self, stage: &Stage, store: &Objects) -> StoreResult<()> {
        let (n, batch) = (self.batches.len() as u64, self.roll());
        *stage.passed.lock().expect("no panic") += STEP * batch.steps;
        stage.memory.advance(STEP * batch.steps);
        let vfs = stage.vfs;
        vfs.mark(2 * n);
        let outcomes = self.commit(store, &batch.actions, move || vfs.mark(2 * n + 1));
        let expected = self.run(&stage.memory, &batch.actions);
        self.states.push(self.runtime.block_on(visible(&self.scene, &stage.memory)));
        let told = format!("{:?}\n{}", batch.actions, self.replay);
        self.batches.push(batch);
        assert_eq!(outcomes?, expected, "{told}");
        self.told = self.batches.len();
        Ok(())
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
    ) -> StoreResult<Vec<String>> {
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
        // All of them, whatever became of the first.
        let outcomes: Vec<_> = calls.into_iter().skip(1).map(Call::wait).collect();
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert!(failed == 0 || failed == outcomes.len(), "rules of one commit share its outcome: {outcomes:?}");
        outcomes.into_iter().collect()
    }

    /// Reads every object by the store's readers.
    pub(super) fn read_all(&self, store: &Objects) -> StoreResult<()> {
        for object in self.scene.objects() {
            let reference = *object.reference();
            let read = self.runtime.block_on(store.read(move |view| view.object(&reference)))?;
            assert!(read.is_none_or(|read| read == *object), "{}", self.replay);
        }
        Ok(())
    }

    /// Which of some states a store holds.
    pub(super) fn find_state(&self, store: &Objects, told: usize, begun: usize, place: &str) -> usize {
        let found = self.runtime.block_on(visible(&self.scene, store));
        let state = (told..=begun).find(|state| self.states[*state] == found);
        state.unwrap_or_else(|| {
            let wanted = self.states[told..=begun].join("\n  or\n");
            let replay = &self.replay;
            panic!(
                "{place}: after {told} to {begun} batches there should be\n{wanted}\n  and there is\n{found}\n{replay}"
            )
        })
    }

    /// Opens files that a loss of power has left; says how many batches they hold.
    pub(super) fn check_image(&mut self, files: &Files, told: usize, begun: usize, place: &str) -> usize {
        let home = folder();
        write(home.path(), files);
        if self.dice.random() {
            // What stands in shared memory means nothing after a loss of power.
            std::fs::write(home.path().join("objects.db-shm"), vec![self.dice.random(); 32 << 10]).expect("room");
        }
        let store = Objects::open_with(home.path(), setup())
            .unwrap_or_else(|error| panic!("{place}: it does not open: {error}\n{}", self.replay));
        let state = self.find_state(&store, told, begun, place);
        let problems = problems(&home.path().join(FILE_NAME));
        assert!(problems.is_empty(), "{place}: {problems:?}\n{}", self.replay);
        self.runtime.block_on(store.close());
        state
    }
}

/// A number from the environment.
pub(super) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// A store that the disk does not limit.
fn setup() -> Setup {
    let (clock, free): (_, Free) = (by_hand(&Arc::default()), Arc::new(|_| u64::MAX));
    Setup { checkpoint_pages: PAGES, reserve_len: 0, clock, free, ..Setup::new(BYTES_MAX) }
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

/// A folder for many stores: in memory where there is such a place, because nobody needs these to be durable.
fn folder() -> TempDir {
    let memory = PathBuf::from(MEMORY);
    let roomy = room::free_on_disk(&memory) >= MEMORY_FREE_MIN;
    let made = if memory.is_dir() && roomy { tempfile::tempdir_in(&memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).expect("a folder")
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
