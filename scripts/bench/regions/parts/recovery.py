"""What it costs a build when the region that it takes its results from goes away."""

import signal
import threading
import time
from pathlib import Path

import rivals
from chapter import Chapter
from lab import OFFICE, Failed, Traffic, remove
from netbuild import discard, took_from_mesh

LINKS = "50 ms, 100 Mbit/s to us-east and 100 ms, 50 Mbit/s to us-west"
# How often the bytes on the way are looked at.
LOOK_S = 0.001
# Which part of the bytes that the primary sends undisturbed has passed then. How the two regions share the work is not
# the same each time, so half of it would often not come.
PART = 1 / 4
# How often a run is made in which the other region sends so much that the primary does not come to that part.
TRIES = 5


class TooSoon(Failed):
    """A build was over before the primary had sent enough."""


def recovery(bench):
    """The primary is killed, or cut off, in mid-transfer; another region has all of it, too."""
    lab = bench.lab
    part = Chapter(bench, "recovery", f"{bench.workload.about}, from two regions that have it; the nearer one goes away", LINKS)
    table = part.table("clean checkout until all is built", ["seconds", "lost_s", "executed"])
    part.notes.append("lost: beyond the median of the runs that nothing disturbed")

    with lab.sites([OFFICE, "us-east", "us-west"]) as sites:
        def build(disturb):
            """A build in the office; `disturb` gets the primary in mid-transfer."""
            east = bench.region(sites, "us-east")
            west = bench.region(sites, "us-west", [east], empty=True)
            space = bench.checkout()
            took_from_mesh(west.run(space)[0])
            remove(space)
            space = bench.checkout()
            here = bench.office(sites, [east, west])
            before = sites.quiet()
            with Watcher(east.server.pid, part_of_it(), lambda: disturb(east)) if disturb else Nothing() as watcher:
                summary, figures = here.run(space)
            took_from_mesh(summary)
            bench.same_outputs(bench.built, space, "netbuild")
            traffic = Traffic.between(before, sites.counters(), "us-east", "office")
            lab.run(lab.here, [*sites.wan, "set", "--name", sites.name, "office:us-east", "--reset"])
            for agent in (here, west, east):
                discard(agent)
            remove(space)
            if disturb and not watcher.done:
                raise TooSoon("the build was over before the primary had sent enough")
            undisturbed = table.value("netbuild, undisturbed", "seconds")
            return {"seconds": figures.seconds, "executed": summary["executed"], "sent": traffic.bytes_down,
                    "lost_s": figures.seconds - undisturbed if undisturbed else None}

        def disturbed(disturb):
            for _ in range(TRIES - 1):
                try:
                    return build(disturb)
                except TooSoon as error:
                    part.notes.append(f"one run more, as in another {error}")
            return build(disturb)

        def part_of_it():
            sent = table.value("netbuild, undisturbed", "sent")
            if not sent:
                raise Failed("the build to compare with failed")
            return sent * PART

        def cut(_):
            lab.run(lab.here, [*sites.wan, "set", "--name", sites.name, "office:us-east", "--profile", "cut"])

        table.measure("netbuild, undisturbed", bench.runs, lambda _: build(None), "netbuild run")
        table.measure("netbuild, primary killed", bench.runs,
                      lambda _: disturbed(lambda east: east.server.process.send_signal(signal.SIGKILL)), "kill -9 AGENT")
        table.measure("netbuild, primary cut off", bench.runs, lambda _: disturbed(cut), "netbuild wan set --profile cut")

        def bucket(killed):
            def once(_):
                tool, space = rivals.MakeAndBucket(bench, sites["us-east"], sites["office"]), bench.checkout()
                tool.publish(bench.built)
                tool.open(space)
                whole = sum(path.stat().st_size for path in (bench.built / "out").rglob("*") if path.is_file())
                kill = lambda: tool.bucket.server.process.send_signal(signal.SIGKILL)
                with Watcher(tool.bucket.server.pid, whole * PART, kill) if killed else Nothing():
                    figures = tool.build(space, check=not killed)
                bench.same_outputs(bench.built, space, "make")
                undisturbed = table.value("make + aws s3 sync, undisturbed", "seconds")
                executed = tool.executed(space, figures)
                tool.stop()
                remove(space)
                return {"seconds": figures.seconds, "executed": executed,
                        "lost_s": figures.seconds - undisturbed if undisturbed else None}
            return once

        for tool, once in bench.compared(("make + aws s3 sync, undisturbed", bucket(killed=False)),
                                         ("make + aws s3 sync, S3 killed", bucket(killed=True))):
            table.measure(tool, bench.runs, once, "aws s3 sync s3://... out; make")
    part.at_most("primary killed: seconds lost", table.value("netbuild, primary killed", "lost_s"), 1)
    part.at_most("primary cut off: seconds lost", table.value("netbuild, primary cut off", "lost_s"), 1)
    part.draw("recovery", "clean checkout until all is built", table, "seconds")
    return part


class Watcher:
    """Does something once a process's namespace has sent so many bytes more than when this began."""

    def __init__(self, pid, after, action):
        self.file, self.after, self.action = Path(f"/proc/{pid}/net/dev"), after, action
        self.done = False
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _sent(self):
        """Bytes sent on all interfaces but the loopback, as the kernel counts them."""
        lines = [line.split(":") for line in self.file.read_text().splitlines() if ":" in line]
        return sum(int(fields.split()[8]) for name, fields in lines if name.strip() != "lo")

    def _watch(self):
        try:
            until = self._sent() + self.after
            while not self.stop.is_set():
                if self._sent() >= until:
                    self.action()
                    self.done = True
                    return
                time.sleep(LOOK_S)
        except OSError:
            # The process has gone by itself, which whoever waits for it says.
            return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


class Nothing:
    """Watches nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass
