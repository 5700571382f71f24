//! A graph as a graph file.

use super::{
    CachePolicy, Dependency, DependencyKind, Graph, InputPattern, LogPolicy, PlatformKey,
    Readiness, Retry, SandboxWish, Service, Task, TaskId, ToolSource, format::format,
};
use crate::key::{OutputDeclaration, OutputShape};

impl Graph {
    /// The graph as a file that loads as the same graph, in the layout of [`format()`]: defaults,
    /// groups and tools are merged into the tasks, further names of tasks are left out.
    pub fn to_json(&self) -> String {
        let mut top = Object::default();
        top.text("version", "1");
        let targets = self.default_targets.iter().map(|id| string(&self[*id].name));
        top.add("default", list(targets));
        let mut cache = Object::default();
        cache.some("namespace", self.namespace.as_deref());
        cache.some("salt", self.salt.as_deref());
        top.unless_empty("cache", cache);
        if let Some(most) = self.max_parallel {
            top.add("parallelism", format!("{{\"max_parallel\": {most}}}"));
        }
        let mut pools = Object::default();
        for pool in &self.pools {
            pools.add(&pool.name, pool.depth.to_string());
        }
        top.unless_empty("pools", pools);
        let mut tools = Object::default();
        let mut names = std::collections::BTreeMap::new();
        for tool in self.tasks.iter().flat_map(|task| &task.tools) {
            names.entry(tool.name.as_str()).or_insert(&tool.source);
        }
        for (name, source) in names {
            let mut tool = Object::default();
            match source {
                ToolSource::Path(path) => tool.text("path", path),
                ToolSource::Version(argv) => tool.texts("version", argv),
                ToolSource::Value(value) => tool.text("value", value),
            }
            tools.add(name, tool.finish());
        }
        top.unless_empty("tools", tools);
        let mut tasks = Object::default();
        for task in &self.tasks {
            tasks.add(&task.name, self.task(task));
        }
        top.add("tasks", tasks.finish());
        let text = top.finish();
        format(&text).unwrap_or(text)
    }

    /// One task as it stands in [`Graph::to_json`]: an object.
    pub fn task_to_json(&self, id: TaskId) -> String {
        let text = self.task(&self[id]);
        format(&text).unwrap_or(text)
    }

    fn task(&self, task: &Task) -> String {
        let mut fields = Object::default();
        fields.some("description", task.description.as_deref());
        match task.command.as_deref() {
            Some([shell, c, text]) if shell == "/bin/sh" && c == "-c" => {
                fields.text("command", text);
            }
            Some(argv) => fields.texts("command", argv),
            // Nothing to do and nothing to wait for, which a file cannot say otherwise.
            None if task.deps.is_empty() => fields.text("command", ":"),
            None => {}
        }
        if !task.deps.is_empty() {
            fields.add("deps", list(task.deps.iter().map(|dep| self.dependency(dep))));
        }
        if let Some(inputs) = &task.inputs {
            fields.add("inputs", list(inputs.iter().map(input)));
        }
        if let Some(outputs) = &task.outputs {
            fields.add("outputs", list(outputs.iter().map(output)));
        }
        if let Some(path) = &task.dep_file {
            fields.text("dep_file", path);
        }
        if task.working_dir != "." {
            fields.text("working_dir", &task.working_dir);
        }
        let mut env = Object::default();
        for (name, value) in &task.env {
            env.text(name, value);
        }
        fields.unless_empty("env", env);
        for (name, set) in [("pass_env", &task.pass_env), ("secret_env", &task.secret_env)] {
            if !set.is_empty() {
                fields.texts(name, set);
            }
        }
        if !task.tools.is_empty() {
            fields.texts("tools", task.tools.iter().map(|tool| &tool.name));
        }
        if !task.platforms.is_empty() {
            let platform = |p: &super::PlatformFilter| match p.arch {
                Some(arch) => string(&format!("{}/{arch}", p.os)),
                None => string(p.os),
            };
            fields.add("platforms", list(task.platforms.iter().map(platform)));
        }
        self.policies(task, &mut fields);
        fields.finish()
    }

    fn dependency(&self, dep: &Dependency) -> String {
        let name = string(&self[dep.task].name);
        match dep.kind {
            DependencyKind::Data => name,
            DependencyKind::Order => format!("{{\"task\": {name}, \"kind\": \"order\"}}"),
        }
    }

