//! How far a run came: a file with one JSON document a line, the first of which says what the run is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use p2p_api::{Code, Problem};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::kv::Mix;
use crate::Result;
use crate::state::failed;

/// What a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// What is tortured.
    #[serde(flatten)]
    pub(super) kind: Kind,
    /// Determines what is done.
    pub(super) seed: u64,
    /// Nodes.
    pub(super) nodes: u32,
    /// Cycles wanted.
    pub(super) cycles: u32,
}

/// What is tortured, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "torture", rename_all = "lowercase")]
pub(super) enum Kind {
    Content,
    Kv { mix: Mix, clients: u32 },
}

/// What came of one cycle or of many.
pub(super) trait Sum: Default + Serialize + DeserializeOwned {
    /// How many cycles.
    fn cycles(&self) -> u32;

    /// Adds what came of more.
    fn add(&mut self, more: &Self);
}

/// One cycle, or the sum of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Cycles.
    pub cycles: u32,
    /// Time they took.
    pub seconds: f64,
    /// Puts that ended well: from then on the file is owed.
    pub puts_acknowledged: u32,
    /// Puts that no node took.
    pub puts_refused: u32,
    /// Puts that broke off or lacked copies: the file may be there or not.
    pub puts_unknown: u32,
    /// Gets that brought the right bytes.
    pub gets_right: u32,
    /// Gets that ended with a clear error.
    pub gets_failed: u32,
    /// Those of them that asked a node which was not killed for a file that is owed.
    pub gets_failed_though_owed: u32,
    /// Nodes killed.
    pub kills: u32,
    /// Kills while any put was under way.
    pub kills_mid_put: u32,
    /// Kills while any get was under way.
    pub kills_mid_get: u32,
    /// Kills of a node that was taking a put.
    pub kills_of_putting_node: u32,
    /// Kills of a node that was bringing a get.
    pub kills_of_getting_node: u32,
    /// Files that were looked at on one node each, and were whole.
    pub files_checked: u32,
    /// Readers killed in the middle of a long get, and what that cost them.
    pub readers: Readers,
}

/// Readers that were killed in the middle of a long get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readers {
    /// How many.
    pub killed: u32,
    /// How many had done before they could be killed: nothing was learnt of them.
    pub too_fast: u32,
    /// The most bytes that one fetched again after it had received them before.
    pub fetched_again_most: u64,
}

impl Sum for Totals {
    fn cycles(&self) -> u32 {
        self.cycles
    }

    fn add(&mut self, more: &Self) {
        self.cycles += more.cycles;
        self.seconds += more.seconds;
        self.puts_acknowledged += more.puts_acknowledged;
        self.puts_refused += more.puts_refused;
        self.puts_unknown += more.puts_unknown;
        self.gets_right += more.gets_right;
        self.gets_failed += more.gets_failed;
        self.gets_failed_though_owed += more.gets_failed_though_owed;
        self.kills += more.kills;
        self.kills_mid_put += more.kills_mid_put;
        self.kills_mid_get += more.kills_mid_get;
        self.kills_of_putting_node += more.kills_of_putting_node;
        self.kills_of_getting_node += more.kills_of_getting_node;
        self.files_checked += more.files_checked;
        self.readers.killed += more.readers.killed;
        self.readers.too_fast += more.readers.too_fast;
        self.readers.fetched_again_most = self.readers.fetched_again_most.max(more.readers.fetched_again_most);
    }
}

impl Totals {
    /// For people, in a line.
    pub(super) fn line(&self) -> String {
        format!(
            "puts {} ok {} refused {} unknown, gets {} right {} failed, {} checked, {:.1} s",
            self.puts_acknowledged,
            self.puts_refused,
            self.puts_unknown,
            self.gets_right,
            self.gets_failed,
            self.files_checked,
            self.seconds
        )
    }

    /// For people, in full.
    pub(super) fn text(&self) -> String {
        let Self { cycles, seconds, puts_acknowledged, puts_refused, puts_unknown, gets_right, gets_failed, .. } = self;
        let Self {
            gets_failed_though_owed,
            kills,
            kills_mid_put,
            kills_mid_get,
            kills_of_putting_node,
            kills_of_getting_node,
            ..
        } = self;
        let Readers { killed, too_fast, fetched_again_most } = self.readers;
        let again = fetched_again_most as f64 / f64::from(1 << 20);
        format!(
            "cycles   {cycles} in {seconds:.0} s\n\
             puts     {puts_acknowledged} acknowledged, {puts_refused} refused, {puts_unknown} unknown\n\
             gets     {gets_right} right, {gets_failed} ended with an error, {gets_failed_though_owed} of these though the \
             file is owed and the node lived\n\
             kills    {kills}, {kills_mid_put} during puts, {kills_of_putting_node} of the node that took one, \
             {kills_mid_get} during gets, {kills_of_getting_node} of the node that brought one\n\
             checked  {} times a file on a node\n\
             readers  {killed} killed in the middle of a get, {too_fast} too fast to be; at most {again:.1} MiB fetched again\n",
            self.files_checked
        )
    }
}

/// A line after the first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line<T> {
    /// Cycles up to and with this one.
    Cycle {
        cycle: u32,
        #[serde(flatten)]
        counts: T,
    },
    Breach {
        breach: serde_json::Value,
    },
}

/// The file.
#[derive(Debug)]
pub(super) struct Progress {
    path: PathBuf,
    file: File,
}

