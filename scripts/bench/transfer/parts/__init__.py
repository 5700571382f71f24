"""The parts of the benchmark: what is moved over which links, by which tools."""

from lab import Failed, Unavailable
from parts.codec import codec
from parts.fair import fair
from parts.links import links
from parts.loopback import loopback
from parts.memory import memory
from parts.resume import resume
from parts.small import small
from parts.sources import sources
from parts.sync import sync
from parts.update import update
from report import Part

PARTS = {
    "loopback": loopback, "links": links, "fair": fair, "sources": sources, "resume": resume, "update": update,
    "sync": sync, "codec": codec, "small": small, "memory": memory,
}


def run(name, bench):
    """Measures one part; what it cannot measure is in its report."""
    try:
        return PARTS[name](bench)
    except (Unavailable, Failed, OSError) as error:
        part = Part(bench.lab, name, PARTS[name].__doc__)
        part.notes.append(f"not run: {' '.join(str(error).split())}")
        return part
