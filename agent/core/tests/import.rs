//! Files of other tools as people have them: what they mean here, and what is said about those that
//! cannot be taken.

use netbuild_core::{
    graph::{CachePolicy, DependencyKind, Graph, Task, load},
    import::{Files, ImportError, Imported, Kind, ninja, turbo},
    key::OutputShape,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Files in memory, in a workspace `/w`.
#[derive(Default)]
struct Memory(BTreeMap<String, Vec<u8>>);

impl Memory {
    fn of(files: &[(&str, &str)]) -> Self {
        let full = |path: &str| match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("/w/{path}"),
        };
        Self(files.iter().map(|(path, text)| (full(path), text.as_bytes().to_vec())).collect())
    }
}

impl Files for Memory {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        self.0.get(path).cloned().ok_or_else(|| "does not exist".to_owned())
    }

    fn kind(&self, path: &str) -> Kind {
        let below = format!("{path}/");
        match self.0.get(path) {
            Some(content) if content.starts_with(b"#!") => Kind::Executable,
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

fn import_ninja(files: &[(&str, &str)]) -> Result<Imported, ImportError> {
    ninja::import(&Memory::of(files), "/w/build/build.ninja", "/w")
}

fn manifest(text: &str) -> Graph {
    import_ninja(&[("build/build.ninja", text)]).unwrap_or_else(|e| panic!("{e}")).graph
}

fn task<'g>(graph: &'g Graph, name: &str) -> &'g Task {
    &graph[graph.find(name).unwrap_or_else(|e| panic!("{e}"))]
}

fn command<'g>(graph: &'g Graph, name: &str) -> &'g str {
    let argv = task(graph, name).command.as_deref().expect("a command");
    assert_eq!(argv[..2], ["/bin/sh", "-c"]);
    &argv[2]
}

fn inputs(task: &Task) -> Vec<&str> {
    task.inputs.iter().flatten().map(|input| input.glob.as_str()).collect()
}

fn deps<'g>(graph: &'g Graph, name: &str) -> Vec<(&'g str, DependencyKind)> {
    task(graph, name).deps.iter().map(|d| (graph[d.task].name.as_str(), d.kind)).collect()
}

