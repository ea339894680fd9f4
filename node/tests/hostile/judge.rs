//! The judge: three nodes of a cluster, one of which is attacked; what must hold meanwhile, and afterwards.
//!
//! For every scenario: the victim lives and does not panic; its memory stays within [`MEMORY_MAX`] of what it takes idle;
//! files go in and out, through it and by way of it, at [`RATE_MIN`] of the rate without the attack; the counters move that
//! should; what honest users have written to the map and been told so is there on every node; its log does not grow without end; no honest node is down, has left or stays away in the view of any of them; and
//! once the attack is over, all see each other, and the victim's tasks and descriptors are as before.
//!
//! Rates are compared with those of the same cluster right before and right after the attack. The attacker runs on the same
//! machine, so what it burns is no longer there for the victim, which says nothing about the victim: the attacker's process
//! has the lowest priority where rates are judged ([`crate::peer::run`]). What the victim itself spends on it counts in full.

mod attack;
mod cluster;
mod map;
mod process;
mod rounds;
mod views;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use attack::{Attacker, Done};
use cluster::{Cluster, Metrics};
use rounds::{Rates, Share};

use crate::peer::{LATER, Scenario, scenarios};

/// Memory that an attack may cost beyond what the idle node takes, in bytes.
const MEMORY_MAX: u64 = 128 << 20;

/// Share of the rate without an attack that is left to honest transfers.
const RATE_MIN: f64 = 1.0 / 3.0;

/// Rounds of transfers that are measured during an attack; of calm ones as many, half of them before it and half after.
const ROUNDS: usize = 4;

/// How often an attack is measured before its rates are found too low: the machine may be busy with something else. Every
/// measurement is printed.
const TRIES: usize = 3;

/// Says for how many seconds each attack goes on, and that the rates are judged: an ordinary test run, on a machine that has
/// other things to do, only prints them.
const SECONDS: &str = "P2P_HOSTILE_SECONDS";

/// Most bytes that one attack may add to the victim's log.
const LOG_LEN_MAX: u64 = 64 << 10;

/// Longest wait until everything is as before.
const CALM_TIME_MAX: Duration = Duration::from_secs(60);

/// The same where hundreds of thousands of made-up writes have to be on all nodes before everything is as on the others.
const SPREAD_TIME_MAX: Duration = Duration::from_secs(300);

