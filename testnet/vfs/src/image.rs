//! What a loss of power leaves behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::Rng;

use crate::{Event, FileName};

/// A disk with a cache in front of it, as far as events have brought it.
#[derive(Default)]
pub struct Disk {
    files: Vec<File>,
    /// Names as programs see them, and as they are on the disk.
    seen: BTreeMap<FileName, usize>,
    synced: BTreeMap<FileName, usize>,
    /// What has become of names since the folder was last synced: the file that each was given, or none.
    renamed: Vec<(FileName, Option<usize>)>,
}

#[derive(Default)]
struct File {
    synced: Vec<u8>,
    /// What was done since, in order.
    pending: Vec<Change>,
}

enum Change {
    Write(u64, Arc<[u8]>),
    Truncate(u64),
}

/// How much of what was not synced is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    /// All of it.
    All,
    /// Nothing: the process was killed, the machine went on.
    Nothing,
    /// For every file and name something else: all, nothing, or any sectors, with the last one that was written torn.
    Some,
}

impl Disk {
    /// Takes the next event in.
    pub fn apply(&mut self, event: &Event) {
        match event {
            // Of a file that is there already, the record only says so.
            Event::Create(name) if self.seen.contains_key(name) => {}
            Event::Create(name) => {
                self.files.push(File::default());
                self.rename(name, Some(self.files.len() - 1));
            }
            Event::Delete(name) => self.rename(name, None),
            Event::Write(name, at, bytes) => self.change(name, Change::Write(*at, bytes.clone())),
            Event::Truncate(name, len) => self.change(name, Change::Truncate(*len)),
            Event::Sync(name) => {
                if let Some(file) = self.file(name) {
                    file.sync();
                }
            }
            Event::SyncFailed(name) => {
                if let Some(file) = self.file(name) {
                    file.pending.clear();
                }
            }
            Event::SyncFolder => {
                for (name, file) in std::mem::take(&mut self.renamed) {
                    give_name(&mut self.synced, name, file);
                }
            }
            Event::Mark(_) => {}
        }
    }

    /// Files that could be found after the power went off now.
    pub fn image(&self, losses: Losses, dice: &mut impl Rng) -> BTreeMap<FileName, Vec<u8>> {
        let mut names = self.synced.clone();
        let mut lost = BTreeSet::new();
        for (name, file) in &self.renamed {
            // What became of one name reaches the disk in order; names do not wait for each other.
            let loses = match losses {
                Losses::All => true,
                Losses::Nothing => false,
                Losses::Some => dice.random(),
            };
            if loses {
                lost.insert(name);
            }
            if !lost.contains(name) {
                give_name(&mut names, name.clone(), *file);
            }
        }
        let sector = if dice.random() { 512 } else { 4096 };
        names.into_iter().map(|(name, file)| (name, self.files[file].image(losses, sector, dice))).collect()
    }

    fn rename(&mut self, name: &FileName, file: Option<usize>) {
        give_name(&mut self.seen, name.clone(), file);
        self.renamed.push((name.clone(), file));
    }

    fn file(&mut self, name: &FileName) -> Option<&mut File> {
        let file = *self.seen.get(name)?;
        self.files.get_mut(file)
    }

    fn change(&mut self, name: &FileName, change: Change) {
        if let Some(file) = self.file(name) {
            file.pending.push(change);
        }
    }
}

fn give_name(names: &mut BTreeMap<FileName, usize>, name: FileName, file: Option<usize>) {
    match file {
        Some(file) => drop(names.insert(name, file)),
        None => drop(names.remove(&name)),
    }
}

impl File {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write(at, bytes) => drop(overwrite(&mut self.synced, at, &bytes)),
                Change::Truncate(len) => self.synced.resize(len as usize, 0),
            }
        }
    }

    fn image(&self, losses: Losses, sector: u64, dice: &mut impl Rng) -> Vec<u8> {
        let kept_percent = match losses {
            Losses::All => 0,
            Losses::Nothing => 100,
            Losses::Some => [0, 10, 50, 90, 100][dice.random_range(0..5)],
        };
        let mut bytes = self.synced.clone();
        // A sector is written with all that was done to it so far, so one that missed a write misses the later ones.
        let mut missed = BTreeSet::new();
        let mut last = None;
        for change in &self.pending {
            match change {
                Change::Truncate(len) if dice.random_range(0..100) < kept_percent => bytes.resize(*len as usize, 0),
                Change::Truncate(_) => {}
                Change::Write(at, written) => {
                    for (at, piece) in sectors(*at, written, sector) {
                        if dice.random_range(0..100) < kept_percent && !missed.contains(&(at / sector)) {
                            last = Some((at, overwrite(&mut bytes, at, piece)));
                        } else {
                            missed.insert(at / sector);
                        }
                    }
                }
            }
        }
        if losses == Losses::Some && kept_percent < 100 {
            if let Some((at, before)) = last
                && dice.random()
            {
                let torn = dice.random_range(0..=before.len());
                overwrite(&mut bytes, at + torn as u64, &before[torn..]);
            }
            if dice.random_ratio(1, 4) {
                // The length is on the disk, and what makes it up is not.
                bytes.resize(bytes.len().max(self.longest()), 0);
            }
        }
        bytes
    }

    /// Where the last byte ends that was ever written and not synced.
    fn longest(&self) -> usize {
        let ends = self.pending.iter().map(|change| match change {
            Change::Write(at, bytes) => *at as usize + bytes.len(),
            Change::Truncate(_) => 0,
        });
        ends.max().unwrap_or(0)
    }
}

/// A write as the sectors that it touches.
fn sectors(at: u64, bytes: &[u8], sector: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let mut rest = (at, bytes);
    std::iter::from_fn(move || {
        let (at, bytes) = rest;
        let len = bytes.len().min((sector - at % sector) as usize);
        let (piece, after) = bytes.split_at(len);
        rest = (at + len as u64, after);
        (len > 0).then_some((at, piece))
    })
}

/// Writes at a position, with zeros in between where that is behind the end; returns what was there before.
fn overwrite(file: &mut Vec<u8>, at: u64, bytes: &[u8]) -> Vec<u8> {
    let (start, end) = (at as usize, at as usize + bytes.len());
    if file.len() < end {
        file.resize(end, 0);
    }
    let before = file[start..end].to_vec();
    file[start..end].copy_from_slice(bytes);
    before
}
