//! What is told, chapter by chapter. Each measures something, and fails when what it shows does not
//! happen.

use super::{
    agents::{Agent, World, parse},
    example::{A_CONSTANT, Build, Example, THE_VERSION},
    outputs::Outputs,
    processes::Process,
    teller::Teller,
    timeline::Timeline,
    verdict::{Figure, Region, Target, Unit, Verdict, undisturbed},
};
use crate::{
    errors::CliError,
    text::{count, seconds, size},
};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

/// The sites, with the profiles of their links where their names do not say: a link has the worse of
/// those of its two ends.
pub(crate) const SITES: [&str; 7] = [
    "us-east",
    "us-west",
    "eu-central",
    "office=datacenter",
    "branch=eu-central",
    "branch-plain=eu-central",
    "branch-thin=branch",
];
/// The site that the office is nearest to, and the link between them.
const NEAREST_LINK: &str = "us-east:office";
/// How much of a blob is here when its source goes away.
const DISTURBED_AT: f64 = 0.4;
/// What an agent is told that fetches whatever can be had, and has it sent as it is.
const PLAIN: &str = "[plan]\nbuild = \"last\"\n[transfer]\ncodec = \"off\"\ndelta = false\n";

/// How much of everything.
#[derive(Debug)]
pub(crate) struct Scale {
    /// Tasks of the example; none for all.
    tasks: &'static [&'static str],
    /// Tasks of its debug build.
    debug_tasks: &'static [&'static str],
    /// Bytes of what is fetched over links that are disturbed.
    blob: u64,
}

impl Scale {
    pub(crate) const FULL: Self = Self { tasks: &[], debug_tasks: &["package"], blob: 24_000_000 };
    /// What a test has time for.
    pub(crate) const FAST: Self =
        Self { tasks: &["build-worker"], debug_tasks: &["build-worker"], blob: 8_000_000 };
}

/// A demo that is being told.
pub(crate) struct Story<'a> {
    world: &'a World<'a>,
    example: &'a Example,
    scale: &'static Scale,
    pub(crate) teller: &'a mut Teller,
    pub(crate) timeline: Timeline,
    pub(crate) verdict: Verdict,
    /// Results that there are: each executed task has one.
    results: u64,
    /// Ended with it, the one that the others joined last.
    agents: Option<Regions>,
}

/// The agents that are there from the beginning to the end.
struct Regions {
    office: Agent,
    central: Agent,
    west: Agent,
    east: Agent,
}

impl Drop for Regions {
    /// All end at the same time, and not one after the other.
    fn drop(&mut self) {
        for agent in [&mut self.office, &mut self.central, &mut self.west, &mut self.east] {
            agent.ask_to_end();
        }
    }
}

/// What a build came to.
struct Built {
    executed: u64,
    /// How many of these others had, who would have been later.
    sooner: u64,
    sources: String,
    /// Bytes that others sent for it.
    sent: u64,
    seconds: f64,
}

impl Built {
    /// What a build did that could have had all from others.
    fn done(&self) -> String {
        match self.executed {
            0 => "nothing executed".to_owned(),
            executed => format!("{} sooner built", count(executed, "task")),
        }
    }
}

impl<'a> Story<'a> {
    pub(crate) fn new(
        world: &'a World<'a>,
        example: &'a Example,
        scale: &'static Scale,
        teller: &'a mut Teller,
        began: Instant,
    ) -> Self {
        Self {
            world,
            example,
            scale,
            teller,
            timeline: Timeline::new(began),
            verdict: Verdict::default(),
            results: 0,
            agents: None,
        }
    }

    /// Tells all of it. What was measured before something failed stays.
    pub(crate) fn tell(&mut self) -> Result<(), CliError> {
        let mut regions = self.meet()?;
        let told = self.chapters(&mut regions);
        self.agents = Some(regions);
        told
    }

