//! `/metrics`: numbers for OpenMetrics, read when they are asked for.
//!
//! Counters live where things are counted, as plain atomics; this module only names them, and takes each structure apart
//! so that a counter without a name does not compile. `docs/operating.md` says the same to people, and a test compares.
//! What libp2p counts about itself stands under `libp2p_`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use p2p_api::types::MemberCounts;
use p2p_api::{Code, Problem};
use p2p_dht::exchange::Counters;
use p2p_gossip::wire::streams::StreamCounters;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::handle::Handle;
use crate::http::ApiCounters;
use crate::kv::KvCounters;
use crate::membership::MemberCounters;
use crate::state::{MapState, State};
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
    members: Arc<MemberCounters>,
}

/// What is read anew for every answer.
#[derive(Debug, Default)]
struct Gauges {
    members_alive: AtomicU64,
    members_suspect: AtomicU64,
    members_down: AtomicU64,
    members_left: AtomicU64,
    view_complete: AtomicU64,
    loop_lag: AtomicU64,
    objects: AtomicU64,
    object_bytes: AtomicU64,
    storage_max: AtomicU64,
    up_seconds: AtomicU64,
    disk_free: AtomicU64,
    disk_tight: AtomicU64,
    disk_full: AtomicU64,
    tasks: AtomicU64,
}

/// The counters of the parts.
pub(crate) struct Counted {
    pub(crate) exchange: Arc<Counters>,
    pub(crate) streams: Arc<StreamCounters>,
    pub(crate) net: Arc<NetCounters>,
    pub(crate) members: Arc<MemberCounters>,
    pub(crate) api: Arc<ApiCounters>,
    pub(crate) kv: Arc<KvCounters>,
    /// Where the map is kept.
    pub(crate) state: State,
}

/// A name, what it counts, and where.
type Named<'a> = (&'a str, &'a str, &'a AtomicU64);

impl Metrics {
    /// Names the counters of the parts in a registry that may hold others already.
    pub(crate) fn new(mut registry: Registry, counted: Counted) -> Self {
        let (gauges, members) = (Arc::new(Gauges::default()), counted.members.clone());
        registry.register_collector(Box::new(All { counted, gauges: gauges.clone() }));
        Self { registry, gauges, members }
    }

    /// The text of an answer.
    ///
    /// # Errors
    /// When the node's state cannot be read.
    pub(crate) async fn encode(&self, handle: &Handle) -> Result<String, Problem> {
        let status = handle.status().await?;
        let set = |gauge: &AtomicU64, value| gauge.store(value, Ordering::Relaxed);
        let MemberCounts { alive, suspect, down, left } = status.members;
        set(&self.gauges.members_alive, alive.into());
        set(&self.gauges.members_suspect, suspect.into());
        set(&self.gauges.members_down, down.into());
        set(&self.gauges.members_left, left.into());
        set(&self.gauges.view_complete, handle.inner.net.view.borrow().complete.into());
        // The most since it was last asked for.
        set(&self.gauges.loop_lag, self.members.lag_most.swap(0, Ordering::Relaxed));
        set(&self.gauges.objects, status.objects);
        set(&self.gauges.object_bytes, status.bytes);
        set(&self.gauges.storage_max, status.storage_max);
        let disk = handle.inner.content.store().disk_room();
        set(&self.gauges.disk_free, disk.free);
        set(&self.gauges.disk_tight, disk.tight.into());
        set(&self.gauges.disk_full, disk.refused);
        set(&self.gauges.up_seconds, handle.inner.started.elapsed().as_secs());
        set(&self.gauges.tasks, tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .map_err(|error| Problem::new(Code::Other, error.to_string()))?;
        Ok(text)
    }
}

struct All {
    counted: Counted,
    gauges: Arc<Gauges>,
}

impl std::fmt::Debug for All {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("All").finish_non_exhaustive()
    }
}

