"""Two holders at once."""

from lab import MIB, OFFICE, Traffic, remove
from netbuild import Agent, discard
from parts.common import checked, each_to
from report import Part

# What both links carry together, in bits per second.
SUM = 75e6


def sources(bench):
    """A blob that two regions hold, from both at once."""
    lab, size = bench.lab, bench.size(100 * MIB)
    part = Part(lab, "sources", f"{size // MIB} MiB held by two regions: 100 ms, 50 Mbit/s and 150 ms, 25 Mbit/s")
    table = part.table("percent of both links together, 75 Mbit/s", ["seconds", "link_percent", "mbit_s", "wire_bytes"])
    blob = lab.blob(size)
    with lab.sites([OFFICE, "us-west", "eu-central"]) as sites:
        def from_(*regions):
            def once(_):
                # Agents tell each other of all others, so whoever is not to be asked must not be there.
                holders, out = [], lab.fresh("got")
                for region in regions:
                    holders.append(Agent(lab, sites[region], region, holders))
                    digest = holders[-1].put(blob)
                requester = Agent(lab, sites["office"], "office", holders)
                before = sites.quiet()
                seconds = requester.get(digest, out).stored_s
                after = sites.counters()
                for agent in (requester, *holders):
                    discard(agent)
                checked(blob, out, "netbuild")
                down = {region: Traffic.between(before, after, region, "office").bytes_down for region in regions}
                return {"seconds": seconds, "link_percent": 100 * size * 8 / seconds / SUM,
                        "mbit_s": size * 8 / seconds / 1e6, "wire_bytes": sum(down.values()), "down_bytes": down}
            return once

        each_to(table, [
            ("netbuild", "netbuild get DIGEST, held by both", from_("us-west", "eu-central")),
            ("netbuild, the faster only", "the same, held by us-west only", from_("us-west")),
            ("netbuild, the slower only", "the same, held by eu-central only", from_("eu-central")),
        ], bench.runs)
    remove(blob)
    part.at_least("% of the sum", table.value("netbuild", "link_percent"), 92)
    return part
