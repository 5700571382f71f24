#!/usr/bin/env bash
# Takes sources away from a build that is under way, and shows what it costs.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
. "$repository/scripts/lib/common.sh"
. "$repository/scripts/lib/regions.sh"
. "$repository/scripts/lib/builds.sh"
. "$repository/scripts/lib/failure.sh"

usage() {
    cat <<USAGE
usage: scripts/test-failure.sh [--docker | --local] [--state DIR]

Restores an artifact in eu-central that us-east and us-west have, and on its way kills the agent of us-east, pauses it,
or cuts its link; then cuts eu-central off from everybody. Each time the build must go on, with the same bytes. Prints
what was measured, and puts everything right again. Exit code 1: something was not as it must be.

$PLACE_HELP
USAGE
}

while [[ $# -gt 0 ]]; do
    case $1 in
        --help | -h) usage && exit ;;
        *)
            place_option "$@" || bad_argument "$1"
            shift $((taken - 1))
            ;;
    esac
    shift
done

scratch=$(mktemp -d)
mend() {
    rm -rf "$scratch"
    # Whatever was going on when it ended.
    mend_regions
}
choose_regions
trap mend EXIT
network_failure
