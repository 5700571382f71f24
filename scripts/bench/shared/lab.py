"""The place where measurements are made: a directory, sites with links between them, processes.

Whatever a `Lab` starts or makes is gone when it is closed.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

# How long a measured command may take. The slowest, 100 MiB by cubic at 1 % loss, takes minutes.
PATIENCE_S = 1800
# How long a server may take until it serves.
START_S = 60
# A link is quiet when no more than this passes in such a time: pings and gossip of idle agents.
QUIET_S = 1
QUIET_BYTES = 32 * 1024
# What /proc counts processor time in.
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

MIB = 1 << 20
GIB = 1 << 30

# The requester's site: each link then has the profile of its other end.
OFFICE = "office=datacenter"


class Unavailable(Exception):
    """Why a tool or a part cannot be measured here."""


class Failed(Exception):
    """A measured command that did not do what it should."""


@dataclass
class Site:
    """Where a command runs: this machine as it is, or a site of emulated links."""

    name: str
    address: str
    prefix: list = field(default_factory=list)


@dataclass
class Figures:
    """What a measured command took."""

    seconds: float
    cpu_s: float
    peak_rss: int
    stdout: str
    stderr: str


class Server:
    """A process that goes on beside what is measured, with all its children."""

    def __init__(self, process, log):
        self.process = process
        self.log = log

    @property
    def pid(self):
        return self.process.pid

    def said(self):
        return self.log.read_text(errors="replace")

    def cpu_s(self):
        """Processor seconds of the process and its children, also those that have ended."""
        return sum(cpu_ticks(pid) for pid in family(self.pid)) * TICK_S

    def rss(self):
        return sum(memory(pid, "VmRSS") for pid in family(self.pid))

    def forget_peak(self):
        for pid in family(self.pid):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_rss(self):
        """The most memory at once since `forget_peak`."""
        return sum(memory(pid, "VmHWM") for pid in family(self.pid))

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


class Lab:
    """Everything that a benchmark needs around the tools; a context manager that cleans up."""

    def __init__(self, netbuild, rates=True, quiet=True):
        self.netbuild = netbuild
        # Whether agents are to have found out what their links carry before they are used, and to be done with it.
        self.rates, self.quiet = rates, quiet
        self.work = Path(tempfile.mkdtemp(prefix="netbuild-bench."))
        self.here = Site("here", "127.0.0.1")
        self.servers = []
        self.links = []
        self.count = 0
        # What was run, for the report; a dictionary for its order.
        self.commands = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in reversed(self.servers):
            with suppress(OSError):
                server.stop()
        for links in list(self.links):
            links.down()
        shutil.rmtree(self.work, ignore_errors=True)

    def fresh(self, name):
        """A path in the work directory that nothing has used yet."""
        self.count += 1
        return self.work / f"{self.count}-{name}"

    def directory(self, name):
        path = self.fresh(name)
        path.mkdir()
        return path

    def serve(self, site, argv, env=(), **options):
        """Starts a server; `env` are variables beside those of the caller, `options` those of `Popen`."""
        self.commands[plain(site.prefix + list(argv))] = None
        log = self.fresh("log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                site.prefix + [str(arg) for arg in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**environment(), **dict(env)},
                **options,
            )
        server = Server(process, log)
        self.servers.append(server)
        return server

    def stop(self, server, how=signal.SIGTERM):
        server.stop(how)
        if server in self.servers:
            self.servers.remove(server)

    def run(self, site, argv, cwd=None, check=True, env=()):
        """Runs a command to its end and measures it; `env` are variables beside those of the caller."""
        argv = site.prefix + [str(arg) for arg in argv]
        self.commands[plain(argv)] = None
        out, err = self.fresh("out"), self.fresh("err")
        with out.open("wb") as stdout, err.open("wb") as stderr:
            started = time.monotonic()
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=cwd,
                env={**environment(), **dict(env)},
            )
            usage = wait(process, PATIENCE_S)
            seconds = time.monotonic() - started
        said, complained = out.read_text(errors="replace"), err.read_text(errors="replace")
        out.unlink()
        err.unlink()
        if usage is None:
            raise Failed(f"{plain(argv)}: no end after {PATIENCE_S} s")
        if check and process.returncode != 0:
            raise Failed(f"{plain(argv)}: exit code {process.returncode}: {last_lines(complained or said)}")
        cpu_s = usage.ru_utime + usage.ru_stime
        return Figures(seconds, cpu_s, usage.ru_maxrss * 1024, said, complained)

    def blob(self, size, name="blob"):
        """A file of bytes that nothing compresses."""
        path = self.fresh(name)
        with path.open("wb") as file:
            for offset in range(0, size, MIB):
                file.write(os.urandom(min(MIB, size - offset)))
        return path

    def sites(self, sites):
        """Puts emulated links between sites, given as NAME or NAME=PROFILE."""
        links = Links(self, sites)
        self.links.append(links)
        return links

    def free_port(self, site, kind=socket.SOCK_STREAM):
        """A port that nobody uses now. A site of emulated links is ours alone, so any will do there."""
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    def settle(self):
        """Lets the disk finish what was written before, so that nothing measured pays for it."""
        os.sync()


class Links:
    """Sites with emulated links between them, made by `netbuild wan`."""

    def __init__(self, lab, sites):
        if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
            raise Unavailable("emulated links need root and /dev/net/tun")
        self.lab = lab
        lab.count += 1
        self.name = f"bench-{os.getpid()}-{lab.count}"
        self.wan = [str(lab.netbuild), "wan"]
        lab.run(lab.here, [*self.wan, "up", "--detach", "--name", self.name]
                + [word for site in sites for word in ("--site", site)])
        self.sites = {}
        for site in self.status()["sites"]:
            prefix = [*self.wan, "exec", "--name", self.name, site["name"], "--"]
            self.sites[site["name"]] = Site(site["name"], site["address"], prefix)
        for site in self.sites.values():
            # What TCP learned of a path in one run is not to help the next.
            lab.run(site, ["sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1"])

    def __getitem__(self, name):
        return self.sites[name]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    def status(self):
        return json.loads(self.lab.run(self.lab.here, [*self.wan, "status", "--name", self.name, "--json"]).stdout)

    def counters(self):
        """Per direction (from, to): packets, bytes and drops so far."""
        return {(link["from"], link["to"]): link for link in self.status()["links"]}

    def quiet(self):
        """Waits until next to nothing passes: agents that have just met try out their links."""
        def passed():
            return sum(link["passed_bytes"] + link["queued_bytes"] for link in self.status()["links"])

        def little_passes():
            before = passed()
            time.sleep(QUIET_S)
            return passed() - before <= QUIET_BYTES

        if self.lab.quiet:
            wait_until("the links are quiet", little_passes)
        return self.counters()

    def down(self):
        if self in self.lab.links:
            self.lab.links.remove(self)
            self.lab.run(self.lab.here, [*self.wan, "down", "--name", self.name], check=False)


@dataclass
class Traffic:
    """What passed between a provider and a requester while something was measured."""

    bytes_down: int
    bytes_up: int
    queue_drops_percent: float
    lost_percent: float

    @staticmethod
    def between(before, after, provider, requester):
        def change(ends, what):
            return after[ends][what] - before[ends][what]

        down, up = (provider, requester), (requester, provider)
        queue, loss = change(down, "dropped_queue"), change(down, "dropped_loss")
        packets = max(1, change(down, "passed") + queue + loss)
        return Traffic(
            change(down, "passed_bytes"), change(up, "passed_bytes"),
            100 * queue / packets, 100 * loss / packets,
        )


def wait(process, patience_s):
    """Waits for the end of a child: its resource usage, or nothing if it had to be killed."""
    late = threading.Event()

    def kill():
        late.set()
        process.kill()

    timer = threading.Timer(patience_s, kill)
    timer.daemon = True
    timer.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return None if late.is_set() else usage


def wait_until(what, condition, patience_s=START_S, pause=0.02):
    """Waits until `condition` gives something, and returns that."""
    deadline = time.monotonic() + patience_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not after {patience_s} s")
        time.sleep(pause)


@contextmanager
def serving(server):
    """Stops a server, or an agent, in the end."""
    try:
        yield server
    finally:
        server.stop()


def remove(path):
    if Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def environment():
    """The caller's environment without what would change how the tools work."""
    hidden = ("NETBUILD_", "RUST_LOG", "IROH_", "SSLKEYLOGFILE", "http_proxy", "https_proxy", "RSYNC_", "PYTHONPATH",
              "CACHE_BACKEND", "PRIMARY_CACHE", "FORCE_CACHE", "BUILD_REGION", "AWS_", "REDIS_", "SCCACHE_", "RUSTC_WRAPPER",
              "RUSTFLAGS", "MAKEFLAGS", "MAKELEVEL", "NINJA_STATUS")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


def family(pid):
    """A process and all its descendants."""
    members = [pid]
    for member in members:
        with suppress(OSError):
            for task in Path(f"/proc/{member}/task").iterdir():
                members += map(int, (task / "children").read_text().split())
    return members


def cpu_ticks(pid):
    try:
        # The name of the program is in parentheses and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    # utime, stime, cutime, cstime: fields 14 to 17.
    return sum(map(int, fields[11:15]))


def memory(pid, what):
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def same(one, other):
    """Whether two files hold the same bytes."""
    return subprocess.run(["cmp", "-s", str(one), str(other)], check=False).returncode == 0


def plain(argv):
    """A command for people: without the site it runs in, and without what is different each time."""
    words = [str(word) for word in argv]
    if "--" in words:
        words = words[words.index("--") + 1:]
    words[0] = Path(words[0]).name
    words = [re.sub(r"[^\s=]*/netbuild-bench\.\w+/(\d+-)?", "", word) for word in words]
    # Tickets and digests are only long.
    return " ".join(re.sub(r"^(\w{12})\w{40,}", r"\1...", word) for word in words)


def last_lines(text, count=3):
    return " / ".join(text.strip().splitlines()[-count:])