    fn chapters(&mut self, regions: &mut Regions) -> Result<(), CliError> {
        let cold = self.cold(regions)?;
        self.warm(regions, cold)?;
        self.cut(regions)?;
        self.resume(regions)?;
        self.increment(regions)?;
        self.sync(regions)?;
        self.slow_link(regions)?;
        for agent in [&regions.east, &regions.west, &regions.central] {
            self.verdict.regions.push(Region {
                name: agent.site.to_owned(),
                served: agent.counter("data_bytes_served")?,
                requests: agent.counter("data_requests_served")?,
                fetched: agent.counter("data_bytes_fetched")?,
            });
        }
        Ok(())
    }

    fn meet(&mut self) -> Result<Regions, CliError> {
        self.teller.chapter("An agent in each of three regions, and one in an office");
        let began = Instant::now();
        let doing = self.teller.doing("agents start");
        let world = self.world;
        let east = world.agent("us-east", "", &[])?;
        let west = world.agent("us-west", "", &[&east])?;
        let central = world.agent("eu-central", "", &[&east])?;
        let office = world.agent("office", "", &[&east])?;
        world.wait_until_met(&[&east, &west, &central, &office])?;
        drop(doing);
        self.teller.line("us-east - office", "50 ms, 100 Mbit/s");
        self.teller.line("us-east - us-west - office", "100 ms, 50 Mbit/s");
        self.teller.line("eu-central - each of them", "150 ms, 25 Mbit/s");
        let took = seconds(began.elapsed().as_secs_f64());
        self.teller.line("found each other", &format!("in {took}, from one ticket"));
        self.timeline.add("agents meet", began);
        Ok(Regions { office, central, west, east })
    }

    /// Builds in a workspace, with the agent of a site.
    fn build(
        &mut self,
        agent: &Agent,
        workspace: &Path,
        tasks: &[&str],
    ) -> Result<Built, CliError> {
        let doing = self.teller.doing(&format!("{} builds", agent.site));
        let (began, trace) = (Instant::now(), self.world.fresh("trace"));
        let args = ["run", "--json", "--quiet", "--trace"].map(OsStr::new);
        let tasks = tasks.iter().map(OsStr::new);
        let args: Vec<&OsStr> = args.into_iter().chain([trace.as_os_str()]).chain(tasks).collect();
        let mut command = self.world.command(agent, &args)?;
        command.current_dir(workspace);
        let ran = self.world.runner.run(&mut command, &self.world.fresh("run"), || Ok(()))?;
        drop(doing);
        let trace = fs::read_to_string(&trace).unwrap_or_default();
        self.timeline.add_run(agent.site, began, &trace);
        let summary = parse(&ran.stdout)?;
        let number = |pointer: &str| summary.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let sources = summary["sources"].as_object().into_iter().flatten();
        let sources = sources.map(|(region, count)| format!("{count} from {region}"));
        // What was sooner built has the key of the result that others have.
        self.results += number("/executed").saturating_sub(number("/sooner_built"));
        Ok(Built {
            executed: number("/executed"),
            sooner: number("/sooner_built"),
            sources: sources.collect::<Vec<_>>().join(", "),
            sent: number("/bytes_fetched"),
            seconds: summary["seconds"].as_f64().unwrap_or(ran.seconds),
        })
    }

    /// Builds something that another region has built: byte for byte what `made` is, and nothing is
    /// executed but what is sooner built than fetched.
    fn build_warm(
        &mut self,
        agent: &Agent,
        workspace: &Path,
        tasks: &[&str],
        made: &Outputs,
    ) -> Result<Built, CliError> {
        let built = self.build(agent, workspace, tasks)?;
        if built.executed > built.sooner {
            let (site, executed) = (agent.site, count(built.executed - built.sooner, "task"));
            return Err(CliError::failed(format!(
                "{site} executed {executed} that another region had built"
            )));
        }
        let here = Outputs::of(workspace)?;
        match here.first_that_differs(made) {
            None => Ok(built),
            Some(path) => Err(CliError::failed(format!(
                "`{path}` is not what was built, in the workspace of {}",
                agent.site
            ))),
        }
    }

