//! What clients asked nodes and what they were told, and what happened to the nodes meanwhile. The judge knows nothing else.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use p2p_api::Code;
use serde::Serialize;

use super::plan::Kind;
use crate::Result;
use crate::state::failed;

/// Microseconds since the run began. One process takes all times, so they say what came before what.
pub(super) type Micros = u64;

/// A call, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Call {
    pub(super) client: u32,
    pub(super) node: u32,
    pub(super) key: String,
    pub(super) what: What,
    pub(super) began: Micros,
    /// When it was answered, or given up.
    pub(super) ended: Micros,
    pub(super) outcome: Outcome,
}

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum What {
    Get,
    /// No two have the same value.
    Put {
        value: String,
        over: Over,
    },
    Delete {
        over: Over,
    },
}

/// What a write takes the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Over {
    /// What its node holds, if that is one value or none.
    Held,
    /// What its node holds.
    AllHeld,
    /// These values, which were read with its token.
    Read(Vec<String>),
    /// Nothing.
    Beside,
    /// Nothing, and nothing may be held.
    Create,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// A write was acknowledged, and was on the disks of so many nodes then.
    Ok { on: u32 },
    /// What a get has seen.
    Seen(Vec<Sibling>),
    /// It has done nothing.
    Refused { code: Code, why: String },
    /// A write may have been made, or will be.
    Unknown { code: Code, why: String },
}

/// A value as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Sibling {
    pub(super) value: String,
    pub(super) dot: String,
}

/// Something was done to nodes, at some moment between two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) node: u32,
    /// Who is apart with it from the rest, or whose copy it got.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) others: Vec<u32>,
    pub(super) began: Micros,
    pub(super) ended: Micros,
}

/// All nodes said the same between these moments, and nothing was under way but what is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Equal {
    pub(super) began: Micros,
    pub(super) ended: Micros,
}

impl Call {
    /// The value that it puts.
    pub(super) fn value(&self) -> Option<&str> {
        match &self.what {
            What::Put { value, .. } => Some(value),
            What::Get | What::Delete { .. } => None,
        }
    }

    /// What it takes the place of, where it is a write.
    pub(super) fn over(&self) -> Option<&Over> {
        match &self.what {
            What::Put { over, .. } | What::Delete { over } => Some(over),
            What::Get => None,
        }
    }

    /// When it has surely had all of its effect: one whose outcome is not known may have it at any time.
    pub(super) fn until(&self) -> Micros {
        if matches!(self.outcome, Outcome::Unknown { .. }) { Micros::MAX } else { self.ended }
    }

    /// For people, on a line.
    pub(super) fn text(&self) -> String {
        let over = |over: &Over| match over {
            Over::Held => "over what is held".to_owned(),
            Over::AllHeld => "over all that is held".to_owned(),
            Over::Read(values) => format!("over [{}] as read", values.join(", ")),
            Over::Beside => "beside".to_owned(),
            Over::Create => "where nothing is".to_owned(),
        };
        let what = match &self.what {
            What::Get => "get".to_owned(),
            What::Put { value, over: place } => format!("put {value} {}", over(place)),
            What::Delete { over: place } => format!("delete {}", over(place)),
        };
        let outcome = match &self.outcome {
            Outcome::Ok { on } => format!("ok, on {on}"),
            Outcome::Seen(siblings) if siblings.is_empty() => "nothing".to_owned(),
            Outcome::Seen(siblings) => {
                let mut text = String::new();
                for Sibling { value, dot } in siblings {
                    // Writing to a string does not fail.
                    let _ = write!(text, "{}{value} ({dot})", if text.is_empty() { "" } else { ", " });
                }
                text
            }
            Outcome::Refused { code, why } => format!("refused, {}: {why}", code.word()),
            Outcome::Unknown { code, why } => format!("unknown, {}: {why}", code.word()),
        };
        let Self { client, node, .. } = self;
        format!("{} client {client} at node {node}: {what} -> {outcome}", times(self.began, self.ended))
    }
}

