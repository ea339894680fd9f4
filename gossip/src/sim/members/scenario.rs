//! Runs with a name: each does one thing to a cluster, with whatever protocol, and measures what comes of it.

mod facts;
mod faults;
mod grid;
mod growth;
mod losses;
mod stalls;

use std::time::Duration;

use super::cluster::Cluster;
use super::figures::Figures;
use super::profile::Profile;
use super::random;
use super::{Memberlist, Peer};
use crate::sim::Links;

/// Nodes have so long to connect before anything happens.
const FORM_TIME: Duration = Duration::from_secs(5);

/// Views are equal after so long, or never.
const AGREE_TIME_MAX: Duration = Duration::from_secs(600);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// Processes are killed, which their systems tell others.
    Crash,
    /// Machines go dark.
    SilentCrash,
    /// Processes stand still for two seconds, and for eight.
    Stall,
    /// Processes stand still until all take them for down, one after the other.
    Stops,
    /// Everybody loses three packets of ten for an hour.
    Loss,
    /// Lifeguard's grid: a part of all stands still again and again, for shorter and longer.
    Lifeguard,
    /// Rapid's faults: a hundredth loses most of what it sends or receives, or hears or is heard no more.
    Asymmetric,
    /// Somebody has something new to say, on links of 10 to 40 ms.
    Facts,
    /// All come in by one.
    Bootstrap,
    /// Two halves were apart for two minutes.
    Heal,
    /// All are killed and start again within five seconds, a tenth of them without their disks.
    MassRestart,
    /// Nodes leave; many at once, who come back.
    Leave,
    /// Nothing happens.
    Idle,
    /// Most are gone.
    Survivors,
    /// Who comes in goes dark before any neighbour has met it.
    Orphan,
    /// Everything, in a mix of its own for every seed.
    Random,
}

impl Scenario {
    /// All.
    pub const ALL: [Scenario; 16] = [
        Scenario::Crash,
        Scenario::SilentCrash,
        Scenario::Stall,
        Scenario::Stops,
        Scenario::Loss,
        Scenario::Lifeguard,
        Scenario::Asymmetric,
        Scenario::Facts,
        Scenario::Bootstrap,
        Scenario::Heal,
        Scenario::MassRestart,
        Scenario::Leave,
        Scenario::Idle,
        Scenario::Survivors,
        Scenario::Orphan,
        Scenario::Random,
    ];

    /// Its name on a command line.
    pub fn word(self) -> &'static str {
        match self {
            Scenario::Crash => "crash",
            Scenario::SilentCrash => "silent-crash",
            Scenario::Stall => "stall",
            Scenario::Stops => "stops",
            Scenario::Loss => "loss",
            Scenario::Lifeguard => "lifeguard",
            Scenario::Asymmetric => "asymmetric",
            Scenario::Facts => "facts",
            Scenario::Bootstrap => "bootstrap",
            Scenario::Heal => "heal",
            Scenario::MassRestart => "mass-restart",
            Scenario::Leave => "leave",
            Scenario::Idle => "idle",
            Scenario::Survivors => "survivors",
            Scenario::Orphan => "orphan",
            Scenario::Random => "random",
        }
    }

    /// Nodes when nobody says how many; None where the seed decides.
    pub fn nodes(self) -> Option<usize> {
        Some(match self {
            Scenario::Crash | Scenario::SilentCrash | Scenario::Stall | Scenario::Loss => 100,
            Scenario::Stops => 48,
            Scenario::Lifeguard => 128,
            Scenario::Facts | Scenario::Leave | Scenario::Survivors | Scenario::Orphan => 100,
            Scenario::Asymmetric | Scenario::Heal | Scenario::MassRestart | Scenario::Idle => 1000,
            Scenario::Bootstrap => 2000,
            Scenario::Random => return None,
        })
    }

    /// Fewest nodes with which it makes sense.
    pub fn nodes_min(self) -> usize {
        match self {
            Scenario::Lifeguard => grid::ANOMALOUS_MAX + 1,
            Scenario::Asymmetric | Scenario::Orphan => 20,
            Scenario::MassRestart | Scenario::Facts | Scenario::Heal | Scenario::Stops => 4,
            _ => 2,
        }
    }
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// [`crate::swim`].
    Ours,
    /// What we are held against.
    Memberlist,
}

