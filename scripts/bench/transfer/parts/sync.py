"""Copying a whole build to another region after an edit."""

import time

from example import edit_example, example, outputs
from lab import OFFICE, Failed, Traffic, remove, serving
from netbuild import Agent
from report import Part


def sync(bench):
    """All outputs of the example after an edit, copied to a region that has those before the edit."""
    lab = bench.lab
    part = Part(lab, "sync", "all outputs of the example after one changed line, to a region that has the old ones")
    part.notes.append("saved: of the size of all outputs of the new build; and of those that are not as they were")
    table = part.table("netbuild sync over 150 ms, 25 Mbit/s",
                       ["wire_bytes", "saved_percent", "saved_changed_percent", "seconds"], ratio="wire_bytes")

    def netbuild(_):
        space = example(lab)
        with lab.sites([OFFICE, "eu-central"]) as sites:
            provider = Agent(lab, sites["eu-central"], "eu-central")
            requester = Agent(lab, sites["office"], "office", [provider])
            with serving(provider), serving(requester):
                provider.run(space)
                requester.knows_records_of(provider)
                old = outputs(space)
                requester.json("sync", "--from", "eu-central")
                edit_example(space)
                provider.run(space)
                requester.knows_records_of(provider)
                new = outputs(space)
                before, started = sites.quiet(), time.monotonic()
                requester.json("sync", "--from", "eu-central")
                seconds = time.monotonic() - started
                traffic = Traffic.between(before, sites.counters(), "eu-central", "office")
        remove(space)
        everything = sum(new.values())
        changed = sum(size for content, size in new.items() if content not in old)
        if not changed:
            raise Failed("the edit changed no output")
        wire = traffic.bytes_down + traffic.bytes_up
        return {"wire_bytes": wire, "saved_percent": 100 * (1 - wire / everything),
                "saved_changed_percent": 100 * (1 - wire / changed), "seconds": seconds,
                "all_bytes": everything, "changed_bytes": changed}

    table.measure("netbuild sync", bench.runs, netbuild, "netbuild sync --from eu-central")
    part.at_least("bytes saved in %", table.value("netbuild sync", "saved_percent"), 75)
    return part
