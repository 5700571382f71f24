"use strict";
// What comes from the agent may stem from others: it becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Control characters, and those that change the direction of what follows, are made visible.
const clean = (text) => String(text).replace(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
const region = (name) => (name ? clean(name) : "no region");
const short = (text, most) => (text.length > most ? text.slice(0, most - 1) + "\u2026" : text);

function size(bytes) {
  let value = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 1000) return unit === "B" ? value + "\u00a0B" : value.toFixed(1) + "\u00a0" + unit;
    value /= 1000;
  }
  return value.toFixed(1) + "\u00a0TB";
}
const rate = (bytes) => size(Math.round(bytes)) + "/s";
const millis = (ms) => (ms < 99.95 ? ms.toFixed(1) : ms.toFixed(0)) + "\u00a0ms";
const percent = (share) => (share >= 0.0995 || share <= 0 ? (share * 100).toFixed(0) : (share * 100).toFixed(1)) + "\u00a0%";
const known = (value, show) => (value === null || value === undefined ? "\u2013" : show(value));
function seconds(value) {
  if (value < 1) return (value * 1000).toFixed(0) + "\u00a0ms";
  if (value < 100) return value.toFixed(1) + "\u00a0s";
  const whole = Math.round(value);
  if (whole < 3600) return Math.floor(whole / 60) + "\u00a0min " + (whole % 60) + "\u00a0s";
  if (whole < 172800) return Math.floor(whole / 3600) + "\u00a0h " + (Math.floor(whole / 60) % 60) + "\u00a0min";
  return Math.floor(whole / 86400) + " days";
}
const since = (whole) => (whole < 100 ? whole + "\u00a0s" : seconds(whole));
function ago(then, now) {
  const passed = Math.max(0, now - then) / 1000;
  if (passed < 5) return "just now";
  if (passed < 60) return "less than a minute ago";
  if (passed < 7200) return Math.floor(passed / 60) + "\u00a0min ago";
  if (passed < 172800) return Math.floor(passed / 3600) + "\u00a0h ago";
  return Math.floor(passed / 86400) + " days ago";
}
const ordinal = (n) => n + (["th", "st", "nd", "rd"][n % 100 > 10 && n % 100 < 14 ? 0 : n % 10] || "th");
const count = (n, noun) => n + "\u00a0" + noun + (n === 1 ? "" : "s");

const STATES = { ok: "ok", open: "resting", "half-open": "trying", away: "away" };
const state = (word) => el("span", { class: word }, STATES[word] || clean(word));

function table(caption, columns, rows, classes) {
  const head = columns.map(([name, kind]) => el("th", { scope: "col", class: kind }, name));
  const body = rows.map((cells, at) => el("tr", { class: classes && classes[at] }, ...cells.map((cell, column) => {
    const kind = columns[column][1];
    return column === 0 ? el("th", { scope: "row", class: "name" }, cell) : el("td", { class: kind }, cell);
  })));
  // It can be scrolled with the keyboard where it is wider than the page.
  return el("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
    el("table", {}, el("caption", { class: "unseen" }, caption),
      el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body)));
}
const empty = (text) => el("p", { class: "empty" }, text);
function bar(share) {
  const inner = el("span", {});
  inner.style.width = Math.max(0, Math.min(100, share * 100)).toFixed(1) + "%";
  return el("span", { class: "bar", "aria-hidden": "true" }, inner);
}
function cell(...parts) {
  return el("span", {}, ...parts);
}

// -- the sections; each is drawn again only when what it shows has changed --

const drawn = new Map();
function draw(id, shows, make) {
  const key = JSON.stringify(shows);
  if (drawn.get(id) === key) return;
  drawn.set(id, key);
  const place = byId(id);
  const scrolled = place.querySelector(".scroll");
  const [left, focused] = scrolled ? [scrolled.scrollLeft, document.activeElement === scrolled] : [0, false];
  place.replaceChildren(...[make()].flat());
  const again = place.querySelector(".scroll");
  if (again) {
    again.scrollLeft = left;
    if (focused) again.focus({ preventScroll: true });
  }
}

