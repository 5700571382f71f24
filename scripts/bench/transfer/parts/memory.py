"""The memory of both sides while a very large blob is moved."""

import shutil

from lab import GIB, MIB, remove, serving
from netbuild import Agent
from report import Part


def memory(bench):
    """The most memory that either side takes while a very large blob is moved."""
    lab, size = bench.lab, bench.size(10 * GIB)
    part = Part(lab, "memory", f"{size / GIB:g} GiB over loopback")
    table = part.table("memory above idle", ["rss_provider", "rss_requester", "seconds"], ratio="rss_requester")
    needed, free = 4 * size, shutil.disk_usage(lab.work).free
    if free < needed:
        reason = f"it needs {needed / GIB:.0f} GiB on the disk of {lab.work.parent}, {free / GIB:.0f} are free"
        table.missing("netbuild", reason)
        part.at_most("MiB of the provider", None, 96)
        part.at_most("MiB of the requester", None, 96)
        return part
    blob = lab.blob(size)

    def netbuild(_):
        provider = Agent(lab, lab.here, "provider")
        digest = provider.put(blob)
        # What `put` took is given back by a new process; idle is what it has before it serves.
        provider.stop()
        provider.start()
        requester = Agent(lab, lab.here, "requester", [provider])
        with serving(provider), serving(requester):
            idle = provider.server.rss(), requester.server.rss()
            provider.server.forget_peak()
            requester.server.forget_peak()
            got = requester.get(digest, "/dev/null")
            took = {"rss_provider": provider.server.peak_rss() - idle[0],
                    "rss_requester": requester.server.peak_rss() - idle[1], "seconds": got.stored_s}
        remove(provider.data_dir)
        remove(requester.data_dir)
        return took

    table.measure("netbuild", 1, netbuild, "netbuild get DIGEST -o /dev/null")
    remove(blob)
    for side in ("provider", "requester"):
        value = table.value("netbuild", f"rss_{side}")
        part.at_most(f"MiB of the {side}", value and value / MIB, 96)
    return part
