//! The hostile peer: speaks the real protocols, and lies.
//!
//! A process of its own, so that what it takes is not counted as the victim's. It does what a scenario says, says `begun`
//! once that has begun, and goes on until its standard input ends.

pub(crate) mod answers;
pub(crate) mod credit;
pub(crate) mod crowds;
pub(crate) mod door;
pub(crate) mod floods;
pub(crate) mod frames;
pub(crate) mod heads;
pub(crate) mod map;
pub(crate) mod members;
pub(crate) mod numbers;
pub(crate) mod others;
pub(crate) mod references;
pub(crate) mod seat;
pub(crate) mod silence;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use clap::Parser;
use futures::future::BoxFuture;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use p2p_gossip::wire::ClusterId;
use p2p_node::cluster::ClusterKey;
use p2p_node::ticket::Ticket;
use tokio::io::AsyncReadExt;

/// Where the attack comes from: another host than that of the honest nodes, as far as anybody can see.
pub(crate) const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// What the hostile peer is told.
#[derive(Parser)]
#[command(name = "hostile peer", no_binary_name = true)]
struct Arguments {
    /// File with a ticket of the victim's cluster
    #[arg(long)]
    ticket_file: PathBuf,
    /// By which its identities are made
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave the machine to whoever else wants it
    #[arg(long)]
    gives_way: bool,
    /// What to do, all at once
    #[arg(required = true)]
    scenarios: Vec<String>,
}

/// One way to be hostile.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    /// By which it is asked for.
    pub(crate) name: &'static str,
    /// Counters of the victim that must move while it goes on.
    pub(crate) moves: &'static [&'static str],
    /// Likewise, once it has gone on for [`LATER`].
    pub(crate) moves_later: &'static [&'static str],
    /// Whether the victim has to come to it, so that it can.
    pub(crate) is_asked: bool,
    /// Whether members are made up without end: the cluster is of no more use then.
    pub(crate) makes_up: bool,
    /// Whether what is left of it stays: the next scenario has a cluster of its own.
    pub(crate) leaves_traces: bool,
    /// Why it is tried only where it is asked for by name.
    pub(crate) not_withstood: Option<&'static str>,
    /// Does it, for ever.
    pub(crate) run: fn(Arc<Attack>) -> BoxFuture<'static, ()>,
}

impl Scenario {
    pub(crate) const fn new(name: &'static str, run: fn(Arc<Attack>) -> BoxFuture<'static, ()>) -> Self {
        Self {
            name,
            moves: &[],
            moves_later: &[],
            is_asked: false,
            makes_up: false,
            leaves_traces: false,
            not_withstood: None,
            run,
        }
    }

    pub(crate) const fn when_asked(self) -> Self {
        Self { is_asked: true, ..self }
    }

    pub(crate) const fn making_up(self) -> Self {
        Self { makes_up: true, not_withstood: Some("members that are made up stay for days"), ..self }
    }

    pub(crate) const fn not_withstood(self, why: &'static str) -> Self {
        Self { not_withstood: Some(why), ..self }
    }

    pub(crate) const fn leaving_traces(self) -> Self {
        Self { leaves_traces: true, ..self }
    }

    pub(crate) const fn moving(self, moves: &'static [&'static str]) -> Self {
        Self { moves, ..self }
    }

    pub(crate) const fn moving_later(self, moves_later: &'static [&'static str]) -> Self {
        Self { moves_later, ..self }
    }
}

/// After so long every limit of time that a node has for its peers has struck.
pub(crate) const LATER: Duration = Duration::from_secs(40);

/// All of them, in the order in which they are tried.
pub(crate) fn scenarios() -> impl Iterator<Item = &'static Scenario> {
    [
        frames::SCENARIOS,
        heads::SCENARIOS,
        references::SCENARIOS,
        credit::SCENARIOS,
        numbers::SCENARIOS,
        silence::SCENARIOS,
        others::SCENARIOS,
        floods::SCENARIOS,
        crowds::SCENARIOS,
        answers::SCENARIOS,
        members::SCENARIOS,
        members::words::SCENARIOS,
        members::floods::SCENARIOS,
        map::frames::SCENARIOS,
        map::writes::SCENARIOS,
        map::questions::SCENARIOS,
        map::answers::SCENARIOS,
        map::floods::SCENARIOS,
    ]
    .into_iter()
    .flatten()
}

