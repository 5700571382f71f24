//! What facts mean, and what is said to mend them.

use super::*;
use crate::record::Sandbox;

/// A machine on which all is well, with an agent that has one peer.
fn well() -> Facts {
    let agent = Known {
        is_agent: true,
        pid: 7,
        versions: ["0.1.0".into(), "0.1.0".into()],
        region: "us-east".into(),
        members: vec![member("a", true)],
        ..Known::default()
    };
    let port = |role, port| Port {
        role,
        address: ([192, 0, 2, 1], port).into(),
        state: PortState::Ours(Reached::Yes(Duration::from_millis(1))),
    };
    Facts {
        configuration: Configuration::default(),
        directory: Look::Seen(directory()),
        owner: Look::Seen(Owner::Answers(agent)),
        ports: Look::Seen(vec![port("mesh", 4001), port("data", 4002)]),
        invitation: Look::Nothing,
        tiers: vec![("s3://bucket".into(), Look::Seen(tier()))],
        clock: Look::Seen(Clock { wall_ms: 1_800_000_000_000, records_ahead: 0 }),
        buffers: Look::Seen(Buffers { wanted: 4 << 20, receive: 4 << 20, send: 4 << 20 }),
        limits: Look::Seen(Limits {
            files: Descriptors { soft: Some(1024), hard: Some(4096) },
            watches: Some(65_536),
            ..Limits::default()
        }),
        levels: Look::Seen(Levels {
            tried: vec![(Sandbox::Audit, None), (Sandbox::Landlock, None), (Sandbox::Ns, None)],
            landlock: 6,
            publish_from: Sandbox::Env,
            accept_from: Sandbox::Loose,
        }),
    }
}

fn member(name: &str, is_asked: bool) -> Member {
    Member { name: name.into(), is_asked, ..Member::default() }
}

fn directory() -> Directory {
    Directory {
        path: "/data".into(),
        state: State::There,
        place: Some(Place { owner: 1000, mode: 0o40700 }),
        user: 1000,
        refuses: None,
        file_system: Some(FileSystem {
            kind: "ext4".into(),
            capacity: 1 << 40,
            free: 1 << 39,
            files: Some(1 << 20),
        }),
        fsync: Some(Duration::from_millis(2)),
        reflink: Some(false),
        max_bytes: 50_000_000_000,
        min_free: 1_000_000_000,
        used: Some(0),
    }
}

fn tier() -> Tier {
    let state = TierState::Works(Duration::from_millis(3));
    Tier { is_bucket: true, writes: true, state, ahead_s: Some(0) }
}

/// What is found beyond what is found where all is well.
#[track_caller]
fn only(facts: &Facts) -> Finding {
    let usual = judge(&well());
    let mut new: Vec<_> =
        judge(facts).into_iter().filter(|finding| !usual.contains(finding)).collect();
    assert_eq!(new.len(), 1, "{new:#?}");
    new.remove(0)
}

#[track_caller]
fn expect(finding: &Finding, verdict: Verdict, says: &str, remedy: &str) {
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    assert!(finding.says.contains(says), "no `{says}` in {finding:?}");
    let mends = finding.remedy.as_deref().unwrap_or_default();
    assert!(mends.contains(remedy), "no `{remedy}` in {finding:?}");
}

#[test]
fn where_all_is_well_nothing_is_to_be_changed() {
    let findings = judge(&well());
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.remedy.is_none()), "{findings:#?}");
    let checks: Vec<_> = findings.iter().map(|finding| finding.check).collect();
    for check in ["configuration", "data directory", "disk", "space", "agent", "ports", "peers"] {
        assert!(checks.contains(&check), "{check}");
    }
}

#[test]
fn whatever_is_wrong_comes_with_what_mends_it() {
    // All that can be wrong at once is judged below; here no problem may come without a remedy.
    let mut facts = well();
    facts.configuration.error = Some("line 3: regoin".into());
    facts.directory = Look::Late(Duration::from_secs(6));
    facts.owner = Look::Seen(Owner::Silent("agent (pid 9)".into()));
    facts.tiers = vec![("redis://host:6379".into(), Look::Late(Duration::from_secs(6)))];
    let troubles = judge(&facts);
    let troubles: Vec<_> =
        troubles.iter().filter(|finding| finding.verdict >= Verdict::Warning).collect();
    assert_eq!(troubles.len(), 4, "{troubles:#?}");
    assert!(troubles.iter().all(|finding| finding.remedy.is_some()), "{troubles:#?}");
}

