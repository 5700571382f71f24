"""New versions of what is held already, beside other tools that send differences."""

import json
import shutil

import rivals
from lab import MIB, OFFICE, Failed, remove, same, serving
from netbuild import Agent, took_from_mesh
from parts.common import PAIRS, checked, each_to, over_link, pair_of, timed
from report import Part


def update(bench):
    """New versions of files whose old version is held by both sides."""
    lab = bench.lab
    part = Part(lab, "update", "a new version where the old one is held, over 150 ms, 25 Mbit/s")
    part.notes.append("bytes on the wire: IP packets in both directions; wire %: of the size of the new file")
    with lab.sites([OFFICE, "eu-central"]) as sites:
        for name, (about, bound) in PAIRS.items():
            pair = pair_of(bench, name)
            if not pair:
                table = part.table(about, ["wire_bytes"], ratio="wire_bytes")
                table.missing("all", f"no {name}.old and {name}.new: scripts/bench/pairs.sh DIR, then --pairs DIR")
                continue
            one_update(bench, part, sites, about, bound, *pair)
    return part


def one_update(bench, part, sites, about, bound, old, new):
    lab, size = bench.lab, new.stat().st_size
    title = f"{about}: {size / MIB:.1f} MiB"
    table = part.table(title, ["wire_bytes", "wire_percent", "seconds", "cpu_provider_s", "cpu_requester_s"],
                       ratio="wire_bytes")
    office, there = sites["office"], sites["eu-central"]

    def measured(server, get):
        took = over_link(sites, there, office, server, get)
        return {**took, "wire_percent": 100 * took["wire_bytes"] / size}

    def netbuild(_):
        provider = Agent(lab, there, there.name)
        requester = Agent(lab, office, "office", [provider])
        with serving(provider), serving(requester):
            # The same task on both sides, as builds of two commits are: what it makes is taken from the mesh.
            spaces = [versions(lab, old, new) for _ in range(2)]
            for version in ("old", "new"):
                for space in spaces:
                    (space / "version").write_text(version)
                if version == "new":
                    remove(spaces[0] / "out")
                provider.run(spaces[0])
                requester.knows_records_of(provider)
                if version == "old":
                    took_from_mesh(requester.run(spaces[1])[0])
            cpu_before = requester.cpu_s()

            def get():
                summary, figures = requester.run(spaces[1])
                took_from_mesh(summary)
                return figures.seconds, requester.cpu_s() - cpu_before + figures.cpu_s

            took = measured(provider.server, get)
            if not same(new, spaces[1] / "out" / "artifact"):
                raise Failed("netbuild: what came is not what was sent")
        for leftover in (provider.data_dir, requester.data_dir, *spaces):
            remove(leftover)
        return took

    def http(make, tool):
        def once(_):
            out = lab.directory("got") / new.name
            with serving(make()) as server:
                took = measured(server.nginx.server, timed(lambda: server.get(office, old, out)))
            checked(new, out, tool)
            remove(out.parent)
            return took
        return once

    def rsync(_):
        out = lab.fresh("got")
        shutil.copyfile(old, out)
        with serving(rivals.Rsync(lab, there, new.parent)) as server:
            took = measured(server.server, timed(
                # Whole seconds of its time stamps would make it skip a file of the same length.
                lambda: server.get(office, new.name, out, "-z", "--ignore-times", "--no-whole-file")))
        checked(new, out, "rsync")
        return took

    each_to(table, [
        ("netbuild", "netbuild run, the old output held", netbuild),
        ("rsync -z", "rsync -z --no-whole-file rsync://...", rsync),
        ("zsync", "zsync -i OLD http://...", http(lambda: rivals.Zsync(lab, there, new), "zsync")),
        ("casync", "casync extract --seed=OLD http://...", http(lambda: rivals.Casync(lab, there, new), "casync")),
    ], 1)
    if bound:
        part.at_most(f"{about}: bytes on the wire in %", table.value("netbuild", "wire_percent"), bound)
    for rival in ("rsync -z", "zsync", "casync"):
        part.at_most(f"{about}: bytes over those of {rival}", table.over("netbuild", rival, "wire_bytes"), 1)


def versions(lab, old, new):
    """A workspace whose one task gives the file that `version` names."""
    space = lab.directory("space")
    graph = {"version": "1", "tasks": {"artifact": {
        "command": f'mkdir -p out && if [ "$(cat version)" = old ]; then cp {old} out/artifact; '
                   f"else cp {new} out/artifact; fi",
        "inputs": ["version"], "outputs": ["out/artifact"],
    }}, "default": "artifact"}
    (space / "graph.json").write_text(json.dumps(graph))
    return space
