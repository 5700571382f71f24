//! Graph files as people write them: what loads, and what is said about what does not.

use netbuild_core::{
    graph::{
        CachePolicy, DependencyKind, Graph, InputPattern, LogPolicy, PlatformKey, Problem,
        Problems, SandboxWish, Severity, ToolSource, load,
    },
    key::OutputShape,
    record::Sandbox,
};
use proptest::prelude::*;
use std::time::Duration;

#[path = "graph/schema.rs"]
mod schema;

/// Longest text that is also held against the schema.
const VALIDATED: usize = 100_000;

fn good(text: &str) -> Graph {
    if text.len() < VALIDATED {
        schema::accepts(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    }
    load(text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn bad(text: impl AsRef<[u8]>) -> Problems {
    match load(text.as_ref()) {
        Ok(graph) => panic!("{} tasks loaded", graph.tasks().len()),
        Err(problems) => problems,
    }
}

fn codes(problems: &Problems) -> Vec<&str> {
    problems.as_slice().iter().map(|p| p.code).collect()
}

/// A file that has `task` as its only task `a`, after 19 characters of one line.
fn one(task: &str) -> String {
    format!(r#"{{"tasks":{{   "a":{task}}}}}"#)
}

#[test]
fn every_mistake_has_its_code_place_and_hint() {
    // The text; code, line and column; a part of the message; a part of the hint.
    let table: &[(&str, &str, u32, u32, &str, &str)] = &[
        ("", "G001", 1, 1, "empty", ""),
        ("{\"tasks\": {\n  \"a\" 1}}", "G001", 2, 7, "colon", ""),
        ("{\"tasks\":{'a':{}}}", "G001", 1, 11, "", ""),
        ("[]", "G032", 1, 1, "must be an object, not an array", ""),
        ("{}", "G006", 1, 1, "without `tasks`", ""),
        (
            "{\"tasks\":{},\n\"taks\":1}",
            "G002",
            2,
            1,
            "unknown field `taks` of the graph",
            "`tasks`",
        ),
        ("{\"graphs\":{}}", "G003", 1, 1, "without `version`", "\"version\": \"1\""),
        ("{\"version\":\"2\",\"tasks\":{}}", "G003", 1, 12, "unknown version", "\"1\""),
        ("{\"tasks\":{},\"graphs\":{},\"version\":1}", "G027", 1, 13, "both", "keep `tasks`"),
        ("{\"tasks\":{},\"pools\":{\"jobs\":1}}", "G018", 1, 22, "cannot be the name", "--jobs"),
        ("{\"tasks\":{},\"pools\":{\"p\":0}}", "G018", 1, 26, "from 1 to 4096, not `0`", ""),
        ("{\"tasks\":{},\"default\":\"x\"}", "G007", 1, 23, "`default` names `x`", ""),
        (
            "{\"tasks\":{\"a\":{\"command\":\"x\"},\n\"a\":{\"command\":\"y\"}}}",
            "G004",
            2,
            1,
            "duplicate key `a`",
            "",
        ),
        (
            "{\"tasks\":{\"a b\":{\"command\":\"x\"}}}",
            "G005",
            1,
            11,
            "bad task name `a b`",
            "letter",
        ),
        ("{\"tasks\":{\"\":{\"command\":\"x\"}}}", "G005", 1, 11, "bad task name", ""),
        ("{\"tasks\":{\"a\":{}}}", "G006", 1, 11, "`a` has neither command nor deps", ""),
        ("{\"tasks\":{\"a\":{\"comand\":\"x\",\"deps\":[]}}}", "G006", 1, 11, "", ""),
        (
            "{\"tasks\":{\"build\":{\"command\":\"x\"},\n\"a\":{\"deps\":[\"biuld\"]}}}",
            "G007",
            2,
            14,
            "`a` names `biuld`",
            "did you mean `build`?",
        ),
        (
            "{\"tasks\":{\"a\":{\"command\":\"x\",\"deps\":[\"a\"]}}}",
            "G008",
            1,
            38,
            "depends on itself",
            "",
        ),
        (
            "{\"tasks\":{\"a\":{\"deps\":[\"b\"]},\n\"b\":{\"deps\":[\"c\"]},\n\"c\":{\"deps\":[\"a\"]}}}",
            "G009",
            1,
            24,
            "cycle: a -> b -> c -> a",
            "remove",
        ),
    ];
    for (text, code, line, column, message, hint) in table {
        let problems = bad(text);
        let found = problems.as_slice().iter().find(|p| p.code == *code);
        let problem = found.unwrap_or_else(|| panic!("{text}\n{problems}"));
        assert_eq!((problem.line, problem.column), (*line, *column), "{problem}");
        assert!(problem.message.contains(message), "{problem}");
        let got = problem.hint.as_deref().unwrap_or_default();
        assert!(got.contains(hint), "{problem}");
    }
}

#[test]
fn every_mistake_in_a_task_has_its_code_and_hint() {
    // The task; the code; a part of the message; a part of the hint. `|` stands for the place.
    let table = [
        (r#"{|"comand":"x","command":"x"}"#, "G002", "`comand` of a task", "`command`"),
        (r#"{"command":|1}"#, "G032", "`command` must be a string or an array", ""),
        (r#"{"command":|""}"#, "G024", "an empty command", ""),
        (r#"{"command":|[]}"#, "G024", "an empty command", ""),
        (r#"{"command":|[" ","x"]}"#, "G024", "an empty command", ""),
        (r#"{"command":|"a\u0000b"}"#, "G024", "NUL", ""),
        (r#"{"command":["x",|1]}"#, "G032", "must be a string, not a number", ""),
        (r#"{"shell":"none","command":|"x"}"#, "G024", "needs a shell", "array"),
        (r#"{"command":"x","shell":|"basch"}"#, "G032", "`shell` must be", "`bash`"),
        (r#"{"command":"x","deps":|"b"}"#, "G032", "`deps` must be an array, not `b`", ""),
        (r#"{"command":"x","deps":[|{"kind":"data"}]}"#, "G032", "without `task`", ""),
        (r#"{"command":"x","working_dir":|"/tmp"}"#, "G010", "`/tmp` is absolute", "relative"),
        (r#"{"command":"x","working_dir":"a",|"cwd":"b"}"#, "G004", "other name", "working_dir"),
        (r#"{"command":"x","inputs":[|"../x"]}"#, "G010", "`../x` leaves the workspace", ""),
        (r#"{"command":"x","inputs":[|"a\\b"]}"#, "G010", "backslash", "`/`"),
        (r#"{"command":"x","inputs":[|"C:/x"]}"#, "G010", "absolute", ""),
        (r#"{"command":"x","inputs":[|""]}"#, "G010", "empty path", ""),
        (r#"{"command":"x","inputs":[|"a\u0000"]}"#, "G022", "NUL", ""),
        (r#"{"command":"x","inputs":[|"a[b"]}"#, "G015", "unclosed `[` at byte 1 of `a[b`", ""),
        (r#"{"command":"x","inputs":[|"src/**.c"]}"#, "G015", "alone between slashes", ""),
        (r#"{"command":"x","inputs":[|"@go"]}"#, "G033", "unknown group `@go`", "groups"),
        (r#"{"command":"x","inputs":[|"!@go"]}"#, "G033", "where a group cannot stand", "./@"),
        (r#"{"command":"x","outputs":[|"a/../../b"]}"#, "G010", "leaves the workspace", ""),
        (r#"{"command":"x","outputs":[|"!a"]}"#, "G015", "removes from nothing", ""),
        (r#"{"command":"x","outputs":[|"gen-*/"]}"#, "G015", "ends in `/`", "`gen-*/**`"),
        (r#"{"command":"x","outputs":[|{"optional":true}]}"#, "G032", "without `path`", ""),
        (r#"{"command":"x","outputs":[|"./"]}"#, "G012", "whole workspace", ""),
        (r#"{"command":"x","outputs":[|"a/.."]}"#, "G012", "whole workspace", ""),
        (r#"{"command":"x","outputs":[|".git/x"]}"#, "G012", ".git", ""),
        (r#"{"command":"x","outputs":[|".Netbuild/"]}"#, "G012", ".netbuild", ""),
        (r#"{"command":"x","outputs":[|"*.json"]}"#, "G012", "graph file", ""),
        (r#"{"command":"x","outputs":["o",|"o"]}"#, "G011", "declared already", ""),
        (r#"{"command":"x","outputs":["o/",|"o/p"]}"#, "G011", "declared already", ""),
        (r#"{"command":"x","outputs":["Out/a",|"out/a"]}"#, "G021", "only in case", "macOS"),
        (
            r#"{"command":"x","inputs":[|"**"],"outputs":["o/"]}"#,
            "G013",
            "its own output `o`",
            "\"!o\"",
        ),
        (r#"{"command":"x","inputs":[|"o/a"],"outputs":["o/"]}"#, "G013", "its own output", ""),
        (r#"{"command":"x","inputs":[|"o/*"],"outputs":["o/*.x"]}"#, "G013", "its own output", ""),
        (r#"{"command":"x","env":{|"":"x"}}"#, "G016", "not the name of a variable", ""),
        (r#"{"command":"x","env":{|"A=B":"x"}}"#, "G016", "`A=B`", ""),
        (r#"{"command":"x","env":{"A":|1}}"#, "G032", "`A` must be a string", ""),
        (r#"{"command":"x","pass_env":[|"*"]}"#, "G016", "every variable", "GO*"),
        (r#"{"command":"x","secret_env":[|"A_*"]}"#, "G016", "`A_*`", ""),
        (r#"{"command":"x","env":{|"A":"x"},"pass_env":["A"]}"#, "G016", "`pass_env`", ""),
        (r#"{"command":"x","pass_env":[|"A"],"secret_env":["A"]}"#, "G016", "`secret_env`", ""),
        (r#"{"command":"x","timeout":|"soon"}"#, "G017", "not a time", "1h30m"),
        (r#"{"command":"x","timeout":|0}"#, "G017", "from 1 ms to 7 days", ""),
        (r#"{"command":"x","timeout":|-1}"#, "G017", "not a time", ""),
        (r#"{"command":"x","timeout":|1e300}"#, "G017", "not a time", ""),
        (r#"{"command":"x","timeout":|"8d"}"#, "G017", "7 days", ""),
        (r#"{"command":"x","retries":|1.5}"#, "G017", "from 0 to 99, not `1.5`", ""),
        (r#"{"command":"x","retry":{"max_attempts":|101}}"#, "G017", "from 0 to 100", ""),
        (
            r#"{"command":"x","retry":{|"max_attempt":1}}"#,
            "G002",
            "`max_attempt` of a retry",
            "max_attempts",
        ),
        (r#"{"command":"x","retry":{"backoff_multiplier":|0.5}}"#, "G017", "from 1 to 1000", ""),
        (r#"{"command":"x","platforms":[|"linus"]}"#, "G020", "platform `linus`", "`linux`"),
        (r#"{"command":"x","platforms":[|"linux/z80"]}"#, "G020", "architecture `z80`", "one of"),
        (r#"{"command":"x","platform_key":|"os"}"#, "G032", "\"os-arch\" or", ""),
        (r#"{"command":"x","cache":|"remote"}"#, "G032", "`cache` must be", ""),
        (r#"{"command":"x","clean":|"no"}"#, "G032", "true or false", ""),
        (r#"{"command":"x","runner":|"docker"}"#, "G028", "`docker`", "shell"),
        (r#"{"command":"x","log":|"all"}"#, "G032", "`log` must be", ""),
        (r#"{"command":"x","priority":|99999999999}"#, "G032", "whole number", ""),
        (r#"{"command":"x","tools":[|"../x"]}"#, "G010", "leaves the workspace", ""),
        (r#"{"command":"x",|"cache_failures":true}"#, "G031", "is not supported yet", ""),
        (r#"{"command":"x","network":|"off"}"#, "G032", "true or false", ""),
        (r#"{"command":"x","sandbox":|"jail"}"#, "G032", "\"audit\"", ""),
        (r#"{"command":"x","sandbox":|{"fallback":true}}"#, "G032", "without `level`", ""),
        (r#"{"command":"x","sandbox":{"level":"ns",|"levle":"ns"}}"#, "G002", "`levle`", "`level`"),
        (r#"{"command":"x","sandbox":|"ns","persistent":true}"#, "G031", "tasks that end", ""),
        (r#"{"command":"x","sandbox":|"loose","persistent":true}"#, "G031", "run at \"env\"", ""),
        (r#"{"command":"x","sandbox":|"audit","interactive":true}"#, "G031", "has no terminal", ""),
        (r#"{"command":"x","sandbox":|"ns","interactive":true}"#, "G031", "\"env\" or", ""),
        (r#"{"command":"x","cache":true,|"interactive":true}"#, "G034", "is cached", "leave"),
        (r#"{"command":"x",|"interactive":true,"persistent":true}"#, "G034", "is persistent", ""),
        (
            r#"{"command":"x","sandbox":|"stage","inputs":[],"dep_file":"d"}"#,
            "G031",
            "a dep file names some only afterwards",
            "",
        ),
        (r#"{"graphs":{|"b c":{"command":"x"}}}"#, "G005", "`a:b c`", ""),
    ];
    for (task, code, message, hint) in table {
        let text = one(task);
        let column = text.find('|').unwrap() as u32 + 1;
        let problems = bad(text.replacen('|', "", 1));
        let found: Vec<_> = problems.as_slice().iter().filter(|p| p.code == code).collect();
        let [problem] = found[..] else {
            panic!("{text}\n{problems}");
        };
        assert_eq!((problem.line, problem.column), (1, column), "{problem}");
        assert!(problem.message.contains(message), "{problem}");
        let got = problem.hint.as_deref().unwrap_or_default();
        assert!(got.contains(hint), "{problem}");
        assert_eq!(problems.as_slice().len(), 1, "{text}\n{problems}");
    }
}

#[test]
fn pools_and_services_are_checked() {
    // As above; the task `s` is a service, and `p` is a pool.
    let table = [
        (r#"{"command":"x","pool":|"q"}"#, "G018", "no pool `q`", "did you mean `p`?"),
        (r#"{"command":"x","weight":|0}"#, "G017", "from 1 to 4096", ""),
        (r#"{"command":"x",|"persistent":true,"outputs":["o"]}"#, "G019", "has outputs", ""),
        (r#"{"command":"x",|"persistent":{},"cache":true}"#, "G019", "is cached", "before it"),
        (r#"{|"persistent":true,"deps":["t"]}"#, "G019", "has no command", ""),
        (r#"{"command":"x","deps":[|"s"]}"#, "G019", "the data of `s`", r#""kind": "order""#),
        (r#"{"command":"x","persistent":|1}"#, "G032", "`persistent` must be", ""),
        (r#"{"command":"x","persistent":{|"x":1}}"#, "G002", "`persistent`", ""),
        (r#"{"command":"x","pool":"p",|"interactive":true}"#, "G034", "is in a pool", "terminal"),
        (r#"{|"interactive":true,"deps":["t"]}"#, "G034", "has no command", ""),
        (r#"{"command":"x","persistent":{"ready_when":|{}}}"#, "G032", "has one of", ""),
        (
            r#"{"command":"x","persistent":{"ready_when":{"port":|0}}}"#,
            "G017",
            "from 1 to 65535",
            "",
        ),
        (r#"{"command":"x","persistent":{"ready_when":{"line":|""}}}"#, "G032", "one line", ""),
        (r#"{"command":"x","persistent":{"ready_when":{"cmd":|[]}}}"#, "G024", "empty", ""),
        (r#"{"command":"x","persistent":{"ready_when":{"cmd":|" "}}}"#, "G024", "empty", ""),
        (r#"{"command":"x","persistent":{"timeout":|0}}"#, "G017", "from 1 ms", ""),
        (r#"{"command":"x","dep_file":|"../d"}"#, "G010", "leaves the workspace", ""),
        (r#"{"command":"x","dep_file":{"path":"d","format":|"msvc"}}"#, "G032", "format", ""),
        (r#"{"command":"x","dep_file":|{"format":"gcc"}}"#, "G032", "without `path`", ""),
    ];
    for (task, code, message, hint) in table {
        let text = format!(
            r#"{{"pools":{{"p":2}},"tasks":{{"t":{{"command":"x"}},"s":{{"command":"x","persistent":true}},"a":{task}}}}}"#
        );
        let at = text.find('|').unwrap();
        let problems = bad(text.replace('|', ""));
        let others = problems.as_slice().iter().filter(|p| p.code != "G031");
        let [problem] = others.collect::<Vec<_>>()[..] else { panic!("{text}\n{problems}") };
        assert_eq!((problem.code, problem.column as usize), (code, at + 1), "{problem}");
        assert!(problem.message.contains(message), "{problem}");
        assert!(problem.hint.as_deref().unwrap_or_default().contains(hint), "{problem}");
    }
}

#[test]
fn the_schema_refuses_what_a_schema_can_see() {
    for task in [
        r#"{}"#,
        r#"{"deps":[]}"#,
        r#"{"comand":"x","command":"x"}"#,
        r#"{"command":1}"#,
        r#"{"command":""}"#,
        r#"{"command":[]}"#,
        r#"{"command":[" "]}"#,
        r#"{"command":"a\u0000b"}"#,
        r#"{"command":["x",1]}"#,
        r#"{"command":"x","shell":"basch"}"#,
        r#"{"command":"x","deps":"b"}"#,
        r#"{"command":"x","deps":[{"kind":"data"}]}"#,
        r#"{"command":"x","working_dir":"/tmp"}"#,
        r#"{"command":"x","working_dir":"a","cwd":"a"}"#,
        r#"{"command":"x","retry":1,"retries":1}"#,
        r#"{"command":"x","inputs":["C:/x"]}"#,
        r#"{"command":"x","inputs":["a\\b"]}"#,
        r#"{"command":"x","inputs":[""]}"#,
        r#"{"command":"x","outputs":["!a"]}"#,
        r#"{"command":"x","outputs":[{"optional":true}]}"#,
        r#"{"command":"x","env":{"A=B":"1"}}"#,
        r#"{"command":"x","pass_env":["*"]}"#,
        r#"{"command":"x","secret_env":["A*"]}"#,
        r#"{"command":"x","timeout":"x"}"#,
        r#"{"command":"x","timeout":0}"#,
        r#"{"command":"x","retries":100}"#,
        r#"{"command":"x","platforms":["beos"]}"#,
        r#"{"command":"x","cache":"never"}"#,
        r#"{"command":"x","weight":0}"#,
        r#"{"command":"x","persistent":{"ready_when":{}}}"#,
        r#"{"command":"x","dep_file":{"path":"d","format":"msvc"}}"#,
        r#"{"command":"x","runner":"docker"}"#,
        r#"{"command":"x","priority":1.5}"#,
    ] {
        let text = one(task);
        bad(&text);
        assert!(schema::accepts(&text).is_err(), "{task}");
    }
    for text in [
        "[]",
        "{}",
        r#"{"graphs":{}}"#,
        r#"{"version":"2","tasks":{}}"#,
        r#"{"tasks":{},"graphs":{},"version":1}"#,
        r#"{"tasks":{},"pools":{"jobs":1}}"#,
        r#"{"tasks":{},"pools":{"p":0}}"#,
        r#"{"tasks":{},"taks":1}"#,
        r#"{"tasks":{"a b":{"command":"x"}}}"#,
        r#"{"tasks":{},"defaults":{"command":"x"}}"#,
        r#"{"tasks":{},"tools":{"t":{"path":"a","value":"b"}}}"#,
        r#"{"tasks":{},"cache":{"salts":"x"}}"#,
    ] {
        bad(text);
        assert!(schema::accepts(text).is_err(), "{text}");
    }
}

#[test]
fn the_example_of_the_repository_loads_and_is_in_its_one_layout() {
    let text = include_str!("../../../graph.json");
    let graph = good(text);
    let again = good(&graph.to_json());
    assert_eq!(again.to_json(), graph.to_json());
}

#[test]
fn a_graph_is_written_as_it_was_read() {
    let graph = good(
        r#"{"version": "1", "default": "t", "cache": {"namespace": "n", "salt": "s"}, "parallelism": {"max_parallel": 3},
        "tools": {"go": {"version": ["go", "version"]}, "k": {"value": "1\n"}},
        "tasks": {"d": {"command": ["./x", "a b\u0001\"\\"], "outputs": ["lib/"]}, "o": {"command": "o"},
        "t": {"command": "x", "deps": ["d", {"task": "o", "kind": "order"}], "inputs": ["a/**", "!b/", "./@c"],
        "outputs": ["o", {"path": "p/*.x", "optional": true}], "env": {"A": "1"}, "pass_env": ["B*"], "secret_env": ["C"],
        "tools": ["go", "k", "./y"], "platforms": ["linux/arm64"], "platform_key": "any", "cache": "complete", "clean": false,
        "timeout": 1.5, "retries": {"max_attempts": 3, "on": ["exit"]}, "key_salt": "z", "description": "d", "log": "errors",
        "priority": -2, "dep_file": "o.d", "working_dir": "w", "shell": "bash"}}}"#,
    );
    let text = graph.to_json();
    let again = good(&text);
    assert_eq!(format!("{:?}", again.tasks()), format!("{:?}", graph.tasks()));
    assert_eq!(again.to_json(), text);
    assert_eq!(
        (again.namespace(), again.salt(), again.max_parallel()),
        (Some("n"), Some("s"), Some(3))
    );
    assert_eq!(again.default_targets(), graph.default_targets());
}

#[test]
fn tasks_do_not_share_outputs() {
    for (a, b) in [
        (r#""o""#, r#""./o""#),
        (r#""o/""#, r#""o/p""#),
        (r#""o/p/q""#, r#""o""#),
        (r#""o/*.x""#, r#""o/a.x""#),
        (r#""o/a.x""#, r#""o/*.x""#),
        (r#""o/*.x""#, r#""o/*.x""#),
        (r#""o/""#, r#""o/*.x""#),
        (r#""o/**""#, r#""o/p/""#),
    ] {
        let text = format!(
            r#"{{"tasks":{{"a":{{"command":"x","outputs":[{a}]}},
            "b":{{"command":"x","outputs":[{b}]}}}}}}"#
        );
        let problems = bad(&text);
        let [problem] = problems.as_slice() else {
            panic!("{a} {b} {problems}");
        };
        assert_eq!((problem.code, problem.line), ("G011", 2), "{problem}");
        assert_eq!(problem.pointer, "/tasks/b/outputs/0");
    }
    let near = r#"{"tasks":{"a":{"command":"x","outputs":["o","op","o-p/","q/*.x"]},
        "b":{"command":"x","outputs":["o.d/","o-","q/*.y","q/a.y2"]}}}"#;
    good(near);
}

#[test]
fn an_input_that_is_made_needs_a_dependency() {
    let graph = |inputs: &str, outputs: &str, deps: &str| {
        format!(
            r#"{{"tasks":{{"make":{{"command":"x","inputs":[],"outputs":[{outputs}]}},
            "mid":{{"command":"x","deps":["make"]}},
            "use":{{"command":"x","inputs":[{inputs}],"deps":[{deps}]}}}}}}"#
        )
    };
    for (inputs, outputs) in [
        (r#""gen/a""#, r#""gen/a""#),
        (r#""gen/a""#, r#""gen/""#),
        (r#""gen/*.c""#, r#""gen/""#),
        (r#""**""#, r#""gen/x/""#),
        (r#""gen/a.c""#, r#""gen/*.c""#),
        (r#""gen/""#, r#""gen/x/*.c""#),
        (r#""**/*.c""#, r#""gen/a.c""#),
        (r#""!gen/**","gen/a""#, r#""gen/a""#),
    ] {
        let problems = bad(graph(inputs, outputs, ""));
        assert_eq!(codes(&problems), ["G014"], "{inputs} {outputs} {problems}");
        let problem = &problems.as_slice()[0];
        assert_eq!(problem.line, 3);
        assert_eq!(problem.hint.as_deref(), Some("add \"make\" to `deps` of `use`"));
        good(&graph(inputs, outputs, r#""make""#));
        good(&graph(inputs, outputs, r#"{"task":"mid","kind":"order"}"#));
    }
    for (inputs, outputs) in [
        (r#""gen/*.c""#, r#""gen/a.h""#),
        (r#""**/*.c""#, r#""gen/""#),
        (r#""**","!gen/**""#, r#""gen/""#),
        (r#""**","!gen/a""#, r#""gen/a""#),
        (r#""generated""#, r#""gen/""#),
    ] {
        good(&graph(inputs, outputs, ""));
    }
}

#[test]
fn two_tasks_that_wait_through_files_are_told_so() {
    let problems = bad(r#"{"tasks":{"a":{"command":"x","inputs":["out/b"],"outputs":["out/a"]},
        "b":{"command":"x","deps":["a"],"outputs":["out/b"]}}}"#);
    assert_eq!(codes(&problems), ["G014"]);
    let hint = problems.as_slice()[0].hint.as_deref();
    assert_eq!(hint, Some("`b` depends on `a`; add \"!out/b\" to the inputs of `a`"));
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_file() {
    let problems = bad(
        "\u{feff}{\r\n  // a comment\r\n  \"tasks\": {\r\n    \"é\": {\"command\": \"x\"}, \"a/b\": {\"deps\": [\"nix\"], \"timeout\": \"x\"},\r\n  },\r\n  \"x\": 1,\r\n}",
    );
    let places: Vec<_> = problems
        .as_slice()
        .iter()
        .map(|p| (p.code, p.line, p.column, p.pointer.as_str()))
        .collect();
    assert_eq!(
        places,
        [
            ("G005", 4, 5, "/tasks/é"),
            ("G007", 4, 45, "/tasks/a~1b/deps/0"),
            ("G017", 4, 64, "/tasks/a~1b/timeout"),
            ("G002", 6, 3, "/x"),
        ]
    );
    let shown = problems.in_file("ci/graph.json").to_string();
    assert!(shown.starts_with("ci/graph.json:4:5: G005 bad task name `é`\n  hint: "), "{shown}");
}

#[test]
fn a_whole_graph_is_read() {
    let graph = good(
        r#"{
        "$schema": "x", "version": 1, "description": "d", "default": ["t"],
        "cache": {"namespace": "n", "salt": "s"}, "parallelism": {"max_parallel": 3},
        "groups": {"go": ["go.{mod,sum}", "pkg/**/*.go", "!pkg/old/"]},
        "tools": {"go": {"version": ["go", "version"]}, "k": {"value": "1"}, "p": {"path": "bin/p"}},
        "inputs": ["graph.lock"],
        "defaults": {"env": {"A": "1", "B": "1"}, "pass_env": ["P", "Q"], "tools": ["go"], "timeout": "10m", "retries": 2, "shell": "bash"},
        "tasks": {
            "dep": {"command": ["./run", "a b"], "outputs": ["lib/"], "cwd": "./sub/"},
            "t": {
                "command": "go build", "inputs": ["@go", "cmd/**"], "deps": ["dep", {"task": "dep", "kind": "order"}],
                "outputs": ["bin/api", {"path": "bin/*.map", "optional": true}],
                "env": {"B": "2", "P": "3"}, "pass_env": ["GO_*"], "secret_env": ["Q"],
                "tools": ["k", "go", "cc", "tools/x", "./y"], "platforms": ["darwin/arm64", "linux"],
                "platform_key": "any", "cache": "local", "clean": false, "timeout": 1.5, "sandbox": {"level": "ns", "fallback": true},
                "network": true,
                "retry": {"max_attempts": 4, "initial_delay_ms": 10, "on": ["timeout"]},
                "key_salt": "k", "description": "x", "runner": "bash", "log": "errors", "priority": -1
            }
        }}"#,
    );
    assert_eq!((graph.namespace(), graph.salt()), (Some("n"), Some("s")));
    assert_eq!(graph.max_parallel(), Some(3));
    assert!(graph.warnings().is_empty());
    let (dep, t) = (graph.find("dep").unwrap(), graph.find("t").unwrap());
    assert_eq!(graph.default_targets(), [t]);
    assert_eq!(graph.closure(&[t]), [dep, t]);
    assert_eq!(graph.find("dpe").unwrap_err().suggestion.as_deref(), Some("dep"));

    let task = &graph[dep];
    assert_eq!(task.command.as_deref().unwrap(), ["./run", "a b"]);
    assert_eq!((task.working_dir.as_str(), task.timeout), ("sub", Some(Duration::from_secs(600))));
    assert_eq!((task.retry.max_attempts, task.clean, task.is_cacheable()), (3, true, true));
    assert_eq!((task.sandbox, task.network), (SandboxWish::default(), None));
    let wish = SandboxWish { level: Sandbox::Ns, fallback: true };
    assert_eq!((graph[t].sandbox, graph[t].network), (wish, Some(true)));
    assert!(task.inputs.is_none());

    let task = &graph[t];
    let command = ["bash", "-euo", "pipefail", "-c", "go build"];
    assert_eq!(task.command.as_deref().unwrap(), command);
    assert_eq!(task.deps.len(), 1);
    assert_eq!(task.deps[0].kind, DependencyKind::Data);
    let inputs = task.inputs.as_deref().unwrap();
    let texts: Vec<_> = inputs.iter().map(|i| i.glob.as_str()).collect();
    assert_eq!(texts, ["go.{mod,sum}", "pkg/**/*.go", "pkg/old/**", "cmd/**", "graph.lock"]);
    for (path, selected) in [("go.mod", true), ("pkg/a.go", true), ("pkg/old/a.go", false)] {
        assert_eq!(InputPattern::select(inputs, path.as_bytes()), selected);
    }
    let outputs: Vec<_> = task.outputs.iter().flatten().collect();
    assert_eq!((outputs[0].shape, outputs[0].optional), (OutputShape::Path, false));
    assert_eq!((outputs[1].shape, outputs[1].optional), (OutputShape::Glob, true));
    let env: Vec<_> = task.env.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(env, ["A=1", "B=2", "P=3"]);
    assert_eq!(task.pass_env.iter().collect::<Vec<_>>(), ["GO_*"]);
    assert_eq!(task.secret_env.iter().collect::<Vec<_>>(), ["Q"]);
    let tools: Vec<_> = task.tools.iter().map(|t| (t.name.as_str(), &t.source)).collect();
    let path = |text: &str| ToolSource::Path(text.to_owned());
    assert_eq!(tools[0].1, &ToolSource::Version(vec!["go".to_owned(), "version".to_owned()]));
    assert_eq!(tools[1], ("k", &ToolSource::Value("1".to_owned())));
    assert_eq!(
        tools[2..],
        [("cc", &path("cc")), ("tools/x", &path("tools/x")), ("./y", &path("./y"))]
    );
    assert!(task.runs_on("macos", "aarch64") && !task.runs_on("macos", "x86_64"));
    assert!(task.runs_on("linux", "riscv64") && !task.runs_on("windows", "x86_64"));
    assert_eq!(task.platform_key, PlatformKey::Any);
    assert_eq!((task.cache, task.log), (CachePolicy::Local, LogPolicy::Errors));
    assert_eq!(task.timeout, Some(Duration::from_millis(1500)));
    assert_eq!((task.retry.max_attempts, task.retry.on.exit), (4, false));
    assert!(task.is_cacheable() && !task.clean);
}

#[test]
fn gaffers_files_load() {
    let graph = good(
        r#"{"version": "1", "parallelism": {"max_parallel": 4, "memory_limit_mb": 512}, "graphs": {
            "detect": {"command": "echo detect", "runner": "shell"},
            "build": {"command": "make", "deps": ["detect"], "working_dir": "src", "env": {"CI": "1"},
                "platforms": ["linux", "darwin"], "description": "d", "inputs": ["src/"], "outputs": ["bin/app"],
                "retry": {"max_attempts": 3, "initial_delay_ms": 1000, "max_delay_ms": 5000, "backoff_multiplier": 2.0}},
            "suite": {"graphs": {"unit": {"command": "u", "deps": ["lint"]}, "lint": {"command": "l"}}},
            "all": {"graphs": ["build", "suite"]}}}"#,
    );
    assert_eq!(graph.max_parallel(), Some(4));
    let [warning] = graph.warnings() else {
        panic!("{:?}", graph.warnings());
    };
    assert_eq!((warning.code, warning.severity), ("G031", Severity::Warning));
    assert_eq!(warning.pointer, "/parallelism/memory_limit_mb");
    let all = graph.find("all").unwrap();
    assert_eq!(graph.default_targets(), [all]);
    let closure = graph.closure(&[all]);
    let names: Vec<_> = closure.iter().map(|t| graph[*t].name.as_str()).collect();
    assert_eq!(names, ["detect", "build", "suite:lint", "suite:unit", "suite", "all"]);
    assert!(graph[graph.find("detect").unwrap()].inputs.is_none());
    good(r#"{"tasks": {"a": {"command": "x"}, "b": {"command": "y", "deps": ["a"]}}}"#);
}

#[test]
fn hostile_sizes_are_refused() {
    let limit = |text: &[u8]| {
        let problems = bad(text);
        assert_eq!(codes(&problems), ["G023"], "{problems}");
    };
    limit("[".repeat(100_000).as_bytes());
    limit("{\"a\":".repeat(100_000).as_bytes());
    limit(format!("{{\"tasks\":{}1{}}}", "[".repeat(70), "]".repeat(70)).as_bytes());
    limit(&vec![b' '; (64 << 20) + 1]);
    limit(format!("[{}0]", "0,".repeat(9 << 20)).as_bytes());
    let braces = format!("\"{}{}", "{0,1}".repeat(8), "x".repeat(3000));
    let patterns: Vec<_> = (0..200).map(|i| format!("{braces}{i}\"")).collect();
    let problems = bad(one(&format!(r#"{{"command":"x","inputs":[{}]}}"#, patterns.join(","))));
    assert!(codes(&problems).iter().all(|code| *code == "G023"));
    let argument = "x".repeat(128 << 10);
    let problems = bad(one(&format!(r#"{{"command":["x","{argument}"]}}"#)));
    assert_eq!(codes(&problems), ["G025"]);
    let variables: Vec<_> = (0..17).map(|i| format!("\"V{i}\":\"{}\"", &argument[9..])).collect();
    let problems = bad(one(&format!(r#"{{"command":"x","env":{{{}}}}}"#, variables.join(","))));
    assert_eq!(codes(&problems), ["G025"]);
}

#[test]
fn bytes_that_are_not_text_are_refused_with_their_place() {
    for text in [&b"{\n\"tasks\":\"\xff\"}"[..], b"{\n\"tasks\":\"\0\"}"] {
        let problems = bad(text);
        let [problem] = problems.as_slice() else {
            panic!("{problems}");
        };
        assert_eq!((problem.code, problem.line, problem.column), ("G022", 2, 10));
    }
}

#[test]
fn of_many_problems_the_first_thousand_are_kept() {
    let fields: Vec<_> = (0..3000).map(|i| format!("\"x{i}\":1")).collect();
    let problems = bad(one(&format!("{{\"command\":\"x\",{}}}", fields.join(","))));
    assert_eq!((problems.as_slice().len(), problems.omitted()), (1000, 2000));
    let is_error = |problem: &Problem| problem.severity == Severity::Error;
    assert!(problems.as_slice().iter().all(is_error));
}

/// Tasks in a row; with `back`, the first one depends on the last.
fn chain(count: usize, back: bool) -> String {
    let mut text = String::from("{\"tasks\":{");
    for i in 0..count {
        let deps = match i {
            0 if back => format!("\"t{}\"", count - 1),
            0 => String::new(),
            _ => format!("\"t{}\"", i - 1),
        };
        let inputs = if i == 0 { String::new() } else { format!("\"out/{}/f\"", i - 1) };
        text.push_str(&format!(
            "\"t{i}\":{{\"command\":\"x\",\"deps\":[{deps}],\"inputs\":[{inputs}],\"outputs\":[\"out/{i}/f\"]}},\n"
        ));
    }
    text.push_str("}}");
    text
}

#[test]
fn a_long_chain_loads() {
    let graph = good(&chain(100_000, false));
    let last = graph.find("t99999").unwrap();
    assert_eq!(graph.default_targets(), [last]);
    assert_eq!(graph.closure(&[last]).len(), 100_000);
}

#[test]
fn a_long_cycle_is_said_once() {
    let problems = bad(chain(10_000, true));
    assert_eq!(codes(&problems), ["G009"]);
    let message = &problems.as_slice()[0].message;
    assert!(message.starts_with("cycle: t0 -> t9999 -> t9998"), "{message}");
    assert!(message.ends_with("-> (9900 more tasks) -> t0"), "{message}");
}

#[test]
fn a_ladder_of_diamonds_is_walked_once() {
    let mut text = String::from("{\"tasks\":{\"t0\":{\"command\":\"x\"},");
    for i in 1..=60 {
        let below = i - 1;
        text.push_str(&format!(
            "\"l{i}\":{{\"deps\":[\"t{below}\"]}},\"r{i}\":{{\"deps\":[\"t{below}\"]}},\"t{i}\":{{\"deps\":[\"l{i}\",\"r{i}\"]}},"
        ));
    }
    text.push_str("}}");
    let graph = good(&text);
    assert_eq!(graph.closure(graph.default_targets()).len(), 181);
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes: Vec<u8>) {
        let _ = load(&bytes);
    }

    #[test]
    fn damaged_files_never_panic(at in 0usize..1000, to: u8, cut in 0usize..1000) {
        let mut bytes = br#"{"version":"1","groups":{"g":["a/**","!b"]},"defaults":{"env":{"A":"1"}},
            "tools":{"t":{"value":"1"}},"cache":{"salt":"s"},"tasks":{"a":{"command":"x","inputs":["@g","{c,d}/[e-f]*"],
            "outputs":["o/",{"path":"p*","optional":true}],"timeout":"1h30m","retry":{"max_attempts":2},
            "platforms":["linux/arm64"],"tools":["t","./x"]},"b":{"deps":["a",{"task":"c","kind":"order"}]},
            "c":{"graphs":{"d":{"command":["y"]}}}}}"#.to_vec();
        let length = bytes.len();
        bytes[at % length] = to;
        bytes.truncate(length - cut % length.min(40));
        if let Err(problems) = load(&bytes) {
            prop_assert!(problems.as_slice().iter().any(|p| p.severity == Severity::Error));
            prop_assert!(!problems.to_string().is_empty());
        }
    }

    #[test]
    fn any_tokens_in_any_order_never_panic(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"tasks\"", "\"a\"", "\"deps\"", "\"command\"", "\"inputs\"",
            "\"outputs\"", "\"**\"", "\"graphs\"", "\"env\"", "1", "null", "true", "//x\n", "/*", "\"retry\"",
        ]), 0..40)
    ) {
        let _ = load(tokens.concat().as_bytes());
        let _ = load(format!("{{\"tasks\":{{\"a\":{}", tokens.concat()).as_bytes());
    }
}
