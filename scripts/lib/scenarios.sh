# What scripts/test.sh --scenario runs besides the failures: regions that are synced, and a slow link. Sourced after
# builds.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # Variables of the caller.

# sync REGION: copies to a region what the others have; the report is in $summary.
sync() {
    summary=$(in_region "$1" netbuild sync --json) || broken "the sync to $1 failed: $summary"
}

# copied: what the last report says.
copied() {
    figure '"{} artifacts, {:.1f} MB: {:.2f} MB sent, {:.1f} % saved".format(v["artifacts"], v["bytes_logical"] / 1e6,
        v["bytes_on_wire"] / 1e6, 100 - 100 * v["bytes_on_wire"] / max(1, v["bytes_logical"]))'
}

# Each region builds something of its own; afterwards each has all of it, and needs no network for it.
multi_region_sync() {
    local region number=0
    for region in "${REGIONS[@]}"; do
        number=$((number + 1))
        lay_out "$region"
        edit "$region" "$number"
        build "$region"
        expect "$region builds its own version" 'v["executed"] == v["tasks"] == 5'
        row "built in $region" "$(figure 'round(v["seconds"], 1)') s"
    done
    wait_until 'all regions know all results' have_equal_records "${REGIONS[@]}"

    for region in "${REGIONS[@]}"; do
        sync "$region"
        expect "$region gets what the others built" 'v["artifacts"] >= 10'
        row "copied to $region" "$(copied)"
    done
    for region in "${REGIONS[@]}"; do
        sync "$region"
        expect "a second sync copies nothing to $region" 'v["artifacts"] == 0'
    done

    edit us-east 77
    build us-east
    wait_until 'all regions know the new results' have_equal_records "${REGIONS[@]}"
    sync eu-central
    expect 'an update costs a fraction of its size' 'v["artifacts"] > 0 and v["bytes_on_wire"] * 2 < v["bytes_logical"]'
    row 'one line edited: us-east -> eu-central' "$(copied) (target: 85 %)"
    sync us-west

    wan set all --profile cut
    for region in "${REGIONS[@]}"; do
        for number in 1 2 3 77; do
            edit "$region" "$number"
            build "$region"
            expect "$region has everything at hand" 'v["executed"] == 0 and v["bytes_fetched"] == 0'
        done
    done
    wan set all --reset
    wait_until 'all regions know each other again' everybody_is_well "${REGIONS[@]}"
    row 'all links cut, every version in every region' 'restored there, nothing executed'

    storage_of_a_region
    nothing_is_served
}

# A machine of a region that runs no agent has what the region built, from the storage of the region.
storage_of_a_region() {
    local backend=()
    if [[ $place == local ]]; then
        [[ -e $state/us-east/backend ]] || return 0
        backend=("CACHE_BACKEND=$(<"$state/us-east/backend")" AWS_ACCESS_KEY_ID=netbuild
            AWS_SECRET_ACCESS_KEY=netbuild-secret "AWS_ENDPOINT_URL_S3=http://$(region_address us-east):8333")
    fi
    in_region us-east netbuild flush --timeout 60 >/dev/null || broken 'the storage of us-east does not take its results'
    in_region us-east rm -rf out .netbuild
    summary=$(in_region us-east env ${backend[@]+"${backend[@]}"} netbuild run --prefer-cache --quiet --json --data-dir another-machine)
    expect 'the storage of us-east has its results' 'v["executed"] == 0 and v["hits"]["s3"] + v["hits"]["redis"] == 5'
    in_region us-east rm -rf another-machine
    row 'a machine of us-east without an agent' "restored from its storage: $(figure 'round(v["seconds"], 1)') s"
}

# The checks above are worth something only if they fail when nothing is served.
nothing_is_served() {
    edit us-west 501
    build us-west
    kill_agent us-west
    edit us-east 501
    build us-east
    ! holds 'v["executed"] == 0' || broken 'us-west is dead, and us-east has its results all the same'
    start_agent us-west
    wait_until 'all regions know each other again' everybody_is_well "${REGIONS[@]}"
    row 'a region that serves nothing is noticed' "us-east executed $(figure 'v["executed"]') tasks itself"
}

