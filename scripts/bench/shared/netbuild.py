"""netbuild as people use it: agents, `netbuild put`, `get`, `run` and `sync`."""

import json
import subprocess
from dataclasses import dataclass

from lab import Failed, Figures, Unavailable, last_lines, remove, wait_until


@dataclass
class Got:
    """What `netbuild get` did, and what it took."""

    figures: Figures
    # What it says of itself.
    report: dict
    # Seconds until the blob was verified and on disk in the store, as the agent remembers it where one
    # source gave it; the command then writes the file that was asked for.
    stored_s: float


class Agent:
    """A running `netbuild-agent` with a data directory of its own."""

    def __init__(self, lab, site, region, join=(), config="", data_dir=None):
        self.lab = lab
        self.site = site
        self.region = region
        self.data_dir = data_dir or lab.fresh(f"{region}.data")
        self.config = lab.fresh("mesh.toml")
        # Members are named, so that no agent of somebody else on this machine takes part.
        self.config.write_text(f"[mesh]\nmdns = false\n{config}")
        self.join = list(join)
        self.start()

    def start(self):
        program = self.lab.netbuild.with_name("netbuild-agent")
        argv = [program, "--region", self.region, "--listen", f"{self.site.address}:0",
                "--data-dir", self.data_dir, "--config", self.config]
        for member in self.join:
            argv += ["--join", member.ticket]
        self.server = self.lab.serve(self.site, argv)
        wait_until("the agent serves", self._serves)
        self.ticket = self.json("ticket")["ticket"]
        self.peer = self.json("status")["peer"]
        # An agent runs for days, so what is measured is one that has met the others and tried out its links.
        for member in self.join:
            wait_until("the link there is measured", lambda: self._knows_link_from(member))
            wait_until("the link back is measured", lambda: member._knows_link_from(self))

    def _serves(self):
        if self.server.process.poll() is not None:
            raise Failed(f"netbuild-agent ended: {last_lines(self.server.said())}")
        status = self.command("status", "--json", check=False).stdout
        return status and json.loads(status)["agent"]

    def _knows_link_from(self, other):
        # Over loopback there is no rate that a short try could find.
        what = "goodput" if self.site.prefix and self.lab.rates else "rtt_ms"
        return any(link["from"] == other.peer and link["source"] == "measured" and link[what]
                   for link in self.json("links"))

    def command(self, name, *arguments, check=True, cwd=None):
        argv = [self.lab.netbuild, name, "--data-dir", self.data_dir, "--config", self.config, *arguments]
        return self.lab.run(self.site, argv, check=check, cwd=cwd)

    def json(self, name, *arguments):
        return json.loads(self.command(name, "--json", *arguments).stdout)

    def counters(self):
        return self.json("status")["counters"]

    def put(self, file):
        return self.command("put", file).stdout.strip()

    def get(self, digest, output):
        figures = self.command("get", digest, "--json", "-o", output)
        got = json.loads(figures.stdout)
        return Got(figures, got, got["transfer_seconds"])

    def fetched_in(self, *about):
        """Seconds of the latest fetch of something, until all of it was verified and stored, as the agent
        remembers it. Nothing if it was not one source that gave it: how far several went on at once is not told."""
        decisions = self.json("why", *about, "--last", "1")
        attempts = [attempt for decision in decisions for attempt in decision["attempts"] if attempt["actual_s"]]
        return attempts[0]["actual_s"] if len(attempts) == 1 else None

    def start_get(self, digest, output):
        """Starts to get a blob, for those who mean to disturb it."""
        argv = [self.lab.netbuild, "get", "--data-dir", self.data_dir, "--config", self.config,
                digest, "--json", "-o", output]
        return self.lab.serve(self.site, argv)

    def knows_records_of(self, other):
        """Waits until the records of another agent are here, which gossip brings."""
        def known():
            here, there = (agent.json("status")["store"]["records"] for agent in (self, other))
            return here >= there
        wait_until("the records of the other agent are here", known)

    def run(self, workspace, *tasks):
        """Runs a graph; its summary, and what it took."""
        figures = self.command("run", "--quiet", "--json", *tasks, cwd=workspace)
        return json.loads(figures.stdout), figures

    def cpu_s(self):
        return self.server.cpu_s()

    def stop(self):
        self.lab.stop(self.server)

    def kill(self):
        self.lab.stop(self.server, how=9)


def discard(agent):
    """Ends an agent and removes what it had."""
    agent.stop()
    remove(agent.data_dir)


def took_from_mesh(summary):
    """A run that executes its tasks has fetched nothing, and measures nothing, unless that was sooner."""
    if summary["result"] != "success" or summary["executed"] > summary.get("sooner_built", 0):
        raise Failed(f"netbuild: the run was to take everything from the mesh: {json.dumps(summary)}")


def require_config(lab, config):
    """Says that a part cannot be measured when this netbuild does not know a setting."""
    file = lab.fresh("mesh.toml")
    file.write_text(config)
    argv = [lab.netbuild, "status", "--config", file, "--data-dir", lab.fresh("data")]
    process = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "mesh.toml" in process.stderr or "unknown" in process.stderr:
        raise Unavailable(f"this netbuild refuses its setting: {last_lines(process.stderr, 1)}")


def version(lab):
    return subprocess.run([lab.netbuild, "--version"], capture_output=True, text=True, check=True).stdout.strip()
