//! Runs the tasks of a graph next to a cache.
//!
//! It sees a [`Cache`](netbuild_core::cache::Cache) and never a peer. What it promises: a task is
//! restored or left alone only when its inputs and outputs are exactly those of a run that
//! succeeded; nothing outside the workspace is written; no process outlives the run; and no
//! trouble with the cache fails a task.
//!
//! [`run()`] takes tasks from the schedule of `core`; `task` says what happens to one of them.

#[cfg(not(target_os = "linux"))]
compile_error!("the runner needs openat2, pidfd and subreapers of Linux");

mod ahead;
mod beneath;
mod descriptors;
mod discovered;
mod environment;
mod event;
mod files;
mod history;
mod inputs;
mod jobserver;
mod levels;
mod locks;
mod looks;
mod masking;
mod outputs;
mod patterns;
mod predict;
mod process;
mod restore;
mod run;
mod sandbox;
mod service;
mod sharing;
mod summary;
mod supervisor;
mod task;
mod terminal;
mod tools;
mod witness;
mod workspace;

pub use environment::Caller;
pub use event::{Ended, Event, Levels, Observation, Observer};
pub use history::turns;
pub use inputs::standing;
pub use levels::{LevelsHere, levels_here};
pub use looks::Looks;
pub use predict::{Prediction, predict};
pub use process::Cancel;
pub use run::{Options, observe, run};
pub use sharing::Link;
pub use summary::{Hits, Summary};
pub use supervisor::{SPAWN_COMMAND, spawner_main};
pub use task::NO_CACHE;
pub use witness::{Asked, Question, nothing_to_do};
pub use workspace::{DIRECTORY, Memory, WorkspaceError};
