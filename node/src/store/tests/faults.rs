//! A disk that fails: whatever operation it is that does, the store stops at once, says why, and loses nothing that
//! anybody was told.
//!
//! `P2P_FAULTS` says how many operations of a kind are tried, spread evenly; there are some hundred.

use p2p_vfs::{Disk, Fault, Losses, Op};

use super::history::{Files, History, Stage, number};
use super::*;

/// Operations of a kind that are tried in an ordinary run.
const FAULTS: u64 = 60;

/// Batches of rules before the end of the test, if nothing fails before.
const BATCHES: usize = 4;

/// Batches after the store was opened again.
const BATCHES_AFTER: usize = 2;

/// How long a failed store may take to say so, and to close.
const END_TIME_MAX: Duration = Duration::from_secs(2);

/// Pages of the log after which it is written into the file: fewer than one batch writes.
const PAGES: u64 = 8;

/// So many that it never is.
const PAGES_NEVER: u64 = 1 << 32;

/// Operations of a kind in these batches, where none fails.
fn operations(op: Op) -> u64 {
    let (mut history, stage) = start();
    let store = stage.open().expect("a store");
    run(&mut history, &stage, &store).expect("nothing fails");
    history.runtime.block_on(store.close());
    stage.vfs.count(op)
}

fn start() -> (History, Stage) {
    let history = History::new(3, "there is no chance in this".into());
    let mut stage = history.stage(&Files::new());
    stage.setup.checkpoint_pages = PAGES;
    (history, stage)
}

/// Runs all batches, with all that a store does beside; the error is the first.
fn run(history: &mut History, stage: &Stage, store: &Objects) -> StoreResult<()> {
    for n in 0..BATCHES {
        history.step(stage, store)?;
        history.read_all(store)?;
        if n % 2 == 1 {
            history.runtime.block_on(store.give_back_space());
        }
    }
    Ok(())
}

/// Lets the `nth` operation fail. Then the machine goes on, or the power goes off, and a store is opened again.
fn fail(op: Op, nth: u64, fault: Fault) {
    let place = format!("{op:?} {nth} {fault:?}");
    let (mut history, mut stage) = start();
    stage.vfs.fail(op, nth, fault, nth.is_multiple_of(2));
    let begun = match stage.open() {
        Err(error) => {
            assert!(error.to_string().contains("objects.db"), "{place}: {error}");
            0
        }
        Ok(store) => {
            let _ = run(&mut history, &stage, &store);
            check_whether_ended(&history, &stage, &store, &place);
            history.batches.len()
        }
    };
    stage.vfs.heal();
    let told = history.told;
    let mut events = stage.take_events();
    check_after_power_loss(&mut history, &events, (told, begun), &place);
    // The process has ended and the machine has not, so what was written and never synced can still be read. From here on
    // the log alone keeps what is told: a checkpoint would copy whatever can be read, and hide that it was never synced.
    stage.setup.checkpoint_pages = PAGES_NEVER;
    let store = stage.open().unwrap_or_else(|error| panic!("{place}: it does not open again: {error}"));
    let state = history.find_state(&store, told, begun, &place);
    history.cut(state);
    history.restage(&mut stage);
    for _ in 0..BATCHES_AFTER {
        history.step(&stage, &store).expect("the store works again");
    }
    events.extend(stage.take_events());
    let all = history.batches.len();
    check_after_power_loss(&mut history, &events, (all, all), &place);
    history.runtime.block_on(store.close());
}

/// A store has ended if the disk failed, and not else; then it says so soon, and does nothing more.
fn check_whether_ended(history: &History, stage: &Stage, store: &Objects, place: &str) {
    let runtime = &history.runtime;
    let write = runtime.block_on(store.write(0, |_| Ok(())));
    // Counted only now: how often a run reads is not always the same, and so the failing operation may be one of this write.
    assert_eq!(stage.vfs.failures() > 0, write.is_err(), "{place}: {write:?}");
    if write.is_ok() {
        return runtime.block_on(store.close());
    }
    runtime.block_on(async {
        let ended = tokio::time::timeout(END_TIME_MAX, store.failed()).await;
        let error = ended.unwrap_or_else(|_| panic!("{place}: it does not say that it has ended"));
        let text = error.to_string();
        assert!(error.is_final() && text.contains("objects.db") && text.contains("cannot"), "{place}: {text}");
        let closed = tokio::time::timeout(END_TIME_MAX, store.close()).await;
        assert!(closed.is_ok(), "{place}: it does not close");
    });
}

fn check_after_power_loss(
    history: &mut History,
    events: &[p2p_vfs::Event],
    (told, begun): (usize, usize),
    place: &str,
) {
    let mut disk = Disk::default();
    events.iter().for_each(|event| disk.apply(event));
    for losses in [Losses::All, Losses::Some] {
        let files = disk.image(losses, &mut history.dice);
        history.check_image(&files, told, begun, &format!("{place}, losing {losses:?}"));
    }
}

fn fail_each(op: Op) {
    let operations = operations(op);
    assert!(operations > 0);
    let tried = number("P2P_FAULTS").unwrap_or(FAULTS).clamp(1, operations);
    for n in 0..tried {
        fail(op, n * operations / tried, Fault::Broken);
    }
    println!("{tried} of {operations} operations: {op:?}");
}

#[test]
fn a_write_that_fails_ends_the_store_and_loses_nothing() {
    fail_each(Op::Write);
}

#[test]
fn a_sync_that_fails_ends_the_store_and_loses_nothing() {
    fail_each(Op::Sync);
}

#[test]
fn a_read_that_fails_ends_the_store_and_loses_nothing() {
    fail_each(Op::Read);
}

#[test]
fn a_length_that_cannot_be_changed_ends_the_store_and_loses_nothing() {
    fail_each(Op::Truncate);
}
