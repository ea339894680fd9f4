//! What is done to clusters that keep a map, by name.

use super::random::{Plan, Trouble};

/// A kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Everything, in a mix of its own for every seed.
    Random,
    /// The same on five nodes, and soon over.
    Short,
    /// Nodes are cut off from each other.
    Partition,
    /// Processes and machines end, and come back.
    Crash,
    /// Disks are set back to earlier commits, or empty.
    Rollback,
    /// Homes are copied.
    Clone,
    /// Rows, sums and parts of the vector are lost.
    Loss,
    /// A node is away while others write, delete, and forget what they wrote.
    Absence,
    /// One key is written by everybody, in as many parts as there are nodes.
    Split,
    /// Everything that is written stands beside what is there.
    Blind,
    /// Disks take their time.
    SlowDisk,
}

impl Scenario {
    /// All there are.
    pub const ALL: [Scenario; 11] = [
        Scenario::Random,
        Scenario::Short,
        Scenario::Partition,
        Scenario::Crash,
        Scenario::Rollback,
        Scenario::Clone,
        Scenario::Loss,
        Scenario::Absence,
        Scenario::Split,
        Scenario::Blind,
        Scenario::SlowDisk,
    ];

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Scenario::Random => "random",
            Scenario::Short => "short",
            Scenario::Partition => "partition",
            Scenario::Crash => "crash",
            Scenario::Rollback => "rollback",
            Scenario::Clone => "clone",
            Scenario::Loss => "loss",
            Scenario::Absence => "absence",
            Scenario::Split => "split",
            Scenario::Blind => "blind",
            Scenario::SlowDisk => "slow-disk",
        }
    }

    /// What its runs are like, with so many nodes, or as many as it usually has.
    pub fn plan(self, nodes: Option<usize>) -> Plan {
        let mut plan = Plan::default();
        match self {
            Scenario::Random => {}
            Scenario::Short => {
                plan.nodes = (5, 5);
                plan.steps = 12;
            }
            Scenario::Partition => plan.troubles = vec![Trouble::Part, Trouble::Cut, Trouble::Lose],
            Scenario::Crash => plan.troubles = vec![Trouble::Kill, Trouble::Crash, Trouble::Stall],
            Scenario::Rollback => plan.troubles = vec![Trouble::SetBack, Trouble::Wipe, Trouble::Kill],
            Scenario::Clone => plan.troubles = vec![Trouble::Copy, Trouble::Kill, Trouble::Part],
            Scenario::Loss => {
                plan.troubles = vec![
                    Trouble::LoseRow,
                    Trouble::Garble,
                    Trouble::LoseSeen,
                    Trouble::LoseLog,
                    Trouble::LoseSum,
                    Trouble::Kill,
                ];
            }
            Scenario::Absence => {
                plan.troubles = vec![Trouble::Away, Trouble::Kill];
                plan.log_keep = Some(0);
            }
            Scenario::Split => {
                plan.nodes = (25, 25);
                plan.troubles = vec![Trouble::Split, Trouble::Split, Trouble::Lose];
                plan.keys = 1;
            }
            Scenario::Blind => {
                plan.troubles = vec![Trouble::Part, Trouble::Kill, Trouble::Away];
                plan.is_blind = true;
            }
            Scenario::SlowDisk => plan.troubles = vec![Trouble::SlowDisk, Trouble::Kill, Trouble::Part],
        }
        if let Some(nodes) = nodes {
            plan.nodes = (nodes, nodes);
        }
        plan
    }
}
