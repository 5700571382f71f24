# Builds in the regions, and what must be true of them. Sourced after regions.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2016 # Variables of the caller; and scripts for other shells.

# What is different in each run of a script, so that nothing is known from the one before.
run_id=$(date +%s).$$
# The summary of the last build.
summary={}

# broken WORD...: ends the script because something is not as it must be.
broken() {
    say "FAILED: $*"
    exit 1
}

# holds EXPRESSION: whether a Python expression is true of the last summary, `v`.
holds() {
    [[ $(json "$1" <<<"$summary") == true ]]
}

# expect WHAT EXPRESSION: ends the script unless it is.
expect() {
    holds "$2" || broken "$1; the build says: $summary"
}

# lay_out REGION: its workspace, with the sources that no earlier run has built.
lay_out() {
    tar -C "$repository/scripts/lib/workload" -c . | in_region "$1" tar -x -f -
    in_region "$1" sh -c 'rm -rf out .netbuild && echo "lamp-$1 70" >>products.txt' sh "${run_id//[^0-9]/}"
}

# edit REGION PRICE: a one-line change.
edit() {
    in_region "$1" sed -i "s/^oak-table .*/oak-table $2/" products.txt
}

# image_of REGION NAME BYTES: what the task `image` is to make.
image_of() {
    in_region "$1" sh -c 'echo "$1 $2" >image.txt' sh "$3" "$2-$run_id"
}

# build REGION [ARGUMENT...]: `netbuild run`; its summary is in $summary. All is about what comes from where, and
# the tasks are quick, so nothing may be built because that is sooner.
build() {
    local region=$1
    shift
    summary=$(in_region "$region" netbuild run --prefer-cache --quiet --json "$@") ||
        broken "the build in $region failed: netbuild run $*: $summary"
}

# checksum REGION FILE: of what is in its workspace.
checksum() {
    in_region "$1" sha256sum "$2" | cut -d ' ' -f 1
}

# figure EXPRESSION: a figure of the last summary.
figure() {
    json "$1" <<<"$summary"
}

# everybody_is_well REGION...: whether these are connected with all others, and no source rests.
everybody_is_well() {
    local region
    for region in "$@"; do
        knows_others "$region" || return 1
    done
}

# have_equal_records REGION...: whether each of these knows as many results as the others.
have_equal_records() {
    local region counts
    counts=$(for region in "$@"; do
        in_region "$region" netbuild status --json | json 'v["store"]["records"]'
    done | sort -u | wc -l)
    [[ $counts -eq 1 ]]
}

# row NAME TEXT: a line of the results.
row() {
    printf '  %-58s %s\n' "$1" "$2"
}
