//! Metrics of an agent in the format of Prometheus: what it counts anyway, read when somebody asks.
//!
//! Names and units follow the conventions of Prometheus. The values of labels are bounded: no label names
//! a peer or a digest, and of regions, whose names others choose, so many are told apart as [`MAX_REGIONS`] says.

mod process;
mod scrape;

use crate::{
    mesh_cache::MeshCache,
    reports,
    traffic::{Seconds, Traffic},
};
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use netbuild_core::moved::{Coding, Moved};
use netbuild_gateway::{Guests, HttpCounts};
use netbuild_proto::control::{MonitorRow, PeerState};
use process::Process;
use scrape::Scrape;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Regions that are told apart in labels, those that were seen first; all others together are `other`.
const MAX_REGIONS: usize = 32;
/// The label of regions beyond [`MAX_REGIONS`].
const OTHER: &str = "other";
/// The label of agents without a region.
const NONE: &str = "none";
/// How long fetches take, from one small blob of a neighbour to a toolchain over a satellite, in seconds.
const SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
const FETCH_SECONDS: &str = "netbuild_transfer_duration_seconds";

/// What outlives a scrape.
pub(crate) struct Metrics {
    guests: Arc<Guests>,
    durations: PrometheusRecorder,
    started_s: f64,
    regions: Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Metrics of an agent that starts now, next to which `guests` build.
    pub(crate) fn new(guests: Arc<Guests>, traffic: &Traffic) -> Self {
        let of_fetches = Matcher::Full(FETCH_SECONDS.to_owned());
        let builder = PrometheusBuilder::new();
        let durations = match builder.set_buckets_for_metric(of_fetches, &SECONDS) {
            Ok(builder) => builder.build_recorder(),
            // It only refuses to have no buckets.
            Err(error) => unreachable!("{error}"),
        };
        let help =
            "Time that fetches from other agents and tiers took, by whether they brought all.";
        durations.describe_histogram(KeyName::from_const_str(FETCH_SECONDS), None, help.into());
        let metadata = Metadata::new("netbuild", Level::INFO, None);
        let seconds = |outcome: &'static str| {
            let labels = vec![Label::from_static_parts("outcome", outcome)];
            durations.register_histogram(&Key::from_parts(FETCH_SECONDS, labels), &metadata)
        };
        traffic.measure(Seconds { whole: seconds("fetched"), lacking: seconds("missing") });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { guests, durations, started_s: now.as_secs_f64(), regions: Mutex::default() }
    }

    /// Takes what was measured since the last time out of the way; without that it would pile up where nobody
    /// asks for metrics.
    pub(crate) fn upkeep(&self) {
        self.durations.handle().run_upkeep();
    }

    pub(crate) fn guests(&self) -> &Guests {
        &self.guests
    }

    /// The label of a region.
    fn region(&self, name: &str) -> String {
        if name.is_empty() {
            return NONE.to_owned();
        }
        let mut known = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_REGIONS {
            known.insert(name.to_owned());
        }
        if known.contains(name) { name.to_owned() } else { OTHER.to_owned() }
    }

    /// Sums what belongs to regions by their labels.
    fn by_region<'a>(&self, all: impl Iterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (region, count) in all {
            *sums.entry(self.region(region)).or_default() += count;
        }
        sums
    }

    /// All of it.
    pub(crate) fn text(&self, cache: &MeshCache, door: &HttpCounts) -> String {
        // Its own region has a label of its own, whatever others call theirs.
        let here = self.region(&cache.far.disk().region());
        let mut scrape = Scrape::new();
        let version = env!("CARGO_PKG_VERSION");
        let labels = [("region", here.as_str()), ("version", version)];
        scrape.gauge(
            "netbuild_agent_info",
            "The agent: its region and version; always 1.",
            &labels,
            1.0,
        );
        self.builds(&mut scrape);
        self.regions(cache, &here, &mut scrape);
        transfers(cache, &mut scrape);
        store(cache, &mut scrape);
        tiers(cache, &mut scrape);
        mesh(cache, &mut scrape);
        http(door, &mut scrape);
        self.process(&mut scrape);
        scrape.text() + &self.durations.handle().render()
    }

    fn builds(&self, scrape: &mut Scrape) {
        let totals = self.guests.totals();
        scrape.counter(
            "netbuild_builds_total",
            "Builds on this machine that asked the agent for results.",
            &[],
            totals.builds,
        );
        let help = "Builds on this machine that run now.";
        scrape.gauge("netbuild_builds_running", help, &[], self.guests.running() as f64);
        let mut tasks = BTreeMap::from([("executed", totals.executed), ("disk", 0), ("peer", 0)]);
        for ((source, _), hits) in &totals.hits {
            *tasks.entry(*source).or_default() += hits;
        }
        let help = "Tasks of builds on this machine by where the result came from. `executed` ran and were recorded; \
                    the agent does not hear of tasks that failed, or whose outputs stood in the workspace.";
        for (outcome, count) in tasks {
            scrape.counter("netbuild_build_tasks_total", help, &[("outcome", outcome)], count);
        }
        scrape.fraction(
            "netbuild_build_executed_seconds_total",
            "Time that the tasks which ran and were recorded took.",
            totals.executed_s,
        );
        scrape.fraction(
            "netbuild_build_saved_seconds_total",
            "Time that the tasks of all hits took when they ran, less what the hits took.",
            totals.saved_s,
        );
        let hits: u64 = totals.hits.values().sum();
        let help = "Results that builds on this machine asked for, by what came of it. `slow` ones would have come later \
                    than they are built.";
        let outcomes = [
            ("hit", hits),
            ("miss", totals.misses),
            ("slow", totals.slow),
            ("error", totals.failed),
        ];
        for (outcome, count) in outcomes {
            scrape.counter("netbuild_cache_lookups_total", help, &[("outcome", outcome)], count);
        }
        let mut by_source: BTreeMap<(&str, String), u64> = BTreeMap::new();
        for ((source, region), hits) in &totals.hits {
            let region = if *source == "peer" { self.region(region) } else { String::new() };
            *by_source.entry((*source, region)).or_default() += hits;
        }
        by_source.entry(("disk", String::new())).or_default();
        let help = "Hits of builds on this machine by source, those of peers by region.";
        for ((source, region), hits) in by_source {
            let labels = [("source", source), ("region", region.as_str())];
            scrape.counter("netbuild_cache_hits_total", help, &labels, hits);
        }
    }

    fn regions(&self, cache: &MeshCache, here: &str, scrape: &mut Scrape) {
        let rows = reports::monitor(&cache.far.fetcher).rows;
        let tallies = cache.far.fetcher.view.tallies();
        let asked =
            self.by_region(tallies.iter().map(|(region, tally)| (region.as_str(), tally.asked)));
        let hits =
            self.by_region(tallies.iter().map(|(region, tally)| (region.as_str(), tally.hits)));
        let bytes =
            self.by_region(tallies.iter().map(|(region, tally)| (region.as_str(), tally.bytes_in)));
        let help = "Fetches that were asked of a region or a tier, by whether it had part in bringing all.";
        for (region, asked) in &asked {
            let hits = hits.get(region).copied().unwrap_or_default();
            for (outcome, count) in [("hit", hits), ("miss", asked.saturating_sub(hits))] {
                let labels = [("region", region.as_str()), ("outcome", outcome)];
                scrape.counter("netbuild_region_fetches_total", help, &labels, count);
            }
        }
        let help = "Payload bytes that came from a region or a tier.";
        for (region, bytes) in &bytes {
            let labels = [("region", region.as_str())];
            scrape.counter("netbuild_region_received_bytes_total", help, &labels, *bytes);
        }
        let agents =
            self.by_region(rows.iter().map(|row| (row.region.as_str(), row.agents.into())));
        let help = "Agents of a region that are in the mesh, as far as known; this one counts.";
        for (region, agents) in &agents {
            let labels = [("region", region.as_str())];
            scrape.gauge("netbuild_region_agents", help, &labels, *agents as f64);
        }
        for row in rows.iter().filter(|row| !(row.this && row.rtt_ms.is_none())) {
            let region = self.region(&row.region);
            // Of regions that are not told apart, no link could be told.
            if region != OTHER {
                link(row, &region, here, scrape);
            }
        }
        let switches = cache.far.fetcher.view.peers(|peers, _| peers.order().switches());
        let help = "Times that another region became the one that is asked first.";
        scrape.counter("netbuild_primary_switches_total", help, &[], switches);
    }

    fn process(&self, scrape: &mut Scrape) {
        let process = Process::now();
        let help = "Processor time of the agent.";
        scrape.fraction("process_cpu_seconds_total", help, process.cpu_seconds);
        let help = "When the agent started, in seconds since 1970.";
        scrape.gauge("process_start_time_seconds", help, &[], self.started_s);
        for (name, help, figure) in [
            ("process_resident_memory_bytes", "Resident memory.", process.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory.", process.virtual_bytes),
            ("process_threads", "Threads.", process.threads),
            ("process_open_fds", "Open file descriptors.", process.open_fds),
            ("process_max_fds", "File descriptors that may be open at most.", process.max_fds),
        ] {
            scrape.gauge_if(name, help, &[], figure.map(|figure| figure as f64));
        }
    }
}

