//! Files that describe graphs, nearly right: whatever comes, there is a graph or an error, never a
//! panic, and an error tells where.
//!
//! Valid files are changed at random, by bytes and by pieces that mean something in them.
//! `NETBUILD_FUZZ_CASES` sets how many inputs each format gets, `NETBUILD_FUZZ_SEED` where they begin;
//! a failure tells the seed and the input.

#![expect(clippy::print_stdout, reason = "the seed is told, to try again with it")]

use netbuild_core::{
    graph::{self, Graph},
    import::{Files, ImportError, Imported, Kind, ninja, turbo},
};
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{SystemTime, UNIX_EPOCH},
};

/// Inputs for each format when nobody asks for more: a second or two.
const CASES: u64 = 2_000;
/// Most bytes of an input.
const MAX_INPUT: usize = 16 * 1024;

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Changes valid files and reads them; `pieces` mean something in the format.
fn attack(name: &str, valid: &[&str], pieces: &[&str], read: impl Fn(&[u8])) {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = number("NETBUILD_FUZZ_SEED").unwrap_or(clock.as_nanos() as u64);
    let cases = number("NETBUILD_FUZZ_CASES").unwrap_or(CASES);
    println!("{name}: NETBUILD_FUZZ_SEED={seed} NETBUILD_FUZZ_CASES={cases}");
    let mut random = Random(seed);
    for case in 0..cases {
        let mut input = valid[random.below(valid.len())].as_bytes().to_vec();
        for _ in 0..1 + random.below(5) {
            change(&mut random, &mut input, valid, pieces);
        }
        input.truncate(MAX_INPUT);
        if catch_unwind(AssertUnwindSafe(|| read(&input))).is_err() {
            let text = String::from_utf8_lossy(&input);
            panic!("{name}: seed {seed}, case {case}: {text:?}");
        }
    }
}

fn change(random: &mut Random, input: &mut Vec<u8>, valid: &[&str], pieces: &[&str]) {
    let at = random.below(input.len() + 1);
    let end = (at + random.below(24)).min(input.len());
    match random.below(8) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next() as u8,
        2 => drop(input.drain(at..end)),
        3 => {
            let part = input[at..end].to_vec();
            input.splice(at..at, part.iter().copied().cycle().take(part.len() * 40));
        }
        4 => {
            let other = valid[random.below(valid.len())].as_bytes();
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        5 => {
            let deep = ["[", "{\"a\":", "${", "$\n", "{", "!", "../"][random.below(7)];
            input.splice(at..at, deep.bytes().cycle().take(deep.len() * (1 + random.below(200))));
        }
        _ => drop(input.splice(at..end, pieces[random.below(pieces.len())].bytes())),
    }
}

/// What is promised of a graph that was accepted.
fn check(graph: &Graph) {
    let order = graph.closure(graph.default_targets());
    assert!(order.len() <= graph.tasks().len());
    for (id, task) in graph.iter() {
        assert_eq!(graph.find(&task.name).ok(), Some(id));
        assert!(task.deps.iter().all(|dep| dep.task != id), "{} needs itself", task.name);
    }
}