/// What is written of a graph loads as the same graph; fields that a file may not have yet apart.
fn assert_loads_again(graph: &Graph) {
    let text = graph.to_json();
    let again = load(text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    assert_eq!(again.to_json(), text);
    assert_eq!(again.tasks().len(), graph.tasks().len());
}

#[test]
fn statements_become_tasks_with_their_inputs_and_order() {
    let graph = manifest(
        "cflags = -O2\n\
         rule cc\n  command = gcc $cflags -MD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc\n  description = CC $out\n\
         rule link\n  command = gcc $in -o $out\n\
         build a.o: cc ../src/a.c | ../src/a.def || gen.h\n\
         build b.o: cc /w/src/b$ b.c\n  cflags = -O0 $cflags\n\
         build gen.h | gen.log: link ./gen//x/../in\n\
         build app: link a.o b.o\n\
         build all: phony app\n\
         default all\n",
    );
    assert_eq!(graph.default_targets(), [graph.find("all").unwrap()]);
    assert_eq!(command(&graph, "a.o"), "gcc -O2 -MD -MF a.o.d -c ../src/a.c -o a.o");
    assert_eq!(command(&graph, "b.o"), "gcc -O0 -O2 -MD -MF b.o.d -c '/w/src/b b.c' -o b.o");
    let a = task(&graph, "a.o");
    assert_eq!(inputs(a), ["src/a.c", "src/a.def"]);
    assert_eq!(deps(&graph, "a.o"), [("gen.h", DependencyKind::Order)]);
    assert_eq!(a.dep_file.as_deref(), Some("build/a.o.d"));
    assert_eq!((a.working_dir.as_str(), a.clean, a.cache), ("build", false, CachePolicy::Complete));
    assert_eq!(a.description.as_deref(), Some("CC a.o"));
    assert_eq!(a.tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(), ["gcc"]);
    let outputs = task(&graph, "gen.h").outputs.as_deref().unwrap();
    let paths: Vec<_> = outputs.iter().map(|output| output.pattern.as_str()).collect();
    assert_eq!(paths, ["build/gen.h", "build/gen.log"]);
    assert!(outputs.iter().all(|o| o.optional && o.shape == OutputShape::Path));
    assert_eq!(graph.find("gen.log"), graph.find("gen.h"));
    assert_eq!(inputs(task(&graph, "gen.h")), ["build/gen/in"]);
    let data = DependencyKind::Data;
    assert_eq!(deps(&graph, "app"), [("a.o", data), ("b.o", data)]);
    assert!(task(&graph, "all").command.is_none());
    assert_loads_again(&graph);
}

#[test]
fn variables_have_the_scopes_that_ninja_gives_them() {
    let imported = import_ninja(&[
        (
            "build/build.ninja",
            "x = 1\nrule r\n  command = echo $x $y $in $out $description\n  description = of rule\n\
             subninja sub.ninja\n\
             include more.ninja\n\
             build late: r\n\
             build own: r a\n  y = own $x\n\
             x = 3\n",
        ),
        ("build/sub.ninja", "x = sub\ny = $x\nrule r\n  command = sub $x $y\nbuild s: r\n"),
        ("build/more.ninja", "y = $x$$ $\n    end\ndescription = of file\n"),
    ]);
    let graph = imported.unwrap().graph;
    // Rules look at variables when all is read, and values take them as they are.
    assert_eq!(command(&graph, "late"), "echo 3 1$ end  late of file");
    // With a variable of its own, the statement sees that of its rule.
    assert_eq!(command(&graph, "own"), "echo 3 own 1 a own of rule");
    assert_eq!(command(&graph, "s"), "sub sub sub");
}

#[test]
fn phony_statements_stand_for_files_tasks_and_what_always_runs() {
    let imported = import_ninja(&[
        (
            "build/build.ninja",
            "rule r\n  command = x $in > $out\n\
             build ALWAYS: phony\n\
             build old.h: phony\n\
             build files: phony f1 | f2 || f3\n\
             build both: phony files ALWAYS mid\n\
             build mid: r m\n\
             build a: r old.h files\n\
             build b: r both\n\
             build c: r in || ALWAYS\n\
             build same: phony same mid\n",
        ),
        ("build/old.h", ""),
    ]);
    let graph = imported.unwrap().graph;
    assert_eq!(inputs(task(&graph, "a")), ["build/old.h", "build/f1", "build/f2"]);
    assert_eq!(task(&graph, "a").cache, CachePolicy::Complete);
    assert_eq!(inputs(task(&graph, "b")), ["build/f1", "build/f2"]);
    assert_eq!(task(&graph, "b").cache, CachePolicy::Off);
    assert_eq!(task(&graph, "c").cache, CachePolicy::Complete);
    assert_eq!(deps(&graph, "both"), [("mid", DependencyKind::Data)]);
    assert_eq!(deps(&graph, "same"), [("mid", DependencyKind::Data)]);
    assert!(graph.find("files").is_err());
    assert_loads_again(&graph);
}

#[test]
fn pools_response_files_and_paths_outside_keep_their_meaning() {
    let imported = import_ninja(&[
        (
            "build/build.ninja",
            "pool none\n  depth = 0\npool two\n  depth = 2\n\
             rule link\n  command = ld @$out.rsp\n  rspfile = $out.rsp\n  rspfile_content = $in it's\n  pool = two\n\
             rule tool\n  command = cd /w && /t/gen $in\n  pool = none\n\
             build app: link a.o\n\
             build made: tool /t/gen.py src\n\
             build lost: tool /t/data\n\
             build /elsewhere/x: tool src\n\
             build build.ninja: tool in\n  generator = 1\n",
        ),
        ("/t/gen.py", "#!python"),
        ("/t/data", ""),
    ])
    .unwrap();
    let graph = &imported.graph;
    assert_eq!(
        command(graph, "app"),
        "printf %s 'a.o it'\\''s' > app.rsp || exit\n(ld @app.rsp\n) || exit\nrm -f app.rsp"
    );
    assert_eq!((graph.pools().len(), graph.pools()[0].depth), (1, 2));
    assert_eq!(task(graph, "app").pool.unwrap().index(), 0);
    let made = task(graph, "made");
    assert_eq!((made.pool, inputs(made)), (None, vec!["build/src"]));
    let tools: Vec<_> = made.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!((tools, made.is_cacheable()), (vec!["/t/gen.py", "/t/gen"], true));
    assert!(!task(graph, "lost").is_cacheable());
    assert!(!task(graph, "/elsewhere/x").is_cacheable());
    assert!(graph.find("build.ninja").is_err());
    assert_eq!(imported.notes.len(), 2, "{:?}", imported.notes);
}

#[test]
fn what_ninja_refuses_or_netbuild_cannot_do_is_said_with_its_place() {
    let rule = "rule r\n  command = x\n";
    for (text, line, column, message) in [
        ("build a: r\n", 1, 11, "unknown rule `r`"),
        ("rule r\n  x = 1\n", 3, 1, "unexpected variable `x`"),
        ("rule r\n", 2, 1, "has no `command`"),
        ("x = $\u{7f}\n", 1, 5, "bad `$`-escape"),
        ("x = ${a\n", 1, 5, "`${`"),
        ("build\n", 1, 6, "expected a path"),
        ("build a\n", 1, 8, "expected `:`"),
        ("\tx = 1\n", 1, 1, "tab"),
        ("  x = 1\n", 1, 3, "unexpected indent"),
        ("pool p\n  depth = -1\n", 3, 1, "number from 0"),
        ("pool p\npool p\n", 2, 1, "`depth ="),
        ("include nix\n", 0, 0, "does not exist"),
        ("default x\n", 0, 0, "unknown target `x`"),
        ("rule q\n  command = x\n  dyndep = dd\nbuild a: q\n", 4, 1, "`dyndep`"),
        ("rule q\n  command = x\n  deps = msvc\nbuild a: q\n", 4, 1, "`deps = msvc`"),
        (
            "rule q\n  command = $a\n  description = $description\nbuild a: q\n",
            4,
            1,
            "empty command",
        ),
        (
            "rule q\n  command = x$description\n  description = $description\nbuild a: q\n",
            4,
            1,
            "cycle",
        ),
        ("rule q\n  command = x\n  pool = nix\nbuild a: q\n", 4, 1, "unknown pool `nix`"),
    ] {
        let error = import_ninja(&[("build/build.ninja", text)]).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
        assert_eq!((error.line, error.column), (line, column), "{text}: {error}");
    }
    for (text, message) in [
        ("build a: r\nbuild ./a: r\n", "multiple rules generate a"),
        ("build a: r b\nbuild b: r c\nbuild c: r a\n", "dependency cycle: a -> b -> c -> a"),
        ("build a: r a\n", "dependency cycle: a -> a"),
        ("build a: r |@ b\n", "validations"),
        ("build a[1]: r\n", "special in patterns"),
        ("build ../.git/x: r\n", "where netbuild or git"),
    ] {
        let error = import_ninja(&[("build/build.ninja", &format!("{rule}{text}"))]).err();
        let error = error.expect(text);
        assert!(error.message.contains(message), "{text}: {error}");
    }
}

#[test]
fn long_chains_and_files_that_include_themselves_end() {
    let mut text = String::from("rule r\n  command = x\nbuild t0: r\n");
    for i in 1..50_000 {
        let kind = if i % 2 == 0 { "r" } else { "phony" };
        text.push_str(&format!("build t{i}: {kind} t{}\n", i - 1));
    }
    let graph = manifest(&text);
    assert_eq!(graph.closure(graph.default_targets()).len(), 50_000);
    let error = import_ninja(&[("build/build.ninja", "include build.ninja\n")]).unwrap_err();
    assert!(error.message.contains("include each other"), "{error}");
}

const TURBO: &str = r#"{ // a comment
  "$schema": "x", "globalDependencies": ["tsconfig.base.json"], "globalEnv": ["NODE_ENV"],
  "tasks": {
    "build": {"dependsOn": ["^build", "codegen"], "outputs": ["dist/**", "!dist/cache/**"], "env": ["API_*"], "passThroughEnv": ["TOKEN"]},
    "codegen": {"inputs": ["schema/**"], "outputs": ["src/gen.ts"]},
    "test": {"dependsOn": ["build"], "outputLogs": "errors-only"},
    "web#test": {"dependsOn": ["build", "ui#build"], "cache": false},
    "dev": {"persistent": true, "cache": false, "dependsOn": ["^build"]},
    "//#lint": {}
  }
}"#;

