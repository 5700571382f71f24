//! Front doors of the process that owns a data directory. So far: the control socket, through
//! which the commands of netbuild on this machine reach it.

mod client;
mod conversation;
mod door;
mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use client::{ConnectError, SocketCache};
pub use door::{Door, OnProgress, OnStep, OnVerify};
pub use server::ControlServer;
pub use socket::path as socket_path;
