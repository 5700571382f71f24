"""Tables with ratios and targets, for people and as JSON."""

import json
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from lab import GIB, MIB, Failed, Unavailable

# How figures are called and shown: heading, unit divided by, digits after the point.
COLUMNS = {
    "seconds": ("s", 1, 2),
    "of_cold": ("x cold", 1, 3),
    "time_saved_percent": ("time saved %", 1, 1),
    "lost_s": ("s lost", 1, 2),
    "noop_ms": ("no-op ms", 1e-3, 0),
    "executed": ("steps run", 1, 0),
    "mib_s": ("MiB/s", 1, 0),
    "mbit_s": ("Mbit/s", 1, 1),
    "share_percent": ("% of both", 1, 1),
    "link_percent": ("% of link", 1, 1),
    "cpu_s": ("CPU s", 1, 2),
    "cpu_provider_s": ("CPU s out", 1, 2),
    "cpu_requester_s": ("CPU s in", 1, 2),
    "cpu_per_gib": ("CPU s/GiB", 1, 2),
    "rss_provider": ("MiB out", MIB, 0),
    "rss_requester": ("MiB in", MIB, 0),
    "wire_bytes": ("MiB on wire", MIB, 2),
    "wire_percent": ("wire %", 1, 2),
    "saved_percent": ("saved %", 1, 1),
    "saved_changed_percent": ("saved % of changed", 1, 1),
    "queue_drops_percent": ("queue drops %", 1, 2),
    "lost_percent": ("link loss %", 1, 2),
    "twice_percent": ("twice %", 1, 2),
}


@dataclass
class Row:
    """What one tool took: the medians of its runs, or why it has none."""

    tool: str
    command: str = ""
    # What was run for it, without paths and doubles.
    commands: list = field(default_factory=list)
    runs: list = field(default_factory=list)
    missing: str = ""

    def value(self, figure):
        values = [run[figure] for run in self.runs if run.get(figure) is not None]
        return statistics.median(values) if values else None


@dataclass
class Target:
    """What is to be reached; `value` is nothing when it could not be measured."""

    what: str
    value: float | None
    bound: float
    at_least: bool

    def met(self):
        if self.value is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def to_text(self):
        wanted = f"{'at least' if self.at_least else 'at most'} {self.bound:g}"
        if self.value is None:
            return f"  not measured  {self.what}: {wanted}"
        return f"  {'met   ' if self.met() else 'MISSED'}  {self.what}: {self.value:.3g}, {wanted}"


