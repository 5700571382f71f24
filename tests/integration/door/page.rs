//! What a person sees on the page of an agent, in a real browser.

use super::{browser::Browser, built_in, page};
use crate::support::{Agent, Place, Running, signal, wait_until};
use rustix::process::Signal;
use serde_json::json;

/// Of each text on the page the contrast to what is behind it; those that are less than they should be.
const FAINT: &str = r#"(() => {
  const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).slice(0, 3).map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body *")]
    .filter((node) => node.checkVisibility() && !node.closest("svg") && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
    .map((node) => {
      const [a, b] = [light(getComputedStyle(node).color), light(behind(node))].sort((x, y) => y - x);
      return [node.textContent.slice(0, 30), (a + 0.05) / (b + 0.05)];
    })
    .filter(([, contrast]) => contrast < 4.5);
})()"#;

/// What is wider than the screen, and cannot be scrolled by itself.
const TOO_WIDE: &str =
    "document.documentElement.scrollWidth - document.documentElement.clientWidth";

#[test]
fn a_person_sees_the_mesh_a_build_and_where_its_results_come_from() {
    let place = Place::new();
    let east = Agent::start("us-east", &place.path("us-east.data"), &[]);
    built_in(&place, "first", &east.data_dir).run(&[]).expect_success();
    let west = Agent::start("us-west", &place.path("us-west.data"), &[&east.ticket]);
    let mut central = Agent::start("eu-central", &place.path("eu-central.data"), &[&east.ticket]);
    central.wait_for_members(2, 2);

    let mut browser = Browser::start();
    browser.screen(1400, "light");
    browser.open(&page(&central));
    wait_until("the page is live", || browser.text("#state") == "live");
    assert!(browser.text("h1").contains("eu-central"));
    wait_until("the others are drawn", || {
        let graph = browser.value("document.querySelector('#graph').textContent").to_string();
        graph.contains("us-east") && graph.contains("us-west") && graph.contains("this agent")
    });
    assert!(browser.text("#builds").contains("No build has asked"), "nothing was built here yet");

    // A build runs here: its results come from us-east, but for one that nobody has.
    let shop = built_in(&place, "shop", &central.data_dir);
    let slow = json!({ "command": "until [ -e go ]; do sleep 0.02; done; echo new > new", "inputs": [], "outputs": ["new"] });
    let mut graph = super::graph();
    graph["tasks"]["new"] = slow;
    shop.write("graph.json", &graph.to_string());
    let running = Running::start(shop.command(&["count", "new"]).arg("--json"));
    wait_until("the build is seen", || {
        let builds = browser.text("#builds");
        builds.contains("shop")
            && builds.contains("running")
            && browser.text("#sum").contains("67 %")
    });
    wait_until("its hits are seen", || {
        let hits = browser.text("#hits");
        hits.contains("us-east") && hits.contains("100 %")
    });
    shop.write("go", "");
    running.wait().expect_success();
    wait_until("what was missing is explained", || {
        let misses = browser.text("#misses");
        ["new", "shop", "no agent and no tier has told of a result for it", "ran,"]
            .iter()
            .all(|part| misses.contains(part))
    });
    wait_until("the build has ended", || browser.text("#builds").contains("ended"));
    wait_until("links are measured and in order", || {
        let regions = browser.text("#regions");
        regions.contains("1st") && regions.contains("2nd") && regions.contains(" ms")
    });
    assert!(browser.text("#conflicts").contains("None"));
    assert!(browser.text("#tiers").contains("None is configured"));

    // It fits on a phone and a large screen, and can be read in the dark.
    for (width, scheme) in [(1400, "light"), (1400, "dark"), (360, "dark"), (360, "light")] {
        browser.screen(width, scheme);
        wait_until("the page has the width of the screen", || browser.value(TOO_WIDE) == json!(0));
        assert_eq!(browser.value(FAINT), json!([]), "{width} {scheme}");
    }

    // With a keyboard: all that can be done can be reached, and it is seen where one is.
    let mut reached = Vec::new();
    for _ in 0..20 {
        browser.press("Tab");
        let focus = "(() => { const at = document.activeElement; return [at.getAttribute('aria-label') || at.textContent, getComputedStyle(at).outlineStyle]; })()";
        let focus = browser.value(focus);
        if focus[0].as_str().is_some_and(|name| name.contains("health")) {
            break;
        }
        assert_eq!(focus[1], "solid", "{focus}");
        reached.push(focus[0].to_string());
    }
    for name in ["Regions of the mesh", "All links", "Results that nobody had", "metrics"] {
        assert!(reached.iter().any(|at| at.contains(name)), "{name}: {reached:?}");
    }

    // With a screen reader: headings, landmarks, tables with headers, and a graph that says what it shows.
    let tree = browser.call("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"].as_array().expect("a tree").clone();
    let named = |role: &str| -> Vec<String> {
        let meant =
            nodes.iter().filter(|node| node["role"]["value"] == role && node["ignored"] == false);
        meant.map(|node| node["name"]["value"].as_str().unwrap_or_default().to_owned()).collect()
    };
    for (role, name) in [
        ("heading", "Mesh"),
        ("heading", "Last misses"),
        ("table", "Regions of the mesh as this agent sees them"),
        ("columnheader", "Round trip"),
        ("rowheader", "us-east"),
        ("image", "The mesh as this agent sees it. us-"),
        ("status", ""),
        ("main", ""),
        ("navigation", "The same for programs"),
    ] {
        let found = named(role);
        assert!(found.iter().any(|found| found.starts_with(name)), "{role} {name}: {found:?}");
    }

    // An agent that hangs, and one that comes back.
    signal(central.pid(), Signal::STOP);
    wait_until("it is told that the agent is gone", || {
        browser.text("#state").starts_with("The agent does not answer since")
    });
    signal(central.pid(), Signal::CONT);
    wait_until("the page is live again", || browser.text("#state") == "live");
    assert!(central.stop().success());
    wait_until("it is told that the agent is gone", || {
        browser.text("#state").contains("trying again")
    });
    assert!(browser.text("#regions").contains("us-east"), "what was seen last stays");
    // It comes back at the same port.
    let central = Agent::start("eu-central", &central.data_dir, &[]);
    wait_until("the page is live again", || browser.text("#state") == "live");
    drop((central, west));

    let heard = std::mem::take(&mut browser.heard);
    let of = |method: &'static str| heard.iter().filter(move |heard| heard["method"] == method);
    assert_eq!(of("Runtime.exceptionThrown").count(), 0, "{heard:?}");
    let policy = |entry: &&serde_json::Value| entry.to_string().contains("Content Security Policy");
    assert_eq!(of("Log.entryAdded").filter(policy).count(), 0, "{heard:?}");
    let elsewhere: Vec<_> = of("Network.requestWillBeSent")
        .map(|sent| sent["params"]["request"]["url"].to_string())
        .filter(|url| !url.contains("127.0.0.1") && !url.contains("about:blank"))
        .collect();
    assert_eq!(elsewhere, Vec::<String>::new());
}