impl Protocol {
    /// Its name on a command line.
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Ours => "ours",
            Protocol::Memberlist => "memberlist",
        }
    }
}

/// Runs one seed of a scenario. None where it is not for that protocol.
pub fn run(scenario: Scenario, protocol: Protocol, nodes: usize, seed: u64) -> Option<Figures> {
    match (protocol, scenario) {
        (Protocol::Ours, Scenario::Random) => Some(random_figures(seed)),
        (Protocol::Memberlist, Scenario::Random) => None,
        (Protocol::Ours, _) => Some(run_with::<Peer>(scenario, nodes, seed)),
        (Protocol::Memberlist, _) => Some(run_with::<Memberlist>(scenario, nodes, seed)),
    }
}

/// One combination of Lifeguard's grid for ours: so many of all stand still for so long, with such gaps, in milliseconds; the
/// seed is that of a whole grid.
#[cfg(test)]
pub(super) fn lifeguard_cell(nodes: usize, seed: u64, anomalous: usize, stall_ms: u64, gap_ms: u64) -> Figures {
    grid::cell::<Peer>(Setup { nodes, seed }, anomalous, stall_ms, gap_ms)
}

fn random_figures(seed: u64) -> Figures {
    let verdict = random::run(seed, &mut |_| {});
    let mut figures = Figures { problems: verdict.violations, events: verdict.events, ..Figures::default() };
    figures.count("seeds", 1);
    if let Some(calm) = verdict.calm {
        figures.time("equal after", calm);
    }
    figures
}

fn run_with<P: Profile>(scenario: Scenario, nodes: usize, seed: u64) -> Figures {
    let setup = Setup { nodes, seed };
    match scenario {
        Scenario::Crash => losses::killed::<P>(setup),
        Scenario::SilentCrash => losses::dark::<P>(setup),
        Scenario::Survivors => losses::survivors::<P>(setup),
        Scenario::Orphan => losses::orphan::<P>(setup),
        Scenario::Leave => losses::leave::<P>(setup),
        Scenario::Stall => stalls::run::<P>(setup),
        Scenario::Stops => stalls::for_good::<P>(setup),
        Scenario::Lifeguard => grid::run::<P>(setup),
        Scenario::Loss => faults::loss::<P>(setup),
        Scenario::Asymmetric => faults::asymmetric::<P>(setup),
        Scenario::Heal => faults::heal::<P>(setup),
        Scenario::Facts => facts::run::<P>(setup),
        Scenario::Bootstrap => growth::bootstrap::<P>(setup),
        Scenario::MassRestart => growth::mass_restart::<P>(setup),
        Scenario::Idle => growth::idle::<P>(setup),
        Scenario::Random => Figures::default(),
    }
}

/// What a run begins with.
#[derive(Clone, Copy)]
struct Setup {
    nodes: usize,
    seed: u64,
}

impl Setup {
    /// A cluster that knows itself.
    fn formed<P: Profile>(self, links: Links) -> Cluster<P> {
        let mut cluster = Cluster::new(self.nodes, P::config(), links, self.seed);
        cluster.start_formed(FORM_TIME);
        cluster
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Measures how long it takes until all views are equal and right.
fn agree<P: Profile>(cluster: &mut Cluster<P>, figures: &mut Figures, name: &'static str) {
    let agreed = cluster.run_until_agreed(AGREE_TIME_MAX, |_, _| {});
    figures.count("views never equal", usize::from(agreed.is_none()));
    if let Some(took) = agreed {
        figures.time(name, took);
    }
}

fn finish<P: Profile>(cluster: &Cluster<P>, mut figures: Figures) -> Figures {
    figures.events = cluster.world.events();
    figures
}
