//! Serf, where it is installed: agents on loopback, of which some are killed.
//!
//! It tells nobody when it has seen something, so all others are asked over and over, which makes its times a little longer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use p2p_api::{Code, Problem};
use rustix::process::Signal;
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::{Bench, Unit, most};
use crate::Result;
use crate::ports::{self, Reservation};
use crate::process::{Condition, ProcessId};
use crate::programs::{is_installed, limit, run, serve};
use crate::workload::Dice;

/// Agents.
const AGENTS: u32 = 10;

/// Agents to kill, one after the other.
const KILLS: u32 = 5;

/// Longest wait until all agents say the same.
const LIMIT: Duration = Duration::from_secs(60);

/// Time between two rounds of asking.
const PERIOD: Duration = Duration::from_millis(100);

/// Measured where it can be; that it cannot is no failure of ours.
pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    if !is_installed("serf") {
        bench.skip("serf is not installed (https://github.com/hashicorp/serf)".to_owned());
        return Ok(());
    }
    if let Err(problem) = kills(bench).await {
        bench.skip(format!("serf does not work here: {}", problem.message));
    }
    Ok(())
}

async fn kills(bench: &mut Bench) -> Result<()> {
    let mut agents = Agents::start(bench.seed).await?;
    let mut dice = Dice::of_part(bench.seed, 2);
    for _ in 0..KILLS {
        let index = dice.roll(AGENTS.into()) as u32;
        agents.kill(index).await?;
        let seen = agents.until(index, "failed").await?;
        bench.add("Serf, kill -9 to failed at the last agent", Unit::S, most(&seen));
        agents.run(index).await?;
        agents.until(index, "alive").await?;
    }
    Ok(())
}

/// Agents that run; they end when this is dropped.
struct Agents {
    running: BTreeMap<u32, Child>,
    /// Of each agent one for others, and one for commands.
    ports: Vec<[Reservation; 2]>,
}

/// What `serf members -format json` prints.
#[derive(Deserialize)]
struct Listed {
    members: Vec<ListedMember>,
}

#[derive(Deserialize)]
struct ListedMember {
    name: String,
    status: String,
}

impl Agents {
    async fn start(seed: u64) -> Result<Self> {
        let mut taken = BTreeSet::new();
        let mut choose = || {
            let port = ports::choose(&taken, seed)?;
            taken.insert(port.port());
            Ok::<_, Problem>(port)
        };
        let ports = (0..AGENTS).map(|_| Ok([choose()?, choose()?])).collect::<Result<Vec<_>>>()?;
        let mut agents = Self { running: BTreeMap::new(), ports };
        for index in 0..AGENTS {
            agents.run(index).await?;
        }
        for index in 0..AGENTS {
            agents.until(index, "alive").await?;
        }
        Ok(agents)
    }

    async fn run(&mut self, index: u32) -> Result<()> {
        let address = |agent: u32, of: usize| format!("127.0.0.1:{}", self.ports[agent as usize][of].port());
        let mut command = Command::new("serf");
        command.args(["agent", "-profile=lan", &format!("-node={}", name(index))]);
        command.args([format!("-bind={}", address(index, 0)), format!("-rpc-addr={}", address(index, 1))]);
        if let Some(other) = self.running.keys().find(|other| **other != index) {
            command.arg(format!("-join={}", address(*other, 0)));
        }
        let (child, _) = serve(command, |line| line.contains("Serf agent running").then(String::new)).await?;
        self.running.insert(index, child);
        Ok(())
    }

    async fn kill(&mut self, index: u32) -> Result<()> {
        let mut child = self.running.remove(&index).ok_or_else(|| ended(index))?;
        let process = child.id().and_then(ProcessId::of).ok_or_else(|| ended(index))?;
        process.force(Signal::KILL, Condition::Exited).await?;
        let _ = child.wait().await;
        Ok(())
    }

    /// How long it takes each running agent to say this of one, in seconds.
    async fn until(&self, index: u32, status: &str) -> Result<Vec<f64>> {
        let started = Instant::now();
        let mut seen: BTreeMap<u32, f64> = BTreeMap::new();
        while seen.len() < self.running.len() {
            if started.elapsed() > LIMIT {
                let message = format!("not all agents say that {} is {status}", name(index));
                return Err(Problem::new(Code::TimedOut, message));
            }
            for agent in self.running.keys() {
                if !seen.contains_key(agent) && self.says(*agent, index, status).await? {
                    seen.insert(*agent, started.elapsed().as_secs_f64());
                }
            }
            sleep(PERIOD).await;
        }
        Ok(seen.into_values().collect())
    }

    async fn says(&self, agent: u32, of: u32, status: &str) -> Result<bool> {
        let mut command = Command::new("serf");
        let port = self.ports[agent as usize][1].port();
        command.args(["members", "-format=json", &format!("-rpc-addr=127.0.0.1:{port}")]);
        says(&run(command, limit(0)).await?.stdout, &name(of), status)
    }
}

fn name(index: u32) -> String {
    format!("agent-{index}")
}

fn says(listed: &[u8], name: &str, status: &str) -> Result<bool> {
    let listed: Listed = serde_json::from_slice(listed)
        .map_err(|error| Problem::new(Code::Other, format!("serf members printed no document: {error}")))?;
    Ok(listed.members.iter().any(|member| member.name == name && member.status == status))
}

fn ended(index: u32) -> Problem {
    Problem::new(Code::Other, format!("{} has ended by itself", name(index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_of_another_is_read() {
        let listed = br#"{"members":[{"name":"agent-1","addr":"127.0.0.1:1","status":"failed","tags":{}}]}"#;
        assert!(says(listed, "agent-1", "failed").expect("a document"));
        assert!(!says(listed, "agent-1", "alive").expect("a document"));
        assert!(!says(listed, "agent-11", "failed").expect("a document"));
        assert!(says(b"", "agent-1", "failed").is_err());
    }
}
