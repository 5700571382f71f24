#!/bin/sh
# Builds the unit tests of one crate, runs them and keeps the names and results as a report.
#
# usage: unit-test.sh NAME SOURCE [LIBRARY...]
#
# The report holds no times, so it stays the same while the tests do.
set -eu

name=$1
source=$2
shift 2

for library; do
    set -- "$@" -L out/lib --extern "$library=out/lib/lib$library.rlib"
    shift
done

binary=$TMPDIR/$name-tests
log=$TMPDIR/$name.log
# shellcheck disable=SC2086 # FLAGS is a list of words.
rustc $FLAGS --remap-path-prefix "$PWD=." --test --crate-name "$name" "$@" \
    -o "$binary" "$source"
"$binary" --test-threads 1 >"$log" 2>&1 || {
    cat "$log"
    exit 1
}

mkdir -p out/test
grep '^test ' "$log" | grep -v '^test result:' >"out/test/$name.txt"
