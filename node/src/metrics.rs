//! `/metrics`: numbers for OpenMetrics, read when they are asked for.
//!
//! Counters live where things are counted, as plain atomics; this module only names them. What libp2p counts about itself
//! stands under `libp2p_`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use p2p_api::{Code, Problem};
use p2p_dht::exchange::Counters;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::handle::Handle;
use crate::swarm::NetCounters;

/// By which the times of gets are sorted, in seconds: fine where a get from memory or a neighbour ends.
const GET_TIMES: [f64; 34] = [
    0.00005, 0.0001, 0.00015, 0.0002, 0.0003, 0.0004, 0.0005, 0.0006, 0.0007, 0.0008, 0.0009, 0.001, 0.0012, 0.0015,
    0.002, 0.0025, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0, 30.0,
];

/// Times from a request for content to the first of its bytes being here.
pub(crate) fn get_times(registry: &mut Registry) -> Histogram {
    let times = Histogram::new(GET_TIMES);
    let help = "From a request for content to its first bytes being here";
    registry.register("p2p_get_first_byte_seconds", help, times.clone());
    times
}

/// All that can be asked for.
pub(crate) struct Metrics {
    registry: Registry,
    gauges: Arc<Gauges>,
}

/// What is read anew for every answer.
#[derive(Debug, Default)]
struct Gauges {
    members_alive: AtomicU64,
    objects: AtomicU64,
    object_bytes: AtomicU64,
    storage_max: AtomicU64,
    up_seconds: AtomicU64,
}

/// The counters of the parts.
#[derive(Debug)]
struct Counted {
    exchange: Arc<Counters>,
    net: Arc<NetCounters>,
    inbound_dropped: Arc<AtomicU64>,
    gauges: Arc<Gauges>,
}

impl Metrics {
    /// Names the counters of the parts in a registry that may hold others already.
    pub(crate) fn new(
        mut registry: Registry,
        exchange: Arc<Counters>,
        net: Arc<NetCounters>,
        inbound_dropped: Arc<AtomicU64>,
    ) -> Self {
        let gauges = Arc::new(Gauges::default());
        registry.register_collector(Box::new(Counted { exchange, net, inbound_dropped, gauges: gauges.clone() }));
        Self { registry, gauges }
    }

    /// The text of an answer.
    ///
    /// # Errors
    /// When the node's state cannot be read.
    pub(crate) async fn encode(&self, handle: &Handle) -> Result<String, Problem> {
        let status = handle.status().await?;
        let set = |gauge: &AtomicU64, value| gauge.store(value, Ordering::Relaxed);
        set(&self.gauges.members_alive, status.members.alive.into());
        set(&self.gauges.objects, status.objects);
        set(&self.gauges.object_bytes, status.bytes);
        set(&self.gauges.storage_max, status.storage_max);
        set(&self.gauges.up_seconds, handle.inner.started.elapsed().as_secs());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .map_err(|error| Problem::new(Code::Other, error.to_string()))?;
        Ok(text)
    }
}

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Self { exchange, net, inbound_dropped, gauges } = self;
        let counters: [(&str, &str, &AtomicU64); 13] = [
            ("p2p_streams_refused", "Inbound streams beyond a limit", &exchange.streams_refused),
            ("p2p_streams_dropped", "Inbound streams that nobody took in time", inbound_dropped),
            ("p2p_links_broken", "Links ended by a breach of the protocol or a failed stream", &exchange.links_broken),
            ("p2p_objects_bad", "Objects that did not match their address", &exchange.objects_bad),
            ("p2p_pushes_full", "Pushes refused for want of room", &exchange.pushes_full),
            (
                "p2p_objects_hedged",
                "Objects asked of a second source because the first was slow",
                &exchange.objects_hedged,
            ),
            (
                "p2p_objects_stolen",
                "Objects taken from a slow source's queue for a faster one",
                &exchange.objects_stolen,
            ),
            ("p2p_bytes_duplicate", "Bytes of objects that came twice", &exchange.bytes_duplicate),
            ("p2p_requests_silent", "Requests without an answer in time", &exchange.requests_silent),
            ("p2p_object_sent_bytes", "Bytes of objects sent to members", &exchange.bytes_sent),
            ("p2p_object_received_bytes", "Bytes of objects received from members", &exchange.bytes_received),
            ("p2p_handshakes_failed", "Inbound connections without the cluster's key", &net.handshakes_failed),
            ("p2p_connections_denied", "Connections beyond a limit", &net.connections_denied),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let gauges: [(&str, &str, &AtomicU64); 5] = [
            ("p2p_members_alive", "Members that can be reached, this one included", &gauges.members_alive),
            ("p2p_objects", "Objects in the store", &gauges.objects),
            ("p2p_object_bytes", "Bytes of those objects", &gauges.object_bytes),
            ("p2p_storage_max_bytes", "Most bytes that the store takes", &gauges.storage_max),
            ("p2p_up_seconds", "Seconds since the node started", &gauges.up_seconds),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
