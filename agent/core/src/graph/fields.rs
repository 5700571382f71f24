//! The fields of one task, or of `defaults`, as the file has them: typed, each checked on its
//! own, nothing merged.

use super::{
    code,
    outputs::{self, WrittenOutput},
    paths::{Syntax, normalise},
    read::{
        Located, array, at, boolean, integer, mismatch, name_of, object, string, strings, text,
        unknown_field, word,
    },
    report::{Report, quote},
    service,
    task::{
        CachePolicy, DependencyKind, LogPolicy, PlatformFilter, PlatformKey, Retry, SandboxWish,
        Service,
    },
    values,
};
use crate::record::Sandbox;
use jsonc_parser::ast::{Object, ObjectProp, Value};
use std::{collections::BTreeMap, time::Duration};

const TASK_FIELDS: &[&str] = &[
    "command",
    "shell",
    "deps",
    "inputs",
    "outputs",
    "working_dir",
    "cwd",
    "env",
    "pass_env",
    "secret_env",
    "tools",
    "platforms",
    "platform_key",
    "cache",
    "clean",
    "timeout",
    "retries",
    "retry",
    "key_salt",
    "description",
    "runner",
    "log",
    "priority",
    "pool",
    "weight",
    "persistent",
    "interactive",
    "dep_file",
    "sandbox",
    "network",
    "graphs",
    "parallelism",
];
const DEFAULT_FIELDS: &[&str] = &[
    "env",
    "pass_env",
    "secret_env",
    "timeout",
    "retries",
    "retry",
    "sandbox",
    "shell",
    "tools",
    "pool",
];
/// Fields of the format that this version does not have.
const LATER_FIELDS: &[&str] = &["cache_failures"];

/// Largest weight: as many slots as `--jobs` can have.
const MAX_WEIGHT: i64 = 4096;

/// Whose fields they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Task,
    Defaults,
}

#[derive(Clone, Debug)]
pub(super) enum Command<'t> {
    Text(&'t str),
    Arguments(Vec<String>),
}

#[derive(Clone, Debug)]
pub(super) struct NamedDependency<'t> {
    pub(super) name: Located<&'t str>,
    pub(super) kind: DependencyKind,
}

#[derive(Default)]
pub(super) struct Fields<'t> {
    /// It names a command or dependencies, be they good or bad.
    pub(super) has_work: bool,
    pub(super) command: Option<Located<Command<'t>>>,
    /// The arguments before the command text; none for no shell.
    pub(super) shell: Option<Vec<String>>,
    pub(super) deps: Vec<NamedDependency<'t>>,
    pub(super) inputs: Option<Vec<Located<&'t str>>>,
    pub(super) outputs: Option<Vec<WrittenOutput<'t>>>,
    pub(super) working_dir: Option<String>,
    pub(super) env: BTreeMap<&'t str, Located<&'t str>>,
    pub(super) pass_env: BTreeMap<&'t str, u32>,
    pub(super) secret_env: BTreeMap<&'t str, u32>,
    pub(super) tools: Vec<Located<&'t str>>,
    pub(super) platforms: Option<Vec<PlatformFilter>>,
    pub(super) platform_key: PlatformKey,
    pub(super) cache: CachePolicy,
    pub(super) clean: Option<bool>,
    pub(super) timeout: Option<Duration>,
    pub(super) retry: Option<Retry>,
    pub(super) key_salt: Option<String>,
    pub(super) description: Option<String>,
    pub(super) log: LogPolicy,
    pub(super) priority: i32,
    pub(super) pool: Option<Located<&'t str>>,
    pub(super) weight: Option<u32>,
    pub(super) service: Option<Located<Service>>,
    /// The place of `interactive`, when it is true.
    pub(super) interactive: Option<u32>,
    pub(super) dep_file: Option<Located<String>>,
    pub(super) sandbox: Option<Located<SandboxWish>>,
    pub(super) network: Option<bool>,
    /// The place of `cache`, when it says anything but `false`.
    pub(super) caches_at: Option<u32>,
}

impl<'t> Fields<'t> {
    pub(super) fn read(object: &Object<'t>, owner: Owner, report: &mut Report) -> Self {
        let (known, of) = match owner {
            Owner::Task => (TASK_FIELDS, "a task"),
            Owner::Defaults => (DEFAULT_FIELDS, "`defaults`"),
        };
        let mut fields = Self::default();
        for property in &object.properties {
            if !known.contains(&property.name.as_str()) {
                unknown_field(report, property, of, known, LATER_FIELDS);
            } else if !fields.read_shared(property, report) {
                fields.read_of_task(property, report);
            }
        }
        fields
    }

