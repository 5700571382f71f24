#!/usr/bin/env bash
# Measures `netbuild run` beside ninja and cp on generated graphs, and prints medians, ratios and targets.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

usage() {
    cat <<'USAGE'
usage: scripts/bench.sh runner [--only PART,...] [--runs N] [--jobs N] [--binary FILE] [--json FILE]

Graphs of N tasks `cat in_i > out/o_i`, run by `netbuild run` without an agent and by ninja:
  no-op     200, 1,000 and 10,000 tasks, nothing changed
  cold      200 and 1,000 tasks, no outputs, no cache
  restore   200 and 1,000 tasks, outputs deleted; netbuild restores them, ninja builds them again
  tree      one task with 1 GiB in 10,000 files as its output, deleted; beside `cp -r` of the same files
  load      a graph of 88,000 tasks is loaded, and one task of it planned; beside ninja loading as many
  memory    100,000 tasks are loaded, planned and found undone
  large     a task with 100,000 inputs, one with an output of 5 GiB, a chain of 100,000 tasks, a build.ninja of
            200,000 statements: each once, time and memory (needs 12 GiB)

  --only PART,...  these parts (all)
  --runs N         runs of each cold, restore, tree and load measurement (5); no-op takes four times as many
  --jobs N         tasks at once, for both tools (number of processors)
  --binary FILE    the netbuild to measure (target/release/netbuild)
  --json FILE      also writes the results as one JSON object
  --help           this text

Commands of both tools see the same environment. Needs hyperfine, ninja and GNU time; as root on Debian
they are installed when missing.
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

# The value of option $1, or an error.
value() {
    [[ -n ${2-} ]] || fail "$1 needs a value"
    echo "$2"
}

parts=no-op,cold,restore,tree,load,memory,large
runs=5
jobs=$(getconf _NPROCESSORS_ONLN)
binary=$repository/target/release/netbuild
json=
while [[ $# -gt 0 ]]; do
    case $1 in
        --only) parts=$(value "$@") ;;
        --runs) runs=$(number "$@") ;;
        --jobs) jobs=$(number "$@") ;;
        --binary) binary=$(value "$@") ;;
        --json) json=$(value "$@") ;;
        --help | -h)
            usage
            exit 0
            ;;
        *) fail "unknown argument '$1' (see --help)" ;;
    esac
    shift 2
