//! Crash images: what is left of a store when the power goes off at any moment.
//!
//! A seeded history of real rules runs on the real store over a recording file system. Then images are cut from the record,
//! each a set of files that a loss of power could have left, and opened with the real store. Every image must hold exactly
//! the state after some commit, no older than the last one that anybody was told of. The reference for these states is
//! the store in memory, which runs the same history.
//!
//! `P2P_CRASH_IMAGES` says how many images, `P2P_SEED` with which seed to begin.

use p2p_vfs::{Disk, Event, Losses};
use rand::Rng;

use super::history::{Files, History, Stage, number};

/// Images in an ordinary run.
const IMAGES: u64 = 200;

/// Images that are cut from one history, those of its second halves included.
const IMAGES_PER_HISTORY: u64 = FIRST_IMAGES + FIRST_IMAGES / AGAIN * AGAIN_IMAGES;

/// Images that are cut from its first half.
const FIRST_IMAGES: u64 = 40;

/// One of these in so many is the start of a second half, in which the power goes off again.
const AGAIN: u64 = 10;

/// Images that are cut from each of those.
const AGAIN_IMAGES: u64 = 5;

/// Batches of rules in each half.
const BATCHES: usize = 40;

#[test]
fn crash_images() {
    let images = number("P2P_CRASH_IMAGES").unwrap_or(IMAGES);
    let first = number("P2P_SEED").unwrap_or(0);
    let histories = images.div_ceil(IMAGES_PER_HISTORY);
    let mut cut = 0;
    for seed in first..first + histories {
        let command = "cargo test --workspace --lib crash_images";
        let replay = format!("again: P2P_SEED={seed} P2P_CRASH_IMAGES={IMAGES_PER_HISTORY} {command}");
        let mut history = History::new(seed, replay);
        let record = record(&mut history, &Files::new());
        cut += check_images(&mut history, &record, FIRST_IMAGES, true);
    }
    println!("{cut} crash images of {histories} histories from seed {first}");
}

/// What happened on the disk.
struct Record {
    events: Vec<Event>,
    /// Events that only tell what was there before.
    earlier: usize,
    /// Batches that were durable before.
    before: usize,
}

/// Runs on a store over these files, which hold the state after all batches so far.
fn record(history: &mut History, start: &Files) -> Record {
    let mut stage = history.stage(start);
    let (earlier, before) = (stage.earlier.len(), history.batches.len());
    let open = |stage: &Stage| stage.open().expect("a store");
    let mut store = open(&stage);
    for _ in 0..BATCHES {
        history.step(&stage, &store).expect("the store works");
        match history.dice.random_range(0..8) {
            0 => history.runtime.block_on(store.give_back_space()),
            1 => {
                history.runtime.block_on(store.close());
                store = open(&stage);
            }
            _ => {}
        }
    }
    let events = stage.take_events();
    history.runtime.block_on(store.close());
    Record { events, earlier, before }
}

/// Cuts images from a record and checks them; says how many.
fn check_images(history: &mut History, record: &Record, count: u64, again: bool) -> u64 {
    let Record { events, earlier, before } = record;
    let (mut disk, mut at) = (Disk::default(), 0);
    let (mut told, mut begun, mut images) = (*before, *before, 0);
    for (n, cut) in cuts(history, events, *earlier, count).into_iter().enumerate() {
        for event in &events[at..cut] {
            disk.apply(event);
            match event {
                Event::Mark(mark) if mark % 2 == 1 => told = (*mark as usize / 2) + 1,
                Event::Mark(mark) => begun = (*mark as usize / 2) + 1,
                _ => {}
            }
        }
        at = cut;
        let losses = [Losses::All, Losses::Nothing, Losses::Some, Losses::Some, Losses::Some][n % 5];
        let files = disk.image(losses, &mut history.dice);
        let place = format!("cut at event {cut} of {}, losing {losses:?}", events.len());
        let state = history.check_image(&files, told, begun, &place);
        images += 1;
        if again && n as u64 % AGAIN == AGAIN - 1 {
            // Power comes back, and goes off again, soonest while the store recovers.
            let mut branch = history.branch(state);
            let record = self::record(&mut branch, &files);
            images += check_images(&mut branch, &record, AGAIN_IMAGES, false);
        }
    }
    images
}

/// Where to cut, in order: half of the places are right behind the moment in which somebody was told something.
fn cuts(history: &mut History, events: &[Event], earlier: usize, count: u64) -> Vec<usize> {
    let is_told = |at: &usize| matches!(events[*at], Event::Mark(mark) if mark % 2 == 1);
    let told: Vec<usize> = (0..events.len()).filter(is_told).collect();
    let cut = |n: u64| match n % 2 {
        0 => told[history.dice.random_range(0..told.len())] + 1,
        _ => history.dice.random_range(earlier..=events.len()),
    };
    let mut cuts: Vec<usize> = (0..count).map(cut).collect();
    cuts.sort_unstable();
    cuts
}