    /// Reads a field that `defaults` may have, too; false when it is none.
    fn read_shared(&mut self, property: &ObjectProp<'t>, report: &mut Report) -> bool {
        let (name, value) = (property.name.as_str(), &property.value);
        match name {
            "shell" => self.shell = shell(report, value),
            "env" => self.env = env(report, value),
            "pass_env" => self.pass_env = variables(report, value, name),
            "secret_env" => self.secret_env = variables(report, value, name),
            "tools" => self.tools = strings(report, value, name).unwrap_or_default(),
            "timeout" => self.timeout = values::timeout(report, value),
            "retries" | "retry" => {
                alias(report, property, name, self.retry.is_some(), "retries");
                self.retry = values::retry(report, value, name);
            }
            "sandbox" => self.sandbox = sandbox(report, value),
            "pool" => self.pool = string(report, value, name),
            _ => return false,
        }
        true
    }

    fn read_of_task(&mut self, property: &ObjectProp<'t>, report: &mut Report) {
        let (name, value) = (property.name.as_str(), &property.value);
        match name {
            "command" => {
                self.has_work = true;
                self.command = command(report, value);
            }
            "deps" => {
                let elements = array(report, value, name).unwrap_or_default();
                let deps = elements.iter().filter_map(|value| dependency(report, value));
                self.deps.extend(deps);
                self.has_work |= value.as_array().is_none_or(|deps| !deps.elements.is_empty());
            }
            "graphs" => self.nested(value, report),
            "inputs" => self.inputs = strings(report, value, name),
            "outputs" => self.outputs = outputs::read(report, value),
            "working_dir" | "cwd" => {
                alias(report, property, name, self.working_dir.is_some(), "working_dir");
                self.working_dir = working_dir(report, value, name);
            }
            "platforms" => self.platforms = values::platforms(report, value),
            "platform_key" => {
                let words = [
                    ("os-arch", PlatformKey::OsArch),
                    ("os-arch-libc", PlatformKey::OsArchLibc),
                    ("any", PlatformKey::Any),
                ];
                self.platform_key = word(report, value, name, &words).unwrap_or_default();
            }
            "cache" => {
                self.cache = cache(report, value);
                self.caches_at = (self.cache != CachePolicy::Off).then(|| at(property));
            }
            "clean" => self.clean = boolean(report, value, name),
            "key_salt" => self.key_salt = values::plain_text(report, value, name),
            "description" => {
                self.description = string(report, value, name).map(|text| text.value.to_owned());
            }
            "runner" => runner(report, value),
            "log" => {
                let words = [
                    ("full", LogPolicy::Full),
                    ("errors", LogPolicy::Errors),
                    ("none", LogPolicy::None),
                ];
                self.log = word(report, value, name, &words).unwrap_or_default();
            }
            "priority" => {
                let range = i64::from(i32::MIN)..=i64::from(i32::MAX);
                let priority = integer(report, value, name, code::VALUE, range);
                self.priority = priority.unwrap_or(0) as i32;
            }
            "weight" => {
                let weight = integer(report, value, name, code::RANGE, 1..=MAX_WEIGHT);
                self.weight = weight.map(|weight| weight as u32);
            }
            "persistent" => {
                let service = service::persistent(report, value);
                self.service = service.map(|value| Located { value, at: at(property) });
            }
            "interactive" => {
                let is_interactive = boolean(report, value, name) == Some(true);
                self.interactive = is_interactive.then(|| at(property));
            }
            "dep_file" => self.dep_file = dep_file(report, value),
            "network" => self.network = boolean(report, value, name),
            "parallelism" if values::parallelism(report, value).is_some() => {
                let message = "`max_parallel` has no effect in a task".to_owned();
                report.warn(at(property), code::NOT_SUPPORTED, message, "set it at the top level");
            }
            _ => {}
        }
    }

    /// Gaffer's `graphs` in a task: names of dependencies, or tasks of its own.
    fn nested(&mut self, value: &Value<'t>, report: &mut Report) {
        self.has_work |= match value {
            Value::Array(names) => !names.elements.is_empty(),
            Value::Object(children) => !children.properties.is_empty(),
            _ => true,
        };
        match value {
            Value::Array(names) => {
                let names = names.elements.iter();
                let deps = names.filter_map(|value| dependency(report, value));
                self.deps.extend(deps);
            }
            // Whoever reads the tasks reads these, too.
            Value::Object(_) => {}
            _ => mismatch(report, value, "graphs", "an object or an array"),
        }
    }
}