/// Runs what the arguments ask for, as a test program is asked.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    let arguments: Vec<String> = arguments.collect();
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |scenario: &&Scenario| match wanted.is_empty() {
        true => scenario.not_withstood.is_none(),
        false => wanted.iter().any(|part| scenario.name.contains(part.as_str())),
    };
    let chosen: Vec<&Scenario> = scenarios().filter(is_wanted).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|scenario| println!("{}: test", scenario.name));
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let failures = runtime.block_on(judge_all(&chosen));
    for failure in &failures {
        println!("FAILED {failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How long each attack goes on at least; the rounds alone take about half a second. None in an ordinary test run.
fn duration() -> Option<Duration> {
    let seconds = std::env::var(SECONDS).ok()?;
    Some(Duration::from_secs_f64(seconds.parse().unwrap_or_else(|_| panic!("{SECONDS} is no number: {seconds}"))))
}

async fn judge_all(chosen: &[&Scenario]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut cluster: Option<Cluster> = None;
    let mut used = 0;
    let began = Instant::now();
    for scenario in chosen {
        // A fresh one now and then, so that no home grows without end.
        if used == SCENARIOS_PER_CLUSTER {
            cluster = None;
            used = 0;
        }
        let over = match &mut cluster {
            Some(cluster) => cluster,
            none => none.insert(Cluster::start(ROUNDS / 2).await),
        };
        used += 1;
        let failed = judge(over, scenario).await;
        if !failed.is_empty() || scenario.makes_up || scenario.leaves_traces {
            failures.extend(failed.into_iter().map(|failure| format!("{}: {failure}", scenario.name)));
            cluster = None;
            used = 0;
        }
    }
    for (name, why) in scenarios().filter_map(|scenario| Some((scenario.name, scenario.not_withstood?))) {
        if !chosen.iter().any(|scenario| scenario.name == name) {
            println!("skipped: {name}: {why}");
        }
    }
    if duration().is_none() {
        println!("skipped: rates are printed, and judged only where {SECONDS} is set");
    }
    println!("{} scenarios in {:.0?}, {} failures", chosen.len(), began.elapsed(), failures.len());
    failures
}

/// Scenarios that are tried on the same cluster.
const SCENARIOS_PER_CLUSTER: usize = 12;

/// What one attack did to the transfers.
struct Measured {
    share: Share,
    rates: Rates,
    /// The victim's counters at its height.
    during: Metrics,
    done: Done,
    took: Duration,
}

/// Attacks once, between two calm measurements.
async fn attack(cluster: &mut Cluster, scenario: &Scenario) -> Result<Measured, String> {
    let began = Instant::now();
    let keys = cluster.map.len();
    let attacker = Attacker::start(&cluster.victim.ticket_file, &[scenario.name], duration().is_some()).await?;
    let measure = async |rounds| match scenario.is_asked {
        true => Rates::measure_busy(cluster, rounds).await,
        false => Rates::measure(cluster, rounds).await,
    };
    let mut rates: Rates = measure(ROUNDS).await;
    while began.elapsed() < duration().unwrap_or_default() {
        rates = rates.joined(&measure(1).await);
    }
    let during = cluster.victim.metrics().await;
    if during.get("p2p_kv_keys") < keys {
        let held = during.get("p2p_kv_keys");
        rates.failures.push(format!("{held} keys are held of {keys} that were written before"));
    }
    let done = attacker.stop().await;
    let took = began.elapsed();
    let limit = if scenario.leaves_traces { SPREAD_TIME_MAX } else { CALM_TIME_MAX };
    cluster.calm_down(limit, scenario.makes_up).await?;
    let calm = Rates::measure_calm(cluster, ROUNDS / 2).await;
    let share = rates.share_of(&cluster.calm.joined(&calm));
    rates.failures.extend(calm.failures.iter().map(|failure| format!("after it {failure}")));
    cluster.calm = calm;
    Ok(Measured { share, rates, during, done, took })
}

/// Tries one scenario; says what did not hold.
async fn judge(cluster: &mut Cluster, scenario: &Scenario) -> Vec<String> {
    let mut failures = Vec::new();
    cluster.victim.process.reset_peak();
    for n in 1..=TRIES {
        let (log, counters) = (cluster.victim.log_len(), cluster.victim.metrics().await);
        let measured = match attack(cluster, scenario).await {
            Ok(measured) => measured,
            Err(left) => {
                failures.push(format!("{left}: {}", cluster.victim.log_tail()));
                failures.extend(cluster.take_slanders());
                return failures;
            }
        };
        let Measured { share, rates, during, done, took } = measured;
        let is_slow = share.least() < RATE_MIN;
        failures.extend(rates.failures);
        failures.extend(done.complaints);
        failures.extend(unmoved(scenario, took, &counters, &during));
        failures.extend(harm(cluster, log));
        failures.extend(cluster.take_slanders());
        let judged = duration().is_some();
        if is_slow && judged && n == TRIES {
            failures.push(format!("transfers at {share} of the rate without it"));
        }
        let verdict = match (failures.is_empty(), is_slow) {
            (true, false) => "ok",
            (true, true) if judged => "again",
            (true, true) => "slow",
            (false, _) => "FAILED",
        };
        let more = cluster.victim.process.memory().map_or(0, |memory| memory.peak.saturating_sub(cluster.idle.memory));
        println!("hostile: {:24} {verdict:6} {share}, +{} MiB, {took:.1?} {}", scenario.name, more >> 20, done.tally);
        if verdict != "again" {
            break;
        }
    }
    failures
}

/// Counters that should have moved, and did not.
fn unmoved(scenario: &Scenario, took: Duration, before: &Metrics, after: &Metrics) -> Vec<String> {
    let later = if took >= LATER { scenario.moves_later } else { &[] };
    let stands = scenario.moves.iter().chain(later).filter(|name| after.get(name) <= before.get(name));
    stands.map(|name| format!("{name} did not move from {}", before.get(name))).collect()
}

/// What the victim has suffered, whose log was so long before.
fn harm(cluster: &Cluster, log: u64) -> Vec<String> {
    let (victim, idle) = (&cluster.victim, cluster.idle.memory);
    let mut harm = Vec::new();
    if !victim.process.is_alive() || victim.panicked() {
        harm.push(format!("the victim is hurt: {}", victim.log_tail()));
    }
    if let Some(memory) = victim.process.memory().filter(|memory| memory.peak > idle + MEMORY_MAX) {
        harm.push(format!("{} MiB of memory, {} MiB idle", memory.peak >> 20, idle >> 20));
    }
    let grown = victim.log_len() - log;
    if grown > LOG_LEN_MAX {
        harm.push(format!("{} KiB of log: {}", grown >> 10, victim.log_tail()));
    }
    harm
}
