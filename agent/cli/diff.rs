//! The difference of two texts, as patches have it.

/// Lines around a change.
const CONTEXT: usize = 3;
/// Largest table of common lines; beyond it the changed part is shown as replaced as a whole.
const MAX_TABLE: usize = 4_000_000;

/// A line of both texts, or of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line<'t> {
    Same(&'t str),
    Old(&'t str),
    New(&'t str),
}

/// The change from `old` to `new` of a file; empty when they are the same.
pub(crate) fn unified(name: &str, old: &str, new: &str) -> String {
    let lines = lines(old, new);
    let changed: Vec<usize> =
        (0..lines.len()).filter(|at| !matches!(lines[*at], Line::Same(_))).collect();
    let mut text = String::new();
    let mut next = 0;
    while next < changed.len() {
        // A hunk goes on while changes are so near that their contexts touch.
        let mut last = next;
        while changed.get(last + 1).is_some_and(|at| at - changed[last] <= 2 * CONTEXT + 1) {
            last += 1;
        }
        let start = changed[next].saturating_sub(CONTEXT);
        let end = (changed[last] + CONTEXT + 1).min(lines.len());
        let count = |lines: &[Line<'_>], new: bool| {
            let other = |line: &Line<'_>| match line {
                Line::Same(_) => true,
                Line::Old(_) => !new,
                Line::New(_) => new,
            };
            lines.iter().filter(|line| other(line)).count()
        };
        let (hunk, before) = (&lines[start..end], &lines[..start]);
        let range = |new: bool| {
            let (first, length) = (count(before, new), count(hunk, new));
            // An empty range is said to be after the line before it.
            format!("{},{length}", if length == 0 { first } else { first + 1 })
        };
        if text.is_empty() {
            text = format!("--- {name}\n+++ {name}\n");
        }
        text += &format!("@@ -{} +{} @@\n", range(false), range(true));
        for line in hunk {
            text += &match line {
                Line::Same(line) => format!(" {line}\n"),
                Line::Old(line) => format!("-{line}\n"),
                Line::New(line) => format!("+{line}\n"),
            };
        }
        next = last + 1;
    }
    text
}

fn lines<'t>(old: &'t str, new: &'t str) -> Vec<Line<'t>> {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let rest = old[head..].iter().rev().zip(new[head..].iter().rev());
    let tail = rest.take_while(|(a, b)| a == b).count();
    let (from, to) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut all: Vec<_> = old[..head].iter().map(|line| Line::Same(line)).collect();
    if from.len().saturating_mul(to.len()) > MAX_TABLE {
        all.extend(from.iter().map(|line| Line::Old(line)));
        all.extend(to.iter().map(|line| Line::New(line)));
    } else {
        all.extend(middle(from, to));
    }
    all.extend(old[old.len() - tail..].iter().map(|line| Line::Same(line)));
    all
}

/// By the longest common subsequence.
fn middle<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    let width = new.len() + 1;
    let mut common = vec![0_u32; (old.len() + 1) * width];
    for a in (0..old.len()).rev() {
        for b in (0..new.len()).rev() {
            common[a * width + b] = match old[a] == new[b] {
                true => common[(a + 1) * width + b + 1] + 1,
                false => common[(a + 1) * width + b].max(common[a * width + b + 1]),
            };
        }
    }
    let (mut a, mut b) = (0, 0);
    let mut lines = Vec::new();
    while a < old.len() || b < new.len() {
        if a < old.len() && b < new.len() && old[a] == new[b] {
            lines.push(Line::Same(old[a]));
            (a, b) = (a + 1, b + 1);
        } else if b == new.len()
            || a < old.len() && common[(a + 1) * width + b] >= common[a * width + b + 1]
        {
            lines.push(Line::Old(old[a]));
            a += 1;
        } else {
            lines.push(Line::New(new[b]));
            b += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_as_patch_reads_them() {
        let old: String = (1..=20).map(|line| format!("{line}\n")).collect();
        let new = old.replace("\n5\n", "\nfive\n5b\n").replace("19\n", "");
        assert_eq!(
            unified("f", &old, &new),
            "--- f\n+++ f\n@@ -2,7 +2,8 @@\n 2\n 3\n 4\n-5\n+five\n+5b\n 6\n 7\n 8\n\
             @@ -16,5 +17,4 @@\n 16\n 17\n 18\n-19\n 20\n"
        );
        assert_eq!(unified("f", &old, &old), "");
        assert_eq!(unified("f", "", "a\n"), "--- f\n+++ f\n@@ -0,0 +1,1 @@\n+a\n");
    }
}