    fn cold(&mut self, regions: &Regions) -> Result<(f64, Outputs), CliError> {
        self.teller.chapter("The example is built in us-east: nobody has it yet");
        let began = Instant::now();
        let east = &regions.east;
        self.example.write(&east.workspace, Build::Release)?;
        let built = self.build(east, &east.workspace, self.scale.tasks)?;
        if built.executed == 0 {
            return Err(CliError::failed("us-east executed nothing, although nobody had built it"));
        }
        let outputs = Outputs::of(&east.workspace)?;
        let (executed, bytes) = (count(built.executed, "task"), size(outputs.bytes()));
        let took = seconds(built.seconds);
        self.teller.line("cold, in us-east", &format!("{took}: {executed} executed, {bytes} made"));
        self.timeline.add("cold build", began);
        Ok((built.seconds, outputs))
    }

    fn warm(&mut self, regions: &Regions, (cold, outputs): (f64, Outputs)) -> Result<(), CliError> {
        self.teller.chapter("Others build the same: everything comes from where it is");
        let began = Instant::now();
        // The far one first, while us-east alone has it.
        let machines = [
            (&regions.central, "eu-central (150 ms)", "warm_far", Some(0.15)),
            (&regions.office, "office (50 ms)", "warm_near", Some(0.08)),
            (&regions.west, "us-west (100 ms)", "warm_us_west", None),
        ];
        for (agent, what, name, target) in machines {
            self.example.write(&agent.workspace, Build::Release)?;
            self.world.wait_for_records(agent, self.results)?;
            let built = self.build_warm(agent, &agent.workspace, self.scale.tasks, &outputs)?;
            let figure =
                Figure::ratio((name, &format!("warm/cold, {what}")), (built.seconds, cold), target);
            let (took, sources) = (seconds(built.seconds), &built.sources);
            self.teller.line(what, &format!("{took}: {}, {sources}", built.done()));
            self.verdict.figures.push(figure);
        }
        // Told from near to far.
        self.verdict.figures.rotate_left(1);
        self.timeline.add("warm builds", began);
        Ok(())
    }

    fn cut(&mut self, regions: &Regions) -> Result<(), CliError> {
        let bytes = self.scale.blob;
        let title =
            format!("The nearest region is cut off while {} come to the office", size(bytes));
        self.teller.chapter(&title);
        let began = Instant::now();
        let (world, office) = (self.world, &regions.office);
        let doing = self.teller.doing("blobs are made and fetched");
        world.wait_until_met(&[&regions.east, &regions.west, &regions.central, office])?;
        let undisturbed_from = |holders: &[&Agent]| {
            let digest = world.noise(bytes, holders)?;
            world.fetch(office, &digest, u64::MAX, || Ok(()))
        };
        let near = undisturbed_from(&[&regions.east])?;
        let alone = undisturbed_from(&[&regions.west])?;
        let calm = undisturbed_from(&[&regions.east, &regions.west])?;
        let disturbed = world.noise(bytes, &[&regions.east, &regions.west])?;
        let at = (bytes as f64 * DISTURBED_AT) as u64;
        let cut = || world.links.cut(NEAREST_LINK);
        let fetch = world.fetch(office, &disturbed, at, cut)?;
        drop(doing);
        world.links.mend(NEAREST_LINK)?;
        let Some((when, here)) = fetch.disturbed else {
            return Err(CliError::failed("all was there before the link could be cut"));
        };
        let rate = bytes as f64 / (alone.seconds - alone.first).max(f64::MIN_POSITIVE);
        let expected = undisturbed(bytes, (when, here), rate);
        let lost = (fetch.seconds - expected).max(0.0);
        let from = sources(&fetch.report);
        self.teller.line("from us-east alone", &seconds(near.seconds));
        self.teller.line("from us-west alone", &seconds(alone.seconds));
        self.teller
            .line("from both", &format!("{}: {}", seconds(calm.seconds), sources(&calm.report)));
        let (took, when) = (seconds(fetch.seconds), seconds(when));
        self.teller.line(
            "from both, us-east cut off",
            &format!("{took}: cut after {when} with {} here", size(here)),
        );
        self.teller.line("where it came from", &from);
        let detail = format!("{took} for {}", seconds(expected));
        self.verdict.figures.push(Figure {
            name: "recovery",
            what: "time lost, source cut off".to_owned(),
            unit: Unit::Seconds,
            value: lost,
            target: Some(Target::AtMost(1.0)),
            detail,
        });
        self.timeline.add("the primary is cut off", began);
        if !from.contains("us-west") {
            return Err(CliError::failed("us-west sent nothing of what us-east could not"));
        }
        Ok(())
    }

