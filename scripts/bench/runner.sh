#!/usr/bin/env bash
# Measures `netbuild run` beside ninja on a generated graph, and prints medians and ratios.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

usage() {
    cat <<'USAGE'
usage: scripts/bench.sh runner [--tasks N] [--runs N] [--jobs N] [--binary FILE] [--json FILE]

A graph of N tasks `cat in_i > out/o_i`, run by `netbuild run` without an agent and by ninja:
  no-op     nothing changed
  cold      no outputs, no cache
  restore   outputs deleted; netbuild restores them, ninja builds them again

  --tasks N      tasks in the graph (200)
  --runs N       runs of each cold and restore measurement (5); no-op takes ten times as many
  --jobs N       tasks at once, for both tools (number of processors)
  --binary FILE  the netbuild to measure (target/release/netbuild)
  --json FILE    also writes the results as one JSON object
  --help         this text

Needs hyperfine and ninja; as root on Debian they are installed when missing.
USAGE
}

fail() {
    echo "scripts/bench.sh: $*" >&2
    exit 2
}

# The value of option $1 as a positive number, or an error.
number() {
    [[ ${2-} =~ ^[1-9][0-9]{0,5}$ ]] || fail "$1 needs a number from 1 to 999999, not '${2-}'"
    echo "$2"
}

# The value of option $1 as the name of a file, or an error.
file() {
    [[ -n ${2-} ]] || fail "$1 needs the name of a file"
    echo "$2"
}

tasks=200
runs=5
jobs=$(getconf _NPROCESSORS_ONLN)
binary=$repository/target/release/netbuild
json=
while [[ $# -gt 0 ]]; do
    case $1 in
        --tasks) tasks=$(number "$@") ;;
        --runs) runs=$(number "$@") ;;
        --jobs) jobs=$(number "$@") ;;
        --binary) binary=$(file "$@") ;;
        --json) json=$(file "$@") ;;
        --help | -h)
            usage
            exit 0
            ;;
        *) fail "unknown argument '$1' (see --help)" ;;
    esac
    shift 2
done