/// Who is attacked, and what was done so far.
pub(crate) struct Attack {
    pub(crate) victim: PeerId,
    pub(crate) address: SocketAddr,
    pub(crate) cluster: ClusterId,
    pub(crate) key: ClusterKey,
    pub(crate) seed: u64,
    begun: Once,
    tally: Mutex<BTreeMap<&'static str, u64>>,
}

impl Attack {
    /// Something was done.
    pub(crate) fn did(&self, what: &'static str) {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    /// From now on it hurts, if it does: the judge is told, once.
    pub(crate) fn began(&self) {
        self.begun.call_once(|| say("begun"));
    }

    /// The victim did what it must not do.
    pub(crate) fn complain(&self, what: &str) {
        say(&format!("complaint: {what}"));
    }

    /// Where the victim is.
    pub(crate) fn multiaddr(&self) -> Multiaddr {
        Multiaddr::from(self.address.ip()).with(Protocol::Tcp(self.address.port()))
    }

    /// The key of its identity number `n`.
    pub(crate) fn identity(&self, n: u32) -> Keypair {
        Keypair::ed25519_from_bytes(self.secret(n)).expect("32 bytes are a key")
    }

    /// What that key is made of.
    pub(crate) fn secret(&self, n: u32) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(&n.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Bytes that nobody has seen before, the same in every run.
    pub(crate) fn bytes(&self, n: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"hostile").update(&self.seed.to_le_bytes()).update(&n.to_le_bytes());
        hasher.finalize_xof().fill(&mut bytes);
        bytes
    }
}

/// Runs the peer with these arguments.
pub(crate) fn run(arguments: impl Iterator<Item = String>) {
    let arguments = Arguments::parse_from(arguments);
    let text = std::fs::read_to_string(&arguments.ticket_file).expect("a ticket");
    let ticket: Ticket = text.parse().expect("a ticket");
    let address = ticket.addresses.first().expect("an address of the victim");
    let mut parts = address.iter();
    let (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port)), Some(Protocol::P2p(victim))) =
        (parts.next(), parts.next(), parts.next())
    else {
        panic!("the victim is reached by IPv4 and TCP, not at {address}");
    };
    let attack = Arc::new(Attack {
        victim,
        address: (ip, port).into(),
        cluster: ticket.cluster,
        key: ticket.key,
        seed: arguments.seed,
        begun: Once::new(),
        tally: Mutex::default(),
    });
    // What an attack costs its author is not what it costs the victim, and this machine runs both. Where the costs are judged,
    // the author comes last; where the machine has other things to do, it would then never get to attack.
    if arguments.gives_way {
        rustix::process::nice(19).expect("who gives way may");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("threads").block_on(async {
        for name in &arguments.scenarios {
            let found = scenarios().find(|scenario| scenario.name == name);
            let scenario = found.unwrap_or_else(|| panic!("there is no scenario {name}"));
            tokio::spawn((scenario.run)(attack.clone()));
        }
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    });
    let tally = attack.tally.lock().unwrap_or_else(PoisonError::into_inner);
    say(&format!("done: {tally:?}"));
    // Whatever still goes on ends here, as when a machine goes down.
    std::process::exit(0);
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The judge may be gone; then nobody listens.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Does something over and over, with a pause, on several lanes at once.
pub(crate) async fn again<F>(attack: &Arc<Attack>, lanes: usize, pause: Duration, attempt: impl Fn(usize) -> F)
where
    F: Future<Output = std::io::Result<()>>,
{
    let lane = async |n: usize| {
        loop {
            // How it ends is the victim's choice.
            if attempt(n).await.is_ok() {
                attack.did("attempts");
                attack.began();
            }
            tokio::time::sleep(pause).await;
        }
    };
    futures::future::join_all((0..lanes).map(lane)).await;
}
