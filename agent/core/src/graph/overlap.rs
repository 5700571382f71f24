//! No two outputs may claim the same place, also not on file systems that ignore case.

use super::{
    claims::{Claim, Claims, is_within, path_key},
    code,
    report::{Report, quote},
    resolve::Checked,
};

/// Comparisons of patterns with outputs that one file may cost; about a second.
const MAX_COMPARISONS: usize = 5_000_000;

pub(super) fn check(tasks: &[Checked], report: &mut Report) {
    let claims = Claims::new(tasks);
    let exact = nested(tasks, path_key);
    for (inner, outer) in &exact {
        overlapping(tasks, &claims, *inner, *outer, report);
    }
    let blind = nested(tasks, |path| path_key(&path.to_lowercase()));
    for (inner, outer) in &blind {
        let (a, b) = (claims.output(*inner), claims.output(*outer));
        let (a_key, b_key) = (path_key(&a.declaration.pattern), path_key(&b.declaration.pattern));
        if is_within(&a_key, &b_key) || is_within(&b_key, &a_key) {
            continue;
        }
        let (later, earlier) = if a.at < b.at { (b, a) } else { (a, b) };
        let message = format!(
            "outputs {} and {} differ only in case",
            quote(&later.declaration.pattern),
            quote(&earlier.declaration.pattern)
        );
        let hint = "they are one file on macOS and Windows".to_owned();
        report.error_with(later.at, code::CASE, message, hint);
    }
    check_patterns(tasks, &claims, report);
}

/// Pairs of paths of which the first is the second, or inside of it; for each path at most one.
fn nested(tasks: &[Checked], key: impl Fn(&str) -> Vec<u8>) -> Vec<(Claim, Claim)> {
    let mut sorted = Vec::new();
    for (task, checked) in (0..).zip(tasks) {
        for (output, declared) in (0..).zip(&checked.outputs) {
            if declared.glob.is_none() {
                let key = key(&declared.declaration.pattern);
                sorted.push((key, Claim { task, output }));
            }
        }
    }
    sorted.sort();
    let mut pairs = Vec::new();
    let mut open: Vec<&(Vec<u8>, Claim)> = Vec::new();
    for entry in &sorted {
        while open.last().is_some_and(|outer| !is_within(&entry.0, &outer.0)) {
            open.pop();
        }
        if let Some(outer) = open.last() {
            pairs.push((entry.1, outer.1));
        }
        open.push(entry);
    }
    pairs
}

/// Patterns against the outputs of other tasks. Two patterns that only might meet are compared
/// when their tasks run.
fn check_patterns(tasks: &[Checked], claims: &Claims<'_>, report: &mut Report) {
    let mut budget = MAX_COMPARISONS;
    for (task, checked) in (0..).zip(tasks) {
        for (output, declared) in (0..).zip(&checked.outputs) {
            let Some(glob) = &declared.glob else {
                continue;
            };
            let Some(met) = claims.meeting(glob, &mut budget) else {
                let message = "too many patterns in outputs to compare them all".to_owned();
                let hint = "overlaps show when the tasks run";
                report.warn(declared.at, code::OVERLAP, message, hint);
                return;
            };
            let here = Claim { task, output };
            // Of two patterns that meet each other, the later one is reported.
            let earlier = |other: &Claim| claims.output(*other).glob.is_none() || *other < here;
            for other in met.into_iter().filter(|other| other.task != task && earlier(other)) {
                overlapping(tasks, claims, here, other, report);
            }
        }
    }
}

fn overlapping(tasks: &[Checked], claims: &Claims<'_>, a: Claim, b: Claim, report: &mut Report) {
    let (later, earlier) = if claims.output(a).at < claims.output(b).at { (b, a) } else { (a, b) };
    let show = |claim: Claim| quote(&claims.output(claim).declaration.pattern);
    let owner = |claim: Claim| quote(&tasks[claim.task as usize].task.name);
    let (one, other) = (show(later), show(earlier));
    let message = if later.task == earlier.task {
        format!("output {one} of {} is declared already by {other}", owner(later))
    } else {
        format!("output {one} of {} overlaps output {other} of {}", owner(later), owner(earlier))
    };
    let hint = "each path has one owner: declare it once".to_owned();
    report.error_with(claims.output(later).at, code::OVERLAP, message, hint);
}
