//! What a cycle does, from seed and number alone: a run that is taken up goes on as it would have.

use std::time::Duration;

use crate::workload::Dice;

/// Cycles when nobody says.
pub(super) const CYCLES_DEFAULT: u32 = 200;

/// Puts of a cycle.
const PUTS: u64 = 5;

/// Gets of a cycle.
const GETS: u64 = 5;

/// Operations begin within this time.
const BEGIN_MS: u64 = 700;

/// The node is killed within this time, while most of them are under way ...
const KILL_MS: u64 = 1600;

/// ... or so long after the beginning of a put that it takes ...
const PUT_MS: u64 = 900;

/// ... or of a get that it brings.
const GET_MS: u64 = 120;

/// It stays down at most so long.
const DOWN_MS: u64 = 1200;

/// Lengths of files, around every boundary that there is.
const LENS: [u64; 10] =
    [0, 1, 4 << 10, 100_000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 7 << 19, 16 << 20, (16 << 20) + 1];

/// Lengths of files that take long enough to be interrupted.
const LONG: [u64; 3] = [20 << 20, 32 << 20, (48 << 20) + 7];

/// How many of a cycle's puts are long.
const LONG_PUTS: u64 = 2;

/// What one cycle does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) cycle: u32,
    pub(super) seed: u64,
    pub(super) puts: Vec<Put>,
    pub(super) gets: Vec<Get>,
    pub(super) kill: Kill,
    /// Chooses older files to look at.
    pub(super) dice: u64,
}

/// A file that goes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Put {
    /// Names its content under the seed.
    pub(super) name: u64,
    pub(super) len: u64,
    pub(super) node: u32,
    pub(super) after: Duration,
}

/// A file that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Get {
    /// Chooses one of those that are known when it begins.
    pub(super) which: u64,
    pub(super) node: u32,
    pub(super) after: Duration,
    pub(super) cache: bool,
}

/// The node that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kill {
    pub(super) node: u32,
    pub(super) after: Duration,
    pub(super) down: Duration,
}

impl Plan {
    pub(super) fn of(seed: u64, cycle: u32, nodes: u32) -> Self {
        let mut dice = Dice::of_part(seed, cycle.into());
        let begin = |dice: &mut Dice| Duration::from_millis(dice.roll(BEGIN_MS));
        let node = |dice: &mut Dice| dice.roll(nodes.into()) as u32;
        let put = |n: u64, dice: &mut Dice| Put {
            name: u64::from(cycle) << 8 | n,
            len: *dice.choose(if n < LONG_PUTS { &LONG[..] } else { &LENS[..] }),
            node: node(dice),
            after: begin(dice),
        };
        let puts: Vec<Put> = (0..PUTS).map(|n| put(n, &mut dice)).collect();
        let get = |dice: &mut Dice| Get {
            which: dice.roll(u64::MAX),
            node: node(dice),
            after: begin(dice),
            cache: dice.roll(2) == 0,
        };
        let gets: Vec<Get> = (0..GETS).map(|_| get(&mut dice)).collect();
        let kill = Kill::of(&puts, &gets, nodes, &mut dice);
        Self { cycle, seed, puts, gets, kill, dice: dice.roll(u64::MAX) }
    }
}

impl Kill {
    /// Any node at any moment; but half of the time one that takes a long put, shortly after it began, and sometimes one
    /// that brings a get: otherwise that would be rare.
    fn of(puts: &[Put], gets: &[Get], nodes: u32, dice: &mut Dice) -> Self {
        let put = puts[dice.roll(LONG_PUTS) as usize];
        let get = dice.choose(gets);
        let (node, after) = match dice.roll(8) {
            0..4 => (put.node, put.after + Duration::from_millis(dice.roll(PUT_MS))),
            4 => (get.node, get.after + Duration::from_millis(dice.roll(GET_MS))),
            _ => (dice.roll(nodes.into()) as u32, Duration::from_millis(dice.roll(KILL_MS))),
        };
        Self { node, after, down: Duration::from_millis(dice.roll(DOWN_MS)) }
    }
}

/// A file that was put in this epoch.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct File {
    /// Its address, computed apart.
    pub(super) address: String,
    /// Its length in bytes.
    pub(super) len: u64,
    /// The cycle that put it.
    pub(super) cycle: u32,
    /// The node that took it.
    pub(super) node: u32,
    /// Whether that was acknowledged; otherwise nobody knows whether it is there.
    pub(super) acknowledged: bool,
}

/// All files of an epoch.
#[derive(Clone, Debug, Default)]
pub(super) struct Files(pub(super) Vec<File>);

impl Files {
    /// Those that were acknowledged: in the given cycle, and so many of the earlier ones as chance has it.
    pub(super) fn owed(&self, cycle: u32, older: usize, dice: u64) -> Vec<&File> {
        let owed = self.0.iter().filter(|file| file.acknowledged);
        let (mut owed, mut earlier): (Vec<&File>, Vec<&File>) = owed.partition(|file| file.cycle == cycle);
        let mut dice = Dice::new(dice);
        while !earlier.is_empty() && owed.len() < older + PUTS as usize {
            owed.push(earlier.swap_remove(dice.roll(earlier.len() as u64) as usize));
        }
        owed
    }

    /// All that were acknowledged.
    pub(super) fn all_owed(&self) -> Vec<&File> {
        self.0.iter().filter(|file| file.acknowledged).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_the_same_again_and_no_two_are_alike() {
        assert_eq!(Plan::of(7, 3, 5), Plan::of(7, 3, 5));
        assert_ne!(Plan::of(7, 3, 5).puts, Plan::of(7, 4, 5).puts);
        assert_ne!(Plan::of(7, 3, 5).puts, Plan::of(8, 3, 5).puts);
    }

    #[test]
    fn many_cycles_reach_every_node_every_length_and_name_every_file_once() {
        let plans: Vec<Plan> = (1..200).map(|cycle| Plan::of(1, cycle, 5)).collect();
        for node in 0..5 {
            assert!(plans.iter().any(|plan| plan.kill.node == node), "{node} is never killed");
        }
        let puts: Vec<Put> = plans.iter().flat_map(|plan| plan.puts.clone()).collect();
        for len in LENS.iter().chain(&LONG) {
            assert!(puts.iter().any(|put| put.len == *len), "{len}");
        }
        let names: std::collections::BTreeSet<u64> = puts.iter().map(|put| put.name).collect();
        assert_eq!(names.len(), puts.len());
    }

    #[test]
    fn what_is_owed_is_what_was_acknowledged() {
        let file = |cycle, acknowledged| File { address: String::new(), len: 0, cycle, node: 0, acknowledged };
        let mut files = Files((1..10).map(|cycle| file(cycle, true)).collect());
        files.0.push(file(10, false));
        files.0.push(file(10, true));
        let owed = files.owed(10, 3, 1);
        assert_eq!(owed.len(), 8);
        assert!(owed.iter().all(|file| file.acknowledged));
        assert_eq!(files.all_owed().len(), 10);
    }
}
