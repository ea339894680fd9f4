//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Parser, Subcommand};
use p2p_api::{Code, Problem};
use p2p_testnet::bench::{content, kv, members};
use p2p_testnet::cluster::NODES_MAX;
use p2p_testnet::faults::{Fault, Groups};
use p2p_testnet::sim::{self, Named, Profile};
use p2p_testnet::torture::kv as torture_kv;

/// Starts and hurts networks of real nodes on this machine.
#[derive(Debug, Parser)]
#[command(name = "p2p-testnet", version, max_term_width = 100)]
pub(crate) struct Args {
    /// Folder of the network [default: ./testnet-data]; of demo, bench, torture and bugs, one to work in [default: a temporary one]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print results and errors as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start a network, or the one that DIR holds again: same nodes, same ports. Stays until Ctrl-C, which ends it
    Up {
        /// Nodes: 5 in a new network; an existing one with fewer gets more
        #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(NODES_MAX)))]
        nodes: Option<u32>,
        /// Return once it is up, and leave it running
        #[arg(long)]
        detach: bool,
        /// Where the search for free ports starts [default: derived from DIR]
        #[arg(long, value_name = "S")]
        seed: Option<u64>,
        /// Start also more nodes than this machine carries by its cores, memory and open files
        #[arg(long)]
        force: bool,
    },
    /// List the nodes, what they are doing, and what is wrong with them on purpose
    Ps {
        /// Show instead what each takes each for, and whether all agree
        #[arg(long)]
        matrix: bool,
    },
    /// Kill a node without warning (SIGKILL)
    Kill {
        /// Its index
        #[arg(value_name = "I")]
        index: u32,
    },
    /// Stop a node (SIGSTOP): its connections stay open and it is silent
    Stop {
        /// Its index
        #[arg(value_name = "I")]
        index: u32,
    },
    /// Let a stopped node go on (SIGCONT)
    Cont {
        /// Its index
        #[arg(value_name = "I")]
        index: u32,
    },
    /// End a node in order if it runs, and start it again. It is left running, as with `up --detach`
    Restart {
        /// Its index
        #[arg(value_name = "I")]
        index: u32,
    },
    /// Add nodes to a running network. They are left running, as with `up --detach`
    Add {
        /// How many
        #[arg(value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(NODES_MAX)))]
        count: u32,
        /// Start also more nodes than this machine carries by its cores, memory and open files
        #[arg(long)]
        force: bool,
    },
    /// Keep groups of nodes apart, as if the cables between them were cut: `partition 0,1/2,3,4`
    ///
    /// Nodes that are not named form one more group, so `partition 0` isolates node 0. It replaces an earlier partition,
    /// outlives restarts, and ends with heal. Nodes that are added later reach everybody.
    Partition {
        /// Indices with commas between them, groups with slashes between them
        #[arg(value_name = "GROUPS")]
        groups: Groups,
    },
    /// Take every fault from every node: partitions, and what `fault` has set
    Heal,
    /// Let a node serve badly, in the ways that are named and in no others: `fault 2 rate=20MiB corrupt`
    ///
    /// none: not at all. rate=SIZE: it sends at most SIZE a second to all others together. corrupt: every object that it
    /// serves has a wrong byte. stall: it is there, and answers nothing about objects. hide-view: it looks for holders of
    /// content by Kademlia alone, as if it knew no members. Outlives restarts; a partition stays as it is.
    Fault {
        /// Its index
        #[arg(value_name = "I")]
        index: u32,
        /// none, rate=SIZE, corrupt, stall, hide-view
        #[arg(value_name = "FAULT", required = true)]
        faults: Vec<Fault>,
    },
    /// End every node; DIR stays and `up` starts them again
    Down {
        /// Delete DIR with all content too
        #[arg(long)]
        delete: bool,
    },
    /// Put a file on one node, get it from others, kill the first, get it again; compare everything, then clean up
    Demo {
        /// The file [default: 128 MiB made from the seed]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Nodes
        #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=i64::from(NODES_MAX)))]
        nodes: u32,
        /// Determines the generated file and where the search for free ports starts
        #[arg(long, value_name = "S", default_value_t = 1)]
        seed: u64,
    },
    /// Measure, beside what this machine gives at most and beside other programs
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Run clusters in a virtual world, which is fast, and replays by its seed
    Sim {
        #[command(subcommand)]
        what: Sim,
    },
    /// Kill nodes while they work, over and over, and judge what is left
    Torture {
        #[command(subcommand)]
        what: Torture,
    },
    /// Plant bugs in a copy of the sources, and see that tests catch them
    ///
    /// Builds in a folder of its own in CARGO_TARGET_DIR, which the next run finds again; without it in a temporary one.
    Bugs {
        /// Which [default: all]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Only say which there are
        #[arg(long, conflicts_with = "names")]
        list: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sim {
    /// Membership: who is here, and how soon that is known
    #[command(group(clap::ArgGroup::new("asked").required(true).args(["scenario", "table"])))]
    Members {
        /// crash, silent-crash, stall, loss, lifeguard, asymmetric, facts, bootstrap, heal, mass-restart, leave, idle,
        /// survivors, orphan, random
        #[arg(long, value_name = "NAME")]
        scenario: Option<Named>,
        /// Nodes [default: what the scenario is usually run with; with random the seed decides]
        #[arg(long, value_name = "N", conflicts_with = "table")]
        nodes: Option<usize>,
        /// Seeds to run
        #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: u64,
        /// The first of them
        #[arg(long, value_name = "S", default_value_t = 0)]
        first_seed: u64,
        /// ours, or memberlist with its published parameters on the same links
        #[arg(long, value_name = "NAME", default_value = "ours")]
        profile: Profile,
        /// Tell all that happens in the first seed of random
        #[arg(long, conflicts_with = "table")]
        trace: bool,
        /// All scenarios at their sizes, ours beside memberlist, held against targets. Takes hours; rows that FILE has of the
        /// same sources are not run again, so it may be stopped at any time
        #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "docs/results/members-sim.jsonl")]
        table: Option<PathBuf>,
    },
    /// The replicated map: that nothing is lost, and nothing comes back
    Kv {
        /// random, short, partition, crash, rollback, clone, loss, absence, split, blind, slow-disk
        #[arg(long, value_name = "NAME")]
        scenario: sim::kv::Named,
        /// Nodes [default: the seed decides, 3 to 7; 25 in split]
        #[arg(long, value_name = "N")]
        nodes: Option<usize>,
        /// Seeds to run
        #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: u64,
        /// The first of them
        #[arg(long, value_name = "S", default_value_t = 0)]
        first_seed: u64,
        /// Tell all that happens in the first seed
        #[arg(long)]
        trace: bool,
        /// Keep blocks of 1,000 seeds that are done in FILE. Those that it has of the same sources are not run again, so it may
        /// be stopped at any time
        #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "docs/results/kv-sim.jsonl",
            conflicts_with = "trace")]
        record: Option<PathBuf>,
    },
    /// The same, with everything that three nodes can do with two keys in a few steps
    KvScope {
        /// Steps; each makes it take ten times as long
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=8))]
        steps: u8,
        /// Keep what was found in FILE, where nothing was wrong
        #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "docs/results/kv-sim.jsonl")]
        record: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Torture {
    /// Puts and gets of content; ends with 9 when a promise was broken, and leaves what shows it
    Content {
        /// Cycles in all [default: 200; of a run that is taken up, as many as it wanted]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        cycles: Option<u32>,
        /// Determines what is done [default: another one every time]
        #[arg(long, value_name = "S", conflicts_with = "resume")]
        seed: Option<u64>,
        /// Nodes
        #[arg(short, long, value_name = "N", default_value_t = 5, conflicts_with = "resume")]
        nodes: u32,
        /// New file that says how far the run came, one JSON document a line
        #[arg(long, value_name = "FILE", default_value = "torture-content.jsonl")]
        progress: PathBuf,
        /// Take up the run of such a file
        #[arg(long, value_name = "FILE", conflicts_with = "progress")]
        resume: Option<PathBuf>,
    },
    /// Reads and writes of the replicated map; ends with 1 when a promise was broken, and leaves what shows it
    Kv {
        /// Cycles in all, each a fault [default: 200; of a run that is taken up, as many as it wanted]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        cycles: Option<u32>,
        /// Determines what is done [default: another one every time]
        #[arg(long, value_name = "S", conflicts_with = "resume")]
        seed: Option<u64>,
        /// Nodes
        #[arg(short, long, value_name = "N", default_value_t = 5, conflicts_with = "resume")]
        nodes: u32,
        /// kill: nodes are killed. all: they are also stopped, cut off, set back, copied and emptied
        #[arg(long, value_name = "NAME", default_value = "kill", conflicts_with = "resume")]
        mix: torture_kv::Mix,
        /// Clients at work at once
        #[arg(long, value_name = "N", default_value_t = torture_kv::CLIENTS_DEFAULT, conflicts_with = "resume",
            value_parser = clap::value_parser!(u32).range(1..=i64::from(torture_kv::CLIENTS_MAX)))]
        clients: u32,
        /// New file that says how far the run came, one JSON document a line
        #[arg(long, value_name = "FILE", default_value = "torture-kv.jsonl")]
        progress: PathBuf,
        /// Take up the run of such a file
        #[arg(long, value_name = "FILE", conflicts_with = "progress")]
        resume: Option<PathBuf>,
        /// The p2p-node to run; several are run in turn, node by node, so that versions are mixed [default: the one beside
        /// this program, or P2P_NODE_BIN]
        #[arg(long, value_name = "FILE")]
        node_bin: Vec<PathBuf>,
        /// Keep every call and fault in FILE, one JSON document a line [default: those since the last look at everything, in
        /// the network's folder]
        #[arg(long, value_name = "FILE")]
        history: Option<PathBuf>,
        /// Add what came of it to a file of results
        #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "docs/results/kv-torture.jsonl")]
        record: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Puts and gets of content
    Content {
        /// Length of the large file
        #[arg(long, value_name = "SIZE", default_value = "1GiB")]
        size: ByteSize,
        /// Rounds; a figure is their median
        #[arg(long, value_name = "N", default_value_t = 5)]
        runs: u32,
        /// What to measure: put, get, others, small, range, sources, faulty [default: all]
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        only: Vec<content::Group>,
        /// Files of 4 KiB to put in each way, over all rounds
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        small_files: u32,
        /// Determines contents [default: another one every time]
        #[arg(long, value_name = "S")]
        seed: Option<u64>,
        /// Add the figures to a file of results
        #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "docs/results/content.jsonl")]
        record: Option<PathBuf>,
        /// What should be known about the figures that are recorded
        #[arg(long, value_name = "TEXT", requires = "record")]
        note: Option<String>,
    },
    /// Membership: how soon everybody knows who is here, and what knowing costs
    ///
    /// Takes about half an hour, and all of the machine.
    Members {
        /// Nodes [default: 48; 50 for hops; at most 32 for starved]
        #[arg(short, long, value_name = "N")]
        nodes: Option<u32>,
        /// What to measure: idle, kills, stalls, silent, restart, said, apart, hops, starved, serf [default: all]
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        only: Vec<members::Group>,
        /// Nodes to kill, one after the other
        #[arg(long, value_name = "N", default_value_t = 50)]
        kills: u32,
        /// Nodes to stop for two seconds, one after the other
        #[arg(long, value_name = "N", default_value_t = 100)]
        stalls: u32,
        /// Whom it happens to [default: another one every time]
        #[arg(long, value_name = "S")]
        seed: Option<u64>,
        #[command(flatten)]
        extent: Extent,
        /// Add the figures to a file of results
        #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "docs/results/members.jsonl")]
        record: Option<PathBuf>,
        /// What should be known about the figures that are recorded
        #[arg(long, value_name = "TEXT", requires = "record")]
        note: Option<String>,
    },
    /// The replicated map: writes and reads under load, how soon a write is everywhere, and what many keys take
    ///
    /// Takes about a quarter of an hour, and all of the machine.
    Kv {
        /// Only what its rules and its file cost, without any node
        #[arg(long, conflicts_with = "only")]
        store_only: bool,
        /// What to measure: writes, reads, spread, split, large [default: all]
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        only: Vec<kv::Group>,
        /// Rounds; a figure is their median
        #[arg(long, value_name = "N", default_value_t = 5)]
        runs: u32,
        /// Writes of a round
        #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
        writes: u64,
        /// Keys of the large map; with --store-only, of two copies that are compared
        #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
        keys: u64,
        /// Determines keys, and who writes [default: another one every time]
        #[arg(long, value_name = "S")]
        seed: Option<u64>,
        #[command(flatten)]
        extent: MapExtent,
        /// Add the figures to a file of results
        #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "docs/results/kv.jsonl")]
        record: Option<PathBuf>,
        /// What should be known about the figures that are recorded
        #[arg(long, value_name = "TEXT", requires = "record")]
        note: Option<String>,
    },
}

