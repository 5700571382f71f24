//! Emulated wide-area links, where the kernel has no `netem`: one process reads the packets of
//! each site from a TUN device, asks [`netbuild_core::wan`] when they arrive, and writes them to
//! the other site then.
//!
//! A site is a network namespace that the emulator makes, or, for one container that routes
//! between real networks, a range of addresses ([`Mode`]). IPv4 only; the rest is dropped. Linux
//! only: on other systems this crate is empty.

#![cfg(target_os = "linux")]

mod control;
mod emulator;
mod error;
mod ip;
mod namespaces;
mod place;
mod protocol;
mod router;
mod sys;
mod up;

pub use control::ask;
pub use error::WanError;
pub use namespaces::enter;
pub use place::{DEFAULT_NAME, log_path};
pub use protocol::{LinkStatus, Request, Response, SiteStatus, Status};
pub use up::{Mode, Options, down, up};
