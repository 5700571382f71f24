"""The parts of the benchmark: what is built, over which links, by which tools."""

from parts.builds import far, low, near
from parts.changes import sync, update
from parts.local import local
from parts.recovery import recovery

PARTS = {"local": local, "near": near, "far": far, "low": low, "recovery": recovery, "update": update, "sync": sync}