#[test]
fn a_directory_that_cannot_be_used_is_told_apart() {
    let with = |change: &dyn Fn(&mut Directory)| {
        let mut facts = well();
        let mut changed = directory();
        change(&mut changed);
        facts.directory = Look::Seen(changed);
        only(&facts)
    };
    let found = with(&|it| it.refuses = Some("Read-only file system".into()));
    expect(&found, Verdict::Problem, "cannot be written: Read-only", "--data-dir");
    let found = with(&|it| it.place = Some(Place { owner: 0, mode: 0o40700 }));
    expect(&found, Verdict::Problem, "belongs to user 0", "chown -R 1000 /data");
    let found = with(&|it| {
        it.user = 0;
        it.path = "/my data".into();
    });
    expect(&found, Verdict::Warning, "this is user 0", "chown -R 0 '/my data'");
    let found = with(&|it| it.place = Some(Place { owner: 1000, mode: 0o40755 }));
    expect(&found, Verdict::Warning, "its mode is 755", "chmod 700 /data");
    let found = with(&|it| it.state = State::Missing);
    expect(&found, Verdict::Note, "the first command makes it", "");
    let found = with(&|it| {
        it.state = State::Missing;
        it.refuses = Some("`/`: Permission denied".into());
    });
    expect(&found, Verdict::Problem, "cannot be made", "NETBUILD_DATA_DIR");

    // What cannot be used at all has no disk or space to speak of.
    let mut facts = well();
    facts.directory =
        Look::Seen(Directory { state: State::Unusable("newer".into()), ..directory() });
    let found = judge(&facts);
    assert!(found.iter().all(|finding| !["disk", "space"].contains(&finding.check)));
}

#[test]
fn disks_that_lose_share_or_lack_something_are_named() {
    let with = |change: &dyn Fn(&mut FileSystem)| {
        let mut facts = well();
        let mut changed = directory();
        change(changed.file_system.as_mut().unwrap());
        facts.directory = Look::Seen(changed);
        only(&facts)
    };
    for kind in ["nfs4", "fuse.sshfs", "cifs"] {
        let found = with(&|it| it.kind = kind.into());
        expect(&found, Verdict::Warning, "another machine", "--data-dir");
    }
    expect(&with(&|it| it.kind = "tmpfs".into()), Verdict::Warning, "after a restart", "");
    expect(&with(&|it| it.kind = "overlay".into()), Verdict::Warning, "container", "volume");
    let found = with(&|it| it.free = 500_000_000);
    expect(&found, Verdict::Warning, "500.0 MB free, less than the 1.0 GB", "min_free");
    let found = with(&|it| it.free = 11_000_000_000);
    expect(&found, Verdict::Note, "before the 50.0 GB", "max_size = \"10.0 GB\"");
    expect(&with(&|it| it.files = Some(12)), Verdict::Warning, "only 12 more files", "inodes");
    let mut facts = well();
    facts.directory =
        Look::Seen(Directory { fsync: Some(Duration::from_millis(250)), ..directory() });
    expect(&only(&facts), Verdict::Warning, "synced in 250.0 ms", "faster disk");
}

#[test]
fn whoever_owns_the_directory_is_told() {
    let with = |owner| {
        let mut facts = well();
        facts.owner = Look::Seen(owner);
        judge(&facts).into_iter().find(|finding| finding.check == "agent").unwrap()
    };
    expect(&with(Owner::Nobody), Verdict::Note, "none runs", "netbuild-agent --detach");
    let Look::Seen(Owner::Answers(agent)) = well().owner else { panic!() };
    let older = Known { versions: ["0.0.9".into(), "0.1.0".into()], ..agent.clone() };
    expect(&with(Owner::Answers(older)), Verdict::Warning, "pid 7 is version 0.0.9", "restart");
    let command = Known { is_agent: false, ..agent };
    expect(&with(Owner::Answers(command)), Verdict::Note, "a command, pid 7", "");
    expect(&with(Owner::Version(4)), Verdict::Problem, "version 4", "restart it");
    expect(&with(Owner::Stranger(0)), Verdict::Problem, "user 0", "--data-dir");
    expect(&with(Owner::Silent("agent (pid 9)".into())), Verdict::Problem, "pid 9", "end that");
    expect(&with(Owner::Failed("broken".into())), Verdict::Problem, "broken", "restart");
}

#[test]
fn ports_say_whether_they_can_be_had_or_reached() {
    let with = |address: &str, state: PortState| {
        let mut facts = well();
        let address = address.parse().unwrap();
        facts.ports = Look::Seen(vec![Port { role: "mesh", address, state }]);
        only(&facts)
    };
    let found = with("0.0.0.0:0", PortState::Free);
    expect(&found, Verdict::Note, "any free port", "listen = \"0.0.0.0:4001\"");
    let found = with("0.0.0.0:4001", PortState::Free);
    expect(&found, Verdict::Ok, "can be had", "");
    let found = with("0.0.0.0:53", PortState::Refused("Address in use".into()));
    expect(&found, Verdict::Problem, "cannot be had: Address in use", "ss -ulpn 'sport = :53'");
    let silent = PortState::Ours(Reached::No("no answer within 2 s".into()));
    let found = with("192.0.2.1:4001", silent);
    expect(&found, Verdict::Problem, "no answer within 2 s", "let UDP 4001 in");

    let mut facts = well();
    let port =
        Port { role: "mesh", address: "127.0.0.1:4001".parse().unwrap(), state: PortState::Free };
    facts.ports = Look::Seen(vec![port]);
    let local = judge(&facts).into_iter().find(|finding| finding.says.contains("loopback"));
    expect(&local.unwrap(), Verdict::Note, "other machines cannot reach", "--listen 0.0.0.0");
}

