//! A store whose process is killed, whose machine loses its power, or whose system refuses: what was
//! acknowledged is there, nothing wrong is served, and it goes on by itself.
//!
//! The environment says how much is tried: `NETBUILD_KILLS`, `NETBUILD_CUTS`, `NETBUILD_FAULTS` are numbers of
//! kills, of cuts of the power, and of places where an operation fails for each kind of failure;
//! `NETBUILD_SEED` is where the random choices begin, which each test prints.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]
#![expect(clippy::print_stdout, reason = "seeds and figures are told")]

#[expect(dead_code, reason = "other tests take more of it")]
#[path = "../common/mod.rs"]
mod common;

mod child;
mod faults;
mod full;
mod kill;
mod power;
mod script;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// A number from the environment.
fn asked(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Where the random choices begin.
fn seed() -> u64 {
    let seed = asked("NETBUILD_SEED", 1);
    println!("NETBUILD_SEED={seed}");
    seed
}

/// The library that fails or records the file operations of a process.
fn interposer() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/interpose.c");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let library = target.join("libinterpose.so");
        // Other processes may be making it too.
        let own = target.join(format!("libinterpose-{}.so", std::process::id()));
        let mut compiler = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&own).arg(source).arg("-ldl");
        assert!(compiler.status().expect("a C compiler, `cc` or CC").success());
        std::fs::rename(own, &library).unwrap();
        library
    })
}