/// Reports that a field was given under both of its names.
fn alias(report: &mut Report, property: &ObjectProp<'_>, name: &str, twice: bool, main: &str) {
    if twice {
        let message = format!("`{name}` and its other name in one task");
        let hint = format!("keep `{main}` only");
        report.error_with(at(property), code::DUPLICATE, message, hint);
    }
}

fn command<'t>(report: &mut Report, value: &Value<'t>) -> Option<Located<Command<'t>>> {
    let here = at(value);
    let (value, texts) = match value {
        Value::StringLit(literal) => {
            (Command::Text(text(literal)), vec![literal.value.to_string()])
        }
        Value::Array(_) => {
            let arguments: Vec<_> = strings(report, value, "command")?
                .into_iter()
                .map(|argument| argument.value.to_owned())
                .collect();
            (Command::Arguments(arguments.clone()), arguments)
        }
        _ => {
            mismatch(report, value, "command", "a string or an array of strings");
            return None;
        }
    };
    if texts.first().is_none_or(|first| first.trim().is_empty()) {
        report.error(here, code::COMMAND, "an empty command".to_owned());
    }
    if texts.iter().any(|text| text.contains('\0')) {
        report.error(here, code::COMMAND, "a NUL in a command".to_owned());
    }
    Some(Located { value, at: here })
}

fn shell(report: &mut Report, value: &Value<'_>) -> Option<Vec<String>> {
    if matches!(value, Value::Array(_)) {
        let arguments = strings(report, value, "shell")?;
        let bad = |text: &str| text.is_empty() || text.contains('\0');
        if arguments.first().is_none_or(|first| first.value.is_empty())
            || arguments.iter().any(|argument| bad(argument.value))
        {
            let message = "an empty shell, or a NUL or nothing in its arguments".to_owned();
            report.error(at(value), code::COMMAND, message);
        }
        return Some(arguments.iter().map(|a| a.value.to_owned()).collect());
    }
    let words: [(&str, &[&str]); 3] =
        [("sh", &["/bin/sh", "-c"]), ("bash", &["bash", "-euo", "pipefail", "-c"]), ("none", &[])];
    let arguments = word(report, value, "shell", &words)?;
    Some(arguments.iter().map(|&a| a.to_owned()).collect())
}

fn dependency<'t>(report: &mut Report, value: &Value<'t>) -> Option<NamedDependency<'t>> {
    let mut kind = DependencyKind::Data;
    let name = match value {
        Value::Object(fields) => {
            let mut task = None;
            for property in &fields.properties {
                match property.name.as_str() {
                    "task" => task = string(report, &property.value, "task"),
                    "kind" => {
                        let words =
                            [("data", DependencyKind::Data), ("order", DependencyKind::Order)];
                        kind = word(report, &property.value, "kind", &words).unwrap_or(kind);
                    }
                    _ => unknown_field(report, property, "a dependency", &["task", "kind"], &[]),
                }
            }
            if fields.get("task").is_none() {
                let message = "a dependency without `task`".to_owned();
                report.error(at(value), code::VALUE, message);
            }
            task?
        }
        Value::StringLit(_) => string(report, value, "deps")?,
        _ => {
            mismatch(report, value, "a dependency", "a task name or {task, kind}");
            return None;
        }
    };
    Some(NamedDependency { name, kind })
}

fn working_dir(report: &mut Report, value: &Value<'_>, field: &str) -> Option<String> {
    let text = string(report, value, field)?;
    match normalise(text.value, Syntax::Literal) {
        Ok(normal) => Some(normal.path),
        Err(error) => {
            report.error_with(text.at, error.code, error.message, error.hint);
            None
        }
    }
}

/// `{"path": ..., "format": "gcc"}`, or the path alone.
fn dep_file(report: &mut Report, value: &Value<'_>) -> Option<Located<String>> {
    let path = match value {
        Value::StringLit(_) => string(report, value, "dep_file")?,
        Value::Object(fields) => {
            let mut path = None;
            for property in &fields.properties {
                match property.name.as_str() {
                    "path" => path = string(report, &property.value, "path"),
                    "format" => {
                        word(report, &property.value, "format", &[("gcc", ())]);
                    }
                    _ => unknown_field(report, property, "`dep_file`", &["path", "format"], &[]),
                }
            }
            if fields.get("path").is_none() {
                let message = "a `dep_file` without `path`".to_owned();
                report.error(at(value), code::VALUE, message);
            }
            path?
        }
        _ => {
            mismatch(report, value, "dep_file", "a path or {path, format}");
            return None;
        }
    };
    match normalise(path.value, Syntax::Literal) {
        Ok(normal) => Some(Located { value: normal.path, at: path.at }),
        Err(error) => {
            report.error_with(path.at, error.code, error.message, error.hint);
            None
        }
    }
}

