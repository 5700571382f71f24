//! A manifest with all that it includes: rules, scopes, build statements.

use super::lexer::{Lexer, Piece, SyntaxError, Token};
use crate::import::{Files, ImportError, absolute};
use std::collections::HashMap;

/// Deepest nesting of files; ninja has no limit, and no generator goes further than a few.
const MAX_DEPTH: usize = 64;
/// Most files in all.
const MAX_FILES: usize = 50_000;
/// Longest value in bytes; more than the operating system takes as an argument, 128 KiB, and
/// enough for the content of a response file.
const MAX_VALUE: usize = 4 << 20;
/// Most bytes of values and paths in all.
const MAX_VALUES: usize = 1 << 30;
/// Deepest chain of variables of a rule that name each other.
const MAX_VARIABLES: usize = 64;

/// A value as written.
pub(super) type Written = Vec<OwnedPiece>;

#[derive(Clone, Debug)]
pub(super) enum OwnedPiece {
    Text(String),
    Variable(String),
}

/// Index of a scope; 0 is that of the first file.
pub(super) type ScopeId = u32;

/// The variables and rules of a file.
#[derive(Debug, Default)]
struct Scope {
    variables: HashMap<String, String>,
    rules: HashMap<String, usize>,
    parent: Option<ScopeId>,
}

#[derive(Debug)]
pub(super) struct Rule {
    bindings: Vec<(String, Written)>,
}

impl Rule {
    fn binding(&self, name: &str) -> Option<&Written> {
        self.bindings.iter().find(|(bound, _)| bound == name).map(|(_, written)| written)
    }
}

/// A build statement, its paths as ninja canonicalises them.
#[derive(Debug)]
pub(super) struct Edge {
    /// `None` is `phony`.
    pub(super) rule: Option<u32>,
    pub(super) scope: ScopeId,
    /// Variables of its own; `None` when nothing is indented below it, which ninja tells apart.
    pub(super) bindings: Option<Vec<(String, String)>>,
    pub(super) outputs: Vec<String>,
    /// How many of the outputs are explicit; the rest are implicit.
    pub(super) explicit_outputs: usize,
    pub(super) inputs: Vec<String>,
    /// How many of the inputs are explicit, and how many explicit or implicit.
    pub(super) explicit_inputs: usize,
    pub(super) data_inputs: usize,
    pub(super) file: u32,
    pub(super) at: u32,
}

#[derive(Debug, Default)]
pub(super) struct Manifest {
    pub(super) rules: Vec<Rule>,
    pub(super) edges: Vec<Edge>,
    pub(super) defaults: Vec<String>,
    /// Pools with their depths; 0 is no limit.
    pub(super) pools: Vec<(String, u32)>,
    scopes: Vec<Scope>,
    /// Files by their absolute paths, with the offsets of their lines.
    files: Vec<(String, Vec<u32>)>,
    bytes: usize,
}

impl Manifest {
    pub(super) fn read(files: &dyn Files, path: &str) -> Result<Self, ImportError> {
        let mut manifest = Self { scopes: vec![Scope::default()], ..Self::default() };
        let directory = path.rsplit_once('/').map_or("/", |(directory, _)| directory).to_owned();
        let reader = Reader { files, directory };
        reader.file(&mut manifest, path, 0, 0)?;
        Ok(manifest)
    }

    /// An error at a build statement.
    pub(super) fn error(&self, edge: &Edge, message: String, hint: &str) -> ImportError {
        self.error_at(edge.file, edge.at as usize, message, hint)
    }

    fn error_at(&self, file: u32, at: usize, message: String, hint: &str) -> ImportError {
        let (name, lines) = &self.files[file as usize];
        let line = lines.partition_point(|start| *start as usize <= at);
        let start = line.checked_sub(1).and_then(|line| lines.get(line)).map_or(0, |s| *s as usize);
        ImportError {
            file: name.clone(),
            line: line as u32,
            column: (at - start) as u32 + 1,
            message,
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
        }
    }

    fn lookup(&self, scope: ScopeId, name: &str) -> &str {
        let mut next = Some(scope);
        while let Some(scope) = next {
            let scope = &self.scopes[scope as usize];
            if let Some(value) = scope.variables.get(name) {
                return value;
            }
            next = scope.parent;
        }
        ""
    }

