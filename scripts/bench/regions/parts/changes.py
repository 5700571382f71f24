"""What an edit of one line costs a region that has what was built before it."""

import os
import time

import rivals
from chapter import Chapter
from example import OUTPUTS, outputs
from lab import OFFICE, Failed, Traffic, remove
from netbuild import discard, took_from_mesh
from parts.restoring import restore
from recipes import ran

REGION, LINK = "eu-central", "150 ms, 25 Mbit/s"


def update(bench):
    """One line changed in a source: the build of the other region, taken over 150 ms, 25 Mbit/s."""
    lab = bench.lab
    part = Chapter(bench, "update", f"one changed line, built in {REGION}, then in a region that has the build before it", LINK)
    table = part.table("from the edit there until all is built here", ["seconds", "executed", "wire_bytes", "saved_percent"],
                       ratio="wire_bytes")
    note_saved(bench, part)

    with lab.sites([OFFICE, REGION]) as sites:
        def netbuild(_):
            def take(here, space):
                bench.workload.edit(space)
                summary, figures = here.run(space)
                took_from_mesh(summary)
                bench.same_outputs(bench.rebuilt, space, "netbuild")
                return figures.seconds, summary["executed"]
            return changed(bench, sites, take)

        def rival(kind):
            def once(_):
                tool = kind(bench, sites[REGION], sites["office"])
                tool.publish(bench.built)
                space = bench.checkout()
                restore(bench, sites, REGION, tool, space, bench.built)
                tool.publish(just_rebuilt(bench))
                bench.workload.edit(space)
                figures, executed, traffic = restore(bench, sites, REGION, tool, space, bench.rebuilt)
                tool.close()
                tool.stop()
                remove(space)
                return row(bench, figures.seconds, executed, traffic)
            return once

        def rebuild(_):
            space = lab.fresh("space")
            lab.run(lab.here, ["cp", "-a", bench.built, space])
            bench.workload.edit(space)
            ran(space)
            seconds = bench.make(lab.here, space).seconds
            executed = ran(space)
            remove(space)
            return {"seconds": seconds, "executed": executed, "wire_bytes": None, "saved_percent": None}

        table.measure("netbuild", bench.runs, netbuild, "netbuild run")
        table.measure("make, no cache", bench.long_runs, rebuild, "make -j")
        for tool, kind in bench.compared(("make + aws s3 sync", rivals.MakeAndBucket),
                                         ("make + tar.zst in S3", rivals.Tarball)):
            table.measure(tool, bench.runs, rival(kind))
    part.at_least("bytes saved, in %", table.value("netbuild", "saved_percent"), 97)
    part.draw("changes", "a changed line, to a region that has the build before it", table, "wire_bytes")
    return part


def sync(bench):
    """The same edit copied by `netbuild sync`, before anybody there builds."""
    lab = bench.lab
    part = Chapter(bench, "sync", f"one changed line, built in {REGION}, then copied to a region that has the build before it", LINK)
    table = part.table("netbuild sync, and aws s3 sync of the outputs", ["seconds", "wire_bytes", "saved_percent"],
                       ratio="wire_bytes")
    note_saved(bench, part)

    with lab.sites([OFFICE, REGION]) as sites:
        def netbuild(_):
            def take(here, space):
                started = time.monotonic()
                here.json("sync", "--from", REGION)
                seconds = time.monotonic() - started
                bench.workload.edit(space)
                summary, _ = here.run(space)
                took_from_mesh(summary)
                if summary["bytes_fetched"]:
                    raise Failed(f"the sync left {summary['bytes_fetched']} bytes to be fetched")
                bench.same_outputs(bench.rebuilt, space, "netbuild")
                return seconds, summary["executed"]
            return changed(bench, sites, take)

        def bucket(_):
            tool, copy = rivals.MakeAndBucket(bench, sites[REGION], sites["office"]), lab.directory("copy")
            tool.publish(bench.built)
            tool.copy(copy)
            tool.publish(just_rebuilt(bench))
            before = sites.counters()
            figures = tool.copy(copy)
            traffic = Traffic.between(before, sites.counters(), REGION, "office")
            if outputs(copy) != outputs(bench.rebuilt):
                raise Failed("the copy is not what was built")
            tool.stop()
            remove(copy)
            return row(bench, figures.seconds, 0, traffic)

        table.measure("netbuild sync", bench.runs, netbuild, f"netbuild sync --from {REGION}")
        for tool, once in bench.compared(("aws s3 sync", bucket)):
            table.measure(tool, bench.runs, once, "aws s3 sync s3://... out")
    part.at_least("bytes saved, in %", table.value("netbuild sync", "saved_percent"), 85)
    part.draw("changes", "the same, copied before it is needed", table, "wire_bytes")
    return part


def changed(bench, sites, take):
    """One edit: what `take` has an agent do that knows the build before it, and what passes on the link meanwhile.
    What agents say to each other while the other region builds is not of the update, and does not count."""
    there, space, theirs = bench.region(sites, REGION), bench.checkout(), bench.checkout()
    here = bench.office(sites, [there])
    for agent, workspace in ((there, theirs), (here, space)):
        took_from_mesh(agent.run(workspace)[0])
    bench.workload.edit(theirs)
    there.run(theirs)
    here.knows_records_of(there)
    before = sites.quiet()
    seconds, executed = take(here, space)
    traffic = Traffic.between(before, sites.counters(), REGION, "office")
    for agent in (here, there):
        discard(agent)
    for workspace in (space, theirs):
        remove(workspace)
    return row(bench, seconds, executed, traffic)


def just_rebuilt(bench):
    """The workspace after the edit, what was built anew as of now: `aws s3 sync` goes by times, too."""
    for path in (bench.rebuilt / OUTPUTS).rglob("*"):
        before = bench.built / path.relative_to(bench.rebuilt)
        if path.is_file() and (not before.exists() or before.stat().st_mtime_ns != path.stat().st_mtime_ns):
            os.utime(path)
    return bench.rebuilt


def row(bench, seconds, executed, traffic):
    wire, everything = traffic.bytes_down + traffic.bytes_up, sum(outputs(bench.rebuilt).values())
    return {"seconds": seconds, "executed": executed, "wire_bytes": wire,
            "saved_percent": 100 * (1 - wire / everything), "all_bytes": everything}


def note_saved(bench, part):
    new, old = outputs(bench.rebuilt), outputs(bench.built)
    altered = sum(size for content, size in new.items() if content not in old)
    if not altered:
        raise Failed("the edit changed no output")
    part.notes.append(
        f"bytes on the link, both ways, when the other region has built; saved: of the {sum(new.values()) / 1e6:.2f} MB of all outputs, "
        f"of which the edit changed {altered / 1e6:.2f} MB")
