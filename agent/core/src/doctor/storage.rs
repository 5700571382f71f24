//! Where things are kept: the data directory and the tiers.

use super::{Directory, FileSystem, Finding, State, Tier, TierState, Trouble, millis};
use crate::text::size;
use std::time::Duration;

pub(super) const DIRECTORY: &str = "data directory";
const SPACE: &str = "space";
const DISK: &str = "disk";
const TIER: &str = "tier";

/// File systems of other machines: a lock there may not be one, and each look is a round trip.
const REMOTE: [&str; 7] = ["nfs", "cifs", "smb2", "9p", "fuse", "ceph", "afs"];
/// File systems that live in memory.
const MEMORY: [&str; 2] = ["tmpfs", "ramfs"];
/// A durable small write that takes longer slows down whoever waits for a result to be kept.
const SLOW_FSYNC: Duration = Duration::from_millis(100);
/// Fewer files than a large result has.
const FEW_FILES: u64 = 50_000;
/// Permissions of others than the owner.
const OTHERS: u32 = 0o077;
/// Seconds by which S3 lets a request's time be off: 15 minutes.
const SIGNATURE_S: u64 = 900;
/// Seconds by which clocks may differ unnoticed.
const SKEW_S: u64 = 60;

pub(super) fn directory(facts: &Directory) -> Vec<Finding> {
    let mut found = vec![access(facts)];
    if matches!(facts.state, State::Unusable(_)) {
        return found;
    }
    if let Some(place) = facts.place.filter(|place| place.mode & OTHERS != 0) {
        let mode = place.mode & 0o777;
        let says = format!(
            "its mode is {mode:03o}: others of this machine may read its keys and join the mesh"
        );
        found.push(
            Finding::warning(DIRECTORY, says).fix(format!("chmod 700 {}", quoted(&facts.path))),
        );
    }
    if let Some(system) = &facts.file_system {
        found.push(kind(facts, system));
        found.push(space(facts, system));
    }
    found.extend(facts.fsync.map(|took| speed(facts, took)));
    found
}

fn access(facts: &Directory) -> Finding {
    let Directory { path, .. } = facts;
    if let State::Unusable(why) = &facts.state {
        return Finding::problem(DIRECTORY, why.clone())
            .fix("name another one: --data-dir, NETBUILD_DATA_DIR or [agent] data_dir");
    }
    let (user, whose) = (facts.user, facts.place.map(|place| place.owner));
    if let Some(owner) = whose.filter(|owner| *owner != user) {
        let says = format!("{path} belongs to user {owner}, and this is user {user}");
        let remedy = format!(
            "run netbuild as that user, or name another one with --data-dir; or, if it is to be \
             yours: chown -R {user} {}",
            quoted(path)
        );
        // Root may do everything, and what it makes there is root's from then on.
        return match user {
            0 => Finding::warning(DIRECTORY, says).fix(remedy),
            _ => Finding::problem(DIRECTORY, says).fix(remedy),
        };
    }
    match (&facts.refuses, &facts.state) {
        (Some(why), State::There) => {
            Finding::problem(DIRECTORY, format!("{path} cannot be written: {why}"))
                .fix("make it writable for this user, or name another one with --data-dir")
        }
        (Some(why), _) => {
            Finding::problem(DIRECTORY, format!("{path} is not there and cannot be made: {why}"))
                .fix("name one that this user can make: --data-dir or NETBUILD_DATA_DIR")
        }
        (None, State::There) => Finding::ok(DIRECTORY, path.clone()),
        (None, _) => Finding::note(DIRECTORY, format!("{path}; the first command makes it")),
    }
}

fn kind(facts: &Directory, system: &FileSystem) -> Finding {
    let kind = system.kind.as_str();
    let elsewhere = "put it on a disk of this machine: --data-dir or [agent] data_dir";
    if REMOTE.iter().any(|remote| kind.starts_with(remote)) {
        let says = format!("{kind} is a file system of another machine: slow, and locks may fail");
        return Finding::warning(DISK, says).fix(elsewhere);
    }
    if MEMORY.contains(&kind) {
        let says = format!("{kind} is memory: all is gone after a restart, the identity too");
        return Finding::warning(DISK, says).fix(elsewhere);
    }
    if kind == "overlay" {
        return Finding::warning(DISK, "overlay: all is gone with the container")
            .fix("mount a volume there, such as `-v netbuild:DIR`");
    }
    let kind = if kind.is_empty() { "unknown file system" } else { kind };
    match facts.reflink {
        Some(true) => Finding::ok(DISK, format!("{kind}; restored files share blocks with it")),
        Some(false) => {
            Finding::ok(DISK, format!("{kind}; restored files are copies, as it shares no blocks"))
        }
        None => Finding::ok(DISK, kind),
    }
}

