//! The tasks of `turbo.json`, of the workspace and of single packages.

use super::{error, packages::Packages, parse, read as read_text, strings};
use crate::{
    graph::LogPolicy,
    import::{Files, ImportError, Kind},
};
use jsonc_parser::{JsonObject, JsonValue};
use std::collections::BTreeMap;

/// What `turbo.json` says of a task.
#[derive(Clone, Debug, Default)]
pub(super) struct Definition {
    pub(super) depends_on: Vec<String>,
    pub(super) inputs: Option<Vec<String>>,
    pub(super) outputs: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) pass_through: Vec<String>,
    pub(super) uncached: bool,
    pub(super) persistent: bool,
    pub(super) interactive: bool,
    pub(super) log: LogPolicy,
}

#[derive(Debug, Default)]
pub(super) struct Pipelines {
    /// By name: `build`, or `PACKAGE#build`.
    pub(super) tasks: BTreeMap<String, Definition>,
    /// Of a package's own `turbo.json`, by package and name.
    pub(super) own: BTreeMap<(usize, String), Definition>,
    pub(super) global_inputs: Vec<String>,
    pub(super) global_env: Vec<String>,
    pub(super) global_pass_through: Vec<String>,
    pub(super) notes: Vec<String>,
}

impl Pipelines {
    /// What holds for a task of a package; `None` when it has no such task.
    pub(super) fn of(&self, packages: &Packages, place: usize, task: &str) -> Option<&Definition> {
        let name = &packages.all[place].name;
        let of_root = (place == 0).then(|| self.tasks.get(&format!("//#{task}"))).flatten();
        let own = self.own.get(&(place, task.to_owned()));
        let own = own.or_else(|| self.tasks.get(&format!("{name}#{task}"))).or(of_root);
        // The root package takes part only in what names it.
        own.or_else(|| (place > 0).then(|| self.tasks.get(task)).flatten())
    }

    /// The names of all tasks, without packages.
    pub(super) fn names(&self) -> Vec<String> {
        let shared = self.tasks.keys().map(|name| name.rsplit('#').next().unwrap_or(name));
        let mut names: Vec<_> = shared.map(str::to_owned).collect();
        names.extend(self.own.keys().map(|(_, name)| name.clone()));
        names.sort();
        names.dedup();
        names
    }
}

fn read_all(
    file: &str,
    json: &JsonObject<'_>,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<String, Definition>, ImportError> {
    let Some(tasks) = json.get("tasks").or_else(|| json.get("pipeline")) else {
        return Ok(BTreeMap::new());
    };
    let JsonValue::Object(tasks) = tasks else {
        return Err(error(file, "`tasks` must be an object", ""));
    };
    let mut all = BTreeMap::new();
    for (name, value) in tasks.clone() {
        let JsonValue::Object(fields) = value else {
            return Err(error(file, format!("task `{name}` must be an object"), ""));
        };
        all.insert(name.to_string(), definition(file, &name, &fields, notes)?);
    }
    Ok(all)
}

fn definition(
    file: &str,
    name: &str,
    fields: &JsonObject<'_>,
    notes: &mut Vec<String>,
) -> Result<Definition, ImportError> {
    const KNOWN: [&str; 12] = [
        "dependsOn",
        "inputs",
        "outputs",
        "env",
        "passThroughEnv",
        "cache",
        "persistent",
        "interactive",
        "interruptible",
        "outputLogs",
        "outputMode",
        "description",
    ];
    for (field, _) in fields.clone() {
        if !KNOWN.contains(&&*field) {
            notes.push(format!("field `{field}` of task `{name}` in `{file}` has no effect here"));
        }
    }
    let list = |field: &str| Ok(strings(file, fields, field)?.unwrap_or_default());
    let mut definition = Definition {
        depends_on: list("dependsOn")?,
        inputs: strings(file, fields, "inputs")?,
        outputs: list("outputs")?,
        env: list("env")?,
        pass_through: list("passThroughEnv")?,
        uncached: fields.get_boolean("cache") == Some(false),
        persistent: fields.get_boolean("persistent") == Some(true),
        interactive: fields.get_boolean("interactive") == Some(true),
        log: LogPolicy::Full,
    };
    let shown = fields.get_string("outputLogs").or_else(|| fields.get_string("outputMode"));
    definition.log = match shown.map(|text| &**text) {
        None | Some("full" | "new-only") => LogPolicy::Full,
        Some("errors-only") => LogPolicy::Errors,
        Some("none" | "hash-only") => LogPolicy::None,
        Some(other) => {
            return Err(error(file, format!("unknown `outputLogs` of `{name}`: `{other}`"), ""));
        }
    };
    // The older way to name variables.
    let (variables, deps) = definition.depends_on.into_iter().partition(|d| d.starts_with('$'));
    definition.depends_on = deps;
    let variables: Vec<String> = variables;
    definition.env.extend(variables.iter().map(|name| name[1..].to_owned()));
    if definition.outputs.iter().any(|output| output.starts_with('!')) {
        definition.outputs.retain(|output| !output.starts_with('!'));
        notes.push(format!("what `!` excludes from the outputs of `{name}` is kept with them"));
    }
    Ok(definition)
}

pub(super) fn read(
    files: &dyn Files,
    path: &str,
    packages: &Packages,
) -> Result<Pipelines, ImportError> {
    let text = read_text(files, path)?;
    let json = parse(path, &text)?;
    let mut pipelines = Pipelines::default();
    pipelines.tasks = read_all(path, &json, &mut pipelines.notes)?;
    if pipelines.tasks.is_empty() {
        return Err(error(path, "no `tasks` and no `pipeline`", ""));
    }
    let list = |field: &str| Ok(strings(path, &json, field)?.unwrap_or_default());
    let globals: Vec<String> = list("globalDependencies")?;
    let (variables, inputs): (Vec<_>, _) = globals.into_iter().partition(|g| g.starts_with('$'));
    pipelines.global_inputs = inputs;
    pipelines.global_env = list("globalEnv")?;
    pipelines.global_env.extend(variables.iter().map(|name| name[1..].to_owned()));
    pipelines.global_pass_through = list("globalPassThroughEnv")?;
    let root = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    for (place, package) in packages.all.iter().enumerate().skip(1) {
        let path = format!("{root}/{}/turbo.json", package.directory);
        if files.kind(&path) == Kind::Missing {
            continue;
        }
        let text = read_text(files, &path)?;
        let json = parse(&path, &text)?;
        for (name, own) in read_all(&path, &json, &mut pipelines.notes)? {
            pipelines.own.insert((place, name), own);
        }
    }
    Ok(pipelines)
}
