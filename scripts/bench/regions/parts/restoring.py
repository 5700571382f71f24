"""How other tools are measured: what they published in one region makes a workspace in another complete."""

from lab import Traffic, remove
from rivals import Sccache


def measure_rival(bench, sites, region, table, tool, kind, row):
    """Adds a row of a tool that restores a clean checkout from a far region."""
    running = []

    def once(_):
        if not running:
            running.append(kind(bench, sites[region], sites["office"]))
            running[0].publish(bench.built)
        space = bench.checkout()
        figures, executed, traffic = restore(bench, sites, region, running[0], space, bench.built)
        running[0].close()
        remove(space)
        return row(figures.seconds, executed, traffic)

    table.measure(tool, bench.long_runs if kind is Sccache else bench.runs, once, kind.__doc__.splitlines()[0] if kind.__doc__ else "")
    for started in running:
        started.stop()


def restore(bench, sites, region, tool, space, expected):
    """Has a tool make a workspace complete: what it took, what it ran, what passed on the link."""
    tool.open(space)
    before = sites.counters()
    figures = tool.build(space)
    traffic = Traffic.between(before, sites.counters(), region, "office")
    executed = tool.executed(space, figures)
    tool.check(space, expected)
    return figures, executed, traffic
