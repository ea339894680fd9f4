//! One cycle: puts and gets by the command line, and a node that is killed among them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use p2p_api::types::PutResult;
use p2p_api::{Code, Problem};
use tokio::task::JoinSet;

use super::judge::Broken;
use super::plan::{File, Files, Get, Plan, Put};
use super::progress::Totals;
use crate::programs::{Programs, end_of, said_problem};
use crate::state::failed;
use crate::workload::{content, hash_file, write_file};
use crate::{Cluster, Result};

/// Longest that a put or a get by the command line may take, of files as long as here: three times the time that either
/// side waits without progress, and some for the machine.
const OPERATION_LIMIT: Duration = Duration::from_secs(120);

/// What came of an operation, and when it was under way.
struct Done {
    node: u32,
    began: Instant,
    ended: Instant,
    what: What,
}

enum What {
    Put(File, PutEnd),
    Get(File, GetEnd),
}

/// How a put ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PutEnd {
    Acknowledged,
    /// No node took it.
    Refused,
    /// It may be there or not.
    Unknown,
}

/// How a get ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GetEnd {
    Right,
    Failed,
}

/// What an operation of the command line ended as, or the promise that it broke.
type Ended<T> = std::result::Result<T, Broken>;

/// Does what the plan says. What was acknowledged is among the files then; the outer error is the machine's.
pub(super) async fn cycle(
    net: &mut Cluster,
    programs: &Programs,
    scratch: &Path,
    plan: &Plan,
    files: &mut Files,
) -> Result<Ended<Totals>> {
    let sources = write_sources(scratch, plan).await?;
    let began = Instant::now();
    let mut operations = JoinSet::new();
    for (put, (path, file)) in plan.puts.iter().zip(&sources) {
        operations.spawn(do_put(programs.clone(), net.dir().home(put.node), *put, path.clone(), file.clone()));
    }
    // Also what a put of this cycle is only just bringing: right bytes or a clear error are owed for that too.
    let known: Vec<&File> = files.0.iter().chain(sources.iter().map(|(_, file)| file)).collect();
    for (n, get) in plan.gets.iter().enumerate() {
        let file = known[(get.which % known.len() as u64) as usize].clone();
        let to = scratch.join(format!("back-{n}"));
        operations.spawn(do_get(programs.clone(), net.dir().home(get.node), *get, file, to));
    }
    tokio::time::sleep_until((began + plan.kill.after).into()).await;
    let before = Instant::now();
    net.kill(plan.kill.node).await?;
    let kill = Kill { node: plan.kill.node, before, gone: Instant::now() };
    tokio::time::sleep(plan.kill.down).await;
    if let Err(problem) = net.restart(plan.kill.node).await {
        let what = format!("node {} does not come back: {}", plan.kill.node, problem.message);
        return Ok(Err(Broken { what, file: None }));
    }
    let mut all = Vec::new();
    while let Some(ended) = operations.join_next().await {
        match ended.map_err(|error| Problem::new(Code::Other, error.to_string()))?? {
            Ok(done) => all.push(done),
            Err(broken) => return Ok(Err(broken)),
        }
    }
    for (path, _) in &sources {
        std::fs::remove_file(path).map_err(|error| failed("a file cannot be removed", path, &error))?;
    }
    Ok(Ok(count(kill, all, files)))
}

/// A node that was killed at some moment between two.
#[derive(Clone, Copy)]
struct Kill {
    node: u32,
    before: Instant,
    gone: Instant,
}

/// Counts what was done, and takes the files that may be there.
fn count(kill: Kill, all: Vec<Done>, files: &mut Files) -> Totals {
    let mut totals = Totals { kills: 1, ..Totals::default() };
    for Done { node, began, ended, what } in all {
        let under_way = began < kill.gone && kill.before < ended;
        let through = under_way && node == kill.node;
        let (mid, of_node) = match what {
            What::Put(..) => (&mut totals.kills_mid_put, &mut totals.kills_of_putting_node),
            What::Get(..) => (&mut totals.kills_mid_get, &mut totals.kills_of_getting_node),
        };
        // There is one kill, whatever it hit.
        *mid = (*mid).max(under_way.into());
        *of_node = (*of_node).max(through.into());
        match what {
            What::Put(file, end) => {
                match end {
                    PutEnd::Acknowledged => totals.puts_acknowledged += 1,
                    PutEnd::Refused => totals.puts_refused += 1,
                    PutEnd::Unknown => totals.puts_unknown += 1,
                }
                if end != PutEnd::Refused {
                    files.0.push(File { acknowledged: end == PutEnd::Acknowledged, ..file });
                }
            }
            What::Get(_, GetEnd::Right) => totals.gets_right += 1,
            What::Get(file, GetEnd::Failed) => {
                totals.gets_failed += 1;
                // Allowed, and not what a user hopes for: the file is owed, and the node that was asked lived.
                totals.gets_failed_though_owed += u32::from(file.acknowledged && node != kill.node);
            }
        }
    }
    totals
}