#[test]
fn any_graph_file_is_a_graph_or_an_error_with_its_place() {
    let full = r#"{ "$schema": "s", "version": "1", // a comment
        "groups": { "src": ["src/**", "!src/x"] }, "pools": { "link": 1 }, "inputs": ["all"],
        "tools": { "cc": { "version": ["cc", "-v"] }, "v": { "value": "1" }, "p": { "path": "sh" } },
        "defaults": { "env": { "A": "1" }, "tools": ["cc"], "timeout": "90s", "retries": 2 },
        "cache": { "namespace": "n", "salt": "s" }, "default": ["b"],
        "tasks": {
          "a": { "command": "cc a.c \u0041\n", "inputs": ["@src", "a.c"], "outputs": ["out/a", "d/"], "weight": 2 },
          "b": { "command": ["x", "y"], "deps": ["a", { "task": "s", "kind": "order" }], "pool": "link",
                 "outputs": [{ "path": "o/*.x", "optional": true }], "pass_env": ["GO*"], "secret_env": ["T"],
                 "platforms": ["linux/x86_64"], "platform_key": "any", "cache": "local", "log": "errors",
                 "dep_file": { "path": "b.d", "format": "gcc" }, "working_dir": "w", "key_salt": "k" },
          "s": { "command": "serve", "persistent": { "ready_when": { "port": 80 }, "timeout": "1s" } } } }"#;
    let old = r#"{ "version": "1", "graphs": { "a": { "command": ["true"], "graphs": { "n": { "command": "x" } } },
        "b": { "graphs": ["a"], "retry": { "max_attempts": 3, "on": ["exit"] }, "runner": "sh" } } }"#;
    let pieces = [
        "\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "//",
        "/*",
        "*/",
        "null",
        "true",
        "-1",
        "1e999",
        "\"tasks\"",
        "\"graphs\"",
        "\"deps\": [\"a\"]",
        "\"command\": \"x\"",
        "\"outputs\": [\"a\"]",
        "\"inputs\": [\"**\"]",
        "\"..\"",
        "\"/abs\"",
        "\"@src\"",
        "{a,b}",
        "[a-",
        "**",
        "\\u0000",
        "\\ud800",
        "\u{feff}",
        "\0",
        "\u{202e}",
        "\"a\": {}",
        "99999999999999999999",
        "\\\\",
    ];
    attack("graph.json", &[full, old], &pieces, |input| {
        match graph::load(input) {
            Ok(graph) => {
                check(&graph);
                let text = std::str::from_utf8(input).expect("what was loaded is text");
                let formatted = graph::format(text).expect("what was loaded is laid out");
                let again = graph::load(formatted.as_bytes()).expect("and is a graph still");
                assert_eq!(again.tasks().len(), graph.tasks().len());
            }
            Err(problems) => {
                let found = problems.as_slice();
                assert!(!found.is_empty());
                assert!(found.iter().all(|p| p.line > 0 && p.column > 0), "{found:?}");
            }
        }
        if let Ok(text) = std::str::from_utf8(input) {
            drop(graph::format(text));
        }
    });
}

/// One file whose content is being fuzzed beside others that are fine.
struct Memory<'a>(BTreeMap<&'a str, &'a [u8]>);

impl Files for Memory<'_> {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        self.0.get(path).map(|bytes| bytes.to_vec()).ok_or_else(|| "does not exist".to_owned())
    }

    fn kind(&self, path: &str) -> Kind {
        let below = format!("{path}/");
        match self.0.get(path) {
            Some(_) => Kind::File,
            None if self.0.keys().any(|file| file.starts_with(&below)) => Kind::Directory,
            None => Kind::Missing,
        }
    }

    fn list(&self, path: &str) -> Vec<String> {
        let below = self.0.keys().filter_map(|file| file.strip_prefix(path)?.strip_prefix('/'));
        let mut names: Vec<_> =
            below.filter_map(|rest| rest.split('/').next()).map(str::to_owned).collect();
        names.dedup();
        names
    }
}

fn check_import(imported: Result<Imported, ImportError>) {
    match imported {
        Ok(imported) => check(&imported.graph),
        Err(error) => assert!(!error.message.is_empty() && !error.file.is_empty(), "{error:?}"),
    }
}

