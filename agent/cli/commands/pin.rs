//! `netbuild pin` and `netbuild unpin`.

use super::{existing, keys_in, print, print_json_of};
use crate::{
    args::{GraphFileArgs, PinArgs, UnpinArgs},
    errors::CliError,
    settings,
    text::clean,
};
use netbuild_core::{
    digest::{Digest, Hash},
    evict::Pin,
    key::ActionKey,
};
use netbuild_node::Session;
use std::process::ExitCode;

pub(crate) fn pin(args: &PinArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    if args.what.is_empty() {
        return list(&existing(&settings)?, args.json);
    }
    let pins = resolve(&args.what, &args.graph)?;
    let session = super::session(&settings)?;
    for (pin, label) in pins {
        session.pin(pin, &label)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn unpin(args: &UnpinArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let session = existing(&settings)?;
    for text in &args.what {
        let mut pinned = false;
        // What is called so in the list of pins counts too: the task may have another key by now.
        let rows = session.pins()?.rows;
        let named = rows.iter().filter(|row| row.label == *text || row.what == *text);
        let mut pins: Vec<Pin> = named.filter_map(|row| row.what.parse().ok()).collect();
        if pins.is_empty() {
            let resolved = resolve(std::slice::from_ref(text), &args.graph)?;
            pins.extend(resolved.into_iter().map(|(pin, _)| pin));
        }
        for pin in pins {
            pinned |= session.unpin(pin)?;
        }
        if !pinned {
            let error = CliError::failed(format!("`{}` is not pinned", clean(text)));
            return Err(error.hint("`netbuild pin` lists what is"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(session: &Session, json: bool) -> Result<ExitCode, CliError> {
    let pins = session.pins()?;
    if json {
        print_json_of(&pins)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for row in &pins.rows {
        text += &row.what;
        if !row.label.is_empty() {
            text += &format!("  {}", clean(&row.label));
        }
        text.push('\n');
    }
    print(&text);
    Ok(ExitCode::SUCCESS)
}

/// What is meant: the digest of a blob, an action key, or a task that was run here.
fn resolve(what: &[String], graph: &GraphFileArgs) -> Result<Vec<(Pin, String)>, CliError> {
    let tasks = keys_in(graph)?;
    what.iter().map(|text| one(text, &tasks)).collect()
}

fn one(text: &str, tasks: &[(String, String)]) -> Result<(Pin, String), CliError> {
    let action = |hash: Hash| Pin::Action(ActionKey(hash.0));
    if let Some((name, key)) = tasks.iter().find(|(name, _)| name == text)
        && let Ok(key) = key.parse::<Hash>()
    {
        return Ok((action(key), name.clone()));
    }
    if let Ok(blob) = text.parse::<Digest>() {
        return Ok((Pin::Blob(blob), String::new()));
    }
    text.parse::<Hash>().map(|key| (action(key), String::new())).map_err(|_| {
        CliError::failed(format!(
            "`{}` is neither a digest, nor an action key, nor a task that was run here",
            clean(text)
        ))
        .hint("tasks are looked up in the workspace of the graph: run it there first, or name another --graph")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_a_key_and_a_digest_are_told_apart() {
        let key = ActionKey([7; 32]);
        let tasks = [("lib:build".to_owned(), key.to_string())];
        let pinned = |text: &str| one(text, &tasks).ok();
        assert_eq!(pinned("lib:build"), Some((Pin::Action(key), "lib:build".to_owned())));
        assert_eq!(pinned(&key.to_string()), Some((Pin::Action(key), String::new())));
        let blob = Digest::of(b"x");
        assert_eq!(pinned(&blob.to_string()), Some((Pin::Blob(blob), String::new())));
        assert_eq!(pinned("lib"), None);
    }
}
