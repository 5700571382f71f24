"""Where tools come from, and what this benchmark is of."""

import os
import shutil
import subprocess
from pathlib import Path

from lab import Failed, Unavailable, last_lines

REPOSITORY = Path(__file__).resolve().parents[3]
# Tools that had to be built or installed stay here for the next time.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netbuild-bench"


def path_of(tool):
    """The path of a tool of this machine, if it is there."""
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")


def find(tool, package):
    """The path of a tool, or why there is none."""
    path = path_of(tool)
    if not path:
        raise Unavailable(f"{tool} is missing; Debian's package is {package}")
    return path


def install_packages(packages):
    """Installs Debian's packages of tools that are missing where that needs no question; what stays missing is
    said later. `packages` has the package of each tool."""
    missing = {package for tool, package in packages.items() if not path_of(tool)}
    if not missing or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL,
             "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    subprocess.run(["apt-get", "update", "-q"], check=False, **quiet)
    subprocess.run(["apt-get", "install", "-qy", "--no-install-recommends", *sorted(missing)], check=False, **quiet)


def listening(server, site, port):
    """Whether the server accepts connections; an error when it has ended instead."""
    if server.process.poll() is not None:
        raise Failed(f"{server.process.args[0]} ended: {last_lines(server.said())}")
    probe = ["python3", "-c", f"import socket; socket.create_connection(({site.address!r}, {port}), 1)"]
    return subprocess.run(site.prefix + probe, capture_output=True, check=False).returncode == 0


def commit():
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    found = subprocess.run(git, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
