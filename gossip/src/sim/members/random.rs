//! Everything that can happen, in a mix and an intensity of its own for every seed (swarm testing: Groce et al., ISSTA 2012).

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::cluster::{Cluster, Fate, Heard, Watcher};
use super::forger;
use super::judge::Judge;
use super::keys::KeyRing;
use super::peer::{Disk, Peer};
use super::profile::Order;
use crate::sim::{BEGINNING, Happened, Links, Loss, Slot, World};
use crate::swim::{Config, Event, Fact, Member, Message, Time};

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(90);

/// After so long without trouble all views are equal and right; who was put out for being unreliable may stay away for most
/// of it.
const CALM_MAX: Duration = Duration::from_secs(1200);

/// A moment after all agree on who is there they also agree on what everybody says of itself.
const EQUAL_MAX: Duration = Duration::from_secs(60);

/// Whom everybody may be let in by.
const CONTACTS: [Slot; 3] = [Slot(0), Slot(1), Slot(2)];

/// One of so many seeds has real keys, which take most of its time.
const REAL_KEYS: u64 = 50;

/// One of so many seeds has nothing in it for which anybody may be put down.
const HARMLESS: u64 = 8;

/// Whoever was told to leave has stopped after this, though it stood still when it was told.
const LEAVE_TIME: Duration = Duration::from_secs(14);

/// What is to be lived through.
const SHORT_STALL: Duration = Duration::from_secs(2);

/// Between two looks at whether anything did not hold.
const SLICE: Duration = Duration::from_millis(50);

/// Facts that were seen, of which some are said again long after.
const SEEN_MAX: usize = 1000;

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Kill,
    Crash,
    Stall,
    ShortStall,
    Slow,
    Part,
    Cut,
    Lose,
    LoseEverywhere,
    Leave,
    Copy,
    Describe,
    Forge,
    Replay,
}

const ALL: [Trouble; 14] = [
    Trouble::Kill,
    Trouble::Crash,
    Trouble::Stall,
    Trouble::ShortStall,
    Trouble::Slow,
    Trouble::Part,
    Trouble::Cut,
    Trouble::Lose,
    Trouble::LoseEverywhere,
    Trouble::Leave,
    Trouble::Copy,
    Trouble::Describe,
    Trouble::Forge,
    Trouble::Replay,
];

const ALL_HARMLESS: [Trouble; 4] = [Trouble::ShortStall, Trouble::Describe, Trouble::Forge, Trouble::Replay];

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What did not hold.
    pub violations: Vec<String>,
    /// How long it took until all agreed.
    pub calm: Option<Duration>,
    /// Whatever happened, in number.
    pub events: u64,
}

struct Run<'a> {
    cluster: Cluster,
    watcher: Observer<'a>,
    rng: SmallRng,
    copies: usize,
}

/// Judges what nodes tell, writes it down, and keeps some of it.
struct Observer<'a> {
    judge: Judge,
    seen: Vec<Arc<Fact>>,
    /// Hears what happens, as lines for people.
    trace: &'a mut dyn FnMut(String),
}

impl Watcher<Peer> for Observer<'_> {
    fn hear(&mut self, heard: Heard<'_>, event: Event) {
        (self.trace)(line(&heard, &event));
        self.judge.look(&heard, &event);
        if let Event::Changed(_, fact) = event
            && self.seen.len() < SEEN_MAX
        {
            self.seen.push(fact);
        }
    }

    fn look_at(&mut self, world: &World<Peer>, slot: Slot) {
        self.judge.look_at(world, slot);
    }
}