function summary(board, speed) {
  const { lookups, store } = board;
  const asked = lookups.hits + lookups.misses;
  const running = board.builds.filter((build) => build.ended_ms === null).length;
  const tiles = [
    ["Hit rate", asked ? percent(lookups.hits / asked) : "\u2013", asked ? lookups.hits + " of " + count(asked, "lookup") : "nothing was looked up yet"],
    ["Builds running", String(running), count(lookups.builds, "build") + " since the start"],
    ["Time saved", seconds(lookups.saved_s), count(lookups.executed, "task") + " ran, " + seconds(lookups.executed_s)],
    ["Received", rate(speed.in), size(board.bytes_in) + " in all"],
    ["Sent", rate(speed.out), size(board.bytes_out) + " in all"],
    ["Stored", known(store.used, size), store.limit === null ? count(store.records, "record") : "of " + size(store.limit) + ", " + count(store.records, "record")],
  ];
  draw("sum", tiles, () => tiles.map(([name, value, more]) => el("div", {}, el("dt", {}, name), el("dd", {}, value), el("dd", {}, more))));
}

function regions(board) {
  const columns = [["Region"], ["State"], ["Asked", "n"], ["Agents", "n"], ["Round trip", "n"], ["Bandwidth", "n"], ["Loss", "n"], ["Hits", "n"], ["Hit rate", "n"], ["Received", "n"]];
  draw("regions", [board.regions, board.regions_left_out], () => {
    const rows = board.regions.map((row) => [
      region(row.region) + (row.this ? " (this agent)" : ""),
      row.this && row.agents < 2 ? "here" : state(row.state), known(row.order, ordinal), String(row.agents), known(row.rtt_ms, millis),
      known(row.goodput, rate), known(row.loss, percent), String(row.hits), known(row.hit_rate, percent), size(row.bytes_in),
    ]);
    const shown = [table("Regions of the mesh as this agent sees them", columns, rows, board.regions.map((row) => (row.this ? "this" : null)))];
    if (board.regions_left_out) shown.push(empty("and " + count(board.regions_left_out, "more region")));
    return shown;
  });
  const links = [["From"], ["To"], ["Round trip", "n"], ["Bandwidth", "n"], ["Loss", "n"], ["Measured by"]];
  draw("links", board.links, () => (board.links.length ? table("Links between regions", links, board.links.map((link) => [
    region(link.from), region(link.to), known(link.rtt_ms, millis), known(link.goodput, rate), known(link.loss, percent), link.measured ? "this agent" : "others",
  ])) : empty("No link was measured yet.")));
}

// The mesh as a graph. On a small mesh all links have labels, on a larger one those of this agent.
function graph(board) {
  const place = byId("graph");
  const width = Math.max(280, Math.min(1100, place.clientWidth || 600));
  const shows = [width, board.links, board.regions.map((row) => [row.region, row.agents, row.state, row.order, row.rtt_ms, row.goodput, row.this])];
  draw("graph", shows, () => (board.regions.length < 2 ? empty("No other region is known yet. Join one with the ticket that netbuild ticket prints.") : picture(board, width)));
}

