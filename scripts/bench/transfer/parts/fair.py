"""How a link is shared with somebody else's TCP."""

import time

import rivals
from lab import GIB, OFFICE, Traffic, remove, serving, wait_until
from netbuild import Agent, discard
from parts.common import checked, each_to
from report import Part

# The links: site, bits per second, what it is.
LINKS = [("us-east", 100e6, "50 ms, 100 Mbit/s"), ("eu-central", 25e6, "150 ms, 25 Mbit/s")]
# How long whoever was first has the link for itself.
AHEAD_S = 8
# How long both share it, if they share it evenly.
TOGETHER_S = 30


def fair(bench):
    """A transfer beside a download over TCP, on the same link."""
    lab = bench.lab
    part = Part(lab, "fair", "a blob beside a download by curl from nginx, while both last")
    with lab.sites([OFFICE, *(site for site, *_ in LINKS)]) as sites:
        for site, rate, about in LINKS:
            one_link(bench, part, sites, sites[site], rate, about)
    return part


def one_link(bench, part, sites, there, rate, about):
    lab, office = bench.lab, sites["office"]
    table = part.table(f"{about}: netbuild's share of what both got", ["share_percent", "mbit_s", "queue_drops_percent"],
                       ratio="share_percent")
    size = bench.size(rate / 8 / 2 * TOGETHER_S)
    blob, longer = lab.blob(size), lab.blob(2 * size)
    endless = lab.fresh("endless")
    with endless.open("wb") as file:
        file.truncate(GIB)
    provider = Agent(lab, there, there.name)
    digests = {file: provider.put(file) for file in (blob, longer)}

    def shared(control, ours_first):
        def once(_):
            nginx = rivals.Nginx(lab, there, control)
            requester = Agent(lab, office, "office", [provider])
            out, theirs = lab.fresh("got"), lab.fresh("theirs")
            sites.quiet()

            def their_bytes():
                return theirs.stat().st_size if theirs.exists() else 0

            def our_bytes():
                return requester.counters()["data_bytes_fetched"]

            def figures(began, before, ours, theirs):
                seconds = time.monotonic() - began
                traffic = Traffic.between(before, sites.counters(), there.name, office.name)
                return {"share_percent": 100 * ours / (ours + theirs), "mbit_s": (ours + theirs) * 8 / seconds / 1e6,
                        "queue_drops_percent": traffic.queue_drops_percent}

            if ours_first:
                getting = requester.start_get(digests[longer], out)
                wait_until("it is under way", lambda: our_bytes() > 0)
                time.sleep(AHEAD_S)
                began, before, ours = time.monotonic(), sites.counters(), our_bytes()
                nginx.get(office, blob, theirs)
                took = figures(began, before, our_bytes() - ours, size)
                lab.stop(getting)
            else:
                downloading = lab.serve(office, [nginx.curl, "-sSf", "-o", theirs, nginx.url(endless)])
                wait_until("it is under way", lambda: their_bytes() > 0)
                time.sleep(AHEAD_S)
                began, before, other = time.monotonic(), sites.counters(), their_bytes()
                requester.get(digests[blob], out)
                took = figures(began, before, size, their_bytes() - other)
                lab.stop(downloading)
                checked(blob, out, "netbuild")
            nginx.stop()
            discard(requester)
            remove(theirs)
            remove(out)
            return took
        return once

    with serving(provider):
        each_to(table, [
            (f"{control}, {'netbuild' if ours_first else 'curl'} first",
             f"netbuild get DIGEST beside curl -o FILE http://..., TCP {control}", shared(control, ours_first))
            for control in ("cubic", "bbr") for ours_first in (False, True)
        ], bench.runs)
    for file in (provider.data_dir, blob, longer, endless):
        remove(file)
    for row in table.rows:
        part.at_least(f"{about}, beside {row.tool}: share in %", row.value("share_percent"), 35)
        part.at_most(f"{about}, beside {row.tool}: share in %", row.value("share_percent"), 65)