    fn resume(&mut self, regions: &mut Regions) -> Result<(), CliError> {
        self.teller.chapter("The agent of the office is killed in the middle, and started again");
        let began = Instant::now();
        let (world, bytes) = (self.world, self.scale.blob);
        let Regions { office, central, west, east } = regions;
        let doing = self.teller.doing("the office fetches");
        world.wait_until_met(&[east, west, central, office])?;
        let digest = world.noise(bytes, &[east])?;
        let (before, out) = (office.counter("data_bytes_fetched")?, world.fresh("blob"));
        let args = ["get", &digest, "--quiet", "--output"].map(OsStr::new);
        let mut get = world.command(office, &[&args[..], &[out.as_os_str()]].concat())?;
        let getting = Process::start(&mut get, &world.fresh("log"), Signal::TERM)?;
        let half = before + bytes / 2;
        world.runner.wait_until("half of it is here", || {
            Ok(office.counter("data_bytes_fetched")? >= half)
        })?;
        let first = office.counter("data_bytes_fetched")?.saturating_sub(before);
        office.kill();
        drop(getting);
        world.start_again(office, &[east, west])?;
        world.wait_until_met(&[east, west, central, office])?;
        let fetch = world.fetch(office, &digest, u64::MAX, || Ok(()))?;
        drop(doing);
        let number = |name: &str| fetch.report["resumed"][name].as_u64();
        let (Some(here), Some(chunks)) = (number("chunks_here"), number("chunks")) else {
            return Err(CliError::failed("what was here before the kill was fetched again"));
        };
        let second = fetch.report["bytes_on_wire"].as_u64().unwrap_or(0);
        let (took, crossed) = (seconds(fetch.seconds), (first + second) as f64 / bytes as f64);
        self.teller.line("the second try", &format!("{took}: resumed at chunk {here}/{chunks}"));
        self.teller.line("sent in both tries together", &format!("{crossed:.2} times its bytes"));
        self.timeline.add("the requester is killed", began);
        Ok(())
    }

    fn increment(&mut self, regions: &Regions) -> Result<(), CliError> {
        self.teller.chapter("One line is changed in us-east, and us-west builds it too");
        let began = Instant::now();
        let (east, west) = (&regions.east, &regions.west);
        let before = Outputs::of(&west.workspace)?;
        A_CONSTANT.apply(&east.workspace)?;
        let built = self.build(east, &east.workspace, self.scale.tasks)?;
        let made = Outputs::of(&east.workspace)?;
        let (executed, took) = (count(built.executed, "task"), seconds(built.seconds));
        self.teller
            .line("a line of worker/main.rs", &format!("{took}: {executed} executed in us-east"));
        A_CONSTANT.apply(&west.workspace)?;
        self.world.wait_for_records(west, self.results)?;
        let built = self.build_warm(west, &west.workspace, self.scale.tasks, &made)?;
        let changed = made.changed_since(&before);
        let took = seconds(built.seconds);
        self.teller
            .line("us-west", &format!("{took}: {}, {} changed", built.done(), size(changed)));
        self.verdict.figures.push(Figure::bytes_saved(
            ("incremental", "bytes saved, one line edited"),
            (built.sent, changed),
            0.97,
        ));
        self.timeline.add("an incremental change", began);
        Ok(())
    }

