"""What running the graph itself takes, without any cache to restore from."""

import json
import statistics

import rivals
from chapter import Chapter
from lab import Failed, remove
from recipes import ran
from tools import find

# A no-op is short, so it is repeated for each cold build.
NOOPS = 5


def local(bench):
    """The build on this machine alone: cold, and with nothing to do."""
    lab = bench.lab
    part = Chapter(bench, "local", f"{bench.workload.about}, on this machine alone", "no link")
    table = part.table("cold, and again with nothing to do", ["seconds", "noop_ms"])
    part.notes.append(f"netbuild without an agent; no-op: the median of {NOOPS} for each cold build")

    def noop(build):
        """Seconds of a build with nothing to do."""
        seconds = []
        for _ in range(NOOPS):
            took, executed = build()
            if executed:
                raise Failed(f"it ran {executed} tasks with nothing to do")
            seconds.append(took)
        return statistics.median(seconds)

    def measured(build):
        cold, executed = build()
        if executed != bench.workload.tasks:
            raise Failed(f"it ran {executed} tasks")
        return {"seconds": cold, "noop_ms": noop(build)}

    def netbuild(_):
        space, data_dir = bench.checkout(), lab.fresh("data")

        def build():
            figures = lab.run(lab.here, [lab.netbuild, "run", "-q", "--json", "-j", bench.jobs, "--data-dir", data_dir],
                              cwd=space)
            return figures.seconds, json.loads(figures.stdout)["executed"]
        row = measured(build)
        bench.same_outputs(bench.built, space, "netbuild")
        remove(space)
        remove(data_dir)
        return row

    def ninja(_):
        space = bench.checkout()
        argv = [find("ninja", rivals.PACKAGES["ninja"]), "--quiet", f"-j{bench.jobs}"]
        row = measured(lambda: (lab.run(lab.here, argv, cwd=space).seconds, ran(space)))
        bench.same_outputs(bench.built, space, "ninja")
        remove(space)
        return row

    def make(run):
        return {"seconds": bench.cold[run],
                "noop_ms": noop(lambda: (bench.make(lab.here, bench.built).seconds, ran(bench.built)))}

    def bazel(_):
        space = bench.checkout()
        bazel = rivals.Bazel(bench, lab.here)
        bazel.open(space)

        def build():
            figures = bazel.build()
            return figures.seconds, bazel.executed(figures)
        row = measured(build)
        bench.same_outputs(bench.built, bazel.outputs(), "bazel")
        bazel.close()
        remove(space)
        return row

    table.measure("netbuild", bench.runs, netbuild, "netbuild run")
    table.measure("ninja", bench.runs, ninja, "ninja")
    table.measure("make", bench.runs, make, "make")
    for tool, once in bench.compared(("Bazel", bazel)):
        table.measure(tool, bench.runs, once, "bazel build //...")
    part.draw("local", "cold build on this machine", table, "seconds")
    return part
