#!/usr/bin/env bash
# Measures what tiers cost and how fast they are, on a Redis and an S3 server of this machine.
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)

usage() {
    cat <<'USAGE'
usage: scripts/bench.sh store tiers

Puts 10,000 blobs of 2 KiB with their records and 256 MiB of large ones into a Redis (the small ones only)
and a SeaweedFS, and reads them back as another agent. Says for each kind of operation how many requests and
bytes it took, and how fast the whole was beside redis-benchmark, and beside a plain S3 client that
sends each blob as a piece of its own. scripts/test.sh installs the servers.
USAGE
}

case ${1-} in
    '') ;;
    --help | -h)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac
cd "$root"
exec cargo run --release --locked -q -p netbuild-store --example tiers
