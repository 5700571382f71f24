//! Tiers: what all of them promise, on real servers, and what becomes of it when these fail.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

#[expect(dead_code, reason = "shared with the tests of stores")]
#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod redis;
mod s3;
