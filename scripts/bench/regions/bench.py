"""What all parts need: workspaces, what was built before, agents that have it."""

import shutil
from functools import cached_property

import recipes
import rivals
from example import OUTPUTS, outputs
from lab import Failed, Unavailable
from netbuild import Agent
from tools import find

# What builds leave in a workspace.
LEFT = (OUTPUTS, ".netbuild", recipes.RAN, ".restored", ".ninja_log", "bazel-*")


class Bench:
    """One run of the benchmark."""

    def __init__(self, lab, workload, runs, jobs, fast):
        self.lab, self.workload, self.runs, self.jobs = lab, workload, runs, jobs
        # What takes a whole build each time and is no target is measured once.
        self.long_runs = 1
        # Something tiny is beside make and ninja only, and says nothing about targets.
        self.compare = self.judged = not fast

    def checkout(self, edited=False):
        """A fresh workspace, with the same build for all tools."""
        space = self.workload.checkout(self.lab)
        found = recipes.recipes(self.lab, space)
        if len(found) != self.workload.tasks:
            raise Failed(f"there are {len(found)} tasks and not {self.workload.tasks}")
        recipes.write_scripts(space, found)
        recipes.write_makefile(space, found)
        recipes.write_ninja(space, found)
        recipes.write_bazel(space, found)
        if edited:
            self.workload.edit(space)
        return space

    def checkout_like(self, space):
        """A fresh workspace with the sources of another."""
        copy = self.lab.fresh("space")
        shutil.copytree(space, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT))
        return copy

    def make(self, site, space):
        """Runs make without any cache."""
        return self.lab.run(site, [find("make", rivals.PACKAGES["make"]), "-s", f"-j{self.jobs}"], cwd=space)

    @cached_property
    def cold(self):
        """Seconds of cold builds by make, without any cache."""
        seconds = []
        for number in range(self.runs):
            space = self.checkout()
            seconds.append(self.make(self.lab.here, space).seconds)
            if recipes.ran(space) != self.workload.tasks:
                raise Failed("make did not run every task")
            if number == 0:
                self.first = space
            else:
                shutil.rmtree(space)
        return seconds

    @cached_property
    def built(self):
        """A workspace that make has built."""
        return self.first if self.cold else None

    @cached_property
    def rebuilt(self):
        """The same after the edit, with the times that files have then."""
        space = self.lab.fresh("space")
        shutil.copytree(self.built, space, symlinks=True)
        self.workload.edit(space)
        self.make(self.lab.here, space)
        return space

    @cached_property
    def kept(self):
        """A data directory in which netbuild has the results of the build."""
        data_dir, space = self.lab.fresh("kept.data"), self.checkout()
        self.lab.run(self.lab.here, [self.lab.netbuild, "run", "-q", "-j", self.jobs, "--data-dir", data_dir], cwd=space)
        self.same_outputs(self.built, space, "netbuild")
        shutil.rmtree(space)
        return data_dir

    def region(self, sites, region, join=(), empty=False):
        """An agent of a region that has the results of the build, or nothing."""
        if empty:
            return Agent(self.lab, sites[region], region, join)
        data_dir = self.lab.fresh(f"{region}.data")
        shutil.copytree(self.kept, data_dir)
        return Agent(self.lab, sites[region], region, join, data_dir=data_dir)

    def office(self, sites, regions):
        """An agent without results that knows all records of regions."""
        agent = Agent(self.lab, sites["office"], "office", regions)
        for region in regions:
            agent.knows_records_of(region)
        return agent

    @staticmethod
    def same_outputs(one, other, tool):
        """Figures count only when the outputs are right."""
        if outputs(one) != outputs(other):
            raise Failed(f"{tool}: the outputs are not those of make")

    def compared(self, *tools):
        """The rivals that this run measures; `tools` are names and classes."""
        return [(name, tool if self.compare else left_out) for name, tool in tools]


def left_out(*_):
    raise Unavailable("--fast leaves it out")
