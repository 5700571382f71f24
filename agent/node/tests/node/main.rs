//! Whole agents in this process, and a peer that is up to the test.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod lifecycle;
mod peers;
mod repair;
mod sessions;
mod support;