    fn sync(&mut self, regions: &Regions) -> Result<(), CliError> {
        self.teller.chapter("A new version is built in eu-central, and synced before it is needed");
        let began = Instant::now();
        let (east, central) = (&regions.east, &regions.central);
        let before = Outputs::of(&central.workspace)?;
        THE_VERSION.apply(&central.workspace)?;
        let built = self.build(central, &central.workspace, self.scale.tasks)?;
        let made = Outputs::of(&central.workspace)?;
        let (executed, took) = (count(built.executed, "task"), seconds(built.seconds));
        self.teller
            .line("version.txt, built anew", &format!("{took}: {executed} executed in eu-central"));
        self.world.wait_for_records(east, self.results)?;
        self.world.wait_until_met(&[east, central])?;
        let doing = self.teller.doing("us-east syncs");
        let args = ["sync", "--from", "eu-central", "--json"].map(OsStr::new);
        let report = self.world.json(east, &args)?;
        drop(doing);
        let sent = report["bytes_on_wire"].as_u64().unwrap_or(0);
        let changed = made.changed_since(&before);
        let took = seconds(report["seconds"].as_f64().unwrap_or(0.0));
        let copied = report["artifacts"].as_u64().unwrap_or(0);
        if copied == 0 {
            return Err(CliError::failed("the sync copied nothing of what eu-central had built"));
        }
        self.teller.line(
            "netbuild sync, in us-east",
            &format!("{took}: {} copied", count(copied, "artifact")),
        );
        let workspace = self.workspace("us-east.release", Build::Release)?;
        THE_VERSION.apply(&workspace)?;
        let built = self.build_warm(east, &workspace, self.scale.tasks, &made)?;
        // Hits on what was synced count as from where that came from: the bytes tell.
        if built.sent > 0 {
            let sent = size(built.sent);
            return Err(CliError::failed(format!(
                "after the sync us-east still had to fetch {sent}"
            )));
        }
        let took = seconds(built.seconds);
        self.teller
            .line("then built in us-east", &format!("{took}: {}, nothing fetched", built.done()));
        self.verdict.figures.push(Figure::bytes_saved(
            ("sync", "bytes saved, version synced"),
            (sent, changed),
            0.85,
        ));
        self.timeline.add("a sync", began);
        Ok(())
    }

    /// Two branches over 25 Mbit/s that have nothing yet get a debug build, and its next version: one
    /// as netbuild does it, one as the plain bytes.
    fn slow_link(&mut self, regions: &Regions) -> Result<(), CliError> {
        self.teller
            .chapter("Branches over 25 Mbit/s get a debug build, one of them as plain bytes");
        let began = Instant::now();
        let east = &regions.east;
        let mut made = Vec::new();
        let workspace = self.workspace("us-east.debug", Build::Debug)?;
        let first = self.build(east, &workspace, self.scale.debug_tasks)?;
        made.push(Outputs::of(&workspace)?);
        A_CONSTANT.apply(&workspace)?;
        let second = self.build(east, &workspace, self.scale.debug_tasks)?;
        made.push(Outputs::of(&workspace)?);
        let (took, bytes) = (seconds(first.seconds + second.seconds), size(made[0].bytes()));
        self.teller.line("built in us-east, twice", &format!("{took}: {bytes} each time"));
        let adaptive = self.branch(regions, "branch", "", &made)?;
        let plain = self.branch(regions, "branch-plain", PLAIN, &made)?;
        // Of the update only the chunks that are new are sent in either case: what is left is round trips.
        let names = [
            (("slow_link_first", "time saved, 25 Mbit/s, first"), Some(0.7)),
            (("slow_link_update", "time saved, 25 Mbit/s, update"), None),
        ];
        for (((name, target), took), instead_of) in names.into_iter().zip(adaptive).zip(plain) {
            let figure = Figure::time_saved(name, (took, instead_of), target);
            self.verdict.figures.push(figure);
        }
        self.timeline.add("low bandwidth", began);
        self.thin_link(regions, first.seconds, &made[0])
    }

