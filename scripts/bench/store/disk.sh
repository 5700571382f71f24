#!/usr/bin/env bash
# Measures the store on a disk, beside plain files, and prints figures, ratios and targets.
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)

usage() {
    cat <<'USAGE'
usage: scripts/bench.sh store disk [--only PART,...] [--quick] [--dir DIR] [--binary FILE] [--json FILE]

  copy      1 GiB is put and flushed, and read, beside a plain write with fsync and a plain read with BLAKE3
  index     an index of 1,000,000 records and 3,000,000 chunks (small blobs, each of one): time to open,
            memory, and random look-ups, in a process that has not filled it
  rebuild   the index of 100,000 blobs, half of them with files of their own, is made again
  crowd     32 threads put and 32 read for 10 minutes while space is made: errors, memory, disk

  --only PART,...  these parts (all)
  --quick          small: 64 MiB, 20,000 records, 2,000 blobs, 10 seconds; says nothing about the targets
  --dir DIR        where the directories are made (that of temporary files); some 12 GB are needed
  --binary FILE    the example `disk` of netbuild-store to measure (built for release)
  --json FILE      also writes the results as one JSON array
  --help           this text

Files are in the page cache when they are read, for both sides.
USAGE
}

fail() {
    echo "scripts/bench.sh: $*" >&2
    exit 2
}

parts=copy,index,rebuild,crowd
quick=
dir=${TMPDIR:-/tmp}
binary=
json=
while [[ $# -gt 0 ]]; do
    case $1 in
        --quick)
            quick=yes
            shift
            continue
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        --only | --dir | --binary | --json) [[ -n ${2-} ]] || fail "$1 needs a value" ;;&
        --only) parts=$2 ;;
        --dir) dir=$2 ;;
        --binary) binary=$2 ;;
        --json) json=$2 ;;
        *) fail "unknown argument '$1' (see --help)" ;;
    esac
    shift 2
done
for part in ${parts//,/ }; do
    [[ " copy index rebuild crowd " == *" $part "* ]] || fail "there is no part '$part' (see --help)"
done
command -v python3 >/dev/null || fail 'store disk needs python3'

if [[ -z $binary ]]; then
    (cd "$root" && cargo build --release --locked -q -p netbuild-store --example disk)
    binary=${CARGO_TARGET_DIR:-$root/target}/release/examples/disk
fi
scratch=$(mktemp -d "$dir/netbuild-bench.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

declare -A sizes=([copy]='1024 5' [index]='1000000 3000000' [rebuild]=100000 [crowd]='600 1024')
[[ -n $quick ]] && sizes=([copy]='64 3' [index]='20000 60000' [rebuild]=2000 [crowd]='10 64')
for part in ${parts//,/ }; do
    # Two heaps, as an agent has: with the sixteen that glibc makes here, memory would be about these.
    # shellcheck disable=SC2086
    MALLOC_ARENA_MAX=2 "$binary" "$part" "$scratch/$part" ${sizes[$part]} >>"$scratch/rows"
    rm -rf "${scratch:?}/$part"
done
python3 - "$scratch/rows" "$json" "$quick" <<'PYTHON'
import json, sys

rows = [json.loads(line) for line in open(sys.argv[1])]
for row in rows:
    if "error" in row:
        print("error:", row["error"])
        continue
    beside = f"   (beside {row['beside']:.2f})" if "beside" in row else ""
    target = ""
    if "target" in row and not sys.argv[3]:
        target = f"   target {row['target']}: {'met' if row['met'] else 'MISSED'}"
    print(f"{row['what']:<48} {row['figure']:>12.3f} {row['unit']:<6}{beside}{target}")
if sys.argv[2]:
    with open(sys.argv[2], "w") as file:
        json.dump(rows, file, indent=1)
        file.write("\n")
PYTHON