#[test]
fn what_others_are_called_is_text_and_conflicts_are_shown() {
    let place = Place::new();
    let graph = json!({ "tasks": { "t": { "command": "cat /proc/sys/kernel/random/uuid > '<b id=\"evil\">x<'",
        "inputs": [], "outputs": ["<b id=\"evil\">x<"] } } });
    let run = |name: &str, agent: &Agent| {
        let workspace = place.workspace(name, &graph, &[]).with_data_dir(&agent.data_dir);
        workspace.run(&[]).expect_success();
    };
    let east = Agent::start("us-east", &place.path("us-east.data"), &[]);
    run("one", &east);
    let mut west = Agent::start("us-west", &place.path("us-west.data"), &[]);
    run("two", &west);
    west.stop();
    let west = {
        // It builds alone once more as a member: the mesh key is that of us-east from now on.
        std::fs::remove_file(west.data_dir.join("mesh.key")).expect("a key");
        Agent::start("us-west", &west.data_dir, &[&east.ticket])
    };
    west.wait_for_members(1, 1);
    let mut browser = Browser::start();
    browser.screen(1000, "light");
    browser.open(&page(&west));
    wait_until("the conflict is shown", || {
        let shown = browser.text("#conflicts");
        shown.contains("<b id=\"evil\">x<")
            && shown.contains("us-east")
            && shown.contains("us-west")
    });
    assert_eq!(browser.value("document.getElementById('evil')"), serde_json::Value::Null);
}
