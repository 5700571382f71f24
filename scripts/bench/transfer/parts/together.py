"""Results that are alike, to a region that has none of them."""

import json
import shutil

from lab import MIB, OFFICE, Failed, remove, same, serving
from netbuild import Agent, took_from_mesh
from parts.common import each_to, over_link, timed
from report import Part
from rivals import Nginx, Rsync
from tools import find

# Links by the profile of their far end, and most seconds against those of each result by itself.
LINKS = {
    "branch": ("80 ms, 10 Mbit/s", 0.9), "eu-central": ("150 ms, 25 Mbit/s", 0.9), "us-west": ("100 ms, 50 Mbit/s", 0.9),
    "us-east": ("50 ms, 100 Mbit/s", 1.05),
}


def together(bench):
    """Two programs of one workspace, to a region that has neither."""
    lab = bench.lab
    programs = {}
    for name, program in (("one", lab.netbuild), ("two", lab.netbuild.with_name("netbuild-agent"))):
        programs[name] = lab.fresh(name)
        programs[name].write_bytes(program.read_bytes()[:bench.size(program.stat().st_size)])
    size = sum(program.stat().st_size for program in programs.values())
    part = Part(lab, "together", f"two programs of one workspace, {size / MIB:.0f} MiB, to a region that has neither")
    part.notes.append("the programs are netbuild and netbuild-agent as they are measured here; bytes on the wire: IP "
                      "packets in both directions; the tarball was made and packed before")
    for profile, (link, bound) in LINKS.items():
        with lab.sites([OFFICE, profile]) as sites:
            table = part.table(link, ["wire_bytes", "seconds", "cpu_provider_s", "cpu_requester_s"], ratio="seconds")
            office, there = sites["office"], sites[profile]
            each_to(table, [
                ("netbuild", "netbuild run --prefer-cache", restored(bench, sites, there, office, programs, "")),
                ("each by itself", "mesh.toml: [transfer] delta = false",
                 restored(bench, sites, there, office, programs, "[transfer]\ndelta = false\n")),
                ("tarball", "curl | zstd -d | tar, packed by zstd -9 --long=27",
                 unpacked(bench, sites, there, office, programs)),
                ("rsync -z", "rsync -a -z", copied(bench, sites, there, office, programs)),
            ], bench.runs)
            part.at_most(f"{link}: seconds against each by itself",
                         table.over("netbuild", "each by itself", "seconds"), bound)
    return part


def check(directory, programs, tool):
    for name, program in programs.items():
        if not same(program, directory / name):
            raise Failed(f"{tool}: what came is not what was sent")


def workspace(lab, programs):
    """A graph whose tasks make these programs."""
    space = lab.directory("space")
    tasks = {"all": {"deps": list(programs)}}
    for name, program in programs.items():
        (space / f"{name}.in").write_text(str(program))
        tasks[name] = {"command": f"mkdir -p out && cp {program} out/{name}", "inputs": [f"{name}.in"],
                       "outputs": [f"out/{name}"]}
    (space / "graph.json").write_text(json.dumps({"version": "1", "default": "all", "tasks": tasks}))
    return space


def restored(bench, sites, there, office, programs, config):
    lab = bench.lab

    def once(_):
        spaces = [workspace(lab, programs) for _ in range(2)]
        provider = Agent(lab, there, there.name, config=config)
        requester = Agent(lab, office, "office", [provider], config=config)
        with serving(provider), serving(requester):
            provider.run(spaces[0])
            requester.knows_records_of(provider)
            cpu = requester.cpu_s()

            def get():
                summary, figures = requester.run(spaces[1], "--prefer-cache")
                took_from_mesh(summary)
                return figures.seconds, requester.cpu_s() - cpu + figures.cpu_s

            took = over_link(sites, there, office, provider.server, get)
            check(spaces[1] / "out", programs, "netbuild")
        for leftover in (provider.data_dir, requester.data_dir, *spaces):
            remove(leftover)
        return took
    return once


def copies(lab, programs):
    """A directory with these programs."""
    directory = lab.directory("files")
    for name, program in programs.items():
        shutil.copyfile(program, directory / name)
    return directory


def unpacked(bench, sites, there, office, programs):
    lab = bench.lab

    def once(_):
        pack, files = find("zstd", "zstd"), copies(lab, programs)
        archive, out = lab.fresh("programs.tar.zst"), lab.directory("out")
        packing = f"tar -c -C {files} {' '.join(programs)} | {pack} -q -9 --long=27 -o {archive}"
        lab.run(lab.here, ["sh", "-c", packing])
        with serving(Nginx(lab, there)) as server:
            fetching = f"{server.curl} -sSf {server.url(archive)} | {pack} -q -d --long=27 | tar -x -C {out}"
            get = timed(lambda: lab.run(office, ["sh", "-c", fetching]))
            took = over_link(sites, there, office, server.server, get)
        check(out, programs, "tarball")
        for leftover in (files, archive, out):
            remove(leftover)
        return took
    return once


def copied(bench, sites, there, office, programs):
    lab = bench.lab

    def once(_):
        files, out = copies(lab, programs), lab.directory("out")
        with serving(Rsync(lab, there, files)) as server:
            get = timed(lambda: server.get(office, "", f"{out}/", "-a", "-z"))
            took = over_link(sites, there, office, server.server, get)
        check(out, programs, "rsync")
        for leftover in (files, out):
            remove(leftover)
        return took
    return once
