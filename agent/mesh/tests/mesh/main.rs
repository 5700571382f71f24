//! Agents on loopback, with real sockets.

mod support;

mod admission;
mod catch_up;
mod meeting;