# Installs the packages of missing tools where that needs no question, else names them.
require_tools() {
    local missing=()
    command -v hyperfine >/dev/null || missing+=(hyperfine)
    command -v ninja >/dev/null || missing+=(ninja-build)
    [[ ${#missing[@]} -eq 0 ]] && return
    if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
        apt-get update -q && apt-get install -qy --no-install-recommends "${missing[@]}"
    else
        fail "missing packages: ${missing[*]} (Debian names; elsewhere ninja-build may be ninja)"
    fi
}

require_tools
[[ -x $binary ]] || fail "no $binary; build it with: cargo build --release --locked"
# The measurements run in directories of their own.
binary=$(cd "$(dirname "$binary")" && pwd)/$(basename "$binary")
json=${json:+$(cd "$(dirname "$json")" && pwd)/$(basename "$json")}

work=$(mktemp -d "${TMPDIR:-/tmp}/netbuild-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
# hyperfine splits command lines itself, so a path with a space would fall apart.
[[ "$binary $work" =~ ^[^[:space:]]+\ [^[:space:]]+$ ]] || fail "no spaces, please: $binary, $work"

# The same tasks for both tools, in two copies of the workspace.
generate() {
    mkdir -p "$work/netbuild/out" "$work/ninja/out"
    local i all=''
    {
        printf '{ "version": "1", "default": "all", "tasks": {\n'
        for ((i = 1; i <= tasks; i++)); do
            printf '"t%d": { "command": "cat in_%d > out/o_%d", ' "$i" "$i" "$i"
            printf '"inputs": ["in_%d"], "outputs": ["out/o_%d"] },\n' "$i" "$i"
            all+="${all:+, }\"t$i\""
        done
        printf '"all": { "deps": [%s] } } }\n' "$all"
    } >"$work/netbuild/graph.json"
    {
        # shellcheck disable=SC2016 # ninja expands these.
        printf 'rule cat\n  command = cat $in > $out\n'
        for ((i = 1; i <= tasks; i++)); do
            printf 'build out/o_%d: cat in_%d\n' "$i" "$i"
        done
    } >"$work/ninja/build.ninja"
    for ((i = 1; i <= tasks; i++)); do
        echo "input $i" | tee "$work/netbuild/in_$i" >"$work/ninja/in_$i"
    done
}

# What hyperfine runs before a measured run; the directory `out` itself stays for the tasks.
write_preparations() {
    printf '#!/bin/sh\nfind out -type f -delete\n' >"$work/restore"
    printf '#!/bin/sh\nfind out -type f -delete\nrm -rf ../data .netbuild .ninja_log .ninja_deps\n' \
        >"$work/cold"
    chmod +x "$work/restore" "$work/cold"
}

netbuild_command="$binary run -j $jobs --data-dir $work/data"
ninja_command="ninja -j $jobs"

# measure TOOL CASE COMMAND RUNS [OPTION...]: the median in seconds.
measure() {
    local tool=$1 name=$2 command=$3 count=$4 csv="$work/$1-$2.csv"
    shift 4
    (cd "$work/$tool" && hyperfine -N --style none --runs "$count" --export-csv "$csv" "$@" \
        --command-name "$tool-$name" "$command") >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        fail "$tool, $name: the measured command failed"
    }
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "median") column = i }
             NR == 2 { printf "%.6f\n", $column }' "$csv"
}

# Numbers count only when the outputs are right and a restore has really run nothing.
check() {
    local tool i
    for tool in netbuild ninja; do
        for ((i = 1; i <= tasks; i++)); do
            cmp -s "$work/$tool/in_$i" "$work/$tool/out/o_$i" || fail "$tool: out/o_$i is wrong"
        done
    done
    (cd "$work/netbuild" && ../restore && $netbuild_command --summary ../summary >/dev/null 2>&1) ||
        fail 'netbuild: restoring failed'
    grep -Eq '"executed": *0[,}[:space:]]' "$work/summary" ||
        fail "netbuild: a restore ran tasks: $(cat "$work/summary")"
}

machine() {
    local model
    model=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
    echo "${model:-$(sysctl -n machdep.cpu.brand_string 2>/dev/null || uname -m)}"
}

generate
write_preparations

cases=(no-op cold restore)
netbuild_medians=()
ninja_medians=()
for name in "${cases[@]}"; do
    for tool in netbuild ninja; do
        command=${tool}_command
        case $name in
            no-op) options=(--warmup 3) count=$((runs * 10)) ;;
            *) options=(--prepare "$work/$name") count=$runs ;;
        esac
        # A no-op needs something that is built already.
        [[ $name == no-op ]] && measure "$tool" first "${!command}" 1 >/dev/null
        median=$(measure "$tool" "$name" "${!command}" "$count" "${options[@]}")
        case $tool in
            netbuild) netbuild_medians+=("$median") ;;
            ninja) ninja_medians+=("$median") ;;
        esac
    done
done
check

processors=$(getconf _NPROCESSORS_ONLN)
model=$(machine)
printf 'machine   %s, %s processors, %s %s\n' "$model" "$processors" "$(uname -s)" "$(uname -r)"
printf 'work      %s tasks "cat in_i > out/o_i"; medians of %s runs, no-op of %s\n' \
    "$tasks" "$runs" $((runs * 10))
printf 'netbuild  %s\n' "${netbuild_command//$work/DIR}"
printf 'ninja     %s (%s)\n\n' "$ninja_command" "$(ninja --version)"
printf '%-10s %12s %12s %8s\n' case 'netbuild ms' 'ninja ms' ratio
for i in "${!cases[@]}"; do
    awk -v name="${cases[i]}" -v ours="${netbuild_medians[i]}" -v theirs="${ninja_medians[i]}" \
        'BEGIN { printf "%-10s %12.1f %12.1f %8.2f\n", name, ours * 1e3, theirs * 1e3, ours / theirs }'
done

if [[ -n $json ]]; then
    {
        printf '{"tasks":%s,"runs":%s,"jobs":%s,' "$tasks" "$runs" "$jobs"
        printf '"processors":%s,"cpu":"%s","seconds":{' "$processors" "${model//[\"\\]/}"
        for i in "${!cases[@]}"; do
            printf '%s"%s":{"netbuild":%s,"ninja":%s}' "$([[ $i -gt 0 ]] && echo ,)" \
                "${cases[i]}" "${netbuild_medians[i]}" "${ninja_medians[i]}"
        done
        printf '}}\n'
    } >"$json"
fi
