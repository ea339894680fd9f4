//! Everything that can happen, in a mix and an intensity of its own for every seed.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::cluster::{Cluster, Fate, Heard};
use super::judge::Judge;
use super::peer::Disk;
use super::profile::Order;
use crate::sim::{BEGINNING, Links, Loss, Slot};
use crate::swim::{Config, Event, Time};

/// How long things go wrong.
const TROUBLE: Duration = Duration::from_secs(90);

/// After so long without trouble all views are equal and right; who was put out for being unreliable may stay away for most
/// of it.
const CALM_MAX: Duration = Duration::from_secs(1200);

/// Whom everybody may be let in by.
const CONTACTS: [Slot; 3] = [Slot(0), Slot(1), Slot(2)];

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Kill,
    Crash,
    Stall,
    Part,
    Cut,
    Lose,
    LoseEverywhere,
    Leave,
    Copy,
}

const ALL: [Trouble; 9] = [
    Trouble::Kill,
    Trouble::Crash,
    Trouble::Stall,
    Trouble::Part,
    Trouble::Cut,
    Trouble::Lose,
    Trouble::LoseEverywhere,
    Trouble::Leave,
    Trouble::Copy,
];

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
    judge: Judge,
    rng: SmallRng,
    copies: usize,
    /// Hears what happens, as lines for people.
    trace: &'a mut dyn FnMut(String),
}

/// Runs one seed; `trace` hears what happens, as lines for people.
pub fn run(seed: u64, trace: &mut dyn FnMut(String)) -> Verdict {
    let mut rng = <SmallRng as rand::SeedableRng>::seed_from_u64(seed);
    let nodes = rng.random_range(3..=64);
    let links = if rng.random_bool(0.8) { Links::lan() } else { Links::region() };
    let mut cluster = Cluster::new(nodes, Config::lan(), links, seed);
    cluster.start_formed(Duration::from_secs(3));
    let mut run = Run { cluster, judge: Judge::default(), rng, copies: 0, trace };
    for slot in run.cluster.running() {
        run.note_start(slot);
    }
    let mix: Vec<Trouble> = ALL.into_iter().filter(|_| run.rng.random_bool(0.4)).collect();
    let pause = Duration::from_secs_f64(run.rng.random_range(0.2..10.0));
    let end = run.cluster.world.now() + TROUBLE;
    while run.cluster.world.now() < end {
        if let Some(trouble) = mix.choose(&mut run.rng) {
            run.happen(*trouble);
        }
        let time = pause.mul_f64(run.rng.random_range(0.1..2.0));
        run.wait(time);
    }
    run.mend();
    run.note("all is whole again");
    let (judge, trace) = (&mut run.judge, &mut run.trace);
    let calm = run.cluster.run_until_agreed(CALM_MAX, |heard, event| {
        trace(line(&heard, &event));
        judge.look(&heard, &event);
    });
    let mut violations = run.judge.violations;
    if calm.is_none() {
        let explained = run
            .cluster
            .disagreement()
            .and_then(|(slot, member)| Some((slot, member, run.cluster.world.node(slot)?.machine.explain(member))));
        let running = run.cluster.running();
        violations.push(format!("no agreement among {running:?} of {nodes}, {mix:?}: {explained:?}"));
    }
    Verdict { violations, calm, events: run.cluster.world.events() }
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
        (self.trace)(format!("{} -- {what}", clock(self.cluster.world.now())));
    }

    fn note_start(&mut self, slot: Slot) {
        if let Some(peer) = self.cluster.world.node(slot) {
            self.judge.note_start(self.cluster.member(slot), peer.machine.record().version());
        }
    }

    fn wait(&mut self, time: Duration) {
        let (judge, trace) = (&mut self.judge, &mut self.trace);
        self.cluster.run(time, |heard, event| {
            trace(line(&heard, &event));
            judge.look(&heard, &event);
        });
    }

    fn any(&mut self, slots: &[Slot]) -> Option<Slot> {
        slots.choose(&mut self.rng).copied()
    }

    fn happen(&mut self, trouble: Trouble) {
        let running = self.cluster.running();
        let Some(slot) = self.any(&running) else { return self.start_some() };
        let other = self.any(&running).unwrap_or(slot);
        match trouble {
            Trouble::Kill | Trouble::Crash if running.len() > 1 => {
                let fate = if trouble == Trouble::Kill { Fate::Killed } else { Fate::Crashed };
                self.cluster.end(slot, fate);
                let lost = self.rng.random_bool(0.1);
                self.note(&format!("node {} is {fate:?}{}", slot.0, if lost { ", and so is its disk" } else { "" }));
                if lost {
                    self.cluster.disks[slot.0 as usize] = Disk::default();
                }
            }
            Trouble::Stall if !self.cluster.world.is_stalled(slot) => {
                let time = Duration::from_secs_f64(self.rng.random_range(0.1..10.0));
                self.cluster.world.stall(slot, time);
                self.note(&format!("node {} stands still for {time:?}", slot.0));
            }
            Trouble::Part => {
                let slots = self.cluster.world.slots().count();
                let parts = self.rng.random_range(1..4);
                let part_of: Vec<u32> = (0..slots).map(|_| self.rng.random_range(0..parts)).collect();
                self.note(&format!("parts {part_of:?}"));
                self.cluster.world.links.set_parts((parts > 1).then_some(part_of));
                self.cluster.world.links_changed();
            }
            Trouble::Cut => {
                let cut = self.rng.random_bool(0.5);
                self.cluster.world.links.set_cut(slot, other, cut);
                self.note(&format!("from node {} to {} {}", slot.0, other.0, if cut { "is cut" } else { "is whole" }));
                self.cluster.world.links_changed();
            }
            Trouble::Lose => {
                let loss = Loss { sent: self.rng.random_range(0.0..0.9), received: self.rng.random_range(0.0..0.9) };
                let loss = if self.rng.random_bool(0.5) { loss } else { Loss::default() };
                self.cluster.world.links.set_loss_at(slot, loss);
                self.note(&format!("node {} has {loss:?}", slot.0));
            }
            Trouble::LoseEverywhere => {
                let loss = self.rng.random_range(0.0..0.3);
                self.cluster.world.links.loss = loss;
                self.note(&format!("everybody loses {loss:.2}"));
            }
            Trouble::Leave if running.len() > 2 && self.rng.random_bool(0.2) => {
                self.note(&format!("node {} leaves", slot.0));
                self.cluster.order(slot, Order::Leave);
            }
            Trouble::Copy if self.copies < 2 => {
                self.copies += 1;
                self.judge.note_copy(self.cluster.member(slot));
                self.cluster.save(slot);
                let copy = self.cluster.add_clone(slot);
                self.start(copy);
            }
            Trouble::Kill | Trouble::Crash | Trouble::Stall | Trouble::Leave | Trouble::Copy => {}
        }
        if self.rng.random_bool(0.5) {
            self.start_some();
        }
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
        for slot in CONTACTS {
            if self.cluster.world.node(slot).is_none() {
                self.start(slot);
            }
        }
        let links = &mut self.cluster.world.links;
        links.loss = 0.0;
        links.mend();
        self.cluster.world.links_changed();
    }
}