/// Runs one seed; `trace` hears what happens, as lines for people.
pub fn run(seed: u64, trace: &mut dyn FnMut(String)) -> Verdict {
    let mut rng = SmallRng::seed_from_u64(seed);
    let has_real_keys = seed % REAL_KEYS == REAL_KEYS - 1;
    let nodes = rng.random_range(3..=if has_real_keys { 16 } else { 64 });
    let links = if rng.random_bool(0.8) { Links::lan() } else { Links::region() };
    let keys = if has_real_keys { KeyRing::Real(Vec::new()) } else { KeyRing::StandIns };
    let mut cluster = Cluster::with_keys(keys, nodes, Config::lan(), links, seed);
    cluster.start_formed(Duration::from_secs(3));
    let watcher = Observer { judge: Judge::default(), seen: Vec::new(), trace };
    let mut run = Run { cluster, watcher, rng, copies: 0 };
    for slot in run.cluster.running() {
        run.note_start(slot);
    }
    let mix = run.go_wrong(seed.is_multiple_of(HARMLESS));
    run.mend();
    let calm = run.wait_until(CALM_MAX, "who is there", &mix, Cluster::disagreement);
    if calm.is_some() {
        run.wait_until(EQUAL_MAX, "what they say of themselves", &mix, difference);
    }
    Verdict { violations: run.watcher.judge.violations, calm, events: run.cluster.world.events() }
}

/// A member of whose record somebody has another version than that member itself.
fn difference(cluster: &Cluster) -> Option<(Slot, Member)> {
    let nodes = || cluster.running().into_iter().filter_map(|slot| Some((slot, cluster.world.node(slot)?)));
    nodes().find_map(|(_, of)| {
        let record = of.machine.record();
        let member = cluster.world.shared.directory.find(record.name())?;
        let other = nodes().find(|(_, peer)| {
            let fact = peer.machine.members().get(member);
            fact.is_none_or(|fact| fact.version() != record.version() || fact.record().hash() != record.hash())
        });
        other.map(|(slot, _)| (slot, member))
    })
}

/// What a node tells, for people.
fn line(heard: &Heard<'_>, event: &Event) -> String {
    let what = match event {
        Event::Changed(member, fact) => format!("takes {} for {fact:?}", member.number()),
        Event::Suspected(member, true) => format!("suspects {}", member.number()),
        Event::Suspected(member, false) => format!("suspects {} no more", member.number()),
        Event::Isolated(true) => "is cut off".to_owned(),
        Event::Isolated(false) => "is cut off no more".to_owned(),
        Event::Refuted => "says that it is not down".to_owned(),
        Event::PutOut => "was put out, and stays away".to_owned(),
    };
    format!("{} node {} {what}", clock(heard.now), heard.slot.0)
}

/// Time since the beginning of a world.
fn clock(now: Time) -> String {
    format!("{:>12.6}", now.since(BEGINNING).as_secs_f64())
}

