//! Times and counts of memberlist, as its `DefaultLANConfig` has them, and of Serf, as its `DefaultConfig` has them;
//! and what memberlist derives from them and the number of nodes (`util.go`).

use std::time::Duration;

/// Nodes up to which whole states are exchanged at the full rate.
const PUSH_PULL_SCALE_THRESHOLD: f64 = 32.0;

/// Times and counts of one node.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// One member is probed every so often.
    pub probe_interval: Duration,
    /// Without an answer for so long, others are asked to probe.
    pub probe_timeout: Duration,
    /// So many others.
    pub indirect_checks: usize,
    /// Periods that a suspicion lasts at least, for every power of ten of nodes.
    pub suspicion_mult: u32,
    /// A suspicion that nobody confirms lasts so many times longer.
    pub suspicion_max_timeout_mult: u32,
    /// Probes of a node that does not trust itself take up to so many times longer.
    pub awareness_max_multiplier: u32,
    /// Something new is told others every so often.
    pub gossip_interval: Duration,
    /// So many others each time.
    pub gossip_nodes: usize,
    /// For so long also one that is dead, and a dead one is remembered.
    pub gossip_to_the_dead_time: Duration,
    /// Times that something new is sent, for every power of ten of nodes.
    pub retransmit_mult: u32,
    /// The whole state is exchanged with one other every so often, or less often where there are many.
    pub push_pull_interval: Duration,
    /// Bytes of a packet.
    pub packet_len_max: usize,
    /// An exchange on a stream takes no longer.
    pub tcp_timeout: Duration,
    /// Serf: one that could not come in tries again after this.
    pub join_interval: Duration,
    /// Serf: contacts of one try.
    pub join_contacts: usize,
    /// Serf: one that has failed is looked for every so often.
    pub reconnect_interval: Duration,
    /// Serf: it is for so long.
    pub reconnect_timeout: Duration,
    /// Serf: who leaves waits so long for its word to be out.
    pub leave_broadcast_timeout: Duration,
    /// Serf: and then for it to come to all.
    pub leave_propagate_delay: Duration,
}

impl Config {
    /// For machines in one place.
    pub fn lan() -> Self {
        Self {
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_checks: 3,
            suspicion_mult: 4,
            suspicion_max_timeout_mult: 6,
            awareness_max_multiplier: 8,
            gossip_interval: Duration::from_millis(200),
            gossip_nodes: 3,
            gossip_to_the_dead_time: Duration::from_secs(30),
            retransmit_mult: 4,
            push_pull_interval: Duration::from_secs(30),
            packet_len_max: 1400,
            tcp_timeout: Duration::from_secs(10),
            join_interval: Duration::from_secs(1),
            join_contacts: 3,
            reconnect_interval: Duration::from_secs(30),
            reconnect_timeout: Duration::from_secs(24 * 60 * 60),
            leave_broadcast_timeout: Duration::from_secs(5),
            leave_propagate_delay: Duration::from_secs(1),
        }
    }

    /// How long a suspicion lasts at least among so many nodes.
    pub(super) fn suspicion_timeout(&self, nodes: usize) -> Duration {
        let scale = (nodes.max(1) as f64).log10().max(1.0);
        // In thousandths, as memberlist rounds it.
        self.suspicion_mult * (scale * 1000.0) as u32 * self.probe_interval / 1000
    }

    /// Confirmations after which a suspicion lasts no longer than that.
    pub(super) fn confirmations(&self, nodes: usize) -> u32 {
        let wanted = self.suspicion_mult.saturating_sub(2);
        // Neither this node nor the one in doubt can confirm it.
        if nodes < wanted as usize + 2 { 0 } else { wanted }
    }

    /// Times that something new is sent among so many nodes.
    pub(super) fn retransmit_limit(&self, nodes: usize) -> u32 {
        self.retransmit_mult * ((nodes + 1) as f64).log10().ceil() as u32
    }

    /// How often whole states are exchanged among so many nodes.
    pub(super) fn push_pull_interval(&self, nodes: usize) -> Duration {
        let doublings = (nodes as f64 / PUSH_PULL_SCALE_THRESHOLD).log2();
        if doublings <= 0.0 {
            return self.push_pull_interval;
        }
        self.push_pull_interval * (doublings.ceil() as u32 + 1)
    }
}
