#!/usr/bin/env bash
# Builds in several regions on emulated links, with netbuild and with other tools; --help says more.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
command -v python3 >/dev/null || { echo 'scripts/benchmark.sh needs python3' >&2 && exit 2; }
# Without files of byte code in the source tree.
PYTHONPATH=$here/bench/shared exec python3 -B "$here/bench/regions" "$@"
