"""`scripts/bench.sh transfer`: netbuild beside other tools that move files."""

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

import netbuild
import parts
import report
import rivals
from lab import Lab
from parts.common import Bench
from tools import CACHE, REPOSITORY, commit, install_packages

USAGE = """scripts/bench.sh transfer [--only PART,...] [--runs N] [--json FILE] [--binary FILE]
       [--raw FILE] [--pairs DIR] [--no-install] [--quick]"""


def arguments():
    target = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
    parser = argparse.ArgumentParser(
        prog="scripts/bench.sh transfer", usage=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Moves the same files with netbuild and with other tools, and prints medians, ratios and targets.",
        epilog="parts:\n" + "\n".join(f"  {name:<10} {part.__doc__}" for name, part in parts.PARTS.items())
        + "\n\nEmulated links need root and /dev/net/tun; nginx, rsync, zsync and casync are installed on Debian as "
          "root;\nsendme is built by cargo once, and kept in ~/.cache/netbuild-bench.",
    )
    parser.add_argument("--only", metavar="PART,...", help="only these parts (all)")
    parser.add_argument("--runs", metavar="N", type=int, default=3, help="runs of each measurement (3)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also writes all figures as one JSON object")
    parser.add_argument("--binary", metavar="FILE", type=Path, default=target / "release/netbuild",
                        help="the netbuild to measure, with netbuild-agent beside it (target/release/netbuild)")
    parser.add_argument("--raw", metavar="FILE", type=Path, default=target / "release/examples/raw",
                        help="the example `raw` of netbuild-transfer (target/release/examples/raw)")
    parser.add_argument("--pairs", metavar="DIR", type=Path, default=CACHE / "pairs",
                        help="the pairs of scripts/bench/pairs.sh (~/.cache/netbuild-bench/pairs)")
    parser.add_argument("--no-install", action="store_true",
                        help="installs and builds nothing: what is missing is not run")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the bytes, to see whether all works")
    return parser.parse_args()


def chosen(only):
    names = only.split(",") if only else list(parts.PARTS)
    for name in names:
        if name not in parts.PARTS:
            fail(f"there is no part '{name}', only {', '.join(parts.PARTS)}")
    return names


def fail(message):
    sys.exit(f"scripts/bench.sh: {message}")


def main():
    args = arguments()
    names = chosen(args.only)
    if not 1 <= args.runs <= 100:
        fail("--runs takes a number from 1 to 100")
    for program in (args.binary, args.binary.with_name("netbuild-agent")):
        if not os.access(program, os.X_OK):
            fail(f"no {program}; build it with: cargo build --release --bins --locked")
    # Ctrl-C and the like end this by an exception, so that everything is cleaned up.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    machine = report.machine()
    print("machine  " + ", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    if not args.no_install:
        install_packages(rivals.PACKAGES)
        rivals.install_sendme()
    with Lab(args.binary.resolve()) as lab:
        bench = Bench(
            lab, args.runs, 0.01 if args.quick else 1.0,
            args.raw.resolve() if os.access(args.raw, os.X_OK) else None,
            args.pairs.resolve() if args.pairs.is_dir() else None,
        )
        about = {"netbuild": netbuild.version(lab), "commit": commit(), "machine": machine,
                 "runs": args.runs, "quick": args.quick, "disk": shutil.disk_usage(lab.work)._asdict()}
        print(f"netbuild {about['netbuild']}, commit {about['commit']}; medians of {args.runs} runs\n", flush=True)
        done = [report.part(parts.PARTS, name, bench) for name in names]
    print()
    for part in done:
        print(part.to_text() + "\n")
    if args.quick:
        print("These are figures of --quick: they say that the script works, and nothing else.")
    if args.json:
        report.write_json(args.json, {**about, "parts": {part.name: part.to_json() for part in done}})


if __name__ == "__main__":
    main()
