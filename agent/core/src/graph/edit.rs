//! Changes of a graph file that leave everything else in it as it is, comments too.

use super::{format::format, propose::Proposal};
use jsonc_parser::{
    ParseOptions,
    cst::{CstInputValue, CstObject, CstRootNode},
};

/// The fields that a proposal adds to, in the order in which they are made.
fn lists(proposal: &Proposal) -> [(&'static str, Option<&[String]>); 4] {
    let deps = Some(proposal.deps.as_slice()).filter(|deps| !deps.is_empty());
    let tools = Some(proposal.tools.as_slice()).filter(|tools| !tools.is_empty());
    [
        ("deps", deps),
        ("inputs", proposal.inputs.as_deref()),
        ("outputs", proposal.outputs.as_deref()),
        ("tools", tools),
    ]
}

/// Adds what is proposed to tasks by their names in a file that loads. Names of tasks that do not stand in it as
/// such (children of gaffer's nested tasks) come back. `None` when the text is no such file.
pub fn add<'p>(
    text: &str,
    proposals: impl IntoIterator<Item = (&'p str, &'p Proposal)>,
) -> Option<(String, Vec<String>)> {
    let root = CstRootNode::parse(text, &ParseOptions::default()).ok()?;
    let top = root.object_value()?;
    let tasks = top.object_value("tasks").or_else(|| top.object_value("graphs"))?;
    let mut not_found = Vec::new();
    for (name, proposal) in proposals {
        match tasks.object_value(name) {
            Some(task) => extend(&task, proposal)?,
            None => not_found.push(name.to_owned()),
        }
    }
    let edited = root.to_string();
    // A file in the one layout stays in it.
    let formatted = (format(text).as_deref() == Some(text)).then(|| format(&edited)).flatten();
    Some((formatted.unwrap_or(edited), not_found))
}

fn extend(task: &CstObject, proposal: &Proposal) -> Option<()> {
    for (field, values) in lists(proposal) {
        let Some(values) = values else { continue };
        let values = values.iter().map(|value| CstInputValue::String(value.clone()));
        match task.get(field) {
            Some(property) => {
                let array = property.array_value()?;
                values.for_each(|value| drop(array.append(value)));
            }
            None => drop(task.append(field, CstInputValue::Array(values.collect()))),
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::load;

    #[test]
    fn comments_and_order_stay() {
        let text = "// Of all.\n{\n  \"version\": \"1\",\n  \"tasks\": {\n    // Of a.\n    \"a\": {\n      \
                    \"command\": \"x\", // Why.\n      \"inputs\": [\"one\"]\n    },\n    \
                    \"b\": { \"command\": \"y\" }\n  }\n}\n";
        let a = Proposal {
            inputs: Some(vec!["two".into()]),
            outputs: Some(vec!["o \"q\"".into()]),
            tools: vec!["cc".into()],
            ..Proposal::default()
        };
        let (edited, missing) = add(text, [("a", &a), ("c", &a)]).unwrap();
        for kept in ["// Of all.", "// Of a.", "// Why."] {
            assert!(edited.contains(kept), "{edited}");
        }
        assert_eq!(missing, ["c"]);
        let graph = load(edited.as_bytes()).unwrap();
        let task = &graph[graph.find("a").unwrap()];
        let inputs: Vec<_> = task.inputs.iter().flatten().map(|i| i.glob.as_str()).collect();
        assert_eq!(inputs, ["one", "two"]);
        assert_eq!(task.outputs.as_ref().unwrap()[0].pattern, "o \"q\"");
        assert!(graph[graph.find("b").unwrap()].inputs.is_none());
    }
}
