//! An index of the places that outputs claim, to be asked which of them a pattern meets.

use super::{outputs::Output, resolve::Checked};
use crate::{glob::Glob, key::OutputShape};

/// A name that no file has: what matches it in a directory matches whatever is there.
const PROBE: &str = "\u{1}";

/// One output of one task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Claim {
    pub(super) task: u32,
    /// Its index in the task's outputs.
    pub(super) output: u32,
}

/// Claims in the order of their paths, so that all in one directory are neighbours.
pub(super) struct Claims<'c> {
    tasks: &'c [Checked],
    sorted: Vec<(Vec<u8>, Claim)>,
}

/// A path as a sort key: with `/` before every other byte, what is in a directory follows it
/// directly.
pub(super) fn path_key(path: &str) -> Vec<u8> {
    if path == "." {
        return Vec::new();
    }
    let bytes = path.bytes();
    bytes.map(|b| if b == b'/' { 0 } else { b }).collect()
}

/// Whether a path key names something in the directory of another, or the same.
pub(super) fn is_within(key: &[u8], directory: &[u8]) -> bool {
    let rest = key.strip_prefix(directory);
    rest.is_some_and(|rest| directory.is_empty() || matches!(rest.first(), None | Some(0)))
}

impl<'c> Claims<'c> {
    pub(super) fn new(tasks: &'c [Checked]) -> Self {
        let mut sorted = Vec::new();
        for (task, checked) in (0..).zip(tasks) {
            for (output, declared) in (0..).zip(&checked.outputs) {
                let place = match &declared.glob {
                    Some(glob) => glob.literal_prefix(),
                    None => &declared.declaration.pattern,
                };
                sorted.push((path_key(place), Claim { task, output }));
            }
        }
        sorted.sort();
        Self { tasks, sorted }
    }

    pub(super) fn output(&self, claim: Claim) -> &'c Output {
        &self.tasks[claim.task as usize].outputs[claim.output as usize]
    }

    /// The claims that are sure to meet what `glob` matches. Each claim that had to be looked at
    /// takes one from `budget`; `None` when it is used up.
    pub(super) fn meeting(&self, glob: &Glob, budget: &mut usize) -> Option<Vec<Claim>> {
        let prefix = path_key(glob.literal_prefix());
        let mut met = Vec::new();
        let mut look = |range: &[(Vec<u8>, Claim)]| {
            *budget = budget.checked_sub(range.len())?;
            let claims = range.iter().map(|(_, claim)| *claim);
            met.extend(claims.filter(|claim| meets(glob, self.output(*claim))));
            Some(())
        };
        // The directories above the prefix, whose claims may take it in, from the top.
        let above = prefix.iter().enumerate().filter(|(_, byte)| **byte == 0);
        let ends = std::iter::once(0).chain(above.map(|(at, _)| at));
        for end in ends.filter(|end| *end < prefix.len()) {
            let key = &prefix[..end];
            let start = self.sorted.partition_point(|(k, _)| &**k < key);
            let same = self.sorted[start..].partition_point(|(k, _)| k == key);
            look(&self.sorted[start..start + same])?;
        }
        let start = self.sorted.partition_point(|(k, _)| *k < prefix);
        let within = self.sorted[start..].partition_point(|(k, _)| is_within(k, &prefix));
        look(&self.sorted[start..start + within])?;
        Some(met)
    }
}

/// Whether a pattern is sure to meet an output: it names the output, everything in its directory,
/// or something inside of it.
pub(super) fn meets(glob: &Glob, output: &Output) -> bool {
    let place = output.declaration.pattern.as_str();
    let inside = || {
        let rest = glob.literal_prefix().strip_prefix(place);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match (output.declaration.shape, &output.glob) {
        (OutputShape::Glob, Some(other)) => {
            let directory = other.literal_prefix();
            glob == &**other
                || matches_all_in(glob, directory)
                || (glob.is_literal() && other.matches(glob.as_str().as_bytes()))
        }
        (OutputShape::Tree, _) => {
            glob.matches(place.as_bytes()) || matches_all_in(glob, place) || inside()
        }
        _ => glob.matches(place.as_bytes()) || inside(),
    }
}

fn matches_all_in(glob: &Glob, directory: &str) -> bool {
    match directory {
        "" => glob.matches(PROBE.as_bytes()),
        _ => glob.matches(format!("{directory}/{PROBE}").as_bytes()),
    }
}
