//! The agent, its addresses, and the other members.

use super::{Finding, Invitation, Member, Owner, PAGE, Port, PortState, Reached, millis};
use std::{net::SocketAddr, time::Duration};

pub(super) const AGENT: &str = "agent";
pub(super) const PORTS: &str = "ports";
pub(super) const JOIN: &str = "join";
pub(super) const PEERS: &str = "peers";

/// Members that are named one by one; of more there is the number.
const MOST_NAMED: usize = 8;
/// A member of which nothing was heard for so long is worth a line: links are measured each second.
const QUIET: Duration = Duration::from_secs(60);

pub(super) fn owner(owner: &Owner) -> Vec<Finding> {
    let found = match owner {
        Owner::Nobody => Finding::note(AGENT, "none runs: nothing is shared with other machines")
            .fix("netbuild-agent --detach; or netbuild-agent --join TICKET --detach"),
        Owner::Answers(known) if !known.is_agent => {
            let says = format!("none runs; a command, pid {}, has the data directory", known.pid);
            Finding::note(AGENT, says)
        }
        Owner::Answers(known) if known.versions[0] != known.versions[1] => {
            let [theirs, ours] = &known.versions;
            let says = format!("pid {} is version {theirs}, and this is {ours}", known.pid);
            Finding::warning(AGENT, says).fix(RESTART)
        }
        Owner::Answers(known) => {
            let region = match known.region.as_str() {
                "" => "no region".to_owned(),
                region => format!("region {region}"),
            };
            Finding::ok(
                AGENT,
                format!("pid {}, version {}, {region}", known.pid, known.versions[0]),
            )
        }
        Owner::Version(theirs) => Finding::problem(
            AGENT,
            format!("the one that runs speaks version {theirs} of the control protocol, not ours"),
        )
        .fix(RESTART),
        Owner::Stranger(user) => Finding::problem(
            AGENT,
            format!("the one that runs is user {user}'s, whom this user need not believe"),
        )
        .fix("run netbuild as that user, or give this one a directory with --data-dir"),
        Owner::Silent(who) => {
            Finding::problem(AGENT, format!("{who} holds the data directory and does not answer"))
                .fix("wait if it is starting; else end that process, and start the agent again")
        }
        Owner::Failed(why) => Finding::problem(AGENT, why.clone()).fix(RESTART),
    };
    let mut found = vec![found];
    if let Owner::Answers(known) = owner
        && known.is_agent
        && known.region.is_empty()
    {
        let says =
            "no region is known: distances are measured, but results are not told apart by it";
        found.push(Finding::note(AGENT, says).fix("[agent] region = \"NAME\", or --region NAME"));
    }
    found
}

const RESTART: &str = "restart it: netbuild stop && netbuild-agent --detach, or \
                       systemctl restart netbuild-agent";

pub(super) fn ports(ports: &[Port]) -> Vec<Finding> {
    let mut found: Vec<Finding> = ports.iter().map(port).collect();
    let mut udp = ports.iter().filter(|port| port.role != PAGE).peekable();
    if udp.peek().is_some() && udp.all(|port| port.address.ip().is_loopback()) {
        let says = "only loopback is listened on: other machines cannot reach this agent";
        found.push(Finding::note(PORTS, says).fix("--listen 0.0.0.0:4001, or [agent] listen"));
    }
    found
}

fn port(port: &Port) -> Finding {
    let Port { role, address, state } = port;
    if *role == PAGE {
        return page(*address, state);
    }
    match state {
        PortState::Free if address.port() == 0 => Finding::note(
            PORTS,
            format!(
                "{role}: any free port of {}; the same one again after a restart",
                address.ip()
            ),
        )
        .fix(format!(
            "for a firewall, name one: [agent] {}",
            match *role {
                "data" => "data_port = 4002".to_owned(),
                _ => format!("listen = \"{}\"", SocketAddr::new(address.ip(), 4001)),
            }
        )),
        PortState::Free => Finding::ok(PORTS, format!("{role}: UDP {address} can be had")),
        PortState::Refused(why) => {
            Finding::problem(PORTS, format!("{role}: UDP {address} cannot be had: {why}")).fix(
                format!(
                    "end what has it (ss -ulpn 'sport = :{}'), or choose another: \
                    [agent] listen and data_port",
                    address.port()
                ),
            )
        }
        PortState::Ours(Reached::Yes(took)) => Finding::ok(
            PORTS,
            format!("{role}: the agent answers at UDP {address} from here, in {}", millis(*took)),
        ),
        PortState::Ours(Reached::No(why)) => Finding::problem(
            PORTS,
            format!("{role}: the agent does not answer at {address}: {why}"),
        )
        .fix(format!("let UDP {} in: nft, iptables or the cloud's rules", address.port())),
    }
}