done
for part in ${parts//,/ }; do
    [[ " no-op cold restore tree load memory large " == *" $part "* ]] || fail "there is no part '$part' (see --help)"
done

# Installs the packages of missing tools where that needs no question, else names them.
require_tools() {
    local missing=()
    command -v hyperfine >/dev/null || missing+=(hyperfine)
    command -v ninja >/dev/null || missing+=(ninja-build)
    [[ -x /usr/bin/time ]] || missing+=(time)
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

# netbuild gives commands these variables; ninja passes on its own.
environment="env -i PATH=$PATH HOME=$HOME LANG=C.UTF-8 TZ=UTC TERM=dumb NO_COLOR=1"
netbuild_command="$environment $binary run -q -j $jobs --data-dir $work/data"
ninja_command="$environment ninja -j $jobs"

# The same $1 tasks for both tools, in two copies of the workspace; with inputs when $2 says so.
generate() {
    rm -rf "$work"/{netbuild,ninja,data}
    mkdir -p "$work/netbuild/out" "$work/ninja/out"
    awk -v n="$1" -v dir="$work" -v inputs="${2-}" 'BEGIN {
        graph = dir "/netbuild/graph.json"; ninja = dir "/ninja/build.ninja"
        print "{ \"version\": \"1\", \"default\": \"all\", \"tasks\": {" >graph
        print "rule cat\n  command = cat $in > $out" >ninja
        for (i = 1; i <= n; i++) {
            printf "\"t%d\": { \"command\": \"cat in_%d > out/o_%d\", ", i, i, i >graph
            printf "\"inputs\": [\"in_%d\"], \"outputs\": [\"out/o_%d\"] },\n", i, i >graph
            printf "build out/o_%d: cat in_%d\n", i, i >ninja
            if (inputs) {
                file = dir "/netbuild/in_" i; print "input " i >file; close(file)
                file = dir "/ninja/in_" i; print "input " i >file; close(file)
            }
        }
        printf "\"all\": { \"deps\": [" >graph
        for (i = 1; i <= n; i++) printf "%s\"t%d\"", (i > 1 ? ", " : ""), i >graph
        print "] } } }" >graph
    }'
}

# One task that makes 10,000 files of 1 GiB together, of bytes that differ from file to file.
generate_tree() {
    rm -rf "$work"/{netbuild,data,copy}
    mkdir -p "$work/netbuild"
    cat >"$work/netbuild/make.sh" <<'MAKE'
mkdir -p tree
for directory in $(seq 100); do mkdir -p tree/$directory; done
openssl enc -aes-128-ctr -nosalt -pass pass:tree -in /dev/zero 2>/dev/null | head -c 1073740000 |
    split -b 107374 -a 5 -d --filter='n=${FILE#x}; cat >tree/$(expr $n % 100 + 1)/$n'
MAKE
    cat >"$work/netbuild/graph.json" <<'GRAPH'
{ "version": "1", "tasks": {
    "tree": { "command": ["bash", "make.sh"], "inputs": ["make.sh"], "outputs": ["tree/"] } } }
GRAPH
}

# What hyperfine runs before a measured run; the directory `out` itself stays for the tasks.
write_preparations() {
    printf '#!/bin/sh\nfind out -type f -delete\n' >"$work/restore"
    printf '#!/bin/sh\nfind out -type f -delete\nrm -rf ../data .netbuild .ninja_log .ninja_deps\n' \
        >"$work/cold"
    printf '#!/bin/sh\nrm -rf tree ../copy\n' >"$work/no-tree"
    printf '#!/bin/sh\nrm -rf ../copy\n' >"$work/no-copy"
    chmod +x "$work"/{restore,cold,no-tree,no-copy}
}

# measure NAME DIRECTORY COMMAND RUNS [OPTION...]: the median in seconds.
measure() {
    local csv="$work/$1.csv" directory=$2 command=$3 count=$4
    shift 4
    (cd "$work/$directory" && hyperfine -N --style none --runs "$count" --export-csv "$csv" "$@" \
        --command-name measured "$command") >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        fail "the measured command failed: $command"
    }
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "median") column = i }
             NR == 2 { printf "%.6f\n", $column }' "$csv"
}

# The most memory that a command has resident, in MB.
memory() {
    (cd "$work/$1" && /usr/bin/time -f %M -o "$work/memory" $2 >"$work/log" 2>&1) || {
        cat "$work/log" >&2
        fail "the measured command failed: $2"
    }
    awk '{ printf "%.1f\n", $1 / 1000 }' "$work/memory"
}

# large NAME COMMAND: the time and the memory of one run in a workspace of netbuild's.
large() {
    local megabytes seconds
    read -r megabytes seconds <<<"$(memory_and_time "$2")"
    row "$1" ms "$(ms "$seconds")" 0 '' ''
    row "$1 MB" MB "$megabytes" 0 '' ''
}

memory_and_time() {
    (cd "$work/netbuild" && /usr/bin/time -f '%M %e' -o "$work/memory" $1 >"$work/log" 2>&1) || {
        cat "$work/log" >&2
        fail "the measured command failed: $1"
    }
    awk '{ printf "%.1f %s\n", $1 / 1000, $2 }' "$work/memory"
}