/// The link from a region to this agent.
fn link(row: &MonitorRow, region: &str, here: &str, scrape: &mut Scrape) {
    let pair = [("from", region), ("to", here)];
    scrape.gauge_if(
        "netbuild_link_round_trip_seconds",
        "Round-trip time between this agent and the nearest one of a region.",
        &pair,
        row.rtt_ms.map(|ms| ms / 1e3),
    );
    scrape.gauge_if(
        "netbuild_link_goodput_bytes_per_second",
        "Payload that the best link from a region to this agent carries.",
        &pair,
        row.goodput.map(|goodput| goodput as f64),
    );
    scrape.gauge_if(
        "netbuild_link_loss_ratio",
        "Part of the packets that get lost between this agent and the nearest one of a region.",
        &pair,
        row.loss,
    );
    if !row.this {
        let up = f64::from(u8::from(row.state == PeerState::Ok));
        let help = "Whether a region is asked: 0 while it is away, or rests after failures.";
        scrape.gauge("netbuild_region_up", help, &[("region", region)], up);
    }
    scrape.gauge_if(
        "netbuild_region_order",
        "Place of a region in the order in which regions are asked; 1 is the primary.",
        &[("region", region)],
        row.order.map(f64::from),
    );
}

fn transfers(cache: &MeshCache, scrape: &mut Scrape) {
    let fetcher = &cache.far.fetcher;
    let (totals, data) = (fetcher.traffic.totals(), cache.net.endpoint.counters());
    let mut moved = |direction: &str, coding: Coding, Moved { logical, wire }: Moved| {
        let labels = [("direction", direction), ("codec", coding.as_str())];
        let help = "Payload bytes as they are at both ends: in from peers and tiers, out to peers.";
        scrape.counter("netbuild_transfer_logical_bytes_total", help, &labels, logical);
        let help = "The same bytes as they were sent, coded and with the headers of their frames.";
        scrape.counter("netbuild_transfer_wire_bytes_total", help, &labels, wire);
    };
    for (coding, served) in Coding::ALL.into_iter().zip(data.served) {
        moved("in", coding, totals.codings.get(&coding).copied().unwrap_or_default());
        moved("out", coding, served);
    }
    let help = "Fetches that go on now.";
    scrape.gauge("netbuild_transfers_running", help, &[], fetcher.traffic.running_now() as f64);
    let help = "Fetches that ended, by whether they brought all.";
    for (outcome, count) in [("fetched", totals.whole), ("missing", totals.lacking)] {
        scrape.counter("netbuild_transfers_total", help, &[("outcome", outcome)], count);
    }
    let help = "Fetches that went on where an earlier one had stopped.";
    scrape.counter("netbuild_transfers_resumed_total", help, &[], totals.resumed);
    let help =
        "Requests of the data plane: made of others, answered to the end, refused as malformed.";
    for (outcome, count) in [
        ("made", data.requests_made),
        ("served", data.requests_served),
        ("refused", data.requests_refused),
    ] {
        scrape.counter("netbuild_data_requests_total", help, &[("outcome", outcome)], count);
    }
    let help = "Connections of the data plane that were turned away.";
    scrape.counter("netbuild_data_connections_refused_total", help, &[], data.connections_refused);
}

