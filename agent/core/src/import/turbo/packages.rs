//! The packages of a workspace.

use super::{error, parse, read, strings};
use crate::{
    glob::Glob,
    import::{Files, ImportError, Kind, absolute},
};
use jsonc_parser::{JsonObject, JsonValue};
use std::collections::{BTreeMap, BTreeSet};

/// Most directories that are looked at for packages.
const MAX_DIRECTORIES: usize = 100_000;
/// Deepest directory of a package below the workspace.
const MAX_DEPTH: usize = 16;

#[derive(Debug)]
pub(super) struct Package {
    pub(super) name: String,
    /// Relative to the workspace; `.` for its root.
    pub(super) directory: String,
    pub(super) scripts: BTreeSet<String>,
    /// Other packages of the workspace that it names, by place, sorted.
    pub(super) dependencies: Vec<usize>,
}

/// The root first, then the others by directory.
#[derive(Debug)]
pub(super) struct Packages {
    pub(super) all: Vec<Package>,
    pub(super) by_name: BTreeMap<String, usize>,
    /// `npm`, `pnpm` or `yarn`.
    pub(super) manager: &'static str,
    /// The lock file, when there is one.
    pub(super) lock: Option<&'static str>,
}

pub(super) fn find(files: &dyn Files, root: &str) -> Result<Packages, ImportError> {
    let path = format!("{root}/package.json");
    let text = read(files, &path)?;
    let json = parse(&path, &text)?;
    let mut directories = vec![".".to_owned()];
    directories.extend(members(files, root, &patterns(files, root, &path, &json)?)?);
    let mut packages =
        Packages { all: Vec::new(), by_name: BTreeMap::new(), manager: "npm", lock: None };
    let locks = [("pnpm-lock.yaml", "pnpm"), ("yarn.lock", "yarn"), ("package-lock.json", "npm")];
    let found = locks.iter().find(|(lock, _)| files.kind(&format!("{root}/{lock}")) == Kind::File);
    if let Some((lock, manager)) = found {
        (packages.lock, packages.manager) = (Some(*lock), *manager);
    }
    if let Some(named) = json.get_string("packageManager") {
        let managers = ["npm", "pnpm", "yarn"];
        let known = managers.into_iter().find(|m| named.split('@').next() == Some(m));
        packages.manager = known.ok_or_else(|| {
            error(
                &path,
                format!("package manager `{named}` is not supported"),
                "npm, pnpm and yarn are",
            )
        })?;
    }
    let mut named = Vec::new();
    for directory in directories {
        let path = absolute(root, &format!("{directory}/package.json"));
        let text = read(files, &path)?;
        let json = parse(&path, &text)?;
        let name = match json.get_string("name") {
            Some(name) => name.clone().into_owned(),
            None if directory == "." => "//".to_owned(),
            None => return Err(error(&path, "a package without `name`", "")),
        };
        let place = packages.all.len();
        if packages.by_name.insert(name.clone(), place).is_some() {
            return Err(error(&path, format!("two packages are called `{name}`"), ""));
        }
        let scripts = json.get_object("scripts").map(keys).unwrap_or_default();
        let fields =
            ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies"];
        let of = |field: &&str| json.get_object(field).map(keys).unwrap_or_default();
        named.push(fields.iter().flat_map(of).collect::<BTreeSet<_>>());
        packages.all.push(Package { name, directory, scripts, dependencies: Vec::new() });
    }
    for (place, names) in named.iter().enumerate() {
        let known = names.iter().filter_map(|name| packages.by_name.get(name).copied());
        packages.all[place].dependencies = known.filter(|other| *other != place).collect();
    }
    Ok(packages)
}

fn keys(object: &JsonObject<'_>) -> BTreeSet<String> {
    object.clone().into_iter().map(|(name, _)| name.into_owned()).collect()
}

/// The patterns of directories with packages, `!` before those that are none.
fn patterns(
    files: &dyn Files,
    root: &str,
    path: &str,
    json: &JsonObject<'_>,
) -> Result<Vec<String>, ImportError> {
    let pnpm = format!("{root}/pnpm-workspace.yaml");
    if files.kind(&pnpm) == Kind::File {
        return yaml_packages(&pnpm, &read(files, &pnpm)?);
    }
    match json.get("workspaces") {
        Some(JsonValue::Object(workspaces)) => {
            Ok(strings(path, workspaces, "packages")?.unwrap_or_default())
        }
        _ => Ok(strings(path, json, "workspaces")?.unwrap_or_default()),
    }
}

/// The list below `packages:`, which is all of YAML that such files need.
fn yaml_packages(path: &str, text: &str) -> Result<Vec<String>, ImportError> {
    let mut patterns = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        let item = line.trim_start();
        if item.is_empty() || item.starts_with('#') {
            continue;
        }
        if let Some(rest) = line.strip_prefix("packages:") {
            inside = true;
            if !rest.trim().is_empty() && rest.trim() != "[]" {
                let hint = "write one a line, after `- `";
                return Err(error(path, "`packages` is no list of lines", hint));
            }
        } else if let (true, Some(pattern)) = (inside, item.strip_prefix("- ")) {
            patterns.push(pattern.trim().trim_matches(['"', '\'']).to_owned());
        } else if !line.starts_with(' ') {
            inside = false;
        }
    }
    Ok(patterns)
}

/// The directories that the patterns select and that have a `package.json`, sorted.
fn members(files: &dyn Files, root: &str, patterns: &[String]) -> Result<Vec<String>, ImportError> {
    let mut globs = Vec::new();
    for pattern in patterns {
        let (negated, text) = match pattern.strip_prefix('!') {
            Some(text) => (true, text),
            None => (false, pattern.as_str()),
        };
        let text = text.trim_start_matches("./").trim_end_matches('/');
        if matches!(text, "" | ".") {
            continue;
        }
        let glob = Glob::new(text).map_err(|problem| error(root, problem.to_string(), ""))?;
        globs.push((negated, glob));
    }
    let mut found = BTreeSet::new();
    let starts = globs.iter().filter(|(negated, _)| !negated);
    let mut pending: Vec<(String, usize)> = starts
        .map(|(_, glob)| glob.literal_prefix().to_owned())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|start| (start, 0))
        .collect();
    let mut seen = BTreeSet::new();
    while let Some((directory, depth)) = pending.pop() {
        if !seen.insert(directory.clone()) {
            continue;
        }
        if seen.len() > MAX_DIRECTORIES {
            return Err(error(root, "too many directories to look for packages", ""));
        }
        let full = format!("{root}/{directory}");
        let decides = globs.iter().rev().find(|(_, glob)| glob.matches(directory.as_bytes()));
        if decides.is_some_and(|(negated, _)| !negated)
            && files.kind(&format!("{full}/package.json")) != Kind::Missing
        {
            found.insert(directory.clone());
        }
        if depth == MAX_DEPTH {
            continue;
        }
        for name in files.list(&full) {
            let below =
                if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
            if name != "node_modules"
                && !name.starts_with('.')
                && files.kind(&format!("{root}/{below}")) == Kind::Directory
                && globs.iter().any(|(_, glob)| reaches(glob, &below))
            {
                pending.push((below, depth + 1));
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Whether something in a directory may match: its depth is one that the pattern has.
fn reaches(glob: &Glob, directory: &str) -> bool {
    let depth = |path: &str| path.split('/').count();
    glob.as_str().contains("**") || depth(directory) <= depth(glob.as_str())
}
