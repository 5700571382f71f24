"""How much of a link is used, beside other senders on the same link."""

import rivals
from lab import MIB, OFFICE, Traffic, remove, serving
from netbuild import Agent, discard
from parts.common import checked, each_to
from report import Part

# The links: site, profile, bits per second, what it is, and the percentage of it that is to be reached.
LINKS = [
    ("us-east", "us-east", 100e6, "50 ms, 100 Mbit/s", 93),
    ("us-west", "us-west", 50e6, "100 ms, 50 Mbit/s", 92),
    ("eu-central", "eu-central", 25e6, "150 ms, 25 Mbit/s", None),
    ("far", "lossy", 25e6, "150 ms, 25 Mbit/s, 1 % loss", 85),
]
# Controllers that take every loss for a full queue need many minutes for 100 MiB on a link that loses packets,
# so there they move only this part of it. They are compared by their rate.
SLOW_PART = 0.1


def links(bench):
    """A blob over each of the emulated links."""
    lab, size = bench.lab, bench.size(100 * MIB)
    part = Part(lab, "links", f"{size // MIB} MiB that nothing compresses, over emulated links")
    blob = lab.blob(size)
    with lab.sites([OFFICE, *(f"{site}={profile}" for site, profile, *_ in LINKS)]) as sites:
        for site, _, rate, about, bound in LINKS:
            one_link(bench, part, sites, sites[site], rate, about, bound, blob)
    remove(blob)
    return part


def one_link(bench, part, sites, there, rate, about, bound, blob):
    lab, size = bench.lab, blob.stat().st_size
    table = part.table(about, [
        "seconds", "link_percent", "mbit_s", "wire_bytes", "queue_drops_percent", "lost_percent",
        "cpu_provider_s", "cpu_requester_s",
    ], ratio="mbit_s")
    office = sites["office"]
    slow_size = max(MIB, int(size * SLOW_PART)) if "loss" in about else size
    slow_blob = blob if slow_size == size else lab.blob(slow_size)
    slow_note = "" if slow_size == size else f" ({slow_size // MIB} MiB)"

    def over_link(get, server, size=size):
        """Measures what `get` does, with what passes on the link and what the server spends meanwhile."""
        before, cpu_before = sites.quiet(), server.cpu_s()
        seconds, cpu_s = get()
        traffic = Traffic.between(before, sites.counters(), there.name, office.name)
        return {
            "seconds": seconds, "link_percent": 100 * size * 8 / seconds / rate, "mbit_s": size * 8 / seconds / 1e6,
            "wire_bytes": traffic.bytes_down + traffic.bytes_up,
            "queue_drops_percent": traffic.queue_drops_percent, "lost_percent": traffic.lost_percent,
            "cpu_provider_s": server.cpu_s() - cpu_before, "cpu_requester_s": cpu_s,
        }

    def command(get):
        def measured():
            took = get()
            return took.seconds, took.cpu_s
        return measured

    provider = Agent(lab, there, there.name)
    digest = provider.put(blob)

    def netbuild(_):
        requester, out = Agent(lab, office, "office", [provider]), lab.fresh("got")

        def get():
            cpu_before = requester.cpu_s()
            got = requester.get(digest, out)
            return got.stored_s, requester.cpu_s() - cpu_before + got.figures.cpu_s

        took = over_link(get, provider.server)
        discard(requester)
        checked(blob, out, "netbuild")
        return took

    with serving(provider):
        table.measure("netbuild", bench.runs, netbuild, "netbuild get DIGEST -o FILE: until it is verified and stored")
    remove(provider.data_dir)

    def curl(control, blob):
        def once(_):
            out = lab.fresh("got")
            with serving(rivals.Nginx(lab, there, control)) as nginx:
                took = over_link(command(lambda: nginx.get(office, blob, out)), nginx.server, blob.stat().st_size)
            checked(blob, out, "curl")
            return took
        return once

    def raw(control, size):
        def once(_):
            with serving(rivals.Raw(lab, there, bench.raw, control)) as server:
                return over_link(command(lambda: server.get(office, size)), server.server, size)
        return once

    def sendme(_):
        directory = lab.directory("got")
        with serving(rivals.Sendme(lab, there, rivals.sendme(), slow_blob)) as sender:
            took = over_link(command(lambda: sender.get(office, directory)), sender.server, slow_size)
        checked(slow_blob, directory / slow_blob.name, "sendme")
        remove(directory)
        return took

    each_to(table, [
        ("curl, TCP bbr", "curl -o FILE http://... from nginx, no TLS", curl("bbr", blob)),
        (f"curl, TCP cubic{slow_note}", "the same", curl("cubic", slow_blob)),
        (f"raw quinn, cubic{slow_note}", "raw get --cc cubic: from memory to memory", raw("cubic", slow_size)),
        ("raw quinn, bbr", "raw get --cc bbr", raw("bbr", size)),
        ("raw quinn, our controller", "raw get --cc ours", raw("ours", size)),
        (f"sendme{slow_note}", "sendme receive: verified", sendme),
    ], bench.runs)
    if slow_blob is not blob:
        remove(slow_blob)
    if bound:
        part.at_least(f"{about}: % of the link", table.value("netbuild", "link_percent"), bound)
        part.at_most(f"{about}: own queue drops in %", table.value("netbuild", "queue_drops_percent"), 2)
    part.at_least(f"{about}: rate over that of curl, TCP bbr", table.over("netbuild", "curl, TCP bbr", "mbit_s"), 1)
