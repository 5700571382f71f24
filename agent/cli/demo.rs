//! `netbuild demo`: regions on this machine, real agents in them, emulated links between them, and
//! what all that is good for, measured.
//!
//! It owns all that it makes: processes that get a signal should it be killed, links, and one
//! directory. [`story`] is what is told, [`verdict`] what comes of it.

mod agents;
mod example;
mod links;
mod outputs;
mod place;
mod processes;
mod story;
mod teller;
mod timeline;
mod verdict;

use crate::{
    args::DemoArgs,
    commands::{executable, print},
    errors::{CliError, EXIT_FAILED},
    signals::{Interrupt, exit_code},
    text::seconds,
};
use agents::{AGENT, World};
use example::Example;
use links::Links;
use place::Place;
use processes::Runner;
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::AtomicUsize,
    time::Instant,
};
use story::{SITES, Scale, Story};
use teller::Teller;

/// What the example is built with.
const TOOLS: [(&str, &str); 2] =
    [("rustc", "install Rust: https://rustup.rs"), ("cc", "install a C compiler, such as gcc")];

pub(crate) fn demo(args: &DemoArgs) -> Result<ExitCode, CliError> {
    let interrupt = Interrupt::catch(&[SIGINT, SIGTERM, SIGHUP])?;
    need_tools()?;
    let example = Example::load(args.workspace.as_deref())?;
    let mut teller = Teller::new(args.json.as_deref() == Some(Path::new("-")));
    let began = Instant::now();
    let runner = Runner::new(interrupt);
    let place = Place::make()?;
    // The same program under another name, so that a demo meets no agent of another version.
    let agent = place.join(AGENT);
    std::os::unix::fs::symlink(executable()?, &agent)
        .map_err(|error| CliError::io("make", &agent, &error))?;
    let (links, why_loopback) = Links::up(&SITES, args.loopback, &place)?;
    teller.print(&format!("netbuild demo: regions on this machine, {}\n", links.describe()));
    if let Some(why) = why_loopback {
        teller.note(&format!("without network namespaces, as this root may not make them: {why}"));
    }
    if cfg!(debug_assertions) {
        teller.note("this is a debug build of netbuild: it is slower than a release build");
    }
    let world = World { place: &place, links: &links, runner: &runner, count: AtomicUsize::new(0) };
    let scale = if args.fast { &Scale::FAST } else { &Scale::FULL };
    let mut story = Story::new(&world, &example, scale, &mut teller, began);
    let mut told = story.tell();
    if let Some(signal) = runner.interrupted() {
        return Ok(exit_code(signal));
    }
    let idle = story.verdict.idle().join(" and ");
    if told.is_ok() && !idle.is_empty() {
        told = Err(CliError::failed(format!("{idle} served nothing")));
    }
    let failure = told.as_ref().err().map(|error| error.message().to_owned());
    let style = story.teller.style();
    if !story.verdict.figures.is_empty() {
        story.teller.print(&format!("\n{}", story.verdict.to_text(style)));
    }
    let took = began.elapsed().as_secs_f64();
    story.teller.print(&format!("\nall of it took {}\n", seconds(took)));
    let report = report(&story, links.kind(), args.fast, took, failure.as_deref());
    write(args, &report, &story.timeline.to_json())?;
    if let Err(error) = told {
        return Ok(error.print("netbuild demo"));
    }
    if args.keep {
        story.keep();
    }
    Ok(match failure {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::from(EXIT_FAILED),
    })
}

/// All that was measured, for programs.
fn report(story: &Story<'_>, links: &str, fast: bool, took: f64, failure: Option<&str>) -> Value {
    let mut report = story.verdict.to_json();
    let more = json!({
        "result": if failure.is_none() { "success" } else { "failure" },
        "error": failure,
        "version": env!("CARGO_PKG_VERSION"),
        "links": links,
        "fast": fast,
        "processors": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "seconds": (took * 1e3).round() / 1e3,
    });
    if let (Value::Object(report), Value::Object(more)) = (&mut report, more) {
        report.extend(more);
    }
    report
}

fn write(args: &DemoArgs, report: &Value, trace: &str) -> Result<(), CliError> {
    let put = |path: &PathBuf, text: &str| {
        fs::write(path, text).map_err(|error| CliError::io("write", path, &error))
    };
    match &args.json {
        Some(path) if path == Path::new("-") => print(&format!("{report}\n")),
        Some(path) => put(path, &format!("{report}\n"))?,
        None => {}
    }
    args.trace.as_ref().map_or(Ok(()), |path| put(path, trace))
}

fn need_tools() -> Result<(), CliError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |tool: &str| std::env::split_paths(&path).any(|dir| dir.join(tool).exists());
    match TOOLS.iter().find(|(tool, _)| !has(tool)) {
        None => Ok(()),
        Some((tool, hint)) => Err(CliError::wrong(format!(
            "the demo builds an example with `{tool}`, which is not on the PATH"
        ))
        .hint(*hint)),
    }
}