impl Fault {
    /// For people, on a line.
    pub(super) fn text(&self) -> String {
        let Self { kind, node, others, .. } = self;
        let others = if others.is_empty() { String::new() } else { format!(", with {others:?}") };
        format!("{} node {node}: {}{others}", times(self.began, self.ended), kind.word().to_uppercase())
    }
}

/// Two moments in seconds.
fn times(began: Micros, ended: Micros) -> String {
    let seconds = |micros: Micros| micros as f64 / 1e6;
    format!("{:>10.6}-{:<10.6}", seconds(began), seconds(ended))
}

/// All of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    pub(super) nodes: u32,
    pub(super) calls: Vec<Call>,
    pub(super) faults: Vec<Fault>,
    pub(super) equals: Vec<Equal>,
}

impl History {
    /// What happened to a key, and to the nodes meanwhile, in the order in which it began.
    pub(super) fn of_key(&self, key: &str) -> Vec<String> {
        let calls = self.calls.iter().filter(|call| call.key == key).map(|call| (call.began, call.text()));
        let faults = self.faults.iter().map(|fault| (fault.began, fault.text()));
        let equal = |equal: &Equal| (equal.began, format!("{} all nodes are equal", times(equal.began, equal.ended)));
        let mut lines: Vec<(Micros, String)> = calls.chain(faults).chain(self.equals.iter().map(equal)).collect();
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

/// Takes down what happens as it does: for the judge, and in a file for people.
#[derive(Debug)]
pub(super) struct Recorder {
    zero: Instant,
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    history: History,
    file: BufWriter<File>,
    /// The first line that could not be written.
    failed: Option<std::io::Error>,
}

/// A line of the file.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Line<'a> {
    Call(&'a Call),
    Fault(&'a Fault),
    Equal(&'a Equal),
}

impl Recorder {
    /// Begins a file.
    pub(super) fn begin(path: &Path, nodes: u32) -> Result<Self> {
        let file = File::create(path).map_err(|error| failed("the history cannot be written", path, &error))?;
        let inner =
            Inner { history: History { nodes, ..History::default() }, file: BufWriter::new(file), failed: None };
        Ok(Self { zero: Instant::now(), path: path.to_owned(), inner: Mutex::new(inner) })
    }

    pub(super) fn now(&self) -> Micros {
        self.zero.elapsed().as_micros() as Micros
    }

    pub(super) fn call(&self, call: Call) {
        let mut inner = self.inner();
        inner.write(&Line::Call(&call));
        inner.history.calls.push(call);
    }

    pub(super) fn fault(&self, fault: Fault) {
        let mut inner = self.inner();
        inner.write(&Line::Fault(&fault));
        inner.history.faults.push(fault);
    }

    pub(super) fn equal(&self, equal: Equal) {
        let mut inner = self.inner();
        inner.write(&Line::Equal(&equal));
        inner.history.equals.push(equal);
    }

    /// Begins the file anew.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn forget(&self) -> Result<()> {
        let unwritable = |error| failed("the history cannot be written", &self.path, &error);
        self.inner().file = BufWriter::new(File::create(&self.path).map_err(unwritable)?);
        Ok(())
    }

    /// What happened since this was last called.
    ///
    /// # Errors
    /// When not all of it could be written to the file.
    pub(super) fn take(&self) -> Result<History> {
        let mut inner = self.inner();
        let flushed = inner.file.flush();
        match inner.failed.take().map_or(flushed, Err) {
            Err(error) => Err(failed("the history cannot be written", &self.path, &error)),
            Ok(()) => {
                let nodes = inner.history.nodes;
                Ok(std::mem::replace(&mut inner.history, History { nodes, ..History::default() }))
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nobody panics in the middle of a change of it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, line: &Line<'_>) {
        let written = serde_json::to_writer(&mut self.file, line).map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|()| self.file.write_all(b"\n")) {
            self.failed.get_or_insert(error);
        }
    }
}
