//! `netbuild graph`, and the files of other tools: what they mean is held against these tools.

use crate::support::{Place, Run, Workspace, netbuild};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

/// What a command prints, which must do well.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).expect("text")
}

fn text_of(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// `netbuild graph` in a workspace.
#[track_caller]
fn graph(workspace: &Workspace, args: &[&str]) -> String {
    output(netbuild().current_dir(&workspace.root).arg("graph").args(args))
}

fn ninja(directory: &Path, args: &[&str]) -> String {
    output(Command::new("ninja").current_dir(directory).args(args))
}

/// The tasks of a manifest by name, as `netbuild graph list` has them.
fn listed(workspace: &Workspace, manifest: &str) -> BTreeMap<String, Value> {
    let tasks = graph(workspace, &["list", "--json", "--graph", manifest]);
    let tasks: Vec<Value> = serde_json::from_str(&tasks).expect("a list");
    tasks.into_iter().map(|task| (text_of(&task["name"]), task)).collect()
}

/// Holds the tasks of a manifest against what ninja says of it: commands, and who waits for whom.
fn compare_with_ninja(workspace: &Workspace, build: &str) {
    let directory = workspace.root.join(build);
    let tasks = listed(workspace, &format!("{build}/build.ninja"));
    let command = |task: &Value| task["command"][2].as_str().map(str::to_owned);
    let ours: BTreeSet<String> = tasks.values().filter_map(command).collect();
    let all = ninja(&directory, &["-t", "targets", "all"]);
    let rule_of: BTreeMap<&str, &str> =
        all.lines().filter_map(|line| line.rsplit_once(": ")).collect();
    let made: Vec<&str> =
        rule_of.keys().copied().filter(|target| *target != "build.ninja").collect();
    let theirs = ninja(&directory, &[&["-t", "commands"], &made[..]].concat());
    let theirs: BTreeSet<String> = theirs.lines().map(str::to_owned).collect();
    assert_eq!(ours, theirs);
    let mut compared = 0;
    for chunk in made.chunks(200) {
        let told = ninja(&directory, &[&["-t", "query"], chunk].concat());
        let (mut target, mut needed) = ("", BTreeSet::new());
        for line in told.lines().chain(["end:"]) {
            if line.starts_with("    ") && line.trim() != "validations:" {
                let path = line.trim().trim_start_matches('|').trim();
                // What nothing makes is a file, and a statement needs nothing of itself.
                if tasks.contains_key(path) && path != target {
                    needed.insert(path.to_owned());
                }
            } else if line.trim() == "outputs:" {
                if let Some(task) = tasks.get(target) {
                    let deps = task["deps"].as_array().expect("a list");
                    let deps: BTreeSet<_> = deps.iter().map(text_of).collect();
                    assert_eq!(deps, needed, "{target}");
                    compared += 1;
                }
                target = "outputs";
            } else if !line.starts_with(' ') {
                target = line.trim_end_matches(':');
                needed.clear();
            }
            if target == "outputs" && !line.starts_with(' ') {
                needed.clear();
            }
        }
    }
    assert!(compared > 5, "{compared} compared");
}

const MANIFEST: &str = "\
cc = gcc
flags = -O0 $
    -Wall
rule cc
  command = $cc $flags -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = CC $out
rule link
  command = $cc $in -o $out
rule gen
  command = echo '#define GEN $value' > $out.tmp && if cmp -s $out.tmp $out; then rm $out.tmp; else mv $out.tmp $out; fi
  restat = 1
pool one
  depth = 1
build gen.h: gen gen.def
  value = 4
build main.o: cc main.c || gen.h
build lib/util.o: cc ./lib/../lib/util.c
  flags = $flags -DUTIL
  pool = one
subninja sub/more.ninja
build app: link main.o lib/util.o sub/more.o | app.def
build all: phony app
default all
build extra: link main.o | missing-on-purpose
";

fn manifest_workspace(place: &Place) -> Workspace {
    let workspace = place.workspace("w", &Value::Null, &[]);
    workspace.remove("graph.json");
    for (path, text) in [
        ("build.ninja", MANIFEST),
        ("sub/more.ninja", "flags = -O0 -DMORE\nbuild sub/more.o: cc sub/more.c\n"),
        ("gen.def", ""),
        ("app.def", ""),
        ("x.h", "#define X 1\n"),
        (
            "main.c",
            "#include \"gen.h\"\n#include \"x.h\"\nint util(void), more(void);\nint main(void) { return util() + more() + GEN + X; }\n",
        ),
        ("lib/util.c", "int util(void) { return 10; }\n"),
        ("sub/more.c", "int more(void) { return 20; }\n"),
    ] {
        workspace.write(path, text);
    }
    workspace
}

/// The exit code of what was built.
fn app(workspace: &Workspace, path: &str) -> Option<i32> {
    Command::new(workspace.root.join(path)).status().expect("the app").code()
}

#[test]
fn a_manifest_means_what_it_means_to_ninja() {
    let place = Place::new();
    let workspace = manifest_workspace(&place);
    compare_with_ninja(&workspace, ".");
    // ninja takes what netbuild has built for done, and the other way round.
    let run = ["--graph", "build.ninja"];
    assert_eq!(workspace.run(&run).expect_success().executed(), 5);
    assert_eq!(app(&workspace, "app"), Some(35));
    assert_eq!(workspace.run(&run).expect_success().executed(), 0);
}

#[test]
fn an_edited_header_builds_again_what_includes_it_and_nothing_else() {
    let place = Place::new();
    let workspace = manifest_workspace(&place);
    let run = ["--graph", "build.ninja"];
    workspace.run(&run).expect_success();
    workspace.write("x.h", "#define X 2\n");
    assert_eq!(workspace.run(&run).expect_success().executed(), 2);
    assert_eq!(app(&workspace, "app"), Some(36));
    // A comment changes the object's input and not the object.
    workspace.write("x.h", "#define X 2 // two\n");
    assert_eq!(workspace.run(&run).expect_success().executed(), 1);
    // The one before comes back from the store.
    workspace.write("x.h", "#define X 1\n");
    let back = workspace.run(&run).expect_success();
    assert_eq!(back.executed(), 0, "{}", back.stderr);
    assert_eq!(app(&workspace, "app"), Some(35));
    // A header that is made counts as well, although it is only waited for.
    workspace.write("build.ninja", &MANIFEST.replace("value = 4", "value = 6"));
    assert_eq!(workspace.run(&run).expect_success().executed(), 3);
    assert_eq!(app(&workspace, "app"), Some(37));
    // Without its object the header still counts.
    workspace.remove("main.o");
    workspace.write("x.h", "#define X 7\n");
    assert_eq!(workspace.run(&run).expect_success().executed(), 2);
    assert_eq!(app(&workspace, "app"), Some(43));
}

#[test]
fn a_project_of_cmake_builds_from_its_manifest_and_from_what_it_is_imported_as() {
    let place = Place::new();
    let workspace = place.workspace("w", &Value::Null, &[]);
    for (path, text) in [
        (
            "CMakeLists.txt",
            "cmake_minimum_required(VERSION 3.13)\nproject(p C)\nadd_library(util STATIC lib/util.c)\nadd_custom_command(OUTPUT gen.h COMMAND sh ${CMAKE_SOURCE_DIR}/gen.sh > gen.h DEPENDS gen.sh VERBATIM)\nadd_custom_target(gen DEPENDS gen.h)\nadd_executable(app main.c)\nadd_dependencies(app gen)\ntarget_include_directories(app PRIVATE ${CMAKE_BINARY_DIR} lib)\ntarget_link_libraries(app util)\n",
        ),
        ("gen.sh", "echo '#define GEN 4'\n"),
        ("lib/util.h", "#define X 1\nint util(void);\n"),
        ("lib/util.c", "#include \"util.h\"\nint util(void) { return X; }\n"),
        (
            "main.c",
            "#include \"gen.h\"\n#include \"util.h\"\nint main(void) { return util() + GEN; }\n",
        ),
    ] {
        workspace.write(path, text);
    }
    output(
        Command::new("cmake")
            .current_dir(&workspace.root)
            .args(["-G", "Ninja", "-S", ".", "-B", "out"]),
    );
    compare_with_ninja(&workspace, "out");
    let run = ["--graph", "out/build.ninja"];
    let executed = workspace.run(&run).expect_success().executed();
    assert!(executed >= 5, "{executed}");
    assert_eq!(app(&workspace, "out/app"), Some(5));
    assert_eq!(workspace.run(&run).expect_success().executed(), 0);
    workspace.write("lib/util.h", "#define X 2\nint util(void);\n");
    let again = workspace.run(&run).expect_success();
    assert_eq!((again.executed(), app(&workspace, "out/app")), (4, Some(6)), "{}", again.stderr);

    workspace.write("graph.json", &graph(&workspace, &["import", "out/build.ninja"]));
    graph(&workspace, &["check"]);
    assert_eq!(workspace.run(&[]).expect_success().executed(), 0);
    workspace.write("gen.sh", "echo '#define GEN 5'\n");
    workspace.run(&[]).expect_success();
    assert_eq!(app(&workspace, "out/app"), Some(7));
}

#[test]
fn a_check_tells_everything_at_once() {
    let place = Place::new();
    let workspace = place.workspace("w", &Value::Null, &[]);
    workspace.write(
        "graph.json",
        "{\"tasks\": {\n  \"a\": {\"comand\": \"x\", \"deps\": [\"b\"]},\n  \"c\": {\"command\": \"\"}}}",
    );
    let check = |args: &[&str]| {
        netbuild()
            .current_dir(&workspace.root)
            .args(["graph", "check"])
            .args(args)
            .output()
            .unwrap()
    };
    let told = check(&[]);
    assert_eq!(told.status.code(), Some(2));
    let text = String::from_utf8(told.stdout).unwrap();
    for part in ["2:9: G002", "did you mean `command`?", "2:33: G007", "3:20: G024", "3 errors"] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let told: Value = serde_json::from_slice(&check(&["--json"]).stdout).unwrap();
    let of = |field: &str| {
        told["problems"].as_array().unwrap().iter().map(|p| p[field].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("code"), ["G002", "G007", "G024"]);
    assert_eq!(of("pointer"), ["/tasks/a/comand", "/tasks/a/deps/0", "/tasks/c/command"]);
    assert_eq!(told["ok"], false);
    workspace.write("graph.json", r#"{"tasks": {"a": {"command": "x"}}}"#);
    assert!(graph(&workspace, &["check"]).contains("1 task, no errors"));
}

#[test]
fn a_graph_is_listed_shown_formatted_and_exported() {
    let place = Place::new();
    let tasks = json!({"tasks": {
        "lib": {"command": "sleep 0.01", "inputs": [], "description": "a library"},
        "app": {"command": "true", "deps": ["lib"]},
    }});
    let workspace = place.workspace("w", &tasks, &[]);
    let list = graph(&workspace, &["list"]);
    assert!(list.contains("lib") && list.contains("a library"), "{list}");
    let shown = graph(&workspace, &["show", "lib"]);
    assert!(shown.starts_with("lib: its result is kept; level env; needed by app\n"), "{shown}");
    let shown: Value =
        serde_json::from_str(&graph(&workspace, &["show", "lib", "--json"])).unwrap();
    assert_eq!(shown["command"], "sleep 0.01");
    let unknown =
        netbuild().current_dir(&workspace.root).args(["graph", "show", "lob"]).output().unwrap();
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean `lib`?"));

    let fmt = |args: &[&str]| {
        let mut command = netbuild();
        command
            .current_dir(&workspace.root)
            .args(["graph", "fmt"])
            .args(args)
            .status()
            .unwrap()
            .code()
    };
    workspace.write("graph.json", "{\"tasks\": { // why\n\"lib\":{\"command\":\"sleep 0.01\",\"inputs\":[],},\n\"app\":{\"command\":\"true\",\"deps\":[\"lib\"]}}}");
    assert_eq!(fmt(&["--check"]), Some(1));
    assert_eq!(fmt(&[]), Some(0));
    assert_eq!(fmt(&["--check"]), Some(0));
    let text = workspace.read("graph.json");
    assert!(text.contains("// why") && text.contains("\"inputs\": [] }"), "{text}");
    workspace.write("graph.json.bad", "{\"tasks\": {");
    assert_eq!(fmt(&["graph.json.bad"]), Some(2));
    assert_eq!(workspace.read("graph.json.bad"), "{\"tasks\": {");

    assert!(graph(&workspace, &["export"]).contains("\"lib\" -> \"app\";"));
    let json = graph(&workspace, &["export", "--format", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["tasks"]["app"]["deps"][0], "lib");
    let trace = graph(&workspace, &["export", "--format", "trace", "-j", "1"]);
    let trace: Value = serde_json::from_str(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert_eq!(events.iter().filter(|event| event["ph"] == "X").count(), 2);
    let schema: Value = serde_json::from_str(&graph(&workspace, &["schema"])).unwrap();
    assert!(schema["$defs"]["task"].is_object());
}

/// The spans of a trace by name.
fn spans(path: &Path) -> BTreeMap<String, Value> {
    let trace: Value = serde_json::from_slice(&fs::read(path).expect("a trace")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events").clone();
    let spans = events.into_iter().filter(|event| event["ph"] == "X");
    spans.map(|span| (text_of(&span["name"]), span)).collect()
}

#[test]
fn a_run_writes_its_events_and_its_trace() {
    let place = Place::new();
    let graph = json!({"tasks": {
        "slow": {"command": "sleep 0.3; echo made > out", "inputs": [], "outputs": ["out"]},
        "quick": {"command": "true", "inputs": []},
        "end": {"command": "cat out; exit 3", "deps": ["slow", "quick"]},
        "never": {"command": "true", "deps": ["end"]},
    }});
    let workspace = place.workspace("w", &graph, &[]);
    let (events, trace) = (place.path("events"), place.path("trace"));
    let run = Run::of(
        workspace
            .command(&["--json", "-j", "2", "-k"])
            .arg("--json-events")
            .arg(&events)
            .arg("--trace")
            .arg(&trace),
    );
    assert_eq!(run.code(), Some(1));
    let told: Vec<Value> = fs::read_to_string(&events)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let times: Vec<f64> = told.iter().map(|event| event["at"].as_f64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let finished = |task: &str| {
        let of = told.iter().find(|e| e["event"] == "finished" && e["task"] == task);
        of.unwrap_or_else(|| panic!("no end of {task} in {told:?}")).clone()
    };
    assert_eq!(finished("slow")["how"], "executed");
    assert_eq!(
        (finished("end")["how"].clone(), finished("end")["log_bytes"].clone()),
        (json!("failed"), json!(5))
    );
    assert!(finished("end")["reason"].as_str().unwrap().contains('3'));
    assert_eq!(finished("never")["how"], "skipped");
    assert_eq!(told.last().unwrap()["event"], "summary");
    assert_eq!(told.last().unwrap()["failed"], 1);

    let spans = spans(&trace);
    assert_eq!(spans.keys().collect::<Vec<_>>(), ["end", "quick", "slow"]);
    let number = |name: &str, field: &str| spans[name][field].as_u64().unwrap();
    assert_ne!(number("slow", "tid"), number("quick", "tid"));
    assert!(number("end", "ts") >= number("slow", "ts") + number("slow", "dur"));
    assert!(number("slow", "dur") >= 300_000);
    let critical: Vec<bool> = ["slow", "quick", "end"]
        .map(|name| spans[name]["args"]["critical"].as_bool().unwrap())
        .into();
    assert_eq!(critical, [true, false, true]);
    assert_eq!(run.summary["critical_path"]["tasks"], json!(["slow", "end"]));
    assert!(run.summary["critical_path"]["seconds"].as_f64().unwrap() >= 0.3);
}

#[test]
fn in_a_workflow_of_github_logs_are_folded_and_failures_marked() {
    let place = Place::new();
    let graph = json!({"tasks": {
        "good": {"command": "echo fine"},
        "bad": {"command": "echo broken; exit 1", "deps": ["good"]},
    }});
    let workspace = place.workspace("w", &graph, &[]);
    let run = Run::of(workspace.command(&[]).env("GITHUB_ACTIONS", "true"));
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert!(lines[0].starts_with("::group::[1/2] good: executed"), "{lines:?}");
    assert_eq!(lines[1..3], ["fine", "::endgroup::"]);
    assert!(lines[3].starts_with("[2/2] bad: FAILED") && lines[4] == "broken", "{lines:?}");
    assert!(lines[5].starts_with("::error::[2/2] bad"), "{lines:?}");
    let plain = Run::of(&mut workspace.command(&[]));
    assert!(!plain.stderr.contains("::"), "{}", plain.stderr);
}
