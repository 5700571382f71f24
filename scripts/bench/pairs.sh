#!/usr/bin/env bash
# Makes real pairs of build outputs, before and after a small edit, to measure deltas on.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)

usage() {
    cat <<'USAGE'
usage: scripts/bench/pairs.sh DIR

Makes pairs DIR/NAME.old and DIR/NAME.new, and leaves alone those that are there:
  release       the `netbuild` of this repository, release profile, after one line changed in agent/core
  debug         the same, dev profile (line tables only)
  debug-full    the same, dev profile with full debug information of all crates
  debug-feature the same as debug-full after a new function in each of two crates: strings that are new
                move those of the debug information, by different distances
  library       a C static library (SQLite's amalgamation and zstd, -O2) after one function changed
  library-g     the same with debug information
  package       the archive that the example of this repository packs, after one line changed in `models`
  package-gz    the same through gzip; a new byte early on changes all that follows

The sources are the committed ones (git HEAD). DIR/target keeps the builds: a second call is quick.
Needs cargo, cc, ar and GNU tar; the C sources come from crates.io, through cargo.
USAGE
}

[[ ${1-} == --help || ${1-} == -h ]] && usage && exit 0
[[ $# -eq 1 ]] || { usage >&2; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)

# Replaces the one line of file $1 that is $2 (leading blanks aside) by $3, or fails.
edit() {
    [[ $(grep -cF -- "$2" "$1") == 1 ]] || { echo "pairs.sh: $1 has not one line '$2'" >&2; exit 1; }
    awk -v old="$2" -v new="$3" '{ at = index($0, old)
        if (at) print substr($0, 1, at - 1) new substr($0, at + length(old)); else print }' "$1" >"$1.edited"
    mv "$1.edited" "$1"
}

# A fresh copy of the committed sources in $1.
sources() {
    rm -rf "$1"
    mkdir -p "$1"
    git -C "$repository" archive HEAD | tar -x -C "$1"
}

# Adds to the sources in $1 what a small feature would: functions, with types and names of their own.
feature() {
    edit "$1/agent/core/src/chunk.rs" 'chunks.len() as u64 > blob.size {' \
        'lengths_of_all(&chunks).values().sum::<usize>() > MAX_CHUNKS {'
    cat >>"$1/agent/core/src/chunk.rs" <<'RUST'

/// How many chunks there are of each length.
pub fn lengths_of_all(chunks: &[Chunk]) -> std::collections::BTreeMap<u32, usize> {
    let mut lengths = std::collections::BTreeMap::new();
    for chunk in chunks {
        *lengths.entry(chunk.len).or_insert(0usize) += 1;
    }
    let mut most_frequent: Vec<(usize, u32)> = lengths.iter().map(|(len, count)| (*count, *len)).collect();
    most_frequent.sort_unstable_by_key(|(count, _)| std::cmp::Reverse(*count));
    if most_frequent.first().is_some_and(|(count, _)| *count > MAX_CHUNKS) {
        lengths.clear();
    }
    lengths
}
RUST
    cat >>"$1/agent/store/src/lib.rs" <<'RUST'

/// What a sum of sizes looks like to people.
pub fn human_readable_size(sizes: &[u64]) -> String {
    let total_of_sizes: u64 = sizes.iter().copied().sum();
    let mut quotient = total_of_sizes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if quotient < 1024.0 {
            return format!("{quotient:.1} {unit}");
        }
        quotient /= 1024.0;
    }
    format!("{quotient:.1} TiB")
}
RUST
}

# Builds `netbuild` with the cargo arguments and environment of $@, twice, into pair $1; the path of the
# sources is the same both times, as in a person's checkout.
program() {
    local name=$1 profile=$2
    shift 2
    [[ -e $dir/$name.old && -e $dir/$name.new ]] && return
    local side
    for side in old new; do
        sources "$dir/source"
        [[ $side == new ]] && edit "$dir/source/agent/core/src/chunk.rs" \
            'if chunks.len() > MAX_CHUNKS {' \
            'if chunks.len() > MAX_CHUNKS || chunks.len() as u64 > blob.size {'
        [[ $side == new && $name == *-feature ]] && feature "$dir/source"
        local target=$dir/target/${name%-feature}
        (cd "$dir/source" && env CARGO_TARGET_DIR="$target" "$@" --locked --bin netbuild)
        cp "$target/$profile/netbuild" "$dir/$name.$side"
    done
}

# Compiles the C sources with flags $2... into pair $1.
library() {
    local name=$1
    shift
    [[ -e $dir/$name.old && -e $dir/$name.new ]] && return
    local crates="$dir/crates"
    mkdir -p "$crates/src"
    printf '[package]\nname = "c-sources"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n[dependencies]\n%s\n%s\n' \
        'libsqlite3-sys = "=0.40.0"' 'zstd-sys = "=2.1.3"' >"$crates/Cargo.toml"
    : >"$crates/src/lib.rs"
    (cd "$crates" && cargo vendor --quiet vendor >vendor.toml)
    local side file
    for side in old new; do
        rm -rf "$dir/c"
        mkdir -p "$dir/c/objects"
        cp "$crates/vendor/libsqlite3-sys/sqlite3/sqlite3.c" "$dir/c"
        cp -r "$crates/vendor/zstd-sys/zstd/lib" "$dir/c/zstd"
        # A statement at the head of the function that says how long a VARCHAR may be for an index.
        [[ $side == new ]] && edit "$dir/c/zstd/compress/zstd_compress.c" \
            'size_t ZSTD_compressBound(size_t srcSize) {' \
            'size_t ZSTD_compressBound(size_t srcSize) { if (srcSize == 0) return 64;'
        [[ $side == new ]] && edit "$dir/c/sqlite3.c" \
            'SQLITE_API void sqlite3_free(void *p){' \
            'SQLITE_API void sqlite3_free(void *p){ if( p==(void*)-1 ) return;'
        (cd "$dir/c" && for file in sqlite3.c zstd/*/*.c; do
            cc "$@" -DZSTD_DISABLE_ASM -c "$file" -o "objects/$(basename "$file" .c).o"
        done)
        rm -f "$dir/$name.$side"
        (cd "$dir/c/objects" && ar rcD "$dir/$name.$side" *.o)
    done
}

# Packs the example application with `netbuild run`, twice.
package() {
    [[ -e $dir/package.old && -e $dir/package.new ]] && return
    local side
    for side in old new; do
        sources "$dir/source"
        [[ $side == new ]] && edit "$dir/source/tests/workload/packages/models/src/notation.rs" \
            'if parser.at == text.len() {' 'if parser.at == text.len() && text.len() < 1 << 30 {'
        (cd "$dir/source" && NETBUILD_DATA="$dir/data" "$dir/release.old" run package)
        cp "$dir/source/out/package/corner-shop.tar" "$dir/package.$side"
    done
}

program release release cargo build --release
program debug debug cargo build
for name in debug-full debug-feature; do
    program "$name" debug CARGO_PROFILE_DEV_DEBUG=full CARGO_PROFILE_DEV_PACKAGE_DEBUG=full cargo build
done
library library -O2
library library-g -O2 -g
package
for side in old new; do
    gzip -9 -n -c "$dir/package.$side" >"$dir/package-gz.$side"
done
ls -l "$dir"/*.old "$dir"/*.new
