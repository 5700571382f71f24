//! The machine: its clock, its limits, and what it lets a command be kept from.

use super::{Buffers, Cgroup, Clock, Descriptors, Finding, Levels, Limits};
use crate::record::Sandbox;
use crate::text::size;

pub(super) const CLOCK: &str = "clock";
pub(super) const BUFFERS: &str = "UDP buffers";
pub(super) const LIMITS: &str = "limits";
pub(super) const LEVELS: &str = "hermeticity";

/// Years that a clock may show: netbuild was not there before, and its stamps end later.
const YEARS: std::ops::Range<u64> = 2025..2100;
const YEAR_MS: u64 = 31_556_952_000;
/// Least buffer without a warning, as a part of what is wanted: 2 ms at 4 Gbit/s.
const PART: u64 = 4;
/// Open files that an agent comes to need: connections, blobs that are read, its journal.
const FEW_FILES: u64 = 1024;
/// Directories of a workspace that `netbuild run --watch` may have to watch.
const FEW_WATCHES: u64 = 8192;
/// Memory of an agent with a million records, and some.
const LITTLE_MEMORY: u64 = 512 << 20;
/// Threads and processes of an agent and a build.
const FEW_PROCESSES: u64 = 256;

pub(super) fn clock(facts: &Clock) -> Vec<Finding> {
    let year = 1970 + facts.wall_ms / YEAR_MS;
    let set = "timedatectl set-ntp true; in a virtual machine without a network: date -s";
    if !YEARS.contains(&year) {
        let says =
            format!("it shows the year {year}: TLS, S3 and the order of records need the time");
        return vec![Finding::problem(CLOCK, says).fix(set)];
    }
    if let count @ 1.. = facts.records_ahead {
        let says = format!(
            "{count} results of other agents were stamped more than a minute ahead of this clock: it is \
             behind, or theirs is ahead"
        );
        return vec![Finding::warning(CLOCK, says).fix(set)];
    }
    vec![Finding::ok(CLOCK, format!("it shows the year {year}"))]
}

pub(super) fn buffers(facts: &Buffers) -> Vec<Finding> {
    let Buffers { wanted, receive, send } = *facts;
    let says = format!(
        "of {} asked for, {} to receive and {} to send",
        size(wanted),
        size(receive),
        size(send)
    );
    let least = receive.min(send);
    if least >= wanted {
        return vec![Finding::ok(BUFFERS, says)];
    }
    let remedy = format!(
        "sysctl -w net.core.rmem_max={wanted} net.core.wmem_max={wanted}, and the same in \
         /etc/sysctl.d/60-netbuild.conf; for a container, on its host"
    );
    let found = match least * PART < wanted {
        true => Finding::warning(BUFFERS, says + ": fast links lose packets"),
        false => Finding::note(BUFFERS, says),
    };
    vec![found.fix(remedy)]
}

pub(super) fn limits(facts: &Limits) -> Vec<Finding> {
    let files = match facts.agent_files {
        Some(of_agent) => files("the agent", of_agent),
        None => files("a process", facts.files),
    };
    vec![files, watches(facts), cgroup(&facts.cgroup)]
}

fn files(whose: &str, limit: Descriptors) -> Finding {
    let Some(soft) = limit.soft else {
        return Finding::ok(LIMITS, format!("{whose} may have any number of files open"));
    };
    let says = format!("{whose} may have {soft} files open");
    if soft >= FEW_FILES {
        return Finding::ok(LIMITS, says);
    }
    let by_itself = limit.hard.is_none_or(|hard| hard >= FEW_FILES);
    Finding::warning(LIMITS, says).fix(match by_itself {
        true => format!("ulimit -n {FEW_FILES} before it is started, or LimitNOFILE= in its unit"),
        false => "LimitNOFILE= in its unit, or nofile in /etc/security/limits.conf".to_owned(),
    })
}

fn watches(facts: &Limits) -> Finding {
    let watch = "`netbuild run --watch`";
    if let Some(why) = &facts.no_watch {
        let says = format!("{watch} cannot watch files: {why}");
        return Finding::warning(LIMITS, says).fix("sysctl -w fs.inotify.max_user_instances=1024");
    }
    match facts.watches {
        Some(count) if count < FEW_WATCHES => Finding::note(
            LIMITS,
            format!("{watch} may watch {count} directories, fewer than large workspaces have"),
        )
        .fix("sysctl -w fs.inotify.max_user_watches=524288"),
        Some(count) => Finding::ok(LIMITS, format!("{watch} may watch {count} directories")),
        None => Finding::ok(LIMITS, format!("{watch} can watch files")),
    }
}

fn cgroup(facts: &Cgroup) -> Finding {
    let mut says = Vec::new();
    let mut remedies = Vec::new();
    if let Some(bytes) = facts.memory {
        says.push(format!("{} of memory", size(bytes)));
        if bytes < LITTLE_MEMORY {
            remedies.push("MemoryMax= or docker run --memory");
        }
    }
    if let Some(count) = facts.processes {
        says.push(format!("{count} processes"));
        if count < FEW_PROCESSES {
            remedies.push("TasksMax= or docker run --pids-limit");
        }
    }
    let says = match says.is_empty() {
        true => return Finding::ok(LIMITS, "no limit of memory or processes by a control group"),
        false => format!("the control group has {}", says.join(" and ")),
    };
    match remedies.is_empty() {
        true => Finding::ok(LIMITS, says),
        false => Finding::warning(LIMITS, says + ", little for an agent and a build")
            .fix(format!("raise {}", remedies.join(" and "))),
    }
}

pub(super) fn levels(facts: &Levels) -> Vec<Finding> {
    let had =
        |level: Sandbox| facts.tried.iter().all(|(tried, why)| *tried != level || why.is_none());
    let names: Vec<_> =
        Sandbox::ALL.into_iter().filter(|level| had(*level)).map(Sandbox::as_str).collect();
    let landlock = match facts.landlock {
        0 => "no Landlock".to_owned(),
        version => format!("Landlock {version}"),
    };
    let says = format!("levels here: {} ({landlock})", names.join(", "));
    let mut found = vec![Finding::ok(LEVELS, says)];
    for (level, why) in &facts.tried {
        let Some(why) = why else { continue };
        let name = level.as_str();
        let needed = *level <= facts.publish_from.max(facts.accept_from);
        let says = format!("level `{name}` cannot be had: {why}");
        let finding = match needed {
            true => Finding::warning(LEVELS, says + "; [run] of the configuration asks for it"),
            false => Finding::note(LEVELS, says),
        };
        found.push(finding.fix(way_to(*level)));
    }
    found
}

fn way_to(level: Sandbox) -> &'static str {
    match level {
        Sandbox::Ns => {
            "let users make namespaces: sysctl -w kernel.unprivileged_userns_clone=1 (Debian), \
             kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces=15000; in \
             Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
             --security-opt systempaths=unconfined"
        }
        Sandbox::Landlock => {
            "Linux 6.7 (5.13 for tasks with \"network\": true) with CONFIG_SECURITY_LANDLOCK, and landlock in the \
             kernel's parameter lsm="
        }
        Sandbox::Audit => {
            "allow ptrace: sysctl -w kernel.yama.ptrace_scope=1; in Docker: --cap-add SYS_PTRACE"
        }
        Sandbox::Loose | Sandbox::Env | Sandbox::Stage => {
            "see that the directory for temporary files (TMPDIR) can be written and runs programs"
        }
    }
}