/// Files to be put, on the disk before anything begins.
async fn write_sources(scratch: &Path, plan: &Plan) -> Result<Vec<(PathBuf, File)>> {
    let mut sources = Vec::new();
    for Put { name, len, node, .. } in &plan.puts {
        let path = scratch.join(format!("file-{name}"));
        let address = tokio::task::block_in_place(|| write_file(&path, content(plan.seed, *name), *len))?;
        let file = File { address, len: *len, cycle: plan.cycle, node: *node, acknowledged: false };
        sources.push((path, file));
    }
    Ok(sources)
}

async fn do_put(programs: Programs, home: PathBuf, put: Put, path: PathBuf, file: File) -> Result<Ended<Done>> {
    tokio::time::sleep(put.after).await;
    let began = Instant::now();
    let mut command = programs.cli(&home);
    command.arg("put").arg(&path);
    let Some(output) = end_of(command, OPERATION_LIMIT).await? else {
        let what = format!("a put on node {} hangs: not done after {} s", put.node, OPERATION_LIMIT.as_secs());
        return Ok(Err(Broken::of(&file, what)));
    };
    let end = match judge_put(output.status.code(), &output.stdout, &output.stderr, &file.address) {
        Ok(end) => end,
        Err(what) => return Ok(Err(Broken::of(&file, format!("a put on node {}: {what}", put.node)))),
    };
    Ok(Ok(Done { node: put.node, began, ended: Instant::now(), what: What::Put(file, end) }))
}

/// What an exit code and what was printed mean; or why they are no clear answer.
fn judge_put(exit: Option<i32>, stdout: &[u8], stderr: &[u8], address: &str) -> std::result::Result<PutEnd, String> {
    if exit == Some(0) {
        let result: PutResult =
            serde_json::from_slice(stdout).map_err(|error| format!("ended with 0 and no document: {error}"))?;
        return match result.address == address {
            true => Ok(PutEnd::Acknowledged),
            false => Err(format!("was acknowledged as {}", result.address)),
        };
    }
    let problem = clear_error(exit, stderr)?;
    // Nobody listened at all; whoever breaks off later may have taken it.
    let refused = problem.code == Code::Unreachable && problem.message.starts_with("no node answers");
    Ok(if refused { PutEnd::Refused } else { PutEnd::Unknown })
}

/// The problem that a failed command said; it must say one, and its exit code must be that problem's.
fn clear_error(exit: Option<i32>, stderr: &[u8]) -> std::result::Result<Problem, String> {
    let problem = said_problem(stderr).filter(|problem| !problem.message.is_empty());
    match problem {
        Some(problem) if exit == Some(problem.code.exit().into()) => Ok(problem),
        Some(problem) => Err(format!("ended with {exit:?}, and said {}", problem.code.word())),
        None => Err(format!("ended with {exit:?} and no clear error: {}", String::from_utf8_lossy(stderr))),
    }
}