impl Bench {
    /// Where the figures are to be recorded, and with which note.
    pub(crate) fn recording(&self) -> (Option<PathBuf>, Option<String>) {
        let (Self::Content { record, note, .. } | Self::Members { record, note, .. } | Self::Kv { record, note, .. }) =
            self;
        (record.clone(), note.clone())
    }
}

/// What only tests of the command make shorter: figures mean nothing then.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Extent {
    #[arg(long, hide = true)]
    silents: Option<u32>,
    #[arg(long, hide = true)]
    repeats: Option<u32>,
    #[arg(long, hide = true, value_parser = humantime::parse_duration)]
    apart_time: Option<Duration>,
    #[arg(long, hide = true, value_parser = humantime::parse_duration)]
    rest_time: Option<Duration>,
    #[arg(long, hide = true, value_parser = humantime::parse_duration)]
    starve_time: Option<Duration>,
}

impl Extent {
    pub(crate) fn or_usual(self) -> members::Extent {
        let usual = members::Extent::default();
        members::Extent {
            silents: self.silents.unwrap_or(usual.silents),
            repeats: self.repeats.unwrap_or(usual.repeats),
            apart: self.apart_time.unwrap_or(usual.apart),
            rest: self.rest_time.unwrap_or(usual.rest),
            starve: self.starve_time.unwrap_or(usual.starve),
        }
    }
}