    fn find_rule(&self, scope: ScopeId, name: &str) -> Option<usize> {
        let mut next = Some(scope);
        while let Some(scope) = next {
            let scope = &self.scopes[scope as usize];
            if let Some(rule) = scope.rules.get(name) {
                return Some(*rule);
            }
            next = scope.parent;
        }
        None
    }

    /// A variable as a build statement has it: its own, its rule's, its file's.
    pub(super) fn binding(&self, edge: &Edge, name: &str) -> Result<String, ImportError> {
        let mut value = String::new();
        self.append(edge, name, Quoting::Shell, 0, &mut value)?;
        Ok(value)
    }

    /// Likewise for paths, whose `$in` and `$out` are not quoted.
    pub(super) fn path_binding(&self, edge: &Edge, name: &str) -> Result<String, ImportError> {
        let mut value = String::new();
        self.append(edge, name, Quoting::Plain, 0, &mut value)?;
        Ok(value)
    }

    fn append(
        &self,
        edge: &Edge,
        name: &str,
        quoting: Quoting,
        depth: usize,
        value: &mut String,
    ) -> Result<(), ImportError> {
        match name {
            "in" => join(&edge.inputs[..edge.explicit_inputs], ' ', quoting, value),
            "in_newline" => join(&edge.inputs[..edge.explicit_inputs], '\n', quoting, value),
            "out" => join(&edge.outputs[..edge.explicit_outputs], ' ', quoting, value),
            _ => return self.append_variable(edge, name, quoting, depth, value),
        }
        Ok(())
    }

    fn append_variable(
        &self,
        edge: &Edge,
        name: &str,
        quoting: Quoting,
        depth: usize,
        value: &mut String,
    ) -> Result<(), ImportError> {
        let own = match &edge.bindings {
            Some(own) => own.iter().rev().find(|(bound, _)| bound == name).map(|(_, v)| v.as_str()),
            // As in ninja, whose statement without variables of its own is in the scope of the file.
            None => self.scopes[edge.scope as usize].variables.get(name).map(String::as_str),
        };
        let rule = edge.rule.and_then(|rule| self.rules[rule as usize].binding(name));
        match (own, rule) {
            (Some(own), _) => value.push_str(own),
            (None, Some(written)) => {
                if depth == MAX_VARIABLES {
                    let message = format!("the variables of its rule form a cycle at `{name}`");
                    return Err(self.error(edge, message, ""));
                }
                for piece in written {
                    match piece {
                        OwnedPiece::Text(text) => value.push_str(text),
                        OwnedPiece::Variable(name) => {
                            self.append(edge, name, quoting, depth + 1, value)?;
                        }
                    }
                    if value.len() > MAX_VALUE {
                        let message = format!("`{name}` of more than {} MiB", MAX_VALUE >> 20);
                        return Err(self.error(edge, message, ""));
                    }
                }
            }
            (None, None) => value.push_str(self.lookup(edge.scope, name)),
        }
        Ok(())
    }
}

/// Whether paths in a value are words for a shell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoting {
    Shell,
    Plain,
}

fn join(paths: &[String], separator: char, quoting: Quoting, value: &mut String) {
    for (index, path) in paths.iter().enumerate() {
        if index > 0 {
            value.push(separator);
        }
        match quoting {
            Quoting::Shell => push_quoted(path, value),
            Quoting::Plain => value.push_str(path),
        }
    }
}

/// A path as a word of a shell, quoted as ninja quotes it.
pub(super) fn push_quoted(path: &str, value: &mut String) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-./".contains(&byte);
    if path.bytes().all(plain) {
        value.push_str(path);
        return;
    }
    value.push('\'');
    value.push_str(&path.replace('\'', "'\\''"));
    value.push('\'');
}

