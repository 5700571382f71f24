"""What the parts share."""

from dataclasses import dataclass
from pathlib import Path

from lab import MIB, Failed, Traffic, remove, same


@dataclass
class Bench:
    """What every part needs."""

    lab: object
    runs: int
    # A tenth or a hundredth of everything, to see whether the script works.
    scale: float
    # The example `raw`, if it was built.
    raw: Path | None
    # The pairs of old and new files, if they were made.
    pairs: Path | None

    def size(self, size):
        return max(MIB, int(size * self.scale))


PAIRS = {
    "release": ("a release binary after one changed line", 4),
    "debug": ("a debug binary after one changed line", 7),
    "debug-full": ("a debug binary with all debug information", None),
    "library": ("a C static library after one changed function", 3),
    "library-g": ("the same with debug information", None),
    "package": ("the example's package archive after one changed line", 3),
    "package-gz": ("the same through gzip", None),
}


def each_to(table, tools, runs):
    """Measures tools one after the other; a tool is its name, how it is called, and what to do once."""
    for name, command, once in tools:
        table.measure(name, runs, once, command)


def over_link(sites, there, office, server, get):
    """What a tool takes that is served by `server`; `get` gives its seconds and processor seconds."""
    before, cpu = sites.quiet(), server.cpu_s()
    seconds, cpu_s = get()
    traffic = Traffic.between(before, sites.counters(), there.name, office.name)
    return {"wire_bytes": traffic.bytes_down + traffic.bytes_up, "seconds": seconds,
            "cpu_provider_s": server.cpu_s() - cpu, "cpu_requester_s": cpu_s}


def timed(command):
    """A command as `over_link` has it."""
    def measured():
        took = command()
        return took.seconds, took.cpu_s
    return measured


def checked(original, copy, tool):
    """Figures count only when the bytes are right."""
    if not same(original, copy):
        raise Failed(f"{tool}: what came is not what was sent")
    remove(copy)


def pair_of(bench, name):
    if not bench.pairs:
        return None
    # rsync would pass a symbolic link by.
    old, new = ((bench.pairs / f"{name}.{side}").resolve() for side in ("old", "new"))
    return (old, new) if old.exists() and new.exists() else None
