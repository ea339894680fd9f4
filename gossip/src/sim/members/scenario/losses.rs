//! Nodes that end: one after the other, most of them, or just after they came.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;

use super::super::awaited::Awaited;
use super::super::cluster::Fate;
use super::super::figures::Figures;
use super::super::profile::{Change, Order, Profile};
use super::{Setup, agree, finish, seconds};
use crate::sim::{Links, Slot};
use crate::swim::{Member, State};

/// Ends of one run.
const ENDS: usize = 40;

/// Where there are so many nodes one more ends at a time: their neighbours are others.
const NODES_PER_END: usize = 250;

/// Whoever is not down everywhere after so long is given up.
const DOWN_TIME_MAX: Duration = Duration::from_secs(120);

const GONE: &[State] = &[State::Down, State::Left];

pub(super) fn killed<P: Profile>(setup: Setup) -> Figures {
    ends::<P>(setup, Fate::Killed)
}

pub(super) fn dark<P: Profile>(setup: Setup) -> Figures {
    ends::<P>(setup, Fate::Crashed)
}

fn ends<P: Profile>(setup: Setup, fate: Fate) -> Figures {
    let mut cluster = setup.formed::<P>(Links::lan());
    let mut figures = Figures::default();
    let at_once = (setup.nodes / NODES_PER_END).clamp(1, ENDS);
    for _ in 0..ENDS / at_once {
        let running = cluster.running();
        let ended: Vec<Slot> = running.choose_multiple(&mut cluster.rng, at_once).copied().collect();
        let stay: Vec<Slot> = running.into_iter().filter(|slot| !ended.contains(slot)).collect();
        let mut awaited = Awaited::new(GONE);
        for slot in &ended {
            let pause = seconds(cluster.rng.random_range(0.0..2.0)).div_f64(at_once as f64);
            cluster.run(pause, |heard, event| awaited.look(&heard, &event));
            let member = cluster.member(*slot);
            cluster.end(*slot, fate);
            awaited.expect(member, cluster.world.now(), &stay);
        }
        awaited.wait(&mut cluster, DOWN_TIME_MAX);
        figures.count("members that end", ended.len());
        figures.count("not down everywhere", awaited.give_up());
        awaited.each.iter().for_each(|took| figures.time("down at a node", *took));
        awaited.all.iter().for_each(|took| figures.time("down at every node", *took));
        ended.iter().for_each(|slot| cluster.start(*slot, &[stay[0]]));
        if cluster.run_until_agreed(seconds(60.0), |_, _| {}).is_none() {
            figures.problems.push("not all agree after a restart".to_owned());
        }
        cluster.run(seconds(5.0), |_, _| {});
    }
    finish(&cluster, figures)
}

/// Of two or three nodes one is left, of more a fifth.
pub(super) fn survivors<P: Profile>(setup: Setup) -> Figures {
    let mut cluster = setup.formed::<P>(Links::lan());
    let mut figures = Figures::default();
    let fate = if setup.seed.is_multiple_of(2) { Fate::Killed } else { Fate::Crashed };
    let left = (setup.nodes / 5).max(1);
    let running = cluster.running();
    let stay: Vec<Slot> = running.choose_multiple(&mut cluster.rng, left).copied().collect();
    running.into_iter().filter(|slot| !stay.contains(slot)).for_each(|slot| cluster.end(slot, fate));
    let name = match fate {
        Fate::Killed => "views equal, of killed",
        Fate::Crashed => "views equal, of dark",
    };
    agree(&mut cluster, &mut figures, name);
    finish(&cluster, figures)
}

/// Who comes in goes dark as soon as its contact has heard of it.
pub(super) fn orphan<P: Profile>(setup: Setup) -> Figures {
    let mut cluster = setup.formed::<P>(Links::lan());
    let mut figures = Figures::default();
    for _ in 0..5 {
        let slot = cluster.add();
        let member = cluster.member(slot);
        let contact = Slot(cluster.rng.random_range(0..setup.nodes as u32));
        cluster.start(slot, &[contact]);
        let end = cluster.world.now() + seconds(5.0);
        while cluster.view(contact, member).is_none() && cluster.world.now() < end {
            cluster.run(Duration::from_millis(1), |_, _| {});
        }
        cluster.end(slot, Fate::Crashed);
        // Whoever hears of it a moment later is to know the end of it too.
        cluster.run(seconds(1.0), |_, _| {});
        agree(&mut cluster, &mut figures, "views equal, less a second");
    }
    finish(&cluster, figures)
}

/// One node leaves after the other; then many at once, who come back.
pub(super) fn leave<P: Profile>(setup: Setup) -> Figures {
    let mut cluster = setup.formed::<P>(Links::lan());
    let mut figures = Figures::default();
    let order: Vec<Slot> = cluster.running();
    let order: Vec<Slot> = order.choose_multiple(&mut cluster.rng, 5.min(setup.nodes - 1)).copied().collect();
    for slot in order {
        let (mut awaited, member) = (Awaited::new(&[State::Left]), cluster.member(slot));
        let stay: Vec<Slot> = cluster.running().into_iter().filter(|other| *other != slot).collect();
        awaited.expect(member, cluster.world.now(), &stay);
        cluster.order(slot, Order::Leave);
        let mut downs = 0;
        cluster.run(seconds(15.0), |heard, event| {
            awaited.look(&heard, &event);
            downs += usize::from(P::change(&event).is_some_and(|change| is_down(change, member)));
        });
        figures.count("not left everywhere", awaited.give_up());
        figures.count("taken for down", downs);
        awaited.all.iter().for_each(|took| figures.time("left at every node", *took));
    }
    let running = cluster.running();
    let many: Vec<Slot> = running.choose_multiple(&mut cluster.rng, setup.nodes * 15 / 100).copied().collect();
    let contact = running.iter().find(|slot| !many.contains(slot)).copied().unwrap_or(Slot(0));
    many.iter().for_each(|slot| cluster.order(*slot, Order::Leave));
    cluster.run(seconds(10.0), |_, _| {});
    many.iter().for_each(|slot| cluster.start(*slot, &[contact]));
    agree(&mut cluster, &mut figures, "views equal, of many who left and came back");
    finish(&cluster, figures)
}

fn is_down(change: Change, member: Member) -> bool {
    change.member == member && change.state == State::Down
}