#[test]
fn a_page_that_cannot_be_had_is_no_problem() {
    let with = |state: PortState| {
        let mut facts = well();
        let address = "127.0.0.1:7717".parse().unwrap();
        facts.ports = Look::Seen(vec![Port { role: PAGE, address, state }]);
        only(&facts)
    };
    expect(&with(PortState::Free), Verdict::Ok, "TCP 127.0.0.1:7717 can be had", "");
    let taken = PortState::Refused("Address in use".into());
    expect(&with(taken), Verdict::Note, "takes another port", "[http] listen");
    let answers = PortState::Ours(Reached::Yes(Duration::from_millis(2)));
    expect(&with(answers), Verdict::Ok, "http://127.0.0.1:7717/ answers", "");
    let silent = PortState::Ours(Reached::No("refused".into()));
    expect(&with(silent), Verdict::Warning, "does not answer: refused", "log of the agent");
}

#[test]
fn one_address_of_a_member_is_enough() {
    let of = |last: Reached| {
        let refused = Reached::No("refused".into());
        let at = |host: [u8; 4]| (host, 4001).into();
        let addresses = vec![(at([10, 0, 0, 1]), refused), (at([192, 0, 2, 1]), last)];
        let mut facts = well();
        facts.invitation = Look::Seen(Invitation { addresses, ..Invitation::default() });
        judge(&facts).into_iter().filter(|found| found.check == "join").map(|it| it.verdict)
    };
    let reached = of(Reached::Yes(Duration::from_millis(50)));
    assert_eq!(reached.collect::<Vec<_>>(), [Verdict::Note, Verdict::Ok]);
    let none = of(Reached::No("no answer".into()));
    assert_eq!(none.collect::<Vec<_>>(), [Verdict::Problem; 2]);

    let mut facts = well();
    let invitation = Invitation { other_mesh: true, ..Invitation::default() };
    facts.invitation = Look::Seen(invitation);
    expect(&only(&facts), Verdict::Problem, "another mesh", "mesh.key");
    facts.invitation = Look::Seen(Invitation { no_key: true, ..Invitation::default() });
    expect(&only(&facts), Verdict::Problem, "key of the mesh", "netbuild ticket");
}

#[test]
fn peers_that_do_not_answer_are_named_up_to_a_number() {
    let with = |members: Vec<Member>| {
        let mut facts = well();
        let Look::Seen(Owner::Answers(agent)) = &mut facts.owner else { panic!() };
        agent.members = members;
        judge(&facts).into_iter().filter(|found| found.check == "peers").collect::<Vec<_>>()
    };
    let none = with(Vec::new());
    expect(&none[0], Verdict::Note, "knows no other", "--join TICKET");
    let away = Member { resting: Some("not in the mesh".into()), ..member("b", false) };
    let one = with(vec![member("a", true), away]);
    expect(&one[0], Verdict::Ok, "1 of 2 answer", "");
    expect(&one[1], Verdict::Warning, "b (no region): not in the mesh", "");
    let quiet = Member { heard: Some(Duration::from_secs(90)), ..member("c", true) };
    let all_quiet = with(vec![quiet]);
    expect(&all_quiet[0], Verdict::Problem, "0 of 1", "netbuild doctor --join");
    expect(&all_quiet[1], Verdict::Warning, "last heard 90 s ago", "");
    let many = with((0..10_000).map(|number| member(&number.to_string(), false)).collect());
    assert_eq!(many.len(), 10);
    expect(&many[9], Verdict::Warning, "9992 more", "netbuild peers");
}