impl Collector for All {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Counted { exchange, streams, net, members, api, kv, state } = &self.counted;
        let (map, cache) = (state.map(), state.cache());
        let counters = exchange_counters(exchange)
            .into_iter()
            .chain(stream_counters(streams))
            .chain(net_counters(net))
            .chain(member_counters(members))
            .chain(api_counters(api))
            .chain(kv_counters(kv))
            .chain(map_counters(map))
            .chain([
                ("p2p_kv_reads_cached", "Reads of keys that were answered from memory", &cache.hits),
                ("p2p_kv_reads_uncached", "Reads of keys that were not", &cache.misses),
            ])
            .chain([("p2p_disk_full", "Transactions that the disk had no room for", &self.gauges.disk_full)]);
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        for (name, help, value) in gauges(&self.gauges).into_iter().chain(map_gauges(map)) {
            let gauge = ConstGauge::new(i64::try_from(value.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

fn exchange_counters(counters: &Counters) -> [Named<'_>; 22] {
    let Counters {
        streams_refused,
        streams_displaced,
        requests_paced,
        links_hoarding,
        links_broken,
        links_evicted,
        links_idle,
        frames_skipped,
        objects_bad,
        objects_damaged,
        objects_mended,
        pushes_full,
        pushes_over,
        puts_full,
        puts_partial,
        uploads_expired,
        requests_silent,
        objects_hedged,
        objects_stolen,
        bytes_duplicate,
        bytes_sent,
        bytes_received,
    } = counters;
    [
        ("p2p_streams_refused", "Inbound streams beyond a limit", streams_refused),
        ("p2p_streams_displaced", "Inbound streams that lost their place to others", streams_displaced),
        ("p2p_requests_paced", "Requests whose peer asked too fast", requests_paced),
        ("p2p_links_hoarding", "Links ended because they held room and did nothing", links_hoarding),
        ("p2p_links_broken", "Links ended by a breach of the protocol or a failed stream", links_broken),
        ("p2p_links_evicted", "Links closed to make room for others", links_evicted),
        ("p2p_links_idle", "Links closed because nobody used them", links_idle),
        ("p2p_frames_skipped", "Frames of unknown types that were thrown away", frames_skipped),
        ("p2p_objects_bad", "Objects that did not match their address", objects_bad),
        ("p2p_objects_damaged", "Objects of this node found damaged on its disk", objects_damaged),
        ("p2p_objects_mended", "Damaged objects that are whole again", objects_mended),
        ("p2p_pushes_full", "Pushes of members refused for want of room", pushes_full),
        ("p2p_pushes_over", "Pushes of members that have as much here as one may", pushes_over),
        ("p2p_puts_full", "Puts refused for want of room", puts_full),
        ("p2p_puts_partial", "Puts that reported fewer copies than asked for", puts_partial),
        ("p2p_uploads_expired", "Uploads let go because they were never finished", uploads_expired),
        ("p2p_requests_silent", "Requests without an answer in time", requests_silent),
        ("p2p_objects_hedged", "Objects asked of a second source because the first was slow", objects_hedged),
        ("p2p_objects_stolen", "Objects taken from a slow source's queue for a faster one", objects_stolen),
        ("p2p_bytes_duplicate", "Bytes of objects that came twice", bytes_duplicate),
        ("p2p_object_sent_bytes", "Bytes of objects sent to members", bytes_sent),
        ("p2p_object_received_bytes", "Bytes of objects received from members", bytes_received),
    ]
}

fn stream_counters(counters: &StreamCounters) -> [Named<'_>; 3] {
    let StreamCounters { inbound_dropped, opens_refused, opens_timed_out } = counters;
    [
        ("p2p_streams_dropped", "Inbound streams that nobody took in time", inbound_dropped),
        ("p2p_stream_opens_refused", "Streams not opened because too many wait for the same member", opens_refused),
        ("p2p_stream_opens_timed_out", "Streams that could not be opened in time", opens_timed_out),
    ]
}

fn net_counters(counters: &NetCounters) -> [Named<'_>; 10] {
    let NetCounters {
        handshakes_failed,
        handshakes_refused,
        connections_denied,
        connections_cut_short,
        connections_crowded,
        unread,
        lookups,
        lookups_refused,
        lookups_timed_out,
        lookups_abandoned,
    } = counters;
    [
        ("p2p_handshakes_failed", "Inbound connections whose handshake failed or took too long", handshakes_failed),
        ("p2p_handshakes_refused", "Inbound connections of a host with too many under way", handshakes_refused),
        ("p2p_connections_denied", "Connections beyond a limit", connections_denied),
        ("p2p_connections_cut_short", "Connections that could not be closed in order in time", connections_cut_short),
        ("p2p_connections_crowded", "Connections of a host that has too many", connections_crowded),
        ("p2p_connections_held_up", "Sockets left alone because too much of them was unread", &unread.pauses),
        ("p2p_lookups", "Kademlia lookups begun", lookups),
        ("p2p_lookups_refused", "Kademlia lookups beyond a limit", lookups_refused),
        ("p2p_lookups_timed_out", "Kademlia lookups that did not come to their end in time", lookups_timed_out),
        ("p2p_lookups_abandoned", "Kademlia lookups for which a put or get did not wait", lookups_abandoned),
    ]
}

fn member_counters(counters: &MemberCounters) -> [Named<'_>; 22] {
    let MemberCounters {
        frames_sent,
        bytes_sent,
        edges_broken,
        edges_overflown,
        names_refused,
        names_unknown,
        comparisons_refused,
        contacts_dropped,
        joins,
        returns,
        suspicions,
        downs,
        leaves,
        refutations,
        isolations,
        // Stands with the gauges.
        lag_most: _,
        forged,
        unfit,
        stale,
        unmet,
        postponed,
        full,
        doubts_dropped,
    } = counters;
    [
        ("p2p_member_frames_sent", "Frames of membership that were sent", frames_sent),
        ("p2p_member_sent_bytes", "Bytes of those frames, headers included", bytes_sent),
        ("p2p_edges_broken", "Edges ended by a breach of the protocol or a failed stream", edges_broken),
        ("p2p_edges_overflown", "Edges ended because the other did not read what waited for it", edges_overflown),
        ("p2p_member_names_refused", "Members turned away because too many names are known", names_refused),
        ("p2p_member_names_unknown", "Frames about members that are not known here", names_unknown),
        ("p2p_comparisons_refused", "Comparisons asked for before the last was read", comparisons_refused),
        ("p2p_join_addresses_dropped", "Addresses to join by beyond a limit", contacts_dropped),
        ("p2p_member_joins", "Members seen to come for the first time", joins),
        ("p2p_member_returns", "Members seen to come back, or to start anew", returns),
        ("p2p_member_suspicions", "Members that this node has begun to doubt", suspicions),
        ("p2p_member_downs", "Members seen to be down", downs),
        ("p2p_member_leaves", "Members seen to leave", leaves),
        ("p2p_refutations", "Times that this node has denied that it is down", refutations),
        ("p2p_isolations", "Times that this node found itself cut off", isolations),
        ("p2p_member_facts_forged", "Facts and accusations that nobody has signed", forged),
        ("p2p_accusations_unfit", "Accusations by members that do not watch their subject", unfit),
        ("p2p_member_facts_stale", "Facts answered with newer ones", stale),
        ("p2p_member_frames_unmet", "Frames that came before their sender had said who it is", unmet),
        ("p2p_edges_postponed", "Edges that had to wait, because there were too many", postponed),
        ("p2p_members_full", "Facts about members beyond those that can be remembered", full),
        ("p2p_doubts_dropped", "Doubts about members beyond a limit", doubts_dropped),
    ]
}

fn api_counters(counters: &ApiCounters) -> [Named<'_>; 4] {
    let ApiCounters { connections_refused, connections_idle, gets_not_found, gets_stalled } = counters;
    [
        ("p2p_api_connections_refused", "Connections to the API beyond a limit", connections_refused),
        ("p2p_api_connections_idle", "Connections to the API closed because they sent no request", connections_idle),
        ("p2p_gets_not_found", "Gets of content that nobody has who could be asked", gets_not_found),
        ("p2p_gets_stalled", "Gets given up because nothing came any more", gets_stalled),
    ]
}

fn kv_counters(counters: &KvCounters) -> [Named<'_>; 14] {
    let KvCounters {
        frames_dropped,
        outbound_dropped,
        peers_broken,
        questions_asked,
        questions_answered,
        streams_refused,
        answers_sent,
        answers_received,
        caught_up,
        failed,
        integrity,
        mended,
        recovered,
        confirms_dropped,
    } = counters;
    [
        ("p2p_kv_frames_dropped", "Frames about the map dropped because too many waited", frames_dropped),
        ("p2p_kv_outbound_dropped", "Frames about the map dropped because a member did not read", outbound_dropped),
        ("p2p_kv_peers_broken", "Edges and streams ended because what came about the map made no sense", peers_broken),
        ("p2p_kv_questions_asked", "Questions about the map asked of members", questions_asked),
        ("p2p_kv_questions_answered", "Questions about the map answered to members", questions_answered),
        ("p2p_kv_streams_refused", "Streams about the map beyond a limit", streams_refused),
        ("p2p_kv_answer_sent_bytes", "Bytes of answers about the map sent to members", answers_sent),
        ("p2p_kv_answer_received_bytes", "Bytes of answers about the map received from members", answers_received),
        ("p2p_kv_caught_up", "Times that all that was missing of a member's map was fetched", caught_up),
        ("p2p_kv_failed", "Times that asking a member about the map came to nothing", failed),
        ("p2p_kv_integrity", "Times that a member held something else though it had seen the same", integrity),
        ("p2p_kv_mended", "Keys mended after that", mended),
        ("p2p_kv_recovered", "Times that the map was built again of what was left of it", recovered),
        ("p2p_kv_confirms_dropped", "Requests to confirm a write beyond a limit", confirms_dropped),
    ]
}

fn map_counters(map: &MapState) -> [Named<'_>; 7] {
    let MapState {
        commits,
        written,
        refused,
        applied,
        applies_dropped,
        asked_micros,
        busy_micros,
        // Stand with the gauges.
        keys: _,
        is_behind: _,
        differs_ms: _,
        len: _,
    } = map;
    [
        ("p2p_kv_commits", "Transactions on the map", commits),
        ("p2p_kv_writes", "Writes of this node's users", written),
        ("p2p_kv_writes_refused", "Writes of this node's users that were refused", refused),
        ("p2p_kv_applied", "Writes of others taken in one by one", applied),
        (
            "p2p_kv_applies_dropped",
            "Writes of others dropped because too many waited; they are fetched later",
            applies_dropped,
        ),
        (
            "p2p_kv_asked_microseconds",
            "Time of transactions with questions and answers of members in them",
            asked_micros,
        ),
        ("p2p_kv_busy_microseconds", "Time of all transactions on the map", busy_micros),
    ]
}

fn map_gauges(map: &MapState) -> [Named<'_>; 3] {
    [
        ("p2p_kv_keys", "Keys of the map", &map.keys),
        ("p2p_kv_bytes", "Bytes of the map's file, less what is free in it", &map.len),
        ("p2p_kv_differs_milliseconds", "For how long a neighbour has held what is missing here", &map.differs_ms),
    ]
}

fn gauges(gauges: &Gauges) -> [Named<'_>; 13] {
    let Gauges {
        members_alive,
        members_suspect,
        members_down,
        members_left,
        view_complete,
        loop_lag,
        objects,
        object_bytes,
        storage_max,
        up_seconds,
        disk_free,
        disk_tight,
        tasks,
        // A counter, which stands with the others.
        disk_full: _,
    } = gauges;
    [
        ("p2p_members_alive", "Members that are here, this one included", members_alive),
        ("p2p_members_suspect", "Members that this node doubts", members_suspect),
        ("p2p_members_down", "Members that are down, as far as remembered", members_down),
        ("p2p_members_left", "Members that have left, as far as remembered", members_left),
        ("p2p_view_complete", "1 while this node knows of everybody, as far as it can know, else 0", view_complete),
        (
            "p2p_loop_lag_microseconds",
            "By how much membership was called late, at most since the last scrape",
            loop_lag,
        ),
        ("p2p_objects", "Objects in the store", objects),
        ("p2p_object_bytes", "Bytes of those objects", object_bytes),
        ("p2p_storage_max_bytes", "Most bytes that the store takes", storage_max),
        ("p2p_disk_free_bytes", "Bytes that are free on the disk", disk_free),
        ("p2p_disk_tight", "1 while the reserve is given up for want of room, else 0", disk_tight),
        ("p2p_up_seconds", "Seconds since the node started", up_seconds),
        ("p2p_tasks", "Tasks that the node has under way inside", tasks),
    ]
}
