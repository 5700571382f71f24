//! Who owns the data directory, and what that process knows.

use crate::chain::chain;
use netbuild_core::{
    doctor::{Known, Member, Owner},
    peer::PeerId,
};
use netbuild_gateway::{ConnectError, SocketCache, socket_path};
use netbuild_proto::control::{LinkRow, LinkSource, PeerState, Status};
use netbuild_store::DiskStore;
use std::{io::ErrorKind, path::Path, time::Duration};

/// What came of asking.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) owner: Owner,
    /// Of a process that answers.
    pub(super) status: Option<Status>,
}

/// Asks the owner of a data directory; `None` where this user may not even look.
pub(super) fn visit(data_dir: &Path) -> Option<Visit> {
    let without = |owner| Some(Visit { owner, status: None });
    let process = match SocketCache::connect(&socket_path(data_dir)) {
        Ok(process) => process,
        Err(ConnectError::NobodyThere(_)) => return without(unserved(data_dir)?),
        Err(ConnectError::Version(theirs)) => return without(Owner::Version(theirs)),
        Err(ConnectError::Stranger(_, user)) => return without(Owner::Stranger(user)),
        // The directory is another user's, which is said of it.
        Err(ConnectError::Io(_, error)) if error.kind() == ErrorKind::PermissionDenied => {
            return None;
        }
        Err(error) => return without(Owner::Failed(chain(&error))),
    };
    let status = match process.status() {
        Ok(status) => status,
        Err(error) => return without(Owner::Failed(chain(&error))),
    };
    let is_agent = status.role == "agent";
    let links = if is_agent { process.links().unwrap_or_default().rows } else { Vec::new() };
    let owner = Owner::Answers(known(&status, is_agent, &links));
    Some(Visit { owner, status: Some(status) })
}

/// Nobody serves the socket: nobody is there, or somebody who holds the lock.
fn unserved(data_dir: &Path) -> Option<Owner> {
    match DiskStore::holder(data_dir) {
        Ok(None) => Some(Owner::Nobody),
        Ok(Some(holder)) => Some(Owner::Silent(holder.to_string())),
        Err(_) => None,
    }
}

fn known(status: &Status, is_agent: bool, links: &[LinkRow]) -> Known {
    let member = |member: &netbuild_proto::control::Member| {
        let link = links.iter().find(|link| {
            link.source == LinkSource::Measured
                && link.from == member.peer
                && link.to == status.peer
        });
        let age = link.filter(|_| member.connected).map(|link| link.age_s);
        Member {
            name: member.peer.parse::<PeerId>().map_or_else(|_| "?".into(), |peer| peer.short()),
            region: member.region.clone(),
            is_asked: matches!(member.state, PeerState::Ok | PeerState::HalfOpen),
            resting: member.resting.clone(),
            rtt: member.rtt_us.map(Duration::from_micros),
            heard: age.and_then(|age| Duration::try_from_secs_f64(age).ok()),
        }
    };
    Known {
        is_agent,
        pid: status.pid,
        versions: [status.version.clone(), env!("CARGO_PKG_VERSION").to_owned()],
        region: status.region.clone(),
        members: status.members.iter().map(member).collect(),
        refused: counter(status, "mesh_refused_admissions"),
        refused_by_others: counter(status, "mesh_refused_by_others"),
    }
}

pub(super) fn counter(status: &Status, name: &str) -> u64 {
    let counter = status.counters.iter().find(|(known, _)| known == name);
    counter.map_or(0, |(_, count)| *count)
}