#[test]
fn a_tier_that_fails_says_whose_turn_it_is() {
    let trouble = |refused, full| Trouble { refused, full, says: "it says so".into() };
    let with = |name: &str, tier: Tier| {
        let mut facts = well();
        facts.tiers = vec![(name.into(), Look::Seen(tier))];
        judge(&facts).into_iter().filter(|found| found.check == "tier").collect::<Vec<_>>()
    };
    let redis = |state| Tier { is_bucket: false, state, ..tier() };
    let bucket = |state| Tier { state, ..tier() };
    for (name, tier, remedy) in [
        ("s3://b", bucket(TierState::Fails(trouble(true, false))), "AWS_ACCESS_KEY_ID"),
        ("s3://b", bucket(TierState::ReadOnly(trouble(true, false))), "s3:PutObject"),
        ("s3://b", bucket(TierState::Fails(trouble(false, false))), "AWS_ENDPOINT_URL"),
        ("redis://h", redis(TierState::Fails(trouble(true, false))), "REDIS_PASSWORD"),
        ("redis://h", redis(TierState::ReadOnly(trouble(false, true))), "allkeys-lru"),
        ("redis://h", redis(TierState::ReadOnly(trouble(true, false))), "read-only"),
        ("redis://h", redis(TierState::Fails(trouble(false, false))), "host and port"),
    ] {
        let found = with(name, tier);
        expect(&found[0], Verdict::Problem, "it says so", remedy);
    }
    let off = |is_bucket, seconds| {
        let found = with("s3://b", Tier { is_bucket, ahead_s: Some(seconds), ..tier() });
        found.get(1).map(|found| (found.verdict, found.says.clone()))
    };
    assert_eq!(off(true, 59), None);
    let says = "this clock is 61 s behind that of s3://b".to_owned();
    assert_eq!(off(true, 61), Some((Verdict::Warning, says)));
    assert_eq!(off(true, -1000).unwrap().0, Verdict::Problem);
    assert_eq!(off(false, i64::MIN).unwrap().0, Verdict::Warning);
}

#[test]
fn a_wild_clock_and_small_limits_are_told() {
    let mut facts = well();
    for wall_ms in [0, 1_000_000_000_000, u64::MAX] {
        facts.clock = Look::Seen(Clock { wall_ms, records_ahead: 0 });
        expect(&only(&facts), Verdict::Problem, "the year", "timedatectl");
    }
    facts.clock = Look::Seen(Clock { wall_ms: 1_800_000_000_000, records_ahead: 3 });
    expect(&only(&facts), Verdict::Warning, "3 results", "timedatectl");

    let mut facts = well();
    facts.buffers = Look::Seen(Buffers { wanted: 4 << 20, receive: 212_992, send: 4 << 20 });
    expect(&only(&facts), Verdict::Warning, "lose packets", "net.core.rmem_max=4194304");
    facts.buffers = Look::Seen(Buffers { wanted: 4 << 20, receive: 4 << 20, send: 2 << 20 });
    expect(&only(&facts), Verdict::Note, "2.1 MB to send", "net.core.wmem_max=4194304");

    let limits = |change: &dyn Fn(&mut Limits)| {
        let mut facts = well();
        let Look::Seen(limits) = &mut facts.limits else { panic!() };
        change(limits);
        only(&facts)
    };
    let few = Descriptors { soft: Some(256), hard: Some(4096) };
    let found = limits(&|it| it.files = few);
    expect(&found, Verdict::Warning, "a process may have 256", "ulimit -n 1024");
    let found = limits(&|it| it.agent_files = Some(Descriptors { hard: Some(256), ..few }));
    expect(&found, Verdict::Warning, "the agent may have 256", "limits.conf");
    let found = limits(&|it| it.watches = Some(100));
    expect(&found, Verdict::Note, "100 directories", "max_user_watches");
    let found = limits(&|it| it.no_watch = Some("too many".into()));
    expect(&found, Verdict::Warning, "too many", "max_user_instances");
    let small = Cgroup { memory: Some(128 << 20), processes: Some(64) };
    let found = limits(&|it| it.cgroup = small);
    expect(&found, Verdict::Warning, "134.2 MB of memory and 64 processes", "--pids-limit");
}

#[test]
fn a_level_that_is_asked_for_and_not_had_is_a_warning() {
    let with = |change: &dyn Fn(&mut Levels)| {
        let mut facts = well();
        let Look::Seen(levels) = &mut facts.levels else { panic!() };
        change(levels);
        let found = judge(&facts).into_iter().filter(|found| found.check == "hermeticity");
        found.collect::<Vec<_>>()
    };
    let without_ns = |levels: &mut Levels| levels.tried[2].1 = Some("no namespaces".into());
    let found = with(&without_ns);
    expect(&found[0], Verdict::Ok, "loose, env, audit, stage, landlock (Landlock 6)", "");
    expect(&found[1], Verdict::Note, "`ns` cannot be had: no namespaces", "userns");
    let found = with(&|levels| {
        without_ns(levels);
        levels.publish_from = Sandbox::Ns;
    });
    expect(&found[1], Verdict::Warning, "[run] of the configuration", "userns");
    let found = with(&|levels| levels.landlock = 0);
    expect(&found[0], Verdict::Ok, "ns (no Landlock)", "");
}
