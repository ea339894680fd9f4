//! Links that are not what they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::seq::IndexedRandom;

use super::super::cluster::Cluster;
use super::super::figures::Figures;
use super::super::profile::Profile;
use super::{AGREE_TIME_MAX, Setup, finish, seconds};
use crate::sim::{Links, Loss, Slot};
use crate::swim::{Member, State};

/// How long everybody loses packets.
const LOSS_TIME: Duration = Duration::from_secs(3600);

/// How long a hundredth is at fault.
const FAULT_TIME: Duration = Duration::from_secs(60);

/// Who is at fault is to be out after so long.
const OUT_TIME: Duration = Duration::from_secs(15);

/// Halves are apart for so long.
const APART_TIME: Duration = Duration::from_secs(120);

pub(super) fn loss<P: Profile>(setup: Setup) -> Figures {
    let mut cluster = setup.formed::<P>(Links::lan());
    let mut figures = Figures::default();
    cluster.world.links.loss = 0.3;
    let mut downs = BTreeSet::new();
    cluster.run(LOSS_TIME, |_, event| {
        let down = P::change(&event).filter(|change| change.state == State::Down);
        downs.extend(down.map(|change| (change.member, change.version)));
    });
    figures.count("downs", downs.len());
    finish(&cluster, figures)
}

/// What is wrong with a node.
#[derive(Clone, Copy)]
enum Fault {
    Sends,
    Receives,
    Deaf,
    Mute,
}

const FAULTS: [(Fault, Names); 4] = [
    (
        Fault::Sends,
        Names { out: "out after, 80% of what is sent lost", not: "not out after 15 s, 80% of what is sent lost" },
    ),
    (
        Fault::Receives,
        Names {
            out: "out after, 80% of what is received lost",
            not: "not out after 15 s, 80% of what is received lost",
        },
    ),
    (Fault::Deaf, Names { out: "out after, deaf", not: "not out after 15 s, deaf" }),
    (Fault::Mute, Names { out: "out after, mute", not: "not out after 15 s, mute" }),
];

struct Names {
    out: &'static str,
    not: &'static str,
}

pub(super) fn asymmetric<P: Profile>(setup: Setup) -> Figures {
    let mut figures = Figures::default();
    for (fault, names) in FAULTS {
        let mut cluster = setup.formed::<P>(Links::lan());
        let running = cluster.running();
        let ill: Vec<Slot> = running.choose_multiple(&mut cluster.rng, setup.nodes / 100 + 1).copied().collect();
        let ill = &ill[..(setup.nodes / 100).max(1)];
        ill.iter().for_each(|slot| hurt(&mut cluster, *slot, fault));
        cluster.world.links_changed();
        let members: Vec<Member> = ill.iter().map(|slot| cluster.member(*slot)).collect();
        let began = cluster.world.now();
        let healthy = setup.nodes - ill.len();
        // Of each that is at fault: by how many healthy nodes it is out, and since when by all.
        let mut out: BTreeMap<Member, BTreeSet<Slot>> =
            members.iter().map(|member| (*member, BTreeSet::new())).collect();
        let mut first: BTreeMap<Member, Duration> = BTreeMap::new();
        let (mut healthy_downs, mut again) = (BTreeSet::new(), BTreeSet::new());
        let mut out_in_time = BTreeSet::new();
        cluster.run(FAULT_TIME, |heard, event| {
            let Some(change) = P::change(&event).filter(|_| !ill.contains(&heard.slot)) else { return };
            let Some(by) = out.get_mut(&change.member) else {
                if change.state == State::Down {
                    healthy_downs.insert((change.member, change.version));
                }
                return;
            };
            match change.state {
                State::Down => by.insert(heard.slot),
                State::Alive => by.remove(&heard.slot),
                State::Suspect | State::Left => false,
            };
            let took = heard.now.since(began);
            if by.len() == healthy {
                first.entry(change.member).or_insert(took);
                if took <= OUT_TIME {
                    out_in_time.insert(change.member);
                }
            } else if change.state == State::Alive && first.contains_key(&change.member) {
                again.insert((change.member, change.version));
            }
        });
        first.values().for_each(|took| figures.time(names.out, *took));
        figures.count(names.not, ill.len() - out_in_time.len());
        figures.count("healthy members down", healthy_downs.len());
        figures.count("times that one at fault came back", again.len());
        figures.count("at fault and not out after 60 s", out.values().filter(|by| by.len() < healthy).count());
        figures.events += cluster.world.events();
    }
    figures
}

fn hurt<P: Profile>(cluster: &mut Cluster<P>, slot: Slot, fault: Fault) {
    let others: Vec<Slot> = cluster.world.slots().filter(|other| *other != slot).collect();
    let links = &mut cluster.world.links;
    match fault {
        Fault::Sends => links.set_loss_at(slot, Loss { sent: 0.8, received: 0.0 }),
        Fault::Receives => links.set_loss_at(slot, Loss { sent: 0.0, received: 0.8 }),
        Fault::Deaf => others.into_iter().for_each(|other| links.set_cut(other, slot, true)),
        Fault::Mute => others.into_iter().for_each(|other| links.set_cut(slot, other, true)),
    }
}

pub(super) fn heal<P: Profile>(setup: Setup) -> Figures {
    let mut cluster = setup.formed::<P>(Links::lan());
    let mut figures = Figures::default();
    let half_of = |slot: Slot| slot.0 % 2;
    cluster.world.links.set_parts(Some(cluster.world.slots().map(half_of).collect()));
    cluster.run(APART_TIME, |_, _| {});
    let began = cluster.world.now();
    let sent: Vec<u64> = cluster.world.slots().map(|slot| cluster.world.traffic(slot).bytes).collect();
    cluster.world.links.set_parts(None);
    cluster.world.links_changed();
    let mut contact = None;
    let agreed = cluster.run_until_agreed(AGREE_TIME_MAX, |heard, event| {
        let across = P::change(&event).is_some_and(|change| {
            let other = heard.world.shared.slot_of[change.member.number() as usize];
            change.state == State::Alive && half_of(other) != half_of(heard.slot)
        });
        if across && contact.is_none() {
            contact = Some(heard.now.since(began));
        }
    });
    figures.count("views never equal", usize::from(agreed.is_none()));
    if let Some((contact, agreed)) = contact.zip(agreed) {
        figures.time("first contact", contact);
        figures.time("views equal", agreed);
    }
    cluster.run(seconds(1.0), |_, _| {});
    let more = cluster.world.slots().zip(sent).map(|(slot, before)| cluster.world.traffic(slot).bytes - before);
    figures.bytes("sent by a node, at most", more.max().unwrap_or(0));
    finish(&cluster, figures)
}
