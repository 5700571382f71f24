"""The tools that netbuild is compared with, each served and used as its manual says."""

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

from lab import Failed, Unavailable, last_lines, wait_until
from tools import CACHE, find, listening

# Debian's packages of the tools that are one.
PACKAGES = {
    "nginx": "nginx-light", "curl": "curl", "rsync": "rsync", "zsync": "zsync", "zsyncmake": "zsync",
    "casync": "casync", "zstd": "zstd",
}
# The release of sendme that is compared with; it fixes those of iroh and iroh-blobs.
SENDME = "0.37.1"


class Nginx:
    """Files served over HTTP by nginx, with its own congestion control where the site is ours."""

    def __init__(self, lab, site, control=None):
        self.lab, self.site, self.control = lab, site, control
        program = find("nginx", PACKAGES["nginx"])
        self.curl = find("curl", PACKAGES["curl"])
        if control:
            set_congestion_control(lab, site, control)
        home = lab.directory("nginx")
        self.root = home / "www"
        self.root.mkdir()
        self.port = lab.free_port(site)
        # As root its worker would else be somebody who may not read our files.
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "".join(f"{kind}_temp_path {home}/{kind};" for kind in
                            ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (home / "nginx.conf").write_text(
            f"{user} daemon off; worker_processes 1; pid {home}/pid; error_log {home}/errors;"
            f"events {{ worker_connections 1024; }}"
            f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; {temporary}"
            f" server {{ listen {site.address}:{self.port}; root {self.root}; }} }}"
        )
        argv = [program, "-p", home, "-e", home / "errors", "-c", home / "nginx.conf"]
        self.server = lab.serve(site, argv)
        wait_until("nginx serves", lambda: listening(self.server, site, self.port))

    def url(self, file):
        """Serves a file, and says where."""
        link = self.root / Path(file).name
        if not link.exists():
            link.symlink_to(file)
        return f"http://{self.site.address}:{self.port}/{link.name}"

    def get(self, requester, file, output):
        return self.lab.run(requester, [self.curl, "-sSf", "-o", output, self.url(file)])

    def stop(self):
        self.lab.stop(self.server)


def set_congestion_control(lab, site, control):
    """Chooses TCP's congestion control for all connections of a site, by its routes: what a kernel
    lets a network namespace choose as its default is only a part of what it has."""
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    if control not in known:
        raise Unavailable(f"this kernel has no TCP {control}, only {', '.join(known)}")
    for route in lab.run(site, ["ip", "-4", "route", "show"]).stdout.splitlines():
        words = route.split()
        if "congctl" in words:
            del words[words.index("congctl"):][:2]
        lab.run(site, ["ip", "route", "change", *words, "congctl", control])


class Raw:
    """The example `raw` of netbuild-transfer: quinn and nothing else, from memory to memory."""

    def __init__(self, lab, site, program, control):
        if not program:
            raise Unavailable("no example `raw`: cargo build --release --locked -p netbuild-transfer --example raw")
        self.lab, self.site, self.program = lab, site, program
        self.options = ["--cc", control]
        self.port = lab.free_port(site, socket.SOCK_DGRAM)
        self.server = lab.serve(site, [program, "serve", f"{site.address}:{self.port}", *self.options])

    def get(self, requester, size):
        argv = [self.program, "get", f"{self.site.address}:{self.port}", size, *self.options]
        figures = self.lab.run(requester, argv)
        report = json.loads(figures.stdout.strip().splitlines()[-1])
        if report["bytes"] != size:
            raise Failed(f"raw got {report['bytes']} of {size} bytes")
        return figures

    def stop(self):
        self.lab.stop(self.server)


class Sendme:
    """A file offered by `sendme send`: iroh-blobs over direct addresses, no relay, no look-up."""

    PROVIDE = ["--relay", "disabled", "--no-progress"]

    def __init__(self, lab, site, program, file):
        self.lab, self.site, self.program = lab, site, program
        # It copies what it offers into a directory beside itself.
        self.server = lab.serve(site, [program, "send", *self.PROVIDE, "--ticket-type", "addresses", file],
                                cwd=lab.directory("sendme"))
        self.ticket = wait_until("sendme offers the file", self._ticket, patience_s=300)

    def _ticket(self):
        said = self.server.said()
        if self.server.process.poll() is not None:
            raise Failed(f"sendme ended: {last_lines(said)}")
        words = [word for word in said.split() if word.startswith("blob") and len(word) > 60]
        return words[0] if words else None

    def get(self, requester, directory):
        return self.lab.run(requester, [self.program, "receive", *self.PROVIDE, self.ticket], cwd=directory)

    def stop(self):
        self.lab.stop(self.server)


def sendme():
    """The program that `install_sendme` made."""
    program = CACHE / f"sendme-{SENDME}" / "bin" / "sendme"
    if not program.exists():
        raise Unavailable(f"there is no {program}")
    return program


def install_sendme():
    """Builds sendme once if need be, which takes minutes; says why when it cannot."""
    home = CACHE / f"sendme-{SENDME}"
    if (home / "bin" / "sendme").exists():
        return
    if not shutil.which("cargo"):
        print("sendme is built by cargo, which is missing", flush=True)
        return
    log = CACHE / "sendme.log"
    CACHE.mkdir(parents=True, exist_ok=True)
    argv = ["cargo", "install", "sendme", "--version", f"={SENDME}", "--locked", "--root", str(home),
            "--target-dir", str(CACHE / "target")]
    print(f"building sendme {SENDME} once, into {home}", flush=True)
    with log.open("wb") as out:
        built = subprocess.run(argv, stdout=out, stderr=out, check=False)
    shutil.rmtree(CACHE / "target", ignore_errors=True)
    if built.returncode != 0:
        print(f"sendme cannot be built: {last_lines(log.read_text(), 1)}", flush=True)


class Rsync:
    """An rsync daemon over a directory, and `rsync -z` from it."""

    def __init__(self, lab, site, directory):
        self.lab, self.site = lab, site
        self.program = find("rsync", PACKAGES["rsync"])
        # As root it would else be nobody, who may not read our files.
        owner = "uid = 0\ngid = 0\n" if os.geteuid() == 0 else ""
        config = lab.fresh("rsyncd.conf")
        config.write_text(f"use chroot = no\n{owner}[files]\npath = {directory}\nread only = yes\n")
        self.port = lab.free_port(site)
        argv = [self.program, "--daemon", "--no-detach", f"--config={config}", f"--port={self.port}",
                f"--address={site.address}"]
        self.server = lab.serve(site, argv)
        wait_until("rsync serves", lambda: listening(self.server, site, self.port))

    def get(self, requester, name, output, *options):
        """Updates the file or directory `output`, which may hold an older one."""
        source = f"rsync://{self.site.address}:{self.port}/files/{name}"
        return self.lab.run(requester, [self.program, *options, source, output])

    def stop(self):
        self.lab.stop(self.server)


class Zsync:
    """A file with its zsync index behind nginx, and `zsync -i OLD`."""

    def __init__(self, lab, site, new, control=None):
        self.lab = lab
        self.program, make = find("zsync", PACKAGES["zsync"]), find("zsyncmake", PACKAGES["zsyncmake"])
        self.nginx = Nginx(lab, site, control)
        self.nginx.url(new)
        index = self.nginx.root / f"{Path(new).name}.zsync"
        # Uncompressed, so that the index names the very file; a relative URL stands beside it.
        lab.run(lab.here, [make, "-u", Path(new).name, "-o", index, new])
        self.index = f"http://{site.address}:{self.nginx.port}/{index.name}"

    def get(self, requester, old, output):
        return self.lab.run(requester, [self.program, "-q", "-i", old, "-o", output, self.index],
                            cwd=Path(output).parent)

    def stop(self):
        self.nginx.stop()


class Casync:
    """A file cut by `casync make` behind nginx, and `casync extract --seed=OLD`."""

    def __init__(self, lab, site, new, control=None):
        self.lab = lab
        self.program = find("casync", PACKAGES["casync"])
        self.nginx = Nginx(lab, site, control)
        index = self.nginx.root / "new.caibx"
        lab.run(lab.here, [self.program, "make", f"--store={self.nginx.root}/default.castr", index, new])
        self.base = f"http://{site.address}:{self.nginx.port}"

    def get(self, requester, old, output):
        argv = [self.program, "extract", f"--store={self.base}/default.castr", f"--seed={old}",
                f"{self.base}/new.caibx", output]
        return self.lab.run(requester, argv)

    def stop(self):
        self.nginx.stop()
