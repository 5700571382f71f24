//! `netbuild peers`.

use super::{agent_of, print, print_json, status::member_to_json};
use crate::{
    args::ReportArgs,
    errors::CliError,
    settings,
    table::{Align, Cell, Look, Style, Table},
    text::{count, known, millis, region, short_peer},
};
use netbuild_proto::control::{Member, PeerState, Status};
use serde_json::Value;
use std::{io::IsTerminal as _, process::ExitCode};

pub(crate) fn peers(args: &ReportArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let (_, status) = agent_of(&settings)?;
    if args.json {
        print_json(&Value::Array(status.members.iter().map(member_to_json).collect()));
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

/// Nearest first, and those whose distance is not known last.
fn to_text(status: &Status, style: Style) -> String {
    let own = format!("{} ({})", short_peer(&status.peer), region(&status.region));
    if status.members.is_empty() {
        return format!("{own} knows no other agent\n");
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
    format!("{}{own} knows {others}\n", table.to_text(style))
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
    }
}