fn env<'t>(report: &mut Report, value: &Value<'t>) -> BTreeMap<&'t str, Located<&'t str>> {
    let mut env = BTreeMap::new();
    let Some(object) = object(report, value, "env") else {
        return env;
    };
    for property in &object.properties {
        let name = name_of(property);
        check_variable(report, name, at(property));
        if let Some(text) = string(report, &property.value, name) {
            if text.value.contains('\0') {
                let message = format!("a NUL in the value of {}", quote(name));
                report.error(text.at, code::ENV_NAME, message);
            }
            env.insert(name, Located { at: at(property), ..text });
        }
    }
    env
}

/// Names of variables; in `pass_env` also prefixes, as `PREFIX_*`.
fn variables<'t>(report: &mut Report, value: &Value<'t>, field: &str) -> BTreeMap<&'t str, u32> {
    let mut names = BTreeMap::new();
    for text in strings(report, value, field).unwrap_or_default() {
        let (stem, star) = match text.value.strip_suffix('*') {
            Some(stem) if field == "pass_env" => (stem, true),
            _ => (text.value, false),
        };
        if star && stem.is_empty() {
            let message = "`*` passes every variable".to_owned();
            let hint = "name the variables, or a prefix as `GO*`";
            report.error_with(text.at, code::ENV_NAME, message, hint.to_owned());
        } else {
            check_variable(report, stem, text.at);
        }
        names.insert(text.value, text.at);
    }
    names
}

fn check_variable(report: &mut Report, name: &str, at: u32) {
    if name.is_empty() || name.contains(['=', '\0', '*']) {
        let message = format!("{} is not the name of a variable", quote(name));
        report.error(at, code::ENV_NAME, message);
    }
}

fn cache(report: &mut Report, value: &Value<'_>) -> CachePolicy {
    match value {
        Value::BooleanLit(on) if on.value => CachePolicy::Full,
        Value::BooleanLit(_) => CachePolicy::Off,
        Value::StringLit(_) => {
            let words = [
                ("local", CachePolicy::Local),
                ("read-only", CachePolicy::ReadOnly),
                ("complete", CachePolicy::Complete),
            ];
            word(report, value, "cache", &words).unwrap_or_default()
        }
        _ => {
            mismatch(
                report,
                value,
                "cache",
                "true, false, \"local\", \"read-only\" or \"complete\"",
            );
            CachePolicy::default()
        }
    }
}

/// `{"level": ..., "fallback": true}`, or the level alone.
fn sandbox(report: &mut Report, value: &Value<'_>) -> Option<Located<SandboxWish>> {
    let words = Sandbox::ALL.map(|level| (level.as_str(), level));
    let mut wish = SandboxWish::default();
    match value {
        Value::StringLit(_) => wish.level = word(report, value, "sandbox", &words)?,
        Value::Object(fields) => {
            for property in &fields.properties {
                match property.name.as_str() {
                    "level" => wish.level = word(report, &property.value, "level", &words)?,
                    "fallback" => wish.fallback = boolean(report, &property.value, "fallback")?,
                    _ => unknown_field(report, property, "`sandbox`", &["level", "fallback"], &[]),
                }
            }
            if fields.get("level").is_none() {
                report.error(at(value), code::VALUE, "a `sandbox` without `level`".to_owned());
            }
        }
        _ => {
            mismatch(report, value, "sandbox", "a level or {level, fallback}");
            return None;
        }
    }
    Some(Located { value: wish, at: at(value) })
}

/// Gaffer does not say what `runner` means; what can only mean a shell is accepted.
fn runner(report: &mut Report, value: &Value<'_>) {
    let Some(runner) = string(report, value, "runner") else {
        return;
    };
    if !["shell", "sh", "bash"].contains(&runner.value) {
        let message = format!("runner {} is not supported", quote(runner.value));
        let hint = "leave `runner` out, or write \"shell\"";
        report.error_with(runner.at, code::RUNNER, message, hint.to_owned());
    }
}
