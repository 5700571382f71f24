#!/usr/bin/env bash
# Shows the links between the regions: as they are emulated, and as the agents measure them.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
. "$repository/scripts/lib/common.sh"
. "$repository/scripts/lib/regions.sh"

usage() {
    cat <<USAGE
usage: scripts/monitor-network.sh [--once] [--interval SECONDS] [--docker | --local] [--state DIR]

Shows what each emulated link does and has carried, and what the agent of each region measured of the others.
On a terminal until Ctrl-C; elsewhere once.

  --once          only once
  --interval S    seconds between two looks (default: 2)
$PLACE_HELP
USAGE
}

interval=2
once=false
[[ -t 1 ]] || once=true
while [[ $# -gt 0 ]]; do
    case $1 in
        --once) once=true ;;
        --interval)
            interval=$(value "$@") && shift
            [[ $interval =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--interval needs a number of seconds, not '$interval'"
            once=false
            ;;
        --help | -h) usage && exit ;;
        *)
            place_option "$@" || bad_argument "$1"
            shift $((taken - 1))
            ;;
    esac
    shift
done

look() {
    local region
    wan status
    for region in "${REGIONS[@]}"; do
        printf '\nas %s sees it\n' "$region"
        in_region "$region" netbuild monitor --once 2>/dev/null || echo '  its agent does not answer'
    done
}

choose_regions
while true; do
    seen=$(look)
    ! [[ -t 1 ]] || $once || printf '\033[H\033[2J'
    printf '%s\n' "$seen"
    ! $once || exit 0
    sleep "$interval"
done