function picture(board, width) {
  const narrow = width < 480;
  const most = narrow ? 5 : width < 760 ? 9 : 13;
  const nodes = board.regions.slice(0, most).map((row) => ({
    row,
    name: short(region(row.region), narrow ? 14 : 20),
    more: row.this ? "this agent" + (row.agents > 1 ? " and " + (row.agents - 1) : "")
      : [row.agents ? count(row.agents, "agent") : "", row.state === "ok" ? "" : STATES[row.state]].filter(Boolean).join(", "),
  }));
  // All links of a small mesh are drawn; of a larger one, and where there is little room, those of this agent.
  const column = narrow && nodes.length > 3;
  const small = nodes.length <= 5 && !column;
  for (const node of nodes) node.half = Math.max(46, node.name.length * 3.9 + 12, node.more.length * 3.1 + 10);
  const height = column ? inColumn(nodes, width) : inCircle(nodes, width, small);
  const lines = [], labels = [];
  nodes.forEach((to, i) => nodes.slice(i + 1).forEach((from) => {
    const own = to.row.this || from.row.this;
    const other = to.row.this ? from : to;
    const link = between(board, to.row, from.row);
    const off = own ? other.row.state !== "ok" : to.row.state === "away" || from.row.state === "away";
    if (!own && (off || !link || !small)) return;
    lines.push(svg("line", { x1: to.x, y1: to.y, x2: from.x, y2: from.y, class: off ? "off" : own && other.row.order === 1 ? "first" : own ? "own" : "" }));
    if (column) {
      // Between the boxes, which take most of the way.
      const [left, right] = [to.x + to.half, from.x - from.half];
      const middle = (left + right) / 2;
      from.label = [middle, to.y + ((from.y - to.y) * (middle - to.x)) / (from.x - to.x)];
    }
    const apart = nodes.indexOf(from) - i;
    const across = small && apart > 1 && apart < nodes.length - 1;
    const part = across ? 0.36 : small ? 0.5 : 0.62;
    const [x, y] = from.label || [to.x + (from.x - to.x) * part, to.y + (from.y - to.y) * part];
    const order = own && other.row.order ? "asked " + ordinal(other.row.order) : null;
    const measured = link && link.rtt_ms !== null ? millis(link.rtt_ms) : null;
    const all = [order, measured, link && link.goodput !== null ? rate(link.goodput) : null].filter(Boolean);
    const texts = off && own ? [STATES[other.row.state]] : small ? all : all.slice(0, 2);
    labels.push(svg("text", { class: "label", x, y: y - (texts.length - 1) * 7 + 4 }, ...texts.map((text, line) => svg("tspan", { x, dy: line ? 14 : 0 }, text))));
  }));
  const boxes = nodes.map(({ row, name, more, x, y, half }) => svg("g", { class: (row.this ? "this" : "") + (row.this || row.state === "ok" ? "" : " off") },
    svg("rect", { x: x - half, y: y - 21, width: 2 * half, height: 42, rx: 10 }),
    svg("text", { x, y: y - 3, class: "strong" }, name),
    svg("text", { x, y: y + 13, class: "sub" }, more)));
  const about = nodes.filter(({ row }) => !row.this).map(({ row, name }) => name + ": " + (row.order ? "asked " + ordinal(row.order) + ", " : "") + STATES[row.state] + (row.rtt_ms === null ? "" : ", " + millis(row.rtt_ms)) + (row.goodput === null ? "" : ", " + rate(row.goodput)));
  const drawing = svg("svg", { viewBox: "0 0 " + width + " " + height, role: "img", "aria-label": "The mesh as this agent sees it. " + about.join("; ") + ". The tables below have all of it." }, ...lines, ...boxes, ...labels);
  const more = board.regions.length - nodes.length;
  return more > 0 ? [drawing, empty("and " + count(more, "more region") + ", in the table below")] : drawing;
}

// This agent at the left and the others below each other; says how high that is.
function inColumn(nodes, width) {
  const [here, ...others] = nodes;
  [here.x, here.y] = [here.half + 2, 26 + (others.length - 1) * 31];
  others.forEach((node, at) => ([node.x, node.y] = [width - node.half - 2, 26 + at * 62]));
  return 52 + (others.length - 1) * 62;
}

// All in a circle, or the others around this agent, as wide as there is room and no higher than it is; says how high.
function inCircle(nodes, width, small) {
  const [middle, radius] = [width / 2, nodes.length < 4 ? 120 : 150];
  nodes.forEach((node, at) => {
    const [place, of] = small ? [at, nodes.length] : [at - 1, nodes.length - 1];
    const turn = (2 * Math.PI * place) / of - (nodes.length === 2 ? Math.PI : Math.PI / 2);
    [node.x, node.y] = small || at > 0 ? [Math.cos(turn), radius * Math.sin(turn)] : [0, 0];
  });
  const wide = nodes.filter((node) => Math.abs(node.x) > 0.01).map((node) => (middle - node.half - 4) / Math.abs(node.x));
  const [spread, top] = [Math.min(400, ...wide), Math.min(...nodes.map((node) => node.y)) - 26];
  for (const node of nodes) [node.x, node.y] = [middle + node.x * spread, node.y - top];
  return Math.round(Math.max(...nodes.map((node) => node.y)) + 26);
}