/// The same of the replicated map.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct MapExtent {
    #[arg(long, hide = true)]
    read_keys: Option<u64>,
    #[arg(long, hide = true)]
    read_times: Option<u64>,
    #[arg(long, hide = true)]
    spread_nodes: Option<u32>,
    #[arg(long, hide = true, value_parser = humantime::parse_duration)]
    spread_time: Option<Duration>,
    #[arg(long, hide = true)]
    split_keys: Option<u64>,
    #[arg(long, hide = true)]
    split_changes: Option<u64>,
}

impl MapExtent {
    pub(crate) fn or_usual(self) -> kv::Extent {
        let usual = kv::Extent::default();
        kv::Extent {
            read_keys: self.read_keys.unwrap_or(usual.read_keys),
            read_times: self.read_times.unwrap_or(usual.read_times),
            spread_nodes: self.spread_nodes.unwrap_or(usual.spread_nodes),
            spread_time: self.spread_time.unwrap_or(usual.spread_time),
            split_keys: self.split_keys.unwrap_or(usual.split_keys),
            split_changes: self.split_changes.unwrap_or(usual.split_changes),
        }
    }
}

/// Why there is nothing to run.
#[derive(Debug)]
pub(crate) enum Early {
    /// Help or version was asked for: text for standard output.
    Text(String),
    /// The command line is malformed.
    Malformed {
        /// What is wrong.
        problem: Problem,
        /// Whether JSON was asked for, as far as can be told.
        json: bool,
    },
}