class Table:
    """Tools beside each other in one task: netbuild first, the ratio of each to it last."""

    def __init__(self, lab, title, columns, ratio="seconds"):
        self.lab = lab
        self.title = title
        self.columns = columns
        self.ratio = ratio
        self.rows = []

    def measure(self, tool, runs, once, command=""):
        """Adds a row of what `once(number of the run)` measures; a tool that cannot run says why."""
        row = Row(tool, command)
        self.rows.append(row)
        servers = list(self.lab.servers)
        self.lab.commands.clear()
        try:
            for number in range(runs):
                row.runs.append(once(number))
        except (Unavailable, Failed, OSError, ValueError, LookupError) as error:
            # A median of fewer runs than asked for would hide that the tool does not always work.
            row.runs, row.missing = [], " ".join(f"{type(error).__name__}: {error}".split())
            row.missing = row.missing.removeprefix("Unavailable: ").removeprefix("Failed: ")
            # What it left running is not to disturb the next.
            for server in [server for server in self.lab.servers if server not in servers]:
                self.lab.stop(server)
        row.commands = list(self.lab.commands)
        print(f"    {tool}: {row.missing or ', '.join(self._short(run) for run in row.runs)}", flush=True)
        return row

    def missing(self, tool, reason):
        self.rows.append(Row(tool, missing=" ".join(str(reason).split())))

    def _short(self, run):
        return " ".join(f"{self._cell(name, run.get(name))} {COLUMNS[name][0]}" for name in self.columns[:2])

    def row(self, tool):
        return next((row for row in self.rows if row.tool == tool), None)

    def value(self, tool, figure):
        row = self.row(tool)
        return row.value(figure) if row else None

    def over(self, tool, other, figure):
        """The figure of one tool over that of the other, if both are known."""
        one, two = self.value(tool, figure), self.value(other, figure)
        return one / two if one is not None and two else None

    @staticmethod
    def _cell(name, value):
        _, unit, digits = COLUMNS[name]
        return "-" if value is None else f"{value / unit:.{digits}f}"

    def to_text(self):
        ours = self.rows[0].value(self.ratio) if self.rows else None
        lines = [["", *(COLUMNS[name][0] for name in self.columns), f"x {COLUMNS[self.ratio][0]}"]]
        reasons = {}
        for row in self.rows:
            if row.missing:
                reasons.setdefault(row.missing, []).append(row.tool)
                continue
            theirs = row.value(self.ratio)
            ratio = f"{theirs / ours:.2f}" if ours and theirs is not None else "-"
            lines.append([row.tool, *(self._cell(name, row.value(name)) for name in self.columns), ratio])
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        text = [f"  {self.title}"]
        for line in lines if len(lines) > 1 else []:
            cells = [line[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]
            text.append("    " + "  ".join(cells))
        text += [f"    {', '.join(tools)}: not run: {reason}" for reason, tools in reasons.items()]
        return "\n".join(text)

    def to_json(self):
        return {
            "title": self.title,
            "columns": self.columns,
            "rows": [
                {"tool": row.tool, "command": row.command, "commands": row.commands,
                 "not_run": row.missing or None, "runs": row.runs,
                 "median": {name: row.value(name) for name in row.runs[0]} if row.runs else None}
                for row in self.rows
            ],
        }


class Part:
    """One part of the benchmark: its tables and its targets."""

    def __init__(self, lab, name, about):
        self.lab = lab
        self.name = name
        self.about = about
        self.tables = []
        self.targets = []
        self.notes = []
        print(f"  {name}: {about}", flush=True)

    def table(self, *arguments, **options):
        self.tables.append(Table(self.lab, *arguments, **options))
        print(f"   {self.tables[-1].title}", flush=True)
        return self.tables[-1]

    def at_least(self, what, value, bound):
        self.targets.append(Target(what, value, bound, True))

    def at_most(self, what, value, bound):
        self.targets.append(Target(what, value, bound, False))

    def to_text(self):
        parts = [f"{self.name}: {self.about}", *(table.to_text() for table in self.tables)]
        parts += [f"  {note}" for note in self.notes]
        return "\n".join(parts + [target.to_text() for target in self.targets])

    def to_json(self):
        return {
            "about": self.about,
            "tables": [table.to_json() for table in self.tables],
            "notes": self.notes,
            "targets": [
                {"what": target.what, "value": target.value, "bound": target.bound,
                 "at_least": target.at_least, "met": target.met()} for target in self.targets
            ],
        }


def part(parts, name, bench):
    """Measures one of the parts; what it cannot measure is in its report."""
    try:
        return parts[name](bench)
    except (Unavailable, Failed, OSError) as error:
        failed = Part(bench.lab, name, parts[name].__doc__)
        failed.notes.append(f"not run: {' '.join(str(error).split())}")
        return failed


def machine():
    """What the figures were measured on."""
    def read(path, default=""):
        try:
            return Path(path).read_text().strip()
        except OSError:
            return default

    lines = read("/proc/cpuinfo").splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    memory = int(read("/proc/meminfo", "MemTotal: 0 kB").split()[1]) * 1024
    return {
        "cpu": models[0] if models else platform.machine(),
        "processors": len(models),
        "memory_gib": round(memory / GIB, 1),
        "kernel": platform.release(),
        "tcp_congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "udp_receive_buffer_max": int(read("/proc/sys/net/core/rmem_max", "0")),
        "load_at_start": float(read("/proc/loadavg", "0").split()[0]),
    }


def write_json(path, value):
    Path(path).write_text(json.dumps(value, indent=1) + "\n")
