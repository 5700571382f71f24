//! What the page of an agent shows: the answers to `status`, `links`, `monitor`, `conflicts` and `why`, and what
//! builds look up, bounded to what fits on a page.

use crate::{
    decisions::{LEFT_TO_BE_BUILT, wall_ms},
    mesh_cache::MeshCache,
    reports,
};
use netbuild_gateway::{Board, Edge, Guests, HitShare, Lookups, Miss, MissRow, StoreShare};
use netbuild_proto::control::{Attempt, ConflictRow, Decision, LinkRow, LinkSource};
use std::collections::BTreeMap;

/// Regions on the page, those that are asked first.
const MAX_REGIONS: usize = 24;
/// Transfers on the page.
const MAX_TRANSFERS: usize = 12;
/// Conflicts on the page.
const MAX_CONFLICTS: usize = 8;
/// Outputs of each version of a conflict.
const MAX_OUTPUTS: usize = 4;
/// Versions of each conflict beside the one that is kept.
const MAX_VERSIONS: usize = 4;
/// Misses on the page.
const MAX_MISSES: usize = 12;
/// Hexadecimal digits of an action key that tell it apart.
const KEY_DIGITS: usize = 12;

/// All that the page shows.
pub(crate) fn board(cache: &MeshCache, guests: &Guests) -> Board {
    let (fetcher, disk) = (&cache.far.fetcher, cache.far.disk());
    let monitor = reports::monitor(fetcher);
    let mut regions = monitor.rows;
    let regions_left_out = regions.len().saturating_sub(MAX_REGIONS) as u64;
    regions.truncate(MAX_REGIONS);
    let shown = |name: &str| regions.iter().any(|row| row.region == name);
    let links = edges(&reports::links(fetcher), &shown);
    let totals = guests.totals();
    let hit = |((source, region), hits): (&(&str, String), &u64)| HitShare {
        source: (*source).to_owned(),
        region: region.clone(),
        hits: *hits,
    };
    let mut hits: Vec<HitShare> = totals.hits.iter().map(hit).collect();
    hits.sort_by_key(|share| std::cmp::Reverse(share.hits));
    let (transfers, transfers_left_out) = fetcher.traffic.running(MAX_TRANSFERS);
    let data = cache.net.endpoint.counters();
    let (stats, room) = (disk.store().stats(), disk.room().figures());
    let conflicts = reports::conflicts(disk, MAX_CONFLICTS).unwrap_or_default();
    Board {
        at_ms: wall_ms(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        peer: disk.peer_id().to_string(),
        region: monitor.region,
        uptime_s: cache.started.elapsed().as_secs_f64(),
        primary: monitor.primary,
        regions,
        regions_left_out,
        links,
        lookups: Lookups {
            builds: totals.builds,
            hits: totals.hits.values().sum(),
            misses: totals.misses,
            failed: totals.failed,
            executed: totals.executed,
            executed_s: totals.executed_s,
            saved_s: totals.saved_s,
        },
        hits,
        builds: guests.builds(),
        transfers,
        transfers_left_out,
        bytes_in: data.bytes_fetched,
        bytes_out: data.bytes_served,
        tiers: reports::tiers(fetcher),
        store: StoreShare {
            blobs: stats.blobs,
            records: stats.records,
            used: room.map(|(usage, _)| usage.total()),
            limit: room.map(|(_, limits)| limits.max_bytes),
            free: room.map(|(usage, _)| usage.free),
            quarantined: stats.quarantined,
        },
        conflicts_count: stats.conflicts,
        conflicts: conflicts.into_iter().map(bounded).collect(),
        misses: guests.misses(MAX_MISSES).into_iter().map(|miss| explained(cache, miss)).collect(),
    }
}

/// The links between regions that are `shown`: of each two the best.
fn edges(links: &[LinkRow], shown: &dyn Fn(&str) -> bool) -> Vec<Edge> {
    let mut best: BTreeMap<(&str, &str), Edge> = BTreeMap::new();
    let between = |link: &&LinkRow| {
        link.from_region != link.to_region && shown(&link.from_region) && shown(&link.to_region)
    };
    for link in links.iter().filter(between) {
        let measured = link.source == LinkSource::Measured;
        let edge = best.entry((&link.from_region, &link.to_region)).or_insert_with(|| Edge {
            from: link.from_region.clone(),
            to: link.to_region.clone(),
            measured,
            ..Edge::default()
        });
        // What was measured here counts before what others told.
        if measured && !edge.measured {
            *edge =
                Edge { measured, from: edge.from.clone(), to: edge.to.clone(), ..Edge::default() };
        }
        if measured == edge.measured {
            edge.rtt_ms = least(edge.rtt_ms, link.rtt_ms);
            edge.loss = least(edge.loss, link.loss);
            edge.goodput = edge.goodput.max(link.goodput);
        }
    }
    best.into_values().collect()
}

fn least(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).min_by(f64::total_cmp)
}

