//! The example of this repository, as workspaces of the demo: built in, or taken from a checkout.

use crate::errors::CliError;
use std::{
    fs,
    path::{Path, PathBuf},
};

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $path)))),*]
    };
}

/// All that the example is made of.
const FILES: &[(&str, &str)] = files![
    "graph.json",
    "tests/workload/data/expected_page.txt",
    "tests/workload/data/orders.txt",
    "tests/workload/data/price_list.sed",
    "tests/workload/data/price_list.txt",
    "tests/workload/data/version.sed",
    "tests/workload/data/version.txt",
    "tests/workload/package.sh",
    "tests/workload/packages/cache/src/lib.rs",
    "tests/workload/packages/cache/src/lru.rs",
    "tests/workload/packages/cache/src/quotes.rs",
    "tests/workload/packages/models/src/lib.rs",
    "tests/workload/packages/models/src/message.rs",
    "tests/workload/packages/models/src/notation.rs",
    "tests/workload/packages/models/src/order.rs",
    "tests/workload/packages/models/src/quote.rs",
    "tests/workload/packages/models/src/sample.rs",
    "tests/workload/packages/network/src/backoff.rs",
    "tests/workload/packages/network/src/endpoint.rs",
    "tests/workload/packages/network/src/frame.rs",
    "tests/workload/packages/network/src/lib.rs",
    "tests/workload/packages/network/src/rpc.rs",
    "tests/workload/packages/settings/src/lib.rs",
    "tests/workload/report.sh",
    "tests/workload/services/api/main.rs",
    "tests/workload/services/frontend/main.rs",
    "tests/workload/services/frontend/page.rs",
    "tests/workload/services/worker/main.rs",
    "tests/workload/unit-test.sh",
    "tests/workload/verify.sh",
];

/// One line that is written anew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edit {
    pub(crate) file: &'static str,
    from: &'static str,
    to: &'static str,
}

/// A line of one service: of what it links, nothing is built again.
pub(crate) const A_CONSTANT: Edit = Edit {
    file: "tests/workload/services/worker/main.rs",
    from: "Duration::from_secs(300)",
    to: "Duration::from_secs(240)",
};
/// A line on which nearly everything depends.
pub(crate) const THE_VERSION: Edit =
    Edit { file: "tests/workload/data/version.txt", from: "1.4.0", to: "1.4.1" };
/// What makes the graph build with all debug information.
const DEBUG: [Edit; 2] = [
    Edit { file: "graph.json", from: "-C opt-level=3 -C codegen-units=1", to: "-C debuginfo=2" },
    Edit { file: "graph.json", from: " -C lto=fat -C strip=symbols", to: "" },
];

impl Edit {
    /// Edits the file in a workspace.
    pub(crate) fn apply(&self, root: &Path) -> Result<(), CliError> {
        let path = root.join(self.file);
        let text = fs::read_to_string(&path).map_err(|e| CliError::io("read", &path, &e))?;
        let edited = self.of(&text)?;
        fs::write(&path, edited).map_err(|error| CliError::io("write", &path, &error))
    }

    fn of(&self, text: &str) -> Result<String, CliError> {
        if text.contains(self.from) {
            return Ok(text.replace(self.from, self.to));
        }
        let (file, from) = (self.file, self.from);
        Err(CliError::wrong(format!("there is no `{from}` in `{file}`, which the demo would edit"))
            .hint("name a checkout of this version of netbuild with --workspace, or none"))
    }
}

/// How the example is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Build {
    /// As its graph says.
    Release,
    /// Without optimisation, and with all debug information: large and quick to build.
    Debug,
}

/// The files of the example.
#[derive(Debug)]
pub(crate) struct Example(Vec<(&'static str, String)>);

impl Example {
    /// Those built in, or those of a checkout.
    pub(crate) fn load(checkout: Option<&Path>) -> Result<Self, CliError> {
        let load = |(path, content): &(&'static str, &str)| match checkout {
            None => Ok((*path, (*content).to_owned())),
            Some(root) => {
                let file: PathBuf = root.join(path);
                let read = fs::read_to_string(&file);
                let content = read.map_err(|error| {
                    CliError::io("read", &file, &error)
                        .hint("--workspace names a checkout of netbuild; without it, the example built in is taken")
                })?;
                Ok((*path, content))
            }
        };
        FILES.iter().map(load).collect::<Result<_, _>>().map(Self)
    }

    /// Writes a workspace.
    pub(crate) fn write(&self, root: &Path, build: Build) -> Result<(), CliError> {
        for (path, content) in &self.0 {
            let file = root.join(path);
            let parent = file.parent().unwrap_or(root);
            fs::create_dir_all(parent).map_err(|error| CliError::io("make", parent, &error))?;
            fs::write(&file, content).map_err(|error| CliError::io("write", &file, &error))?;
        }
        match build {
            Build::Release => Ok(()),
            Build::Debug => DEBUG.iter().try_for_each(|edit| edit.apply(root)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_whole_example_is_built_in() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (mut found, mut open) = (BTreeSet::new(), vec![root.join("tests/workload")]);
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.remove("tests/workload/README.md");
        found.insert("graph.json".to_owned());
        assert_eq!(found, FILES.iter().map(|(path, _)| (*path).to_owned()).collect());
    }

    #[test]
    fn every_edit_finds_its_line_and_changes_it() {
        let place = tempfile::tempdir().unwrap();
        let example = Example::load(None).unwrap();
        example.write(place.path(), Build::Debug).unwrap();
        let graph = fs::read_to_string(place.path().join("graph.json")).unwrap();
        assert!(graph.contains("debuginfo=2") && !graph.contains("strip=symbols"));
        for edit in [A_CONSTANT, THE_VERSION] {
            let read = || fs::read_to_string(place.path().join(edit.file)).unwrap();
            let before = read();
            edit.apply(place.path()).unwrap();
            let after = read();
            let changed = before.lines().zip(after.lines()).filter(|(a, b)| a != b).count();
            assert_eq!(changed, 1, "{edit:?}");
            assert!(edit.apply(place.path()).is_err());
        }
    }

    #[test]
    fn a_directory_that_is_no_checkout_is_refused_with_advice() {
        let place = tempfile::tempdir().unwrap();
        let error = format!("{:?}", Example::load(Some(place.path())).unwrap_err());
        assert!(error.contains("graph.json") && error.contains("checkout"), "{error}");
    }
}
