//! The field `persistent`: tasks that stay, and what that excludes.

use super::{
    code,
    file::Entry,
    read::{array, at, integer, mismatch, object, string, strings, unknown_field},
    report::{Report, quote},
    task::{Readiness, Service, Task},
    values,
};
use jsonc_parser::ast::{ObjectProp, Value};
use std::time::Duration;

/// Time that a service has to become ready where the file does not say.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// `true`, or an object that says when it is ready; `false` is no service.
pub(super) fn persistent(report: &mut Report, value: &Value<'_>) -> Option<Service> {
    let mut service = Service { ready_when: Readiness::Started, timeout: READY_TIMEOUT };
    match value {
        Value::BooleanLit(stays) => return stays.value.then_some(service),
        Value::Object(_) => {}
        _ => {
            mismatch(report, value, "persistent", "true, false or {ready_when, timeout}");
            return None;
        }
    }
    for property in &object(report, value, "persistent")?.properties {
        match property.name.as_str() {
            "ready_when" => {
                if let Some(ready_when) = ready_when(report, &property.value) {
                    service.ready_when = ready_when;
                }
            }
            "timeout" => {
                service.timeout = values::timeout(report, &property.value).unwrap_or(READY_TIMEOUT);
            }
            _ => {
                let known = ["ready_when", "timeout"];
                unknown_field(report, property, "`persistent`", &known, &[]);
            }
        }
    }
    Some(service)
}

fn ready_when(report: &mut Report, value: &Value<'_>) -> Option<Readiness> {
    let fields = &object(report, value, "ready_when")?.properties;
    if fields.len() != 1 {
        let message = "`ready_when` has one of `line`, `port` and `cmd`".to_owned();
        report.error(at(value), code::VALUE, message);
    }
    fields.first().and_then(|property| one_condition(report, property))
}

fn one_condition(report: &mut Report, property: &ObjectProp<'_>) -> Option<Readiness> {
    let (name, value) = (property.name.as_str(), &property.value);
    match name {
        "line" => {
            let text = string(report, value, name)?;
            if text.value.is_empty() || text.value.contains('\n') {
                let message = "`line` must be a part of one line".to_owned();
                report.error(text.at, code::VALUE, message);
            }
            Some(Readiness::Line(text.value.to_owned()))
        }
        "port" => {
            let port = integer(report, value, name, code::RANGE, 1..=i64::from(u16::MAX))?;
            Some(Readiness::Port(port as u16))
        }
        "cmd" => {
            let arguments: Vec<String> = match value {
                Value::StringLit(text) => {
                    vec!["/bin/sh".to_owned(), "-c".to_owned(), text.value.to_string()]
                }
                _ => {
                    array(report, value, name)?;
                    let texts = strings(report, value, name)?;
                    texts.iter().map(|text| text.value.to_owned()).collect()
                }
            };
            let empty = |text: &String| text.trim().is_empty();
            if arguments.first().is_none_or(empty)
                || arguments.last().is_none_or(|last| arguments.len() == 3 && empty(last))
                || arguments.iter().any(|text| text.contains('\0'))
            {
                let message = "an empty command, or a NUL in it".to_owned();
                report.error(at(value), code::COMMAND, message);
            }
            Some(Readiness::Command(arguments))
        }
        _ => {
            let known = ["line", "port", "cmd"];
            unknown_field(report, property, "`ready_when`", &known, &[]);
            None
        }
    }
}

/// Reports what a service cannot have.
pub(super) fn check(entry: &Entry<'_>, task: &Task, report: &mut Report) {
    let name = quote(&entry.name);
    if let Some(service) = &entry.fields.service {
        let what = if task.outputs.as_ref().is_some_and(|outputs| !outputs.is_empty()) {
            "has outputs"
        } else if entry.fields.caches_at.is_some() {
            "is cached"
        } else if task.command.is_none() {
            "has no command"
        } else {
            return;
        };
        let message = format!("{name} is persistent and {what}");
        let hint = "a service leaves nothing that could be cached; make files in a task before it";
        report.error_with(service.at, code::SERVICE, message, hint.to_owned());
    }
}

/// Reports a task that takes the outputs of a service as inputs.
pub(super) fn check_edge(entry: &Entry<'_>, needed: &Entry<'_>, at: u32, report: &mut Report) {
    if needed.fields.service.is_none() {
        return;
    }
    let (name, service) = (quote(&entry.name), quote(&needed.name));
    let message = format!("{name} depends on the data of {service}, which is persistent");
    let hint = format!("write {{\"task\": \"{}\", \"kind\": \"order\"}}", needed.name);
    report.error_with(at, code::SERVICE, message, hint);
}