fn bounded(mut conflict: ConflictRow) -> ConflictRow {
    conflict.others.truncate(MAX_VERSIONS);
    for version in conflict.others.iter_mut().chain([&mut conflict.kept]) {
        version.outputs.truncate(MAX_OUTPUTS);
    }
    conflict
}

/// A miss with the reason for it.
fn explained(cache: &MeshCache, miss: Miss) -> MissRow {
    let key = miss.key.to_string();
    let decision = cache.far.fetcher.decisions.about(Some(&key), 1).pop();
    MissRow {
        at_ms: miss.at_ms,
        key: key.chars().take(KEY_DIGITS).collect(),
        workspace: miss.workspace,
        output: miss.output,
        ran_s: miss.ran_s,
        why: why(decision.as_ref()),
    }
}

/// Why something was a miss, by what was decided about it.
fn why(decision: Option<&Decision>) -> String {
    let Some(decision) = decision.filter(|decision| decision.outcome != "fetched") else {
        return "no agent and no tier has told of a result for it".to_owned();
    };
    if decision.outcome.starts_with(LEFT_TO_BE_BUILT) {
        return format!("a result is known, and was {}", decision.outcome);
    }
    let place = |attempt: &Attempt| match attempt.region.as_str() {
        "" => attempt.source.clone(),
        region => region.to_owned(),
    };
    let tried: Vec<String> = decision
        .attempts
        .iter()
        .map(|attempt| match attempt.outcome.as_str() {
            "passed over" => format!("{}: passed over, {}", place(attempt), attempt.reason),
            outcome => format!("{}: {outcome}", place(attempt)),
        })
        .collect();
    if tried.is_empty() {
        return "a result is known, and nobody who has it can be reached".to_owned();
    }
    format!("a result is known, and could not be had: {}", tried.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_says_who_was_asked_and_what_came_of_it() {
        assert_eq!(why(None), "no agent and no tier has told of a result for it");
        let attempt = |region: &str, outcome: &str| Attempt {
            source: "peer x".into(),
            region: region.into(),
            reason: "it rests".into(),
            outcome: outcome.into(),
            ..Attempt::default()
        };
        let of = |attempts| {
            let outcome = "not found".to_owned();
            why(Some(&Decision { attempts, outcome, ..Decision::default() }))
        };
        assert_eq!(
            of(vec![attempt("us-east", "failed: timed out"), attempt("", "passed over")]),
            "a result is known, and could not be had: us-east: failed: timed out; peer x: passed over, it rests"
        );
        assert!(of(Vec::new()).ends_with("nobody who has it can be reached"));
        let outcome = format!("{LEFT_TO_BE_BUILT}: it takes 0.3 s");
        let left = why(Some(&Decision { outcome, ..Decision::default() }));
        assert_eq!(left, "a result is known, and was left to be built: it takes 0.3 s");
    }

    #[test]
    fn of_two_regions_the_best_link_counts_and_what_is_measured_here_before_hearsay() {
        let link = |from: &str, rtt: f64, goodput, source| LinkRow {
            from: String::new(),
            from_region: from.into(),
            to: String::new(),
            to_region: "here".into(),
            rtt_ms: Some(rtt),
            jitter_ms: None,
            loss: None,
            goodput: Some(goodput),
            age_s: 0.0,
            source,
            score_s: None,
        };
        let links = [
            link("a", 1.0, 1, LinkSource::Gossip),
            link("a", 50.0, 10, LinkSource::Measured),
            link("a", 60.0, 20, LinkSource::Measured),
            link("a", 2.0, 99, LinkSource::Gossip),
            link("here", 1.0, 1, LinkSource::Measured),
            link("unknown", 1.0, 1, LinkSource::Measured),
        ];
        let edges = edges(&links, &|region| region != "unknown");
        assert_eq!(edges.len(), 1);
        assert_eq!(
            (edges[0].rtt_ms, edges[0].goodput, edges[0].measured),
            (Some(50.0), Some(20), true)
        );
    }
}
