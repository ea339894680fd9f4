//! Processes that stand still: for so long as is to be lived through, for longer, and for good.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;

use super::super::awaited::Awaited;
use super::super::figures::Figures;
use super::super::profile::Profile;
use super::{Setup, finish, seconds};
use crate::sim::{Links, Slot};
use crate::swim::State;

/// Stalls of two seconds in one run.
const SHORT: usize = 100;

/// Stalls of eight seconds in one run.
const LONG: usize = 20;

/// One of so many nodes stands still at a time.
const NODES_PER_STALL: usize = 50;

/// Stops for good in one run.
const STOPS: usize = 60;

/// A run is looked at so often.
const STEP: Duration = Duration::from_millis(50);

/// Longer than any run.
const FOR_GOOD: Duration = Duration::from_secs(1 << 20);

/// Whoever is not down everywhere after so long is given up.
const DOWN_TIME_MAX: Duration = Duration::from_secs(120);

pub(super) fn run<P: Profile>(setup: Setup) -> Figures {
    let mut cluster = setup.formed::<P>(Links::lan());
    let mut figures = Figures::default();
    let at_once = (setup.nodes / NODES_PER_STALL).max(1);
    for _ in 0..SHORT.div_ceil(at_once) {
        let stalled = some(&mut cluster, at_once);
        for slot in &stalled {
            cluster.run(seconds(0.1), |_, _| {});
            cluster.world.stall(*slot, seconds(2.0));
        }
        let mut downs = std::collections::BTreeSet::new();
        let rest = seconds(cluster.rng.random_range(4.0..6.0));
        cluster.run(rest, |_, event| {
            downs.extend(P::change(&event).filter(|change| change.state == State::Down).map(|change| change.member));
        });
        figures.count("stalls of 2 s", stalled.len());
        figures.count("downs in 2 s", downs.len());
    }
    for _ in 0..LONG {
        let [slot] = some(&mut cluster, 1)[..] else { continue };
        let member = cluster.member(slot);
        cluster.world.stall(slot, seconds(8.0));
        cluster.run(seconds(8.0), |_, _| {});
        let running = cluster.running();
        let down = running.iter().filter(|other| **other != slot && cluster.view(**other, member) == Some(State::Down));
        let is_down = down.count() == running.len() - 1;
        figures.count("stalls of 8 s", 1);
        figures.count("stalls of 8 s not down everywhere", usize::from(!is_down));
        match cluster.run_until_agreed(seconds(120.0), |_, _| {}) {
            Some(took) if is_down => figures.time("back after 8 s", took),
            Some(_) => {}
            None => figures.problems.push("who stood still for 8 s is not back after 120 s".to_owned()),
        }
        cluster.run(seconds(3.0), |_, _| {});
    }
    finish(&cluster, figures)
}

/// Each stands still until all take it for down, and goes on; the next does as soon as all see it again.
pub(super) fn for_good<P: Profile>(setup: Setup) -> Figures {
    let mut cluster = setup.formed::<P>(Links::lan());
    let mut figures = Figures::default();
    let mut last = None;
    for _ in 0..STOPS {
        let running = cluster.running();
        let others: Vec<Slot> = running.iter().filter(|slot| Some(**slot) != last).copied().collect();
        let Some(slot) = others.choose(&mut cluster.rng).copied() else { break };
        let stay: Vec<Slot> = running.into_iter().filter(|other| *other != slot).collect();
        let (member, mut others) = (cluster.member(slot), 0);
        let is_other = |event: &P::Event| {
            P::change(event).is_some_and(|change| change.state == State::Down && change.member != member)
        };
        let mut awaited = Awaited::new(&[State::Down]);
        awaited.expect(member, cluster.world.now(), &stay);
        cluster.world.stall(slot, FOR_GOOD);
        let end = cluster.world.now() + DOWN_TIME_MAX;
        while awaited.all.is_empty() && cluster.world.now() < end {
            cluster.run(STEP, |heard, event| {
                others += usize::from(is_other(&event));
                awaited.look(&heard, &event);
            });
        }
        figures.count("stops", 1);
        figures.count("not down everywhere", awaited.give_up());
        awaited.all.iter().for_each(|took| figures.time("down at every node", *took));
        cluster.world.stall(slot, Duration::ZERO);
        match cluster.run_until_agreed(DOWN_TIME_MAX, |_, event| others += usize::from(is_other(&event))) {
            Some(took) => figures.time("back", took),
            None => figures.problems.push("who goes on is not back after 120 s".to_owned()),
        }
        figures.count("downs of those that were not stopped", others);
        last = Some(slot);
    }
    finish(&cluster, figures)
}

fn some<P: Profile>(cluster: &mut super::Cluster<P>, count: usize) -> Vec<Slot> {
    let running = cluster.running();
    running.choose_multiple(&mut cluster.rng, count).copied().collect()
}
