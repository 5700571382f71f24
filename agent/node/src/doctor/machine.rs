//! What the system lets a process have.

use netbuild_core::doctor::{Buffers, Cgroup, Descriptors, Limits};
use rustix::{
    fs::inotify,
    process::{Resource, getrlimit},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Control groups are somewhere below.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Version 1 says that there is no limit with a number near the greatest one.
const NO_LIMIT: u64 = 1 << 60;

pub(super) fn buffers() -> Option<Buffers> {
    let found = netbuild_transfer::Buffers::look().ok()?;
    Some(Buffers {
        wanted: found.wanted as u64,
        receive: found.receive as u64,
        send: found.send as u64,
    })
}

/// Of this process, and of the agent with this number.
pub(super) fn limits(agent: Option<u32>) -> Limits {
    let of_this = getrlimit(Resource::Nofile);
    let proc = |file: &str| {
        let process = agent.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default()
    };
    let watches = fs::read_to_string("/proc/sys/fs/inotify/max_user_watches");
    Limits {
        files: Descriptors { soft: of_this.current, hard: of_this.maximum },
        agent_files: agent.and_then(|_| descriptors(&proc("limits"))),
        watches: watches.ok().and_then(|text| text.trim().parse().ok()),
        no_watch: inotify::init(inotify::CreateFlags::CLOEXEC)
            .err()
            .map(|errno| std::io::Error::from(errno).to_string()),
        cgroup: cgroup(&proc("cgroup"), Path::new(CGROUPS)),
    }
}

/// The line on open files of `/proc/PID/limits`.
fn descriptors(limits: &str) -> Option<Descriptors> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut words = line.split_whitespace();
    let mut number = || {
        let word = words.next()?;
        Some(if word == "unlimited" { None } else { Some(word.parse().ok()?) })
    };
    Some(Descriptors { soft: number()?, hard: number()? })
}

/// The least limits of a control group and those around it, by `/proc/PID/cgroup`.
fn cgroup(groups: &str, root: &Path) -> Cgroup {
    let mut found = Cgroup::default();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let has = |name: &str| controllers.split(',').any(|known| known == name);
        // In version 2 all controllers are in one tree.
        let (memory, processes) = match controllers {
            "" => (Some("memory.max"), Some("pids.max")),
            _ if has("memory") => (Some("memory.limit_in_bytes"), None),
            _ if has("pids") => (None, Some("pids.max")),
            _ => continue,
        };
        let top = root.join(controllers);
        found.memory = least(found.memory, memory.and_then(|file| limit(&top, path, file)));
        let processes = processes.and_then(|file| limit(&top, path, file));
        found.processes = least(found.processes, processes);
    }
    found
}

fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

fn limit(top: &Path, path: &str, file: &str) -> Option<u64> {
    // In a container the path may be that of the host, of which only the end is there, if anything.
    let group = top.join(path.trim_start_matches('/'));
    let around = group.ancestors().take_while(|group| group.starts_with(top));
    let limits = around.filter_map(|group| read(group.join(file)));
    limits.min().filter(|limit| *limit < NO_LIMIT)
}

fn read(path: PathBuf) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95918                95918                processes \n\
                      Max open files            1024                 unlimited            files     \n";
        let expected = Descriptors { soft: Some(1024), hard: None };
        assert_eq!(descriptors(limits), Some(expected));
        assert_eq!(descriptors(""), None);
        assert_eq!(descriptors("Max open files  x  y  files"), None);
    }

    #[test]
    fn the_least_of_all_groups_around_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("system.slice/memory.max", "1000\n");
        write("system.slice/netbuild.service/memory.max", "max\n");
        write("system.slice/netbuild.service/pids.max", "77\n");
        let found = cgroup("0::/system.slice/netbuild.service\n", dir.path());
        assert_eq!(found, Cgroup { memory: Some(1000), processes: Some(77) });

        write("memory/docker/x/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("pids/docker/x/pids.max", "max\n");
        let old = "5:pids:/docker/x\n4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\nbad\n";
        assert_eq!(cgroup(old, dir.path()), Cgroup::default());
        write("memory/memory.limit_in_bytes", "4096\n");
        assert_eq!(cgroup(old, dir.path()).memory, Some(4096));
    }
}