fn store(cache: &MeshCache, scrape: &mut Scrape) {
    let disk = cache.far.disk();
    let stats = disk.store().stats();
    for (name, help, figure) in [
        ("netbuild_store_blobs", "Blobs in the store.", stats.blobs),
        ("netbuild_store_blob_bytes", "Sum of the sizes of these blobs.", stats.blob_bytes),
        ("netbuild_store_records", "Records in the store.", stats.records),
        ("netbuild_store_conflicts", "Actions with results that differ.", stats.conflicts),
        ("netbuild_store_pins", "What is pinned.", disk.store().pins().len() as u64),
    ] {
        scrape.gauge(name, help, &[], figure as f64);
    }
    let help = "Blobs and records that were found damaged, and put aside.";
    scrape.counter("netbuild_store_quarantined_total", help, &[], stats.quarantined);
    if let Some((usage, limits)) = disk.room().figures() {
        for (name, help, figure) in [
            ("netbuild_store_used_bytes", "What the data directory takes on disk.", usage.total()),
            ("netbuild_store_limit_bytes", "What it may take at most.", limits.max_bytes),
            ("netbuild_store_free_bytes", "What is free on its file system.", usage.free),
            ("netbuild_store_capacity_bytes", "Size of its file system.", usage.capacity),
        ] {
            scrape.gauge(name, help, &[], figure as f64);
        }
    }
    for (why, (count, bytes)) in disk.room().evicted() {
        let labels = [("reason", why.as_str())];
        let help = "Results and blobs that were given up to make space.";
        scrape.counter("netbuild_store_evicted_total", help, &labels, count);
        let help = "Bytes that these had.";
        scrape.counter("netbuild_store_evicted_bytes_total", help, &labels, bytes);
    }
    let Some(scrub) = cache.scrub.status(stats.blob_bytes) else { return };
    let help = "How much of the store the pass of reading through it that is under way has read.";
    scrape.gauge("netbuild_store_scrub_done_ratio", help, &[], scrub.done);
    if let Some(last_ms) = scrub.last_ms {
        let help = "When the last whole pass ended, in seconds since 1970.";
        scrape.gauge("netbuild_store_scrub_timestamp_seconds", help, &[], last_ms as f64 / 1e3);
        let help = "What the last whole pass found damaged or missing.";
        scrape.gauge("netbuild_store_scrub_damaged", help, &[], scrub.last_found as f64);
        let help = "Of these, what is here again from others.";
        scrape.gauge("netbuild_store_scrub_healed", help, &[], scrub.last_healed as f64);
    }
}

