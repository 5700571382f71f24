//! Fields whose values have a small language of their own: times, retries, platforms.

use super::{
    code,
    read::{array, at, integer, mismatch, object, string, strings, unknown_field, word},
    report::{Report, quote},
    suggest::did_you_mean,
    task::{PlatformFilter, Retry, RetryOn},
};
use jsonc_parser::ast::Value;
use std::time::Duration;

/// Longest timeout: a week. A task that needs more needs a person, too.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most attempts; a task that fails more often is broken.
const MAX_ATTEMPTS: i64 = 100;
/// Longest pause between attempts in milliseconds: a day.
const MAX_DELAY_MS: i64 = 24 * 3600 * 1000;
/// Largest factor between pauses; the longest pause is reached at once with it.
const MAX_MULTIPLIER: f64 = 1000.0;
/// Pause before the first retry where the file says only how many.
const RETRY_DELAY: Duration = Duration::from_millis(500);

const RETRY_FIELDS: &[&str] =
    &["max_attempts", "initial_delay_ms", "max_delay_ms", "backoff_multiplier", "on"];

const OPERATING_SYSTEMS: &[(&str, &str)] =
    &[("linux", "linux"), ("macos", "macos"), ("darwin", "macos"), ("windows", "windows")];

const ARCHITECTURES: &[(&str, &str)] = &[
    ("x86_64", "x86_64"),
    ("amd64", "x86_64"),
    ("x64", "x86_64"),
    ("aarch64", "aarch64"),
    ("arm64", "aarch64"),
    ("x86", "x86"),
    ("arm", "arm"),
    ("riscv64", "riscv64"),
    ("powerpc64", "powerpc64"),
    ("s390x", "s390x"),
];

/// `"90s"`, `"1h30m"`, or a number of seconds.
pub(super) fn timeout(report: &mut Report, value: &Value<'_>) -> Option<Duration> {
    let parsed = match value {
        Value::StringLit(text) => duration(&text.value),
        Value::NumberLit(number) => {
            number.value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        }
        _ => {
            mismatch(report, value, "timeout", "a string or a number of seconds");
            return None;
        }
    };
    let Some(parsed) = parsed else {
        let message = "`timeout` is not a time".to_owned();
        let hint = "write \"90s\", \"10m\", \"1h30m\" or a number of seconds";
        report.error_with(at(value), code::RANGE, message, hint.to_owned());
        return None;
    };
    if parsed < Duration::from_millis(1) || parsed > MAX_TIMEOUT {
        let message = "`timeout` must be from 1 ms to 7 days".to_owned();
        report.error(at(value), code::RANGE, message);
        return None;
    }
    Some(parsed)
}

/// Whole numbers with units, the largest unit first, each at most once.
fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let (mut rest, mut total, mut next) = (text, 0u64, 0);
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        let unit = UNITS.iter().position(|(name, _)| *name == &rest[..letters])?;
        if unit < next {
            return None;
        }
        next = unit + 1;
        total = total.checked_add(number.checked_mul(UNITS[unit].1)?)?;
        rest = &rest[letters..];
    }
    (next > 0).then(|| Duration::from_millis(total))
}

/// A number of retries, or gaffer's object, which counts all attempts.
pub(super) fn retry(report: &mut Report, value: &Value<'_>, field: &str) -> Option<Retry> {
    let mut retry = Retry { initial_delay: RETRY_DELAY, ..Retry::default() };
    if let Value::NumberLit(_) = value {
        let retries = integer(report, value, field, code::RANGE, 0..=MAX_ATTEMPTS - 1)?;
        retry.max_attempts = retries as u32 + 1;
        return Some(retry);
    }
    if !matches!(value, Value::Object(_)) {
        mismatch(report, value, field, "a number or an object");
        return None;
    }
    for property in &object(report, value, field)?.properties {
        let (name, value) = (property.name.as_str(), &property.value);
        match name {
            "max_attempts" => {
                let attempts = integer(report, value, name, code::RANGE, 0..=MAX_ATTEMPTS);
                retry.max_attempts = attempts.unwrap_or(1).max(1) as u32;
            }
            "initial_delay_ms" => retry.initial_delay = delay(report, value, name),
            "max_delay_ms" => retry.max_delay = delay(report, value, name),
            "backoff_multiplier" => retry.backoff_multiplier = multiplier(report, value),
            "on" => retry.on = retry_on(report, value),
            _ => unknown_field(report, property, "a retry", RETRY_FIELDS, &[]),
        }
    }
    Some(retry)
}

fn delay(report: &mut Report, value: &Value<'_>, field: &str) -> Duration {
    let ms = integer(report, value, field, code::RANGE, 0..=MAX_DELAY_MS);
    Duration::from_millis(ms.unwrap_or(0).unsigned_abs())
}