/// Reads the command line.
pub(crate) fn parse(words: Vec<OsString>) -> Result<Args, Early> {
    Args::try_parse_from(&words).map_err(|error| {
        if !error.use_stderr() {
            return Early::Text(error.render().to_string());
        }
        let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
        Early::Malformed { problem: problem_of(&error), json }
    })
}

/// clap writes a page; the first paragraph says what is wrong.
fn problem_of(error: &clap::Error) -> Problem {
    use clap::error::ErrorKind;
    let text = error.render().to_string();
    let message = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "no command is given".to_owned()
        }
        _ => {
            let paragraph = text.split("\n\n").next().unwrap_or_default();
            let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
            line.strip_prefix("error: ").unwrap_or(&line).to_owned()
        }
    };
    Problem::new(Code::Usage, message).hint("p2p-testnet --help")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(line: &str) -> Result<Args, Early> {
        parse(line.split_whitespace().map(OsString::from).collect())
    }

    fn malformed(line: &str) -> (Problem, bool) {
        match parsed(line) {
            Err(Early::Malformed { problem, json }) => (problem, json),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after() {
        for line in ["p2p-testnet --dir d --json ps", "p2p-testnet ps --json --dir d"] {
            let args = parsed(line).expect("well formed");
            assert!(args.json && args.dir.as_deref() == Some("d".as_ref()), "{line}");
        }
    }

    #[test]
    fn what_is_malformed_is_a_usage_problem() {
        let lines = [
            "p2p-testnet",
            "p2p-testnet fly",
            "p2p-testnet kill",
            "p2p-testnet kill x",
            "p2p-testnet up -n 0",
            "p2p-testnet bench",
            "p2p-testnet bench content --only everything",
            "p2p-testnet bench content --note text",
            "p2p-testnet bench members --only put",
            "p2p-testnet bench members --starve-time soon",
            "p2p-testnet bench kv --only put",
            "p2p-testnet bench kv --store-only --only writes",
            "p2p-testnet bench kv --keys 0",
            "p2p-testnet torture",
            "p2p-testnet torture content --resume file --seed 1",
            "p2p-testnet torture content --cycles 0",
            "p2p-testnet torture kv --mix some",
            "p2p-testnet torture kv --clients 0",
            "p2p-testnet torture kv --resume file --mix all",
            "p2p-testnet sim members",
            "p2p-testnet sim members --scenario everything",
            "p2p-testnet sim members --scenario idle --seeds 0",
            "p2p-testnet sim members --scenario idle --table",
            "p2p-testnet sim members --scenario idle --profile theirs",
            "p2p-testnet sim members --table --trace",
        ];
        for line in lines {
            let (problem, json) = malformed(line);
            assert_eq!(problem.code, Code::Usage, "{line}");
            assert!(!json && !problem.message.is_empty() && !problem.message.starts_with("error"), "{problem:?}");
        }
    }

    #[test]
    fn faults_and_groups_are_read_before_anything_is_done() {
        for line in ["partition 0,1/2,3", "partition 7", "heal", "fault 0 none", "fault 2 rate=20MiB corrupt stall"] {
            parsed(&format!("p2p-testnet {line}")).expect(line);
        }
        for line in
            ["partition", "partition 0,", "partition 0/0", "partition a", "fault 0", "fault x none", "fault 0 bad"]
        {
            assert_eq!(malformed(&format!("p2p-testnet {line}")).0.code, Code::Usage, "{line}");
        }
    }

    #[test]
    fn parts_of_a_bench_are_named_and_all_are_meant_by_none() {
        let only = |line: &str| match parsed(line).expect(line).verb {
            Verb::Bench { what: Bench::Kv { store_only, only, extent, .. } } => (store_only, only, extent.or_usual()),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(only("p2p-testnet bench kv --only spread,large").1, [kv::Group::Spread, kv::Group::Large]);
        let (store_only, named, extent) = only("p2p-testnet bench kv --split-changes 7");
        assert!(!store_only && named.is_empty());
        assert_eq!((extent.split_changes, extent.spread_nodes), (7, 25));
        assert!(only("p2p-testnet bench kv --store-only").0);
    }

    #[test]
    fn a_parse_error_under_json_is_a_document() {
        let (problem, json) = malformed("p2p-testnet up --json -n many");
        assert!(json);
        let document: serde_json::Value = serde_json::from_str(&p2p_api::text::problem(&problem, json)).expect("JSON");
        assert_eq!(document["error"]["code"], "usage");
        assert_eq!(document["error"]["exit"], 2);
        assert!(document["error"]["message"].as_str().is_some_and(|message| message.contains("many")), "{document}");
    }

    #[test]
    fn help_is_no_error() {
        assert!(matches!(parsed("p2p-testnet --help"), Err(Early::Text(text)) if text.contains("restart")));
        assert!(matches!(parsed("p2p-testnet --version"), Err(Early::Text(_))));
    }
}