fn tiers(cache: &MeshCache, scrape: &mut Scrape) {
    for tier in reports::tiers(&cache.far.fetcher) {
        let labels = [("tier", tier.name.as_str()), ("kind", tier.kind.as_str())];
        let up = f64::from(u8::from(tier.state == PeerState::Ok));
        for (name, help, figure) in [
            (
                "netbuild_tier_up",
                "Whether a tier is asked: 0 while it rests after failures.",
                Some(up),
            ),
            (
                "netbuild_tier_round_trip_seconds",
                "Time of small requests to a tier.",
                tier.rtt_ms.map(|ms| ms / 1e3),
            ),
            (
                "netbuild_tier_goodput_bytes_per_second",
                "What a tier gives in large answers.",
                tier.goodput.map(|goodput| goodput as f64),
            ),
            (
                "netbuild_tier_requests_running",
                "Requests of this agent to a tier that are under way.",
                Some(f64::from(tier.queue)),
            ),
            (
                "netbuild_outbox_waiting",
                "Results and blobs that wait to be copied to a tier.",
                Some(tier.waiting as f64),
            ),
            ("netbuild_outbox_waiting_bytes", "Bytes of these.", Some(tier.waiting_bytes as f64)),
        ] {
            scrape.gauge_if(name, help, &labels, figure);
        }
        for (name, help, count) in [
            ("netbuild_tier_requests_total", "Requests to a tier.", tier.requests),
            ("netbuild_tier_sent_bytes_total", "Content that was sent to a tier.", tier.bytes_sent),
            (
                "netbuild_tier_received_bytes_total",
                "Content that came from a tier.",
                tier.bytes_received,
            ),
            (
                "netbuild_tier_wrong_blobs_total",
                "Blobs that a tier gave and that were wrong.",
                tier.wrong,
            ),
            (
                "netbuild_outbox_sent_total",
                "Results and blobs that were copied to a tier.",
                tier.sent,
            ),
            (
                "netbuild_outbox_left_out_total",
                "Results and blobs that a tier will not get: it refused them, or too many waited.",
                tier.left_out,
            ),
        ] {
            scrape.counter(name, help, &labels, count);
        }
    }
}

