//! Finds out what kind of graph a file is, and loads it with its workspace.

use crate::{args::GraphFileArgs, errors::CliError};
use netbuild_core::{
    graph::{self, Graph, TaskId, UnknownTask},
    import::{self, Files, ImportError, Imported, Kind, MAX_FILE},
};
use netbuild_runner::Looks;
use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Longest list of task names in an error.
const SHOWN_NAMES: usize = 12;

/// A graph with the directory that its paths are relative to.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) graph: Graph,
    pub(crate) root: PathBuf,
    /// What a person should know of what became of a file of another format.
    pub(crate) notes: Vec<String>,
}

impl Loaded {
    /// What is worth a warning in a graph of this file.
    pub(crate) fn said(&self, file: &Path) -> Vec<String> {
        let name = file.display().to_string();
        let warnings = self.graph.warnings().iter().map(|it| it.in_file(&name).to_string());
        let notes = self.notes.iter().map(|note| format!("{name}: {note}"));
        warnings.chain(notes).collect()
    }
}

/// The formats that are told by the names of their files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Graph,
    Ninja,
    Turbo,
}

fn format_of(path: &Path) -> Format {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name {
        "turbo.json" | "turbo.jsonc" => Format::Turbo,
        _ if name.ends_with(".ninja") => Format::Ninja,
        _ => Format::Graph,
    }
}

/// Whether a file is a graph.json or one of gaffer, by its name.
pub(crate) fn is_graph_json(path: &Path) -> bool {
    format_of(path) == Format::Graph
}

/// Loads a graph and says what is worth a warning.
pub(crate) fn load(args: &GraphFileArgs) -> Result<Loaded, CliError> {
    load_looking(args, &Looks::none())
}

/// The same, noting what is looked at.
pub(crate) fn load_looking(args: &GraphFileArgs, looks: &Looks) -> Result<Loaded, CliError> {
    let loaded = load_from(args, looks)?;
    loaded.said(&args.graph).iter().for_each(|text| tracing::warn!("{text}"));
    Ok(loaded)
}

/// The workspace of a graph, told before the graph is read.
pub(crate) fn root_of(args: &GraphFileArgs) -> Result<PathBuf, CliError> {
    let path = &args.graph;
    let format = format_of(path);
    if args.workspace.is_some() && format != Format::Ninja {
        let message = format!("the workspace of `{}` is its directory", path.display());
        return Err(CliError::wrong(message).hint("--workspace is for a build.ninja"));
    }
    match format {
        Format::Graph => Ok(directory_of(path)),
        Format::Ninja => ninja_root(&full(path)?, args.workspace.as_deref()),
        Format::Turbo => Ok(directory_of(&full(path)?)),
    }
}

/// Loads a graph.
pub(crate) fn load_quietly(args: &GraphFileArgs) -> Result<Loaded, CliError> {
    load_from(args, &Looks::none())
}

fn load_from(args: &GraphFileArgs, looks: &Looks) -> Result<Loaded, CliError> {
    let root = root_of(args)?;
    let path = &args.graph;
    let Imported { graph, notes } = match format_of(path) {
        Format::Graph => {
            looks.handle_use(&std::path::absolute(path).map_err(|error| unreadable(path, &error))?);
            let graph = graph::load(&read(path)?);
            let graph = graph.map_err(|problems| CliError::graph(path, &problems))?;
            Imported { graph, notes: Vec::new() }
        }
        Format::Ninja => {
            import::ninja::import(&Disk(looks), &text_of(&full(path)?)?, &text_of(&root)?)?
        }
        Format::Turbo => import::turbo::import(&Disk(looks), &text_of(&full(path)?)?)?,
    };
    Ok(Loaded { graph, root, notes })
}

fn full(path: &Path) -> Result<PathBuf, CliError> {
    path.canonicalize().map_err(|error| unreadable(path, &error))
}

/// Reads a graph file, of which no more is read than can be good.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE as u64 + 4).read_to_end(&mut bytes))
        .map_err(|error| unreadable(path, &error))?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: &std::io::Error) -> CliError {
    let failed = CliError::io("read the graph", path, error);
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            failed.hint("run in the directory of a graph.json, or name one with --graph")
        }
        _ => failed,
    }
}

fn text_of(path: &Path) -> Result<String, CliError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| CliError::wrong(format!("the path `{}` is not UTF-8", path.display())))
}

/// The directory of a file.
fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The workspace of a manifest: what was asked for; the source directory that CMake noted, if one
/// of the two is in the other; the git repository around it; its own directory.
fn ninja_root(manifest: &Path, asked: Option<&Path>) -> Result<PathBuf, CliError> {
    if let Some(asked) = asked {
        return asked
            .canonicalize()
            .map_err(|error| CliError::io("use the workspace", asked, &error));
    }
    let build = directory_of(manifest);
    let cache = fs::read_to_string(build.join("CMakeCache.txt")).unwrap_or_default();
    let home = cache.lines().find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="));
    if let Some(home) = home.and_then(|home| Path::new(home).canonicalize().ok()) {
        if build.starts_with(&home) {
            return Ok(home);
        }
        if home.starts_with(&build) {
            return Ok(build);
        }
        let message = format!("the sources in `{}` are not around the build", home.display());
        return Err(
            CliError::wrong(message).hint("name a directory that has both with --workspace")
        );
    }
    let repository = build.ancestors().find(|directory| directory.join(".git").exists());
    Ok(repository.unwrap_or(&build).to_owned())
}

/// The file system, for importers.
struct Disk<'a>(&'a Looks);

impl Files for Disk<'_> {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        self.0.handle_use(Path::new(path));
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
        let regular = file.metadata().is_ok_and(|meta| meta.is_file());
        if !regular {
            return Err("is not a file".to_owned());
        }
        file.take(MAX_FILE as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| format!("cannot be read: {error}"))?;
        match bytes.len() > MAX_FILE {
            true => Err(format!("has more than {} MiB", MAX_FILE >> 20)),
            false => Ok(bytes),
        }
    }

    fn kind(&self, path: &str) -> Kind {
        self.0.handle_use(Path::new(path));
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => Kind::Directory,
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => {
                Kind::Executable
            }
            Ok(_) => Kind::File,
            Err(_) => Kind::Missing,
        }
    }

    fn list(&self, path: &str) -> Vec<String> {
        self.0.handle_list(Path::new(path));
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

impl From<ImportError> for CliError {
    fn from(error: ImportError) -> Self {
        Self::wrong(error.to_string())
    }
}

/// The tasks of these names; without a name what the graph runs then.
pub(crate) fn targets(graph: &Graph, names: &[String]) -> Result<Vec<TaskId>, CliError> {
    if names.is_empty() {
        return Ok(graph.default_targets().to_vec());
    }
    names.iter().map(|name| graph.find(name).map_err(|error| unknown(graph, error))).collect()
}

/// Says what there is, when no name is near to the one that was asked for.
pub(crate) fn unknown(graph: &Graph, error: UnknownTask) -> CliError {
    let near = error.suggestion.is_some();
    let error = CliError::from(error);
    if near {
        return error;
    }
    let names: Vec<&str> = graph.tasks().iter().map(|task| task.name.as_str()).collect();
    let shown = names.iter().take(SHOWN_NAMES).copied().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(SHOWN_NAMES);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    error.hint(format!("the tasks are {shown}{rest}"))
}
