# What happens to a build whose sources fail on the way. Sourced after builds.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # Variables of the caller.

# The region that builds, the one that it gets most from, and the one that is left then.
HERE=eu-central
PRIMARY=us-east
OTHER=us-west

# longest_pause: of the events of the last fetch, the longest time in which no byte came, in seconds.
longest_pause() {
    in_region "$HERE" cat events | python3 -c '
import json, sys
longest, last, done = 0, None, -1
for event in map(json.loads, sys.stdin):
    if event["event"] == "finished" or event["event"] == "moving" and event["done"] > done:
        longest = max(longest, event["at"] - (last or event["at"]))
        last, done = event["at"], event.get("done")
print(f"{longest:.2f}")
'
}


# is_under_way BYTES: whether the fetch has so many.
is_under_way() {
    local far
    # The last line may be written in part.
    far=$(in_region "$HERE" tail -n 2 events 2>/dev/null | grep -o '"done":[0-9]*,' | tail -n 1 | tr -dc '0-9')
    [[ ${far:-0} -ge $1 ]]
}

# crossed FROM TO: the bytes of all packets that passed from one region to another.
crossed() {
    wan status --json | json "next(l['passed_bytes'] for l in v['links'] if (l['from'], l['to']) == ('$1', '$2'))"
}

# fetch NAME COMMAND...: an artifact that both other regions have is restored here; on its way the command is run.
fetch() {
    local name=$1 region before code=0
    shift
    for region in "$PRIMARY" "$OTHER" "$HERE"; do
        image_of "$region" "$name" "$bytes"
    done
    build "$PRIMARY" image
    expect "$PRIMARY builds the artifact" 'v["executed"] == 1'
    wait_until "all know what $PRIMARY has built" have_equal_records "${REGIONS[@]}"
    build "$OTHER" image
    expect "$OTHER has it from $PRIMARY" 'v["executed"] == 0 and v["hits"]["peer"] == 1'

    in_region "$HERE" rm -f events
    in_region "$HERE" netbuild run --prefer-cache --quiet --json --json-events events image >"$scratch/summary" &
    wait_until 'the artifact is on its way' is_under_way $((bytes / 4))
    "$@"
    before=$(crossed "$OTHER" "$HERE")
    wait "$!" || code=$?
    summary=$(<"$scratch/summary")
    [[ $code -eq 0 ]] || broken "the build in $HERE failed with code $code: $summary"
    expect 'nothing was built again' 'v["executed"] == 0 and v["hits"]["peer"] == 1'
    [[ $(($(crossed "$OTHER" "$HERE") - before)) -gt $((bytes / 20)) ]] || broken "nothing more came from $OTHER"
    [[ $(checksum "$HERE" out/image) == "$(checksum "$OTHER" out/image)" ]] ||
        broken "$HERE and $OTHER do not have the same bytes"
    took=$(figure 'round(v["seconds"], 2)')
    pause=$(longest_pause)
}

network_failure() {
    local bytes=30000000 took pause region
    say "an artifact of $((bytes / 1000000)) MB that $PRIMARY and $OTHER have is restored in $HERE"
    for region in "${REGIONS[@]}"; do
        lay_out "$region"
    done

    fetch calm true
    row 'undisturbed' "$took s"

    fetch killed kill_agent "$PRIMARY"
    row "$PRIMARY is killed on the way" "$took s, longest pause $pause s (target: 1 s)"
    start_agent "$PRIMARY"
    wait_until 'all regions know each other again' everybody_is_well "${REGIONS[@]}"

    fetch paused pause_agent "$PRIMARY"
    row "$PRIMARY is paused on the way" "$took s, longest pause $pause s"
    resume_agent "$PRIMARY"
    wait_until 'all regions know each other again' everybody_is_well "${REGIONS[@]}"

    fetch "cut" wan set "$PRIMARY:$HERE" --profile cut
    row "$PRIMARY is cut off on the way" "$took s, longest pause $pause s"
    wan set "$PRIMARY:$HERE" --reset
    wait_until 'all regions know each other again' everybody_is_well "${REGIONS[@]}"

    # Both others cut off: what is not known here is built here.
    wan set "$HERE" --profile cut
    build "$HERE"
    expect "$HERE builds by itself" 'v["executed"] == v["tasks"] == 5'
    row "$HERE is cut off from everybody" "its build goes on: $(figure 'round(v["seconds"], 1)') s, all executed"
    wan set "$HERE" --reset
    wait_until 'all regions know each other again' everybody_is_well "${REGIONS[@]}"
    wait_until "all know what $HERE built" have_equal_records "${REGIONS[@]}"
    build "$PRIMARY"
    expect "$PRIMARY has what $HERE built" "v['executed'] == 0 and '$HERE' in v['sources']"
    row 'after the links are mended' "$PRIMARY restores it: $(figure 'round(v["seconds"], 1)') s, nothing executed"
    for region in "${REGIONS[@]}"; do
        in_region "$region" netbuild conflicts --fail >/dev/null || broken "$region tells of conflicts"
    done
}
