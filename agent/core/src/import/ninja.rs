//! `build.ninja`: the manifest of ninja, with its variables and scopes as ninja has them.
//!
//! | ninja | here |
//! |---|---|
//! | build statement | a task with the name of its first output; its outputs are optional, and a result that lacks one is not kept |
//! | explicit and implicit inputs | inputs, or data dependencies when something builds them |
//! | order-only inputs | order dependencies |
//! | `phony` | a task without a command; without inputs and file, what depends on it always runs |
//! | `pool` | a pool; `console` has no effect |
//! | `depfile` | `dep_file`: the inputs that it names count from the next run on |
//! | `restat` | nothing: equal outputs always end a rebuild |
//! | `generator` | a statement that makes the manifest itself is left out |
//!
//! Not supported, and an error: `dyndep`, validations (`|@`), `deps = msvc`.
//!
//! Syntax and evaluation follow ninja 1.12 (`manifest_parser.cc`, `eval_env.cc`, `graph.cc`).

mod lexer;
mod manifest;
mod translate;

use super::{Files, ImportError, Imported};

/// Reads the manifest at `path`, an absolute path, as a graph of the workspace at `root`.
pub fn import(files: &dyn Files, path: &str, root: &str) -> Result<Imported, ImportError> {
    let manifest = manifest::Manifest::read(files, path)?;
    translate::translate(&manifest, files, path, root)
}
