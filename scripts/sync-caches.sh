#!/usr/bin/env bash
# Copies to each region what the others built and it does not have.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
. "$repository/scripts/lib/common.sh"
. "$repository/scripts/lib/regions.sh"

usage() {
    cat <<USAGE
usage: scripts/sync-caches.sh [--from REGION] [--to REGION] [--force] [--dry-run] [--docker | --local] [--state DIR]

Copies results to each region that lacks them, before a build there asks for them. Stopped by Ctrl-C, it goes on where
it was the next time. Exit code 1: some region could not be reached.

  --from REGION   only what is in this region
  --to REGION     only to this region
  --force         also reads what is there, and copies again what is damaged
  --dry-run       only says what would be copied
$PLACE_HELP
USAGE
}

sync=()
to=("${REGIONS[@]}")
while [[ $# -gt 0 ]]; do
    case $1 in
        --from) sync+=(--from "$(value "$@")") && shift ;;
        --to) to=("$(value "$@")") && shift ;;
        --force | --dry-run) sync+=("$1") ;;
        --help | -h) usage && exit ;;
        *)
            place_option "$@" || bad_argument "$1"
            shift $((taken - 1))
            ;;
    esac
    shift
done

choose_regions
code=0
for region in "${to[@]}"; do
    echo "$region:"
    in_region "$region" netbuild sync ${sync[@]+"${sync[@]}"} | sed 's/^/  /' || code=1
done
exit "$code"
