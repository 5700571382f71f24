"""What compression saves on a slow link, and costs on a fast one."""

from lab import GIB, MIB, OFFICE, Traffic, remove, serving
from netbuild import Agent, require_config
from parts.common import PAIRS, checked, each_to, pair_of
from report import Part


def codec(bench):
    """Artifacts that compress, with and without a codec."""
    lab = bench.lab
    part = Part(lab, "codec", "artifacts that compress: the adaptive codec, none, and the fixed tiers")
    names = [name for name in ("debug", "library", "package") if pair_of(bench, name)]
    policies = ("adaptive", "off", "tiers")
    with lab.sites([OFFICE, "eu-central"]) as sites:
        for name in names or ["none"]:
            table = part.table(f"{PAIRS.get(name, ('no pair',))[0]}, over 150 ms, 25 Mbit/s",
                               ["seconds", "wire_bytes", "cpu_provider_s", "cpu_requester_s"])
            if name == "none":
                table.missing("all", "no pairs: scripts/bench/pairs.sh DIR, then --pairs DIR")
                continue
            blob = pair_of(bench, name)[1]
            measure_policies(bench, table, policies, blob, sites["eu-central"], sites["office"], sites)
            saved = table.over("adaptive", "off", "seconds")
            part.at_least(f"{name}: seconds saved against raw in %", saved and 100 * (1 - saved), 56)
            part.at_most(f"{name}: seconds over those of the tiers", table.over("adaptive", "tiers", "seconds"), 1)
    noise = lab.blob(bench.size(GIB))
    table = part.table(f"{noise.stat().st_size // MIB} MiB that nothing compresses, over loopback",
                       ["seconds", "cpu_provider_s", "cpu_requester_s"])
    measure_policies(bench, table, policies[:2], noise, lab.here, lab.here, None)
    remove(noise)
    part.at_most("loopback: seconds of adaptive over those of none", table.over("adaptive", "off", "seconds"), 1.03)
    return part


def measure_policies(bench, table, policies, blob, there, here, sites):
    lab = bench.lab

    def policy(name):
        def once(_):
            config = f'[transfer]\ncodec = "{name}"\n'
            require_config(lab, config)
            provider = Agent(lab, there, "eu-central", config=config)
            requester = Agent(lab, here, "office", [provider], config=config)
            out = lab.fresh("got")
            with serving(provider), serving(requester):
                digest = provider.put(blob)
                lab.settle()
                before, cpu = sites and sites.quiet(), (provider.cpu_s(), requester.cpu_s())
                got = requester.get(digest, out)
                took = {"seconds": got.stored_s, "cpu_provider_s": provider.cpu_s() - cpu[0],
                        "cpu_requester_s": requester.cpu_s() - cpu[1] + got.figures.cpu_s,
                        "codecs": got.report.get("codecs")}
                if sites:
                    traffic = Traffic.between(before, sites.counters(), there.name, here.name)
                    took["wire_bytes"] = traffic.bytes_down + traffic.bytes_up
            checked(blob, out, "netbuild")
            remove(provider.data_dir)
            remove(requester.data_dir)
            return took
        return once

    each_to(table, [(name, f'mesh.toml: [transfer] codec = "{name}"', policy(name)) for name in policies], bench.runs)
