"""What the engine costs when no link limits it."""

import rivals
from lab import GIB, MIB, remove, serving
from netbuild import Agent, discard
from parts.common import checked, each_to
from report import Part


def loopback(bench):
    """A blob between two processes of this machine: what the engine costs when no link limits it."""
    lab, size = bench.lab, bench.size(GIB)
    part = Part(lab, "loopback", f"{size // MIB} MiB that nothing compresses, over loopback")
    table = part.table("until the requester has it", [
        "seconds", "mib_s", "cpu_provider_s", "cpu_requester_s", "cpu_per_gib", "rss_provider", "rss_requester",
    ])
    part.notes.append("CPU of netbuild until the blob is stored: the whole command's less that of a second, which")
    part.notes.append("only writes the file from the store. MiB: most memory at once, of agents above their idle")
    blob = lab.blob(size)

    def figures(seconds, provider, requester, rss_provider, rss_requester):
        return {
            "seconds": seconds, "mib_s": size / MIB / seconds, "cpu_provider_s": provider,
            "cpu_requester_s": requester, "cpu_per_gib": (provider + requester) * GIB / size,
            "rss_provider": rss_provider, "rss_requester": rss_requester,
        }

    def by_client(server, get):
        """Figures of a client command that gets everything from a server."""
        lab.settle()
        before, _ = server.cpu_s(), server.forget_peak()
        took = get()
        return figures(took.seconds, server.cpu_s() - before, took.cpu_s, server.peak_rss(), took.peak_rss)

    provider = Agent(lab, lab.here, "provider")
    digest = provider.put(blob)
    whole_runs = []

    def netbuild(_):
        requester, out = Agent(lab, lab.here, "requester", [provider]), lab.fresh("got")
        lab.settle()
        idle = provider.server.rss(), requester.server.rss()
        before = provider.cpu_s(), requester.cpu_s()
        provider.server.forget_peak()
        requester.server.forget_peak()
        got = requester.get(digest, out)
        whole = spent(before, provider, requester, got)
        peak = provider.server.peak_rss() - idle[0], requester.server.peak_rss() - idle[1]
        checked(blob, out, "netbuild")
        # The command stores the blob, and then writes the file from the store. A second one does only that.
        before = provider.cpu_s(), requester.cpu_s()
        out = lab.fresh("again")
        again = spent(before, provider, requester, requester.get(digest, out))
        discard(requester)
        remove(out)
        whole_runs.append(figures(got.figures.seconds, *whole, *peak))
        return figures(got.stored_s, whole[0] - again[0], whole[1] - again[1], *peak)

    def spent(before, provider, requester, got):
        return provider.cpu_s() - before[0], requester.cpu_s() - before[1] + got.figures.cpu_s

    with serving(provider):
        table.measure("netbuild", bench.runs, netbuild, "netbuild get DIGEST -o FILE: until it is verified and stored")
    remove(provider.data_dir)
    if whole_runs:
        row = table.measure("netbuild, the file written too", 0, None, "netbuild get DIGEST -o FILE: the whole command")
        row.runs = whole_runs

    def raw(_):
        with serving(rivals.Raw(lab, lab.here, bench.raw, "cubic")) as server:
            return by_client(server.server, lambda: server.get(lab.here, size))

    def curl(_):
        out = lab.fresh("got")
        with serving(rivals.Nginx(lab, lab.here)) as nginx:
            took = by_client(nginx.server, lambda: nginx.get(lab.here, blob, out))
        checked(blob, out, "curl")
        return took

    def sendme(_):
        directory = lab.directory("got")
        with serving(rivals.Sendme(lab, lab.here, rivals.sendme(), blob)) as sender:
            took = by_client(sender.server, lambda: sender.get(lab.here, directory))
        checked(blob, directory / blob.name, "sendme")
        remove(directory)
        return took

    each_to(table, [
        ("raw quinn", "raw get: from memory to memory, nothing verified", raw),
        ("curl from nginx", "curl -o FILE http://..., no TLS", curl),
        ("sendme", "sendme receive: verified", sendme),
    ], bench.runs)
    remove(blob)
    rate = table.over("netbuild", "raw quinn", "mib_s")
    part.at_least("rate over that of raw quinn", rate, 0.9)
    part.at_most("CPU per GiB over that of raw quinn", table.over("netbuild", "raw quinn", "cpu_per_gib"), 1.35)
    return part
