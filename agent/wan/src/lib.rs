//! Emulated wide-area links, where the kernel has no `netem`: one process reads the packets of
//! each site from a TUN device, asks [`netbuild_core::wan`] when they arrive, and writes them to
//! the other site then.
//!
//! A site is a network namespace that the emulator makes, or, for one container that routes
//! between real networks, a range of addresses ([`Mode`]). IPv4 only; the rest is dropped. Where
//! there are no rights for either, sites are addresses of the loopback interface, and datagrams
//! between them pass through a thread of the process ([`Loopback`]). Linux only: on other systems
//! this crate is empty.

#![cfg(target_os = "linux")]

mod control;
mod devices;
mod emulator;
mod error;
mod ip;
mod loopback;
mod namespaces;
mod place;
mod protocol;
mod relay;
mod router;
mod sys;
mod up;

pub use control::ask;
pub use error::WanError;
pub use loopback::Loopback;
pub use namespaces::enter;
pub use place::{DEFAULT_NAME, log_path};
pub use protocol::{LinkStatus, Request, Response, SiteStatus, Status};
pub use relay::{Door, PORTS};
pub use up::{Mode, Options, down, up};
