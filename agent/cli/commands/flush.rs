//! `netbuild flush`.

use super::{existing, print, print_json_of};
use crate::{
    args::FlushArgs,
    errors::{CliError, EXIT_FAILED},
    settings,
    text::{clean, count, seconds, size},
};
use netbuild_proto::control::TierRow;
use std::process::ExitCode;

pub(crate) fn flush(args: &FlushArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let session = existing(&settings)?;
    session.drain(args.timeout)?;
    let tiers = session.status()?.tiers;
    if args.json {
        print_json_of(&tiers)?;
    } else if tiers.is_empty() {
        print("there are no tiers; CACHE_BACKEND or [cache] in the configuration names some\n");
    } else {
        print(&tiers.iter().map(|tier| format!("{}\n", line(tier))).collect::<String>());
    }
    let waits = tiers.iter().any(|tier| tier.waiting > 0);
    Ok(if waits { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS })
}

/// What waits for a tier, and why, in a line.
pub(crate) fn line(tier: &TierRow) -> String {
    let name = clean(&tier.name);
    let mut text = match tier.waiting {
        _ if tier.policy == "read-only" => format!("{name}: read-only"),
        0 => format!("{name}: has all"),
        waiting => {
            let what = count(waiting, "result");
            format!("{name}: {what} ({}) still to be copied", size(tier.waiting_bytes))
        }
    };
    if tier.waiting > 0 && !tier.why.is_empty() {
        text += &format!(": {}", clean(&tier.why));
        if let Some(rest) = tier.tried_in_s.filter(|rest| *rest > 0.0) {
            text += &format!("; tried again in {}", seconds(rest));
        }
    } else if let Some(why) = tier.resting.as_ref().filter(|_| tier.waiting > 0) {
        text += &format!(": {}", clean(why));
    }
    if tier.left_out > 0 {
        text += &format!("; {} left out", tier.left_out);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_waits_and_why() {
        let tier = TierRow {
            name: "s3://bucket".into(),
            policy: "write-back".into(),
            waiting: 2,
            waiting_bytes: 3_000_000,
            why: "put at s3://bucket: unreachable".into(),
            tried_in_s: Some(4.0),
            ..TierRow::default()
        };
        assert_eq!(
            line(&tier),
            "s3://bucket: 2 results (3.0 MB) still to be copied: put at s3://bucket: unreachable; \
             tried again in 4.0 s"
        );
        let done = TierRow { waiting: 0, left_out: 1, ..tier.clone() };
        assert_eq!(line(&done), "s3://bucket: has all; 1 left out");
        let read = TierRow { policy: "read-only".into(), waiting: 0, ..tier };
        assert_eq!(line(&read), "s3://bucket: read-only");
    }
}
