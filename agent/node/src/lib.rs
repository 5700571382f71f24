//! Assembles the parts: an agent with its mesh, or the cache of a command that may be alone.

mod agent;
mod attempts;
mod bases;
mod chain;
pub mod config;
mod decisions;
mod disk_cache;
mod fetcher;
mod flights;
mod job;
mod keys;
mod measure;
mod mesh_cache;
mod random;
mod region;
mod remembered;
mod reports;
mod room;
mod scrub;
mod session;
mod shelf;
mod sync;
mod tolls;
mod verify;
mod view;
mod wire;

pub use agent::{Agent, AgentError, RunError, run as run_agent};
pub use chain::chain;
pub use disk_cache::DiskCache;
pub use keys::KeyError;
pub use netbuild_store::{OpenError, hush_contained_panics};
pub use session::{Session, SessionError};