/// A path without `.`, `..` where it can go, and double slashes.
pub(super) fn canonical(path: &str) -> String {
    let simple = |name: &str| !name.is_empty() && name != "." && name != "..";
    let body = path.strip_prefix('/').unwrap_or(path);
    if body.split('/').all(simple) {
        return path.to_owned();
    }
    let absolute = path.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => match names.last() {
                Some(&last) if last != ".." => drop(names.pop()),
                None if absolute => {}
                _ => names.push(name),
            },
            name => names.push(name),
        }
    }
    match (absolute, names.is_empty()) {
        (true, _) => format!("/{}", names.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => names.join("/"),
    }
}

/// Reads files into a manifest.
struct Reader<'f> {
    files: &'f dyn Files,
    /// Where ninja would run: paths of included files are relative to it.
    directory: String,
}

/// One file while it is read.
struct Parse<'r, 't> {
    lexer: Lexer<'t>,
    pieces: Vec<Piece<'t>>,
    file: u32,
    scope: ScopeId,
    depth: usize,
    reader: &'r Reader<'r>,
}

/// A mistake in this file, or one in a file that it includes.
enum Stop {
    Here(SyntaxError),
    There(ImportError),
}

impl From<SyntaxError> for Stop {
    fn from(error: SyntaxError) -> Self {
        Self::Here(error)
    }
}

impl Reader<'_> {
    fn file(
        &self,
        manifest: &mut Manifest,
        path: &str,
        scope: ScopeId,
        depth: usize,
    ) -> Result<(), ImportError> {
        let whole = |message: String| ImportError {
            file: path.to_owned(),
            line: 0,
            column: 0,
            message,
            hint: None,
        };
        if depth == MAX_DEPTH || manifest.files.len() == MAX_FILES {
            return Err(whole("too many files include each other".to_owned()));
        }
        let bytes = self.files.read(path).map_err(whole)?;
        let text = String::from_utf8(bytes).map_err(|_| whole("not UTF-8".to_owned()))?;
        if text.contains('\0') {
            return Err(whole("a NUL character".to_owned()));
        }
        let ends = text.match_indices('\n').map(|(at, _)| at as u32 + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        let file = manifest.files.len() as u32;
        manifest.files.push((path.to_owned(), lines));
        let (lexer, pieces) = (Lexer::new(&text), Vec::new());
        let mut parse = Parse { lexer, pieces, file, scope, depth, reader: self };
        match parse.statements(manifest) {
            Ok(()) => Ok(()),
            Err(Stop::There(error)) => Err(error),
            Err(Stop::Here(error)) => Err(manifest.error_at(file, error.at, error.message, "")),
        }
    }
}