generate_large() {
    rm -rf "$work"/{netbuild,data}
    mkdir -p "$work/netbuild/in"
    awk -v dir="$work/netbuild" 'BEGIN {
        for (i = 0; i < 100000; i++) { file = dir "/in/" i; print i >file; close(file) }
        graph = dir "/graph.json"
        print "{ \"tasks\": {" >graph
        print "\"inputs\": { \"command\": \"ls in | wc -l >n\", \"inputs\": [\"in/**\"], \"outputs\": [\"n\"] }," >graph
        print "\"output\": { \"command\": \"head -c 5G /dev/zero >big\", \"inputs\": [], \"outputs\": [\"big\"] } } }" >graph
        chain = dir "/chain.json"
        print "{ \"tasks\": {" >chain
        for (i = 0; i < 100000; i++)
            printf "\"t%d\": { \"command\": \"true\", \"outputs\": [], \"deps\": [%s] }%s\n", i,
                (i ? "\"t" i - 1 "\"" : ""), (i < 99999 ? "," : " } }") >chain
        ninja = dir "/build.ninja"
        print "rule cc\n  command = cat $in > $out\n  depfile = $out.d" >ninja
        for (i = 0; i < 200000; i++)
            printf "build obj/%d/file_%d.o: cc src/%d/file_%d.c | in/%d\n", i % 1000, i, i % 1000, i, i % 100 >ninja
    }'
}

# Numbers count only when the outputs are right and a restore has really run nothing.
check() {
    local tool i
    for tool in netbuild ninja; do
        for ((i = 1; i <= $1; i++)); do
            cmp -s "$work/$tool/in_$i" "$work/$tool/out/o_$i" || fail "$tool: out/o_$i is wrong"
        done
    done
    (cd "$work/netbuild" && ../restore && $netbuild_command --summary ../summary >/dev/null 2>&1) ||
        fail 'netbuild: restoring failed'
    executed_nothing
}

executed_nothing() {
    grep -Eq '"executed": *0[,}[:space:]]' "$work/summary" ||
        fail "netbuild: a restore ran tasks: $(cat "$work/summary")"
}

results=()
# row NAME UNIT OURS THEIRS TARGET HIGHEST: one line, and whether OURS, or the ratio when HIGHEST ends
# in x, is at most HIGHEST; with `HIGHEST and theirs`, at most THEIRS as well.
row() {
    results+=("$(awk -v name="$1" -v unit="$2" -v ours="$3" -v theirs="$4" -v target="$5" -v most="$6" 'BEGIN {
        ratio = theirs > 0 ? ours / theirs : 0
        bound = most + 0; judged = most ~ /x$/ ? ratio : ours
        is_met = judged <= bound && (most !~ / and theirs$/ || ours <= theirs)
        verdict = most == "" ? "" : (is_met ? "met" : "MISSED")
        printf "%s\t%s\t%s\t%s\t%.3f\t%s\t%s", name, unit, ours, theirs, ratio, target, verdict }')")
    awk -F'\t' '{ printf "%-16s %10.1f %10s %7s   %-30s %s\n", $1, $3, ($4 > 0 ? sprintf("%.1f", $4) : "-"),
        ($4 > 0 ? sprintf("%.2f", $5) : "-"), $6, $7 }' <<<"${results[-1]}"
}

ms() {
    awk -v seconds="$1" 'BEGIN { printf "%.2f", seconds * 1e3 }'
}

# Both tools with $2 tasks, as part $1 says; with a target.
compare() {
    local part=$1 tasks=$2 target=$3 most=$4 tool command count options times=()
    for tool in netbuild ninja; do
        command=${tool}_command
        case $part in
            no-op) options=(--warmup 3) count=$((runs * 4)) ;;
            *) options=(--prepare "$work/$part") count=$runs ;;
        esac
        # A no-op needs something that is built already, and whose files are not new any more.
        [[ $part == no-op ]] && measure first "$tool" "${!command}" 1 >/dev/null && sleep 3
        times+=("$(ms "$(measure "$tool" "$tool" "${!command}" "$count" "${options[@]}")")")
    done
    row "$part $tasks" ms "${times[@]}" "$target" "$most"
}

machine() {
    local model
    model=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
    echo "${model:-$(sysctl -n machdep.cpu.brand_string 2>/dev/null || uname -m)}"
}

wants() {
    [[ ",$parts," == *",$1,"* ]]
}

