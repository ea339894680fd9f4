//! Does to nodes what the plan says, while clients are at work.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2p_api::Problem;
use tokio::sync::OwnedRwLockWriteGuard;
use tokio::time::sleep;

use super::history::{Fault, Recorder};
use super::judge::{Breach, Kind as Broken};
use super::load::Load;
use super::look;
use super::plan::{Kind, Plan};
use crate::state::failed;
use crate::{Cluster, Result};

/// What a node remembers; who it is stands elsewhere.
const STATE: [&str; 3] = ["state.db", "state.db-wal", "state.db-shm"];

/// A copy that is to be older than a rollback's is at least so old.
const OLD: Duration = Duration::from_secs(2);

/// Where a node that remembers nobody finds how to join.
const TICKET: &str = "torture.ticket";

/// Why a run does not go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// A promise was broken.
    Broken(Breach),
    /// The machine does not give what is needed.
    Failed(Problem),
}

impl From<Breach> for Stop {
    fn from(breach: Breach) -> Self {
        Self::Broken(breach)
    }
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

pub(super) type Done<T> = std::result::Result<T, Stop>;

/// Does a cycle, and says how all ended.
pub(super) struct Chaos<'a> {
    pub(super) net: &'a mut Cluster,
    pub(super) recorder: &'a Recorder,
    pub(super) load: &'a Load,
    /// Folder of older copies of nodes' states.
    pub(super) copies: &'a Path,
    /// Longest time until all nodes were equal, in milliseconds.
    pub(super) equal_ms_max: &'a mut u64,
}

