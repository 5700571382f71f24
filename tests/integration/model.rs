//! Random graphs under random edits, compared after each step with what a build from scratch makes.

use crate::support::{Place, Workspace};
use proptest::test_runner::{Config, TestRng, TestRunner};
use rand_like::Rng;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs};

/// Graphs, and edits of each.
const GRAPHS: usize = 4;
const STEPS: usize = 12;
const TASKS: usize = 9;
const SOURCES: usize = 6;

/// Numbers of proptest's generator, which prints and takes seeds.
mod rand_like {
    use proptest::{prelude::Rng as _, test_runner::TestRng};

    pub(super) struct Rng(pub(super) TestRng);

    impl Rng {
        pub(super) fn below(&mut self, limit: usize) -> usize {
            self.0.next_u64() as usize % limit
        }
    }
}

/// What a task does with the bytes of its inputs and dependencies, in order.
#[derive(Clone, Copy)]
enum Work {
    All,
    /// Of many changes of its inputs nothing comes through.
    Start,
}

struct Task {
    work: Work,
    sources: Vec<usize>,
    deps: Vec<usize>,
    /// Part of its command and of its output.
    mark: usize,
}

/// The graph and the sources as they should be.
struct Model {
    tasks: Vec<Task>,
    sources: BTreeMap<usize, String>,
}

impl Model {
    fn new(rng: &mut Rng) -> Self {
        let tasks = (0..TASKS).map(|number| Task {
            work: if rng.below(3) == 0 { Work::Start } else { Work::All },
            sources: (0..SOURCES).filter(|_| rng.below(3) == 0).collect(),
            deps: (0..number).filter(|_| rng.below(3) == 0).collect(),
            mark: 0,
        });
        let tasks = tasks.collect();
        let sources = (0..SOURCES).map(|source| (source, format!("{source} ")));
        Self { tasks, sources: sources.collect() }
    }

    fn graph(&self) -> Value {
        let list = self.tasks.iter().enumerate().map(|(number, task)| {
            let files: Vec<_> = task.sources.iter().map(|source| format!("src/{source}")).collect();
            let deps: Vec<_> = task.deps.iter().map(|dep| format!("out/{dep}/made")).collect();
            let all = [files.clone(), deps].concat().join(" ");
            let filter = match task.work {
                Work::All => "cat",
                Work::Start => "head -c 3",
            };
            let (mark, directory) = (task.mark, format!("out/{number}"));
            let command = format!(
                "cat {all} /dev/null | {filter} > {directory}/made; echo {mark} >> {directory}/made"
            );
            let deps: Vec<_> = task.deps.iter().map(|dep| format!("t{dep}")).collect();
            // A tree has to be there before its file.
            let command = format!("mkdir {directory}; {command}");
            let task = json!({"command": command, "inputs": files, "deps": deps,
                              "outputs": [format!("{directory}/")]});
            (format!("t{number}"), task)
        });
        json!({"tasks": Value::Object(list.collect())})
    }

    /// What each task makes from scratch.
    fn outputs(&self) -> Vec<String> {
        let mut made: Vec<String> = Vec::new();
        for task in &self.tasks {
            let sources = task.sources.iter().map(|source| self.sources[source].as_str());
            let deps = task.deps.iter().map(|dep| made[*dep].as_str());
            let all: String = sources.chain(deps).collect();
            let filtered = match task.work {
                Work::All => &all,
                Work::Start => &all[..all.len().min(3)],
            };
            made.push(format!("{filtered}{}\n", task.mark));
        }
        made
    }

    /// Changes the model or the workspace, as a person or another program might; says how.
    fn edit(&mut self, rng: &mut Rng, workspace: &Workspace) -> String {
        let (source, task) = (rng.below(SOURCES), rng.below(TASKS));
        let output = format!("out/{task}/made");
        match rng.below(9) {
            0 | 1 => {
                // Of the same length as other contents, and within one tick of the clock.
                self.sources.insert(source, format!("{} ", rng.below(9)));
                workspace.write(&format!("src/{source}"), &self.sources[&source]);
                format!("source {source} is written")
            }
            2 => {
                self.tasks[task].mark = rng.below(3);
                format!("the command of {task} is edited")
            }
            3 => {
                self.tasks[task].sources = (0..SOURCES).filter(|_| rng.below(3) == 0).collect();
                format!("the inputs of {task} are edited")
            }
            4 => {
                workspace.write(&output, "by hand");
                format!("the output of {task} is edited")
            }
            5 => {
                workspace.write(&format!("out/{task}/stranger"), "stale");
                format!("a file appears beside the output of {task}")
            }
            6 => {
                drop(fs::remove_dir_all(workspace.root.join("out")));
                "all outputs are removed".into()
            }
            7 => {
                drop(fs::remove_file(workspace.root.join(".netbuild/state")));
                "the state is lost".into()
            }
            _ => {
                drop(fs::remove_dir_all(&workspace.data_dir));
                drop(fs::remove_dir_all(workspace.root.join(format!("out/{task}"))));
                format!("the cache is lost, and the output of {task}")
            }
        }
    }
}

#[test]
fn after_any_edit_a_run_leaves_what_a_build_from_scratch_makes() {
    let rng: TestRng = TestRunner::new(Config::default()).new_rng();
    println!("generator: {rng:?}");
    let mut rng = Rng(rng);
    for number in 0..GRAPHS {
        let place = Place::new();
        let mut model = Model::new(&mut rng);
        let workspace = place.workspace("w", &model.graph(), &[]);
        for (source, content) in &model.sources {
            workspace.write(&format!("src/{source}"), content);
        }
        let mut edits = Vec::new();
        for _ in 0..STEPS {
            workspace.write("graph.json", &model.graph().to_string());
            let run = workspace.run(&["-j3"]);
            let said = || format!("graph {number}: {}: {edits:#?}", model.graph());
            assert!(run.status.success(), "{}; {}", run.stderr, said());
            for (task, expected) in model.outputs().iter().enumerate() {
                let directory = workspace.root.join(format!("out/{task}"));
                assert_eq!(fs::read_dir(directory).unwrap().count(), 1, "{task}; {}", said());
                let made = workspace.read(&format!("out/{task}/made"));
                assert_eq!(&made, expected, "{task}; {}", said());
            }
            // Nothing is left to do.
            let again = workspace.run(&[]).expect_success();
            assert_eq!(again.executed(), 0, "{}; {}", again.stderr, said());
            edits.push(model.edit(&mut rng, &workspace));
        }
    }
}
