"""What the parts share."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import MIB, Failed, same


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


# The requester's site: each link then has the profile of its other end.
OFFICE = "office=datacenter"


PAIRS = {
    "release": ("a release binary after one changed line", 4),
    "debug": ("a debug binary after one changed line", 7),
    "debug-full": ("a debug binary with all debug information", None),
    "library": ("a C static library after one changed function", 3),
    "library-g": ("the same with debug information", None),
    "package": ("the example's package archive after one changed line", 3),
    "package-gz": ("the same through gzip", None),
}


@contextmanager
def serving(server):
    """Stops a server, or an agent, in the end."""
    try:
        yield server
    finally:
        server.stop()


def each_to(table, tools, runs):
    """Measures tools one after the other; a tool is its name, how it is called, and what to do once."""
    for name, command, once in tools:
        table.measure(name, runs, once, command)


def checked(original, copy, tool):
    """Figures count only when the bytes are right."""
    if not same(original, copy):
        raise Failed(f"{tool}: what came is not what was sent")
    remove(copy)


def remove(path):
    if Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def discard(agent):
    """Ends an agent and removes what it had."""
    agent.stop()
    remove(agent.data_dir)


def pair_of(bench, name):
    if not bench.pairs:
        return None
    # rsync would pass a symbolic link by.
    old, new = ((bench.pairs / f"{name}.{side}").resolve() for side in ("old", "new"))
    return (old, new) if old.exists() and new.exists() else None


def took_from_mesh(summary):
    """A run that executes its tasks has fetched nothing, and measures nothing."""
    if summary["result"] != "success" or summary["executed"]:
        raise Failed(f"netbuild: the run was to take everything from the mesh: {json.dumps(summary)}")
