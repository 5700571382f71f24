//! What has no safe form: the device of a tunnel, and a place before all ordinary processes.

use crate::error::WanError;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    ioctl::{Opcode, Setter, opcode},
};
use std::{fs, os::fd::OwnedFd};

/// The name of the device in every namespace.
pub(crate) const DEVICE: &str = "wan0";
/// Most bytes of a packet.
pub(crate) const MTU: usize = 1_500;

/// `TUNSETIFF` of `linux/if_tun.h`: `_IOW('T', 202, int)`.
const TUNSETIFF: Opcode = opcode::write::<libc::c_int>(b'T', 202);

/// As much of `struct ifreq` of `linux/if.h` as the call reads, at its full size.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

/// Makes the TUN device in the namespace of the calling thread. It lives as long as the
/// descriptor, which does not block.
#[expect(unsafe_code, reason = "rustix knows no TUN devices")]
pub(crate) fn open_tun() -> Result<OwnedFd, WanError> {
    let path = "/dev/net/tun";
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tun = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => WanError::NoTun,
        Errno::PERM | Errno::ACCESS => WanError::NotRoot,
        other => WanError::file("open", path)(other),
    })?;
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
        rest: [0; 22],
    };
    request.name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    // SAFETY: `TUNSETIFF` reads and writes one `struct ifreq` (its number says `int` for history's
    // sake), which the value is in size and layout. `Setter` keeps it in place during the call.
    let made = unsafe { rustix::ioctl::ioctl(&tun, Setter::<TUNSETIFF, _>::new(request)) };
    made.map_err(|error| match error {
        Errno::PERM => WanError::NotRoot,
        other => WanError::io(format!("make the device {DEVICE}"))(other),
    })?;
    // IPv6 does not pass, so its greetings need not be sent. Where this cannot be set, they are
    // dropped.
    drop(fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6"), "1"));
    Ok(tun)
}

/// Puts the calling thread before all ordinary processes, so that delays stay true on a busy
/// machine; not its children. Whether the kernel lets it.
#[expect(unsafe_code, reason = "rustix does not set schedulers")]
pub(crate) fn run_first() -> bool {
    // The lowest of the real-time priorities: who has one already needs it more.
    let parameters = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the call reads the parameters, which outlive it; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}