impl<'t> Parse<'_, 't> {
    fn statements(&mut self, manifest: &mut Manifest) -> Result<(), Stop> {
        loop {
            let at = self.lexer.at();
            match self.lexer.next()? {
                Token::End => return Ok(()),
                Token::Newline => {}
                Token::Word("rule") => self.rule(manifest)?,
                Token::Word("build") => self.build(manifest, at)?,
                Token::Word("default") => self.default(manifest)?,
                Token::Word("pool") => self.pool(manifest)?,
                Token::Word("include") => {
                    let path = self.included(manifest)?;
                    let read = self.reader.file(manifest, &path, self.scope, self.depth + 1);
                    read.map_err(Stop::There)?;
                }
                Token::Word("subninja") => {
                    let path = self.included(manifest)?;
                    let scope = manifest.scopes.len() as ScopeId;
                    let parent = Some(self.scope);
                    manifest.scopes.push(Scope { parent, ..Scope::default() });
                    let read = self.reader.file(manifest, &path, scope, self.depth + 1);
                    read.map_err(Stop::There)?;
                }
                Token::Word(name) => {
                    self.lexer.expect(Token::Equals, "`=`")?;
                    self.pieces.clear();
                    self.lexer.value(&mut self.pieces)?;
                    let value = self.evaluate(manifest, &self.pieces, None)?;
                    if name == "ninja_required_version" {
                        continue;
                    }
                    let variables = &mut manifest.scopes[self.scope as usize].variables;
                    variables.insert(name.to_owned(), value);
                }
                Token::Indent => return Err(self.fail("unexpected indent")),
                _ => return Err(self.fail("expected a statement")),
            }
        }
    }

    fn fail(&self, message: impl Into<String>) -> Stop {
        Stop::Here(SyntaxError { at: self.lexer.at(), message: message.into() })
    }

    /// The value of pieces in the scope of the file, or of a statement in it.
    fn evaluate(
        &self,
        manifest: &mut Manifest,
        pieces: &[Piece<'_>],
        own: Option<&[(String, String)]>,
    ) -> Result<String, Stop> {
        let mut value = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => value.push_str(text),
                Piece::Variable(name) => {
                    let own = own.and_then(|own| own.iter().rev().find(|(bound, _)| bound == name));
                    let bound = own.map(|(_, value)| value.as_str());
                    value.push_str(bound.unwrap_or_else(|| manifest.lookup(self.scope, name)));
                }
            }
            if value.len() > MAX_VALUE {
                return Err(self.fail(format!("a value of more than {} MiB", MAX_VALUE >> 20)));
            }
        }
        manifest.bytes += value.len();
        if manifest.bytes > MAX_VALUES {
            return Err(self.fail(format!("values of more than {} MiB in all", MAX_VALUES >> 20)));
        }
        Ok(value)
    }

    /// `NAME = VALUE` below a statement; the value as it is written is left in `pieces`.
    fn indented(&mut self) -> Result<Option<String>, Stop> {
        if !self.lexer.take(Token::Indent)? {
            return Ok(None);
        }
        let name = self.lexer.name("the name of a variable")?.to_owned();
        self.lexer.expect(Token::Equals, "`=`")?;
        self.pieces.clear();
        self.lexer.value(&mut self.pieces)?;
        Ok(Some(name))
    }

    fn end_of_line(&mut self) -> Result<(), Stop> {
        match self.lexer.peek()? {
            Token::End => Ok(()),
            _ => Ok(self.lexer.expect(Token::Newline, "the end of the line")?),
        }
    }

    fn rule(&mut self, manifest: &mut Manifest) -> Result<(), Stop> {
        const KNOWN: [&str; 13] = [
            "command",
            "depfile",
            "dyndep",
            "description",
            "deps",
            "generator",
            "pool",
            "restat",
            "rspfile",
            "rspfile_content",
            "msvc_deps_prefix",
            "symlink_outputs",
            "hash_input",
        ];
        let name = self.lexer.name("the name of a rule")?.to_owned();
        self.end_of_line()?;
        if name == "phony" || manifest.scopes[self.scope as usize].rules.contains_key(&name) {
            return Err(self.fail(format!("duplicate rule `{name}`")));
        }
        let mut bindings: Vec<(String, Written)> = Vec::new();
        while let Some(variable) = self.indented()? {
            if !KNOWN.contains(&variable.as_str()) {
                return Err(self.fail(format!("unexpected variable `{variable}` of a rule")));
            }
            let own = |piece: &Piece<'_>| match piece {
                Piece::Text(text) => OwnedPiece::Text((*text).to_owned()),
                Piece::Variable(name) => OwnedPiece::Variable((*name).to_owned()),
            };
            bindings.retain(|(bound, _)| *bound != variable);
            bindings.push((variable, self.pieces.iter().map(own).collect()));
        }
        let has = |name: &str| bindings.iter().any(|(bound, _)| bound == name);
        if has("rspfile") != has("rspfile_content") {
            return Err(self.fail("`rspfile` and `rspfile_content` belong together"));
        }
        if !has("command") {
            return Err(self.fail(format!("rule `{name}` has no `command`")));
        }
        manifest.scopes[self.scope as usize].rules.insert(name, manifest.rules.len());
        manifest.rules.push(Rule { bindings });
        Ok(())
    }

    fn pool(&mut self, manifest: &mut Manifest) -> Result<(), Stop> {
        let name = self.lexer.name("the name of a pool")?.to_owned();
        self.end_of_line()?;
        if name == "console" || manifest.pools.iter().any(|(pool, _)| *pool == name) {
            return Err(self.fail(format!("duplicate pool `{name}`")));
        }
        let mut depth = None;
        while let Some(variable) = self.indented()? {
            let value = self.evaluate(manifest, &self.pieces, None)?;
            match value.parse() {
                Ok(number) if variable == "depth" => depth = Some(number),
                _ => return Err(self.fail("a pool has a `depth`, a number from 0")),
            }
        }
        let Some(depth) = depth else { return Err(self.fail("expected `depth =` below a pool")) };
        manifest.pools.push((name, depth));
        Ok(())
    }

    fn included(&mut self, manifest: &mut Manifest) -> Result<String, Stop> {
        if !self.path()? {
            return Err(self.fail("expected a path"));
        }
        let path = self.evaluate(manifest, &self.pieces, None)?;
        self.end_of_line()?;
        Ok(absolute(&self.reader.directory, &path))
    }

    /// Reads a path into `pieces`; false when there is none.
    fn path(&mut self) -> Result<bool, Stop> {
        self.pieces.clear();
        self.lexer.path(&mut self.pieces)?;
        Ok(!self.pieces.is_empty())
    }

    fn default(&mut self, manifest: &mut Manifest) -> Result<(), Stop> {
        if !self.path()? {
            return Err(self.fail("expected a target"));
        }
        loop {
            let path = self.evaluate(manifest, &self.pieces, None)?;
            manifest.defaults.push(canonical(&path));
            if !self.path()? {
                return self.end_of_line();
            }
        }
    }

    /// Adds the pieces of paths, up to something else, and where each ends.
    fn paths(&mut self, paths: &mut Paths<'t>) -> Result<usize, Stop> {
        loop {
            let before = paths.pieces.len();
            self.lexer.path(&mut paths.pieces)?;
            if paths.pieces.len() == before {
                return Ok(paths.ends.len());
            }
            paths.ends.push(paths.pieces.len());
        }
    }

    fn build(&mut self, manifest: &mut Manifest, at: usize) -> Result<(), Stop> {
        let (mut outputs, mut inputs) = (Paths::default(), Paths::default());
        let explicit_outputs = self.paths(&mut outputs)?;
        if self.lexer.take(Token::Pipe)? {
            self.paths(&mut outputs)?;
        }
        if outputs.ends.is_empty() {
            return Err(self.fail("expected a path"));
        }
        self.lexer.expect(Token::Colon, "`:`")?;
        let name = self.lexer.name("the name of a rule")?;
        let rule = match name {
            "phony" => None,
            _ => match manifest.find_rule(self.scope, name) {
                Some(rule) => Some(rule as u32),
                None => return Err(self.fail(format!("unknown rule `{name}`"))),
            },
        };
        let explicit_inputs = self.paths(&mut inputs)?;
        let mut data_inputs = explicit_inputs;
        if self.lexer.take(Token::Pipe)? {
            data_inputs = self.paths(&mut inputs)?;
        }
        if self.lexer.take(Token::PipeTwice)? {
            self.paths(&mut inputs)?;
        }
        if self.lexer.take(Token::PipeAt)? {
            return Err(self.fail("validations (`|@`) are not supported"));
        }
        self.end_of_line()?;
        let mut own: Option<Vec<(String, String)>> = None;
        while let Some(variable) = self.indented()? {
            let value = self.evaluate(manifest, &self.pieces, None)?;
            own.get_or_insert_default().push((variable, value));
        }
        let mut all = |paths: &Paths<'t>| -> Result<Vec<String>, Stop> {
            let starts = std::iter::once(0).chain(paths.ends.iter().copied());
            let ranges = starts.zip(&paths.ends);
            let evaluated = ranges.map(|(from, to)| {
                let path = self.evaluate(manifest, &paths.pieces[from..*to], own.as_deref())?;
                match path.is_empty() {
                    true => Err(self.fail("an empty path")),
                    false => Ok(canonical(&path)),
                }
            });
            evaluated.collect()
        };
        let (outputs, inputs) = (all(&outputs)?, all(&inputs)?);
        manifest.edges.push(Edge {
            rule,
            scope: self.scope,
            bindings: own,
            outputs,
            explicit_outputs,
            inputs,
            explicit_inputs,
            data_inputs,
            file: self.file,
            at: at as u32,
        });
        Ok(())
    }
}

/// Paths as they are written.
#[derive(Default)]
struct Paths<'t> {
    pieces: Vec<Piece<'t>>,
    ends: Vec<usize>,
}
