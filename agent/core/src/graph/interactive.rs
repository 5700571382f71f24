//! The field `interactive`: tasks that have the terminal of the run, and what that excludes.

use super::{
    code,
    file::Entry,
    report::{Report, quote},
    task::Task,
};

/// Reports what a task that has the terminal cannot have.
pub(super) fn check(entry: &Entry<'_>, task: &Task, report: &mut Report) {
    let fields = &entry.fields;
    let Some(at) = fields.interactive else { return };
    let (what, hint) = if fields.service.is_some() {
        ("is persistent", "a service stays beside others, and only one command has the terminal")
    } else if fields.caches_at.is_some() {
        ("is cached", "what a person says to it is not known before; leave `cache` out")
    } else if fields.pool.is_some() {
        ("is in a pool", "such tasks share the terminal, which one has at a time; leave `pool` out")
    } else if task.command.is_none() {
        ("has no command", "leave `interactive` out")
    } else {
        return;
    };
    let message = format!("{} is interactive and {what}", quote(&entry.name));
    report.error_with(at, code::INTERACTIVE, message, hint.to_owned());
}
