#!/usr/bin/env bash
# Starts three regions with emulated wide-area links between them.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
. "$repository/scripts/lib/common.sh"
. "$repository/scripts/lib/regions.sh"

usage() {
    cat <<USAGE
usage: scripts/start-regions.sh [--docker] [--debug | --bin-dir DIR] [--no-tiers] [--state DIR]

Starts us-east, us-west and eu-central, each with an agent, a Redis and an S3 store (SeaweedFS) of its own, and the
links between them: 50 ms and 100 Mbit/s, 100 ms and 50 Mbit/s, 150 ms and 25 Mbit/s. All are emulated.

  --docker        in containers, see docker-compose.yml; scripts/build-images.sh makes the images
  --debug         debug builds: of this machine's programs, or images with the tag \`debug\`
  --bin-dir DIR   without Docker: takes the programs from there instead of building them
  --no-tiers      without Docker: agents only
  --state DIR     without Docker: where everything is kept (default: NETBUILD_REGIONS_STATE, or
                  ~/.local/state/netbuild/regions)
  --help          this text

Without Docker it needs root, /dev/net/tun and ip; regions are network namespaces then. A region has a Redis where
redis-server is installed, and an S3 store where there is a \`weed\` (scripts/test.sh installs both).
scripts/stop-regions.sh ends all of it.
USAGE
}

place=local
profile=release
programs=
tiers=true
while [[ $# -gt 0 ]]; do
    case $1 in
        --debug) profile=debug ;;
        --bin-dir) programs=$(cd "$(value "$@")" && pwd) && shift ;;
        --no-tiers) tiers=false ;;
        --help | -h) usage && exit ;;
        *)
            place_option "$@" || bad_argument "$1"
            shift $((taken - 1))
            ;;
    esac
    shift
done

start_docker() {
    local image
    [[ $profile == release ]] || export NETBUILD_TAG=${NETBUILD_TAG:-debug}
    command -v docker >/dev/null || fail 'there is no docker; without it: scripts/start-regions.sh'
    image=netbuild-agent:${NETBUILD_TAG:-latest}
    [[ -n $(docker image ls -q "$image") ]] ||
        fail "there is no image $image; make the images with scripts/build-images.sh, or with \`docker compose build\`"
    compose up -d
    wait_until 'all containers are healthy' all_healthy
}

all_healthy() {
    local ids
    ids=$(containers_of '')
    # shellcheck disable=SC2086 # Ids are words.
    ! docker inspect --format '{{if .State.Health}}{{.State.Health.Status}}{{end}}' $ids | grep -qv '^healthy$'
}

start_local() {
    local region links=() number=0
    [[ $EUID -eq 0 ]] || fail 'the regions of this machine are network namespaces, which need root; or use --docker'
    [[ -e /dev/net/tun ]] || fail 'there is no /dev/net/tun; make it with: modprobe tun'
    ! local_is_up || fail 'the regions are up; end them with scripts/stop-regions.sh'
    if [[ -z $programs ]]; then
        build_programs "$profile"
        programs=$(program_dir "$profile")
    fi
    mkdir -p "$state"
    chmod 700 "$state"
    printf '%s' "$programs" >"$state/programs"
    for link in "${LINKS[@]}"; do
        links+=(--link "$link")
    done
    wan up --detach "${REGIONS[@]/#/--site=}" "${links[@]}" >/dev/null
    # Whatever fails from here on, nothing stays behind.
    trap '"$repository/scripts/stop-regions.sh" --state "$state" >/dev/null' EXIT
    make_key
    for region in "${REGIONS[@]}"; do
        number=$((number + 1))
        mkdir -p "$state/$region/work"
        rm -f "$state/$region/backend"
        ! $tiers || start_tiers "$region" "10.77.$number.1"
        start_local_agent "$region"
    done
    trap - EXIT
}

# One key for all of them, so that none needs another one to start.
make_key() {
    local region
    for region in "${REGIONS[@]}"; do
        mkdir -p "$state/$region/data"
        chmod 700 "$state/$region/data"
        if [[ ! -e $state/mesh.key ]]; then
            (umask 077 && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$state/mesh.key")
        fi
        [[ -e $state/$region/data/mesh.key ]] || cp -p "$state/mesh.key" "$state/$region/data/"
    done
}

# start_tiers REGION ADDRESS: a Redis and an S3 store, as far as this machine has them.
start_tiers() {
    local region=$1 address=$2 dir=$state/$1 weed backend=()
    weed=$(command -v weed || command -v "$HOME/.cache/netbuild-test/bin/weed" || true)
    if command -v redis-server >/dev/null; then
        mkdir -p "$dir/redis"
        in_region "$region" redis-server --bind "$address" --port 6379 --dir "$dir/redis" --save '' --appendonly no \
            --protected-mode no --maxmemory 128mb --maxmemory-policy allkeys-lru --daemonize yes \
            --logfile "$dir/redis/log" --pidfile "$dir/redis.pid" >/dev/null
        backend+=("redis://$address:6379")
    fi
    if [[ -n $weed ]]; then
        mkdir -p "$dir/s3"
        # In a /tmp of its own: its parts find each other by sockets there, and others may use the same ports.
        # shellcheck disable=SC2016 # For the other shell.
        in_region "$region" env AWS_ACCESS_KEY_ID=netbuild AWS_SECRET_ACCESS_KEY=netbuild-secret GOGC=50 \
            GOMEMLIMIT=256MiB unshare --mount sh -c 'cd "$1" && echo $$ >../s3.pid && exec >../s3.log 2>&1 &&
                mount --bind "$1" /mnt && shift && mount -t tmpfs tmpfs /tmp && exec setsid "$@"' sh "$dir/s3" \
            "$weed" mini -dir=/mnt "-ip=$address" "-ip.bind=$address" -s3.port=8333 -bucket=netbuild -admin.ui=false \
            -webdav=false -s3.port.iceberg=0 -s3.port.lance=0 </dev/null >/dev/null 2>&1 &
        backend+=("s3://netbuild")
    fi
    if [[ ${#backend[@]} -eq 0 ]]; then
        say "$region has no storage tiers: there is neither redis-server nor weed"
        return
    fi
    local IFS=+
    printf '%s' "${backend[*]}" >"$dir/backend"
}

case $place in
    docker) start_docker ;;
    local) start_local ;;
esac
wait_for_mesh

wan status | sed -n 's/^\(.*\): \([a-z-]*, .*Mbit.s[^;]*\);.*/  \1: \2/p'
cat <<READY
The regions are up: ${REGIONS[*]}. From here:
  scripts/monitor-network.sh                          what the agents measure of the links
  scripts/simulate-network.sh --profile satellite     changes them; --reset mends them
  scripts/sync-caches.sh                              copies what was built to where it was not
  scripts/test-failure.sh                             kills, pauses and cuts off what is building
  scripts/stop-regions.sh                             ends all of it
READY
