//! What the operating system says of this process.

use std::fs;

/// What a process takes. A figure that cannot be had is `None`.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
}

impl Process {
    pub(super) fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        // One of them is that of the listing itself.
        let open = fs::read_dir("/proc/self/fd").map(|list| list.count().saturating_sub(1) as u64);
        Self {
            cpu_seconds: time.tv_sec as f64 + time.tv_nsec as f64 / 1e9,
            resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: field(&status, "VmSize:").map(|kib| kib * 1024),
            threads: field(&status, "Threads:"),
            open_fds: open.ok(),
            max_fds: limit.current,
        }
    }
}

/// The number behind a name, as /proc writes them.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_something() {
        let process = Process::now();
        assert!(process.cpu_seconds > 0.0);
        for figure in
            [process.resident_bytes, process.virtual_bytes, process.threads, process.open_fds]
        {
            assert!(figure.is_some_and(|figure| figure > 0), "{process:?}");
        }
    }
}
