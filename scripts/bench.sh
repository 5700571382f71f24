#!/usr/bin/env bash
# Measures netbuild beside other tools, and prints medians and ratios.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
    cat <<'USAGE'
usage: scripts/bench.sh runner [OPTION...]     `netbuild run` beside ninja
       scripts/bench.sh transfer [OPTION...]   the transfer engine beside quinn, sendme, curl, rsync, zsync, casync

Each of them explains its options with --help.
USAGE
}

case ${1-} in
    --help | -h) usage ;;
    runner)
        shift
        exec "$here/bench/runner.sh" "$@"
        ;;
    transfer)
        shift
        command -v python3 >/dev/null || { echo 'scripts/bench.sh: transfer needs python3' >&2 && exit 2; }
        # Without files of byte code in the source tree.
        exec python3 -B "$here/bench/transfer" "$@"
        ;;
    *)
        echo 'scripts/bench.sh: say what to measure: runner or transfer (see --help)' >&2
        exit 2
        ;;
esac
