//! What a virtual file system remembers, and what it decides about each operation. The real ones are handed in as closures.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::ffi;

use crate::{Event, Fault, FileName, Op};

/// One registered file system.
pub(crate) struct Shared {
    name: String,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    /// None as long as nothing is recorded.
    pub(crate) events: Option<Vec<Event>>,
    pub(crate) counts: BTreeMap<Op, u64>,
    pub(crate) faults: BTreeMap<Op, Plan>,
    pub(crate) failures: u64,
    pub(crate) limit: Option<u64>,
    pub(crate) beside: Vec<PathBuf>,
    /// Files that there are, and how long they are.
    lens: BTreeMap<FileName, u64>,
}

pub(crate) struct Plan {
    /// Operations that still succeed.
    left: u64,
    fault: Fault,
    lasting: bool,
}

impl Shared {
    pub(crate) fn new(name: String) -> Self {
        Self { name, state: Mutex::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self, name: &FileName, real: impl FnOnce() -> (i32, u64)) -> i32 {
        let mut state = self.lock();
        if let Some(fault) = state.due(Op::Open) {
            return fault.code(ffi::SQLITE_CANTOPEN);
        }
        let (code, len) = real();
        if code == ffi::SQLITE_OK && state.lens.insert(name.clone(), len).is_none() {
            state.note(|| Event::Create(name.clone()));
        }
        code
    }

    /// Whether a read is to fail; [`Fault::Short`] leaves the reading to the caller.
    pub(crate) fn read_fault(&self) -> Option<Fault> {
        self.lock().due(Op::Read)
    }

    pub(crate) fn write(&self, name: &FileName, at: u64, bytes: &[u8], real: impl FnOnce(&[u8]) -> i32) -> i32 {
        let mut state = self.lock();
        let fault = state.due(Op::Write).map(|fault| fault.code(ffi::SQLITE_IOERR_WRITE));
        let (fits, refusal) = match fault {
            Some(code) => (bytes.len() / 2, Some(code)),
            None => match state.fitting(name, at, bytes.len() as u64) {
                fits if fits < bytes.len() as u64 => (fits as usize, Some(ffi::SQLITE_FULL)),
                _ => (bytes.len(), None),
            },
        };
        if fits > 0 {
            let code = real(&bytes[..fits]);
            if code != ffi::SQLITE_OK {
                return code;
            }
            let len = state.lens.entry(name.clone()).or_default();
            *len = (*len).max(at + fits as u64);
            state.note(|| Event::Write(name.clone(), at, bytes[..fits].into()));
        }
        refusal.unwrap_or(ffi::SQLITE_OK)
    }

    pub(crate) fn truncate(&self, name: &FileName, len: u64, real: impl FnOnce() -> i32) -> i32 {
        let mut state = self.lock();
        if let Some(fault) = state.due(Op::Truncate) {
            return fault.code(ffi::SQLITE_IOERR_TRUNCATE);
        }
        let code = real();
        if code == ffi::SQLITE_OK {
            state.lens.insert(name.clone(), len);
            state.note(|| Event::Truncate(name.clone(), len));
        }
        code
    }

    pub(crate) fn sync(&self, name: &FileName, folder_too: bool, real: impl FnOnce() -> i32) -> i32 {
        let mut state = self.lock();
        if let Some(fault) = state.due(Op::Sync) {
            state.note(|| Event::SyncFailed(name.clone()));
            return fault.code(ffi::SQLITE_IOERR_FSYNC);
        }
        let code = real();
        if code == ffi::SQLITE_OK {
            state.note(|| Event::Sync(name.clone()));
            if folder_too {
                state.note(|| Event::SyncFolder);
            }
        }
        code
    }

    pub(crate) fn delete(&self, name: &FileName, folder_too: bool, real: impl FnOnce() -> i32) -> i32 {
        let mut state = self.lock();
        if let Some(fault) = state.due(Op::Delete) {
            return fault.code(ffi::SQLITE_IOERR_DELETE);
        }
        let code = real();
        if code == ffi::SQLITE_OK && state.lens.remove(name).is_some() {
            state.note(|| Event::Delete(name.clone()));
            if folder_too {
                state.note(|| Event::SyncFolder);
            }
        }
        code
    }
}

impl State {
    pub(crate) fn note(&mut self, event: impl FnOnce() -> Event) {
        if let Some(events) = &mut self.events {
            events.push(event());
        }
    }

    pub(crate) fn plan(&mut self, op: Op, nth: u64, fault: Fault, lasting: bool) {
        self.faults.insert(op, Plan { left: nth, fault, lasting });
    }

    /// How many bytes may be added under the limit.
    pub(crate) fn free(&self) -> u64 {
        let beside = self.beside.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|found| found.len());
        let used = self.lens.values().copied().chain(beside).sum();
        self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(used))
    }

    /// Counts an operation, and says whether it is to fail.
    fn due(&mut self, op: Op) -> Option<Fault> {
        *self.counts.entry(op).or_default() += 1;
        let plan = self.faults.get_mut(&op)?;
        if plan.left > 0 {
            plan.left -= 1;
            return None;
        }
        let fault = plan.fault;
        if !plan.lasting {
            self.faults.remove(&op);
        }
        self.failures += 1;
        Some(fault)
    }

    /// How many of so many bytes there is room for.
    fn fitting(&self, name: &FileName, at: u64, len: u64) -> u64 {
        let there = self.lens.get(name).copied().unwrap_or(0);
        // Only what makes the file longer takes room.
        there.saturating_sub(at).saturating_add(self.free().saturating_sub(at.saturating_sub(there))).min(len)
    }
}

impl Fault {
    /// What SQLite is told.
    pub(crate) fn code(self, broken: i32) -> i32 {
        match self {
            Fault::Broken | Fault::Short => broken,
            Fault::Full => ffi::SQLITE_FULL,
        }
    }
}
