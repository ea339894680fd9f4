//! What every store of the map has to do: the same as the one in memory, whatever is done to it.

use std::fmt::Debug;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::dot::{Actor, Dot};
use super::key::Key;
use super::place::Place;
use super::store::{KvTx, Memory};
use super::sums::Root;
use super::vector::Seen;
use crate::sum::Sum;
use crate::swim::Name;

/// Does so many random things to an empty store, and compares it with one in memory after each.
///
/// # Panics
/// When they differ.
pub fn check<T: KvTx<Error: Debug>>(subject: &mut T, seed: u64, steps: u32) {
    let mut dice = SmallRng::seed_from_u64(seed);
    let mut memory = Memory::default();
    let mut counters = [0_u64; 4];
    for step in 0..steps {
        change(subject, &mut memory, &mut dice, &mut counters);
        assert_eq!(look(subject, &mut dice.clone()), look(&mut memory, &mut dice.clone()), "seed {seed}, step {step}");
    }
}

fn actor(n: usize) -> Actor {
    // Epochs beyond what fits a signed number, and peers that share one.
    Actor { peer: Name([(n / 2) as u8; 32]), epoch: u64::MAX - n as u64 }
}

fn key(dice: &mut SmallRng) -> Key {
    Key::new(format!("{}ü", dice.random_range(0..6))).expect("a key")
}

/// Does the same to both.
fn change<T: KvTx<Error: Debug>>(subject: &mut T, memory: &mut Memory, dice: &mut SmallRng, counters: &mut [u64; 4]) {
    let (key, n) = (key(dice), dice.random_range(0..counters.len()));
    let bytes = Bytes::from(vec![dice.random(); dice.random_range(1..40)]);
    macro_rules! both {
        ($call:ident($($argument:expr),*)) => {{
            let expected = memory.$call($($argument),*).unwrap_or_else(|never| match never {});
            assert_eq!(subject.$call($($argument),*).expect("it works"), expected);
        }};
    }
    match dice.random_range(0..41) {
        0..10 => both!(set_row(Place::of(&key), &key, Some(&bytes))),
        10..13 => both!(set_row(Place::of(&key), &key, None)),
        13..22 => {
            counters[n] += dice.random_range(1..3);
            let (dot, op) = (Dot { actor: actor(n), counter: counters[n] }, dice.random::<bool>().then_some(&bytes));
            both!(append(&dot, &key, op));
        }
        22..24 => {
            let before = dice.random_range(0..30);
            both!(trim_log(dice.clone().random_range(0..8), before, 4));
        }
        24..28 => {
            let base = dice.random_range(1..1000);
            both!(set_seen(&actor(n), &Seen::new(base, &[base + 2, base + 9]).expect("it can be")));
        }
        28..31 => {
            let mut sum = Sum::default();
            sum.add(&blake3::hash(&bytes));
            both!(set_sum(n, &sum));
        }
        31..36 => both!(stage(&key, &bytes)),
        36 => both!(clear_staged()),
        37 => both!(set_behind(dice.clone().random())),
        38 => {
            let mut sum = Sum::default();
            sum.add(&blake3::hash(&bytes));
            both!(set_root(&Root { rows: sum, vector: Sum::default() }));
        }
        39 => {
            both!(set_aside());
            assert_eq!(aside(subject), aside(memory));
            both!(clear_aside());
        }
        _ => {}
    }
}

/// All that can be seen.
fn look<T: KvTx<Error: Debug>>(store: &mut T, dice: &mut SmallRng) -> Vec<String> {
    let mut seen = Vec::new();
    let mut say = |what: &dyn Debug| seen.push(format!("{what:?}"));
    let (place, some) = (Place::of(&key(dice)), key(dice));
    say(&store.rows(Place::ALL, None, usize::MAX).expect("rows"));
    let end = *Place::ALL.end();
    say(&store.rows(place..=end, None, 3).expect("rows"));
    say(&store.rows(Place::of(&some)..=end, Some(&some), 2).expect("rows"));
    say(&store.rows(Place(0)..=place, None, 3).expect("rows"));
    say(&store.rows(place..=place.max(Place::of(&some)), None, 3).expect("rows"));
    say(&store.row(&some).expect("a row"));
    for n in 0..4 {
        let (from, to) = (dice.random_range(0..10), dice.random_range(0..40));
        say(&store.count_logged(&actor(n), from..=from + to).expect("a count"));
        say(&store.logged(&Dot { actor: actor(n), counter: to + 1 }).expect("a write"));
    }
    let mut vector = store.vector().expect("a vector");
    vector.sort_by_key(|(actor, _)| *actor);
    say(&vector);
    let mut sums = store.sums().expect("sums");
    sums.sort_by_key(|(number, _)| *number);
    say(&sums);
    say(&store.sum(dice.random_range(0..5)).expect("a sum"));
    say(&store.root().expect("a root"));
    say(&store.staged(None, usize::MAX).expect("staged"));
    say(&store.staged(Some(&some), 2).expect("staged"));
    say(&store.staged_row(&some).expect("staged"));
    say(&store.is_behind().expect("whether"));
    seen
}

fn aside<T: KvTx<Error: Debug>>(store: &mut T) -> (Vec<(Place, Key, Bytes)>, Vec<Bytes>) {
    let mut rows = Vec::new();
    let mut last: (Place, Option<Key>) = (Place(0), None);
    loop {
        let more = store.rows_aside(last.0, last.1.as_ref(), 2).expect("rows");
        let Some((place, key, _)) = more.last() else { break };
        last = (*place, Some(key.clone()));
        rows.extend(more);
    }
    let (mut log, mut next) = (Vec::new(), 0);
    loop {
        let more = store.log_aside(next, 2).expect("a log");
        let Some((place, _)) = more.last() else { break };
        next = place + 1;
        log.extend(more.into_iter().map(|(_, op)| op));
    }
    (rows, log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_as_it_is() {
        for seed in 0..20 {
            check(&mut Memory::default(), seed, 200);
        }
    }
}
