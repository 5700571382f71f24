//! Transfers as people read them: the line that shows how far one is, and what it took.

use crate::text::{duration, rate, size};
use indicatif::{ProgressBar, ProgressStyle};
use netbuild_core::{
    cache::Source,
    moved::{Coding, Movement, Progress, Watch},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

/// Longest list of sources in a line.
const SHOWN_SOURCES: usize = 3;

/// The line that shows how far a transfer is, on terminals only.
#[derive(Debug)]
pub(crate) struct Line {
    bar: ProgressBar,
    /// What moves.
    name: String,
}

impl Line {
    pub(crate) fn new(name: String, quiet: bool) -> Self {
        let live = std::io::stderr().is_terminal() && !quiet;
        let bar = if live { ProgressBar::new(1) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        if live {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { bar, name }
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Line {
    fn moving(&self, progress: &Progress) {
        // A bar without a length would be full.
        self.bar.set_length(progress.total.max(1));
        self.bar.set_position(progress.done);
        self.bar.set_message(line(&self.name, progress));
    }
}

/// The figures first: a narrow terminal cuts the line.
fn line(name: &str, progress: &Progress) -> String {
    let mut parts = vec![figures(progress)];
    parts.extend(progress.remaining().map(|left| format!("{} left", duration(left))));
    parts.extend(progress.coding.map(|coding| coding.to_string()));
    parts.extend(progress.resumed.map(|resumed| resumed.to_string()));
    parts.push(name.to_owned());
    parts.join(", ")
}

/// How much of it is here, how fast it comes, and from where.
fn figures(progress: &Progress) -> String {
    let mut text = format!("{} of {}", size(progress.done), size(progress.total));
    if progress.per_second >= 1.0 {
        text += &format!(", {}", rate(progress.per_second as u64));
    }
    if !progress.sources.is_empty() {
        text += &format!(" from {}", names(&progress.sources));
    }
    text
}

/// The results of several tasks that are on their way, by the names of the tasks.
pub(crate) fn results(moving: &BTreeMap<String, Progress>) -> Option<String> {
    let mut all = Progress::default();
    for progress in moving.values() {
        all.total += progress.total;
        all.done += progress.done;
        all.per_second += progress.per_second;
        all.sources.extend_from_slice(&progress.sources);
    }
    let what = match moving.len() {
        0 => return None,
        1 => moving.keys().next().cloned().unwrap_or_default(),
        several => format!("{several} results"),
    };
    Some(format!("fetching {what}: {}", figures(&all)))
}

/// Sources by their regions, each once.
fn names<'a>(sources: impl IntoIterator<Item = &'a Source>) -> String {
    let mut names: Vec<String> = Vec::new();
    for source in sources {
        let name = match source {
            Source::Peer { region, .. } if !region.is_empty() => region.clone(),
            other => other.to_string(),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let more = names.len().saturating_sub(SHOWN_SOURCES);
    if more > 0 {
        names.truncate(SHOWN_SOURCES);
        names.push(format!("{more} more"));
    }
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// What it took, as the end of a sentence that begins with what came: ` from us-east in 2.0 s: ...`.
pub(crate) fn took(movement: &Movement, seconds: f64) -> String {
    let parts = movement.by_size();
    let time = crate::text::seconds(seconds);
    if parts.is_empty() && movement.resumed.is_none() {
        return format!(" from disk in {time}");
    }
    let from = match parts.as_slice() {
        [] => "disk".to_owned(),
        parts => names(parts.iter().map(|part| &part.source)),
    };
    let mut text = format!(" from {from} in {time}: {} sent", size(movement.total().wire));
    let mut codings: Vec<_> = movement.codings.iter().filter(|(_, moved)| moved.wire > 0).collect();
    codings.sort_by_key(|(_, moved)| std::cmp::Reverse(moved.logical));
    let codings: Vec<&str> = codings.iter().map(|(coding, _)| coding.as_str()).collect();
    if !matches!(codings.as_slice(), [] | ["identity"]) {
        text += &format!(" ({})", codings.join(", "));
    }
    if let (Some(base), true) = (movement.base, movement.codings.contains_key(&Coding::Delta)) {
        text += &format!(", against {}", base.hash.short());
    }
    if let Some(resumed) = movement.resumed {
        text += &format!(", {resumed}");
    }
    text
}

/// A movement as the fields that `--json` prints of it.
pub(crate) fn to_json(movement: &Movement) -> serde_json::Map<String, Value> {
    let source = |part: &netbuild_core::moved::Part| {
        let (peer, region, tier) = match &part.source {
            Source::Disk => (None, "", None),
            Source::Peer { peer, region } => (Some(peer.to_string()), region.as_str(), None),
            Source::Tier(tier) => (None, "", Some(tier.place.as_str())),
        };
        let (bytes, bytes_on_wire) = (part.moved.logical, part.moved.wire);
        json!({
            "peer": peer, "region": region, "tier": tier,
            "bytes": bytes, "bytes_on_wire": bytes_on_wire,
        })
    };
    let sources: Vec<Value> = movement.by_size().into_iter().map(source).collect();
    let codec = |(coding, moved): (&Coding, &netbuild_core::moved::Moved)| {
        let value = json!({ "bytes": moved.logical, "bytes_on_wire": moved.wire });
        (coding.to_string(), value)
    };
    let codecs: serde_json::Map<String, Value> = movement.codings.iter().map(codec).collect();
    let resumed = movement
        .resumed
        .map(|resumed| json!({ "chunks_here": resumed.chunks_here, "chunks": resumed.chunks }));
    [
        ("bytes_on_wire", json!(movement.total().wire)),
        ("sources", json!(sources)),
        ("codecs", json!(codecs)),
        ("resumed", json!(resumed)),
        ("base", json!(movement.base.map(|base| base.to_string()))),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into_iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_core::{
        digest::Digest,
        moved::{Moved, Resumed},
        peer::PeerId,
    };

    fn peer(number: u8, region: &str) -> Source {
        Source::Peer { peer: PeerId([number; 32]), region: region.into() }
    }

    fn progress() -> Progress {
        Progress {
            total: 104_900_000,
            done: 61_200_000,
            wire: 30_000_000,
            per_second: 12_500_000.0,
            sources: vec![peer(1, "us-west"), peer(2, "eu-central"), peer(3, "us-west")],
            coding: Some(Coding::Zstd),
            resumed: Some(Resumed { chunks_here: 60, chunks: 100 }),
        }
    }

    #[test]
    fn progress_reads_as_a_line() {
        assert_eq!(
            line("af1349b9f5f9", &progress()),
            "61.2 MB of 104.9 MB, 12.5 MB/s from us-west and eu-central, 3.5 s left, zstd, \
             resumed at chunk 60/100, af1349b9f5f9"
        );
        let begins = Progress { total: 2000, ..Progress::default() };
        assert_eq!(line("3 blobs", &begins), "0 B of 2.0 kB, 3 blobs");
    }

    #[test]
    fn results_on_their_way_are_told_together() {
        let mut moving = BTreeMap::new();
        assert_eq!(results(&moving), None);
        moving.insert("services/api".to_owned(), progress());
        assert_eq!(
            results(&moving).as_deref(),
            Some(
                "fetching services/api: 61.2 MB of 104.9 MB, 12.5 MB/s from us-west and eu-central"
            )
        );
        let small = Progress { total: 100_000, per_second: 500_000.0, ..progress() };
        moving.insert("package".to_owned(), Progress { done: 0, sources: vec![], ..small });
        assert_eq!(
            results(&moving).as_deref(),
            Some("fetching 2 results: 61.2 MB of 105.0 MB, 13.0 MB/s from us-west and eu-central")
        );
    }

    #[test]
    fn sources_are_named_by_region_and_a_long_list_is_cut() {
        let sources = [peer(1, "a"), peer(2, "b"), peer(3, "c"), peer(4, "d"), peer(5, "e")];
        assert_eq!(names(&sources[..1]), "a");
        assert_eq!(names(&sources[..3]), "a, b and c");
        assert_eq!(names(&sources), "a, b, c and 2 more");
        let nameless = peer(7, "");
        assert_eq!(names([&nameless]), nameless.to_string());
    }

    #[test]
    fn what_a_transfer_took_reads_as_a_sentence() {
        let mut movement = Movement::default();
        assert_eq!(took(&movement, 0.012), " from disk in 12 ms");
        let moved = |logical, wire| Moved { logical, wire };
        movement.add(&peer(2, "eu-central"), Coding::Identity, moved(1_000_000, 1_000_100));
        assert_eq!(took(&movement, 0.5), " from eu-central in 500 ms: 1.0 MB sent");
        movement.add(&peer(1, "us-west"), Coding::Zstd, moved(103_900_000, 60_200_000));
        movement.resumed = Some(Resumed { chunks_here: 60, chunks: 100 });
        assert_eq!(
            took(&movement, 8.9),
            " from us-west and eu-central in 8.9 s: 61.2 MB sent (zstd, identity), \
             resumed at chunk 60/100"
        );
        let mut delta = Movement { base: Some(Digest::of(b"")), ..Movement::default() };
        delta.add(&peer(1, "us-west"), Coding::Delta, moved(9_000_000, 80_000));
        assert_eq!(
            took(&delta, 0.2),
            " from us-west in 200 ms: 80.0 kB sent (delta), against af1349b9f5f9"
        );
        // Broken off when only the last step was missing.
        let whole = Movement { resumed: movement.resumed, ..Movement::default() };
        assert_eq!(took(&whole, 0.2), " from disk in 200 ms: 0 B sent, resumed at chunk 60/100");
    }

    #[test]
    fn json_has_sources_and_codecs_with_both_measures() {
        let mut movement = Movement::default();
        let empty = json!({
            "bytes_on_wire": 0, "sources": [], "codecs": {}, "resumed": null, "base": null});
        assert_eq!(Value::Object(to_json(&movement)), empty);
        let (logical, wire) = (100, 40);
        movement.add(&peer(1, "us-west"), Coding::Zstd, Moved { logical, wire });
        movement.resumed = Some(Resumed { chunks_here: 60, chunks: 100 });
        movement.base = Some(Digest::of(b""));
        let full = json!({
            "bytes_on_wire": 40,
            "sources": [{
                "peer": PeerId([1; 32]).to_string(), "region": "us-west", "tier": null,
                "bytes": 100, "bytes_on_wire": 40}],
            "codecs": {"zstd": {"bytes": 100, "bytes_on_wire": 40}},
            "resumed": {"chunks_here": 60, "chunks": 100},
            "base": Digest::of(b"").to_string()});
        assert_eq!(Value::Object(to_json(&movement)), full);
    }
}
