//! Somebody has something new to say of itself.

use std::time::Duration;

use rand::Rng;

use super::super::awaited::Awaited;
use super::super::figures::Figures;
use super::super::profile::{Order, Profile};
use super::{Setup, finish, seconds};
use crate::sim::{Links, Slot};
use crate::swim::State;

/// Facts of one run.
const FACTS: usize = 50;

/// What is not heard after so long is given up.
const HEARD_TIME_MAX: Duration = Duration::from_secs(10);

pub(super) fn run<P: Profile>(setup: Setup) -> Figures {
    let mut cluster = setup.formed::<P>(Links::region());
    let mut figures = Figures::default();
    cluster.run(seconds(5.0), |_, _| {});
    for number in 0..FACTS {
        let slot = Slot(cluster.rng.random_range(0..setup.nodes as u32));
        let others: Vec<Slot> = cluster.running().into_iter().filter(|other| *other != slot).collect();
        let mut awaited = Awaited::new(&[State::Alive]).all_but_one_of(10_000);
        awaited.expect(cluster.member(slot), cluster.world.now(), &others);
        cluster.order(slot, Order::Describe(number as u64));
        awaited.wait(&mut cluster, HEARD_TIME_MAX);
        figures.count("facts", 1);
        figures.count("not heard by 99.99% in 10 s", awaited.give_up());
        awaited.all.iter().for_each(|took| figures.time("heard by 99.99%", *took));
        cluster.run(seconds(0.5), |_, _| {});
    }
    finish(&cluster, figures)
}