// The link between two regions, preferably as bytes flow to this agent.
function between(board, a, b) {
  const towards = (from, to) => board.links.find((link) => link.from === from.region && link.to === to.region);
  return a.this ? towards(b, a) || towards(a, b) : b.this ? towards(a, b) || towards(b, a) : towards(a, b) || towards(b, a);
}

function builds(board) {
  const now = board.at_ms;
  const shown = board.builds.slice(0, 6).map((build) => ({ ...build, when: build.ended_ms === null ? "for " + since(Math.max(0, Math.floor((now - build.began_ms) / 1000))) : ago(build.ended_ms, now) }));
  const columns = [["Workspace"], ["State"], ["Hits", "n"], ["Misses", "n"], ["Ran", "n"], ["Saved", "n"]];
  draw("builds", shown, () => (shown.length ? table("Builds on this machine", columns, shown.map((build) => [
    (build.workspace ? clean(build.workspace) : "a build") + " (" + build.pid + ")",
    build.ended_ms === null ? "running " + build.when : "ended " + build.when,
    String(build.hits), String(build.misses), String(build.executed), seconds(build.saved_s),
  ])) : empty("No build has asked this agent yet.")));
}

function transfers(board) {
  const columns = [["What"], ["Progress"], ["Speed", "n"], ["From"]];
  draw("transfers", [board.transfers, board.transfers_left_out], () => {
    if (!board.transfers.length) return empty("Nothing is being fetched.");
    const rows = board.transfers.map((move) => {
      const share = move.total ? move.done / move.total : 0;
      return [
        short(clean(move.what), 26) + (move.background ? " (in the background)" : ""),
        cell(size(move.done) + " of " + size(move.total) + ", " + percent(share), bar(share)),
        rate(move.per_second) + (move.coding ? " " + move.coding : ""),
        move.sources.length ? move.sources.map(clean).join(", ") : "looking for it",
      ];
    });
    const shown = [table("What is being fetched", columns, rows)];
    if (board.transfers_left_out) shown.push(empty("and " + board.transfers_left_out + " more"));
    return shown;
  });
}

const SOURCES = { disk: "this disk", redis: "Redis", s3: "S3", memory: "memory" };
function hits(board) {
  const all = board.lookups.hits;
  draw("hits", board.hits, () => (all ? table("Hits of builds by source", [["Source"], ["Hits", "n"], ["Share"]], board.hits.map((share) => [
    share.source === "peer" ? region(share.region) : SOURCES[share.source] || clean(share.source),
    String(share.hits), cell(percent(share.hits / all), bar(share.hits / all)),
  ])) : empty("No build found anything yet.")));
}

function tiers(board) {
  const columns = [["Tier"], ["State"], ["Round trip", "n"], ["Received", "n"], ["Sent", "n"], ["Waiting", "n"]];
  draw("tiers", board.tiers, () => (board.tiers.length ? table("Storage that is shared", columns, board.tiers.map((tier) => [
    clean(tier.name), cell(state(tier.state), tier.resting || tier.why ? el("span", { class: "quiet" }, " " + clean(tier.resting || tier.why)) : null), known(tier.rtt_ms, millis),
    size(tier.bytes_received), size(tier.bytes_sent),
    tier.waiting ? tier.waiting + " (" + size(tier.waiting_bytes) + ")" : "0",
  ])) : empty("None is configured.")));
}

function misses(board) {
  const shown = board.misses.map((miss) => ({ ...miss, when: ago(miss.at_ms, board.at_ms) }));
  const columns = [["Task"], ["When"], ["Why", "wide"], ["Then"]];
  draw("misses", shown, () => (shown.length ? [table("Results that nobody had", columns, shown.map((miss) => [
    miss.output ? clean(miss.output) : miss.key, miss.when + (miss.workspace ? ", " + clean(miss.workspace) : ""), clean(miss.why),
    miss.ran_s === null ? "not recorded yet" : "ran, " + seconds(miss.ran_s),
  ])), el("p", { class: "quiet" }, "What in a key is new, ", el("code", {}, "netbuild why TASK"), " tells in its workspace.")] : empty("Nothing that was looked up was missing.")));
}

