//! The crates may use one another only as `agent/ARCHITECTURE.md` draws it.

use std::{collections::BTreeSet, fs, path::Path};

/// Crate directory, what of ours it may use, and the outside crates that only it may name.
const LAYERS: [(&str, &[&str], &[&str]); 9] = [
    ("agent/core", &[], &["fastcdc", "jsonc-parser"]),
    ("agent/wan", &["core"], &[]),
    ("proto", &["core"], &["bincode"]),
    ("agent/store", &["core", "proto"], &["sled", "redis", "object_store"]),
    ("agent/transfer", &["core", "proto"], &["quinn", "quinn-proto", "rustls", "zstd", "flate2"]),
    ("agent/mesh", &["core", "proto"], &["libp2p"]),
    ("agent/runner", &["core", "proto"], &["memchr", "landlock", "jobserver"]),
    ("agent/gateway", &["core", "proto"], &["axum", "hyper", "hyper-util"]),
    (
        "agent/node",
        &["core", "proto", "store", "transfer", "mesh", "gateway"],
        &["toml", "metrics", "metrics-exporter-prometheus"],
    ),
];

/// Names under `[dependencies]` of a manifest.
fn dependencies(directory: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{directory}: {error}"));
    text.lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn crates_use_only_what_is_below_them() {
    for (directory, allowed, _) in LAYERS {
        for name in dependencies(directory) {
            if let Some(ours) = name.strip_prefix("netbuild-") {
                assert!(allowed.contains(&ours), "{directory} must not use netbuild-{ours}");
            }
        }
    }
}

#[test]
fn heavy_dependencies_are_named_by_one_crate() {
    for (owner, _, only_here) in LAYERS {
        for name in only_here {
            assert!(dependencies(owner).contains(*name), "{owner} does not use {name} any more");
            for (other, ..) in LAYERS.iter().filter(|(other, ..)| *other != owner) {
                assert!(!dependencies(other).contains(*name), "{other} must not name {name}");
            }
        }
    }
}