fn mesh(cache: &MeshCache, scrape: &mut Scrape) {
    let mesh = cache.net.mesh.counters();
    let known = cache.far.fetcher.view.ledger(|ledger| ledger.len());
    for (name, help, figure) in [
        ("netbuild_mesh_members", "Other agents that are known.", mesh.members),
        ("netbuild_mesh_connected", "Other agents with a connection to this one.", mesh.connected),
        (
            "netbuild_mesh_records",
            "Records that this agent knows of, here or elsewhere.",
            known as u64,
        ),
    ] {
        scrape.gauge(name, help, &[], figure as f64);
    }
    let help = "Messages of gossip.";
    for (direction, count) in [("in", mesh.gossip_received), ("out", mesh.gossip_sent)] {
        scrape.counter("netbuild_gossip_messages_total", help, &[("direction", direction)], count);
    }
    let help = "Bytes of the messages of gossip.";
    for (direction, count) in [("in", mesh.gossip_received_bytes), ("out", mesh.gossip_sent_bytes)]
    {
        scrape.counter("netbuild_gossip_bytes_total", help, &[("direction", direction)], count);
    }
    let (compared, pulled) = cache.syncer.counts();
    for (name, help, count) in [
        (
            "netbuild_gossip_rejected_total",
            "Rumours and messages of gossip that were forged or malformed.",
            mesh.rejected_gossip,
        ),
        ("netbuild_gossip_replayed_total", "Rumours that were heard before.", mesh.replayed_gossip),
        ("netbuild_gossip_published_total", "Announcements of this agent.", mesh.published),
        (
            "netbuild_gossip_dropped_announcements_total",
            "Records whose announcement was dropped for lack of room.",
            mesh.dropped_announcements,
        ),
        (
            "netbuild_mesh_rejected_messages_total",
            "Questions and answers that broke the protocol.",
            mesh.rejected_messages,
        ),
        (
            "netbuild_mesh_refused_admissions_total",
            "Peers that did not prove in time that they know the mesh key.",
            mesh.refused_admissions,
        ),
        (
            "netbuild_mesh_refused_connections_total",
            "Connections that were cut in the handshake.",
            mesh.refused_connections,
        ),
        ("netbuild_mesh_banned_total", "Peers that were shut out.", mesh.banned),
        ("netbuild_sync_compared_total", "Comparisons of records with others.", compared),
        ("netbuild_sync_pulled_total", "Records that these brought.", pulled),
    ] {
        scrape.counter(name, help, &[], count);
    }
}

fn http(door: &HttpCounts, scrape: &mut Scrape) {
    let help = "HTTP requests by path and status.";
    for ((path, status), count) in &door.requests {
        let labels = [("path", *path), ("code", &status.to_string())];
        scrape.counter("netbuild_http_requests_total", help, &labels, *count);
    }
    let help = "HTTP connections that are open.";
    scrape.gauge("netbuild_http_connections", help, &[], door.connections as f64);
    let help = "Followers of the page's events.";
    scrape.gauge("netbuild_http_listeners", help, &[], door.listeners as f64);
    let help = "HTTP connections that there was no room for.";
    scrape.counter("netbuild_http_refused_connections_total", help, &[], door.refused);
}

/// How often [`Metrics::upkeep`] is due.
pub(crate) const UPKEEP: Duration = Duration::from_secs(30);
