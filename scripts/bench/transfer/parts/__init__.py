"""The parts of the benchmark: what is moved over which links, by which tools."""

from parts.codec import codec
from parts.fair import fair
from parts.links import links
from parts.loopback import loopback
from parts.memory import memory
from parts.resume import resume
from parts.small import small
from parts.sources import sources
from parts.sync import sync
from parts.together import together
from parts.update import update

PARTS = {
    "loopback": loopback, "links": links, "fair": fair, "sources": sources, "resume": resume, "update": update,
    "together": together, "sync": sync, "codec": codec, "small": small, "memory": memory,
}
