"""What a build takes in a region that has built nothing, when another has built all of it."""

import rivals
from chapter import Chapter
from lab import OFFICE, Failed, Traffic, remove
from netbuild import discard, took_from_mesh
from parts.restoring import measure_rival

# What copies outputs, and what knows commands as well.
OF_BYTES = [("make + aws s3 sync", rivals.MakeAndBucket), ("make + tar.zst in S3", rivals.Tarball)]
OF_COMMANDS = [*OF_BYTES, ("Bazel + HTTP cache", rivals.BazelAndHttp)]
# sccache is as far from its target on each link: what it does not keep is most of the build.
ALL = [*OF_COMMANDS, ("make + sccache on S3", rivals.Sccache)]


def near(bench):
    """The build of another region, restored over 50 ms, 100 Mbit/s."""
    part, table = restored(bench, "near", "us-east", "50 ms, 100 Mbit/s", ALL)
    part.at_most("warm build / cold build", table.value("netbuild", "of_cold"), 0.08)
    return part


def far(bench):
    """The same over 150 ms, 25 Mbit/s."""
    part, table = restored(bench, "far", "eu-central", "150 ms, 25 Mbit/s", OF_COMMANDS)
    part.at_most("warm build / cold build", table.value("netbuild", "of_cold"), 0.15)
    time_saved(part, table)
    return part


def low(bench):
    """The same over 80 ms, 10 Mbit/s, beside those that only the link limits."""
    part, table = restored(bench, "low", "branch", "80 ms, 10 Mbit/s", OF_BYTES)
    time_saved(part, table)
    return part


def restored(bench, name, region, link, others):
    """A table of cold builds, and of builds that take everything from a region at the end of a link."""
    lab = bench.lab
    part = Chapter(bench, name, f"{bench.workload.about}, built in {region}, then in another region at {link}", link)
    table = part.table("clean checkout until all is built", ["seconds", "of_cold", "executed", "wire_bytes"])

    def row(seconds, executed, traffic=None):
        wire = traffic.bytes_down + traffic.bytes_up if traffic else None
        return {"seconds": seconds, "of_cold": seconds / reference, "executed": executed, "wire_bytes": wire}

    with lab.sites([OFFICE, region]) as sites:
        cold = bench.cold
        reference = sorted(cold)[len(cold) // 2]
        table.measure("make, no cache", len(cold), lambda run: row(cold[run], bench.workload.tasks), "make -j")

        def netbuild(empty):
            """A build beside a new agent that knows a region; with the region empty, everything is built."""
            there, space = bench.region(sites, region, empty=empty), bench.checkout()
            here = bench.office(sites, [there])
            before = sites.quiet()
            summary, figures = here.run(space)
            traffic = Traffic.between(before, sites.counters(), region, "office")
            if empty and summary["executed"] != bench.workload.tasks:
                raise Failed(f"netbuild ran {summary['executed']} tasks of a build that nobody had")
            if not empty:
                took_from_mesh(summary)
            bench.same_outputs(bench.built, space, "netbuild")
            for agent in (here, there):
                discard(agent)
            remove(space)
            return row(figures.seconds, summary["executed"], traffic)

        if others is ALL:
            table.measure("netbuild, built nowhere yet", bench.long_runs, lambda _: netbuild(empty=True), "netbuild run")
        table.measure("netbuild", bench.runs, lambda _: netbuild(empty=False), "netbuild run")
        for tool, kind in bench.compared(*others):
            measure_rival(bench, sites, region, table, tool, kind, row)
    part.draw("builds", f"{link}: clean checkout until all is built", table, "seconds")
    return part, table


def time_saved(part, table):
    """Below 50 Mbit/s, where the target is about time."""
    ours = table.value("netbuild", "seconds")
    for tool in ("make, no cache", "make + aws s3 sync"):
        theirs = table.value(tool, "seconds")
        saved = 100 * (1 - ours / theirs) if ours and theirs else None
        part.at_least(f"time saved against {tool}, in %", saved, 70)
