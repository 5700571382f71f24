"""The parts of the benchmark: what is built, over which links, by which tools."""

from lab import Failed, Unavailable
from parts.builds import far, low, near
from parts.changes import sync, update
from parts.local import local
from parts.recovery import recovery
from report import Part

PARTS = {"local": local, "near": near, "far": far, "low": low, "recovery": recovery, "update": update, "sync": sync}


def run(name, bench):
    """Measures one part; what it cannot measure is in its report."""
    try:
        return PARTS[name](bench)
    except (Unavailable, Failed, OSError) as error:
        part = Part(bench.lab, name, PARTS[name].__doc__)
        part.notes.append(f"not run: {' '.join(str(error).split())}")
        return part
