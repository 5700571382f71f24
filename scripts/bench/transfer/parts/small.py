"""Very many small files."""

import json
import random

import rivals
from lab import OFFICE, Failed, Traffic, remove, serving
from netbuild import Agent, took_from_mesh
from parts.common import each_to
from report import Part

SMALL_BYTES = 2048
STORED = "netbuild, blobs stored"


def noise(number):
    """Bytes that are different in each file, and that nothing compresses."""
    return random.Random(number).randbytes(SMALL_BYTES)


def text(number):
    """Hexadecimal digits, different in each file: any good codec halves them, and none can do more."""
    return random.Random(number).randbytes(SMALL_BYTES // 2).hex().encode()


# At 50 Mbit/s, the only rate that an emulated link of 100 ms has, noise takes 3.5 s whoever sends it.
KINDS = [("text that compresses to half", text), ("noise that nothing compresses", noise)]


def small(bench):
    """Very many small files, which cost a round trip each if they are asked for one by one."""
    lab, count = bench.lab, max(100, int(10_000 * bench.scale))
    part = Part(lab, "small", f"a directory of {count} files of 2 KiB, over 100 ms, 50 Mbit/s")
    part.notes.append("blobs stored: until the agent has them all, as it says; the run then writes the files")
    part.notes.append("the target is for the text: noise takes 3.5 s at 50 Mbit/s, whoever sends it")
    with lab.sites([OFFICE, "us-west"]) as sites:
        for about, content in KINDS:
            files = lab.directory("small")
            for number in range(count):
                (files / f"{number:05}").write_bytes(content(number))
            table = one_kind(bench, part, sites, about, files)
            remove(files)
            if content is text:
                part.at_most(f"{about}: seconds until all blobs are stored", table.value(STORED, "seconds"), 3)
    return part


def one_kind(bench, part, sites, about, files):
    lab = bench.lab
    table = part.table(f"{about}, until all files are in the workspace", ["seconds", "wire_bytes", "cpu_requester_s"])
    there, office = sites["us-west"], sites["office"]
    transfers = []

    def over_link(get):
        before = sites.quiet()
        seconds, cpu_s = get()
        traffic = Traffic.between(before, sites.counters(), there.name, office.name)
        return {"seconds": seconds, "cpu_requester_s": cpu_s, "wire_bytes": traffic.bytes_down + traffic.bytes_up}

    def netbuild(_):
        provider = Agent(lab, there, there.name)
        requester = Agent(lab, office, "office", [provider])
        with serving(provider), serving(requester):
            spaces = [directory_task(lab, files) for _ in range(2)]
            provider.run(spaces[0])
            requester.knows_records_of(provider)
            cpu_before = requester.cpu_s()

            def get():
                summary, figures = requester.run(spaces[1])
                took_from_mesh(summary)
                return figures.seconds, requester.cpu_s() - cpu_before + figures.cpu_s

            took = over_link(get)
            check_directory(files, spaces[1] / "out", "netbuild")
            transfers.append({**took, "seconds": requester.fetched_in()})
        for leftover in (provider.data_dir, requester.data_dir, *spaces):
            remove(leftover)
        return took

    def rsync(_):
        out = lab.fresh("got")
        with serving(rivals.Rsync(lab, there, files.parent)) as server:
            took = over_link(lambda: timed(server.get(office, f"{files.name}/", out, "-rz")))
        check_directory(files, out, "rsync")
        remove(out)
        return took

    def curl(_):
        out, urls = lab.directory("got"), lab.fresh("urls")
        with serving(rivals.Nginx(lab, there, "bbr")) as nginx:
            base = nginx.url(files)
            urls.write_text("".join(f'url="{base}/{file.name}"\noutput="{out}/{file.name}"\n'
                                    for file in sorted(files.iterdir())))
            argv = [nginx.curl, "-sSf", "--parallel", "--parallel-max", "50", "--config", urls]
            took = over_link(lambda: timed(lab.run(office, argv)))
        check_directory(files, out, "curl")
        remove(out)
        return took

    def sendme(_):
        directory = lab.directory("got")
        with serving(rivals.Sendme(lab, there, rivals.sendme(), files)) as sender:
            took = over_link(lambda: timed(sender.get(office, directory)))
        check_directory(files, directory / files.name, "sendme")
        remove(directory)
        return took

    def timed(took):
        return took.seconds, took.cpu_s

    table.measure("netbuild", bench.runs, netbuild, "netbuild run, its output a directory")
    if all(run["seconds"] for run in transfers):
        table.measure(STORED, 0, None, "the same runs").runs = transfers
    else:
        table.missing(STORED, "the agent does not tell how long it took")
    each_to(table, [
        ("rsync -rz", "rsync -rz rsync://...", rsync),
        ("curl, 50 at once", "curl --parallel --parallel-max 50, nginx, TCP bbr, no TLS", curl),
        ("sendme", "sendme receive", sendme),
    ], bench.runs)
    return table


def directory_task(lab, files):
    space = lab.directory("space")
    graph = {"version": "1", "tasks": {"files": {
        "command": f"mkdir -p out && cp -r {files}/. out/", "inputs": ["version"], "outputs": ["out/"],
    }}, "default": "files"}
    (space / "graph.json").write_text(json.dumps(graph))
    (space / "version").write_text("1")
    return space


def check_directory(files, copy, tool):
    for file in files.iterdir():
        other = copy / file.name
        if not other.exists() or other.read_bytes() != file.read_bytes():
            raise Failed(f"{tool}: {file.name} did not come as it was sent")
