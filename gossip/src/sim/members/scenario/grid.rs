//! Lifeguard's grid (Dadgar, Phillips, Currey 2018, section V): of 128 nodes some stand still together, go on together, and
//! so on, for two minutes; 432 combinations of how many, for how long, and how long they go on between.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::seq::IndexedRandom;

use super::super::figures::Figures;
use super::super::profile::Profile;
use super::Setup;
use crate::sim::{Links, Slot};
use crate::swim::{Member, State};

const ANOMALOUS: [usize; 9] = [1, 4, 8, 12, 16, 20, 24, 28, ANOMALOUS_MAX];

pub(super) const ANOMALOUS_MAX: usize = 32;

const STALL_MS: [u64; 6] = [128, 512, 2048, 8192, 16_384, 32_768];

const GAP_MS: [u64; 8] = [1, 4, 16, 64, 256, 1024, 4096, 16_384];

/// How long each combination lasts, at least.
const TIME: Duration = Duration::from_secs(120);

pub(super) fn run<P: Profile>(setup: Setup) -> Figures {
    let mut figures = Figures::default();
    for anomalous in ANOMALOUS {
        for stall_ms in STALL_MS {
            for gap_ms in GAP_MS {
                figures.merge(cell::<P>(setup, anomalous, stall_ms, gap_ms));
            }
        }
    }
    figures
}

/// One combination.
pub(super) fn cell<P: Profile>(setup: Setup, anomalous: usize, stall_ms: u64, gap_ms: u64) -> Figures {
    let seed = setup.seed.wrapping_mul(1000).wrapping_add(anomalous as u64) ^ stall_ms << 32 ^ gap_ms << 48;
    let setup = Setup { seed, ..setup };
    let (stall, gap) = (Duration::from_millis(stall_ms), Duration::from_millis(gap_ms));
    let links = Links::lan();
    // Of whoever has just gone on nobody can know it before its word may have arrived.
    let (_, word_time) = links.latency;
    let mut cluster = setup.formed::<P>(links);
    let running = cluster.running();
    let ill: Vec<Slot> = running.choose_multiple(&mut cluster.rng, anomalous).copied().collect();
    let mut first_said: BTreeMap<(Member, u64), Subject> = BTreeMap::new();
    let (mut at_ill, mut at_healthy, mut early, mut true_downs) = (0, 0, 0, 0);
    let end = cluster.world.now() + TIME;
    while cluster.world.now() < end {
        ill.iter().for_each(|slot| cluster.world.stall(*slot, stall));
        let known_from = cluster.world.now() + stall + word_time;
        cluster.run(stall + gap, |heard, event| {
            let Some(change) = P::change(&event).filter(|change| change.state == State::Down) else { return };
            let subject = || {
                let slot = heard.world.shared.slot_of[change.member.number() as usize];
                match heard.world.is_stalled(slot) {
                    true => Subject::StandsStill,
                    false if ill.contains(&slot) && heard.now < known_from => Subject::HasJustGoneOn,
                    false => Subject::Runs,
                }
            };
            match *first_said.entry((change.member, change.version)).or_insert_with(subject) {
                Subject::StandsStill => true_downs += 1,
                Subject::HasJustGoneOn => early += 1,
                Subject::Runs if ill.contains(&heard.slot) => at_ill += 1,
                Subject::Runs => at_healthy += 1,
            }
        });
    }
    let falsely_down = first_said.values().filter(|subject| **subject == Subject::Runs);
    let mut figures = Figures { events: cluster.world.events(), ..Figures::default() };
    figures.count("false downs", at_ill + at_healthy);
    figures.count("false downs at healthy members", at_healthy);
    figures.count("members falsely down", falsely_down.count());
    figures.count("downs while word was on its way", early);
    figures.count("true downs", true_downs);
    figures
}

/// What the subject of a Down did when it was first said, anywhere, that this record of it is down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    StandsStill,
    /// It went on a moment ago, and no detector can have heard of that.
    HasJustGoneOn,
    Runs,
}
