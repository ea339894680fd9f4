//! The threads of a store: the writer with its group commit, and the readers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use p2p_dht::store::{ObjectTx, StoreError, StoreResult};
use tokio::sync::{mpsc, oneshot, watch};

use super::objects::{ReadJob, Reader, Writer};
use super::room::Room;
use super::{COMMIT_LEN_MAX, COMMIT_RULES_MAX, FILE_NAME, READERS, Setup, WRITE_QUEUE_LEN};
use crate::sqlite::OpenError;

/// Tells a caller what became of its rule, once that is certain.
pub(super) type Finish = Box<dyn FnOnce(StoreResult<()>) + Send>;

/// Runs a rule; its outcome decides about the transaction.
type Rule = Box<dyn FnOnce(&mut dyn ObjectTx) -> (StoreResult<()>, Finish) + Send>;

/// A rule that waits for its transaction.
pub(super) struct WriteJob {
    /// About how many bytes it writes.
    pub(super) weight: usize,
    /// Runs it.
    pub(super) run: Rule,
}

enum Command {
    Write(WriteJob),
    GiveBackSpace(oneshot::Sender<()>),
    Close,
}

pub(super) struct Threads {
    writer: mpsc::Sender<Command>,
    readers: async_channel::Sender<ReadJob>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    pub(super) fn start(
        home: &Path,
        setup: &Setup,
        room: &Arc<Room>,
        failed: watch::Sender<Option<StoreError>>,
    ) -> Result<Self, OpenError> {
        let path: PathBuf = home.join(FILE_NAME);
        let writer = Writer::open(&path, setup, room.clone())?;
        let (writer_queue, commands) = mpsc::channel(WRITE_QUEUE_LEN);
        let (readers, queries) = async_channel::bounded(WRITE_QUEUE_LEN);
        let mut handles = Vec::with_capacity(READERS + 1);
        for n in 0..READERS {
            let reader = Reader::open(&path, setup, room.clone())?;
            let (queries, failed) = (queries.clone(), failed.clone());
            handles.push(spawn(format!("objects-read-{n}"), move || read_all(reader, &queries, &failed))?);
        }
        handles.push(spawn("objects-write".into(), move || write_all(writer, commands, &failed))?);
        Ok(Self { writer: writer_queue, readers, handles: Mutex::new(handles) })
    }

    pub(super) async fn write(&self, job: WriteJob) -> StoreResult<()> {
        self.writer.send(Command::Write(job)).await.map_err(|_gone| StoreError::Closed)
    }

    pub(super) async fn read(&self, job: ReadJob) -> StoreResult<()> {
        self.readers.send(job).await.map_err(|_gone| StoreError::Closed)
    }

    pub(super) async fn give_back_space(&self) {
        let (done, finished) = oneshot::channel();
        if self.writer.send(Command::GiveBackSpace(done)).await.is_ok() {
            let _ = finished.await;
        }
    }

    pub(super) async fn close(&self) {
        self.readers.close();
        let _ = self.writer.send(Command::Close).await;
        let handles = std::mem::take(&mut *self.handles.lock().unwrap_or_else(PoisonError::into_inner));
        let join = move || handles.into_iter().for_each(|handle| drop(handle.join()));
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new().name(name).spawn(run).map_err(OpenError::Io)
}

/// How the store has failed, once it has.
type Failed = watch::Sender<Option<StoreError>>;

/// Says that the store has failed, unless somebody has said so already. From now on nothing is acknowledged.
fn fail(failed: &Failed, error: StoreError) {
    tracing::error!(%error, "the object store failed; nothing more is acknowledged");
    failed.send_if_modified(|known| known.is_none() && known.replace(error).is_none());
}

fn read_all(mut reader: Reader, queries: &async_channel::Receiver<ReadJob>, failed: &Failed) {
    let _broken = Broken(queries, failed);
    while let Ok(job) = queries.recv_blocking() {
        let (outcome, tell) = reader.run(job);
        match outcome {
            Err(error) if error.is_final() => fail(failed, error),
            _ => {}
        }
        tell();
    }
}

/// Says that the store is gone when its writer is, whatever ended it.
struct Gone<'a>(&'a Failed);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.send_if_modified(|failed| failed.is_none() && failed.replace(StoreError::Closed).is_none());
    }
}

/// Says so where a reader ends by a bug: whoever waits would wait for ever once there is none left.
struct Broken<'a>(&'a async_channel::Receiver<ReadJob>, &'a Failed);

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _gone = Gone(self.1);
            self.0.close();
            while self.0.try_recv().is_ok() {}
        }
    }
}

fn write_all(mut writer: Writer, mut commands: mpsc::Receiver<Command>, failed: &Failed) {
    let _gone = Gone(failed);
    let mut left = None;
    while let Some(command) = left.take().or_else(|| commands.blocking_recv()) {
        let done = match command {
            Command::Write(job) => {
                let (done, next) = commit_together(&mut writer, job, &mut commands, failed);
                left = next;
                done
            }
            Command::GiveBackSpace(told) => {
                let done = writer.give_back_space();
                let _ = told.send(());
                done
            }
            Command::Close => break,
        };
        if let Err(error) = done {
            fail(failed, error);
        }
        if failed.borrow().is_some() {
            // From here on every caller finds the queue closed. What the disk does not hold is not tried again: a second
            // sync that succeeds proves nothing.
            return;
        }
    }
    writer.close();
}

/// Runs a rule and all that wait behind it, as far as the bounds allow, in one transaction. Returns a command that was
/// taken from the queue and is none of them; an error means that the store cannot be used any more.
fn commit_together(
    writer: &mut Writer,
    first: WriteJob,
    commands: &mut mpsc::Receiver<Command>,
    failed: &Failed,
) -> (StoreResult<()>, Option<Command>) {
    let mut finishes: Vec<Finish> = Vec::new();
    let mut left = None;
    let mut outcome = writer.begin();
    let mut weight = 0;
    let mut job = Some(first);
    while let Some(WriteJob { weight: more, run }) = job.take() {
        weight += more;
        if outcome.is_ok() {
            let (result, finish) = run(writer.tx());
            outcome = result;
            finishes.push(finish);
        }
        if outcome.is_err() || weight >= COMMIT_LEN_MAX || finishes.len() >= COMMIT_RULES_MAX {
            break;
        }
        match commands.try_recv() {
            Ok(Command::Write(next)) => job = Some(next),
            Ok(other) => left = Some(other),
            Err(_empty) => {}
        }
    }
    let committed = match outcome {
        Ok(()) => writer.commit(),
        Err(error) => Err(writer.roll_back(error)),
    };
    // A reader may have found the file damaged meanwhile.
    let committed = match failed.borrow().clone() {
        Some(error) => Err(error),
        None => committed,
    };
    // Whoever hears of a full disk finds the reserve given up.
    let made_room = match &committed {
        Err(StoreError::DiskFull) => writer.run_out(),
        _ => Ok(()),
    };
    for finish in finishes {
        finish(committed.clone());
    }
    let done = match committed {
        Ok(()) => writer.checkpoint_if_due(),
        Err(error) if error.is_final() => Err(error),
        Err(_) => made_room,
    };
    (done, left)
}
