//! `netbuild status` and `netbuild ticket`.

use super::{existing, flush, no_agent, now_ms, print, print_json};
use crate::{
    args::ReportArgs,
    errors::CliError,
    settings,
    text::{self, seconds},
};
use netbuild_proto::control::{Member, ScrubStatus, Status};
use serde_json::{Value, json};
use std::{fmt::Write as _, process::ExitCode};

pub(crate) fn status(args: &ReportArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let status = existing(&settings)?.status()?;
    if args.json {
        print_json(&to_json(&status));
    } else {
        print(&to_text(&status, &settings.data_dir.display().to_string()));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn ticket(args: &ReportArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let status = existing(&settings)?.status()?;
    if status.ticket.is_empty() {
        return Err(no_agent(&settings));
    }
    if args.json {
        print_json(&json!({ "ticket": status.ticket }));
    } else {
        print(&format!("{}\n", status.ticket));
    }
    Ok(ExitCode::SUCCESS)
}

fn has_agent(status: &Status) -> bool {
    status.role == "agent"
}

pub(super) fn member_to_json(member: &Member) -> Value {
    json!({
        "peer": member.peer,
        "region": member.region,
        "addresses": member.addresses,
        "connected": member.connected,
        "state": member.state,
        "resting": member.resting,
        "rtt_ms": member.rtt_us.map(|us| us as f64 / 1e3),
        "queue": member.queue,
        "records": member.records,
    })
}

fn to_json(status: &Status) -> Value {
    let counters: serde_json::Map<_, _> =
        status.counters.iter().map(|(name, count)| (name.clone(), json!(count))).collect();
    json!({
        "agent": has_agent(status),
        "pid": has_agent(status).then_some(status.pid),
        "version": status.version,
        "uptime_s": has_agent(status).then_some(status.uptime_s),
        "region": status.region,
        "region_source": status.region_source,
        "detected_region": status.detected_region,
        "primary": status.primary,
        "order": status.order,
        "peer": status.peer,
        "mesh_addresses": status.mesh_addresses,
        "data_address": has_agent(status).then_some(&status.data_address),
        "page": status.page,
        "members": status.members.iter().map(member_to_json).collect::<Vec<_>>(),
        "store": {
            "blobs": status.store.blobs,
            "blob_bytes": status.store.blob_bytes,
            "records": status.store.records,
            "quarantined": status.store.quarantined,
            "scrub": status.store.scrub,
        },
        "tiers": status.tiers,
        "counters": counters,
    })
}

fn to_text(status: &Status, data_dir: &str) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<10} {value}");
    };
    let or_none = |text: &str| if text.is_empty() { "none" } else { text }.to_owned();
    if has_agent(status) {
        let uptime = seconds(status.uptime_s);
        let Status { pid, version, .. } = status;
        line("agent", format!("running, pid {pid}, version {version}, for {uptime}"));
        line("mesh", or_none(&status.mesh_addresses.join(" ")));
        line("data", status.data_address.clone());
        if let Some(page) = &status.page {
            line("page", page.clone());
        }
    } else {
        line("agent", "not running".to_owned());
    }
    line("region", or_none(&status.region) + &region_note(status));
    if !status.order.is_empty() {
        line("asked", status.order.iter().map(|name| or_none(name)).collect::<Vec<_>>().join(", "));
    }
    line("peer", status.peer.clone());
    line("data dir", data_dir.to_owned());
    let store = &status.store;
    line(
        "store",
        format!(
            "{} records, {} blobs, {} bytes, {} quarantined since the start",
            store.records, store.blobs, store.blob_bytes, store.quarantined
        ),
    );
    if let Some(scrub) = &store.scrub {
        line("scrub", scrub_text(scrub, now_ms()));
    }
    for tier in &status.tiers {
        let rtt = tier.rtt_ms.map_or_else(|| "rtt not measured".to_owned(), text::millis);
        let state = match &tier.resting {
            Some(why) => format!("{}, {}", tier.state, text::clean(why)),
            None => tier.state.to_string(),
        };
        line("tier", format!("{}; {}, {state}, {rtt}", flush::line(tier), tier.policy));
    }
    line("members", status.members.len().to_string());
    for member in &status.members {
        let rtt = member.rtt_us.map(|us| format!("{:.1} ms", us as f64 / 1e3));
        let resting = member.resting.as_ref().map(|why| format!(", {}", text::clean(why)));
        let resting = resting.unwrap_or_default();
        let rtt = rtt.unwrap_or_else(|| "rtt not measured".to_owned());
        let region = or_none(&member.region);
        line("", format!("{} {region}, {rtt}, {} records{resting}", member.peer, member.records));
    }
    for (name, count) in status.counters.iter().filter(|(_, count)| *count > 0) {
        line("", format!("{name} {count}"));
    }
    text
}