impl Chaos<'_> {
    pub(super) async fn cycle(&mut self, plan: &Plan) -> Done<()> {
        sleep(plan.after).await;
        match plan.kind {
            Kind::Kill => self.kill(plan).await,
            Kind::Stop => self.stop(plan).await,
            Kind::Partition => self.partition(plan).await,
            Kind::Restore | Kind::Rollback => self.set_back(plan).await,
            Kind::Clone => self.clone_state(plan).await,
            Kind::Wipe => self.wipe(plan).await,
        }
    }

    async fn kill(&mut self, plan: &Plan) -> Done<()> {
        let began = self.recorder.now();
        self.net.kill(plan.node).await?;
        // For a later restore: of some time ago then.
        if plan.more {
            copy(&self.net.dir().home(plan.node), &self.old(plan.node))?;
        }
        sleep(plan.down).await;
        self.start(plan.node).await?;
        self.note(Kind::Kill, plan.node, Vec::new(), began);
        Ok(())
    }

    async fn stop(&mut self, plan: &Plan) -> Done<()> {
        let began = self.recorder.now();
        self.net.stop(plan.node).await?;
        sleep(plan.hold).await;
        self.net.cont(plan.node).await?;
        self.note(Kind::Stop, plan.node, Vec::new(), began);
        Ok(())
    }

    async fn partition(&mut self, plan: &Plan) -> Done<()> {
        let began = self.recorder.now();
        self.net.partition([plan.side.clone()]).await?;
        sleep(plan.hold / 2).await;
        if plan.more {
            self.kill(&Plan { more: false, ..plan.clone() }).await?;
        }
        sleep(plan.hold / 2).await;
        self.net.heal().await?;
        let others = plan.side.iter().copied().filter(|node| *node != plan.node).collect();
        self.note(Kind::Partition, plan.node, others, began);
        Ok(())
    }

    /// The node's state becomes what it was: a moment ago, or long ago.
    async fn set_back(&mut self, plan: &Plan) -> Done<()> {
        let home = self.net.dir().home(plan.node);
        let from = if plan.kind == Kind::Restore { self.old(plan.node) } else { self.copies.join("moment") };
        if plan.kind == Kind::Rollback || !from.exists() {
            self.net.kill(plan.node).await?;
            copy(&home, &from)?;
            self.start(plan.node).await?;
            sleep(if plan.kind == Kind::Restore { plan.hold + OLD } else { plan.hold }).await;
        }
        self.reset(plan, || copy(&from, &home)).await
    }

    async fn clone_state(&mut self, plan: &Plan) -> Done<()> {
        let (home, others) = (self.net.dir().home(plan.node), self.net.dir().home(plan.other));
        let from = self.copies.join("other");
        self.net.kill(plan.other).await?;
        copy(&others, &from)?;
        self.start(plan.other).await?;
        self.reset(plan, || copy(&from, &home)).await
    }

    /// The node's state is removed. It has forgotten whom it knows, too, so it gets a ticket as a user would give it one.
    async fn wipe(&mut self, plan: &Plan) -> Done<()> {
        let home = self.net.dir().home(plan.node);
        let ticket = self.net.client(plan.other).ticket().await?.ticket;
        let (config, file) = (home.join("config.toml"), home.join(TICKET));
        let unwritable = |error: io::Error| failed("a ticket cannot be given", &file, &error);
        let before = fs::read_to_string(&config).map_err(unwritable)?;
        let mut table = before.parse::<toml::Table>().map_err(|error| unwritable(io::Error::other(error)))?;
        table.insert("join_file".to_owned(), file.to_string_lossy().into_owned().into());
        let given = fs::write(&file, ticket).and_then(|()| fs::write(&config, table.to_string()));
        given.map_err(unwritable)?;
        self.reset(plan, || remove(&home)).await?;
        // It stands in its configuration as long as the node starts with it.
        fs::write(&config, before).and_then(|()| fs::remove_file(&file)).map_err(unwritable)?;
        Ok(())
    }

    /// Kills the node, changes what it remembers, and starts it again: in sync where the plan wants that.
    async fn reset(&mut self, plan: &Plan, change: impl FnOnce() -> Result<()>) -> Done<()> {
        let paused = match plan.in_sync {
            true => Some(self.in_sync().await?),
            false => None,
        };
        let began = self.recorder.now();
        self.net.kill(plan.node).await?;
        drop(paused);
        change()?;
        sleep(plan.down).await;
        self.start(plan.node).await?;
        let others = if plan.kind == Kind::Clone { vec![plan.other] } else { Vec::new() };
        self.note(plan.kind, plan.node, others, began);
        Ok(())
    }

    /// Waits until all nodes are equal, with the clients paused until what this returns is dropped.
    async fn in_sync(&mut self) -> Done<OwnedRwLockWriteGuard<()>> {
        let paused = self.load.pause().await;
        let settled = look::settled(self.net, self.recorder).await?;
        *self.equal_ms_max = settled.waited_ms.max(*self.equal_ms_max);
        self.recorder.equal(settled.equal);
        Ok(paused)
    }

    /// Starts a node that is down, and waits until it has met all that it can.
    async fn start(&mut self, node: u32) -> Done<()> {
        self.net.restart(node).await.map_err(|problem| {
            let what = format!("node {node} does not come back: {}", problem.message);
            Breach { kind: Broken::NotBack, key: None, value: None, what }
        })?;
        Ok(())
    }

    fn note(&self, kind: Kind, node: u32, others: Vec<u32>, began: u64) {
        self.recorder.fault(Fault { kind, node, others, began, ended: self.recorder.now() });
    }

    /// An older copy of a node's state.
    fn old(&self, node: u32) -> PathBuf {
        self.copies.join(format!("old-{node}"))
    }
}

/// Copies the state of a node that does not run, or gives it to one.
fn copy(home: &Path, to: &Path) -> Result<()> {
    let all = || -> io::Result<()> {
        fs::create_dir_all(to)?;
        remove_from(to)?;
        for name in STATE {
            match fs::copy(home.join(name), to.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => drop(copied?),
            }
        }
        Ok(())
    };
    all().map_err(|error| failed("a node's state cannot be copied", home, &error))
}

fn remove(home: &Path) -> Result<()> {
    remove_from(home).map_err(|error| failed("a node's state cannot be removed", home, &error))
}

fn remove_from(dir: &Path) -> io::Result<()> {
    for name in STATE {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}
