#!/usr/bin/env bash
# Changes the emulated links between the regions while they are up.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
. "$repository/scripts/lib/common.sh"
. "$repository/scripts/lib/regions.sh"

usage() {
    cat <<USAGE
usage: scripts/simulate-network.sh --profile PROFILE [--link A:B | --region REGION]
       scripts/simulate-network.sh --reset [--link A:B | --region REGION]
       scripts/simulate-network.sh --list

Gives the links between the regions another profile, at once and for what is under way too.

  --profile PROFILE  such as satellite, mobile, lossy, datacenter or cut; --list tells all of them
  --reset            back to what the links began with
  --list             the profiles, and what each link does now
  --link A:B         only the link between two regions
  --region REGION    only the links of one
$PLACE_HELP
USAGE
}

target=all
action=()
list=false
while [[ $# -gt 0 ]]; do
    case $1 in
        --profile) action=(--profile "$(value "$@")") && shift ;;
        --reset) action=(--reset) ;;
        --list) list=true ;;
        --link | --region) target=$(value "$@") && shift ;;
        --help | -h) usage && exit ;;
        *)
            place_option "$@" || bad_argument "$1"
            shift $((taken - 1))
            ;;
    esac
    shift
done
$list || [[ ${#action[@]} -gt 0 ]] || fail 'say --profile, --reset or --list (see --help)'

choose_regions
if $list; then
    wan profiles
    echo
else
    wan set "$target" "${action[@]}"
fi
wan status
