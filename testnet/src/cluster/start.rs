//! How nodes come up: known ones on their old homes, new ones with a ticket of the others, and all until they have met.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use p2p_api::{Code, Problem};
use tokio::time::{Instant, sleep, timeout};

use super::{Cluster, END_LIMIT, Mode, NODES_DEFAULT, NODES_MAX, Raised};
use crate::launch::{NotReady, write_config};
use crate::ports::Reservation;
use crate::process::{Condition, End};
use crate::state::{Locked, NodeState, State, TicketFile};
use crate::{Result, capacity, faults, ports};
use p2p_api::text::shell_word;

/// How long one node may take to be ready, or to meet the others.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How much longer for every node of the network: they share this machine's cores.
const START_LIMIT_PER_NODE: Duration = Duration::from_secs(2);

/// How long a node may take to answer what it knows by itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long one round of waiting for the others is.
const MEET_ROUND: Duration = Duration::from_secs(3);

/// Time between two rounds, when a node does not answer at all.
const MEET_PAUSE: Duration = Duration::from_millis(50);

/// How often a new node may lose its port to somebody else between the choice and the start.
const PORT_ATTEMPTS_MAX: u32 = 5;

impl Cluster {
    /// Starts all nodes that do not run, and makes new ones until there are `nodes`. None means as many as an earlier
    /// call asked for, five in a new network.
    ///
    /// # Errors
    /// As [`Cluster::up`].
    pub async fn raise(&mut self, nodes: Option<u32>) -> Result<Raised> {
        check_count(nodes.unwrap_or(1))?;
        // Before a folder is made for what is refused.
        self.check_machine(&self.dir.load_or_empty()?, nodes)?;
        let (lock, mut state) = self.dir.create().await?;
        state.wanted = wanted(nodes, &state);
        lock.save(&state)?;
        let down = state.indices(Condition::Exited);
        let stopped = state.indices(Condition::Stopped).len();
        self.start_known(&lock, &mut state, &down).await?;
        let missing = state.wanted.saturating_sub(state.nodes.len() as u32);
        let new = self.make(&lock, &mut state, missing, None).await?;
        drop(lock);
        self.release_detached();
        let started = [down, new].concat();
        if !started.is_empty() {
            self.meet(&started).await?;
        }
        Ok(Raised { started: started.len(), stopped })
    }

    /// Adds `count` nodes to a running network; returns their indices.
    ///
    /// # Errors
    /// `not_found` when there is no network, `conflict` when none of its nodes runs.
    pub async fn add(&mut self, count: u32) -> Result<Vec<u32>> {
        self.grow(count, None).await
    }

