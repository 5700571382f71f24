#!/usr/bin/env bash
# Measures what an update costs on the wire: our deltas beside zstd, bsdiff, rsync, zsync and casync.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

usage() {
    cat <<'USAGE'
usage: scripts/bench/delta.sh DIR [NAME...]

For the pairs DIR/NAME.old and DIR/NAME.new of scripts/bench/pairs.sh (default: all) prints the bytes on
the wire, their share of the new file, and the CPU seconds of who makes them:
  delta        the example of agent/transfer, each method, in segments of 8 MiB
  zstd -3 -19  zstd --patch-from --long=31
  bsdiff       the whole patch
  rsync -z     both directions of `rsync --no-whole-file -z` with the old file at the receiver
  zsync        the .zsync file and what is fetched over HTTP (nginx on the loopback address)
  casync       the index and the compressed chunks that the old file does not have, default chunk size
A tool that is not installed is left out. DELTA is the built example, when it is not to be built here.
USAGE
}

[[ ${1-} == --help || ${1-} == -h ]] && usage && exit 0
[[ $# -ge 1 ]] || { usage >&2; exit 2; }
dir=$(cd "$1" && pwd)
shift
names=("$@")
if [[ ${#names[@]} == 0 ]]; then
    for file in "$dir"/*.new; do
        names+=("$(basename "$file" .new)")
    done
fi
if [[ -z ${DELTA-} ]]; then
    (cd "$repository" && cargo build --quiet --release --locked -p netbuild-transfer --example delta)
    DELTA=${CARGO_TARGET_DIR:-$repository/target}/release/examples/delta
fi

scratch=$(mktemp -d)
server=
cleanup() {
    [[ -z $server ]] || kill "$server"
    rm -rf "$scratch"
}
trap cleanup EXIT

# Runs a command silently and keeps its CPU seconds in $cpu.
timed() {
    local TIMEFORMAT='%U %S'
    cpu=$({ time "$@" >"$scratch/out" 2>"$scratch/err"; } 2>&1 | awk '{ print $1 + $2 }')
}

# Prints a line of the table: name, bytes, size of the new file, CPU seconds or nothing.
row() {
    awk -v name="$1" -v bytes="$2" -v size="$3" -v cpu="${4-}" \
        'BEGIN { printf "%-10s %10d %6.2f%% %8s\n", name, bytes, bytes * 100 / size, cpu }'
}

size() { stat -c %s "$1"; }

# Serves the scratch directory on a free port, which is kept in $port.
serve() {
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    cat >"$scratch/nginx.conf" <<CONF
daemon off; master_process off; pid $scratch/pid; error_log $scratch/error.log;
events {}
http { access_log off; client_body_temp_path $scratch/body; server { listen 127.0.0.1:$port; root $scratch/www; } }
CONF
    nginx -p "$scratch" -c "$scratch/nginx.conf" 2>"$scratch/nginx.err" &
    server=$!
    until curl -s -o "$scratch/ready" "http://127.0.0.1:$port/"; do kill -0 "$server"; done
}

has() { command -v "$1" >"$scratch/which"; }

mkdir -p "$scratch/www"
if has zsync && has nginx; then serve; fi

for name in "${names[@]}"; do
    old=$dir/$name.old new=$dir/$name.new
    bytes=$(size "$new")
    echo "== $name: $(size "$old") -> $bytes bytes"
    "$DELTA" "$old" "$new"
    echo "tool            bytes  of new    CPU s"
    if has zstd; then
        for level in 3 19; do
            timed zstd -q -f "-$level" --long=31 --single-thread --patch-from "$old" "$new" -o "$scratch/patch"
            row "zstd -$level" "$(size "$scratch/patch")" "$bytes" "$cpu"
        done
    fi
    if has bsdiff; then
        timed bsdiff "$old" "$new" "$scratch/patch"
        row bsdiff "$(size "$scratch/patch")" "$bytes" "$cpu"
    fi
    if has rsync; then
        cp "$old" "$scratch/target"
        timed rsync --stats --no-whole-file --ignore-times -z "$new" "$scratch/target"
        sent=$(awk -F'[: ]+' '/^Total bytes (sent|received)/ { gsub(",", "", $4); sum += $4 } END { print sum }' "$scratch/out")
        cmp "$new" "$scratch/target"
        row "rsync -z" "$sent" "$bytes" "$cpu"
    fi
    if [[ -n $server ]]; then
        cp "$new" "$scratch/www/new"
        (cd "$scratch/www" && zsyncmake -q -u new new -o new.zsync 2>"$scratch/err")
        (cd "$scratch" && timed zsync -i "$old" -o got "http://127.0.0.1:$port/new.zsync"; echo "$cpu" >cpu)
        cmp "$new" "$scratch/got"
        fetched=$(tr '\r' '\n' <"$scratch/out" | sed -n 's/.*used [0-9]* local, fetched \([0-9]*\).*/\1/p' | tail -1)
        row zsync "$(($(size "$scratch/www/new.zsync") + fetched))" "$bytes" "$(cat "$scratch/cpu")"
        rm -f "$scratch/got"*
    fi
    if has casync; then
        casync make --store="$scratch/a.castr" "$scratch/old.caibx" "$old" >"$scratch/out"
        timed casync make --store="$scratch/b.castr" "$scratch/new.caibx" "$new"
        missing=$(cd "$scratch/b.castr" && find . -name '*.cacnk' -printf '%P %s\n' | while read -r chunk length; do
            [[ -e $scratch/a.castr/$chunk ]] || echo "$length"
        done | awk '{ sum += $1 } END { print sum + 0 }')
        row casync "$((missing + $(size "$scratch/new.caibx")))" "$bytes" "$cpu"
        rm -rf "$scratch"/*.castr
    fi
done
