//! `netbuild monitor`.

mod events;
mod screen;
mod view;

use super::{agent_of, print, print_json_of};
use crate::{args::MonitorArgs, errors::CliError, settings, signals::exit_code, table::Style};
use events::{Event, Events};
use netbuild_gateway::SocketCache;
use screen::Screen;
use signal_hook::consts::SIGINT;
use std::{
    io::IsTerminal as _,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};
use view::View;

pub(crate) fn monitor(args: &MonitorArgs) -> Result<ExitCode, CliError> {
    let settings = settings(&args.common.flags())?;
    let (agent, _) = agent_of(&settings)?;
    let is_terminal = std::io::stdout().is_terminal();
    let style = Style::of_stdout(is_terminal);
    if args.once || !(args.json || is_terminal) {
        let snapshot = agent.monitor()?;
        if args.json {
            print_json_of(&snapshot)?;
        } else {
            let mut view = View::new(args.interval);
            view.observe(snapshot);
            print(&view.to_text(style));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let agent = Arc::new(agent);
    if args.json { stream(&agent, args.interval) } else { watch(&agent, args.interval, style) }
}

/// Prints a line of JSON at each interval, until nobody reads them any more.
fn stream(agent: &Arc<SocketCache>, interval: Duration) -> Result<ExitCode, CliError> {
    let mut events = Events::start(agent, interval)?;
    loop {
        match events.next(Instant::now())? {
            Event::Snapshot(snapshot) => {
                if !print_json_of(&snapshot?)? {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Event::Resized => {}
            Event::Stopped(signal) => return Ok(ended_by(signal)),
        }
    }
}

/// Draws the table on the terminal at each interval, and when the terminal changes its size.
fn watch(agent: &Arc<SocketCache>, interval: Duration, style: Style) -> Result<ExitCode, CliError> {
    let mut events = Events::start(agent, interval)?;
    let mut view = View::new(interval);
    let screen = Screen::enter();
    loop {
        match events.next(Instant::now())? {
            // An agent that is restarted comes back.
            Event::Snapshot(Err(error)) => view.lost(&error.to_string()),
            Event::Snapshot(Ok(snapshot)) => view.observe(snapshot),
            Event::Resized => {}
            Event::Stopped(signal) => return Ok(ended_by(signal)),
        }
        let (width, height) = screen.size();
        if !screen.draw(&view.lines(width, height, style)) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Ctrl-C is how one leaves it.
fn ended_by(signal: i32) -> ExitCode {
    if signal == SIGINT { ExitCode::SUCCESS } else { exit_code(signal) }
}
