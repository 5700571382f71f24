//! Everything in netbuild that can be decided without touching the world.
//!
//! No clock, no file, no socket, no runtime: time and randomness are arguments.

pub mod backend;
pub mod cache;
pub mod chunk;
pub mod codec;
pub mod congestion;
pub mod crossing;
pub mod delta;
pub mod depfile;
pub mod digest;
pub mod doctor;
mod encode;
pub mod evict;
pub mod explain;
pub mod fallback;
pub mod glob;
pub mod gossip;
pub mod graph;
pub mod health;
pub mod hlc;
pub mod import;
pub mod key;
pub mod ledger;
pub mod limit;
pub mod link;
pub mod merge;
pub mod moved;
pub mod neighbourhood;
pub mod outbox;
pub mod peer;
pub mod peers;
pub mod plan;
pub mod reconcile;
pub mod record;
pub mod region;
pub mod schedule;
pub mod score;
pub mod secret;
pub mod sim;
pub mod sketch;
pub mod sooner;
pub mod spread;
pub mod text;
pub mod tiers;
pub mod tree;
pub mod wan;
