//! Clusters that come up, come back, and do nothing.

use std::time::Duration;

use rand::Rng;

use super::super::cluster::{Cluster, Fate};
use super::super::figures::Figures;
use super::super::keys;
use super::super::profile::Profile;
use super::{Setup, agree, finish, seconds};
use crate::sim::{Links, Slot};

/// What a node can send: 100 Mbit/s.
const UPLINK: u64 = 12_500_000;

/// How long an idle cluster is looked at.
const IDLE_TIME: Duration = Duration::from_secs(60);

pub(super) fn bootstrap<P: Profile>(setup: Setup) -> Figures {
    let mut links = Links::lan();
    links.uplink = Some(UPLINK);
    let mut cluster: Cluster<P> = Cluster::new(setup.nodes, P::config(), links, setup.seed);
    let mut figures = Figures::default();
    let checked = keys::checked();
    (0..setup.nodes as u32).for_each(|n| cluster.start(Slot(n), &[Slot(0)]));
    agree(&mut cluster, &mut figures, "views equal");
    let checked = (keys::checked() - checked) as usize / setup.nodes;
    figures.count("signatures checked by a node", checked);
    figures.bytes("sent by the seed", cluster.world.traffic(Slot(0)).bytes);
    let most = (1..setup.nodes as u32).map(|n| cluster.world.traffic(Slot(n)).bytes).max();
    figures.bytes("sent by any other, at most", most.unwrap_or(0));
    finish(&cluster, figures)
}

pub(super) fn mass_restart<P: Profile>(setup: Setup) -> Figures {
    let mut cluster = setup.formed::<P>(Links::lan());
    let mut figures = Figures::default();
    for slot in cluster.running() {
        cluster.end(slot, Fate::Killed);
        if slot.0 % 10 == 0 {
            cluster.disks[slot.0 as usize] = P::Disk::default();
        }
    }
    let mut starts: Vec<(Duration, Slot)> =
        cluster.world.slots().map(|slot| (seconds(cluster.rng.random_range(0.0..5.0)), slot)).collect();
    starts.sort();
    let mut now = Duration::ZERO;
    for (at, slot) in starts {
        cluster.run(at - now, |_, _| {});
        now = at;
        cluster.start(slot, &[Slot(1), Slot(2), Slot(3)]);
    }
    agree(&mut cluster, &mut figures, "views equal after the last start");
    finish(&cluster, figures)
}

pub(super) fn idle<P: Profile>(setup: Setup) -> Figures {
    let mut cluster = setup.formed::<P>(Links::lan());
    cluster.run(seconds(10.0), |_, _| {});
    let mut figures = Figures::default();
    let sent =
        |cluster: &Cluster<P>| -> u64 { cluster.world.slots().map(|slot| cluster.world.traffic(slot).bytes).sum() };
    let (before, mut told) = (sent(&cluster), 0);
    cluster.run(IDLE_TIME, |_, event| told += usize::from(P::change(&event).is_some()));
    figures.rate("sent by a node, on average", (sent(&cluster) - before) / setup.nodes as u64, IDLE_TIME);
    figures.count("changes", told);
    let connections = cluster.world.slots().map(|slot| cluster.world.connections(slot)).max();
    figures.count("connections of a node in the end, at most", connections.unwrap_or(0));
    finish(&cluster, figures)
}
