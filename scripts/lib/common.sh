# What all scripts that are run by people share. Sourced, after `set -euo pipefail` and with $repository set.
# shellcheck shell=bash
# shellcheck disable=SC2154 # $repository is the caller's.

# say WORD...: tells what is going on, on standard error.
say() {
    printf '%s\n' "$*" >&2
}

# fail WORD...: ends the script with a message.
fail() {
    say "$(basename "$0"): $*"
    exit 2
}

# value OPTION VALUE...: the value of an option that needs one.
value() {
    [[ $# -ge 2 ]] || fail "$1 needs a value (see --help)"
    printf '%s' "$2"
}

bad_argument() {
    fail "unknown argument '$1' (see --help)"
}

# wait_until WHAT COMMAND...: repeats the command until it succeeds.
wait_until() {
    local what=$1 until=$((SECONDS + ${PATIENCE:-120}))
    shift
    until "$@"; do
        [[ $SECONDS -lt $until ]] || fail "$what: not after ${PATIENCE:-120} s"
        sleep 0.2
    done
}

# json EXPRESSION: prints what a Python expression makes of the JSON `v` on standard input; nothing for None.
json() {
    python3 -c '
import json, sys
v = json.load(sys.stdin)
found = eval(sys.argv[1])
if found is not None:
    print(found if not isinstance(found, bool) else str(found).lower())
' "$1"
}

# program_dir PROFILE: where cargo puts programs.
program_dir() {
    printf '%s' "${CARGO_TARGET_DIR:-$repository/target}/$1"
}

# build_programs PROFILE: builds both of them, `debug` or `release`.
build_programs() {
    local flags=()
    [[ $1 == debug ]] || flags=(--release)
    say "building netbuild ($1)"
    (cd "$repository" && cargo build --quiet --locked --bins ${flags[@]+"${flags[@]}"})
}
