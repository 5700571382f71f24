#!/usr/bin/env bash
# Measures netbuild beside other tools, and prints medians and ratios.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
    cat <<'USAGE'
usage: scripts/bench.sh runner [OPTION...]     `netbuild run` beside ninja
       scripts/bench.sh transfer [OPTION...]   the transfer engine beside quinn, sendme, curl, rsync, zsync, casync
       scripts/bench.sh store [PART]           the store: disk and tiers, or one of the two

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
        PYTHONPATH=$here/bench/shared exec python3 -B "$here/bench/transfer" "$@"
        ;;
    store)
        shift
        if [[ $# -gt 0 && $1 != -* ]]; then
            part=$here/bench/store/$1.sh
            [[ -x $part ]] || { echo "scripts/bench.sh: store has no part '$1'" >&2 && exit 2; }
            shift
            exec "$part" "$@"
        fi
        # Options are those of the first; the other has none.
        "$here/bench/store/disk.sh" "$@"
        "$here/bench/store/tiers.sh"
        ;;
    *)
        echo 'scripts/bench.sh: say what to measure: runner, transfer or store (see --help)' >&2
        exit 2
        ;;
esac
