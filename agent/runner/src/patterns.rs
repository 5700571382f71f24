//! The patterns of outputs of a graph. That two of them meet shows only when tasks run.

use netbuild_core::{
    glob::Glob,
    graph::{Graph, TaskId},
    key::OutputShape,
};
use std::collections::HashMap;

/// Patterns whose matches their tasks remove before they run, by the directory that they begin with.
#[derive(Debug, Default)]
pub(crate) struct Patterns(HashMap<Vec<u8>, Vec<(TaskId, Glob)>>);

impl Patterns {
    pub(crate) fn of(graph: &Graph) -> Self {
        let mut patterns = Self::default();
        for (id, task) in graph.iter().filter(|(_, task)| task.clean) {
            let outputs = task.outputs.iter().flatten();
            for output in outputs.filter(|output| output.shape == OutputShape::Glob) {
                // One that is none was reported with the graph.
                let Ok(glob) = Glob::new(&output.pattern) else { continue };
                let start = glob.literal_prefix().as_bytes().to_vec();
                patterns.0.entry(start).or_default().push((id, glob));
            }
        }
        patterns
    }

    /// A task other than `id` whose pattern matches `path`.
    pub(crate) fn other_owner(&self, id: TaskId, path: &[u8]) -> Option<TaskId> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let directories = slashes.map(|(at, _)| &path[..at]).chain([&b""[..]]);
        let near = directories.filter_map(|directory| self.0.get(directory)).flatten();
        let mut others = near.filter(|(owner, glob)| *owner != id && glob.matches(path));
        others.next().map(|(owner, _)| *owner)
    }
}
