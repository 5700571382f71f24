"""What a kill in the middle costs."""

from lab import MIB, OFFICE, Failed, Traffic, remove, wait_until
from netbuild import Agent, discard
from parts.common import checked
from report import Part


def resume(bench):
    """A transfer in which one side is killed at 60 %, started again, and asked again."""
    lab, size = bench.lab, bench.size(100 * MIB)
    part = Part(lab, "resume", f"{size // MIB} MiB over 50 ms, 100 Mbit/s; killed -9 at 60 %, started and asked again")
    part.notes.append("twice: bytes on the link beyond those of a transfer that nothing disturbs, in % of the blob;")
    part.notes.append("what was under way when the process died counts too")
    table = part.table("what the kill costs", ["wire_bytes", "twice_percent"], ratio="wire_bytes")
    blob = lab.blob(size)
    with lab.sites([OFFICE, "us-east"]) as sites:
        def transfer(kill):
            """Bytes on the link for one transfer; `kill` says which side dies on the way."""
            provider = Agent(lab, sites["us-east"], "us-east")
            digest, out = provider.put(blob), lab.fresh("got")
            requester = Agent(lab, sites["office"], "office", [provider])
            down, before = 0, sites.quiet()
            if kill:
                getting = requester.start_get(digest, out)
                wait_until("60 % have come", lambda: sent(before) >= 0.6 * size, patience_s=600, pause=0.01)
                victim = requester if kill == "requester" else provider
                victim.kill()
                lab.stop(getting)
                sites.quiet()
                down = sent(before)
                remove(out)
                restart(victim, requester, provider)
                before = sites.quiet()
            requester.get(digest, out)
            down += sent(before)
            discard(requester)
            discard(provider)
            checked(blob, out, "netbuild")
            return down

        def sent(before):
            return Traffic.between(before, sites.counters(), "us-east", "office").bytes_down

        def disturbed(kill):
            def once(_):
                down = transfer(kill)
                undisturbed = table.value("undisturbed", "wire_bytes")
                if undisturbed is None:
                    raise Failed("the transfer to compare with failed")
                return {"wire_bytes": down, "twice_percent": 100 * (down - undisturbed) / size}
            return once

        table.measure("undisturbed", bench.runs, lambda _: {"wire_bytes": transfer(None)}, "netbuild get DIGEST")
        table.measure("requester killed", bench.runs, disturbed("requester"), "kill -9 AGENT; start; netbuild get")
        table.measure("provider killed", bench.runs, disturbed("provider"), "kill -9 AGENT; start; netbuild get")
    remove(blob)
    for side in ("requester", "provider"):
        twice = table.value(f"{side} killed", "twice_percent")
        part.at_most(f"{side} killed: fetched twice in %", twice, 1)
    return part


def restart(victim, requester, provider):
    """Starts the agent that was killed, and waits until the two know each other again."""
    victim.start()
    wait_until("the two have met again", lambda: all(
        any(member["connected"] for member in agent.json("status")["members"]) for agent in (requester, provider)
    ))