fn workspace() -> Vec<(&'static str, &'static str)> {
    vec![
        ("turbo.json", TURBO),
        (
            "package.json",
            r#"{"name": "root", "workspaces": ["apps/*", "packages/**", "!packages/old"], "scripts": {"lint": "l"}}"#,
        ),
        ("package-lock.json", "{}"),
        (
            "apps/web/package.json",
            r#"{"name": "web", "scripts": {"build": "b", "test": "t", "dev": "d"}, "dependencies": {"ui": "*", "react": "1"}}"#,
        ),
        (
            "packages/ui/package.json",
            r#"{"name": "ui", "scripts": {"build": "b", "codegen": "c", "test": "t"}, "devDependencies": {"@acme/types": "workspace:*"}}"#,
        ),
        (
            "packages/types/package.json",
            r#"{"name": "@acme/types", "dependencies": {"@acme/base": "*"}}"#,
        ),
        ("packages/base/package.json", r#"{"name": "@acme/base", "scripts": {"build": "b"}}"#),
        ("packages/old/package.json", r#"{"name": "old", "scripts": {"build": "b"}}"#),
    ]
}

#[test]
fn a_workspace_of_packages_becomes_a_graph() {
    let imported = turbo::import(&Memory::of(&workspace()), "/w/turbo.json").unwrap();
    let graph = &imported.graph;
    let data = DependencyKind::Data;
    assert_eq!(deps(graph, "web:build"), [("ui:build", data)]);
    let build = task(graph, "web:build");
    assert_eq!(build.command.as_deref().unwrap(), ["npm", "run", "build"]);
    assert_eq!(build.working_dir, "apps/web");
    let outputs = build.outputs.as_deref().unwrap();
    assert_eq!(
        (outputs[0].pattern.as_str(), outputs[0].shape),
        ("apps/web/dist", OutputShape::Tree)
    );
    let names = |set: &std::collections::BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(&build.pass_env), ["API_*", "NODE_ENV"]);
    assert_eq!(names(&build.secret_env), ["TOKEN"]);
    // A package without the script hands on its files and what it waits for.
    assert_eq!(deps(graph, "ui:build"), [("acme/base:build", data), ("ui:codegen", data)]);
    let patterns = task(graph, "ui:build").inputs.as_deref().unwrap();
    let selects =
        |path: &str| netbuild_core::graph::InputPattern::select(patterns, path.as_bytes());
    for (path, selected) in [
        ("packages/ui/src/a.ts", true),
        ("packages/types/index.d.ts", true),
        ("packages/base/a.ts", false),
        ("packages/ui/dist/a.js", false),
        ("packages/ui/src/gen.ts", false),
        ("packages/ui/node_modules/x/y.js", false),
        ("tsconfig.base.json", true),
        ("package-lock.json", true),
    ] {
        assert_eq!(selects(path), selected, "{path}");
    }
    assert_eq!(
        inputs(task(graph, "ui:codegen"))[..2],
        ["packages/ui/schema/**", "packages/ui/package.json"]
    );
    assert_eq!(deps(graph, "web:test"), [("web:build", data), ("ui:build", data)]);
    assert_eq!(task(graph, "web:test").cache, CachePolicy::Off);
    assert!(task(graph, "web:dev").service.is_some());
    assert!(task(graph, "root:lint").is_cacheable());
    assert_eq!(graph.find("@acme/base#build"), graph.find("acme/base:build"));
    assert!(graph.find("old:build").is_err());
    assert_eq!(deps(graph, "build").len(), 3);
    let targets: Vec<_> =
        graph.default_targets().iter().map(|id| graph[*id].name.as_str()).collect();
    assert_eq!(targets, ["build", "codegen", "lint", "test"]);
    assert!(imported.notes.iter().any(|note| note.contains("excludes")), "{:?}", imported.notes);
}

#[test]
fn pnpm_and_older_files_are_read_and_mistakes_named() {
    let mut files = workspace();
    files[0].1 = r#"{"pipeline": {"build": {"dependsOn": ["^build", "$TOKEN"]}}}"#;
    files[1].1 = r#"{"name": "root", "packageManager": "pnpm@9.0.0"}"#;
    files.push((
        "pnpm-workspace.yaml",
        "# all\npackages:\n  - \"apps/*\"  # x\n  - 'packages/*'\ncatalog:\n  a: 1\n",
    ));
    files.push((
        "apps/web/turbo.json",
        r#"{"extends": ["//"], "tasks": {"build": {"cache": false}}}"#,
    ));
    let graph = turbo::import(&Memory::of(&files), "/w/turbo.json").unwrap().graph;
    let web = task(&graph, "web:build");
    assert_eq!(
        (web.command.as_deref().unwrap()[0].as_str(), web.cache),
        ("pnpm", CachePolicy::Off)
    );
    assert!(web.deps.is_empty());
    assert!(task(&graph, "ui:build").pass_env.contains("TOKEN"));
    assert_loads_again(&graph);
    files.pop();
    for (text, message) in [
        ("{", "Unterminated"),
        ("[]", "not a JSON object"),
        ("{}", "no `tasks`"),
        (r#"{"tasks": {"build": {"dependsOn": ["nix#build"]}}}"#, "package that does not exist"),
        (
            r#"{"tasks": {"build": {"dependsOn": ["test"]}, "test": {"dependsOn": ["build"]}}}"#,
            "cycle: ",
        ),
        (r#"{"tasks": {"build": {"outputs": 1}}}"#, "`outputs` must be an array of strings"),
        (r#"{"tasks": {"build": {"inputs": ["../../../x"]}}}"#, "leaves the workspace"),
        (r#"{"tasks": {"nix": {}}}"#, "no package has a script"),
    ] {
        files[0].1 = text;
        let error = turbo::import(&Memory::of(&files), "/w/turbo.json").expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn hostile_manifests_never_panic(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "rule r\n  command = x $in\n", "build ", "a", "b", " ", ": ", "r", "phony", " | ", " || ", "\n", "  ", "x = ",
            "$", "${x}", "$x", "$ ", "$:", "pool p\n  depth = 1\n", "default ", "include a\n", "subninja ", "\r\n", "#c\n", "../", "é", "\t",
        ]), 0..60)
    ) {
        if let Ok(imported) = import_ninja(&[("build/build.ninja", &tokens.concat())]) {
            prop_assert!(load(imported.graph.to_json().as_bytes()).is_ok() || imported.graph.tasks().is_empty());
        }
    }

    #[test]
    fn hostile_bytes_never_panic(bytes: Vec<u8>) {
        let files = Memory([("/w/m".to_owned(), bytes.clone()), ("/w/package.json".to_owned(), b"{}".to_vec())].into());
        drop(ninja::import(&files, "/w/m", "/w"));
        drop(turbo::import(&files, "/w/m"));
        drop(netbuild_core::depfile::parse(&bytes));
        drop(netbuild_core::graph::format(&String::from_utf8_lossy(&bytes)));
    }

    #[test]
    fn damaged_workspaces_never_panic(at in 0usize..900, to: u8) {
        let mut text = TURBO.as_bytes().to_vec();
        let length = text.len();
        text[at % length] = to;
        let mut files = Memory::of(&workspace());
        files.0.insert("/w/turbo.json".to_owned(), text);
        drop(turbo::import(&files, "/w/turbo.json"));
    }
}
