//! Figures and names as people read them.

pub(crate) use netbuild_core::text::size;
use std::{borrow::Cow, time::Duration};

/// Characters of a peer id that are shown: its end, as its beginning is the same for all.
const PEER_CHARACTERS: usize = 8;
/// Characters of a digest or action key that are shown.
const DIGEST_CHARACTERS: usize = 12;

/// A text that may stem from another agent, without what would do something to the terminal.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    // The ranges change the direction of what follows, and so can hide it.
    let acts =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if text.chars().any(acts) {
        text.chars().map(|c| if acts(c) { '\u{fffd}' } else { c }).collect()
    } else {
        text.into()
    }
}

/// The name of a region, or that there is none.
pub(crate) fn region(name: &str) -> &str {
    if name.is_empty() { "none" } else { name }
}

/// The end of a peer id.
pub(crate) fn short_peer(peer: &str) -> String {
    let skipped = peer.chars().count().saturating_sub(PEER_CHARACTERS);
    peer.chars().skip(skipped).collect()
}

/// The beginning of a digest or action key.
pub(crate) fn short_digest(digest: &str) -> String {
    digest.chars().take(DIGEST_CHARACTERS).collect()
}

/// Something that may not be known.
pub(crate) fn known<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

/// A time that something takes.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        short if short < 1.0 => format!("{:.0} ms", short * 1e3),
        medium if medium < 100.0 => format!("{medium:.1} s"),
        long => {
            let whole = long.round() as u64;
            match whole {
                0..3600 => format!("{} min {} s", whole / 60, whole % 60),
                _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
            }
        }
    }
}

/// See [`seconds`].
pub(crate) fn duration(value: Duration) -> String {
    seconds(value.as_secs_f64())
}

/// A round-trip time.
pub(crate) fn millis(value: f64) -> String {
    if value < 99.95 { format!("{value:.1} ms") } else { format!("{value:.0} ms") }
}

/// Bytes per second.
pub(crate) fn rate(bytes: u64) -> String {
    format!("{}/s", size(bytes))
}

/// A share from 0 to 1.
pub(crate) fn percent(share: f64) -> String {
    match share * 100.0 {
        none if none <= 0.0 => "0 %".to_owned(),
        small if small < 0.01 => "<0.01 %".to_owned(),
        small if small < 1.0 => format!("{small:.2} %"),
        medium if medium < 10.0 => format!("{medium:.1} %"),
        large => format!("{large:.0} %"),
    }
}

/// How long ago a moment was; both in milliseconds since 1970. One that is still to come, by the
/// clock of another agent, is now.
pub(crate) fn ago(at_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(at_ms) / 1000;
    match seconds {
        0 => "now".to_owned(),
        1..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// A count with its noun: `1 agent`, `2 agents`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_unit_that_suits_them() {
        assert_eq!([0.0, 0.0004, 0.25, 0.9999].map(seconds), ["0 ms", "0 ms", "250 ms", "1000 ms"]);
        assert_eq!(
            [1.0, 99.9, 119.7, 7260.0].map(seconds),
            ["1.0 s", "99.9 s", "2 min 0 s", "2 h 1 min"]
        );
        assert_eq!([0.31, 50.04, 150.2].map(millis), ["0.3 ms", "50.0 ms", "150 ms"]);
        assert_eq!([0, 999, 12_500_000].map(rate), ["0 B/s", "999 B/s", "12.5 MB/s"]);
        let shares = [0.0, 0.00001, 0.005, 0.05, 0.987].map(percent);
        assert_eq!(shares, ["0 %", "<0.01 %", "0.50 %", "5.0 %", "99 %"]);
    }

    #[test]
    fn moments_are_told_from_now() {
        let now = 1_000_000_000;
        let before = |seconds: u64| ago(now - seconds * 1000, now);
        assert_eq!(
            [0, 59, 150, 7300, 200_000].map(before),
            ["now", "59 s ago", "2 min ago", "2 h ago", "2 days ago"]
        );
        assert_eq!(ago(now + 5, now), "now");
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(clean("a\u{1b}[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
        assert_eq!(clean("a\u{202e}b"), "a\u{fffd}b");
        assert_eq!(clean("größe"), "größe");
        assert_eq!(short_peer("12D3KooWabcdefgh"), "abcdefgh");
        assert_eq!(short_peer("ü"), "ü");
    }
}
