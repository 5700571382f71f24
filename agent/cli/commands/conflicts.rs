//! `netbuild conflicts`.

use super::{agent_of, keys_in, now_ms, print, print_rows};
use crate::{
    args::ConflictsArgs,
    errors::{CliError, EXIT_FAILED},
    settings,
    table::{Align, Look, Style, Table},
    text::{ago, clean, count, known, region, short_digest, short_peer},
};
use netbuild_proto::control::{ConflictRow, Version};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    process::ExitCode,
};

pub(crate) fn conflicts(args: &ConflictsArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let (agent, _) = agent_of(&settings)?;
    let mut conflicts = agent.conflicts()?;
    let tasks = keys_in(&args.graph)?;
    for row in conflicts.rows.iter_mut().filter(|row| row.task_hint.is_empty()) {
        if let Some((task, _)) = tasks.iter().find(|(_, key)| *key == row.key) {
            row.task_hint.clone_from(task);
        }
    }
    if args.json {
        print_rows(&conflicts)?;
    } else {
        let style = Style::of_stdout(std::io::stdout().is_terminal());
        print(&to_text(&conflicts.rows, conflicts.left_out, now_ms(), style));
    }
    let failed = args.fail && !(conflicts.rows.is_empty() && conflicts.left_out == 0);
    Ok(if failed { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS })
}

fn to_text(conflicts: &[ConflictRow], left_out: u64, now_ms: u64, style: Style) -> String {
    if conflicts.is_empty() && left_out == 0 {
        return "no conflicts: for every action there is one result\n".to_owned();
    }
    let mut text = String::new();
    for conflict in conflicts {
        text += &one_to_text(conflict, now_ms, style);
        text.push('\n');
    }
    let all = conflicts.len() as u64 + left_out;
    text += &format!(
        "{} with results that differ: the command does not always do the same\n",
        count(all, "action")
    );
    if left_out > 0 {
        text += &format!("{left_out} of them not shown\n");
    }
    text
}

fn one_to_text(conflict: &ConflictRow, now_ms: u64, style: Style) -> String {
    let key = clean(&conflict.key);
    let name = match conflict.task_hint.as_str() {
        "" => Look::Bold.paint(&key, style),
        task => format!("{} ({key})", Look::Bold.paint(&clean(task), style)),
    };
    let mut results = Table::new([
        ("  result", Align::Left),
        ("by", Align::Left),
        ("region", Align::Left),
        ("when", Align::Left),
        ("trust", Align::Left),
        ("exit code", Align::Right),
    ]);
    let versions = || std::iter::once(&conflict.kept).chain(&conflict.others);
    for (index, version) in versions().enumerate() {
        results.row([
            format!("  {}", result_name(index)).into(),
            short_peer(&version.writer).into(),
            region(&version.region).into(),
            ago(version.hlc_ms, now_ms).into(),
            version.trust.as_str().into(),
            version.exit_code.to_string().into(),
        ]);
    }
    let versions: Vec<_> = versions().collect();
    format!("{name}\n{}{}", results.to_text(style), differing(&versions, style))
}

/// The result that is served is called `kept`; the others have numbers.
fn result_name(index: usize) -> String {
    if index == 0 { "kept".to_owned() } else { format!("other {index}") }
}

/// The outputs that are not the same in all results.
fn differing(versions: &[&Version], style: Style) -> String {
    let outputs: Vec<BTreeMap<_, _>> = versions
        .iter()
        .map(|version| {
            version.outputs.iter().map(|output| (&*output.path, &*output.digest)).collect()
        })
        .collect();
    let paths: BTreeSet<&str> = outputs.iter().flat_map(|all| all.keys().copied()).collect();
    let digests = |path: &str| outputs.iter().map(|all| all.get(path).copied()).collect::<Vec<_>>();
    let differ = |path: &&str| digests(path).windows(2).any(|pair| pair[0] != pair[1]);
    let paths: Vec<_> = paths.into_iter().filter(differ).collect();
    if paths.is_empty() {
        return "  every output is the same\n".to_owned();
    }
    let names = (0..versions.len()).map(result_name);
    let mut table = Table::new(
        std::iter::once("  output that differs".to_owned())
            .chain(names)
            .map(|name| (name, Align::Left)),
    );
    for path in paths {
        let cells = digests(path).into_iter().map(|digest| known(digest, short_digest).into());
        table.row(std::iter::once(format!("  {path}").into()).chain(cells));
    }
    table.to_text(style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_proto::control::Output;

    fn version(writer: &str, outputs: &[(&str, &str)]) -> Version {
        let output = |(path, digest): &(&str, &str)| Output {
            path: (*path).to_owned(),
            digest: (*digest).to_owned(),
        };
        Version {
            writer: writer.into(),
            region: "us-east".into(),
            hlc_ms: 1_000,
            trust: "own".into(),
            exit_code: 0,
            outputs: outputs.iter().map(output).collect(),
        }
    }

    #[test]
    fn a_conflict_tells_who_got_what_and_which_outputs_differ() {
        let conflict = ConflictRow {
            key: "0123456789abcdef".into(),
            task_hint: "services/api".into(),
            kept: version("aaaaaaaa", &[("out/api", "1111111111112222"), ("out/log", "33")]),
            others: vec![
                version("bbbbbbbb", &[("out/api", "4444"), ("out/log", "33")]),
                version("cccccccc", &[("out/log", "33")]),
            ],
        };
        assert_eq!(
            to_text(&[conflict], 0, 11_000, Style::default()),
            "services/api (0123456789abcdef)\n  \
               result   by        region   when      trust  exit code\n  \
               kept     aaaaaaaa  us-east  10 s ago  own            0\n  \
               other 1  bbbbbbbb  us-east  10 s ago  own            0\n  \
               other 2  cccccccc  us-east  10 s ago  own            0\n  \
               output that differs  kept          other 1  other 2\n  \
               out/api              111111111111  4444     -\n\
             \n\
             1 action with results that differ: the command does not always do the same\n"
        );
    }

    #[test]
    fn no_conflicts_and_a_conflict_of_exit_codes_are_told_apart() {
        assert!(to_text(&[], 0, 0, Style::default()).starts_with("no conflicts"));
        let (kept, other) = (version("a", &[("out", "1")]), version("b", &[("out", "1")]));
        let others = vec![Version { exit_code: 1, ..other }];
        let conflict = ConflictRow { key: "k".into(), task_hint: String::new(), kept, others };
        let text = to_text(&[conflict], 2, 0, Style::default());
        assert!(text.starts_with("k\n"), "{text}");
        assert!(text.contains("every output is the same"), "{text}");
        assert!(text.ends_with("3 actions with results that differ: the command does not always do the same\n2 of them not shown\n"), "{text}");
    }
}