    /// Adds a node that joins through this one; returns its index.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub async fn add_through(&mut self, contact: u32) -> Result<u32> {
        let added = self.grow(1, Some(contact)).await?;
        added.first().copied().ok_or_else(|| Problem::new(Code::Other, "no node was added"))
    }

    /// Adds nodes that join through one that runs, any of them where none is named.
    async fn grow(&mut self, count: u32, contact: Option<u32>) -> Result<Vec<u32>> {
        let (lock, mut state) = self.dir.open().await?;
        check_count(count)?;
        let total = state.nodes.len() as u32 + count;
        check_count(total)?;
        self.check_machine(&state, Some(total))?;
        if state.indices(Condition::Running).is_empty() {
            return Err(Problem::new(Code::Conflict, "no node of this network runs, so nobody can let another one in")
                .hint(self.dir.hint("up --detach")));
        }
        let new = self.make(&lock, &mut state, count, contact).await?;
        state.wanted = state.wanted.max(state.nodes.len() as u32);
        lock.save(&state)?;
        drop(lock);
        self.release_detached();
        self.meet(&new).await?;
        Ok(new)
    }

    /// Ends a node in order if it runs, and starts it again on its home. Says how it ended.
    ///
    /// # Errors
    /// `not_found` for an unknown index; otherwise as [`Cluster::up`].
    pub async fn restart(&mut self, index: u32) -> Result<End> {
        let (lock, mut state) = self.dir.open().await?;
        let node = state.node(index).map_err(|problem| problem.hint(self.dir.hint("ps")))?;
        let end = match &node.process {
            Some(process) => process.end(END_LIMIT).await?,
            None => End::AlreadyGone,
        };
        self.reap();
        self.start_known(&lock, &mut state, &[index]).await?;
        drop(lock);
        self.release_detached();
        self.meet(&[index]).await?;
        Ok(end)
    }

    /// Starts nodes on their homes, all at once, and waits until each is ready.
    async fn start_known(&mut self, lock: &Locked, state: &mut State, indices: &[u32]) -> Result<()> {
        for index in indices {
            self.reserve(state.node(*index)?.port);
            self.spawn(lock, state, *index)?;
        }
        match self.await_ready(state, indices).await.into_iter().next() {
            None => Ok(()),
            Some((index, NotReady::Ended(problem) | NotReady::Late(problem))) => {
                self.end_held(indices);
                Err(at_node(index, problem))
            }
        }
    }

    /// Makes new nodes and starts them; returns their indices once each is ready.
    async fn make(&mut self, lock: &Locked, state: &mut State, count: u32, contact: Option<u32>) -> Result<Vec<u32>> {
        let mut made = Vec::new();
        if count > 0 && state.nodes.is_empty() {
            // Alone, because the others need its ticket, which needs its address.
            made.push(self.prepare(lock, state, None).await?);
            self.start_new(lock, state, &made).await?;
        }
        let rest = count as usize - made.len();
        if rest == 0 {
            return Ok(made);
        }
        let ticket = self.ticket_file(lock, state, contact).await?;
        let mut batch = Vec::new();
        for _ in 0..rest {
            batch.push(self.prepare(lock, state, Some(ticket.path())).await?);
        }
        self.start_new(lock, state, &batch).await?;
        made.append(&mut batch);
        Ok(made)
    }

    /// Makes a home and enters it into the network.
    async fn prepare(&mut self, lock: &Locked, state: &mut State, join_file: Option<&Path>) -> Result<u32> {
        let index = state.nodes.last().map_or(0, |node| node.index + 1);
        let home = self.dir.home(index);
        let port = self.choose_port(state)?;
        write_config(&home, index, port, &self.config)?;
        let peer = self.launcher.init(&home, join_file).await.map_err(|problem| at_node(index, problem))?;
        state.nodes.push(NodeState { index, peer, port, process: None, detached: false });
        lock.save(state)?;
        Ok(index)
    }

    /// Starts nodes that were just made. Somebody may have taken a port since it was chosen: those get another, which
    /// nobody has been told yet.
    async fn start_new(&mut self, lock: &Locked, state: &mut State, indices: &[u32]) -> Result<()> {
        let mut pending = indices.to_vec();
        for attempt in 1.. {
            for index in &pending {
                self.spawn(lock, state, *index)?;
            }
            let mut again = Vec::new();
            for (index, failure) in self.await_ready(state, &pending).await {
                let problem = match failure {
                    NotReady::Ended(_) if attempt < PORT_ATTEMPTS_MAX && !ports::is_free(state.node(index)?.port) => {
                        again.push(index);
                        continue;
                    }
                    NotReady::Ended(problem) | NotReady::Late(problem) => problem,
                };
                self.end_held(indices);
                return Err(at_node(index, problem));
            }
            if again.is_empty() {
                return Ok(());
            }
            for index in &again {
                let port = self.choose_port(state)?;
                write_config(&self.dir.home(*index), *index, port, &self.config)?;
                state.node_mut(*index)?.port = port;
            }
            pending = again;
        }
        Ok(())
    }

    /// Starts a node's process and notes it at once, so that a later command finds it whatever becomes of this one.
    fn spawn(&mut self, lock: &Locked, state: &mut State, index: u32) -> Result<()> {
        let held = self.mode == Mode::Held;
        let running = self.launcher.start(&self.dir.home(index), held).map_err(|problem| at_node(index, problem))?;
        let node = state.node_mut(index)?;
        node.process = Some(running.id.clone());
        node.detached = !held;
        self.held.retain(|(other, _)| *other != index);
        self.held.push((index, running));
        lock.save(state)
    }

    /// Waits for nodes that were just started; returns those that are not ready, each with the reason.
    async fn await_ready(&mut self, state: &State, indices: &[u32]) -> Vec<(u32, NotReady)> {
        let deadline = Instant::now() + start_limit(state);
        let waiting =
            self.held.iter_mut().filter(|(index, _)| indices.contains(index)).map(|(index, running)| async move {
                let failure = running.ready(deadline).await.err()?;
                Some((*index, failure))
            });
        join_all(waiting).await.into_iter().flatten().collect()
    }

    /// Waits until every running node sees every other running one that it is not cut off from.
    ///
    /// # Errors
    /// `not_found` when there is no network; otherwise when they do not meet in time.
    pub async fn until_met(&self) -> Result<()> {
        self.meet(&[]).await
    }

    /// Waits until every running node sees every other running one that it is not cut off from. A stopped node answers
    /// nobody, so it is left out.
    ///
    /// Other commands may kill and add nodes meanwhile, so who runs is looked up again with every round.
    async fn meet(&self, started: &[u32]) -> Result<()> {
        let mut state = self.dir.load()?;
        let deadline = Instant::now() + start_limit(&state);
        loop {
            if let Some(index) = started.iter().find(|index| is_gone(&state, **index)) {
                return Err(at_node(*index, Problem::new(Code::Other, "it ended before it had met the others"))
                    .hint(format!("less {}", shell_word(&self.dir.home(*index).join("log")))));
            }
            match self.meet_once(&state).await {
                Err(problem) if Instant::now() < deadline && is_passing(problem.code) => {
                    sleep(MEET_PAUSE).await;
                    state = self.dir.load()?;
                }
                met => return met,
            }
        }
    }

    async fn meet_once(&self, state: &State) -> Result<()> {
        let running = state.indices(Condition::Running);
        let reach = faults::within_reach(&self.dir, state)?;
        let waits = running.iter().map(|index| {
            let members = reach[index].iter().filter(|other| running.contains(other)).count() as u32;
            (index, members)
        });
        let waits = waits.map(|(index, members)| async move {
            let client = self.client(*index);
            let met = answered(MEET_ROUND + ANSWER_LIMIT, client.wait(Some(members), MEET_ROUND)).await;
            met.map_err(|problem| at_node(*index, problem))
        });
        join_all(waits).await.into_iter().try_for_each(|met| met.map(|_| ()))
    }

    /// The ticket of a running node, of any where none is named, in a file that only this user can read and that is removed after use.
    async fn ticket_file(&self, lock: &Locked, state: &State, contact: Option<u32>) -> Result<TicketFile> {
        let Some(index) = contact.or_else(|| state.indices(Condition::Running).first().copied()) else {
            return Err(Problem::new(Code::Conflict, "no node runs, so nobody can let another one in"));
        };
        let client = self.client(index);
        let ticket = answered(ANSWER_LIMIT, client.ticket()).await.map_err(|problem| at_node(index, problem))?.ticket;
        lock.write_ticket(&ticket)
    }

    /// Refuses to start what this machine does not carry, unless told to.
    fn check_machine(&self, state: &State, nodes: Option<u32>) -> Result<()> {
        if self.force {
            return Ok(());
        }
        let nodes = wanted(nodes, state).max(state.nodes.len() as u32);
        let up = state.nodes.len() - state.indices(Condition::Exited).len();
        capacity::check(nodes, nodes - up as u32)
    }

    fn choose_port(&mut self, state: &State) -> Result<u16> {
        let taken: BTreeSet<u16> = state.nodes.iter().map(|node| node.port).collect();
        let reservation = ports::choose(&taken, self.seed)?;
        let port = reservation.port();
        self.reserved.push(reservation);
        Ok(port)
    }

    /// A port that somebody else has is left to the node to complain about.
    fn reserve(&mut self, port: u16) {
        if !self.reserved.iter().any(|reserved| reserved.port() == port) {
            self.reserved.extend(Reservation::of(port));
        }
    }

    /// Once ready, a detached node is nobody's: it stays also when it does not meet the others in time.
    fn release_detached(&mut self) {
        if self.mode == Mode::Detached {
            self.held.clear();
        }
    }

    /// Kills what a failed start has left.
    fn end_held(&mut self, indices: &[u32]) {
        for (_, running) in self.held.iter_mut().filter(|(index, _)| indices.contains(index)) {
            running.kill();
        }
    }
}

