//! What a system gets of netbuild: manual pages, units, and the Debian package.

use crate::support::{Agent, Place, netbuild, netbuild_agent};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// How exposed a unit may be by `systemd-analyze security`, in tenths: 10 is all of a system, and below 2 is
/// called OK.
const EXPOSURE: &str = "20";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn done(command: &mut Command) -> String {
    let program = command.get_program().to_owned();
    let output = command.output().unwrap_or_else(|error| {
        panic!("{}: {error}; see scripts/test.sh --help", program.display());
    });
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{}: {status}: {stdout}{stderr}", program.display());
    stdout.into_owned() + &stderr
}

/// The commands that a program names in its help, with those below them.
fn commands(words: &[String]) -> Vec<Vec<String>> {
    let mut program = if words[0] == "netbuild" { netbuild() } else { netbuild_agent() };
    let help = done(program.args(&words[1..]).arg("--help"));
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.take_while(|line| !line.is_empty()).filter_map(|line| {
        // What goes on in a further line is indented more.
        let line = line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?;
        line.split(' ').next().filter(|name| *name != "help")
    });
    let mut all = vec![words.to_vec()];
    for name in names {
        let below: Vec<String> = words.iter().cloned().chain([name.to_owned()]).collect();
        all.extend(commands(&below));
    }
    all
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    entries.map(|entry| name(entry).into_string().expect("a name in UTF-8")).collect()
}

#[test]
fn every_command_has_a_manual_page_that_man_shows() {
    let place = Place::new();
    let dir = place.path("man");
    done(netbuild().arg("man").arg("--dir").arg(&dir));
    let programs = ["netbuild", "netbuild-agent"].map(|name| commands(&[name.to_owned()]));
    let expected: BTreeSet<String> =
        programs.iter().flatten().map(|words| format!("{}.1", words.join("-"))).collect();
    assert!(expected.contains("netbuild-graph-check.1"), "{expected:?}");
    assert_eq!(names(&dir), expected);
    for page in ["netbuild.1", "netbuild-doctor.1", "netbuild-agent.1"] {
        let shown = done(Command::new("man").arg("--warnings=w").arg("-l").arg(dir.join(page)));
        assert!(shown.contains("SYNOPSIS") && !shown.contains("warning"), "{page}: {shown}");
    }
    let page = done(netbuild().arg("man"));
    assert!(page.contains(".TH netbuild 1"), "{page}");
}

/// A package of the programs under test, unpacked.
fn package(place: &Place) -> (PathBuf, PathBuf) {
    let programs = Path::new(env!("CARGO_BIN_EXE_netbuild")).parent().expect("a directory");
    let mut script = Command::new(repository().join("scripts/build-deb.sh"));
    script.arg("--debug").arg("--bin-dir").arg(programs).arg("--out").arg(place.path("out"));
    let said = done(&mut script);
    let package = PathBuf::from(said.lines().next().unwrap_or_default());
    let tree = place.path("tree");
    done(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&tree));
    (package, tree)
}

