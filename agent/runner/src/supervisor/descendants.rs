//! All that is below this process, and its end.

use rustix::{
    io::Errno,
    process::{self, Pid, Signal, WaitOptions},
};
use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

/// How long a supervisor tries to kill what its command left behind. Only a process stuck in the
/// kernel survives SIGKILL for longer.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Kills every process below this one, until there is none but the `spared` children, with what is
/// below them.
pub(super) fn kill_descendants(spared: &mut HashSet<Pid>) {
    let mut deadline = None;
    loop {
        match process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, _))) => {
                spared.remove(&pid);
            }
            // No children, and so no descendants: the orphaned ones are children of a subreaper.
            Err(Errno::CHILD) => return,
            _ => {
                let left = descendants(spared);
                // Where no child is spared, the end of all of them is sure only when there is no
                // child to wait for: the list may miss one that moves up while it is made.
                if left.is_empty() && !spared.is_empty() {
                    return;
                }
                let now = Instant::now();
                if now >= *deadline.get_or_insert(now + KILL_LIMIT) {
                    return;
                }
                signal_all(Signal::KILL, &left);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

pub(super) fn signal_descendants(signal: Signal) {
    signal_all(signal, &descendants(&HashSet::new()));
}

fn signal_all(signal: Signal, pids: &[Pid]) {
    for pid in pids {
        // It may have ended meanwhile.
        let _ = process::kill_process(*pid, signal);
    }
}

/// Every process below this one but the `spared` and what is below them, parents before children.
fn descendants(spared: &HashSet<Pid>) -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let parent = pid.and_then(parent_of);
        if let (Some(pid), Some(parent)) = (pid, parent)
            && !Pid::from_raw(pid).is_some_and(|pid| spared.contains(&pid))
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![process::getpid().as_raw_pid()];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next]).unwrap_or_default());
        next += 1;
    }
    found.into_iter().skip(1).filter_map(Pid::from_raw).collect()
}

/// The parent in `/proc/PID/stat`, the second field after the parenthesised command name.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after_name..]).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}