# agent_beside NAME CONFIGURATION: another agent in the network of eu-central, a region for itself.
agent_beside() {
    local name=$1
    # shellcheck disable=SC2016 # For the other shell.
    in_region eu-central env -u CACHE_BACKEND -u NETBUILD_JOIN sh -c '
        rm -rf "$1" && mkdir "$1" && cp graph.json *.txt *.awk "$1/" && printf "%s\n" "$2" >"$1/mesh.toml" &&
        netbuild-agent --config "$1/mesh.toml" --region "$1" --data-dir "$1/data" --listen "$3:0" --join "$4" --detach' \
        sh "$name" "$2" "$address" "$ticket" >/dev/null
    # shellcheck disable=SC2016
    wait_until "the agent $name knows the others" beside "$name" sh -c '[ "$(netbuild peers | grep -c "  ok  ")" -ge 3 ]'
}

# beside NAME COMMAND...: a command beside such an agent, in its workspace.
beside() {
    local name=$1
    shift
    # shellcheck disable=SC2016 # For the other shell.
    in_region eu-central sh -c 'cd "$0" && export NETBUILD_DATA_DIR="$PWD/data" && exec "$@"' "$name" "$@"
}

knows_as_much() {
    [[ $(beside "$1" netbuild status --json | json 'v["store"]["records"]') -ge \
        $(in_region us-west netbuild status --json | json 'v["store"]["records"]') ]]
}

# restore_beside NAME WHAT PRICE: us-west builds the version with this price, and it is restored beside such an agent.
restore_beside() {
    local name=$1 what=$2
    edit us-west "$3"
    build us-west
    beside "$name" sed -i "s/^oak-table .*/oak-table $3/" products.txt
    wait_until "$name knows what us-west has built" knows_as_much "$name"
    summary=$(beside "$name" netbuild run --prefer-cache --quiet --json) || broken "the build beside $name failed: $summary"
    expect "$name has it from us-west" 'v["executed"] == 0 and set(v["sources"]) == {"us-west"}'
    seconds[$name-$what]=$(figure 'round(v["seconds"], 2)')
    sent[$name-$what]=$(figure 'v["bytes_fetched"]')
}

# compare TITLE WHAT: a line that compares both agents.
compare() {
    local coded=adaptive-$2 plain=plain-$2
    row "$1" "$(json 'f"{v[0] / 1e6:.2f} MB in {v[1]} s, plain {v[2] / 1e6:.2f} MB in {v[3]} s: {100 - 100 * v[1] / v[3]:.0f} % of the time saved"' \
        <<<"[${sent[$coded]}, ${seconds[$coded]}, ${sent[$plain]}, ${seconds[$plain]}]")"
    [[ $((sent[$coded] * 2)) -lt ${sent[$plain]} ]] || broken 'what is coded is not much smaller than what is plain'
}

# The same results over the link of 25 Mbit/s and 150 ms: as they are, and as agents code them by themselves.
bandwidth_optimization() {
    local address ticket name
    local -A seconds=() sent=()
    for name in us-west eu-central; do
        lay_out "$name"
    done
    address=$(region_address eu-central)
    ticket=$(in_region us-west netbuild ticket)
    # One after the other: they would have it from each other.
    agent_beside plain $'[transfer]\ncodec = "off"\ndelta = false'
    restore_beside plain first 10
    restore_beside plain update 11
    beside plain netbuild stop
    agent_beside adaptive ''
    # Versions of its own, which us-west builds while the newcomer looks at its links, as those of the other one.
    restore_beside adaptive first 12
    restore_beside adaptive update 13
    beside adaptive netbuild stop
    in_region eu-central rm -rf plain adaptive
    row 'restored in eu-central from us-west, 25 Mbit/s and 150 ms' '(target: 70 % of the time saved)'
    compare 'everything' first
    compare 'after an edit of one line' update
}
