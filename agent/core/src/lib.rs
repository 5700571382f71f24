//! Everything in netbuild that can be decided without touching the world.
//!
//! No clock, no file, no socket, no runtime: time and randomness are arguments.

pub mod cache;
pub mod chunk;
pub mod digest;
mod encode;
pub mod glob;
pub mod graph;
pub mod hlc;
pub mod holders;
pub mod key;
pub mod peer;
pub mod peers;
pub mod record;
pub mod schedule;
pub mod tree;
