//! `netbuild links`.

use super::{agent_of, print, print_rows};
use crate::{
    args::ReportArgs,
    errors::CliError,
    settings,
    table::{Align, Style, Table},
    text::{count, millis, percent, rate, region, seconds},
};
use netbuild_proto::control::{LinkRow, LinkSource};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    process::ExitCode,
};

pub(crate) fn links(args: &ReportArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let (agent, status) = agent_of(&settings)?;
    let links = agent.links()?;
    if args.json {
        print_rows(&links)?;
    } else {
        let style = Style::of_stdout(std::io::stdout().is_terminal());
        print(&to_text(&links.rows, links.left_out, &status.region, style));
    }
    Ok(ExitCode::SUCCESS)
}

/// A figure of a link as text, where it is known.
type Figure = fn(&LinkRow) -> Option<String>;

/// The matrices, and what they show.
const FIGURES: [(&str, Figure); 3] = [
    ("round trip", |link| link.rtt_ms.map(millis)),
    ("bandwidth", |link| link.goodput.map(rate)),
    ("loss", |link| link.loss.map(percent)),
];

/// Matrices of regions: what sends by row, what receives by column. `own` comes first.
fn to_text(links: &[LinkRow], left_out: u64, own: &str, style: Style) -> String {
    if links.is_empty() {
        return "no link was measured yet\n".to_owned();
    }
    let ends = links.iter().flat_map(|link| [&link.from_region, &link.to_region]);
    let mut regions: Vec<&str> =
        ends.map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect();
    regions.sort_by_key(|name| *name != own);
    // Tiers send and are sent to, but what they are sent nobody waits for.
    let receivers: Vec<&str> =
        regions.iter().copied().filter(|name| !name.contains("://")).collect();
    let best = best(links);
    let mut text = String::new();
    for (what, figure) in FIGURES {
        let columns = receivers.iter().map(|name| (region(name), Align::Right));
        let mut table = Table::new(std::iter::once((what, Align::Left)).chain(columns));
        for from in &regions {
            let cell = |to| match best.get(&(*from, to)) {
                Some(link) => figure(link).unwrap_or_else(|| "?".to_owned()),
                None => "-".to_owned(),
            };
            let cells = receivers.iter().map(|to| cell(*to).into());
            table.row(std::iter::once(region(from).into()).chain(cells));
        }
        text += &table.to_text(style);
        text.push('\n');
    }
    let measured = links.iter().filter(|link| link.source == LinkSource::Measured).count();
    let oldest = links.iter().map(|link| link.age_s).fold(0.0, f64::max);
    text += &format!(
        "from the region of the row to that of the column; ? is not known yet, - is no link\n\
         {}: {measured} measured here, {} told by other agents; the oldest figure is {} old\n",
        count(links.len() as u64, "link"),
        links.len() - measured,
        seconds(oldest),
    );
    if left_out > 0 {
        text += &format!("{} more not shown\n", count(left_out, "link"));
    }
    text
}

/// The best link from each region to each: a transfer would take that.
fn best(links: &[LinkRow]) -> BTreeMap<(&str, &str), &LinkRow> {
    let order = |link: &LinkRow| {
        let last = |figure: Option<f64>| figure.unwrap_or(f64::INFINITY);
        (last(link.score_s), last(link.rtt_ms))
    };
    let mut best: BTreeMap<_, &LinkRow> = BTreeMap::new();
    for link in links {
        let known = best.entry((&*link.from_region, &*link.to_region)).or_insert(link);
        let (new, old) = (order(link), order(known));
        if new.0.total_cmp(&old.0).then(new.1.total_cmp(&old.1)).is_lt() {
            *known = link;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(from: &str, to: &str, rtt_ms: f64, goodput: Option<u64>) -> LinkRow {
        LinkRow {
            from: from.to_uppercase(),
            from_region: from.into(),
            to: to.to_uppercase(),
            to_region: to.into(),
            rtt_ms: Some(rtt_ms),
            jitter_ms: None,
            loss: Some(0.01),
            goodput,
            age_s: 3.0,
            source: LinkSource::Measured,
            score_s: goodput.map(|rate| 1e6 / rate as f64),
        }
    }

    #[test]
    fn links_are_matrices_of_regions_with_the_own_first() {
        let links = [
            link("eu", "us", 151.0, None),
            // Of two between the same regions, the better one counts.
            link("eu", "us", 150.0, Some(3_000_000)),
            LinkRow {
                source: LinkSource::Gossip,
                age_s: 61.0,
                ..link("us", "eu", 149.0, Some(2_000))
            },
        ];
        assert_eq!(
            to_text(&links, 0, "us", Style::default()),
            "round trip      us      eu\n\
             us               -  149 ms\n\
             eu          150 ms       -\n\
             \n\
             bandwidth        us        eu\n\
             us                -  2.0 kB/s\n\
             eu         3.0 MB/s         -\n\
             \n\
             loss     us     eu\n\
             us        -  1.0 %\n\
             eu    1.0 %      -\n\
             \n\
             from the region of the row to that of the column; ? is not known yet, - is no link\n\
             3 links: 2 measured here, 1 told by other agents; the oldest figure is 61.0 s old\n"
        );
        let tier = LinkRow { loss: None, ..link("s3://bucket", "us", 40.0, Some(90_000_000)) };
        let with_tier = to_text(&[links[1].clone(), tier], 0, "us", Style::default());
        assert!(!with_tier.contains("us  s3://"), "{with_tier}");
        assert!(with_tier.contains("s3://bucket  90.0 MB/s  "), "{with_tier}");
        let unknown = to_text(&links[..1], 7, "", Style::default());
        assert!(unknown.contains("bandwidth  eu  us\neu          -   ?\n"), "{unknown}");
        assert!(unknown.ends_with("7 links more not shown\n"), "{unknown}");
        assert_eq!(to_text(&[], 0, "", Style::default()), "no link was measured yet\n");
    }
}