write_preparations
processors=$(getconf _NPROCESSORS_ONLN)
model=$(machine)
printf 'machine   %s, %s processors, %s %s\n' "$model" "$processors" "$(uname -s)" "$(uname -r)"
printf 'netbuild  %s\n' "${netbuild_command//$work/DIR}"
printf 'ninja     %s (%s)\n\n' "$ninja_command" "$(ninja --version)"
printf '%-16s %10s %10s %7s   %-30s\n' 'part (ms, MB)' netbuild other ratio target

if wants no-op || wants cold || wants restore; then
    for tasks in 200 1000 10000; do
        generate "$tasks" inputs
        case $tasks in
            200) target='at most 20 ms' most=20 ;;
            1000) target='at most 60 ms' most=60 ;;
            10000) target='at most 150 ms, and ninja' most='150 and theirs' ;;
        esac
        wants no-op && compare no-op "$tasks" "$target" "$most"
        [[ $tasks == 10000 ]] && continue
        if wants cold; then
            [[ $tasks == 1000 ]] && compare cold "$tasks" 'at most 1.2 x ninja' 1.2x || compare cold "$tasks" '' ''
        fi
        if wants restore; then
            measure first netbuild "$netbuild_command" 1 >/dev/null
            measure first ninja "$ninja_command" 1 >/dev/null
            [[ $tasks == 200 ]] && compare restore "$tasks" 'at most 100 ms' 100 || compare restore "$tasks" '' ''
        fi
        (cd "$work/netbuild" && $netbuild_command) && (cd "$work/ninja" && $ninja_command >/dev/null)
        check "$tasks"
    done
fi

if wants tree; then
    generate_tree
    (cd "$work/netbuild" && $netbuild_command) || fail 'netbuild: the tree was not made'
    # What is written back meanwhile would be measured too.
    sync
    ours=$(measure tree netbuild "$netbuild_command --summary $work/summary" "$runs" --prepare "$work/no-tree")
    executed_nothing
    theirs=$(measure copy netbuild 'cp -r tree ../copy' "$runs" --prepare "$work/no-copy")
    diff -r "$work/netbuild/tree" "$work/copy" >/dev/null || fail 'netbuild: the restored tree is wrong'
    row 'tree 1 GiB' ms "$(ms "$ours")" "$(ms "$theirs")" 'at most 1.25 x cp -r' 1.25x
fi

plan="$netbuild_command --dry-run"
if wants load; then
    generate 88000
    ours=$(measure load netbuild "$plan t1" "$runs" --ignore-failure)
    theirs=$(measure load ninja "$ninja_command -t targets all" "$runs")
    row 'load 88000' ms "$(ms "$ours")" "$(ms "$theirs")" 'at most 1000 ms' 1000
    row 'load 88000 MB' MB "$(memory netbuild "$plan t1")" "$(memory ninja "$ninja_command -t targets all")" 'at most 250 MB' 250
fi

if wants memory; then
    generate 100000
    row 'plan 100000 MB' MB "$(memory netbuild "$plan")" 0 'at most 400 MB' 400
fi

if wants large; then
    generate_large
    large '100000 inputs' "$netbuild_command inputs"
    large 'and again' "$netbuild_command inputs"
    large 'output of 5 GiB' "$netbuild_command output"
    large 'chain of 100000' "$plan --graph chain.json"
    large 'ninja of 200000' "$environment $binary graph list --names --graph build.ninja"
fi

if [[ -n $json ]]; then
    {
        printf '{"runs":%s,"jobs":%s,' "$runs" "$jobs"
        printf '"processors":%s,"cpu":"%s","results":[' "$processors" "${model//[\"\\]/}"
        for i in "${!results[@]}"; do
            [[ $i -gt 0 ]] && printf ','
            awk -F'\t' '{ printf "{\"name\":\"%s\",\"unit\":\"%s\",\"netbuild\":%s,\"other\":%s,\"ratio\":%s,\"target\":\"%s\",\"verdict\":\"%s\"}",
                $1, $2, $3, ($4 > 0 ? $4 : "null"), ($4 > 0 ? $5 : "null"), $6, $7 }' <<<"${results[i]}"
        done
        printf ']}\n'
    } >"$json"
fi