#[test]
fn any_manifest_of_ninja_is_a_graph_or_an_error_with_its_place() {
    let manifest = "ninja_required_version = 1.5\nflags = -O2 $\n  -g\npool link\n  depth = 2\n\
        rule cc\n  command = gcc $flags -MD -MF $out.d -c $in -o ${out}\n  depfile = $out.d\n  deps = gcc\n\
        rule ld\n  command = gcc @$out.rsp -o $out\n  rspfile = $out.rsp\n  rspfile_content = $in\n  pool = link\n\
        build a.o | a.x: cc a.c | a.h || gen\n  flags = -O0\nbuild gen: phony b$ c$:d\n\
        build app: ld a.o\nbuild all: phony app\ndefault all\ninclude other.ninja\nsubninja other.ninja\n";
    let pieces = [
        "\n",
        " ",
        "  ",
        "$",
        "$$",
        "${",
        "}",
        "$\n",
        ":",
        "|",
        "||",
        "|@",
        "=",
        "build ",
        "rule ",
        "pool ",
        "default ",
        "include build.ninja\n",
        "subninja build.ninja\n",
        "phony",
        "in",
        "out",
        "command = $command",
        "dyndep = x",
        "deps = msvc",
        "depth = -1",
        "\t",
        "\r\n",
        "\0",
        "../../..",
        "/abs",
        "\u{e9}",
        "x = $x$x\n",
        "build a.o: cc a.o\n",
        "*",
    ];
    attack("build.ninja", &[manifest], &pieces, |input| {
        let other: &[u8] = b"x = 1\nrule other\n  command = echo $x\nbuild o$x: other\n";
        let files = Memory(
            [
                ("/w/build/build.ninja", input),
                ("/w/build/other.ninja", other),
                ("/w/build/a.c", b""),
            ]
            .into(),
        );
        check_import(ninja::import(&files, "/w/build/build.ninja", "/w"));
    });
}

#[test]
fn any_workspace_of_turbo_is_a_graph_or_an_error_with_its_place() {
    let pipeline = r#"{ "$schema": "s", "globalEnv": ["CI"], "globalDependencies": ["tsconfig.json"],
        "tasks": { "build": { "dependsOn": ["^build", "gen"], "outputs": ["dist/**", "!dist/x"],
          "inputs": ["$TURBO_DEFAULT$", "src/**"], "env": ["NODE_*"], "passThroughEnv": ["T"], "cache": true },
        "gen": {}, "dev": { "cache": false, "persistent": true }, "web#build": { "dependsOn": ["lib#gen"] } } }"#;
    let package = r#"{ "name": "web", "scripts": { "build": "tsc", "gen": "echo", "dev": "serve" },
        "dependencies": { "lib": "workspace:*" }, "workspaces": ["packages/*"] }"#;
    let pieces = [
        "\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "null",
        "true",
        "-1",
        "\"dependsOn\"",
        "\"^build\"",
        "\"web#build\"",
        "\"#\"",
        "\"^\"",
        "\"outputs\"",
        "\"pipeline\"",
        "\"tasks\"",
        "\"extends\": [\"//\"]",
        "\"$TURBO_ROOT$/x\"",
        "\"..\"",
        "\"/\"",
        "\"!\"",
        "\"**\"",
        "\\u0000",
        "\0",
        "\"scripts\": []",
        "\"workspaces\": [\"**\"]",
        "\"name\": 1",
    ];
    // In turn the pipeline is damaged, and a package.
    attack("turbo.json", &[pipeline, package], &pieces, |input| {
        for path in ["/w/turbo.json", "/w/packages/web/package.json", "/w/packages/web/turbo.json"]
        {
            let root = br#"{ "name": "root", "workspaces": ["packages/*"] }"#;
            let mut files = Memory(
                [
                    ("/w/turbo.json", pipeline.as_bytes()),
                    ("/w/package.json", root.as_slice()),
                    ("/w/packages/web/package.json", package.as_bytes()),
                    (
                        "/w/packages/lib/package.json",
                        br#"{ "name": "lib", "scripts": { "gen": "x" } }"#.as_slice(),
                    ),
                ]
                .into(),
            );
            files.0.insert(path, input);
            check_import(turbo::import(&files, "/w/turbo.json"));
        }
    });
}
