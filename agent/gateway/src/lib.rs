//! Front doors of the process that owns a data directory: the control socket, through which the commands
//! of netbuild on this machine reach it, and HTTP, through which people and programs watch an agent.

mod client;
mod conversation;
mod door;
mod guests;
mod http;
mod server;
mod socket;
#[cfg(test)]
mod tests;
mod window;

pub use client::{ConnectError, SocketCache};
pub use door::{Door, OnProgress, OnStep, OnVerify};
pub use guests::{Build, Guests, Miss, Totals};
pub use http::{HttpOptions, HttpServer};
pub use server::ControlServer;
pub use socket::path as socket_path;
pub use window::{
    Board, Edge, HitShare, HttpCounts, Lookups, MissRow, StoreShare, Transfer, Window,
};