    /// A branch whose link is so thin that some of it is sooner built than fetched: it is to have all of it
    /// not later than without a cache, which takes `without` seconds.
    fn thin_link(
        &mut self,
        regions: &Regions,
        without: f64,
        made: &Outputs,
    ) -> Result<(), CliError> {
        self.teller.chapter("A branch over 10 Mbit/s gets it: what would come later is built");
        let began = Instant::now();
        let branch = self.new_branch(regions, "branch-thin", "")?;
        let tasks = self.scale.debug_tasks;
        let built = self.build_warm(&branch, &branch.workspace, tasks, made)?;
        let (took, sent) = (seconds(built.seconds), size(built.sent));
        let did = format!("{took}: {}, {} and {sent} sent", built.done(), built.sources);
        self.teller.line("first build", &did);
        let what = ("thin_link", "netbuild/no cache, 10 Mbit/s");
        self.verdict.figures.push(Figure::ratio(what, (built.seconds, without), Some(1.1)));
        self.timeline.add("thin link", began);
        Ok(())
    }

    /// A branch that knows its link and all results and has none, with a workspace for the debug build.
    fn new_branch(
        &self,
        regions: &Regions,
        site: &'static str,
        config: &str,
    ) -> Result<Agent, CliError> {
        let branch = self.world.agent(site, config, &[&regions.east])?;
        self.world.wait_until_met(&[&regions.east, &branch])?;
        self.world.wait_until_tried(&branch, &regions.east)?;
        self.world.wait_for_records(&branch, self.results)?;
        self.example.write(&branch.workspace, Build::Debug)?;
        Ok(branch)
    }

    /// What a debug build and its update take at a branch of its own.
    fn branch(
        &mut self,
        regions: &Regions,
        site: &'static str,
        config: &str,
        made: &[Outputs],
    ) -> Result<Vec<f64>, CliError> {
        let branch = self.new_branch(regions, site, config)?;
        let mut took = Vec::new();
        for (number, made) in made.iter().enumerate() {
            if number > 0 {
                A_CONSTANT.apply(&branch.workspace)?;
            }

            let built =
                self.build_warm(&branch, &branch.workspace, self.scale.debug_tasks, made)?;
            let (time, sent) = (seconds(built.seconds), size(built.sent));
            let what = if number == 0 { "first build" } else { "update" };
            let how =
                if config == PLAIN { format!("{what}, plain bytes") } else { what.to_owned() };
            self.teller.line(&how, &format!("{time}: {}, {sent} sent", built.done()));
            took.push(built.seconds);
        }
        Ok(took)
    }

    /// A workspace beside those of the agents.
    fn workspace(&self, name: &str, build: Build) -> Result<PathBuf, CliError> {
        let root = self.world.place.directory(name)?;
        self.example.write(&root, build)?;
        Ok(root)
    }

    /// Leaves everything up until somebody interrupts it.
    pub(crate) fn keep(&mut self) {
        let Some(regions) = &self.agents else { return };
        let mut text = "\nThe agents stay up until Ctrl-C. In another terminal:\n".to_owned();
        for agent in [&regions.east, &regions.west, &regions.central, &regions.office] {
            text += &format!("  netbuild status --data-dir {}\n", agent.data_dir.display());
        }
        let central = &regions.central;
        let (workspace, data_dir) = (central.workspace.display(), central.data_dir.display());
        text += &format!("  netbuild monitor --data-dir {data_dir}\n");
        text += &format!("  cd {workspace} && netbuild run --data-dir {data_dir}\n");
        if let Some(cut) = self.world.links.to_cut("us-east:eu-central") {
            text += &format!("  {cut}\n");
        }
        self.teller.print(&text);
        while self.world.runner.pause().is_ok() {}
    }
}

/// How much of a blob came from where.
fn sources(report: &Value) -> String {
    let list = report["sources"].as_array().into_iter().flatten();
    let source = |source: &Value| {
        let bytes = size(source["bytes"].as_u64().unwrap_or(0));
        format!("{bytes} from {}", source["region"].as_str().unwrap_or_default())
    };
    list.map(source).collect::<Vec<_>>().join(", ")
}