async fn do_get(programs: Programs, home: PathBuf, get: Get, file: File, to: PathBuf) -> Result<Ended<Done>> {
    tokio::time::sleep(get.after).await;
    let began = Instant::now();
    let command = programs.get_command(&home, &file.address, &to, get.cache);
    let broken = |what: String| Ok(Err(Broken::of(&file, format!("a get on node {} {what}", get.node))));
    let Some(output) = end_of(command, OPERATION_LIMIT).await? else {
        return broken(format!("hangs: not done after {} s", OPERATION_LIMIT.as_secs()));
    };
    let ended = Instant::now();
    let end = if output.status.success() {
        let hash = tokio::task::block_in_place(|| hash_file(&to))?;
        std::fs::remove_file(&to).map_err(|error| failed("a file cannot be removed", &to, &error))?;
        if hash != file.address {
            return broken(format!("brought wrong bytes, of BLAKE3 {hash}"));
        }
        GetEnd::Right
    } else {
        if let Err(what) = clear_error(output.status.code(), &output.stderr) {
            return broken(what);
        }
        if to.exists() {
            return broken("failed, and left a file".to_owned());
        }
        GetEnd::Failed
    };
    Ok(Ok(Done { node: get.node, began, ended, what: What::Get(file, end) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "aa";

    fn acknowledged(address: &str) -> Vec<u8> {
        format!(r#"{{"address":"{address}","size":1,"copies":2,"replicas":3}}"#).into_bytes()
    }

    fn error(code: Code, message: &str) -> Vec<u8> {
        p2p_api::text::problem(&Problem::new(code, message), true).into_bytes()
    }

    #[test]
    fn what_a_put_ended_with_says_what_is_owed() {
        let put = |exit, stdout: &[u8], stderr: &[u8]| judge_put(exit, stdout, stderr, ADDRESS);
        assert_eq!(put(Some(0), &acknowledged(ADDRESS), b""), Ok(PutEnd::Acknowledged));
        let nobody = error(Code::Unreachable, "no node answers at /s: refused");
        assert_eq!(put(Some(6), b"", &nobody), Ok(PutEnd::Refused));
        let broke = error(Code::Unreachable, "the node at /s broke off: reset");
        assert_eq!(put(Some(6), b"", &broke), Ok(PutEnd::Unknown));
        let partial = error(Code::Partial, "stored, but only 1 of 2 copies");
        assert_eq!(put(Some(5), &acknowledged(ADDRESS), &partial), Ok(PutEnd::Unknown));
    }

    #[test]
    fn what_is_not_clear_is_a_broken_promise() {
        let put = |exit, stdout: &[u8], stderr: &[u8]| judge_put(exit, stdout, stderr, ADDRESS);
        assert!(put(Some(0), &acknowledged("bb"), b"").is_err(), "another address");
        assert!(put(Some(0), b"", b"").is_err(), "no document");
        assert!(put(Some(1), b"", b"").is_err(), "no error");
        assert!(put(None, b"", &error(Code::Other, "x")).is_err(), "ended by a signal");
        assert!(put(Some(3), b"", &error(Code::Full, "x")).is_err(), "another exit code");
        assert!(put(Some(10), b"", &error(Code::Full, "")).is_err(), "an error that says nothing");
    }

    #[test]
    fn kills_are_counted_by_what_was_under_way() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let file = File { address: ADDRESS.into(), len: 1, cycle: 1, node: 1, acknowledged: false };
        let put =
            |node, from, to, end| Done { node, began: at(from), ended: at(to), what: What::Put(file.clone(), end) };
        let owed = File { acknowledged: true, ..file.clone() };
        let get =
            |node, from, to, end| Done { node, began: at(from), ended: at(to), what: What::Get(owed.clone(), end) };
        let mut files = Files::default();
        let all = vec![
            put(1, 0, 100, PutEnd::Acknowledged),
            put(2, 60, 100, PutEnd::Refused),
            put(1, 0, 20, PutEnd::Unknown),
            get(2, 0, 100, GetEnd::Right),
            get(1, 70, 100, GetEnd::Failed),
            get(2, 70, 100, GetEnd::Failed),
        ];
        let kill = Kill { node: 1, before: at(45), gone: at(55) };
        let totals = count(kill, all, &mut files);
        assert_eq!((totals.kills, totals.kills_mid_put, totals.kills_of_putting_node), (1, 1, 1));
        assert_eq!((totals.kills_mid_get, totals.kills_of_getting_node), (1, 0));
        assert_eq!((totals.puts_acknowledged, totals.puts_refused, totals.puts_unknown), (1, 1, 1));
        assert_eq!((totals.gets_right, totals.gets_failed, totals.gets_failed_though_owed), (1, 2, 1));
        assert_eq!(files.0.iter().map(|file| file.acknowledged).collect::<Vec<_>>(), [true, false]);
    }
}