/// How many nodes a network is to have.
fn wanted(nodes: Option<u32>, state: &State) -> u32 {
    match (nodes, state.wanted) {
        (None, 0) => NODES_DEFAULT,
        (None, before) => before,
        (Some(nodes), before) => nodes.max(before),
    }
}

/// Bounds a call: a node that somebody stops in the middle of it answers never.
async fn answered<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    let silent = |_| Problem::new(Code::TimedOut, format!("no answer for {} s", limit.as_secs()));
    timeout(limit, call).await.map_err(silent)?
}

/// Whether a node's failure may be gone with the next round: it has not met all, or has just been killed.
fn is_passing(code: Code) -> bool {
    matches!(code, Code::TimedOut | Code::Unreachable | Code::NotReady)
}

fn is_gone(state: &State, index: u32) -> bool {
    state.node(index).is_ok_and(|node| node.condition() == Condition::Exited)
}

fn start_limit(state: &State) -> Duration {
    START_LIMIT + START_LIMIT_PER_NODE * state.nodes.len() as u32
}

fn check_count(nodes: u32) -> Result<()> {
    if (1..=NODES_MAX).contains(&nodes) {
        return Ok(());
    }
    Err(Problem::new(Code::Usage, format!("a network has 1 to {NODES_MAX} nodes, not {nodes}")))
}

fn at_node(index: u32, problem: Problem) -> Problem {
    Problem { message: format!("node {index}: {}", problem.message), ..problem }
}