/// How far reading through the store is, and what the last pass found.
fn scrub_text(scrub: &ScrubStatus, now_ms: u64) -> String {
    let ago = |then: u64| seconds(now_ms.saturating_sub(then) as f64 / 1e3);
    let last = scrub.last_ms.map(|then| {
        let found = match (scrub.last_found, scrub.last_healed) {
            (0, _) => "found nothing wrong".to_owned(),
            (found, healed) => format!("found {found} damaged, {healed} healed from others"),
        };
        format!("last pass {} ago, {} read, {found}", ago(then), text::size(scrub.last_bytes))
    });
    let now = scrub
        .began_ms
        .map(|then| format!("{:.0} % of a pass that began {} ago", scrub.done * 100.0, ago(then)));
    let parts: Vec<String> = now.into_iter().chain(last).collect();
    if parts.is_empty() { "no pass yet".to_owned() } else { parts.join("; ") }
}

/// How the region was found out, and whether measurements suggest another.
fn region_note(status: &Status) -> String {
    let mut notes = Vec::new();
    if !status.region_source.is_empty() {
        notes.push(text::clean(&status.region_source).into_owned());
    }
    let detected = status.detected_region.as_deref().filter(|name| *name != status.region);
    notes.extend(detected.map(|name| format!("measurements suggest {name}")));
    if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scrub_tells_how_far_it_is_and_what_it_found() {
        let none = ScrubStatus::default();
        assert_eq!(scrub_text(&none, 0), "no pass yet");
        let scrub = ScrubStatus {
            began_ms: Some(60_000),
            done: 0.25,
            last_ms: Some(30_000),
            last_bytes: 5_000_000,
            last_found: 2,
            last_healed: 1,
        };
        assert_eq!(
            scrub_text(&scrub, 90_000),
            "25 % of a pass that began 30.0 s ago; last pass 60.0 s ago, 5.0 MB read, \
             found 2 damaged, 1 healed from others"
        );
        let scrub = ScrubStatus { began_ms: None, last_found: 0, ..scrub };
        assert!(scrub_text(&scrub, 90_000).ends_with("5.0 MB read, found nothing wrong"));
    }

    #[test]
    fn the_state_tells_whence_the_region_is_and_which_regions_are_asked() {
        let status = Status {
            role: "agent".into(),
            pid: 7,
            version: "1".into(),
            uptime_s: 61.0,
            region: "us-east".into(),
            region_source: "configured".into(),
            detected_region: Some("eu-central".into()),
            order: vec!["us-west".into(), String::new()],
            ..Status::default()
        };
        let text = to_text(&status, "/data");
        assert!(text.contains("agent      running, pid 7, version 1, for 61.0 s\n"), "{text}");
        assert!(
            text.contains("region     us-east (configured; measurements suggest eu-central)\n"),
            "{text}"
        );
        assert!(text.contains("asked      us-west, none\n"), "{text}");
        let status = Status { detected_region: Some("us-east".into()), ..status };
        assert!(to_text(&status, "").contains("us-east (configured)\n"));
    }
}
