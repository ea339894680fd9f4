//! What a cycle does to the nodes, from seed and number alone.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::workload::Dice;

/// The fault strikes within this time.
const AFTER_MS: u64 = 400;

/// A node that was killed stays down at most so long.
const DOWN_MS: u64 = 300;

/// A node is stopped at least so long ...
const STOP_MIN_MS: u64 = 1_000;

/// ... and at most so much longer.
const STOP_MS: u64 = 7_000;

/// Groups are kept apart at most so long, and at least half a second.
const APART_MS: u64 = 4_000;

/// So long ago at most a rollback leads.
const ROLLBACK_MS: u64 = 1_500;

/// Which faults there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// Only kill -9.
    Kill,
    /// Every one.
    All,
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "kill" => Ok(Self::Kill),
            "all" => Ok(Self::All),
            _ => Err("kill or all".to_owned()),
        }
    }
}

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// SIGKILL, and a start.
    Kill,
    /// SIGSTOP for seconds.
    Stop,
    /// It and others are apart from the rest.
    Partition,
    /// Its state becomes an older copy of it.
    Restore,
    /// The same, of a moment ago.
    Rollback,
    /// Its state becomes a copy of another node's.
    Clone,
    /// Its state is removed.
    Wipe,
}

impl Kind {
    #[cfg(test)]
    pub(super) const ALL: [Self; 7] =
        [Self::Kill, Self::Stop, Self::Partition, Self::Restore, Self::Rollback, Self::Clone, Self::Wipe];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Partition => "partition",
            Self::Restore => "restore",
            Self::Rollback => "rollback",
            Self::Clone => "clone",
            Self::Wipe => "wipe",
        }
    }

    /// Whether the node forgets.
    pub(super) fn is_reset(self) -> bool {
        match self {
            Self::Kill | Self::Stop | Self::Partition => false,
            Self::Restore | Self::Rollback | Self::Clone | Self::Wipe => true,
        }
    }

    fn roll(mix: Mix, dice: &mut Dice) -> Self {
        match mix {
            Mix::Kill => Self::Kill,
            Mix::All => match dice.roll(14) {
                0..3 => Self::Kill,
                3 => Self::Stop,
                4..6 => Self::Partition,
                6..9 => Self::Restore,
                9..11 => Self::Rollback,
                11..13 => Self::Clone,
                _ => Self::Wipe,
            },
        }
    }
}

/// What one cycle does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) node: u32,
    /// Another node, where two are needed.
    pub(super) other: u32,
    /// The nodes on one side, where they are kept apart.
    pub(super) side: Vec<u32>,
    pub(super) after: Duration,
    pub(super) down: Duration,
    /// How long it lasts, or how old the copy is.
    pub(super) hold: Duration,
    /// All nodes are equal, and nothing is asked of them, when the node goes down to be set back.
    pub(super) in_sync: bool,
    /// A second fault within it, or a new copy for a later one.
    pub(super) more: bool,
}

impl Plan {
    pub(super) fn of(seed: u64, cycle: u32, nodes: u32, mix: Mix) -> Self {
        let mut dice = Dice::of_part(seed, cycle.into());
        let kind = Kind::roll(mix, &mut dice);
        // One node never forgets: what nobody has any more could not be judged.
        let spared = (seed % u64::from(nodes)) as u32;
        let any = dice.roll(nodes.into()) as u32;
        let node = match kind.is_reset() {
            true => (spared + 1 + dice.roll(u64::from(nodes) - 1) as u32) % nodes,
            false => any,
        };
        let other = (node + 1 + dice.roll(u64::from(nodes) - 1) as u32) % nodes;
        let mut side: Vec<u32> = (0..nodes).filter(|index| *index != other && dice.roll(2) == 0).collect();
        if !side.contains(&node) {
            side.push(node);
        }
        let hold = match kind {
            Kind::Stop => STOP_MIN_MS + dice.roll(STOP_MS),
            Kind::Partition => 500 + dice.roll(APART_MS - 500),
            Kind::Kill | Kind::Restore | Kind::Rollback | Kind::Clone | Kind::Wipe => {
                100 + dice.roll(ROLLBACK_MS - 100)
            }
        };
        Self {
            kind,
            node,
            other,
            side,
            after: Duration::from_millis(dice.roll(AFTER_MS)),
            down: Duration::from_millis(dice.roll(DOWN_MS)),
            hold: Duration::from_millis(hold),
            in_sync: dice.roll(2) == 0,
            more: dice.roll(2) == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn plans(seed: u64, mix: Mix) -> Vec<Plan> {
        (1..400).map(|cycle| Plan::of(seed, cycle, 5, mix)).collect()
    }

    #[test]
    fn a_cycle_is_the_same_again_and_no_two_are_alike() {
        assert_eq!(plans(7, Mix::All), plans(7, Mix::All));
        assert_ne!(plans(7, Mix::All), plans(8, Mix::All));
        assert_ne!(Plan::of(7, 3, 5, Mix::All), Plan::of(7, 4, 5, Mix::All));
    }

    #[test]
    fn every_fault_strikes_every_node_but_one_never_forgets() {
        let plans = plans(3, Mix::All);
        for kind in Kind::ALL {
            let of_kind = plans.iter().filter(|plan| plan.kind == kind);
            let nodes: BTreeSet<u32> = of_kind.map(|plan| plan.node).collect();
            let expected: BTreeSet<u32> = (0..5).filter(|node| !(kind.is_reset() && *node == 3)).collect();
            assert_eq!(nodes, expected, "{kind:?}");
        }
        for plan in plans {
            assert!(plan.side.contains(&plan.node) && !plan.side.contains(&plan.other), "{plan:?}");
        }
    }

    #[test]
    fn the_usual_mix_only_kills() {
        assert!(plans(1, Mix::Kill).iter().all(|plan| plan.kind == Kind::Kill));
    }
}
