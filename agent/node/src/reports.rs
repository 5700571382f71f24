//! What an agent tells about itself and the mesh: the answers to `status`, `links`, `plan`,
//! `conflicts` and `monitor`.

use crate::{
    decisions::{source, wall_ms},
    disk_cache::{DiskCache, failed},
    fetcher::{Fetcher, Net},
    sync::Syncer,
    view::View,
};
use netbuild_core::{
    cache::CacheError,
    digest::Digest,
    health::Health,
    link::{Basis, Belief, Report},
    peer::PeerId,
    peers::{Peer, Peers},
    plan::{Step, Who},
    record::Record,
    score::{REFERENCE_SIZE, goodput, predict},
    tiers::Tier,
};
use netbuild_proto::{
    control::{
        ConflictRow, LinkRow, LinkSource, Member, MonitorRow, MonitorSnapshot, Output, PeerState,
        PlanReport, PlanStep, TierRow, Version,
    },
    record::SealedRecord,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Most conflicts that are told at once.
pub(crate) const MAX_CONFLICTS: usize = 1000;

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn state(peer: &Peer, now: Instant) -> PeerState {
    match peer.health(now) {
        _ if !peer.present => PeerState::Away,
        Health::Closed => PeerState::Ok,
        Health::HalfOpen => PeerState::HalfOpen,
        Health::Open(_) => PeerState::Open,
    }
}

fn tier_state(tier: &Tier, now: Instant) -> PeerState {
    match tier.health(now) {
        Health::Closed => PeerState::Ok,
        Health::HalfOpen => PeerState::HalfOpen,
        Health::Open(_) => PeerState::Open,
    }
}

/// What each tier looks like from here, the one that is asked first for something of the usual size
/// at the top.
pub(crate) fn tiers(fetcher: &Fetcher) -> Vec<TierRow> {
    let shared = &fetcher.shared;
    let plan = fetcher.view.plan(REFERENCE_SIZE, &BTreeSet::new(), &|_, _| false, true);
    let now = Instant::now();
    let order = plan.steps.iter().chain(&plan.left_out).filter_map(|step| match step.who {
        Who::Tier(tier) => Some((shared.tier(tier)?, step)),
        Who::Peer(_) => None,
    });
    let row = |(tier, step): (&std::sync::Arc<crate::shared::Tier>, &Step)| {
        let seen = fetcher.view.peers(|peers, _| peers.tiers().get(tier.id).cloned());
        let backlog = shared.backlog(tier.id);
        let counts = tier.backend.counts().total();
        let asked = matches!(step.reason, netbuild_core::plan::Reason::Open(_));
        TierRow {
            name: tier.name.to_string(),
            kind: tier.name.kind.to_string(),
            policy: tier.terms.writing.to_string(),
            state: seen.as_ref().map(|seen| tier_state(seen, now)).unwrap_or_default(),
            resting: asked.then(|| step.reason.to_string()),
            rtt_ms: step.link.rtt.map(ms),
            goodput: step.link.goodput.map(|goodput| goodput as u64),
            queue: seen.as_ref().map_or(0, |seen| seen.queue),
            waiting: backlog.waiting,
            waiting_bytes: backlog.bytes,
            why: backlog.why,
            tried_in_s: backlog.rests.map(|rests| rests.as_secs_f64()),
            sent: backlog.sent,
            left_out: backlog.left_out,
            wrong: seen.map_or(0, |seen| seen.wrong().into()),
            compared_s: shared.compared(tier.id).map(|passed| passed.as_secs_f64()),
            requests: counts.requests,
            bytes_sent: counts.sent,
            bytes_received: counts.received,
        }
    };
    order.map(row).collect()
}

/// What each peer looks like from here.
pub(crate) fn members(view: &View) -> Vec<Member> {
    let known: Vec<(PeerId, Peer, Belief)> = view.peers(|peers, now| {
        peers.beliefs(now).map(|(id, peer, belief)| (*id, peer.clone(), belief)).collect()
    });
    let now = Instant::now();
    let member = |(id, peer, belief): (PeerId, Peer, Belief)| Member {
        peer: id.to_string(),
        region: peer.region.clone(),
        addresses: peer.addresses.iter().map(ToString::to_string).collect(),
        connected: view.is_connected(&id),
        state: state(&peer, now),
        resting: match peer.health(now) {
            _ if !peer.present => Some("not in the mesh".to_owned()),
            Health::Open(rest) => {
                Some(format!("failed; asked again in {:.0} s", rest.as_secs_f64()))
            }
            Health::Closed | Health::HalfOpen => None,
        },
        rtt_us: belief.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        queue: peer.queue,
        records: view.records_of(&id) as u64,
    };
    known.into_iter().map(member).collect()
}

/// Named counters, sorted by name.
pub(crate) fn counters(fetcher: &Fetcher, net: &Net, syncer: &Syncer) -> Vec<(String, u64)> {
    let (mesh, data) = (net.mesh.counters(), net.endpoint.counters());
    let (compared, pulled) = syncer.counts();
    let (known, switches) =
        (fetcher.view.ledger(|l| l.len()), fetcher.view.peers(|p, _| p.order().switches()));
    let counters = [
        ("data_bytes_fetched", data.bytes_fetched),
        ("data_bytes_served", data.bytes_served),
        ("data_connections_refused", data.connections_refused),
        ("data_requests_made", data.requests_made),
        ("data_requests_refused", data.requests_refused),
        ("data_requests_served", data.requests_served),
        ("mesh_banned", mesh.banned),
        ("mesh_connected", mesh.connected),
        ("mesh_dropped_announcements", mesh.dropped_announcements),
        ("mesh_gossip_received_bytes", mesh.gossip_received_bytes),
        ("mesh_gossip_sent_bytes", mesh.gossip_sent_bytes),
        ("mesh_members", mesh.members),
        ("mesh_published", mesh.published),
        ("mesh_refused_admissions", mesh.refused_admissions),
        ("mesh_refused_by_others", mesh.refused_by_others),
        ("mesh_refused_connections", mesh.refused_connections),
        ("mesh_rejected_gossip", mesh.rejected_gossip),
        ("mesh_rejected_messages", mesh.rejected_messages),
        ("mesh_replayed_gossip", mesh.replayed_gossip),
        ("primary_switches", switches),
        ("records_ahead", fetcher.disk.records_ahead()),
        ("records_known", known as u64),
        ("sync_compared", compared),
        ("sync_pulled", pulled),
    ];
    counters.map(|(name, count)| (name.to_owned(), count)).to_vec()
}

/// Every link that is known, as far as bytes flow: what an agent measured of a peer or of a tier is the
/// link from there to the agent.
pub(crate) fn links(fetcher: &Fetcher) -> Vec<LinkRow> {
    let me = fetcher.disk.peer_id();
    let here = fetcher.disk.region();
    fetcher.view.peers(|peers, now| {
        let region = |peer: &PeerId| match peers.get(peer) {
            _ if *peer == me => here.clone(),
            Some(known) => known.region.clone(),
            None => String::new(),
        };
        let row = |(teller, report): (Option<PeerId>, Report)| {
            let to = teller.unwrap_or(me);
            let belief = Belief {
                rtt: Some(report.rtt),
                jitter: report.jitter,
                goodput: report.goodput,
                basis: Basis::Told,
                ..Belief::default()
            };
            let score = predict(&belief, REFERENCE_SIZE, 0).score(peers.policy().weights);
            LinkRow {
                from: report.peer.to_string(),
                from_region: region(&report.peer),
                to: to.to_string(),
                to_region: region(&to),
                rtt_ms: Some(ms(report.rtt)),
                jitter_ms: Some(ms(report.jitter)),
                loss: Some(report.loss),
                goodput: report.goodput.map(|goodput| goodput as u64),
                age_s: report.age.as_secs_f64(),
                source: if teller.is_none() { LinkSource::Measured } else { LinkSource::Gossip },
                score_s: Some(score),
            }
        };
        let tier = |tier: &Tier| {
            let belief = tier.belief(now);
            Some(LinkRow {
                from: tier.name.to_string(),
                from_region: tier.name.place.clone(),
                to: me.to_string(),
                to_region: here.clone(),
                rtt_ms: Some(ms(belief.rtt?)),
                jitter_ms: Some(ms(belief.jitter)),
                loss: None,
                goodput: belief.goodput.map(|goodput| goodput as u64),
                age_s: belief.rtt_age.as_secs_f64(),
                source: LinkSource::Measured,
                score_s: Some(predict(&belief, REFERENCE_SIZE, 0).score(peers.policy().weights)),
            })
        };
        let tiers = peers.tiers().iter().filter_map(|(_, known)| tier(known));
        peers.links(now).into_iter().map(row).chain(tiers).collect()
    })
}

/// How a blob would be had now.
pub(crate) async fn plan(fetcher: &Fetcher, blob: &Digest) -> Result<PlanReport, CacheError> {
    let here = fetcher.disk.store().has_blob(blob).map_err(failed)?;
    let first = fetcher.view.plan(blob.size, &BTreeSet::new(), &|_, _| true, true);
    let holders = fetcher.all_who_have(&first.steps, blob).await?;
    let plan = fetcher.view.plan(blob.size, &holders, &|_, _| true, true);
    let mut steps = Vec::new();
    if here {
        let (source, reason) = ("disk".to_owned(), "it is here".to_owned());
        let holds = Some(true);
        steps.push(PlanStep { source, reason, holds, ..PlanStep::default() });
    }
    let weights = fetcher.view.peers(|peers, _| peers.policy().weights);
    steps.extend(plan.steps.iter().chain(&plan.left_out).map(|step| {
        let whom = fetcher.view.peers(|peers, now| match step.who {
            Who::Peer(peer) => peers.get(&peer).map(|peer| state(peer, now)),
            Who::Tier(tier) => peers.tiers().get(tier).map(|tier| tier_state(tier, now)),
        });
        PlanStep {
            source: source(step),
            region: step.region.clone(),
            predicted_s: Some(step.prediction.seconds()),
            score_s: Some(step.prediction.score(weights)),
            rtt_ms: step.link.rtt.map(ms),
            goodput: Some(goodput(&step.link) as u64),
            loss: step.link.loss,
            state: whom,
            reason: reason(step),
            holds: step.holds,
        }
    }));
    let reason = "what nobody has is built here".to_owned();
    steps.push(PlanStep { source: "build".to_owned(), reason, ..PlanStep::default() });
    Ok(PlanReport { what: blob.to_string(), size: blob.size, build_s: None, steps })
}

fn reason(step: &Step) -> String {
    match step.link.basis {
        Basis::Measured => step.reason.to_string(),
        Basis::Told => format!("{}; measured by a neighbour", step.reason),
        Basis::Assumed => format!("{}; not measured yet", step.reason),
    }
}

/// The actions with results that differ, at most `limit`.
pub(crate) fn conflicts(disk: &DiskCache, limit: usize) -> Result<Vec<ConflictRow>, CacheError> {
    let version = |record: &SealedRecord| version(record.record(), disk);
    let rows = disk.store().conflicts(limit).map_err(failed)?;
    let row = |conflict: netbuild_store::Conflict| ConflictRow {
        key: conflict.key.to_string(),
        task_hint: String::new(),
        kept: version(&conflict.kept),
        others: conflict.others.iter().map(version).collect(),
    };
    Ok(rows.into_iter().map(row).collect())
}

fn version(record: &Record, disk: &DiskCache) -> Version {
    let outputs = &record.result.outputs;
    let output = |output: &netbuild_core::record::Output| Output {
        path: String::from_utf8_lossy(&output.path).into_owned(),
        digest: output.blob().map_or_else(String::new, |blob| blob.to_string()),
    };
    Version {
        writer: record.writer.to_string(),
        region: record.region.clone(),
        hlc_ms: record.hlc.millis(),
        trust: disk.trust(&record.writer).as_str().to_owned(),
        exit_code: record.result.exit_code,
        outputs: outputs.iter().map(output).collect(),
    }
}

/// The mesh at this moment, by region.
pub(crate) fn monitor(fetcher: &Fetcher) -> MonitorSnapshot {
    let here = fetcher.disk.region();
    let tallies = fetcher.view.tallies();
    let (mut rows, primary) = fetcher
        .view
        .peers(|peers, now| (rows(peers, now), peers.order().primary().map(str::to_owned)));
    let own = rows.entry(here.clone()).or_insert_with(|| row(&here));
    own.this = true;
    own.agents += 1;
    for (region, row) in &mut rows {
        let tally = tallies.get(region).copied().unwrap_or_default();
        row.hits = tally.hits;
        row.bytes_in = tally.bytes_in;
        row.hit_rate = (tally.asked > 0).then(|| tally.hits as f64 / tally.asked as f64);
    }
    let mut rows: Vec<MonitorRow> = rows.into_values().collect();
    rows.sort_by_key(|row| (!row.this, row.order.unwrap_or(u32::MAX), row.region.clone()));
    let stats = fetcher.disk.store().stats();
    MonitorSnapshot {
        at_ms: wall_ms(),
        region: here,
        primary,
        rows,
        records: stats.records,
        conflicts: stats.conflicts,
    }
}

fn row(region: &str) -> MonitorRow {
    MonitorRow { region: region.to_owned(), ..MonitorRow::default() }
}

fn rows(peers: &Peers, now: Instant) -> BTreeMap<String, MonitorRow> {
    let mut rows: BTreeMap<String, MonitorRow> = BTreeMap::new();
    for (_, peer, belief) in peers.beliefs(now) {
        let state = state(peer, now);
        let new = !rows.contains_key(&peer.region);
        let row = rows.entry(peer.region.clone()).or_insert_with(|| row(&peer.region));
        if new || state_rank(state) < state_rank(row.state) {
            row.state = state;
        }
        if !peer.present {
            continue;
        }
        row.agents += 1;
        row.queue += peer.queue;
        let nearer = |rtt: f64| row.rtt_ms.is_none_or(|known| rtt < known);
        if let Some(rtt) = belief.rtt.map(ms).filter(|rtt| nearer(*rtt)) {
            (row.rtt_ms, row.loss) = (Some(rtt), belief.loss);
        }
        row.goodput = row.goodput.max(belief.goodput.map(|goodput| goodput as u64));
    }
    for (place, region) in (1..).zip(peers.order().regions()) {
        if let Some(row) = rows.get_mut(region) {
            row.order = Some(place);
        }
    }
    rows
}

fn state_rank(state: PeerState) -> u8 {
    match state {
        PeerState::Ok => 0,
        PeerState::HalfOpen => 1,
        PeerState::Open => 2,
        PeerState::Away => 3,
    }
}
