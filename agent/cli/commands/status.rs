//! `netbuild status` and `netbuild ticket`.

use super::{existing, print, print_json};
use crate::{args::ReportArgs, errors::CliError, settings};
use netbuild_proto::control::{Member, Status};
use serde_json::json;
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
        let dir = settings.data_dir.display();
        return Err(CliError::failed(format!("no agent runs on `{dir}`"))
            .hint(format!("start one: netbuild-agent --data-dir {dir}")));
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

fn to_json(status: &Status) -> serde_json::Value {
    let counters: serde_json::Map<_, _> =
        status.counters.iter().map(|(name, count)| (name.clone(), json!(count))).collect();
    let member = |member: &Member| {
        json!({
            "peer": member.peer,
            "region": member.region,
            "addresses": member.addresses,
            "rtt_ms": member.rtt_us.map(|us| us as f64 / 1e3),
            "resting": member.resting,
            "records": member.records,
        })
    };
    json!({
        "agent": has_agent(status),
        "pid": has_agent(status).then_some(status.pid),
        "version": status.version,
        "region": status.region,
        "peer": status.peer,
        "mesh_addresses": status.mesh_addresses,
        "data_address": has_agent(status).then_some(&status.data_address),
        "members": status.members.iter().map(member).collect::<Vec<_>>(),
        "store": {
            "blobs": status.store.blobs,
            "blob_bytes": status.store.blob_bytes,
            "records": status.store.records,
            "quarantined": status.store.quarantined,
        },
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
        line("agent", format!("running, pid {}, version {}", status.pid, status.version));
        line("mesh", or_none(&status.mesh_addresses.join(" ")));
        line("data", status.data_address.clone());
    } else {
        line("agent", "not running".to_owned());
    }
    line("region", or_none(&status.region));
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
    line("members", status.members.len().to_string());
    for member in &status.members {
        let rtt = member.rtt_us.map(|us| format!("{:.1} ms", us as f64 / 1e3));
        let resting = member.resting.as_ref().map(|why| format!(", {why}")).unwrap_or_default();
        let rtt = rtt.unwrap_or_else(|| "rtt not measured".to_owned());
        let region = or_none(&member.region);
        line("", format!("{} {region}, {rtt}, {} records{resting}", member.peer, member.records));
    }
    for (name, count) in status.counters.iter().filter(|(_, count)| *count > 0) {
        line("", format!("{name} {count}"));
    }
    text
}
