//! The life of an emulator: up, and down.

use crate::{
    control::Control,
    devices::Devices,
    emulator::{Emulator, Identity},
    error::WanError,
    ip, namespaces,
    place::{Place, State, Taken},
    protocol::{SiteStatus, Status},
    router, sys,
};
use netbuild_core::wan::{Layout, LinkSpec, SiteSpec};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

/// How long an emulator may take to end in order before it is killed.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Where the sites are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// In network namespaces that the emulator makes, called `NAME-SITE`.
    Namespaces,
    /// On real networks between which this machine or container routes.
    Router,
}

/// What is to be emulated.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name, so that several run beside each other.
    pub name: String,
    /// Where the sites are.
    pub mode: Mode,
    /// The sites. For a router each needs a prefix.
    pub sites: Vec<SiteSpec>,
    /// Links that do not have the worse profile of their two sites.
    pub links: Vec<LinkSpec>,
    /// Decides what is lost and how profiles vary.
    pub seed: u64,
}

/// Emulates until `stop` is readable. `ready` is called once packets pass. All that was made is
/// removed at the end, and what a killed emulator of the same name left is removed first.
///
/// # Errors
/// When the links cannot be made, or break; see [`WanError::hint`].
pub fn up(
    options: &Options,
    stop: BorrowedFd<'_>,
    ready: impl FnOnce(&Status),
) -> Result<(), WanError> {
    let place = Place::of(&options.name)?;
    let layout = Layout::new(&options.sites, &options.links)?;
    if options.mode == Mode::Router {
        let without = options.sites.iter().find(|site| site.prefix.is_none());
        if let Some(site) = without {
            return Err(WanError::NoPrefix(site.name.clone()));
        }
    }
    if !rustix::process::geteuid().is_root() {
        return Err(WanError::NotRoot);
    }
    let mut taken = place.take()?;
    ip::undo(&taken.left_behind().undo)?;
    // Forgotten at once: what is there from now on under these names is somebody else's.
    taken.write(&State::default())?;
    let undo = match prepare(options, &layout) {
        Ok(undo) => undo,
        Err(error) => {
            taken.give_back();
            return Err(error);
        }
    };
    let pid = rustix::process::getpid().as_raw_pid();
    taken.write(&State { pid, undo: undo.clone() })?;
    let emulated = emulate(options, &place, layout, stop, ready);
    let undone = ip::undo(&undo);
    taken.give_back();
    emulated.and(undone)
}

/// Checks whether it can be made, and tells what removes it.
fn prepare(options: &Options, layout: &Layout) -> Result<Vec<String>, WanError> {
    match options.mode {
        Mode::Namespaces => {
            namespaces::check(&options.name, layout)?;
            Ok(namespaces::undo(&options.name, layout))
        }
        Mode::Router => {
            router::check()?;
            Ok(router::undo(layout))
        }
    }
}

fn emulate(
    options: &Options,
    place: &Place,
    layout: Layout,
    stop: BorrowedFd<'_>,
    ready: impl FnOnce(&Status),
) -> Result<(), WanError> {
    let devices = match options.mode {
        Mode::Namespaces => Devices::PerSite(namespaces::create(&options.name, &layout)?),
        Mode::Router => Devices::Shared(router::create(&layout)?),
    };
    let control = Control::start(place)?;
    let within = options.mode == Mode::Namespaces;
    let sites = layout.sites().iter().map(|site| SiteStatus {
        name: site.name.clone(),
        prefix: site.prefix.to_string(),
        address: within.then(|| site.prefix.first_host().to_string()),
        namespace: within.then(|| namespaces::namespace(&options.name, &site.name)),
    });
    let identity =
        Identity { name: options.name.clone(), sites: sites.collect(), realtime: sys::run_first() };
    let now = Instant::now();
    let mut emulator = Emulator::new(identity, layout, devices, options.seed, now);
    ready(&emulator.status(now));
    emulator.run(&control, stop)
}

/// Ends the emulator of this name, and removes what it or a killed one has left. Whether there was
/// anything to end or remove.
///
/// # Errors
/// When it cannot be ended.
pub fn down(name: &str) -> Result<bool, WanError> {
    let place = Place::of(name)?;
    if !rustix::process::geteuid().is_root() {
        return Err(WanError::NotRoot);
    }
    let (mut taken, ended) = match place.take() {
        Ok(taken) => (taken, false),
        Err(WanError::AlreadyUp { pid, .. }) => {
            end(pid)?;
            (place.take()?, true)
        }
        Err(error) => return Err(error),
    };
    let removed = clean(&mut taken)?;
    taken.give_back();
    Ok(ended || removed)
}

fn clean(taken: &mut Taken) -> Result<bool, WanError> {
    let left = taken.left_behind().undo;
    ip::undo(&left)?;
    Ok(!left.is_empty())
}

/// Ends a process in order, or else at once.
fn end(pid: i32) -> Result<(), WanError> {
    let failed = |error: Errno| WanError::io(format!("end the emulator, pid {pid}"))(error);
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH).map_err(failed)?;
    // A handle, so that another process that gets the number meanwhile is left alone.
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        other => other.map_err(failed)?,
    };
    let limit = Timespec::try_from(END_LIMIT).ok();
    for signal in [Signal::TERM, Signal::KILL] {
        match pidfd_send_signal(&process, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(failed(error)),
        }
        // It becomes readable when the process ends.
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        if poll(&mut ended, limit.as_ref()).map_err(failed)? > 0 {
            return Ok(());
        }
    }
    Err(failed(Errno::TIMEDOUT))
}