#[test]
fn the_package_is_sound_and_what_is_in_it_runs() {
    let place = Place::new();
    let (package, tree) = package(&place);

    let lintian = Command::new("lintian")
        .args(["--allow-root", "--fail-on", "error", "--tag-display-limit", "0"])
        .arg(&package)
        .output()
        .expect("lintian runs; see scripts/test.sh --help");
    let said = String::from_utf8_lossy(&lintian.stdout);
    assert!(lintian.status.success(), "{said}{}", String::from_utf8_lossy(&lintian.stderr));

    let fields = done(Command::new("dpkg-deb").arg("--field").arg(&package));
    let depends = fields.lines().find(|line| line.starts_with("Depends: ")).unwrap();
    assert!(depends.contains("libc6 (>= 2."), "{fields}");
    let conffiles = done(Command::new("dpkg-deb").arg("--info").arg(&package).arg("conffiles"));
    assert_eq!(conffiles, "/etc/default/netbuild\n/etc/netbuild/mesh.toml\n");
    let mode = fs::metadata(tree.join("etc/default/netbuild")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for file in [
        "usr/share/man/man1/netbuild-graph-check.1.gz",
        "usr/share/man/man1/netbuild-agent.1.gz",
        "usr/share/bash-completion/completions/netbuild",
        "usr/share/bash-completion/completions/netbuild-agent",
        "usr/share/zsh/vendor-completions/_netbuild",
        "usr/share/fish/vendor_completions.d/netbuild.fish",
        "usr/share/doc/netbuild/copyright",
        "usr/share/doc/netbuild/third-party.gz",
        "usr/lib/sysusers.d/netbuild.conf",
    ] {
        assert!(tree.join(file).is_file(), "{file}");
    }

    // The user and its directory come about as systemd makes them.
    let root = format!("--root={}", tree.display());
    done(Command::new("systemd-sysusers").arg(&root).arg("netbuild.conf"));
    let users = fs::read_to_string(tree.join("etc/passwd")).unwrap();
    assert!(users.starts_with("netbuild:") && users.contains(":/var/lib/netbuild:"), "{users}");
    done(Command::new("systemd-tmpfiles").arg(&root).args(["--create", "netbuild.conf"]));
    let mode = fs::metadata(tree.join("var/lib/netbuild")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);

    // Two regions of what was installed.
    let config = tree.join("etc/netbuild/mesh.toml");
    let agent = |region: &str, join: &[&str]| {
        let data_dir = place.path(region);
        let mut command = Command::new(tree.join("usr/bin/netbuild-agent"));
        command.args(["--listen", "127.0.0.1:0", "--region", region, "--config"]).arg(&config);
        command.arg("--data-dir").arg(&data_dir);
        for ticket in join {
            command.arg("--join").arg(ticket);
        }
        Agent::spawn(command, &data_dir)
    };
    let first = agent("us-east", &[]);
    let second = agent("eu-central", &[&first.ticket]);
    let graph = json!({"tasks": {"t": {"command": "cat in > out", "inputs": ["in"],
                                       "outputs": ["out"]}}});
    for (agent, executed) in [(&first, 1), (&second, 0)] {
        // What the first one built is known to the second.
        second.wait_for_members(1, 1 - executed);
        let name = format!("workspace-{executed}");
        let workspace = place.workspace(&name, &graph, &[("in", "x")]);
        let mut command = Command::new(tree.join("usr/bin/netbuild"));
        command.current_dir(&workspace.root).args(["run", "--json", "--data-dir"]);
        let output = command.arg(&agent.data_dir).arg("--config").arg(&config).output().unwrap();
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        assert_eq!(summary["executed"], executed, "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(workspace.read("out"), "x");
    }
}

#[test]
fn the_units_are_what_systemd_takes_and_closed_in() {
    let place = Place::new();
    let root = place.path("root");
    let units = repository().join("scripts/package");
    let put = |from: &Path, to: &str| {
        let to = root.join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    put(Path::new(env!("CARGO_BIN_EXE_netbuild-agent")), "usr/bin/netbuild-agent");
    let system = "usr/lib/systemd/system";
    put(&units.join("netbuild-agent.service"), &format!("{system}/netbuild-agent.service"));
    put(&units.join("netbuild-agent.user.service"), &format!("{system}/netbuild-user.service"));
    let analyze = || {
        let mut command = Command::new("systemd-analyze");
        command.arg(format!("--root={}", root.display()));
        command
    };
    for unit in ["netbuild-agent.service", "netbuild-user.service"] {
        done(analyze().args(["verify", "--man=no", "--recursive-errors=no"]).arg(unit));
        // Where standard output goes, to nowhere as the ticket is a secret, standard error would go too.
        let text = fs::read_to_string(root.join(system).join(unit)).unwrap();
        assert!(text.contains("\nStandardOutput=null\nStandardError=journal\n"), "{unit}");
    }
    let mut security = analyze();
    security.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE]);
    done(security.arg("netbuild-agent.service"));
}

#[test]
fn the_settings_of_the_package_are_those_that_are_built_in() {
    let own = fs::read_to_string(repository().join("mesh.toml")).unwrap();
    let is_setting = |line: &&str| {
        line.split_once(" = ").is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        })
    };
    let settings = own.lines().filter(is_setting).count();
    assert!(settings > 30, "{settings}");
    // Each setting stands on one line, so that the package can put a `#` before it.
    let other = own.lines().filter(|line| {
        !line.is_empty() && !line.starts_with('#') && !line.starts_with('[') && !is_setting(line)
    });
    assert_eq!(other.collect::<Vec<_>>(), Vec::<&str>::new());
}
