//! `netbuild peers`.

use super::{agent_of, print, print_json, status::member_to_json};
use crate::{
    args::ReportArgs,
    errors::CliError,
    settings,
    table::{Align, Cell, Look, Style, Table},
    text::{clean, count, known, millis, rate, region, short_peer},
};
use netbuild_proto::control::{Member, PeerState, Status, TierRow};
use serde_json::{Value, json};
use std::{io::IsTerminal as _, process::ExitCode};

pub(crate) fn peers(args: &ReportArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let (_, status) = agent_of(&settings)?;
    if args.json {
        let tiers = (1..).zip(&status.tiers).map(tier_to_json);
        print_json(&Value::Array(status.members.iter().map(member_to_json).chain(tiers).collect()));
    } else {
        print(&to_text(&status, Style::of_stdout(std::io::stdout().is_terminal())));
    }
    Ok(ExitCode::SUCCESS)
}

/// How a state stands out.
pub(crate) fn look(state: PeerState) -> Look {
    match state {
        PeerState::Ok => Look::Green,
        PeerState::HalfOpen => Look::Yellow,
        PeerState::Open => Look::Red,
        PeerState::Away => Look::Dim,
    }
}

/// A tier among the peers: what a peer has that a tier has too is called the same.
fn tier_to_json((order, tier): (usize, &TierRow)) -> Value {
    json!({
        "tier": tier.name,
        "kind": tier.kind,
        "order": order,
        "state": tier.state.as_str(),
        "resting": tier.resting,
        "rtt_us": tier.rtt_ms.map(|ms| (ms * 1e3) as u64),
        "goodput": tier.goodput,
        "queue": tier.queue,
    })
}

/// The tiers, the one that is asked first for something of the usual size at the top.
fn tiers_to_text(tiers: &[TierRow], style: Style) -> String {
    if tiers.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        ("", Align::Right),
        ("tier", Align::Left),
        ("state", Align::Left),
        ("RTT", Align::Right),
        ("bandwidth", Align::Right),
        ("queue", Align::Right),
        ("policy", Align::Left),
        ("", Align::Left),
    ]);
    for (order, tier) in (1..).zip(tiers) {
        table.row([
            order.to_string().into(),
            clean(&tier.name).as_ref().into(),
            Cell::from(tier.state.as_str()).look(look(tier.state)),
            known(tier.rtt_ms, millis).into(),
            known(tier.goodput, rate).into(),
            tier.queue.to_string().into(),
            clean(&tier.policy).as_ref().into(),
            tier.resting.as_deref().unwrap_or_default().into(),
        ]);
    }
    table.to_text(style)
}

/// Nearest first, and those whose distance is not known last.
fn to_text(status: &Status, style: Style) -> String {
    let own = format!("{} ({})", short_peer(&status.peer), region(&status.region));
    let tiers = tiers_to_text(&status.tiers, style);
    if status.members.is_empty() {
        return format!("{tiers}{own} knows no other agent\n");
    }
    let mut members: Vec<&Member> = status.members.iter().collect();
    members.sort_by_key(|member| (member.rtt_us.unwrap_or(u64::MAX), &member.region, &member.peer));
    let mut table = Table::new([
        ("peer", Align::Left),
        ("region", Align::Left),
        ("state", Align::Left),
        ("RTT", Align::Right),
        ("queue", Align::Right),
        ("records", Align::Right),
        ("known by", Align::Left),
        ("", Align::Left),
    ]);
    for member in members {
        table.row([
            short_peer(&member.peer).into(),
            region(&member.region).into(),
            Cell::from(member.state.as_str()).look(look(member.state)),
            known(member.rtt_us, |us| millis(us as f64 / 1e3)).into(),
            member.queue.to_string().into(),
            member.records.to_string().into(),
            if member.connected { "connection" } else { "gossip" }.into(),
            member.resting.as_deref().unwrap_or_default().into(),
        ]);
    }
    let others = count(status.members.len() as u64, "other agent");
    format!("{}{tiers}{own} knows {others}\n", table.to_text(style))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_listed_by_distance() {
        let member = |peer: &str, region: &str, rtt_us| Member {
            peer: format!("12D3KooW{peer}"),
            region: region.into(),
            rtt_us,
            connected: rtt_us.is_some(),
            ..Member::default()
        };
        let status = Status {
            peer: "12D3KooWmmmmmmmm".into(),
            region: "eu-central".into(),
            members: vec![
                member("aaaaaaaa", "", None),
                member("bbbbbbbb", "us-west", Some(100_400)),
                Member {
                    state: PeerState::Open,
                    resting: Some("rests after 3 failures".into()),
                    queue: 2,
                    ..member("cccccccc", "us-east", Some(50_100))
                },
            ],
            ..Status::default()
        };
        assert_eq!(
            to_text(&status, Style::default()),
            "peer      region   state      RTT  queue  records  known by\n\
             cccccccc  us-east  open   50.1 ms      2        0  connection  rests after 3 failures\n\
             bbbbbbbb  us-west  ok      100 ms      0        0  connection\n\
             aaaaaaaa  none     ok           -      0        0  gossip\n\
             mmmmmmmm (eu-central) knows 3 other agents\n"
        );
        assert_eq!(to_text(&Status::default(), Style::default()), " (none) knows no other agent\n");
        let tier = |name: &str, rtt_ms| TierRow {
            name: name.into(),
            policy: "write-back".into(),
            rtt_ms,
            goodput: rtt_ms.map(|_| 11_900_000),
            ..TierRow::default()
        };
        let dead = TierRow {
            state: PeerState::Open,
            resting: Some("failed".into()),
            ..tier("s3://bucket", None)
        };
        let tiers = vec![tier("redis://host:6379", Some(0.4)), dead];
        let status = Status { tiers, ..Status::default() };
        assert_eq!(
            to_text(&status, Style::default()),
            "   tier               state     RTT  bandwidth  queue  policy\n\
             1  redis://host:6379  ok     0.4 ms  11.9 MB/s      0  write-back\n\
             2  s3://bucket        open        -          -      0  write-back  failed\n \
             (none) knows no other agent\n"
        );
    }
}