/// Where the agent is watched: builds do without it.
fn page(address: SocketAddr, state: &PortState) -> Finding {
    match state {
        PortState::Free if address.port() == 0 => {
            Finding::ok(PORTS, format!("{PAGE}: any free port of {}", address.ip()))
        }
        PortState::Free => Finding::ok(PORTS, format!("{PAGE}: TCP {address} can be had")),
        PortState::Refused(why) => Finding::note(
            PORTS,
            format!("{PAGE}: TCP {address} cannot be had: {why}; the agent takes another port"),
        )
        .fix("for one that stays, choose another: [http] listen, or --http"),
        PortState::Ours(Reached::Yes(took)) => {
            Finding::ok(PORTS, format!("{PAGE}: http://{address}/ answers, in {}", millis(*took)))
        }
        PortState::Ours(Reached::No(why)) => {
            Finding::warning(PORTS, format!("{PAGE}: http://{address}/ does not answer: {why}"))
                .fix("see the log of the agent: netbuild status tells where it is")
        }
    }
}

pub(super) fn invitation(facts: &Invitation) -> Vec<Finding> {
    let mut found = Vec::new();
    if facts.other_mesh {
        let says = "the data directory has the key of another mesh than the ticket";
        found.push(Finding::problem(JOIN, says).fix(
            "join with another data directory (--data-dir), or remove mesh.key to leave the other mesh",
        ));
    }
    if facts.no_key {
        let says = "an address alone does not have the key of the mesh, and neither has the data directory";
        found.push(
            Finding::problem(JOIN, says)
                .fix("join with a ticket: `netbuild ticket` on a member prints it"),
        );
    }
    let reached = facts.addresses.iter().any(|(_, reached)| matches!(reached, Reached::Yes(_)));
    for (address, state) in &facts.addresses {
        found.push(match state {
            Reached::Yes(took) => {
                Finding::ok(JOIN, format!("the member answers at UDP {address}, in {}", millis(*took)))
            }
            // One is enough: a machine has addresses that lead to it from some networks only.
            Reached::No(why) if reached => Finding::note(JOIN, format!("UDP {address}: {why}")),
            Reached::No(why) => Finding::problem(JOIN, format!("UDP {address}: {why}")).fix(format!(
                "see that the member runs (`netbuild doctor` there), and that UDP {} is let in there and \
                 out here",
                address.port()
            )),
        });
    }
    found
}

pub(super) fn members(owner: &Owner) -> Vec<Finding> {
    let Owner::Answers(known) = owner else { return Vec::new() };
    if !known.is_agent {
        return Vec::new();
    }
    let mut found = Vec::new();
    if known.refused_by_others > 0 {
        let says = format!("others refused this agent {} times", known.refused_by_others);
        found.push(Finding::warning(PEERS, says).fix(
            "see that it has the key of their mesh (--join TICKET) and is in their [mesh] peers, if that \
             names any",
        ));
    }
    if known.refused > 0 {
        let says = format!(
            "{} handshakes of others were refused: they had not the mesh key, or are not in [mesh] peers",
            known.refused
        );
        found.push(Finding::note(PEERS, says));
    }
    if known.members.is_empty() {
        let says = "the agent knows no other one";
        found.push(
            Finding::note(PEERS, says)
                .fix("elsewhere: netbuild-agent --join TICKET, which `netbuild ticket` prints"),
        );
        return found;
    }
    let well = |member: &&Member| member.is_asked && member.heard.is_none_or(|age| age < QUIET);
    let count = known.members.iter().filter(well).count();
    let says = format!("{count} of {} answer", known.members.len());
    found.push(match count {
        0 => Finding::problem(PEERS, says).fix(
            "see whether they run, and that UDP is let through: netbuild doctor --join TICKET",
        ),
        _ => Finding::ok(PEERS, says),
    });
    let others = known.members.iter().filter(|member| !well(member));
    found.extend(
        others.clone().take(MOST_NAMED).map(|member| Finding::warning(PEERS, named(member))),
    );
    if let more @ 1.. = others.count().saturating_sub(MOST_NAMED) {
        found.push(Finding::warning(PEERS, format!("{more} more do not")).fix("netbuild peers"));
    }
    found
}

fn named(member: &Member) -> String {
    let region = if member.region.is_empty() { "no region" } else { member.region.as_str() };
    let mut says = format!("{} ({region})", member.name);
    if let Some(why) = &member.resting {
        says = format!("{says}: {why}");
    }
    if let Some(age) = member.heard {
        says = format!("{says}; last heard {} s ago", age.as_secs());
    }
    says
}