    fn policies(&self, task: &Task, fields: &mut Object) {
        match task.platform_key {
            PlatformKey::OsArch => {}
            PlatformKey::OsArchLibc => fields.text("platform_key", "os-arch-libc"),
            PlatformKey::Any => fields.text("platform_key", "any"),
        }
        match task.cache {
            CachePolicy::Full => {}
            CachePolicy::Off => fields.add("cache", "false".to_owned()),
            CachePolicy::Local => fields.text("cache", "local"),
            CachePolicy::ReadOnly => fields.text("cache", "read-only"),
            CachePolicy::Complete => fields.text("cache", "complete"),
        }
        if !task.clean {
            fields.add("clean", "false".to_owned());
        }
        if let Some(timeout) = task.timeout {
            fields.add("timeout", timeout.as_secs_f64().to_string());
        }
        if task.retry != Retry::default() {
            fields.add("retries", retry(&task.retry));
        }
        fields.some("key_salt", task.key_salt.as_deref());
        match task.log {
            LogPolicy::Full => {}
            LogPolicy::Errors => fields.text("log", "errors"),
            LogPolicy::None => fields.text("log", "none"),
        }
        if task.priority != 0 {
            fields.add("priority", task.priority.to_string());
        }
        if let Some(pool) = task.pool {
            fields.text("pool", &self.pools[pool.index()].name);
        }
        if task.weight != 1 {
            fields.add("weight", task.weight.to_string());
        }
        if let Some(service) = &task.service {
            fields.add("persistent", persistent(service));
        }
        if task.interactive {
            fields.add("interactive", "true".to_owned());
        }
        match (task.sandbox, task.sandbox.level.as_str()) {
            (wish, _) if wish == SandboxWish::default() => {}
            (wish, level) if wish.fallback => {
                fields.add("sandbox", format!("{{\"level\": \"{level}\", \"fallback\": true}}"));
            }
            (_, level) => fields.text("sandbox", level),
        }
        if let Some(network) = task.network {
            fields.add("network", network.to_string());
        }
    }
}

fn input(input: &InputPattern) -> String {
    let path = input.glob.as_str();
    match (input.negated, path.starts_with(['@', '!'])) {
        (true, _) => string(&format!("!{path}")),
        (false, true) => string(&format!("./{path}")),
        (false, false) => string(path),
    }
}

fn output(output: &OutputDeclaration) -> String {
    let tree = if output.shape == OutputShape::Tree { "/" } else { "" };
    let here = if output.pattern.starts_with('!') { "./" } else { "" };
    let path = string(&format!("{here}{}{tree}", output.pattern));
    match output.optional {
        true => format!("{{\"path\": {path}, \"optional\": true}}"),
        false => path,
    }
}

fn retry(retry: &Retry) -> String {
    let mut fields = Object::default();
    fields.add("max_attempts", retry.max_attempts.to_string());
    fields.add("initial_delay_ms", retry.initial_delay.as_millis().to_string());
    fields.add("max_delay_ms", retry.max_delay.as_millis().to_string());
    fields.add("backoff_multiplier", retry.backoff_multiplier.to_string());
    let on = [("exit", retry.on.exit), ("timeout", retry.on.timeout), ("signal", retry.on.signal)];
    fields.texts("on", on.iter().filter(|(_, on)| *on).map(|(name, _)| name));
    fields.finish()
}

fn persistent(service: &Service) -> String {
    let mut ready = Object::default();
    match &service.ready_when {
        Readiness::Started => {}
        Readiness::Line(line) => ready.text("line", line),
        Readiness::Port(port) => ready.add("port", port.to_string()),
        Readiness::Command(argv) => ready.texts("cmd", argv),
    }
    let mut fields = Object::default();
    fields.unless_empty("ready_when", ready);
    fields.add("timeout", service.timeout.as_secs_f64().to_string());
    fields.finish()
}

/// A JSON object while it is written.
#[derive(Default)]
struct Object(String);

impl Object {
    fn add(&mut self, name: &str, json: String) {
        self.0 += if self.0.is_empty() { "{" } else { "," };
        self.0 += &string(name);
        self.0.push(':');
        self.0 += &json;
    }

    fn text(&mut self, name: &str, text: &str) {
        self.add(name, string(text));
    }

    fn some(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn texts<T: AsRef<str>>(&mut self, name: &str, texts: impl IntoIterator<Item = T>) {
        self.add(name, list(texts.into_iter().map(|text| string(text.as_ref()))));
    }

    fn unless_empty(&mut self, name: &str, object: Self) {
        if !object.0.is_empty() {
            self.add(name, object.finish());
        }
    }

    fn finish(mut self) -> String {
        self.0 += if self.0.is_empty() { "{}" } else { "}" };
        self.0
    }
}

fn list(elements: impl Iterator<Item = String>) -> String {
    format!("[{}]", elements.collect::<Vec<_>>().join(","))
}

/// A JSON string.
fn string(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\t' => json.push_str("\\t"),
            c if c < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}