impl Progress {
    /// Begins the file of a new run.
    pub(super) fn begin(path: &Path, header: &Header) -> Result<Self> {
        let file = OpenOptions::new().create_new(true).append(true).open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Problem::new(Code::Exists, format!("{} exists", path.display())).hint(format!(
                    "Take that run up by --resume {0}, or remove it, or name another: --progress FILE",
                    path.display()
                ))
            }
            _ => failed("the progress cannot be written", path, &error),
        })?;
        let mut progress = Self { path: path.to_owned(), file };
        progress.write(header)?;
        Ok(progress)
    }

    /// Takes up the run of a file, with as many cycles as it wanted unless told otherwise.
    pub(super) fn take_up<T: Sum>(
        path: &Path,
        cycles: Option<u32>,
        is_wanted: impl Fn(Kind) -> bool,
    ) -> Result<(Self, Header, T)> {
        let unreadable = |error: io::Error| failed("the progress cannot be read", path, &error);
        let text = fs::read_to_string(path).map_err(unreadable)?;
        // A run that was killed while it wrote has left a part of a line: that cycle was not done.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let file = OpenOptions::new().append(true).open(path).map_err(unreadable)?;
        file.set_len(whole as u64).map_err(unreadable)?;
        let strange = |what: &str| {
            Problem::new(
                Code::Usage,
                format!("{} is not the progress of a run that can be taken up: {what}", path.display()),
            )
        };
        let mut lines = text[..whole].lines();
        let header = lines.next().ok_or_else(|| strange("it is empty"))?;
        let mut header: Header = serde_json::from_str(header).map_err(|error| strange(&error.to_string()))?;
        if !is_wanted(header.kind) {
            return Err(strange("something else was tortured"));
        }
        header.cycles = cycles.unwrap_or(header.cycles);
        let mut totals = T::default();
        for line in lines {
            match serde_json::from_str(line).map_err(|error| strange(&error.to_string()))? {
                Line::Cycle { cycle, counts } if cycle == totals.cycles() + T::cycles(&counts) => totals.add(&counts),
                Line::Cycle { cycle, .. } => return Err(strange(&format!("cycle {cycle} is out of its turn"))),
                Line::Breach { .. } => return Err(strange("it ended with a broken promise")),
            }
        }
        Ok((Self { path: path.to_owned(), file }, header, totals))
    }

    /// Cycles up to and with this one are done, and came to this since the last line.
    pub(super) fn cycle(&mut self, cycle: u32, counts: &impl Sum) -> Result<()> {
        self.write(&Line::Cycle { cycle, counts })
    }

    pub(super) fn breach(&mut self, breach: &impl Serialize) -> Result<()> {
        let breach = serde_json::to_value(breach).map_err(|error| Problem::new(Code::Other, error.to_string()))?;
        self.write(&Line::<()>::Breach { breach })
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line).map_err(|error| Problem::new(Code::Other, error.to_string()))?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .map_err(|error| failed("the progress cannot be written", &self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(puts: u32) -> Totals {
        Totals { cycles: 1, puts_acknowledged: puts, ..Totals::default() }
    }

    const HEADER: Header = Header { kind: Kind::Content, seed: 7, nodes: 5, cycles: 200 };

    fn take_up(path: &Path, cycles: Option<u32>) -> Result<(Progress, Header, Totals)> {
        Progress::take_up(path, cycles, |kind| kind == Kind::Content)
    }

    #[test]
    fn a_run_goes_on_where_it_ended_also_when_it_was_killed_in_the_middle_of_a_line() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("progress.jsonl");
        let mut progress = Progress::begin(&path, &HEADER).expect("a new file");
        progress.cycle(1, &counts(4)).expect("written");
        progress.cycle(2, &counts(5)).expect("written");
        drop(progress);
        assert_eq!(Progress::begin(&path, &HEADER).expect_err("it is there").code, Code::Exists);
        let mut text = fs::read_to_string(&path).expect("there");
        text.push_str("{\"cycle\":3,\"puts_ack");
        fs::write(&path, text).expect("written");
        let (mut progress, again, totals) = take_up(&path, None).expect("a run");
        assert_eq!((again, totals.cycles, totals.puts_acknowledged), (HEADER, 2, 9));
        progress.cycle(3, &counts(1)).expect("written");
        let (_, longer, totals) = take_up(&path, Some(300)).expect("a run");
        assert_eq!((longer.cycles, totals.cycles, totals.puts_acknowledged), (300, 3, 10));
    }

    #[test]
    fn what_is_no_run_is_not_taken_up() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("progress.jsonl");
        let header = r#"{"torture":"content","seed":1,"nodes":5,"cycles":2}"#;
        for text in [
            "",
            "{}\n",
            "text\n",
            "{\"torture\":\"kv\",\"mix\":\"all\",\"clients\":8,\"seed\":1,\"nodes\":5,\"cycles\":2}\n",
            &format!("{header}\n{{\"cycle\":2,\"cycles\":1}}\n"),
            &format!("{header}\n{{\"breach\":{{}}}}\n"),
        ] {
            fs::write(&path, text).expect("written");
            assert_eq!(take_up(&path, None).expect_err(text).code, Code::Usage, "{text}");
        }
        fs::write(&path, format!("{header}\n")).expect("written");
        assert!(take_up(&path, None).is_ok());
    }
}
