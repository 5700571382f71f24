//! An input that is the output of another task needs a dependency on it, and an input that is the
//! task's own output makes its key depend on its result.

use super::{
    claims::{Claim, Claims, meets},
    code,
    report::{Report, quote},
    resolve::Checked,
};
use crate::glob::Glob;
use std::{collections::HashMap, sync::Arc};

/// Comparisons of inputs with outputs, and steps through the graph, that one file may cost; a
/// second or two together.
const MAX_COMPARISONS: usize = 20_000_000;
const MAX_STEPS: usize = 50_000_000;

/// Reports own inputs and missing edges; the graph must have no cycle.
pub(super) fn check(tasks: &[Checked], report: &mut Report) {
    let claims = Claims::new(tasks);
    let mut known: HashMap<*const Glob, Vec<Claim>> = HashMap::new();
    let mut comparisons = MAX_COMPARISONS;
    let mut paths = Paths::new(tasks);
    for (consumer, checked) in (0..).zip(tasks) {
        let mut met: Vec<(Claim, usize)> = Vec::new();
        for (index, input) in checked.task.inputs.iter().flatten().enumerate() {
            if input.negated {
                continue;
            }
            let all = match known.entry(Arc::as_ptr(&input.glob)) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    match claims.meeting(&input.glob, &mut comparisons) {
                        Some(met) => entry.insert(met),
                        None => return gave_up(checked, report),
                    }
                }
            };
            match comparisons.checked_sub(all.len()) {
                Some(left) => comparisons = left,
                None => return gave_up(checked, report),
            }
            met.extend(all.iter().map(|claim| (*claim, index)));
        }
        let removing = checked.task.inputs.iter().flatten().filter(|i| i.negated);
        match comparisons.checked_sub(met.len().saturating_mul(removing.count())) {
            Some(left) => comparisons = left,
            None => return gave_up(checked, report),
        }
        met.retain(|(claim, index)| selects(checked, *index, &claims, *claim));
        // One finding for each pair of tasks.
        met.sort_by_key(|(claim, index)| (claim.task, *index, claim.output));
        met.dedup_by_key(|(claim, _)| claim.task);
        let producers = met.iter().map(|(claim, _)| claim.task);
        let Some(unreached) = paths.unreached(consumer, producers) else {
            return gave_up(checked, report);
        };
        for (claim, index) in met {
            if claim.task == consumer {
                own_input(checked, &claims, claim, index, report);
            } else if unreached.contains(&claim.task) {
                let back = paths.unreached(claim.task, std::iter::once(consumer));
                let waits = back.is_some_and(|unreached| unreached.is_empty());
                missing_edge(tasks, &claims, consumer, claim, index, waits, report);
            }
        }
    }
}

/// Whether an input still selects an output after the `!` patterns behind it.
fn selects(consumer: &Checked, index: usize, claims: &Claims<'_>, claim: Claim) -> bool {
    let inputs = consumer.task.inputs.as_deref().unwrap_or_default();
    let later = inputs[index + 1..].iter().filter(|input| input.negated);
    let mut removing = later.map(|input| &input.glob);
    let output = claims.output(claim);
    let removed = removing.any(|glob| meets(glob, output));
    !removed
}

fn own_input(task: &Checked, claims: &Claims<'_>, claim: Claim, index: usize, report: &mut Report) {
    let output = &claims.output(claim).declaration.pattern;
    let message = format!(
        "input {} of {} takes in its own output {}",
        input_text(task, index),
        quote(&task.task.name),
        quote(output)
    );
    let hint = format!("add \"!{output}\" behind it, or write the output elsewhere");
    report.error_with(task.inputs[index], code::OWN_INPUT, message, hint);
}

fn missing_edge(
    tasks: &[Checked],
    claims: &Claims<'_>,
    consumer: u32,
    claim: Claim,
    index: usize,
    producer_waits: bool,
    report: &mut Report,
) {
    let (task, producer) = (&tasks[consumer as usize], &tasks[claim.task as usize]);
    let output = &claims.output(claim).declaration.pattern;
    let (name, other) = (quote(&task.task.name), quote(&producer.task.name));
    let message = format!(
        "input {} of {name} takes in output {} of {other}, but {name} does not depend on {other}",
        input_text(task, index),
        quote(output)
    );
    let hint = if producer_waits {
        format!("{other} depends on {name}; add \"!{output}\" to the inputs of {name}")
    } else {
        format!("add \"{}\" to `deps` of {name}", producer.task.name)
    };
    report.error_with(task.inputs[index], code::MISSING_EDGE, message, hint);
}

fn input_text(task: &Checked, index: usize) -> String {
    let inputs = task.task.inputs.as_deref().unwrap_or_default();
    quote(inputs[index].glob.as_str())
}

fn gave_up(task: &Checked, report: &mut Report) {
    let message = "too many inputs and outputs to compare them all".to_owned();
    let hint = "dependencies that are missing from here on are not reported";
    report.warn(task.at, code::MISSING_EDGE, message, hint);
}

/// Which tasks a task waits for. A walk never goes below the level of what it looks for, so that
/// neighbours in a long chain are found in a few steps.
struct Paths<'c> {
    tasks: &'c [Checked],
    /// The longest way from a task to one without dependencies.
    levels: Vec<u32>,
    /// The walk in which a task was seen last.
    seen: Vec<u32>,
    walk: u32,
    steps: usize,
}

impl<'c> Paths<'c> {
    fn new(tasks: &'c [Checked]) -> Self {
        Self { tasks, levels: levels(tasks), seen: vec![0; tasks.len()], walk: 0, steps: MAX_STEPS }
    }

    /// Those of `wanted` that `from` does not wait for; `None` when the steps are used up.
    fn unreached(&mut self, from: u32, wanted: impl Iterator<Item = u32>) -> Option<Vec<u32>> {
        let mut wanted: Vec<_> = wanted.filter(|task| *task != from).collect();
        if wanted.is_empty() {
            return Some(wanted);
        }
        let lowest = wanted.iter().map(|task| self.levels[*task as usize]).min()?;
        self.walk += 1;
        let mut pending = vec![from];
        while let Some(task) = pending.pop() {
            let deps = &self.tasks[task as usize].task.deps;
            self.steps = self.steps.checked_sub(deps.len())?;
            for dep in deps.iter().map(|dep| dep.task.index()) {
                if self.seen[dep] != self.walk && self.levels[dep] >= lowest {
                    self.seen[dep] = self.walk;
                    pending.push(dep as u32);
                }
            }
        }
        wanted.retain(|task| self.seen[*task as usize] != self.walk);
        Some(wanted)
    }
}

fn levels(tasks: &[Checked]) -> Vec<u32> {
    let mut levels = vec![0; tasks.len()];
    let mut done = vec![false; tasks.len()];
    for root in 0..tasks.len() {
        let mut walk = vec![(root, 0)];
        while let Some((task, next)) = walk.last_mut() {
            if done[*task] {
                walk.pop();
                continue;
            }
            let Some(dep) = tasks[*task].task.deps.get(*next) else {
                done[*task] = true;
                walk.pop();
                continue;
            };
            let dep = dep.task.index();
            if done[dep] {
                levels[*task] = levels[*task].max(levels[dep] + 1);
                *next += 1;
            } else {
                walk.push((dep, 0));
            }
        }
    }
    levels
}