impl Run<'_> {
    fn note(&mut self, what: &str) {
        (self.watcher.trace)(format!("{} -- {what}", clock(self.cluster.world.now())));
    }

    fn note_start(&mut self, slot: Slot) {
        if let Some(peer) = self.cluster.world.node(slot) {
            self.watcher.judge.note_start(self.cluster.member(slot), peer.machine.record().version());
        }
    }

    /// Lets things go wrong for a while; says which.
    fn go_wrong(&mut self, harmless: bool) -> Vec<Trouble> {
        let (all, share): (&[Trouble], _) = if harmless { (&ALL_HARMLESS, 0.7) } else { (&ALL, 0.4) };
        let mix: Vec<Trouble> = all.iter().copied().filter(|_| self.rng.random_bool(share)).collect();
        let mut pause = Duration::from_secs_f64(self.rng.random_range(0.2..10.0));
        if harmless {
            self.watcher.judge.expect_nobody_down();
            // One stall is over, and forgotten, before the next begins.
            pause = SHORT_STALL * 4;
        }
        self.note(&format!("{mix:?}{}", if harmless { ", and nobody may be put down" } else { "" }));
        let end = self.cluster.world.now() + TROUBLE;
        while self.cluster.world.now() < end && !self.is_lost() {
            if let Some(trouble) = mix.choose(&mut self.rng) {
                self.happen(*trouble);
            }
            if !harmless && self.rng.random_bool(0.5) {
                self.start_some();
            }
            let share = if harmless { 1.0 } else { self.rng.random_range(0.1..2.0) };
            self.wait(pause.mul_f64(share));
        }
        mix
    }

    fn wait(&mut self, time: Duration) {
        let end = self.cluster.world.now() + time;
        while self.cluster.world.now() < end && !self.is_lost() {
            let left = end.since(self.cluster.world.now());
            self.cluster.run_watched(left.min(SLICE), &mut self.watcher);
        }
    }

    /// Something did not hold: what comes after it says no more, and may never end.
    fn is_lost(&self) -> bool {
        !self.watcher.judge.violations.is_empty()
    }

    /// Waits until all agree on something; says so where they never do.
    fn wait_until(
        &mut self,
        limit: Duration,
        on: &str,
        mix: &[Trouble],
        differs: fn(&Cluster) -> Option<(Slot, Member)>,
    ) -> Option<Duration> {
        let began = self.cluster.world.now();
        while differs(&self.cluster).is_some() && self.cluster.world.now() < began + limit && !self.is_lost() {
            self.cluster.run_watched(SLICE, &mut self.watcher);
        }
        let agreed = differs(&self.cluster).is_none().then(|| self.cluster.world.now().since(began));
        if agreed.is_none() && !self.is_lost() {
            let explained = differs(&self.cluster).and_then(|(slot, member)| {
                Some((slot, member, self.cluster.world.node(slot)?.machine.explain(member)))
            });
            let (running, nodes) = (self.cluster.running(), self.cluster.world.slots().count());
            let problem = format!("no agreement on {on} among {running:?} of {nodes}, {mix:?}: {explained:?}");
            self.watcher.judge.violations.push(problem);
        }
        agreed
    }

    fn any(&mut self, slots: &[Slot]) -> Option<Slot> {
        slots.choose(&mut self.rng).copied()
    }

    fn happen(&mut self, trouble: Trouble) {
        let running = self.cluster.running();
        let Some(slot) = self.any(&running) else { return self.start_some() };
        match trouble {
            Trouble::Kill | Trouble::Crash if running.len() > 1 => self.end(slot, trouble == Trouble::Kill),
            Trouble::Stall => self.stall(slot, Duration::from_secs(10)),
            Trouble::ShortStall => self.stall(slot, SHORT_STALL),
            Trouble::Slow => {
                let lag = Duration::from_millis(self.rng.random_range(0..400));
                self.note(&format!("node {} is {lag:?} late with everything", slot.0));
                self.cluster.world.slow(slot, lag);
            }
            Trouble::Part | Trouble::Cut | Trouble::Lose | Trouble::LoseEverywhere => self.hurt_links(slot, trouble),
            Trouble::Leave if running.len() > 2 && self.rng.random_bool(0.2) => {
                self.note(&format!("node {} leaves", slot.0));
                self.cluster.order(slot, Order::Leave);
            }
            Trouble::Copy if self.copies < 2 => self.copy(slot),
            Trouble::Describe => {
                self.note(&format!("node {} says something else of itself", slot.0));
                let tag = self.rng.random();
                self.cluster.order(slot, Order::Describe(tag));
            }
            Trouble::Forge => self.forge(slot),
            Trouble::Replay => self.replay(slot),
            Trouble::Kill | Trouble::Crash | Trouble::Leave | Trouble::Copy => {}
        }
    }

    fn end(&mut self, slot: Slot, kill: bool) {
        let fate = if kill { Fate::Killed } else { Fate::Crashed };
        self.cluster.end(slot, fate);
        let lost = self.rng.random_bool(0.1);
        self.note(&format!("node {} is {fate:?}{}", slot.0, if lost { ", and so is its disk" } else { "" }));
        if lost {
            self.cluster.disks[slot.0 as usize] = Disk::default();
        }
    }

    fn stall(&mut self, slot: Slot, most: Duration) {
        if !self.cluster.world.is_stalled(slot) {
            let time = most.mul_f64(self.rng.random_range(0.01..1.0));
            self.cluster.world.stall(slot, time);
            self.note(&format!("node {} stands still for {time:?}", slot.0));
        }
    }

    fn hurt_links(&mut self, slot: Slot, trouble: Trouble) {
        let slots: Vec<Slot> = self.cluster.world.slots().collect();
        let other = self.any(&slots).unwrap_or(slot);
        match trouble {
            Trouble::Part => {
                let parts = self.rng.random_range(1..4);
                let part_of: Vec<u32> = slots.iter().map(|_| self.rng.random_range(0..parts)).collect();
                self.note(&format!("parts {part_of:?}"));
                self.cluster.world.links.set_parts((parts > 1).then_some(part_of));
            }
            Trouble::Cut => {
                let cut = self.rng.random_bool(0.5);
                self.cluster.world.links.set_cut(slot, other, cut);
                self.note(&format!("from node {} to {} {}", slot.0, other.0, if cut { "is cut" } else { "is whole" }));
            }
            Trouble::Lose => {
                let loss = Loss { sent: self.rng.random_range(0.0..0.9), received: self.rng.random_range(0.0..0.9) };
                let loss = if self.rng.random_bool(0.5) { loss } else { Loss::default() };
                self.cluster.world.links.set_loss_at(slot, loss);
                self.note(&format!("node {} has {loss:?}", slot.0));
            }
            _ => {
                let loss = self.rng.random_range(0.0..0.3);
                self.cluster.world.links.loss = loss;
                self.note(&format!("everybody loses {loss:.2}"));
            }
        }
        self.cluster.world.links_changed();
    }

    /// A machine with a copy of another's home starts.
    fn copy(&mut self, slot: Slot) {
        self.copies += 1;
        self.watcher.judge.note_copy(self.cluster.member(slot));
        self.cluster.save(slot);
        let copy = self.cluster.add_clone(slot);
        self.note(&format!("node {} has a copy of the home of {}", copy.0, slot.0));
        self.start(copy);
    }

    /// Somebody whom a node is connected to says what nobody with any business has signed.
    fn forge(&mut self, slot: Slot) {
        let Some(by) = self.connected(slot) else { return };
        let Some((what, message)) = forger::forge(&self.cluster, slot, by, &mut self.rng) else { return };
        self.note(&format!("node {} tells {} {what}: {message:?}", by.0, slot.0));
        self.cluster.world.tell(slot, Happened::Message(by, message));
    }

    /// Somebody says again what was true once.
    fn replay(&mut self, slot: Slot) {
        let some: Vec<Arc<Fact>> = self.watcher.seen.choose_multiple(&mut self.rng, 3).cloned().collect();
        let Some(by) = self.connected(slot).filter(|_| !some.is_empty()) else { return };
        self.note(&format!("node {} tells {} again {some:?}", by.0, slot.0));
        let message = if self.rng.random_bool(0.5) { Message::News(some) } else { Message::Known(some) };
        self.cluster.world.tell(slot, Happened::Message(by, message));
    }

    fn connected(&mut self, slot: Slot) -> Option<Slot> {
        let peer = self.cluster.world.node(slot)?;
        let others: Vec<Member> = peer.machine.connections().map(|(member, _)| member).collect();
        let member = others.choose(&mut self.rng)?;
        Some(self.cluster.world.shared.slot_of[member.number() as usize])
    }

    /// Starts somebody who does not run.
    fn start_some(&mut self) {
        let running = self.cluster.running();
        let slots: Vec<Slot> = self.cluster.world.slots().filter(|slot| !running.contains(slot)).collect();
        if let Some(slot) = self.any(&slots) {
            self.start(slot);
        }
    }

    fn start(&mut self, slot: Slot) {
        self.cluster.start(slot, &CONTACTS);
        self.note(&format!("node {} starts", slot.0));
        self.note_start(slot);
    }

    /// Nothing goes wrong any more; who is down stays so, but for those whom all know from the beginning: whoever comes back
    /// from long ago to addresses of which none is in use any more is alone for ever, and rightly so.
    fn mend(&mut self) {
        // Who is about to leave has done so first.
        self.wait(LEAVE_TIME);
        for slot in CONTACTS {
            if self.cluster.world.node(slot).is_none() {
                self.start(slot);
            }
        }
        let slots: Vec<Slot> = self.cluster.world.slots().collect();
        slots.into_iter().for_each(|slot| self.cluster.world.slow(slot, Duration::ZERO));
        let links = &mut self.cluster.world.links;
        links.loss = 0.0;
        links.mend();
        self.cluster.world.links_changed();
        self.note("all is whole again");
    }
}