fn multiplier(report: &mut Report, value: &Value<'_>) -> f64 {
    let number = value.as_number_lit().and_then(|n| n.value.parse().ok());
    match number.filter(|factor| (1.0..=MAX_MULTIPLIER).contains(factor)) {
        Some(factor) => factor,
        None => {
            let message =
                format!("`backoff_multiplier` must be a number from 1 to {MAX_MULTIPLIER}");
            report.error(at(value), code::RANGE, message);
            1.0
        }
    }
}

fn retry_on(report: &mut Report, value: &Value<'_>) -> RetryOn {
    let mut on = RetryOn { exit: false, timeout: false, signal: false };
    for value in array(report, value, "on").unwrap_or_default() {
        let words = [("exit", 0), ("timeout", 1), ("signal", 2)];
        match word(report, value, "on", &words) {
            Some(0) => on.exit = true,
            Some(1) => on.timeout = true,
            Some(_) => on.signal = true,
            None => {}
        }
    }
    on
}

/// `os` or `os/arch`, with the names that people use for both.
pub(super) fn platforms(report: &mut Report, value: &Value<'_>) -> Option<Vec<PlatformFilter>> {
    let mut filters = Vec::new();
    for text in strings(report, value, "platforms")? {
        let (os, arch) = match text.value.split_once('/') {
            Some((os, arch)) => (os, Some(arch)),
            None => (text.value, None),
        };
        let mut known = |names: &[(&str, &'static str)], name: &str, what: &str| {
            let found = names.iter().find(|(alias, _)| *alias == name);
            if found.is_none() {
                let message = format!("unknown {what} {}", quote(name));
                let all: Vec<_> = names.iter().map(|(alias, _)| *alias).collect();
                let hint = did_you_mean(name, all.iter().copied())
                    .unwrap_or_else(|| format!("one of {}", all.join(", ")));
                report.error_with(text.at, code::PLATFORM, message, hint);
            }
            found.map(|(_, name)| *name)
        };
        let os = known(OPERATING_SYSTEMS, os, "platform");
        let arch = arch.map(|arch| known(ARCHITECTURES, arch, "architecture"));
        if let (Some(os), None | Some(Some(_))) = (os, arch) {
            let arch = arch.flatten();
            filters.push(PlatformFilter { os, arch });
        }
    }
    Some(filters)
}

/// Gaffer's `parallelism`; the number of tasks at once.
pub(super) fn parallelism(report: &mut Report, value: &Value<'_>) -> Option<u32> {
    let mut max_parallel = None;
    for property in &object(report, value, "parallelism")?.properties {
        let (name, value) = (property.name.as_str(), &property.value);
        match name {
            "max_parallel" => {
                let range = 1..=i64::from(u32::MAX);
                let most = integer(report, value, name, code::RANGE, range);
                max_parallel = most.map(|most| most as u32);
            }
            "memory_limit_mb" => {
                integer(report, value, name, code::RANGE, 0..=i64::MAX);
                let message = "`memory_limit_mb` is not enforced by this version".to_owned();
                report.warn(
                    at(property),
                    code::NOT_SUPPORTED,
                    message,
                    "remove it, or limit memory outside of netbuild",
                );
            }
            _ => {
                let known = ["max_parallel", "memory_limit_mb"];
                unknown_field(report, property, "`parallelism`", &known, &[]);
            }
        }
    }
    max_parallel
}

/// A text that may hold anything but NUL, which no variable and no salt can have.
pub(super) fn plain_text(report: &mut Report, value: &Value<'_>, field: &str) -> Option<String> {
    let text = string(report, value, field)?;
    if text.value.contains('\0') {
        report.error(text.at, code::TEXT, format!("a NUL in `{field}`"));
        return None;
    }
    Some(text.value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, ms) in [
            ("90s", Some(90_000)),
            ("10m", Some(600_000)),
            ("1h30m", Some(5_400_000)),
            ("1d", Some(86_400_000)),
            ("1s500ms", Some(1500)),
            ("", None),
            ("90", None),
            ("s", None),
            ("1m1h", None),
            ("1m1m", None),
            ("-1s", None),
            ("1.5s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
            ("1é", None),
        ] {
            assert_eq!(duration(text), ms.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let retry = Retry {
            max_attempts: 40,
            initial_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(1),
            backoff_multiplier: 1000.0,
            ..Retry::default()
        };
        assert_eq!(retry.delay_after(1), Some(Duration::from_millis(100)));
        assert_eq!(retry.delay_after(2), Some(Duration::from_secs(1)));
        assert_eq!(retry.delay_after(39), Some(Duration::from_secs(1)));
        assert_eq!(retry.delay_after(40), None);
    }
}