fn space(facts: &Directory, system: &FileSystem) -> Finding {
    let (free, limit) = (size(system.free), size(facts.max_bytes));
    if system.files.is_some_and(|files| files < FEW_FILES) {
        let says = format!("only {} more files can be made there", system.files.unwrap_or(0));
        return Finding::warning(SPACE, says).fix(
            "remove files, or make the file system anew with more inodes (mkfs.ext4 -i 8192)",
        );
    }
    if system.free < facts.min_free {
        let says = format!(
            "{free} free, less than the {} that stay free for others: new results push out old ones",
            size(facts.min_free)
        );
        return Finding::warning(SPACE, says)
            .fix("make room on the disk, or lower [store] min_free");
    }
    let room = system.free.saturating_sub(facts.min_free).saturating_add(facts.used.unwrap_or(0));
    if room < facts.max_bytes {
        let says = format!(
            "{free} free: the disk is full before the {limit} are reached that may be taken"
        );
        return Finding::note(SPACE, says).fix(format!("[store] max_size = \"{}\"", size(room)));
    }
    let used = facts.used.map(|used| format!("{} of ", size(used))).unwrap_or_default();
    Finding::ok(SPACE, format!("{used}{limit} may be taken, {free} free"))
}

fn speed(facts: &Directory, took: Duration) -> Finding {
    let says = format!("4 KiB written and synced in {}", millis(took));
    if took < SLOW_FSYNC {
        return Finding::ok(DISK, says);
    }
    Finding::warning(DISK, says + ", which each durable result waits for").fix(format!(
        "put {} on a faster disk, or look what else keeps this one busy",
        quoted(&facts.path)
    ))
}

pub(super) fn silent_tier(name: &str, limit: Duration) -> Finding {
    Finding::problem(TIER, format!("{name}: no answer within {:.1} s", limit.as_secs_f64()))
        .fix(unreachable(name))
}

fn unreachable(name: &str) -> String {
    let scheme = name.split_once("://").map_or(name, |(scheme, _)| scheme);
    match scheme {
        "s3" => "check [s3] endpoint or AWS_ENDPOINT_URL, and that this machine may reach it",
        _ => "check host and port in CACHE_BACKEND, and that this machine may reach them",
    }
    .to_owned()
}

pub(super) fn tier(name: &str, facts: &Tier) -> Vec<Finding> {
    let mut found = vec![match &facts.state {
        TierState::Works(took) if facts.writes => Finding::ok(
            TIER,
            format!("{name} lets read, write and delete; a request takes {}", millis(*took)),
        ),
        TierState::Works(took) => Finding::ok(
            TIER,
            format!("{name} lets read (policy = \"read-only\"); a request takes {}", millis(*took)),
        ),
        TierState::ReadOnly(why) => {
            Finding::problem(TIER, format!("{name} lets read, but not write: {}", why.says))
                .fix(remedy(name, facts, why, true))
        }
        TierState::Fails(why) => Finding::problem(TIER, format!("{name}: {}", why.says))
            .fix(remedy(name, facts, why, false)),
    }];
    found.extend(facts.ahead_s.and_then(|ahead| skew(name, facts, ahead)));
    found
}

fn remedy(name: &str, facts: &Tier, why: &Trouble, writing: bool) -> String {
    match (why.refused, why.full, facts.is_bucket) {
        (true, _, true) if writing => format!(
            "allow s3:PutObject and s3:DeleteObject on {name}/*, or say so: [s3] policy = \"read-only\""
        ),
        (true, _, true) => format!(
            "check that the bucket is there, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), \
             and that they allow s3:ListBucket and s3:GetObject on {name}"
        ),
        (true, _, false) if writing => {
            "let this user write the keys of [redis] prefix, or say so: [redis] policy = \"read-only\""
                .to_owned()
        }
        (true, _, false) => {
            "check user and password: REDIS_PASSWORD, [redis] user and password_file".to_owned()
        }
        (false, true, false) => {
            "let the server make room: CONFIG SET maxmemory-policy allkeys-lru".to_owned()
        }
        (false, true, true) => "make room in the bucket, or lower [s3] expire_days".to_owned(),
        (false, false, _) => unreachable(name),
    }
}

fn skew(name: &str, facts: &Tier, ahead: i64) -> Option<Finding> {
    let off = ahead.unsigned_abs();
    let side = if ahead > 0 { "behind" } else { "ahead of" };
    let says = format!("this clock is {off} s {side} that of {name}");
    let found = match off {
        SIGNATURE_S.. if facts.is_bucket => {
            Finding::problem(TIER, says + ", which refuses requests that are off by so much")
        }
        SKEW_S.. => Finding::warning(TIER, says),
        _ => return None,
    };
    Some(found.fix("timedatectl set-ntp true"))
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,".contains(c);
    if !path.is_empty() && path.chars().all(plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', "'\\''"))
    }
}
