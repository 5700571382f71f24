#!/usr/bin/env bash
# What scripts/test.sh --scenario runs: regions of its own, a scenario in them, and the end of them.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
. "$repository/scripts/lib/common.sh"
. "$repository/scripts/lib/regions.sh"
. "$repository/scripts/lib/builds.sh"
. "$repository/scripts/lib/failure.sh"
. "$repository/scripts/lib/scenarios.sh"

scenarios=()
start=()
place=local
while [[ $# -gt 0 ]]; do
    case $1 in
        network-failure | multi-region-sync | bandwidth-optimization) scenarios+=("$1") ;;
        --docker) place=docker ;;
        --debug) start+=(--debug) ;;
        --bin-dir) start+=(--bin-dir "$(value "$@")") && shift ;;
        *) fail "there is no scenario '$1'; there are network-failure, multi-region-sync and bandwidth-optimization" ;;
    esac
    shift
done

scratch=$(mktemp -d)
state=$scratch/regions

# free_net: the first two numbers of addresses that nothing on this machine uses.
free_net() {
    local second used
    used=$(ip -4 route)
    for second in $(shuf -i 79-250 -n 20); do
        grep -q "10\.$second\." <<<"$used" || { echo "10.$second" && return; }
    done
    fail 'there are no free addresses for the networks of containers'
}

if [[ $place == docker ]]; then
    # Beside whatever else runs, and away from it.
    export COMPOSE_PROJECT_NAME=netbuild-test-$$
    NETBUILD_NET=$(free_net)
    export NETBUILD_NET NETBUILD_US_EAST_PORT='' NETBUILD_US_WEST_PORT='' NETBUILD_EU_CENTRAL_PORT=''
    start+=(--docker)
else
    export NETBUILD_REGIONS_STATE=$state
fi

clean() {
    "$repository/scripts/stop-regions.sh" "--$place" --purge >"$scratch/stop" 2>&1 || { cat "$scratch/stop" >&2; }
    rm -rf "$scratch"
}

# What the agents have to say about a failure.
tell() {
    local region code=$?
    if [[ $code -ne 0 ]]; then
        for region in "${REGIONS[@]}"; do
            say "-- $region, what it knows and its log:"
            # In a shell of its own: it ends when there is no such region, and what is up is to be taken down then.
            (in_region "$region" timeout 10 netbuild status && in_region "$region" timeout 10 netbuild peers) >&2 || true
            if [[ $place == docker ]]; then
                compose logs --no-color --tail=30 "$region" >&2 || true
            else
                tail -n 30 "$state/$region/data/agent.log" >&2 || true
            fi
        done
    fi
    clean
    exit "$code"
}
trap tell EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$repository/scripts/start-regions.sh" ${start[@]+"${start[@]}"} >"$scratch/start" 2>&1 ||
    { cat "$scratch/start" >&2 && broken 'the regions do not start'; }
choose_regions
for scenario in "${scenarios[@]}"; do
    echo "$scenario, on emulated links:"
    "${scenario//-/_}"
done
