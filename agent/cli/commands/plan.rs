//! `netbuild plan`.

use super::{agent_of, print, print_json_of};
use crate::{
    args::PlanArgs,
    commands::peers::look,
    errors::CliError,
    settings,
    table::{Align, Cell, Style, Table},
    text::{clean, known, millis, percent, rate, seconds, size},
};
use netbuild_proto::control::PlanReport;
use std::{io::IsTerminal as _, process::ExitCode};

pub(crate) fn plan(args: &PlanArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let digest = super::parse_digest(&args.digest)?;
    let (agent, _) = agent_of(&settings)?;
    let plan = agent.plan(&digest)?;
    if args.json {
        print_json_of(&plan)?;
    } else {
        print(&to_text(&plan, Style::of_stdout(std::io::stdout().is_terminal())));
    }
    Ok(ExitCode::SUCCESS)
}

fn to_text(plan: &PlanReport, style: Style) -> String {
    let built = plan.build_s.map(|s| format!(", built in {}", seconds(s))).unwrap_or_default();
    let mut text = format!("{}: {}{built}\n", clean(&plan.what), size(plan.size));
    if plan.steps.is_empty() {
        text += "nothing that is known here has it\n";
        return text;
    }
    let mut table = Table::new([
        ("", Align::Right),
        ("source", Align::Left),
        ("has it", Align::Left),
        ("expected", Align::Right),
        ("score", Align::Right),
        ("RTT", Align::Right),
        ("bandwidth", Align::Right),
        ("loss", Align::Right),
        ("state", Align::Left),
        ("why", Align::Left),
    ]);
    for (index, step) in plan.steps.iter().enumerate() {
        let holds = known(step.holds, |yes| if yes { "yes" } else { "no" }.to_owned());
        let state = match step.state {
            Some(state) => Cell::from(state.as_str()).look(look(state)),
            None => Cell::from("-"),
        };
        table.row([
            (index + 1).to_string().into(),
            step.source.as_str().into(),
            holds.into(),
            known(step.predicted_s, seconds).into(),
            known(step.score_s, seconds).into(),
            known(step.rtt_ms, millis).into(),
            known(step.goodput, rate).into(),
            known(step.loss, percent).into(),
            state,
            step.reason.as_str().into(),
        ]);
    }
    text + &table.to_text(style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netbuild_proto::control::{PeerState, PlanStep};

    #[test]
    fn a_plan_lists_its_sources_in_order_with_what_they_would_take() {
        let peer = PlanStep {
            source: "peer bbbbbbbb (us-east)".into(),
            region: "us-east".into(),
            predicted_s: Some(0.31),
            score_s: Some(0.35),
            rtt_ms: Some(50.1),
            goodput: Some(11_900_000),
            loss: Some(0.0),
            state: Some(PeerState::Ok),
            reason: "the fastest that has it".into(),
            holds: Some(true),
        };
        let build = PlanStep {
            source: "build".into(),
            predicted_s: Some(12.3),
            reason: "slower than\nany copy".into(),
            ..PlanStep::default()
        };
        let plan = PlanReport {
            what: "af13".into(),
            size: 3_313_896,
            build_s: Some(12.3),
            steps: vec![peer, build],
        };
        assert_eq!(
            to_text(&plan, Style::default()),
            "af13: 3.3 MB, built in 12.3 s\n   \
                source                   has it  expected   score      RTT  bandwidth  loss  state  why\n\
             1  peer bbbbbbbb (us-east)  yes       310 ms  350 ms  50.1 ms  11.9 MB/s   0 %  ok     the fastest that has it\n\
             2  build                    -         12.3 s       -        -          -     -  -      slower than\u{fffd}any copy\n"
        );
        let nothing = PlanReport { what: "x".into(), size: 1, build_s: None, steps: Vec::new() };
        assert_eq!(
            to_text(&nothing, Style::default()),
            "x: 1 B\nnothing that is known here has it\n"
        );
    }
}
