#!/usr/bin/env bash
# Ends the regions that scripts/start-regions.sh started.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
. "$repository/scripts/lib/common.sh"
. "$repository/scripts/lib/regions.sh"

usage() {
    cat <<USAGE
usage: scripts/stop-regions.sh [--docker | --local] [--purge] [--state DIR]

Ends the agents in order, the servers beside them, and the emulated links. What they hold stays for the next start.

  --purge         removes that too
$PLACE_HELP
USAGE
}

purge=false
while [[ $# -gt 0 ]]; do
    case $1 in
        --purge) purge=true ;;
        --help | -h) usage && exit ;;
        *)
            place_option "$@" || bad_argument "$1"
            shift $((taken - 1))
            ;;
    esac
    shift
done

gone() {
    ! pid_of "$1" >/dev/null
}

# end FILE: ends the process that a file names, in order, or else by force.
end() {
    local pid
    if pid=$(pid_of "$1"); then
        # A paused one would never hear of it.
        kill "$pid" && kill -CONT "$pid"
        (PATIENCE=30 wait_until 'it has ended' gone "$1") 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
    fi
    rm -f "$1"
}

stop_local() {
    local region
    for region in "${REGIONS[@]}"; do
        for name in agent redis s3; do
            end "$state/$region/$name.pid" &
        done
    done
    wait
    if [[ -e $state/programs ]]; then
        programs=$(<"$state/programs")
        wan down 2>/dev/null || true
    fi
    ! $purge || rm -rf "$state"
}

stop_docker() {
    if $purge; then
        compose --profile observe down --volumes --remove-orphans
    else
        compose --profile observe down --remove-orphans
    fi
}

if [[ -z $place ]]; then
    if [[ -e $state/programs ]]; then place=local; else place=docker; fi
fi
case $place in
    docker) stop_docker ;;
    local) stop_local ;;
esac
