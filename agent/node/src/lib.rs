//! Assembles the parts: an agent with its mesh, or the cache of a command that may be alone.

mod agent;
mod chain;
pub mod config;
mod disk_cache;
mod keys;
mod mesh_cache;
mod remembered;
mod session;
mod view;

pub use agent::{Agent, AgentError, RunError, run as run_agent};
pub use chain::chain;
pub use disk_cache::DiskCache;
pub use keys::KeyError;
pub use netbuild_store::{OpenError, hush_contained_panics};
pub use session::{Session, SessionError};