function conflicts(board) {
  draw("conflicts", [board.conflicts, board.conflicts_count], () => {
    if (!board.conflicts_count) return empty("None: all agents that ran a task got the same result.");
    const version = (one) => region(one.region) + " (\u2026" + clean(one.writer).slice(-6) + ")";
    const rows = board.conflicts.map((conflict) => {
      const first = conflict.kept.outputs.find((output) => conflict.others.some((other) => !other.outputs.some((same) => same.path === output.path && same.digest === output.digest)));
      return [first ? clean(first.path) : conflict.key.slice(0, 12), version(conflict.kept), conflict.others.map(version).join(", ")];
    });
    return [table("Actions with results that differ", [["Output that differs"], ["Served"], ["Others got"]], rows),
      el("p", { class: "quiet" }, count(board.conflicts_count, "action") + " in all; ", el("code", {}, "netbuild conflicts"), " tells more.")];
  });
}

// -- following the agent --

let last = null, before = null, following = null, heard = 0, lost = false, trying = null;
const speed = { in: 0, out: 0 };

function show(board) {
  if (last && board.peer === last.peer && board.uptime_s >= last.uptime_s) {
    const passed = (board.at_ms - last.at_ms) / 1000;
    if (passed > 0.2) {
      speed.in = Math.max(0, board.bytes_in - last.bytes_in) / passed;
      speed.out = Math.max(0, board.bytes_out - last.bytes_out) / passed;
    }
  } else {
    speed.in = speed.out = 0;
  }
  before = last;
  last = board;
  byId("here").textContent = region(board.region);
  document.title = region(board.region) + " \u2013 netbuild";
  const up = board.uptime_s < 60 ? "for less than a minute" : "for " + seconds(Math.floor(board.uptime_s / 60) * 60).replace(/ 0\u00a0s$/, "");
  const agent = "agent \u2026" + clean(board.peer).slice(-8) + ", version " + clean(board.version) + ", " + up;
  if (byId("agent").textContent !== agent) byId("agent").textContent = agent;
  summary(board, speed);
  graph(board);
  regions(board);
  builds(board);
  transfers(board);
  hits(board);
  tiers(board);
  misses(board);
  conflicts(board);
  if (before && board.conflicts_count > before.conflicts_count) byId("said").textContent = "A new conflict: " + count(board.conflicts_count, "action") + " with results that differ.";
}

// It is said once when it changes, and not each second.
function connected(live, text) {
  const place = byId("state");
  if (place.textContent !== text) place.textContent = text;
  place.className = "state" + (live === null ? "" : live ? " live" : " gone");
  byId("main").classList.toggle("stale", live === false);
  lost = live === false;
}
function gone(why) {
  if (!lost) connected(false, why + " since " + new Date().toLocaleTimeString() + "; trying again");
}

function follow() {
  clearTimeout(trying);
  if (following) following.close();
  heard = Date.now();
  following = new EventSource("/events");
  following.onmessage = (event) => {
    heard = Date.now();
    show(JSON.parse(event.data));
    connected(true, "live");
  };
  following.addEventListener("stopping", () => gone("The agent is stopping,"));
  following.onerror = () => {
    // A blink, as when the agent ends a stream that has lasted long, is not told.
    if (Date.now() - heard > 2500 || following.readyState === EventSource.CLOSED) gone("The agent does not answer");
    if (following.readyState === EventSource.CLOSED) again();
  };
}
function again() {
  clearTimeout(trying);
  trying = setTimeout(follow, 2000);
}

// An agent that hangs says nothing at all.
setInterval(() => {
  if (following && Date.now() - heard > 6000) {
    gone("The agent does not answer");
    follow();
  }
}, 1000);
// Nobody looks: the agent need not tell.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(trying);
    if (following) following.close();
    following = null;
  } else {
    follow();
  }
});
new ResizeObserver(() => last && graph(last)).observe(byId("graph"));
follow();
