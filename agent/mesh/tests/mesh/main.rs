//! Agents on loopback, with real sockets.

mod support;

mod admission;
mod asking;
mod discovery;
mod meeting;
mod telling;
